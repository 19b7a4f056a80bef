//! A registration is taken in its turn: none of an older boot, none while a fence of the same boot may still bite.

use std::collections::BTreeMap;

use model::command::Operation;
use model::node::NodeState;

use super::{Invariant, Observation};
use crate::sim::World;

#[derive(Default)]
pub(super) struct RegistrationsInTurn {
    /// By host, the newest boot that registered.
    boots: BTreeMap<String, u64>,
}

impl Invariant for RegistrationsInTurn {
    fn name(&self) -> &'static str {
        "registrations-in-turn"
    }

    fn see(&mut self, _world: &World, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::Committed { command, outcome: Ok(_), before, after, .. } = observation
        else {
            return Ok(());
        };
        let Operation::Register(registration) = &command.operation else { return Ok(()) };
        if before.revision == after.revision {
            // A request that came again.
            return Ok(());
        }
        let name = &registration.name;
        let boot = registration.boot_id.rsplit('-').next().and_then(|boot| boot.parse().ok());
        let newest = self.boots.entry(name.to_string()).or_default();
        let boot: u64 = boot.unwrap_or_default();
        if boot < *newest {
            return Err(format!("{name} registered with boot {boot}, after boot {newest}"));
        }
        *newest = boot;
        match before.node_named(name) {
            Some(node)
                if node.state == NodeState::Fencing && node.boot_id == registration.boot_id =>
            {
                Err(format!("{name} is back while its fence may still bite"))
            }
            _ => Ok(()),
        }
    }
}
