//! Incoming calls from the other replicas: checked for whom they are meant, and handed to the library.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use openraft::storage::{Snapshot, SnapshotMeta};
use proto::convert;
use proto::v1::raft_peer_server::RaftPeer;
use proto::v1::{
    IdentifyReply, IdentifyRequest, PeerReply, PeerRequest, PeerTarget, SnapshotChunk, VouchReply,
    VouchRequest,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::{Request, Response, Status, Streaming};
use tracing::error;

use super::Raft;
use super::identity::Identity;
use super::log_store::{decode, encode};
use super::network::SnapshotHead;
use super::vouch::Standing;
use super::witness::{Claim, Reach, Witness};

/// A snapshot larger than this is refused: ten times the state of the largest cluster designed for.
const MAX_SNAPSHOT_BYTES: usize = 4 * 1024 * 1024 * 1024;

/// Serves the other replicas.
#[derive(Clone)]
pub struct PeerService {
    raft: Raft,
    identity: Identity,
    witness: Arc<Witness>,
    standing: Standing,
    led: Led,
}

/// When this replica last heard of another one that leads.
#[derive(Debug, Clone)]
pub(super) struct Led(Arc<Mutex<Instant>>);

impl Led {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn heard(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(super) fn since(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

impl PeerService {
    pub(super) fn new(
        raft: Raft,
        identity: Identity,
        witness: Arc<Witness>,
        standing: Standing,
        led: Led,
    ) -> Self {
        Self { raft, identity, witness, standing, led }
    }

    /// The same for a message of Raft itself, which has to wait until this replica takes part.
    fn check_taking_part(&self, target: Option<PeerTarget>) -> Result<(), Status> {
        let known = target.as_ref().and_then(|target| target.known);
        self.check(target)?;
        if !self.standing.takes_part() {
            return Err(Status::unavailable("this replica is not vouched for yet"));
        }
        if let Some(known) = known {
            self.standing.is_reminded(&known);
        }
        Ok(())
    }

    fn check(&self, target: Option<PeerTarget>) -> Result<(), Status> {
        let target = target.ok_or_else(|| Status::invalid_argument("target: it is not given"))?;
        let uuid = |field, text: &str| {
            convert::uuid(field, text).map_err(|error| Status::invalid_argument(error.to_string()))
        };
        self.identity
            .check(
                target.replica,
                uuid("instance", &target.instance)?,
                uuid("cluster", &target.cluster)?,
            )
            .map_err(|error| Status::failed_precondition(error.to_string()))
    }

    fn message<T: DeserializeOwned>(&self, request: Request<PeerRequest>) -> Result<T, Status> {
        let message = request.into_inner();
        self.check_taking_part(message.target)?;
        decode(&message.payload)
            .map_err(|error| Status::invalid_argument(format!("payload: {error}")))
    }
}

fn reply<T: Serialize, E: std::fmt::Display>(
    result: Result<T, E>,
) -> Result<Response<PeerReply>, Status> {
    let answer = result.map_err(|error| Status::unavailable(error.to_string()))?;
    let payload = encode(&answer).map_err(|error| Status::internal(error.to_string()))?;
    Ok(Response::new(PeerReply { payload: payload.into() }))
}

#[tonic::async_trait]
impl RaftPeer for PeerService {
    async fn append(&self, request: Request<PeerRequest>) -> Result<Response<PeerReply>, Status> {
        let appended = self.raft.append_entries(self.message(request)?).await;
        if matches!(&appended, Ok(answer) if answer.is_success()) {
            self.led.heard();
        }
        reply(appended)
    }

    async fn vote(&self, request: Request<PeerRequest>) -> Result<Response<PeerReply>, Status> {
        reply(self.raft.vote(self.message(request)?).await)
    }

    async fn pre_vote(&self, request: Request<PeerRequest>) -> Result<Response<PeerReply>, Status> {
        reply(self.raft.pre_vote(self.message(request)?).await)
    }

    async fn transfer_leader(
        &self,
        request: Request<PeerRequest>,
    ) -> Result<Response<PeerReply>, Status> {
        reply(self.raft.handle_transfer_leader(self.message(request)?).await)
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<PeerReply>, Status> {
        let mut chunks = request.into_inner();
        let first = chunks
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("the snapshot is empty"))?;
        self.check_taking_part(first.target)?;
        let (vote, last_log_id, last_membership): SnapshotHead = decode(&first.head)
            .map_err(|error| Status::invalid_argument(format!("head: {error}")))?;
        let mut data = first.data.to_vec();
        while let Some(chunk) = chunks.message().await? {
            if data.len() + chunk.data.len() > MAX_SNAPSHOT_BYTES {
                return Err(Status::resource_exhausted(
                    "the snapshot is larger than any cluster's can be",
                ));
            }
            data.extend_from_slice(&chunk.data);
        }
        let snapshot =
            Snapshot { meta: SnapshotMeta { last_log_id, last_membership }, snapshot: data };
        reply(self.raft.install_full_snapshot(vote, snapshot).await)
    }

    async fn vouch(&self, request: Request<VouchRequest>) -> Result<Response<VouchReply>, Status> {
        let message = request.into_inner();
        self.check(message.target)?;
        let uuid = |field, text: &str| {
            convert::uuid(field, text).map_err(|error| Status::invalid_argument(error.to_string()))
        };
        let reach = message.reach.unwrap_or_default();
        let claim = Claim {
            instance: uuid("instance", &message.instance)?,
            starts: message.starts,
            run: uuid("run", &message.run)?,
            reach: Reach { term: reach.term, end: reach.end },
        };
        let witness = self.witness.clone();
        let verdict = tokio::task::spawn_blocking(move || witness.vouch(&claim))
            .await
            .map_err(|error| Status::internal(error.to_string()))?
            .map_err(|error| Status::unavailable(error.to_string()))?;
        if let Err(error) = &verdict {
            error!(replica = message.replica, %error, "a replica has been rolled back");
        }
        Ok(Response::new(VouchReply { rolled_back: verdict.err().map(|error| error.to_string()) }))
    }

    async fn identify(
        &self,
        _request: Request<IdentifyRequest>,
    ) -> Result<Response<IdentifyReply>, Status> {
        let initialised = self
            .raft
            .is_initialized()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let cluster = self.identity.cluster();
        Ok(Response::new(IdentifyReply {
            replica: self.identity.id(),
            instance: self.identity.instance().to_string(),
            pristine: !initialised && cluster.is_none(),
            cluster: cluster.map(|cluster| cluster.to_string()),
        }))
    }
}
