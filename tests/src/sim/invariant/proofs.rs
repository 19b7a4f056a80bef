//! A death that is committed is one: nothing of the cluster runs on that node. And a leader answers nobody whose loss it
//! has proposed.

use std::collections::BTreeMap;

use model::command::Operation;
use model::id::NodeId;
use model::node::NodeState;
use model::vm::VmRecord;
use uuid::Uuid;

use super::{Invariant, Observation};
use crate::sim::World;
use crate::sim::host::SimHost;

#[derive(Default)]
pub(super) struct ProofsHold {
    /// Words of operators, by their requests: how long the node had been silent when the leader took them. What is heard
    /// after that comes too late to be looked at; it is the operator who answers for it.
    said: BTreeMap<Uuid, u64>,
}

impl Invariant for ProofsHold {
    fn name(&self) -> &'static str {
        "proofs-hold"
    }

    fn see(&mut self, world: &World, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Answered { node, session, given_up: true } => Err(format!(
                "session {session} of node {node} was answered after its loss was proposed"
            )),
            Observation::SaidOff { request, silent_ms } => {
                self.said.insert(*request, *silent_ms);
                Ok(())
            }
            Observation::Committed { command, outcome: Ok(_), before, after, .. } => {
                if let Operation::ConfirmOff { node, .. } = &command.operation
                    && let Some(silent_ms) = self.said.get(&command.request.0)
                    && *silent_ms < before.settings.lost_after_ms
                {
                    return Err(format!(
                        "{node} was confirmed off, and it was heard {silent_ms} ms before"
                    ));
                }
                if let Operation::NodeDead { node, session, proof } = &command.operation {
                    let Some(record) = after.nodes.get(node) else { return Ok(()) };
                    if before.nodes.get(node).is_some_and(|node| node.last_session != *session) {
                        return Err(format!(
                            "{} was called dead by what was proven of session {session}",
                            record.name
                        ));
                    }
                    if before.braked() && matches!(proof, model::node::ProofOfDeath::Lease { .. }) {
                        return Err("a death by lease was committed under the brake".into());
                    }
                    if !matches!(record.state, NodeState::Dead(_)) {
                        return Ok(());
                    }
                    let host = world.hosts.iter().find(|host| host.name == record.name.as_str());
                    let Some(host) = host else { return Ok(()) };
                    if matches!(proof, model::node::ProofOfDeath::Lease { .. }) {
                        lease_has_been_over(host, world.now, before.settings.self_fence_ms)?;
                    }
                    let by_lease = matches!(proof, model::node::ProofOfDeath::Lease { .. });
                    for uuid in host.running(world.now) {
                        let machine = host.hypervisor.machine();
                        let outside =
                            machine.domains.get(&uuid).is_some_and(|domain| domain.outside);
                        // By the lease only what it binds is dead: the rest keeps its node in the set.
                        let freed = |vm: &std::sync::Arc<VmRecord>| {
                            !by_lease || !vm.may_run.contains_key(node)
                        };
                        if after.vm_with_uuid(&uuid).is_some_and(freed) && !outside {
                            return Err(format!(
                                "{} was proven dead ({proof:?}) while {uuid} runs there",
                                host.name
                            ));
                        }
                    }
                }
                if matches!(command.operation, Operation::FenceAsked { .. }) {
                    let lost: Vec<NodeId> = before
                        .nodes
                        .values()
                        .filter(|node| matches!(node.state, NodeState::Lost | NodeState::Fencing))
                        .map(|node| node.id)
                        .collect();
                    let alive = before
                        .nodes
                        .values()
                        .filter(|node| !matches!(node.state, NodeState::Dead(_)))
                        .count();
                    let released = before.mass_loss.as_ref().is_some_and(|loss| {
                        loss.released_by.is_some()
                            && lost.iter().all(|node| loss.nodes.contains(node))
                    });
                    let lost = lost.len();
                    let percent = before.settings.mass_loss_percent as usize;
                    if lost >= 3 && lost * 100 > alive * percent && !released {
                        return Err(format!("{lost} of {alive} nodes are lost, and one is fenced"));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// By the host's own clocks the lease has been over for as long as stopping its guests may take.
fn lease_has_been_over(host: &SimHost, now: u64, self_fence_ms: u64) -> Result<(), String> {
    let Some(agent) = host.agent.as_ref().filter(|_| host.on && !host.pausable) else {
        return Ok(());
    };
    let watchdog_ms = host.watchdog.map_or(0, |watchdog| watchdog.timeout_ms);
    let needed = self_fence_ms.max(watchdog_ms);
    let (lease, reading) = (agent.core.lease(), host.reading(now));
    match lease.over_for_ms(reading) {
        _ if lease.holds(reading) => {
            Err(format!("{} was proven dead by a lease that still holds", host.name))
        }
        Some(over) if over < needed => Err(format!(
            "{} was proven dead by a lease that is over for {over} ms, and {needed} are needed",
            host.name
        )),
        _ => Ok(()),
    }
}
