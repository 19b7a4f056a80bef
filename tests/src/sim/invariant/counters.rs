//! `restart_count` is the number of times that the cluster has started a VM again since it was enabled.

use std::collections::BTreeMap;

use model::ClusterState;
use model::command::{Decision, Operation, ServiceDecision};
use model::id::VmName;
use model::vm::VmState;

use super::{Invariant, Observation};
use crate::sim::World;

#[derive(Default)]
pub(super) struct CountersAreRight {
    restarts: BTreeMap<String, u32>,
    epoch: u64,
}

impl Invariant for CountersAreRight {
    fn name(&self) -> &'static str {
        "counters-are-right"
    }

    fn see(&mut self, _world: &World, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::Committed { command, outcome: Ok(_), before, after, .. } = observation
        else {
            return Ok(());
        };
        if self.epoch != before.epoch.0 {
            // From a backup: what it says is where counting begins.
            self.epoch = before.epoch.0;
            let all = before.vms.values();
            self.restarts = all.map(|vm| (vm.spec.name.to_string(), vm.restart_count)).collect();
        }
        if before.revision == after.revision {
            // A request that came again.
            return Ok(());
        }
        match &command.operation {
            Operation::Enable { vm, .. }
            | Operation::ForgetVm(vm)
            | Operation::Resolve { vm, .. } => {
                let fresh = before
                    .vms
                    .get(vm)
                    .is_none_or(|it| matches!(it.state, VmState::Disabled | VmState::Lost))
                    || matches!(command.operation, Operation::ForgetVm(_));
                if fresh {
                    self.restarts.remove(vm.as_str());
                }
            }
            Operation::Convalesce(vm) => drop(self.restarts.remove(vm.as_str())),
            Operation::DecideService {
                service,
                decision: ServiceDecision::StartMember { member },
                ..
            } => {
                let spec = before.services.get(service).map(|it| &it.spec);
                let vm = spec.and_then(|spec| spec.member(member)).and_then(|it| it.vm());
                if let Some(vm) = vm
                    && begins(before, after, vm)
                {
                    *self.restarts.entry(vm.to_string()).or_default() += 1;
                }
            }
            Operation::Decide { vm, decision: Decision::Start { .. }, .. }
                if before.vms.get(vm).is_some_and(|it| it.state == VmState::Recovering) =>
            {
                *self.restarts.entry(vm.to_string()).or_default() += 1;
            }
            _ => {}
        }
        for record in after.vms.values() {
            let counted = self.restarts.get(record.spec.name.as_str()).copied().unwrap_or(0);
            if record.restart_count != counted {
                return Err(format!(
                    "{} says {} restarts, and there were {counted} ({:?})",
                    record.spec.name, record.restart_count, command.operation
                ));
            }
        }
        Ok(())
    }
}

/// Its service starts it again, and did not leave it to be tracked where it runs.
fn begins(before: &ClusterState, after: &ClusterState, vm: &VmName) -> bool {
    let recovering = before.vms.get(vm).is_some_and(|it| it.state == VmState::Recovering);
    recovering && after.vms.get(vm).is_some_and(|it| it.state == VmState::Starting)
}
