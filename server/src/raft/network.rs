//! Outgoing calls to the other replicas: one lazily made connection for each, and one more for snapshots, so that a
//! large transfer delays no heartbeat.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use openraft::OptionalSend;
use openraft::error::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use proto::channel::{TlsFiles, endpoint};
use proto::v1::raft_peer_client::RaftPeerClient;
use proto::v1::{PeerReach, PeerReply, PeerRequest, PeerTarget, SnapshotChunk};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::identity::Identity;
use super::log_store::{decode, encode};
use super::vouch::Standing;
use super::witness::{Reach, Witness};
use super::{LogId, Replica, StoredMembership, TypeConfig, Vote};

/// Of a snapshot: well below what one gRPC message may have.
const CHUNK_BYTES: usize = 1024 * 1024;

type Clid = openraft::type_config::alias::CommittedLeaderIdOf<TypeConfig>;
type SnapshotOf = Snapshot<Clid, u64, Replica, Vec<u8>>;

/// What goes before a snapshot's bytes.
pub(super) type SnapshotHead = (Vote, Option<LogId>, StoredMembership);

/// Makes connections to peers.
pub(super) struct Network {
    identity: Identity,
    tls: Option<TlsFiles>,
    witness: Arc<Witness>,
    standing: Standing,
}

impl Network {
    /// The network of this replica.
    pub(super) fn new(
        identity: Identity,
        tls: Option<TlsFiles>,
        witness: Arc<Witness>,
        standing: Standing,
    ) -> Self {
        Self { identity, tls, witness, standing }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Replica) -> Peer {
        let channel =
            endpoint(&node.address, self.tls.as_ref()).map(|endpoint| endpoint.connect_lazy());
        Peer {
            identity: self.identity.clone(),
            own: self.identity.id(),
            target,
            node: node.clone(),
            witness: self.witness.clone(),
            standing: self.standing.clone(),
            client: channel.map(RaftPeerClient::new).map_err(|error| error.to_string()),
        }
    }
}

/// One connection to one peer.
pub(super) struct Peer {
    identity: Identity,
    own: u64,
    target: u64,
    node: Replica,
    witness: Arc<Witness>,
    standing: Standing,
    client: Result<RaftPeerClient<Channel>, String>,
}

impl Peer {
    fn address(&self) -> PeerTarget {
        PeerTarget {
            cluster: self.identity.cluster().unwrap_or_default().to_string(),
            replica: self.target,
            instance: self.node.instance.to_string(),
            known: self
                .witness
                .reach(self.node.instance)
                .map(|Reach { term, end }| PeerReach { term, end }),
        }
    }

    fn client(&self) -> Result<RaftPeerClient<Channel>, RPCError<TypeConfig>> {
        if !self.standing.takes_part() {
            let text = "this replica is not vouched for yet";
            return Err(RPCError::Unreachable(Unreachable::from_string(text)));
        }
        self.client.clone().map_err(|error| RPCError::Unreachable(Unreachable::from_string(error)))
    }

    fn request(
        &self,
        message: &impl Serialize,
        limit: Duration,
    ) -> Result<Request<PeerRequest>, RPCError<TypeConfig>> {
        let payload =
            encode(message).map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        let mut request =
            Request::new(PeerRequest { target: Some(self.address()), payload: payload.into() });
        request.set_timeout(limit);
        Ok(request)
    }

    fn answer<T: DeserializeOwned>(
        &self,
        reply: Result<Response<PeerReply>, Status>,
        action: RPCTypes,
        limit: Duration,
    ) -> Result<T, RPCError<TypeConfig>> {
        match reply {
            Ok(reply) => decode(&reply.into_inner().payload)
                .map_err(|error| RPCError::Network(NetworkError::new(&error))),
            Err(status) => Err(match status.code() {
                Code::DeadlineExceeded | Code::Cancelled => {
                    RPCError::Timeout(self.timeout(action, limit))
                }
                // Backs off; whatever it is, trying again at once would not help.
                _ => RPCError::Unreachable(Unreachable::from_string(status)),
            }),
        }
    }

    /// Remembers what was acknowledged. A conflict at or before that is not passed on: it was answered before and came
    /// late, or the peer was rolled back, which it learns from the reach in each request; the library takes it for
    /// impossible.
    fn heard(
        &self,
        rpc: &AppendEntriesRequest<TypeConfig>,
        answer: AppendEntriesResponse<TypeConfig>,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let term = rpc.vote.leader_id.term;
        let end = |log_id: Option<LogId>| log_id.map_or(0, |log_id| log_id.index + 1);
        let acknowledged = match &answer {
            AppendEntriesResponse::Success => {
                end(rpc.entries.last().map(|entry| entry.log_id).or(rpc.prev_log_id))
            }
            AppendEntriesResponse::PartialSuccess(matched) => end(*matched),
            AppendEntriesResponse::Conflict => {
                let known = self.witness.reach(self.node.instance);
                if known >= Some(Reach { term, end: end(rpc.prev_log_id) }) {
                    let text = format!("replica {} has lost what it acknowledged", self.target);
                    return Err(RPCError::Unreachable(Unreachable::from_string(text)));
                }
                return Ok(answer);
            }
            AppendEntriesResponse::HigherVote(_) => return Ok(answer),
        };
        self.witness.acknowledged(self.node.instance, Reach { term, end: acknowledged });
        Ok(answer)
    }

    fn timeout(&self, action: RPCTypes, timeout: Duration) -> Timeout<TypeConfig> {
        Timeout { action, id: self.own, target: self.target, timeout }
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let limit = option.hard_ttl();
        let request = self.request(&rpc, limit)?;
        let reply = self.client()?.append(request).await;
        let answer = self.answer(reply, RPCTypes::AppendEntries, limit)?;
        self.heard(&rpc, answer)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let limit = option.hard_ttl();
        let request = self.request(&rpc, limit)?;
        let reply = self.client()?.vote(request).await;
        let answer: VoteResponse<TypeConfig> = self.answer(reply, RPCTypes::Vote, limit)?;
        if answer.vote_granted {
            let reach = Reach { term: rpc.vote.leader_id.term, end: 0 };
            self.witness.acknowledged(self.node.instance, reach);
        }
        Ok(answer)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let limit = option.hard_ttl();
        let request = self.request(&rpc, limit)?;
        let reply = self.client()?.pre_vote(request).await;
        self.answer(reply, RPCTypes::Vote, limit)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let head: SnapshotHead =
            (vote, snapshot.meta.last_log_id, snapshot.meta.last_membership.clone());
        let head =
            encode(&head).map_err(|error| StreamingError::Network(NetworkError::new(&error)))?;
        let first = SnapshotChunk {
            target: Some(self.address()),
            head: head.into(),
            data: Default::default(),
        };
        let data = bytes::Bytes::from(snapshot.snapshot);
        let chunks = (0..data.len()).step_by(CHUNK_BYTES).map(move |start| SnapshotChunk {
            data: data.slice(start..data.len().min(start + CHUNK_BYTES)),
            ..SnapshotChunk::default()
        });
        let mut request = Request::new(stream::iter(std::iter::once(first).chain(chunks)));
        let limit = option.hard_ttl();
        request.set_timeout(limit);
        let mut client = self.client().map_err(StreamingError::from)?;
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            reply = client.install_snapshot(request) => {
                self.answer(reply, RPCTypes::InstallSnapshot, limit).map_err(StreamingError::from)
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let limit = option.hard_ttl();
        let request = self.request(&rpc, limit)?;
        let reply = self.client()?.transfer_leader(request).await;
        self.answer(reply, RPCTypes::TransferLeader, limit)
    }
}
