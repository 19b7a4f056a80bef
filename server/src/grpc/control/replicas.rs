//! The replicas themselves: who they are, and changes among them.

use std::collections::BTreeMap;

use proto::v1;
use tonic::{Response, Status};

use super::{Answer, ControlService};
use crate::grpc::status;

/// As many as can outvote a dead minority.
pub(super) fn check_count(members: &BTreeMap<u64, String>) -> Result<(), Status> {
    if matches!(members.len(), 1 | 3 | 5) {
        return Ok(());
    }
    Err(Status::invalid_argument(format!(
        "a control plane has 1, 3 or 5 replicas, not {}: an even number survives no more than one less",
        members.len()
    )))
}

impl ControlService {
    pub(super) fn replicas(&self) -> v1::ListReplicasReply {
        let status = self.raft.status();
        v1::ListReplicasReply {
            leader: status.leader,
            term: status.term,
            replicas: status
                .replicas
                .into_iter()
                .map(|replica| v1::Replica {
                    id: replica.id,
                    address: replica.address,
                    role: replica.role.to_owned(),
                    voter: replica.voter,
                    matched_index: replica.matched_index,
                    instance: replica.instance.to_string(),
                })
                .collect(),
        }
    }

    pub(super) async fn initialise(
        &self,
        message: v1::InitialiseClusterRequest,
    ) -> Answer<v1::InitialiseClusterReply> {
        let members = message.replicas.into_iter().collect::<BTreeMap<_, _>>();
        check_count(&members)?;
        let cluster =
            self.raft.initialise(members).await.map_err(|error| status::not_changed(&error))?;
        Ok(Response::new(v1::InitialiseClusterReply { cluster: cluster.to_string() }))
    }

    pub(super) async fn add(
        &self,
        message: v1::AddReplicaRequest,
    ) -> Answer<v1::ListReplicasReply> {
        let added = self.raft.add_replica(message.id, message.address).await;
        added.map_err(|error| status::not_changed(&error))?;
        Ok(Response::new(self.replicas()))
    }

    pub(super) async fn remove(
        &self,
        message: v1::RemoveReplicaRequest,
    ) -> Answer<v1::ListReplicasReply> {
        self.raft.remove_replica(message.id).await.map_err(|error| status::not_changed(&error))?;
        Ok(Response::new(self.replicas()))
    }

    pub(super) async fn transfer(
        &self,
        message: v1::TransferLeaderRequest,
    ) -> Answer<v1::ListReplicasReply> {
        let transferred = self.raft.transfer_leader(message.to, message.from).await;
        transferred.map_err(|error| status::not_changed(&error))?;
        Ok(Response::new(self.replicas()))
    }
}
