//! The first membership, and changes to it: add, remove, hand over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::command::{Command, Operation};
use model::id::{ClusterId, RequestId};
use model::settings::Settings;
use openraft::async_runtime::WatchReceiver;
use openraft::error::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Membership};
use proto::channel::endpoint;
use proto::convert;
use proto::v1::raft_peer_client::RaftPeerClient;
use proto::v1::{IdentifyReply, IdentifyRequest};
use tokio::time::timeout;
use tonic::Request;
use uuid::Uuid;

use super::handle::{Members, MembershipError, RaftHandle, stopped};
use super::{ProposeError, Replica, TypeConfig};
use crate::clock;

const IDENTIFY_PATIENCE: Duration = Duration::from_secs(3);
/// A new cluster elects within a second; a learner takes longer over a large state.
const ELECTION_PATIENCE: Duration = Duration::from_secs(15);
const LEARNER_PATIENCE: Duration = Duration::from_secs(120);

type WriteError = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;

impl RaftHandle {
    /// Makes a cluster of these replicas, of which this is one. Every one must answer and must never have been part
    /// of a cluster.
    pub async fn initialise(
        &self,
        members: BTreeMap<u64, String>,
    ) -> Result<ClusterId, MembershipError> {
        let cluster = ClusterId(Uuid::new_v4());
        self.begin_cluster(members, cluster).await?;
        let settings = Settings::default();
        self.bootstrap(Operation::Initialise { cluster, settings }).await?;
        Ok(cluster)
    }

    /// Makes a cluster of these replicas as [`Self::initialise`] does, and gives it the state of a backup.
    pub async fn restore(
        &self,
        members: BTreeMap<u64, String>,
        cluster: ClusterId,
        operations: Vec<Operation>,
    ) -> Result<(), MembershipError> {
        self.begin_cluster(members, cluster).await?;
        for operation in operations {
            self.bootstrap(operation).await?;
        }
        Ok(())
    }

    async fn bootstrap(&self, operation: Operation) -> Result<(), MembershipError> {
        let command = Command {
            request: RequestId(Uuid::new_v4()),
            at: clock::now(),
            by: "bootstrap".into(),
            operation,
        };
        let applied = self.propose(command).await?;
        applied
            .outcome
            .map(|_| ())
            .map_err(|rejection| MembershipError::Refused(rejection.to_string()))
    }

    async fn begin_cluster(
        &self,
        members: BTreeMap<u64, String>,
        cluster: ClusterId,
    ) -> Result<(), MembershipError> {
        if !members.contains_key(&self.id()) {
            return Err(MembershipError::Refused(format!(
                "replica {} was asked to begin a cluster that it is not part of; send this to one of the members",
                self.id()
            )));
        }
        let mut replicas = Members::new();
        for (id, address) in &members {
            replicas.insert(*id, self.pristine(*id, address).await?);
        }
        self.identity
            .join(cluster.0)
            .map_err(|error| MembershipError::Refused(error.to_string()))?;
        self.raft
            .initialize(replicas)
            .await
            .map_err(|error| MembershipError::Refused(error.to_string()))?;
        let mut leadership = self.leadership();
        // Whoever is elected first; usually this one. The command is sent to it by the caller's own retry otherwise.
        let led = timeout(ELECTION_PATIENCE, async {
            leadership.wait_for(Option::is_some).await.is_ok()
        })
        .await;
        if led != Ok(true) {
            return Err(MembershipError::Refused(
                "the replicas did not elect this one in time; check that they reach each other, and start over with empty data directories".into(),
            ));
        }
        Ok(())
    }

    /// Adds a replica: first as a learner, until it has caught up, then as a voter. One that is there already, at this
    /// address, is what was asked for; one that is a learner still is waited for again.
    pub async fn add_replica(&self, id: u64, address: String) -> Result<(), MembershipError> {
        let (membership, settled) = self.membership().await?;
        let replica = match membership.get_node(&id) {
            Some(there) if there.address != address => {
                return Err(MembershipError::Refused(format!(
                    "replica {id} is a member already, at {}; a new one needs an id that was never used",
                    there.address
                )));
            }
            Some(_) if settled && membership.voter_ids().any(|voter| voter == id) => return Ok(()),
            Some(there) => there.clone(),
            None => self.pristine(id, &address).await?,
        };
        let learning = timeout(LEARNER_PATIENCE, self.raft.add_learner(id, replica, true)).await;
        match learning {
            Err(_) => {
                return Err(MembershipError::Refused(format!(
                    "replica {id} did not catch up within {} s; it stays a learner, add it again or remove it",
                    LEARNER_PATIENCE.as_secs()
                )));
            }
            Ok(added) => added.map_err(|error| self.refused(error))?,
        };
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await
    }

    /// The replicas, as the leader has them, and whether that is committed and final: a change goes through a joint
    /// configuration (thesis, section 4.3), and who asked for it may have gone before its end.
    async fn membership(&self) -> Result<(Membership<u64, Replica>, bool), MembershipError> {
        self.read_barrier().await?;
        let joint = || {
            self.raft
                .metrics()
                .borrow_watched()
                .membership_config
                .membership()
                .get_joint_config()
                .len()
                > 1
        };
        if joint() {
            // What is asked for next goes on where that stood.
            self.change(ChangeMembers::AddVoterIds(BTreeSet::new())).await?;
        }
        let metrics = self.raft.metrics().borrow_watched().clone();
        let stored = metrics.membership_config;
        let settled = stored.membership().get_joint_config().len() == 1
            && stored.log_id().as_ref() <= metrics.last_applied.as_ref();
        Ok((stored.membership().clone(), settled))
    }

