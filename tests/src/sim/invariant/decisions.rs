//! What is decided is lawful: no start while a copy runs anywhere, none of a VM that was lost, nothing by itself in a
//! conflict, and nothing on an older state than the present one.

use std::collections::BTreeSet;

use model::command::{Decision, Operation};
use model::vm::VmState;

use super::{Invariant, Observation};
use crate::sim::World;

#[derive(Default)]
pub(super) struct DecisionsAreLawful {
    /// VMs that left by a migration nobody ordered, and have not been seen or asked for since.
    lost: BTreeSet<String>,
    epoch: u64,
}

impl Invariant for DecisionsAreLawful {
    fn name(&self) -> &'static str {
        "decisions-are-lawful"
    }

    fn see(&mut self, world: &World, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::Committed { command, outcome: Ok(_), before, after, in_office } =
            observation
        else {
            return Ok(());
        };
        if !in_office && command.by == "leader" {
            return Err(format!("a deposed leader's {:?} was committed", command.operation));
        }
        if self.epoch != after.epoch.0 {
            self.epoch = after.epoch.0;
            self.lost.clear();
        }
        for vm in after.vms.values() {
            let name = vm.spec.name.to_string();
            if vm.state == VmState::Lost && vm.seen.is_empty() {
                self.lost.insert(name);
            } else if !vm.seen.is_empty() {
                self.lost.remove(&name);
            }
        }
        if let Some(vm) = command.operation.vm()
            && !matches!(command.operation, Operation::Decide { .. })
        {
            // An operator has spoken.
            self.lost.remove(vm.as_str());
        }
        let Operation::Decide { vm, changed, decision } = &command.operation else { return Ok(()) };
        let Some(record) = before.vms.get(vm) else { return Ok(()) };
        if record.changed != *changed {
            return Err(format!(
                "{decision:?} of {vm} was taken, though it was made on another state"
            ));
        }
        if record.keep.is_none()
            && record.migration_target().is_none()
            && record.seen_with_guest().count() > 1
            && matches!(
                decision,
                Decision::Evict { .. } | Decision::Stop { .. } | Decision::Start { .. }
            )
        {
            return Err(format!("{vm} is seen twice, and was decided on: {decision:?}"));
        }
        match decision {
            Decision::Start { node, .. } => {
                if self.lost.contains(vm.as_str()) {
                    return Err(format!("{vm} was lost, and is started"));
                }
                let place = before.node_name(*node);
                let uuid = record.spec.uuid;
                for host in world.hosts.iter().filter(|host| host.name != place) {
                    let machine = host.hypervisor.machine();
                    let outside = machine.domains.get(&uuid).is_some_and(|domain| domain.outside);
                    drop(machine);
                    if host.running(world.now).contains(&uuid) && !outside {
                        return Err(format!(
                            "{vm} is started on {place} while it runs on {}",
                            host.name
                        ));
                    }
                }
                Ok(())
            }
            Decision::Adopt { node } => {
                let place = before.node_name(*node);
                let incoming = record
                    .seen
                    .get(node)
                    .is_some_and(|it| it.presence == model::vm::Presence::Incoming);
                if incoming {
                    return Err(format!("{vm} is adopted on {place}, where it is half-built"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
