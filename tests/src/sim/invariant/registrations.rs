//! A registration is taken in its turn: none of an older boot, none while a fence of the same boot may still bite.

use std::collections::BTreeMap;

use model::command::Operation;
use model::event::EventKind;
use model::node::{NodeState, ProofOfDeath};

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

    fn see(&mut self, world: &World, observation: &Observation<'_>) -> Result<(), String> {
        if let Observation::FenceBites { host, session } = observation {
            // A control plane that was restored knows nothing of the fences of the one before it.
            let truth = world.truth();
            let name = &world.hosts[*host].name;
            let node = truth.nodes.values().find(|node| node.name.as_str() == name);
            return match node.and_then(|node| node.session()) {
                Some(current) if current > *session && world.planes.len() == 1 => Err(format!(
                    "a fence of session {session} cuts {name}, which is back in session {current}"
                )),
                _ => Ok(()),
            };
        }
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
        if let Some(node) = before.node_named(name) {
            if node.hardware != registration.hardware {
                return Err(format!("{name} registered on other hardware than before"));
            }
            let void = matches!(node.state, NodeState::Dead(ProofOfDeath::Fenced { .. }))
                && node.boot_id == registration.boot_id;
            let alarmed = || {
                let last = after.events.iter().rev().take_while(|it| it.revision == after.revision);
                last.into_iter().any(|event| event.kind == EventKind::NodeProofVoid)
            };
            if void && !alarmed() {
                return Err(format!("{name} was never off, and nobody is told"));
            }
        }
        match before.node_named(name) {
            Some(node) if node.fence_under_way => {
                Err(format!("{name} is back while its fence may still bite"))
            }
            _ => Ok(()),
        }
    }
}
