//! A script of a service never runs in two places, and wherever one runs its node is in the service's may-run set.

use std::collections::BTreeMap;

use super::{Invariant, Observation};
use crate::sim::World;

pub(super) struct ScriptsRunOnce;

impl Invariant for ScriptsRunOnce {
    fn name(&self) -> &'static str {
        "scripts-run-once"
    }

    fn see(&mut self, world: &World, observation: &Observation<'_>) -> Result<(), String> {
        if !matches!(observation, Observation::Step) {
            return Ok(());
        }
        let mut at: BTreeMap<&str, &str> = BTreeMap::new();
        for host in world.hosts.iter().filter(|host| !host.scripts.is_empty()) {
            for program in host.running_scripts(world.now) {
                if let Some(other) = at.insert(program, &host.name) {
                    return Err(format!("{program} runs on {other} and on {}", host.name));
                }
            }
        }
        match at.is_empty() {
            true => Ok(()),
            false => covered(world, &at),
        }
    }
}

fn covered(world: &World, at: &BTreeMap<&str, &str>) -> Result<(), String> {
    let truth = world.truth();
    if truth.restoring {
        return Ok(());
    }
    for record in truth.services.values() {
        for (member, script) in record.spec.scripts() {
            let Some(place) = at.get(script.program.what()) else { continue };
            let node = truth.nodes.values().find(|node| node.name.as_str() == *place);
            // A host that the control plane does not know runs what is the operator's to find.
            if let Some(node) = node.filter(|node| !record.may_run.contains_key(&node.id)) {
                return Err(format!(
                    "{member} of {} runs on {}, which is not in its set ({:?}, {:?})",
                    record.spec.name, node.name, record.state, record.may_run
                ));
            }
        }
    }
    Ok(())
}
