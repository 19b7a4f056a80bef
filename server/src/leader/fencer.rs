//! Carries out fences that are asked for in the log, and proposes what came of them; asks all devices now and then
//! whether they answer; switches fenced nodes on again where that is their policy.
//!
//! A fence is asked before it is begun and its result is proposed after; a new leader that finds one asked and
//! unresolved does it again, which is harmless: "off" twice is off.
//!
//! Devices are asked from here and through the agents of surviving nodes, with the same rule on both ways; the first
//! proof counts.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use fence::FenceAgents;
use futures::future::{self, Either};
use model::ClusterState;
use model::command::Operation;
use model::id::{NodeId, SessionId};
use model::liveness::Liveness;
use model::node::{FenceDevice, NodeRecord, NodeState, ProofOfDeath};
use model::plan::fencing;
use model::time::Timestamp;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tracing::info;

use crate::leader::fence_desk::{FenceAsk, FenceDesk};
use crate::leader::reconciler::propose;
use crate::raft::RaftHandle;

/// How long the leader's own call has the device for itself: two calls at once are refused by some controllers.
const HEAD_START: Duration = Duration::from_secs(1);
/// What an agent may need beyond its devices' own time-outs to hear of a task and to answer.
const HELPER_MARGIN: Duration = Duration::from_secs(5);
/// Fence agents are programs, mostly Python: so many of them at a time are run to see whether devices answer.
const PROBES_AT_ONCE: usize = 4;

type Key = (NodeId, SessionId);

pub(super) struct Fencer {
    means: Means,
    raft: RaftHandle,
    term: u64,
    fencing: BTreeMap<Key, Task>,
    reviving: BTreeMap<Key, Task>,
    probing: BTreeMap<NodeId, (u64, Task)>,
    probes: Arc<Semaphore>,
}

/// Ends with the leadership, and with it the fence agents that it runs: the next leader begins anew.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Task {
    fn start(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }
}

/// By what devices are asked.
#[derive(Clone)]
pub struct Means {
    /// From here.
    pub agents: FenceAgents,
    /// Through agents.
    pub desk: FenceDesk,
}

impl Fencer {
    pub(super) fn new(raft: RaftHandle, means: Means, term: u64) -> Self {
        let probes = Arc::new(Semaphore::new(PROBES_AT_ONCE));
        Self {
            means,
            raft,
            term,
            fencing: BTreeMap::new(),
            reviving: BTreeMap::new(),
            probing: BTreeMap::new(),
            probes,
        }
    }

    /// Begins what is asked and not under way. `now` is the leader's elapsed time in milliseconds.
    pub(super) fn look(
        &mut self,
        state: &ClusterState,
        liveness: &Liveness,
        now: u64,
        wall: Timestamp,
    ) {
        self.fencing.retain(|key, task| {
            let asked = state.nodes.get(&key.0).is_some_and(|node| is_fenced(node, *key));
            asked && !task.0.is_finished()
        });
        self.reviving.retain(|_, task| !task.0.is_finished());
        self.probing.retain(|node, _| state.nodes.contains_key(node));
        for node in state.nodes.values() {
            let key = (node.id, node.last_session);
            if is_fenced(node, key) && !self.fencing.contains_key(&key) {
                // Some controllers take one call at a time.
                self.probing.remove(&node.id);
                let task = self.fence(state, liveness, node);
                self.fencing.insert(key, task);
            }
            if fencing::power_on_is_due(node, &state.settings, wall)
                && !self.reviving.contains_key(&key)
            {
                let task = self.revive(state, liveness, node);
                self.reviving.insert(key, task);
            }
            self.probe(state, liveness, node, now);
        }
    }

    fn fence(&self, state: &ClusterState, liveness: &Liveness, node: &NodeRecord) -> Task {
        let (raft, term, means) = (self.raft.clone(), self.term, self.means.clone());
        let (name, devices) = (node.name.to_string(), node.fence_devices.clone());
        let helpers = helpers(state, liveness, node);
        let (node, session) = (node.id, node.last_session);
        Task::start(async move {
            info!(node = name, "fencing");
            let operation = match means.ask(&name, &devices, helpers, FenceAsk::Off).await {
                Ok(device) => {
                    let proof = ProofOfDeath::Fenced { device };
                    Operation::NodeDead { node, session, proof }
                }
                Err(error) => Operation::FenceFailed { node, session, error },
            };
            propose(&raft, term, operation).await;
        })
    }

