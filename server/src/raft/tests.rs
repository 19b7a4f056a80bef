//! The library's own storage suite on our store, and replicas in one process over loopback.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use model::command::{Command, Operation};
use model::failover_domain::FailoverDomain;
use model::id::{FailoverDomainName, RequestId};
use model::time::Timestamp;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use proto::v1::raft_peer_server::RaftPeerServer;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use uuid::Uuid;

use super::log_store::LogStore;
use super::state_machine::StateMachine;
use super::*;
use crate::store::SledStore;
use crate::store::snapshot::SnapshotFiles;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(SledStore::open(directory.path()).unwrap());
        let log = LogStore::new(store, Arc::default()).unwrap();
        let state_machine =
            StateMachine::open(SnapshotFiles::open(directory.path()).unwrap()).unwrap();
        Ok((directory, log, state_machine))
    }
}

#[test]
fn the_store_passes_the_librarys_storage_suite() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { Suite::test_all(Builder).await.unwrap() });
}

/// A replica that listens, without the rest of the server.
struct Running {
    raft: RaftHandle,
    address: String,
    serving: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Running {
    async fn start(id: u64, directory: &Path, address: Option<&str>) -> Self {
        let listener = TcpListener::bind(address.unwrap_or("127.0.0.1:0")).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let timing = Timing { snapshot_entries: 100, ..Timing::default() };
        let options = RaftOptions { id, data_dir: directory.to_owned(), tls: None, timing };
        let raft = RaftHandle::open(options).await.unwrap();
        let service = RaftPeerServer::new(raft.peer_service());
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(async move {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let routes = Server::builder().add_service(service);
            let stopped = async { drop(stopped.await) };
            routes.serve_with_incoming_shutdown(incoming, stopped).await.unwrap();
        });
        Self { raft, address, serving, stop }
    }

    async fn stop(self) -> String {
        // Connections end too, and with them the last hands on the store.
        drop(self.stop);
        let _ = self.serving.await;
        self.raft.shutdown().await;
        self.address
    }
}

struct Cluster {
    directories: Vec<TempDir>,
    replicas: BTreeMap<u64, Running>,
}

impl Cluster {
    async fn of(size: u64) -> Self {
        let mut cluster = Self { directories: Vec::new(), replicas: BTreeMap::new() };
        for id in 1..=size {
            cluster.begin(id).await;
        }
        let members =
            cluster.replicas.iter().map(|(id, replica)| (*id, replica.address.clone())).collect();
        cluster.replicas[&1].raft.initialise(members).await.unwrap();
        cluster
    }

    async fn begin(&mut self, id: u64) -> String {
        let directory = tempfile::tempdir().unwrap();
        let replica = Running::start(id, directory.path(), None).await;
        let address = replica.address.clone();
        self.directories.push(directory);
        self.replicas.insert(id, replica);
        address
    }

    async fn leader(&self) -> &RaftHandle {
        let waits = self.replicas.values().map(|replica| {
            Box::pin(async move {
                let mut leadership = replica.raft.leadership();
                leadership.wait_for(Option::is_some).await.unwrap();
                &replica.raft
            })
        });
        tokio::time::timeout(Duration::from_secs(20), futures::future::select_all(waits))
            .await
            .unwrap()
            .0
    }

    /// Proposes to whoever leads, until it is acknowledged.
    async fn put(&self, name: &str) -> u64 {
        let request = RequestId(Uuid::new_v4());
        loop {
            let command =
                Command { request, at: Timestamp(1), by: "test".into(), operation: domain(name) };
            if let Ok(applied) = self.leader().await.propose(command).await {
                // Refused, for there is no such node: an answer all the same, and remembered under its request.
                assert!(applied.outcome.is_err());
                return applied.revision;
            }
        }
    }

