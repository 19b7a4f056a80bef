//! Changes that are made together: secrets that are kept, and log entries that stay below what one may hold.

use model::command::{Command, Operation};
use model::id::RequestId;
use model::{Outcome, Rejection};
use proto::convert::{fleet, rejection};
use proto::v1::submit_request::Operation as Asked;
use tonic::Status;
use uuid::Uuid;

use super::ControlService;
use crate::clock;
use crate::grpc::status;
use crate::raft::{ENTRY_LIMIT_BYTES, encoded_bytes};

/// Half of what an entry may have: the other half is for who asks, and for the largest domain XML in one piece.
const STAGED_BYTES: usize = ENTRY_LIMIT_BYTES / 2;

impl ControlService {
    /// Puts secrets in that are kept, from a state that is as new as what the changes are based on. A request that is
    /// repeated after it was carried out is answered here, for the secrets may be others by now.
    pub(super) async fn keep_secrets(
        &self,
        request: Uuid,
        asked: &mut Asked,
    ) -> Result<Option<Outcome>, Status> {
        let based_on = match asked {
            Asked::ApplyFleet(apply) => Some(apply.based_on),
            Asked::SetFenceDevices(_) => None,
            _ => return Ok(None),
        };
        let state = self.newest().await?;
        if let Some(remembered) = state.requests.get(&RequestId(request)) {
            return Ok(Some(remembered.outcome.clone()));
        }
        // Said here already, and again when it is applied: in between it may change once more.
        if let Some(based_on) = based_on.filter(|based_on| *based_on != state.configuration) {
            let now = state.configuration;
            return Err(rejection::status(&Rejection::ConfigurationChanged { based_on, now }));
        }
        fleet::keep_secrets(asked, &state).map_err(|error| status::invalid(&error))?;
        Ok(None)
    }

    /// Lays changes that are too large for one log entry down in several; what is returned makes them.
    pub(super) async fn stage(
        &self,
        request: Uuid,
        by: &str,
        operation: Operation,
    ) -> Result<Operation, Status> {
        let Operation::ApplyChanges { batch, based_on, changes, .. } = operation else {
            return Ok(operation);
        };
        let mut parts = split(changes)?;
        let last = parts.pop().unwrap_or_default();
        let staged = parts.len() as u32;
        for (part, changes) in (0u32..).zip(parts) {
            let command = Command {
                request: RequestId(part_request(request, part)),
                at: clock::now(),
                by: by.to_owned(),
                operation: Operation::StageChanges { batch, part, changes },
            };
            let applied =
                self.raft.propose(command).await.map_err(|error| status::not_proposed(&error))?;
            status::rejected(applied.outcome)?;
        }
        Ok(Operation::ApplyChanges { batch, parts: staged, based_on, changes: last })
    }
}

/// A part's own request, the same when the whole is asked again.
fn part_request(request: Uuid, part: u32) -> Uuid {
    let bytes = (request.as_u128() ^ (u128::from(part) + 1)).rotate_left(32).to_be_bytes();
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

/// Parts that fit, in order; a change that is too large by itself is left for the proposal to refuse.
fn split(changes: Vec<Operation>) -> Result<Vec<Vec<Operation>>, Status> {
    let mut parts = vec![Vec::new()];
    let mut filled = 0;
    for change in changes {
        let bytes = encoded_bytes(&change).map_err(|error| Status::internal(error.to_string()))?;
        if filled > 0 && filled + bytes > STAGED_BYTES {
            parts.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        if let Some(part) = parts.last_mut() {
            part.push(change);
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use model::id::VmName;

    use super::*;

    #[test]
    fn a_fleet_is_split_into_entries_that_fit_and_none_is_lost() {
        let change =
            |number: usize| Operation::ForgetVm(VmName::new(format!("{number:0>150}")).unwrap());
        let all: Vec<_> = (0..2_000).map(change).collect();
        let parts = split(all.clone()).unwrap();
        assert!(parts.len() > 3, "{}", parts.len());
        for part in &parts {
            let bytes: usize = part.iter().map(|change| encoded_bytes(change).unwrap()).sum();
            assert!(bytes <= STAGED_BYTES);
        }
        assert_eq!(parts.concat(), all);
        assert_eq!(split(Vec::new()).unwrap(), vec![Vec::new()]);
        let request = Uuid::from_u128(7);
        assert_ne!(part_request(request, 0), part_request(request, 1));
    }
}
