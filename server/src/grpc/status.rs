//! Our errors as gRPC statuses: one table.

use model::cluster::{Accepted, Outcome};
use proto::convert::{ConvertError, rejection};
use tonic::Status;

use crate::raft::{MembershipError, ProposeError};

/// A message that was not taken.
pub fn invalid(error: &ConvertError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// A lawful no.
pub fn rejected(outcome: Outcome) -> Result<Accepted, Status> {
    outcome.map_err(|rejected| rejection::status(&rejected))
}

/// A command that could not be proposed, or whose fate is unknown: the same request may be sent again.
pub fn not_proposed(error: &ProposeError) -> Status {
    let text = error.to_string();
    match error {
        ProposeError::NotLeader { .. } => Status::unavailable(text),
        ProposeError::NotInitialised => Status::failed_precondition(text),
        ProposeError::TooLarge { .. } => Status::invalid_argument(text),
        ProposeError::Unknown => Status::unavailable(text),
        ProposeError::Stopped(_) => Status::internal(text),
    }
}

/// A membership change that was refused or failed.
pub fn not_changed(error: &MembershipError) -> Status {
    match error {
        MembershipError::Propose(error) => not_proposed(error),
        MembershipError::Refused(_) => Status::failed_precondition(error.to_string()),
        MembershipError::Unreachable { .. } => Status::unavailable(error.to_string()),
    }
}
