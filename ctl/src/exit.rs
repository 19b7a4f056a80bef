//! What can go wrong for an operator, with the exit code that programs may rely on.

use std::process::ExitCode;

use proto::convert::rejection;
use serde::Serialize;
use tonic::{Code, Status};

/// The table of `berthctl --help`.
pub const TABLE: &str = "\
Exit codes:
  0   done
  1   the operation was carried out and failed
  2   wrong usage
  3   refused by the cluster; nothing changed
  4   no such VM, node, domain or replica
  5   accepted, but it cannot be carried out now
  6   the deadline passed; what was asked goes on
  7   no replica with a leader could be reached
  8   another operation took this one's place
  9   the input is unreadable or not a valid domain
  10  an error inside Berth";

/// Why a command did not do what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It was carried out and failed.
    OperationFailed,
    /// The cluster said no.
    Refused,
    /// No such thing.
    NotFound,
    /// Accepted, and stuck.
    CannotNow,
    /// Waited long enough.
    Deadline,
    /// Nobody there.
    Unreachable,
    /// Another operation took over.
    Superseded,
    /// The file.
    Input,
    /// Ours.
    Internal,
}

impl Kind {
    /// Its exit code; stable.
    pub fn code(self) -> u8 {
        match self {
            Self::OperationFailed => 1,
            Self::Refused => 3,
            Self::NotFound => 4,
            Self::CannotNow => 5,
            Self::Deadline => 6,
            Self::Unreachable => 7,
            Self::Superseded => 8,
            Self::Input => 9,
            Self::Internal => 10,
        }
    }
}

/// A failure with its words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind.
    pub kind: Kind,
    /// For people.
    pub message: String,
    /// The word of the cluster's rejection, where there is one.
    pub rejection: Option<String>,
    /// The word of the leader's reason, where it cannot be carried out now.
    pub reason: Option<String>,
}

#[derive(Serialize)]
struct Json<'a> {
    error: JsonError<'a>,
}

#[derive(Serialize)]
struct JsonError<'a> {
    code: u8,
    kind: Kind,
    message: &'a str,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), rejection: None, reason: None }
    }

    /// An error of our own.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// Says it, on standard error for people and on standard output for programs.
    pub fn report(&self, json: bool) -> ExitCode {
        if json {
            let error =
                JsonError { code: self.kind.code(), kind: self.kind, message: &self.message };
            crate::render::json(&Json { error });
        } else {
            eprintln!("berthctl: {}", self.message);
        }
        ExitCode::from(self.kind.code())
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let kind = match (status.code(), rejection::word(&status)) {
            (Code::NotFound, _) => Kind::NotFound,
            (_, Some(_)) => Kind::Refused,
            (
                Code::FailedPrecondition
                | Code::InvalidArgument
                | Code::OutOfRange
                | Code::AlreadyExists,
                None,
            ) => Kind::Refused,
            (Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled, None) => {
                Kind::Unreachable
            }
            _ => Kind::Internal,
        };
        let rejection = rejection::word(&status).map(str::to_owned);
        Self { rejection, ..Self::new(kind, status.message()) }
    }
}

#[cfg(test)]
mod tests {
    use model::Rejection;

    use super::*;

    #[test]
    fn each_status_has_its_exit_code() {
        let rejected = |rejection| Failure::from(rejection::status(&rejection)).kind.code();
        assert_eq!(rejected(Rejection::UnknownVm { vm: "v".into() }), 4);
        assert_eq!(rejected(Rejection::NothingToCancel { vm: "v".into() }), 3);
        assert_eq!(rejected(Rejection::NameTaken { vm: "v".into() }), 3);
        assert_eq!(Failure::from(Status::unavailable("no leader")).kind.code(), 7);
        assert_eq!(Failure::from(Status::invalid_argument("xml: line 3")).kind.code(), 3);
        assert_eq!(Failure::from(Status::internal("stopped")).kind.code(), 10);
    }
}
