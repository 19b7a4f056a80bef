//! A rejection as a gRPC status: one table.

use model::Rejection;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

/// The metadata that carries the rejection's word.
pub const REJECTION: &str = "berth-rejection";

/// The word, the code and the text of a rejection.
pub fn status(rejection: &Rejection) -> Status {
    let (word, code) = word_and_code(rejection);
    let mut status = Status::new(code, rejection.to_string());
    status.metadata_mut().insert(REJECTION, MetadataValue::from_static(word));
    status
}

/// The rejection's word in a status that came back, if it carries one.
pub fn word(status: &Status) -> Option<&str> {
    status.metadata().get(REJECTION).and_then(|value| value.to_str().ok())
}

fn word_and_code(rejection: &Rejection) -> (&'static str, Code) {
    match rejection {
        Rejection::NotInitialised => ("not-initialised", Code::FailedPrecondition),
        Rejection::AlreadyInitialised => ("already-initialised", Code::FailedPrecondition),
        Rejection::UnknownVm { .. } => ("unknown-vm", Code::NotFound),
        Rejection::UnknownNode { .. } => ("unknown-node", Code::NotFound),
        Rejection::UnknownFailoverDomain { .. } => ("unknown-failover-domain", Code::NotFound),
        Rejection::NameTaken { .. } => ("name-taken", Code::AlreadyExists),
        Rejection::UuidTaken { .. } => ("uuid-taken", Code::AlreadyExists),
        Rejection::DiskTaken { .. } => ("disk-taken", Code::AlreadyExists),
        Rejection::IdentityChanged { .. } => ("identity-changed", Code::FailedPrecondition),
        Rejection::WrongState { .. } => ("wrong-state", Code::FailedPrecondition),
        Rejection::BadTarget { .. } => ("bad-target", Code::FailedPrecondition),
        Rejection::CannotMigrate { .. } => ("cannot-migrate", Code::FailedPrecondition),
        Rejection::NothingToCancel { .. } => ("nothing-to-cancel", Code::FailedPrecondition),
        Rejection::Busy { .. } => ("busy", Code::FailedPrecondition),
        Rejection::FailoverDomainInUse { .. } => {
            ("failover-domain-in-use", Code::FailedPrecondition)
        }
        Rejection::NodeInUse { .. } => ("node-in-use", Code::FailedPrecondition),
        Rejection::OutOfRange { .. } => ("out-of-range", Code::InvalidArgument),
        Rejection::OtherHardware { .. } => ("other-hardware", Code::FailedPrecondition),
        Rejection::OutOfTurn { .. } => ("out-of-turn", Code::FailedPrecondition),
        Rejection::FenceUnresolved { .. } => ("fence-unresolved", Code::FailedPrecondition),
        Rejection::OldSession { .. } => ("old-session", Code::FailedPrecondition),
        Rejection::Superseded { .. } => ("superseded", Code::FailedPrecondition),
        Rejection::MayRunElsewhere { .. } => ("may-run-elsewhere", Code::FailedPrecondition),
        Rejection::Restoring => ("restoring", Code::FailedPrecondition),
        Rejection::Contradiction { .. } => ("contradiction", Code::InvalidArgument),
        Rejection::NodeAlive { .. } => ("node-alive", Code::FailedPrecondition),
        Rejection::NoMassLoss => ("no-mass-loss", Code::FailedPrecondition),
        Rejection::OthersLost { .. } => ("others-lost", Code::FailedPrecondition),
        Rejection::Braked => ("mass-loss", Code::FailedPrecondition),
        Rejection::Frozen { .. } => ("frozen", Code::FailedPrecondition),
        Rejection::NotFrozen { .. } => ("not-frozen", Code::FailedPrecondition),
        Rejection::Locked { .. } => ("locked", Code::FailedPrecondition),
        Rejection::NotLocked => ("not-locked", Code::FailedPrecondition),
        Rejection::DependencyCycle { .. } => ("dependency-cycle", Code::FailedPrecondition),
        Rejection::UnknownService { .. } => ("unknown-service", Code::NotFound),
        Rejection::BadService { .. } => ("bad-service", Code::FailedPrecondition),
        Rejection::ServiceState { .. } => ("wrong-state", Code::FailedPrecondition),
        Rejection::MemberOfService { .. } => ("member-of-service", Code::FailedPrecondition),
        Rejection::OneOfMany { why, .. } => word_and_code(why),
        Rejection::ConfigurationChanged { .. } => {
            ("configuration-changed", Code::FailedPrecondition)
        }
        Rejection::UnknownPlacementRule { .. } => ("unknown-placement-rule", Code::NotFound),
        Rejection::RulesClash { .. } => ("rules-clash", Code::FailedPrecondition),
        Rejection::Paused { .. } => ("paused", Code::FailedPrecondition),
        Rejection::NotPaused => ("not-paused", Code::FailedPrecondition),
        Rejection::ServiceFrozen { .. } => ("frozen", Code::FailedPrecondition),
        Rejection::ServiceNotFrozen { .. } => ("not-frozen", Code::FailedPrecondition),
        Rejection::ServiceCannotMigrate { .. } => ("cannot-migrate", Code::FailedPrecondition),
        Rejection::RequestReused(_) => ("request-reused", Code::InvalidArgument),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_crosses_the_wire_with_its_word() {
        let status = status(&Rejection::UnknownVm { vm: "v".into() });
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(word(&status), Some("unknown-vm"));
    }
}
