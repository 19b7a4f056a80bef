//! A service as it is printed, with its members.

use proto::v1;
use serde::Serialize;

use super::{Operation, Reason, reason, time};

/// A service.
#[derive(Debug, Serialize)]
pub struct Service {
    name: String,
    id: String,
    state: String,
    desired: String,
    partial: bool,
    frozen: Option<String>,
    owner: Option<String>,
    owner_silent: bool,
    last_owner: Option<String>,
    restarts: u32,
    state_since: String,
    may_run: Vec<String>,
    members: Vec<Member>,
    spec: crate::service_file::ServiceFile,
    operation: Option<Operation>,
    reason: Option<Reason>,
    failure: Option<String>,
    definition_revision: u64,
    revision: u64,
}

#[derive(Debug, Serialize)]
struct Member {
    name: String,
    kind: String,
    state: String,
    off: bool,
    failure: Option<String>,
}

impl From<&v1::Service> for Service {
    fn from(service: &v1::Service) -> Self {
        let service = service.clone();
        let spec = service.spec.unwrap_or_default();
        Self {
            name: spec.name.clone(),
            id: service.id,
            state: service.state,
            desired: service.desired,
            partial: service.partial,
            frozen: service.frozen,
            owner: service.owner,
            owner_silent: service.owner_silent,
            last_owner: service.last_owner,
            restarts: service.restart_count,
            state_since: time(service.state_since_ms),
            may_run: service.may_run,
            members: service
                .members
                .into_iter()
                .map(|member| Member {
                    name: member.name,
                    kind: member.kind,
                    state: member.state,
                    off: member.off,
                    failure: member.failure,
                })
                .collect(),
            spec: crate::service_file::ServiceFile::from(&spec),
            operation: service.operation.map(|operation| Operation {
                request_id: operation.request_id,
                verb: operation.verb,
                phase: operation.phase,
                failure: operation.failure,
            }),
            reason: service.reason.as_ref().map(reason),
            failure: service.failure,
            definition_revision: service.spec_revision,
            revision: service.revision,
        }
    }
}