    fn revive(&self, state: &ClusterState, liveness: &Liveness, node: &NodeRecord) -> Task {
        let (raft, term, means) = (self.raft.clone(), self.term, self.means.clone());
        let (name, devices) = (node.name.to_string(), node.fence_devices.clone());
        let helpers = helpers(state, liveness, node);
        let (node, session) = (node.id, node.last_session);
        Task::start(async move {
            info!(node = name, "switching on after a fence");
            let error = means.ask(&name, &devices, helpers, FenceAsk::On).await.err();
            propose(&raft, term, Operation::PoweredOn { node, session, error }).await;
        })
    }

    /// Asks each device for its status, from time to time; a change of what answers is told to the log.
    fn probe(&mut self, state: &ClusterState, liveness: &Liveness, node: &NodeRecord, now: u64) {
        let period = state.settings.fence_probe_ms;
        let due = match self.probing.get(&node.id) {
            // A new leader asks them all, after a moment for the agents to come back to it.
            None => {
                let asked_first = now.saturating_sub(period) + HEAD_START.as_millis() as u64;
                self.probing.insert(node.id, (asked_first, Task::start(async {})));
                false
            }
            Some((asked, task)) => task.0.is_finished() && now.saturating_sub(*asked) >= period,
        };
        let nothing = node.fence_devices.is_empty() && node.dark_fence.is_empty();
        if !due || nothing || node.state == NodeState::Fencing {
            return;
        }
        let (raft, term, means) = (self.raft.clone(), self.term, self.means.clone());
        let (name, devices) = (node.name.to_string(), node.fence_devices.clone());
        let helpers = helpers(state, liveness, node);
        let (known, node) = (node.dark_fence.clone(), node.id);
        let probes = self.probes.clone();
        let task = Task::start(async move {
            // It is never closed.
            let _one = probes.acquire_owned().await;
            let mut dark = Vec::new();
            for (number, device) in (1..).zip(devices) {
                let helpers = helpers.clone();
                let one = std::slice::from_ref(&device);
                if let Err(error) = means.ask(&name, one, helpers, FenceAsk::Status).await {
                    dark.push(format!("device {number}: {error}"));
                }
            }
            let which = |complaints: &[String]| {
                complaints.iter().map(|it| device_of(it).to_owned()).collect::<Vec<_>>()
            };
            // The same devices dark for another reason are no news.
            if which(&dark) != which(&known) {
                propose(&raft, term, Operation::FenceProbed { node, dark }).await;
            }
        });
        self.probing.insert(node, (now, task));
    }
}

/// A complaint begins with the number of the device: two may have the same agent.
fn device_of(complaint: &str) -> &str {
    complaint.split(':').next().unwrap_or_default()
}

fn is_fenced(node: &NodeRecord, key: Key) -> bool {
    // Also when its death was proven otherwise meanwhile: it is not taken back before this has come to something.
    node.fence_under_way && node.last_session == key.1
}

/// Nodes by whose agents the devices may be asked, with their names.
pub fn helpers(
    state: &ClusterState,
    liveness: &Liveness,
    node: &NodeRecord,
) -> Vec<(NodeId, String)> {
    let ids = fencing::helpers(state, liveness, node);
    ids.into_iter().map(|id| (id, state.node_name(id))).collect()
}