    /// Removes a replica. The leader hands over first, where it is the one. One that is no member is removed already.
    pub async fn remove_replica(&self, id: u64) -> Result<(), MembershipError> {
        let (membership, settled) = self.membership().await?;
        if membership.get_node(&id).is_none() {
            // That it is out has to be committed before its disk may go.
            return if settled { Ok(()) } else { Err(ProposeError::Unknown.into()) };
        }
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        if voters == BTreeSet::from([id]) {
            return Err(MembershipError::Refused("the last replica cannot be removed".into()));
        }
        if voters.contains(&id) {
            // Two voters left of which one is silent would be no quorum; the library would wait for ever.
            let status = self.status();
            let alive = status
                .replicas
                .iter()
                .filter(|replica| {
                    replica.voter && replica.id != id && replica.role != "unreachable"
                })
                .count();
            if alive < (voters.len() - 1) / 2 + 1 {
                return Err(MembershipError::Refused(format!(
                    "without replica {id} only {alive} of {} voters answer, which is no quorum",
                    voters.len() - 1
                )));
            }
            self.change(ChangeMembers::RemoveVoters(BTreeSet::from([id]))).await?;
        }
        let left = self
            .raft
            .metrics()
            .borrow_watched()
            .membership_config
            .membership()
            .get_node(&id)
            .is_some();
        if left {
            self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await
        } else {
            Ok(())
        }
    }

    /// Hands leadership to `to`, or to the follower that has most of the log. Where it leads already, or where this
    /// replica is not the one `from` which leadership was to be taken, there is nothing to do.
    pub async fn transfer_leader(
        &self,
        to: Option<u64>,
        from: Option<u64>,
    ) -> Result<(), MembershipError> {
        if to == Some(self.id()) || from.is_some_and(|from| from != self.id()) {
            return Ok(self.read_barrier().await?);
        }
        let status = self.status();
        let target = match to {
            Some(id) => status
                .replicas
                .iter()
                .find(|replica| replica.id == id && replica.voter)
                .ok_or_else(|| {
                    MembershipError::Refused(format!(
                        "replica {id} is not a voter, so it cannot lead"
                    ))
                })?,
            None => status
                .replicas
                .iter()
                .filter(|replica| {
                    replica.voter && replica.id != self.id() && replica.role != "unreachable"
                })
                .max_by_key(|replica| replica.matched_index)
                .ok_or_else(|| MembershipError::Refused("no other replica could lead".into()))?,
        };
        self.raft.trigger().transfer_leader(target.id).await.map_err(stopped)?;
        let mut leadership = self.leadership();
        match timeout(ELECTION_PATIENCE, async {
            leadership.wait_for(Option::is_none).await.is_ok()
        })
        .await
        {
            Ok(_) => Ok(()),
            Err(_) => Err(MembershipError::Refused(format!(
                "replica {} did not take over in time",
                target.id
            ))),
        }
    }

    async fn change(&self, change: ChangeMembers<u64, Replica>) -> Result<(), MembershipError> {
        match timeout(ELECTION_PATIENCE, self.raft.change_membership(change, false)).await {
            Err(_) => Err(MembershipError::Propose(super::ProposeError::Unknown)),
            Ok(changed) => changed.map(|_| ()).map_err(|error| self.refused(error)),
        }
    }

    fn refused(&self, error: WriteError) -> MembershipError {
        match error {
            RaftError::Fatal(fatal) => MembershipError::Propose(stopped(fatal)),
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
                MembershipError::Refused(error.to_string())
            }
            RaftError::APIError(error) => MembershipError::Propose(self.write_error(error)),
        }
    }

    /// Asks a replica who it is; it must be the one meant, and new.
    async fn pristine(&self, id: u64, address: &str) -> Result<Replica, MembershipError> {
        let unreachable = |reason: String| MembershipError::Unreachable {
            id,
            address: address.to_owned(),
            reason,
        };
        let endpoint = endpoint(address, self.tls.as_ref())
            .map_err(|error| MembershipError::Refused(error.to_string()))?;
        let mut client = RaftPeerClient::new(endpoint.connect_lazy());
        let mut request = Request::new(IdentifyRequest {});
        request.set_timeout(IDENTIFY_PATIENCE);
        let there: IdentifyReply = client
            .identify(request)
            .await
            .map_err(|status| unreachable(status.message().to_owned()))?
            .into_inner();
        if there.replica != id {
            let text = format!("at {address} is replica {}, not replica {id}", there.replica);
            return Err(MembershipError::Refused(text));
        }
        if !there.pristine {
            let text = format!(
                "replica {id} at {address} has been part of a cluster; give it an empty data directory and a new id"
            );
            return Err(MembershipError::Refused(text));
        }
        let instance = convert::uuid("instance", &there.instance)
            .map_err(|error| unreachable(error.to_string()))?;
        Ok(Replica { address: address.to_owned(), instance })
    }
}
