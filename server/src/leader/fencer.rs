//! Carries out fences that are asked for in the log, and proposes what came of them.
//!
//! A fence is asked before it is begun and its result is proposed after; a new leader that finds one asked and
//! unresolved does it again, which is harmless: "off" twice is off.

use std::collections::{BTreeMap, BTreeSet};

use model::ClusterState;
use model::command::Operation;
use model::id::{NodeId, SessionId};
use model::node::{FenceDevice, NodeState, ProofOfDeath};
use tokio::task::JoinHandle;
use tracing::info;

use crate::fence::{FenceAgents, FenceError};
use crate::leader::reconciler::propose;
use crate::raft::RaftHandle;

pub(super) struct Fencer {
    raft: RaftHandle,
    agents: FenceAgents,
    term: u64,
    running: BTreeMap<(NodeId, SessionId), JoinHandle<()>>,
}

impl Fencer {
    pub(super) fn new(raft: RaftHandle, agents: FenceAgents, term: u64) -> Self {
        Self { raft, agents, term, running: BTreeMap::new() }
    }

    /// Begins what is asked and not under way.
    pub(super) fn look(&mut self, state: &ClusterState) {
        self.running.retain(|_, task| !task.is_finished());
        for node in state.nodes.values().filter(|node| node.state == NodeState::Fencing) {
            let key = (node.id, node.last_session);
            if self.running.contains_key(&key) {
                continue;
            }
            let (raft, agents, term) = (self.raft.clone(), self.agents.clone(), self.term);
            let (name, devices) = (node.name.to_string(), node.fence_devices.clone());
            let task = tokio::spawn(async move {
                info!(node = name, "fencing");
                let (node, session) = key;
                let operation = match prove_off(&agents, &devices).await {
                    Ok(device) => Operation::NodeDead {
                        node,
                        session,
                        proof: ProofOfDeath::Fenced { device },
                    },
                    Err(error) => Operation::FenceFailed { node, session, error },
                };
                propose(&raft, term, operation).await;
            });
            self.running.insert(key, task);
        }
    }
}

/// The levels in turn, the lowest first; all devices of a level must say off. Returns the names of those that did.
async fn prove_off(agents: &FenceAgents, devices: &[FenceDevice]) -> Result<String, String> {
    let levels: BTreeSet<u8> = devices.iter().map(|device| device.level).collect();
    let mut complaints = Vec::new();
    for level in levels {
        let asked = devices
            .iter()
            .filter(|device| device.level == level)
            .map(|device| agents.prove_off(std::slice::from_ref(device)));
        let answers: Result<Vec<String>, FenceError> =
            futures::future::join_all(asked).await.into_iter().collect();
        match answers {
            Ok(names) => return Ok(names.join(" and ")),
            Err(error) => complaints.push(error.to_string()),
        }
    }
    match complaints.is_empty() {
        true => Err(FenceError::NoDevice.to_string()),
        false => Err(complaints.join("; ")),
    }
}
