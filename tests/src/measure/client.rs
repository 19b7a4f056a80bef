//! A client of its own: it measures the control plane, not the tool's start.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use proto::v1::control_client::ControlClient;
use proto::v1::submit_request::Operation;
use proto::v1::{Event, FailoverDomain, SubmitRequest, WatchEventsRequest};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

use crate::cluster::Cluster;

/// One attempt of a client that is in a hurry: more than a commit takes on a disk that is busy.
const ATTEMPT: Duration = Duration::from_millis(250);
/// Between two attempts that failed at once.
const AGAIN: Duration = Duration::from_millis(5);

type Control = ControlClient<Channel>;

/// Speaks to every replica.
pub struct Client {
    runtime: Runtime,
    replicas: Vec<Control>,
}

/// A moment as the machine's clock has it, in milliseconds; the lab's leader reads the same clock.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A command that changes next to nothing.
pub fn small_command(number: u64) -> SubmitRequest {
    let domain = FailoverDomain {
        name: format!("bench{number}"),
        nodes: [("node1".to_owned(), 1)].into(),
        ..FailoverDomain::default()
    };
    SubmitRequest {
        request_id: Uuid::new_v4().to_string(),
        operator: "bench".into(),
        expected_revision: None,
        operation: Some(Operation::PutFailoverDomain(domain)),
    }
}

impl Client {
    /// Connects when it is first used.
    pub fn new(cluster: &Cluster) -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let _inside = runtime.enter();
        let replicas = (1..=cluster.lab.replicas())
            .map(|number| {
                let address = format!("http://{}", cluster.replica_endpoint(number));
                let endpoint =
                    Endpoint::from_shared(address)?.tcp_nodelay(true).connect_timeout(ATTEMPT);
                Ok(ControlClient::new(endpoint.connect_lazy()))
            })
            .collect::<Result<_>>()?;
        drop(_inside);
        Ok(Self { runtime, replicas })
    }

    /// All events since a moment of the machine's clock, oldest first.
    pub fn events_since(&self, from_ms: u64) -> Result<Vec<Event>> {
        self.runtime.block_on(async {
            let mut last = None;
            for mut replica in self.replicas.iter().cycle().take(100).cloned() {
                match replica
                    .watch_events(WatchEventsRequest {
                        stale: true,
                        ..WatchEventsRequest::default()
                    })
                    .await
                {
                    Ok(stream) => {
                        let mut stream = stream.into_inner();
                        let mut events = Vec::new();
                        while let Some(event) = stream.message().await? {
                            events.extend((event.at_ms >= from_ms).then_some(event));
                        }
                        return Ok(events);
                    }
                    Err(status) => last = Some(status),
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(last.context("there is no replica")?.into())
        })
    }

    /// Clients of the leader that each send one command after the other: how many are acknowledged in a second.
    pub fn commits(&self, leader: usize, clients: u64, span: Duration) -> Result<f64> {
        let leader = self.replicas.get(leader - 1).context("no such replica")?;
        let done = self.runtime.block_on(async {
            let load = (0..clients).map(|number| {
                let mut leader = leader.clone();
                tokio::spawn(async move {
                    let (end, mut done) = (Instant::now() + span, 0u64);
                    while Instant::now() < end {
                        leader.submit(small_command(number)).await?;
                        done += 1;
                    }
                    Ok::<_, tonic::Status>(done)
                })
            });
            let mut sum = 0;
            for task in load.collect::<Vec<_>>() {
                sum += task.await??;
            }
            Ok::<_, anyhow::Error>(sum)
        })?;
        Ok(done as f64 / span.as_secs_f64())
    }

    /// Begins to write through every replica, one command after the other through each: one that is gone without a word
    /// holds up whoever asked it, and that is no part of how long the others take to go on.
    pub fn writers(&self) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let write = |mut replica: Control| {
            let stop = stop.clone();
            self.runtime.spawn(async move {
                let mut acknowledged = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match tokio::time::timeout(ATTEMPT, replica.submit(small_command(0))).await {
                        Ok(Ok(_)) => acknowledged.push(Instant::now()),
                        Ok(Err(_)) | Err(_) => tokio::time::sleep(AGAIN).await,
                    }
                }
                acknowledged
            })
        };
        let tasks = self.replicas.iter().cloned().map(write).collect();
        Writers { stop, tasks }
    }

    /// Ends the writers: when each of their commands was acknowledged, in order.
    pub fn stop(&self, writers: Writers) -> Result<Vec<Instant>> {
        writers.stop.store(true, Ordering::Relaxed);
        let mut acknowledged = Vec::new();
        for task in writers.tasks {
            acknowledged.extend(self.runtime.block_on(task)?);
        }
        acknowledged.sort();
        Ok(acknowledged)
    }
}

/// They write until they are stopped.
pub struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Vec<Instant>>>,
}