impl Means {
    /// Asks from here, and soon through the helpers too; the first good answer counts. An answer through a helper names it.
    pub async fn ask(
        &self,
        node: &str,
        devices: &[FenceDevice],
        helpers: Vec<(NodeId, String)>,
        ask: FenceAsk,
    ) -> Result<String, String> {
        let own = Box::pin(self.ask_here(devices, ask));
        if helpers.is_empty() {
            return own.await;
        }
        let head_start = Box::pin(tokio::time::sleep(HEAD_START));
        let mut ways: Vec<future::BoxFuture<'_, Result<String, String>>> = Vec::new();
        let mut complaints = Vec::new();
        match future::select(own, head_start).await {
            Either::Left((Ok(answer), _)) => return Ok(answer),
            Either::Left((Err(error), _)) => complaints.push(error),
            Either::Right(((), own)) => ways.push(own),
        }
        for helper in helpers {
            ways.push(Box::pin(self.ask_through(helper, node, devices, ask)));
        }
        while !ways.is_empty() {
            let (answer, _, others) = future::select_all(ways).await;
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => complaints.push(error),
            }
            ways = others;
        }
        Err(complaints.join("; "))
    }

    /// From this replica.
    pub async fn ask_here(&self, devices: &[FenceDevice], ask: FenceAsk) -> Result<String, String> {
        let answer = match ask {
            FenceAsk::Off => self.agents.prove_death(devices).await,
            FenceAsk::On => self.agents.revive(devices).await.map(|()| "on".into()),
            FenceAsk::Status => self.agents.look(devices).await.map(|it| it.as_str().to_owned()),
        };
        answer.map_err(|error| error.to_string())
    }

    /// By a node's agent.
    pub async fn ask_through(
        &self,
        (helper, name): (NodeId, String),
        node: &str,
        devices: &[FenceDevice],
        ask: FenceAsk,
    ) -> Result<String, String> {
        // Each device is asked twice: what it is to do, and what came of it; levels one after the other.
        let calls: u64 = devices.iter().map(|device| 2 * device.timeout_ms).sum();
        let limit = Duration::from_millis(calls) + HELPER_MARGIN;
        let asked = self.desk.ask(helper, node, ask, devices.to_vec());
        match tokio::time::timeout(limit, asked).await {
            Ok(Ok(answer)) if ask == FenceAsk::Off => Ok(format!("{answer}, asked by {name},")),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(format!("through {name}: {error}")),
            Err(_) => Err(format!("through {name}: its agent did not answer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn device() -> FenceDevice {
        let (agent, options) = ("fence_nowhere".to_owned(), BTreeMap::new());
        FenceDevice { agent, options, timeout_ms: 1_000, level: 0 }
    }

    #[tokio::test]
    async fn a_device_that_cannot_be_asked_from_here_is_asked_through_a_surviving_agent() {
        let means = Means { agents: FenceAgents::new(Vec::new()), desk: FenceDesk::default() };
        let helpers = vec![(NodeId(2), "n2".to_owned()), (NodeId(3), "n3".to_owned())];
        let asking = tokio::spawn({
            let means = means.clone();
            async move { means.ask("n1", &[device()], helpers, FenceAsk::Off).await }
        });
        let mut tasks = means.desk.tasks();
        let both = tasks.wait_for(|tasks| tasks.len() == 2).await.unwrap().clone();
        means.desk.done(NodeId(2), both[&NodeId(2)][0].id, Err("fence_nowhere says on".into()));
        means.desk.done(NodeId(3), both[&NodeId(3)][0].id, Ok("fence_nowhere".into()));
        assert_eq!(asking.await.unwrap(), Ok("fence_nowhere, asked by n3,".into()));
        assert!(tasks.borrow().is_empty(), "what nobody waits for is taken back");
    }

    #[tokio::test]
    async fn without_a_proof_on_any_way_all_complaints_are_told() {
        let means = Means { agents: FenceAgents::new(Vec::new()), desk: FenceDesk::default() };
        let asking = tokio::spawn({
            let means = means.clone();
            let helpers = vec![(NodeId(2), "n2".to_owned())];
            async move { means.ask("n1", &[device()], helpers, FenceAsk::Off).await }
        });
        let mut tasks = means.desk.tasks();
        let task = tasks.wait_for(|tasks| !tasks.is_empty()).await.unwrap()[&NodeId(2)][0].id;
        means.desk.done(NodeId(2), task, Err("dark as well".into()));
        let text = asking.await.unwrap().unwrap_err();
        assert!(
            text.contains("not installed") && text.contains("through n2: dark as well"),
            "{text}"
        );
    }
}
