//! Two copies of one VM never run at once.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Invariant, Observation};
use crate::sim::World;

pub(super) struct SingleOwner;

impl Invariant for SingleOwner {
    fn name(&self) -> &'static str {
        "single-owner"
    }

    fn see(&mut self, world: &World, observation: &Observation<'_>) -> Result<(), String> {
        if !matches!(observation, Observation::Step) {
            return Ok(());
        }
        let mut at: BTreeMap<Uuid, &str> = BTreeMap::new();
        for host in &world.hosts {
            for uuid in host.running(world.now) {
                if let Some(other) = at.insert(uuid, &host.name) {
                    return Err(format!("{uuid} runs on {other} and on {}", host.name));
                }
            }
        }
        Ok(())
    }
}
