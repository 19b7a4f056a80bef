//! The door to the replica's Raft for the rest of the server.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::command::Command;
use model::{ClusterState, Outcome};
use openraft::async_runtime::WatchReceiver;
use openraft::error::{ClientWriteError, Fatal, LinearizableReadError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::vote::RaftLeaderId;
use openraft::{Config, ConfigError, Instant, ReadPolicy, ServerState, SnapshotPolicy};
use proto::channel::TlsFiles;
use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

use super::identity::Identity;
use super::log_store::{LogStore, encode};
use super::network::Network;
use super::peer::{Led, PeerService};
use super::recall::{self, Recall};
use super::state_machine::{Published, StateMachine};
use super::vouch::{self, Position, Standing};
use super::witness::{Claim, Witness};
use super::{Answer, Entry, Raft, TypeConfig};

type LeaderId = openraft::type_config::alias::LeaderIdOf<TypeConfig>;
use crate::store::snapshot::SnapshotFiles;
use crate::store::{MAX_VALUE_BYTES, SledStore, Store, StoreError};

/// How long a proposal is waited for. A quorum that takes longer is gone; the outcome is unknown then.
const PROPOSAL_PATIENCE: Duration = Duration::from_secs(5);
/// How long a read waits for its quorum round. Agents ask another replica long before.
const READ_PATIENCE: Duration = Duration::from_secs(2);
/// Between two attempts to confirm a leadership.
const CONFIRM_AGAIN: Duration = Duration::from_millis(50);
/// How long an orderly stop of the library may take.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(2);
/// What the entry around a command may take of a stored value.
const ENTRY_MARGIN_BYTES: usize = 512;
/// The largest command that is taken.
pub const ENTRY_LIMIT_BYTES: usize = MAX_VALUE_BYTES - ENTRY_MARGIN_BYTES;
/// Entries kept behind a snapshot, so that a replica that was away for a moment needs no snapshot.
const LOG_KEPT: u64 = 1_000;
/// A snapshot of a large state takes its time over a slow link; the library's default is 200 ms.
const SNAPSHOT_TIMEOUT_MS: u64 = 60_000;

/// Raft's own times, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How often the leader is heard.
    pub heartbeat_ms: u64,
    /// The shortest time after which a follower stands for election.
    pub election_min_ms: u64,
    /// The longest.
    pub election_max_ms: u64,
    /// A snapshot is taken every so many entries.
    pub snapshot_entries: u64,
}

impl Default for Timing {
    /// Design section 5.
    fn default() -> Self {
        Self {
            heartbeat_ms: 100,
            election_min_ms: 300,
            election_max_ms: 600,
            snapshot_entries: 5_000,
        }
    }
}

/// What a replica needs to know at its start.
#[derive(Debug, Clone)]
pub struct RaftOptions {
    /// Its id, for ever.
    pub id: u64,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// TLS towards the other replicas.
    pub tls: Option<TlsFiles>,
    /// Raft's times.
    pub timing: Timing,
}

/// Why a replica could not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is on it.
    #[error("the data directory {} cannot be used", path.display())]
    Data {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its times.
    #[error("the Raft timing does not fit together")]
    Timing(#[source] ConfigError),
    /// The library.
    #[error("Raft did not start: {0}")]
    Fatal(String),
}

/// Why a command was not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    /// Somebody else leads, or nobody.
    #[error("{}", match leader {
        Some((id, address)) => format!("replica {id} at {address} leads"),
        None => "the control plane has no leader now; try again in a moment".to_owned(),
    })]
    NotLeader {
        /// Who leads.
        leader: Option<(u64, String)>,
    },
    /// There is no cluster yet.
    #[error("this replica belongs to no cluster; run `berthctl replica init`")]
    NotInitialised,
    /// It cannot be stored safely.
    #[error("the request takes {bytes} bytes, more than the {limit} that one log entry may have")]
    TooLarge {
        /// How many.
        bytes: usize,
        /// How many may be.
        limit: usize,
    },
    /// It may have been committed, or not: the same request may be sent again.
    #[error(
        "no quorum answered in time; whether it was done is unknown, the same request may be sent again"
    )]
    Unknown,
    /// The replica stopped.
    #[error("this replica has stopped: {0}")]
    Stopped(String),
}

/// Why a change among the replicas was not made.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// As for any proposal.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// It would be wrong.
    #[error("{0}")]
    Refused(String),
    /// The other replica does not answer.
    #[error("replica {id} at {address} does not answer: {reason}")]
    Unreachable {
        /// Which.
        id: u64,
        /// Where.
        address: String,
        /// What was said.
        reason: String,
    },
}