    async fn all_reach(&self, revision: u64) {
        for replica in self.replicas.values() {
            let mut applied = replica.raft.applied();
            let reached = applied.wait_for(|index| *index >= revision);
            tokio::time::timeout(Duration::from_secs(20), reached).await.unwrap().unwrap();
        }
    }
}

fn domain(name: &str) -> Operation {
    Operation::PutFailoverDomain(FailoverDomain {
        name: FailoverDomainName::new(name).unwrap(),
        nodes: BTreeMap::new(),
        ordered: false,
        restricted: false,
        nofailback: false,
        failback: Default::default(),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_agree_and_survive_the_loss_of_their_leader() {
    let mut cluster = Cluster::of(3).await;
    let first = cluster.put("one").await;
    cluster.all_reach(first).await;
    let leader = cluster.leader().await.id();
    let lost = cluster.replicas.remove(&leader).unwrap();
    let address = lost.stop().await;
    let second = cluster.put("two").await;
    assert!(second > first);
    let directory = cluster.directories[leader as usize - 1].path().to_owned();
    let back = Running::start(leader, &directory, Some(&address)).await;
    cluster.replicas.insert(leader, back);
    cluster.all_reach(second).await;
    let states: Vec<_> = cluster.replicas.values().map(|replica| replica.raft.state()).collect();
    assert!(states.windows(2).all(|pair| pair[0].requests == pair[1].requests));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_replicas_stopped_and_started_have_the_same_state() {
    let mut cluster = Cluster::of(3).await;
    for number in 0..250 {
        cluster.put(&format!("d{number}")).await;
    }
    let before = cluster.leader().await.state();
    let mut addresses = BTreeMap::new();
    for (id, replica) in std::mem::take(&mut cluster.replicas) {
        addresses.insert(id, replica.stop().await);
    }
    for (id, address) in addresses {
        let directory = cluster.directories[id as usize - 1].path().to_owned();
        cluster.replicas.insert(id, Running::start(id, &directory, Some(&address)).await);
    }
    let after = cluster.put("last").await;
    cluster.all_reach(after).await;
    let state = cluster.leader().await.state();
    assert_eq!(state.cluster, before.cluster);
    assert!(before.requests.keys().all(|request| state.requests.contains_key(request)));
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over_to_the_replica_that_was_named() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let heir = if leader.id() == 3 { 2 } else { 3 };
    leader.transfer_leader(Some(heir), None).await.unwrap();
    let mut leadership = cluster.replicas[&heir].raft.leadership();
    tokio::time::timeout(Duration::from_secs(20), leadership.wait_for(Option::is_some))
        .await
        .unwrap()
        .unwrap();
}

/// Who forwards a request to the leader may hear of the new one before it hears the answer; then it is sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_replicas_whose_answer_was_lost_may_be_asked_for_again() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let heir = if leader.id() == 3 { 2 } else { 3 };
    let from = leader.id();
    leader.transfer_leader(Some(heir), Some(from)).await.unwrap();
    let new = &cluster.replicas[&heir].raft;
    let mut leadership = new.leadership();
    tokio::time::timeout(Duration::from_secs(20), leadership.wait_for(Option::is_some))
        .await
        .unwrap()
        .unwrap();
    new.transfer_leader(Some(heir), None).await.unwrap();
    new.transfer_leader(None, Some(from)).await.unwrap();
    assert!(new.leadership().borrow().is_some(), "it was asked to lead, and not to hand over");
    let address = cluster.begin(4).await;
    cluster.leader().await.add_replica(4, address.clone()).await.unwrap();
    cluster.leader().await.add_replica(4, address).await.unwrap();
    let elsewhere = cluster.leader().await.add_replica(4, "127.0.0.1:1".into()).await;
    assert!(elsewhere.unwrap_err().to_string().contains("is a member already, at "));
    cluster.leader().await.remove_replica(4).await.unwrap();
    cluster.leader().await.remove_replica(4).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_added_by_snapshot_and_another_removed() {
    let mut cluster = Cluster::of(3).await;
    for number in 0..150 {
        cluster.put(&format!("d{number}")).await;
    }
    let address = cluster.begin(4).await;
    cluster.leader().await.add_replica(4, address).await.unwrap();
    let leader = cluster.leader().await;
    let out = if leader.id() == 2 { 3 } else { 2 };
    leader.remove_replica(out).await.unwrap();
    let removed = cluster.replicas.remove(&out).unwrap();
    removed.stop().await;
    let revision = cluster.put("after").await;
    cluster.all_reach(revision).await;
    let members: Vec<_> =
        cluster.leader().await.status().replicas.iter().map(|replica| replica.id).collect();
    assert!(members.contains(&4) && !members.contains(&out), "{members:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_directory_under_a_known_id_is_not_let_in() {
    let mut cluster = Cluster::of(3).await;
    let revision = cluster.put("one").await;
    cluster.all_reach(revision).await;
    let out = if cluster.leader().await.id() == 3 { 2 } else { 3 };
    let address = cluster.replicas.remove(&out).unwrap().stop().await;
    let empty = tempfile::tempdir().unwrap();
    let impostor = Running::start(out, empty.path(), Some(&address)).await;
    // The others go on committing, and nothing of it reaches the impostor.
    for number in 0..20 {
        cluster.put(&format!("d{number}")).await;
    }
    assert_eq!(*impostor.raft.applied().borrow(), 0);
    assert_eq!(impostor.raft.state().cluster, None);
    impostor.stop().await;
}

/// All files of a data directory, as a backup program would copy them.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_directory_that_is_put_back_is_found_out_by_the_others() {
    let mut cluster = Cluster::of(3).await;
    cluster.put("one").await;
    let victim = if cluster.leader().await.id() == 3 { 2 } else { 3 };
    let directory = cluster.directories[victim as usize - 1].path().to_owned();
    let kept = tempfile::tempdir().unwrap();
    let address = cluster.replicas.remove(&victim).unwrap().stop().await;
    let early = kept.path().join("early");
    copy(&directory, &early);
    // It goes on, acknowledges more, and is put back to where it was.
    let back = Running::start(victim, &directory, Some(&address)).await;
    cluster.replicas.insert(victim, back);
    let revision = cluster.put("two").await;
    cluster.all_reach(revision).await;
    let address = cluster.replicas.remove(&victim).unwrap().stop().await;
    let rolled_back = Running::start(victim, &early, Some(&address)).await;
    let reason = tokio::time::timeout(Duration::from_secs(20), rolled_back.raft.fatal());
    let reason = reason.await.unwrap();
    assert!(reason.contains("has been rolled back") && reason.contains("rebuild"), "{reason}");
    let address = rolled_back.stop().await;
    // The directory that was not put back is as good as ever.
    let back = Running::start(victim, &directory, Some(&address)).await;
    cluster.replicas.insert(victim, back);
    let revision = cluster.put("three").await;
    cluster.all_reach(revision).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_nobody_vouches_for_takes_no_part() {
    let mut cluster = Cluster::of(3).await;
    let revision = cluster.put("one").await;
    cluster.all_reach(revision).await;
    let mut addresses = BTreeMap::new();
    for (id, replica) in std::mem::take(&mut cluster.replicas) {
        addresses.insert(id, replica.stop().await);
    }
    let start = async |id: u64| {
        Running::start(id, cluster.directories[id as usize - 1].path(), Some(&addresses[&id])).await
    };
    let first = start(1).await;
    let waits = first.raft.leadership();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(*waits.borrow(), None);
    // A quorum vouches for each other.
    let second = start(2).await;
    cluster.replicas.insert(1, first);
    cluster.replicas.insert(2, second);
    cluster.put("two").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_the_snapshot_that_it_follows_is_refused() {
    let mut cluster = Cluster::of(1).await;
    for number in 0..1_300 {
        cluster.put(&format!("d{number}")).await;
    }
    cluster.replicas.remove(&1).unwrap().stop().await;
    let directory = cluster.directories[0].path();
    let newest = std::fs::read_dir(directory.join("snapshots")).unwrap();
    for snapshot in newest {
        std::fs::remove_file(snapshot.unwrap().path()).unwrap();
    }
    let timing = Timing::default();
    let options = RaftOptions { id: 1, data_dir: directory.to_owned(), tls: None, timing };
    let error = RaftHandle::open(options).await.err().unwrap().to_string();
    assert!(error.contains("snapshot") && error.contains("replica rebuild"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_is_done_once_and_answers_the_same() {
    let cluster = Cluster::of(1).await;
    let leader = cluster.leader().await;
    let command = Command {
        request: RequestId(Uuid::new_v4()),
        at: Timestamp(1),
        by: "test".into(),
        operation: domain("d"),
    };
    let first = leader.propose(command.clone()).await.unwrap();
    let second = leader.propose(command).await.unwrap();
    assert_eq!(first.outcome, second.outcome);
    assert_eq!(leader.state().revision, first.revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_too_large_for_the_store_is_refused_before_it_is_proposed() {
    let cluster = Cluster::of(1).await;
    let by = "x".repeat(200_000);
    let command = Command {
        request: RequestId(Uuid::new_v4()),
        at: Timestamp(1),
        by,
        operation: domain("d"),
    };
    let error = cluster.leader().await.propose(command).await.unwrap_err();
    assert!(matches!(error, ProposeError::TooLarge { .. }), "{error}");
    cluster.put("still-alive").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_deposed_leader_decided_is_not_proposed() {
    let cluster = Cluster::of(1).await;
    let leader = cluster.leader().await;
    let term = leader.leadership().borrow().unwrap();
    let command = || Command {
        request: RequestId(Uuid::new_v4()),
        at: Timestamp(1),
        by: "test".into(),
        operation: domain("d"),
    };
    assert!(leader.propose_in_term(term, command()).await.is_ok());
    let error = leader.propose_in_term(term + 1, command()).await.unwrap_err();
    assert!(matches!(error, ProposeError::NotLeader { .. }), "{error}");
}
