//! Numbers that never come twice: node ids, sessions, generations. And a node that may run a VM is not removed.

use std::collections::BTreeSet;

use model::command::Operation;

use super::{Invariant, Observation};
use crate::sim::World;

#[derive(Default)]
pub(super) struct NumbersComeOnce {
    /// By epoch: what a backup does not know its control plane may give out again, higher by the epoch.
    nodes: BTreeSet<(u64, u64)>,
    sessions: BTreeSet<(u64, u64)>,
    epoch: u64,
}

impl Invariant for NumbersComeOnce {
    fn name(&self) -> &'static str {
        "numbers-come-once"
    }

    fn see(&mut self, world: &World, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::Committed { command, outcome: Ok(_), before, after, .. } = observation
        else {
            return Ok(());
        };
        if world.planes.len() > 1 && self.epoch != 0 && after.epoch.0 != self.epoch {
            let highest = world.planes.iter().rev().nth(1).map_or(0, |old| old.state.epoch.0);
            if after.epoch.0 <= highest {
                return Err(format!(
                    "a restored control plane is of epoch {}, and the one before it was of {highest}",
                    after.epoch
                ));
            }
        }
        self.epoch = after.epoch.0;
        let epoch = after.epoch.0;
        match &command.operation {
            Operation::Register(registration) if before.revision != after.revision => {
                let Some(node) = after.node_named(&registration.name) else { return Ok(()) };
                let known = before.nodes.contains_key(&node.id);
                if !self.nodes.insert((epoch, node.id.0)) && !known {
                    return Err(format!(
                        "{} is node {}, and another was before",
                        node.name, node.id
                    ));
                }
                if !self.sessions.insert((epoch, node.last_session.0)) {
                    return Err(format!("session {} was given twice", node.last_session));
                }
            }
            Operation::RemoveNode(name) if before.revision != after.revision => {
                let Some(node) = before.node_named(name) else { return Ok(()) };
                if let Some(vm) = before.vms.values().find(|vm| vm.may_run.contains_key(&node.id)) {
                    return Err(format!(
                        "{name} was removed, and {} may be running there",
                        vm.spec.name
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