/// A command that was committed and applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Its log index.
    pub revision: u64,
    /// What it came to.
    pub outcome: Outcome,
}

/// One replica in [`ReplicaStatus`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaView {
    /// Its id.
    pub id: u64,
    /// Where it listens.
    pub address: String,
    /// Of its data directory.
    pub instance: Uuid,
    /// Whether it counts for quorums.
    pub voter: bool,
    /// leader, follower, candidate, learner; unreachable as the leader sees it.
    pub role: &'static str,
    /// How much of the log it has, as the leader knows.
    pub matched_index: Option<u64>,
}

/// What this replica knows of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// The present term.
    pub term: u64,
    /// Who leads.
    pub leader: Option<u64>,
    /// All of them.
    pub replicas: Vec<ReplicaView>,
}

/// The door. Cheap to clone.
#[derive(Clone)]
pub struct RaftHandle {
    pub(super) raft: Raft,
    pub(super) identity: Identity,
    pub(super) tls: Option<TlsFiles>,
    witness: Arc<Witness>,
    standing: Standing,
    published: Published,
    leadership: watch::Receiver<Option<u64>>,
    timing: Timing,
    led: Led,
}

impl RaftHandle {
    /// Opens the data directory and starts Raft.
    pub async fn open(options: RaftOptions) -> Result<Self, OpenError> {
        let path = options.data_dir.clone();
        let opened = tokio::task::spawn_blocking(move || open_disk(&options)).await;
        let Disk { options, store, identity, witness, state_machine, recall, starts } =
            opened.map_err(|error| OpenError::Fatal(error.to_string()))??;
        let config = config(&options.timing).map_err(OpenError::Timing)?;
        let published = state_machine.published();
        let position = Arc::new(Position::at(recall.reach));
        let standing = Standing::new(identity.id(), position.clone());
        let log =
            LogStore::new(store, position).map_err(|source| OpenError::Data { path, source })?;
        let network =
            Network::new(identity.clone(), options.tls.clone(), witness.clone(), standing.clone());
        let raft =
            openraft::Raft::new(identity.id(), Arc::new(config), network, log, state_machine)
                .await
                .map_err(|error| OpenError::Fatal(error.to_string()))?;
        let claim = Claim {
            instance: identity.instance(),
            starts,
            run: Uuid::new_v4(),
            reach: recall.reach,
        };
        let tls = options.tls.clone();
        tokio::spawn(vouch::seek(standing.clone(), identity.clone(), recall, claim, tls));
        let leadership = watch_leadership(raft.clone());
        let (tls, timing) = (options.tls, options.timing);
        Ok(Self {
            raft,
            identity,
            witness,
            standing,
            tls,
            published,
            leadership,
            timing,
            led: Led::new(),
        })
    }

    /// This replica's id.
    pub fn id(&self) -> u64 {
        self.identity.id()
    }

    /// Raft's own times.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// For how long no other replica was heard of that leads; at most since this process began.
    pub fn since_another_led(&self) -> Duration {
        self.led.since()
    }

    /// The service for the other replicas.
    pub fn peer_service(&self) -> PeerService {
        PeerService::new(
            self.raft.clone(),
            self.identity.clone(),
            self.witness.clone(),
            self.standing.clone(),
            self.led.clone(),
        )
    }

    /// Proposes a command and waits until it is applied here.
    pub async fn propose(&self, command: Command) -> Result<Applied, ProposeError> {
        self.write(command, None).await
    }

    /// The same, only if this replica still leads in `term`: for what the leader of that term decided.
    pub async fn propose_in_term(
        &self,
        term: u64,
        command: Command,
    ) -> Result<Applied, ProposeError> {
        self.write(command, Some(term)).await
    }

    async fn write(&self, command: Command, term: Option<u64>) -> Result<Applied, ProposeError> {
        let bytes =
            encode(&command).map_err(|error| ProposeError::Stopped(error.to_string()))?.len();
        let limit = ENTRY_LIMIT_BYTES;
        if bytes > limit {
            return Err(ProposeError::TooLarge { bytes, limit });
        }
        let (responder, receiver) = ProgressResponder::complete_only();
        let mut request = self.raft.write(Entry(command)).responder(responder);
        if let Some(term) = term {
            let leader = LeaderId::new(term, self.id());
            request = request.with_leader(leader.to_committed());
        }
        request.await.map_err(stopped)?;
        let written = match timeout(PROPOSAL_PATIENCE, receiver).await {
            Err(_) => return Err(ProposeError::Unknown),
            Ok(Err(_)) => return Err(ProposeError::Stopped("the proposal was dropped".into())),
            Ok(Ok(written)) => written.map_err(|error| self.write_error(error))?,
        };
        let Answer(outcome) = written.data;
        let outcome = outcome.ok_or_else(|| {
            ProposeError::Stopped("a command was applied without an answer".into())
        })?;
        Ok(Applied { revision: written.log_id.index, outcome })
    }

