//! Wherever a VM of the cluster runs, that node is in its may-run set.
//!
//! What an outsider brought there is none of it until the cluster has taken it over.

use super::{Invariant, Observation};
use crate::sim::World;

pub(super) struct MayRunCovers;

impl Invariant for MayRunCovers {
    fn name(&self) -> &'static str {
        "may-run-covers"
    }

    fn see(&mut self, world: &World, observation: &Observation<'_>) -> Result<(), String> {
        if !matches!(observation, Observation::Step) {
            return Ok(());
        }
        let truth = world.truth();
        if truth.restoring {
            return Ok(());
        }
        for host in &world.hosts {
            let running = host.running(world.now);
            if running.is_empty() {
                continue;
            }
            let Some(node) = truth.nodes.values().find(|node| node.name.as_str() == host.name)
            else {
                continue;
            };
            let machine = host.hypervisor.machine();
            for uuid in running {
                let outside = machine.domains.get(&uuid).is_some_and(|domain| domain.outside);
                let Some(record) = truth.vm_with_uuid(&uuid).filter(|_| !outside) else { continue };
                if !record.may_run.contains_key(&node.id) {
                    return Err(format!(
                        "{} runs on {}, which is not in its set ({:?}, {:?})",
                        record.spec.name, host.name, record.state, record.may_run
                    ));
                }
            }
        }
        Ok(())
    }
}
