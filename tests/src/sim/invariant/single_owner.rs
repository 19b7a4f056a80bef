//! Two copies of one VM never run at once.
//!
//! What somebody moved past the cluster, and the cluster had not heard of when it started the VM elsewhere, is beyond any
//! control plane; that it is a conflict then, and what becomes of it, others look at.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{Invariant, Observation};
use crate::sim::World;

#[derive(Default)]
pub(super) struct SingleOwner {
    /// Copies, by VM and host, that somebody brought there and the cluster had not heard of while they were the only ones.
    unheard: BTreeSet<(Uuid, usize)>,
}

impl Invariant for SingleOwner {
    fn name(&self) -> &'static str {
        "single-owner"
    }

    fn see(&mut self, world: &World, observation: &Observation<'_>) -> Result<(), String> {
        if !matches!(observation, Observation::Step) {
            return Ok(());
        }
        let mut at: BTreeMap<Uuid, Vec<usize>> = BTreeMap::new();
        for (number, host) in world.hosts.iter().enumerate() {
            for uuid in host.running(world.now) {
                at.entry(uuid).or_default().push(number);
            }
        }
        self.unheard.retain(|(uuid, host)| at.get(uuid).is_some_and(|hosts| hosts.contains(host)));
        for (uuid, hosts) in &at {
            if let [only] = hosts.as_slice() {
                match is_unheard(world, *uuid, *only) {
                    true => self.unheard.insert((*uuid, *only)),
                    false => self.unheard.remove(&(*uuid, *only)),
                };
            }
            let known: Vec<usize> = hosts
                .iter()
                .copied()
                .filter(|host| !self.unheard.contains(&(*uuid, *host)))
                .collect();
            if let [one, other, ..] = known.as_slice() {
                let (one, other) = (&world.hosts[*one].name, &world.hosts[*other].name);
                return Err(format!("{uuid} runs on {one} and on {other}"));
            }
        }
        Ok(())
    }
}

fn is_unheard(world: &World, uuid: Uuid, number: usize) -> bool {
    let host = &world.hosts[number];
    if !host.hypervisor.machine().domains.get(&uuid).is_some_and(|domain| domain.outside) {
        return false;
    }
    let truth = world.truth();
    let node = truth.nodes.values().find(|node| node.name.as_str() == host.name);
    !truth.vm_with_uuid(&uuid).zip(node).is_some_and(|(vm, node)| vm.seen.contains_key(&node.id))
}