    pub(super) fn write_error(&self, error: ClientWriteError<TypeConfig>) -> ProposeError {
        match error {
            ClientWriteError::ForwardToLeader(forward) => self.not_leader(
                forward.leader_id.zip(forward.leader_node).map(|(id, node)| (id, node.address)),
            ),
            // It may be committed by another leader.
            ClientWriteError::LogEntryDiscarded(_) => ProposeError::Unknown,
            ClientWriteError::PreconditionFailed(_) => self.not_leader(self.leader()),
            ClientWriteError::ChangeMembershipError(error) => {
                ProposeError::Stopped(error.to_string())
            }
        }
    }

    fn not_leader(&self, leader: Option<(u64, String)>) -> ProposeError {
        if self.identity.cluster().is_none() {
            return ProposeError::NotInitialised;
        }
        ProposeError::NotLeader { leader: leader.filter(|(id, _)| *id != self.id()) }
    }

    /// Returns after a quorum round that began after this call, with everything committed before it applied here.
    pub async fn read_barrier(&self) -> Result<(), ProposeError> {
        match timeout(READ_PATIENCE, self.raft.ensure_linearizable(ReadPolicy::ReadIndex)).await {
            Err(_) => Err(ProposeError::Unknown),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::Fatal(fatal))) => Err(stopped(fatal)),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                Err(self.not_leader(
                    forward.leader_id.zip(forward.leader_node).map(|(id, node)| (id, node.address)),
                ))
            }
            Ok(Err(RaftError::APIError(_))) => Err(ProposeError::Unknown),
        }
    }

    /// What is applied here.
    pub fn state(&self) -> Arc<ClusterState> {
        self.published.state()
    }

    /// Told after each change of what is applied here.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.published.applied()
    }

    /// The term in which this replica leads, once this process has committed and applied an entry of its own in it.
    pub fn leadership(&self) -> watch::Receiver<Option<u64>> {
        self.leadership.clone()
    }

    /// Who leads, as far as is known here.
    pub fn leader(&self) -> Option<(u64, String)> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let id = metrics.current_leader?;
        let node = metrics.membership_config.membership().get_node(&id)?;
        Some((id, node.address.clone()))
    }

    /// Returns once another replica than `id` leads, or none, as far as is known here.
    pub async fn no_longer_led_by(&self, id: u64) {
        let mut metrics = self.raft.server_metrics();
        while metrics.borrow_watched().current_leader == Some(id) {
            if metrics.changed().await.is_err() {
                return;
            }
        }
    }

    /// What this replica knows of all.
    pub fn status(&self) -> ReplicaStatus {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let membership = metrics.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let replicas = membership
            .nodes()
            .map(|(id, node)| {
                let voter = voters.contains(id);
                let silent = metrics
                    .heartbeat
                    .as_ref()
                    .and_then(|heard| heard.get(id))
                    .is_some_and(|last| last.is_none_or(|last| last.elapsed() > READ_PATIENCE));
                let role = match (metrics.current_leader == Some(*id), voter) {
                    (true, _) => "leader",
                    _ if silent && *id != metrics.id => "unreachable",
                    _ if *id == metrics.id && metrics.state == ServerState::Candidate => {
                        "candidate"
                    }
                    (_, true) => "follower",
                    (_, false) => "learner",
                };
                let matched = metrics.replication.as_ref().and_then(|matched| matched.get(id));
                ReplicaView {
                    id: *id,
                    address: node.address.clone(),
                    instance: node.instance,
                    voter,
                    role,
                    matched_index: matched
                        .and_then(|log_id| log_id.as_ref().map(|log_id| log_id.index)),
                }
            })
            .collect();
        ReplicaStatus { term: metrics.current_term, leader: metrics.current_leader, replicas }
    }

    /// Ends, with the reason, when Raft stops by itself: a disk that fails, for one.
    pub async fn fatal(&self) -> String {
        let mut metrics = self.raft.server_metrics();
        let mut data = self.raft.metrics();
        let mut stop = self.standing.stop();
        loop {
            if let Some(reason) = stop.borrow_and_update().clone() {
                return reason;
            }
            if let Err(fatal) = &data.borrow_watched().running_state {
                return fatal.to_string();
            }
            tokio::select! {
                changed = data.changed() => if changed.is_err() { return "Raft has ended".into() },
                changed = metrics.changed() => if changed.is_err() { return "Raft has ended".into() },
                // Its sender lives as long as this handle.
                _ = stop.changed() => {}
            }
        }
    }

    /// Stops Raft in good order, where it still goes; one that has failed may never answer.
    pub async fn shutdown(&self) {
        match timeout(SHUTDOWN_PATIENCE, self.raft.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "Raft did not stop in good order"),
            Err(_) => tracing::warn!("Raft did not stop in time"),
        }
    }
}

