//! What a ledger has promised it keeps, over restarts too; and one that was lost knows again what was ruled out as soon
//! as its agent has registered.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use agent::hypervisor::call::Call;
use uuid::Uuid;

use super::{Invariant, Observation};
use crate::sim::World;

#[derive(Default)]
pub(super) struct LedgerNeverGoesBack {
    /// By host and ledger, the highest that was met.
    epochs: BTreeMap<(usize, u64), u64>,
    /// By host and VM.
    floors: BTreeMap<(usize, Uuid), u64>,
}

impl Invariant for LedgerNeverGoesBack {
    fn name(&self) -> &'static str {
        "ledger-never-goes-back"
    }

    fn see(&mut self, world: &World, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Registered { host, node, .. } => {
                let Some(agent) = &world.hosts[*host].agent else { return Ok(()) };
                let epoch = agent.core.session().map_or(0, |given| given.epoch);
                let ledger = (*host, world.hosts[*host].ledgers_lost);
                let met = self.epochs.entry(ledger).or_default();
                if epoch < *met {
                    return Err(format!(
                        "{} takes a session of epoch {epoch}, and has met epoch {met}",
                        world.hosts[*host].name
                    ));
                }
                *met = epoch;
                let truth = world.truth();
                let session = truth.nodes.get(node).map(|node| node.last_session.0);
                let current = agent.session.map(|(_, session)| session.0);
                if session.is_none() || session != current {
                    return Ok(());
                }
                for record in truth.vms.values() {
                    let uuid = record.spec.uuid;
                    let floor = agent.core.ledger().floor(uuid);
                    // What was promised before this session, of a VM that has not entered again since.
                    let promised = self.floors.get(&(*host, uuid)).copied().unwrap_or(0);
                    if !record.may_run.contains_key(node) && floor < promised {
                        return Err(format!(
                            "{} has forgotten that it refuses orders for {} up to {promised}: {floor}",
                            world.hosts[*host].name, record.spec.name
                        ));
                    }
                }
                Ok(())
            }
            Observation::Call { host, uuid, call } => {
                let Some(agent) = &world.hosts[*host].agent else { return Ok(()) };
                let noted = agent.core.ledger().floor(*uuid);
                let known = self.floors.entry((*host, *uuid)).or_default();
                *known = (*known).max(noted);
                let acts = matches!(call, Call::Create { .. } | Call::Migrate(_));
                let disk = world.hosts[*host].ledger.lock().unwrap_or_else(PoisonError::into_inner);
                let written = disk.vms.get(uuid).map_or(disk.floor, |entry| entry.floor);
                if acts && written < noted {
                    return Err(format!(
                        "{} acts on order {noted} of {uuid} before it is on disk",
                        world.hosts[*host].name
                    ));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