pub(super) fn stopped(fatal: Fatal<TypeConfig>) -> ProposeError {
    ProposeError::Stopped(fatal.to_string())
}

/// What was found in a data directory.
struct Disk {
    options: RaftOptions,
    store: Arc<dyn Store>,
    identity: Identity,
    witness: Arc<Witness>,
    state_machine: StateMachine,
    recall: Recall,
    starts: u64,
}

fn open_disk(options: &RaftOptions) -> Result<Disk, OpenError> {
    let directory = &options.data_dir;
    let data = |source| OpenError::Data { path: directory.clone(), source };
    let store = SledStore::open(directory)?;
    let starts = store.starts();
    let store: Arc<dyn Store> = Arc::new(store);
    let identity = Identity::open(store.clone(), directory, options.id).map_err(data)?;
    let witness = Arc::new(Witness::open(directory)?);
    let files = SnapshotFiles::open(directory)?;
    let state_machine = StateMachine::open(files).map_err(data)?;
    let recall = recall::recall(directory, &*store, state_machine.begins_at())?;
    let options = options.clone();
    Ok(Disk { options, store, identity, witness, state_machine, recall, starts })
}

fn config(timing: &Timing) -> Result<Config, ConfigError> {
    Config {
        cluster_name: "berth".into(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_min_ms,
        election_timeout_max: timing.election_max_ms,
        install_snapshot_timeout: SNAPSHOT_TIMEOUT_MS,
        replication_lag_threshold: timing.snapshot_entries * 2,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(timing.snapshot_entries),
        max_in_snapshot_log_to_keep: LOG_KEPT,
        enable_pre_vote: Some(true),
        // A leader that was killed may hold other entries than its followers at the same indexes: those that it sent before
        // they were synced here. Leading on in its old term it would give their log ids to other entries.
        enable_leader_restore: Some(false),
        ..Config::default()
    }
    .validate()
}

/// Follows the library's metrics, and says in which term this replica leads.
///
/// The library lets a leader that restarts lead on in its old term, knowing of no more commits than it had noted before:
/// what it has applied may lack entries that were acknowledged, and a read index taken then is as old. So each time this
/// process comes to lead it first commits an entry of its own; all that was ever acknowledged stands before that, and is
/// applied with it (thesis, section 6.4: a leader commits an entry of its term before it serves reads).
fn watch_leadership(raft: Raft) -> watch::Receiver<Option<u64>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let mut metrics = raft.metrics();
        let mut confirmed = None;
        loop {
            let term = {
                let now = metrics.borrow_watched();
                (now.state == ServerState::Leader).then_some(now.current_term)
            };
            if confirmed != term {
                confirmed = None;
                sender.send_if_modified(|old| old.take().is_some());
            }
            if let (Some(term), None) = (term, confirmed)
                && let Ok(Ok(written)) = timeout(PROPOSAL_PATIENCE, raft.write_blank()).await
            {
                // Applied here: a write is answered after that.
                confirmed = (written.log_id.committed_leader_id().term == term).then_some(term);
            }
            let confirmed_term = confirmed.filter(|confirmed| Some(*confirmed) == term);
            sender.send_if_modified(|old| std::mem::replace(old, confirmed_term) != confirmed_term);
            // Not confirmed, and still leading as far as is known: tried again, for no change may tell of it.
            if term.is_some() && confirmed.is_none() {
                tokio::time::sleep(CONFIRM_AGAIN).await;
                continue;
            }
            if metrics.changed().await.is_err() {
                sender.send_replace(None);
                return;
            }
        }
    });
    receiver
}

/// The members of a new cluster, by id.
pub(super) type Members = BTreeMap<u64, super::Replica>;
