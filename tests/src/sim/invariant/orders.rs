//! An agent does nothing that is not committed, nothing of an older session or epoch, and nothing twice.

use std::collections::{BTreeMap, BTreeSet};

use agent::hypervisor::call::Call;
use agent::hypervisor::mark;
use model::cluster::numbers_after;
use model::command::{Decision, Operation, ServiceDecision};
use uuid::Uuid;

use super::{Invariant, Observation};
use crate::sim::World;

#[derive(Default)]
pub(super) struct OrdersAreFresh {
    /// Starts that had their effect, by host, ledger, VM and generation: nobody remembers what a lost ledger said, and the
    /// order that is still outstanding may be carried out once more.
    started: BTreeSet<(usize, u64, Uuid, u64)>,
    /// By which ledger a start was last asked of libvirt, by host, VM and generation: its effect may come when that is lost.
    asked: BTreeMap<(usize, Uuid, u64), u64>,
    /// The newest term that an agent has obeyed, by host, agent and session.
    terms: BTreeMap<(usize, u64, u64), u64>,
}

impl Invariant for OrdersAreFresh {
    fn name(&self) -> &'static str {
        "orders-are-fresh"
    }

    fn see(&mut self, world: &World, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Call { host, uuid, call: Call::Create { xml } } => {
                let generation = mark::in_domain(xml).map_or(0, |mark| mark.generation);
                let place = &world.hosts[*host].name;
                if !was_committed(world, *uuid, generation) {
                    return Err(format!(
                        "{place} starts {uuid} at generation {generation}, which nobody committed"
                    ));
                }
                let ledger = world.hosts[*host].ledgers_lost;
                if self.started.contains(&(*host, ledger, *uuid, generation)) {
                    return Err(format!(
                        "{place} starts {uuid} at generation {generation} for the second time"
                    ));
                }
                self.asked.insert((*host, *uuid, generation), ledger);
                let truth = world.truth();
                let node = truth.nodes.values().find(|node| node.name.as_str() == place);
                if let (Some(record), Some(node)) = (truth.vm_with_uuid(uuid), node)
                    && !record.may_run.contains_key(&node.id)
                {
                    return Err(format!(
                        "{place} starts {}, in whose set it is not any more",
                        record.spec.name
                    ));
                }
                Ok(())
            }
            Observation::Met { replica, epoch } => {
                let ours = world.replicas[*replica].state.epoch.0;
                match ours > 0 && *epoch > ours {
                    true => Err(format!(
                        "a replica of epoch {ours} goes on, and has heard of epoch {epoch}"
                    )),
                    false => Ok(()),
                }
            }
            Observation::Heard { host, foreign: Some(order) } => Err(format!(
                "{} begins order {order} of another session or epoch",
                world.hosts[*host].name
            )),
            Observation::Heard { host, foreign: None } => {
                let at = &world.hosts[*host];
                let Some(agent) = &at.agent else { return Ok(()) };
                let Some((_, session)) = agent.session else { return Ok(()) };
                let newest = self.terms.entry((*host, at.incarnation, session.0)).or_default();
                let term = agent.core.term();
                if term < *newest {
                    return Err(format!(
                        "{} obeys term {term}, after term {newest}",
                        world.hosts[*host].name
                    ));
                }
                *newest = term;
                Ok(())
            }
            Observation::Called { host, uuid, call: Call::Create { xml }, done: true } => {
                let generation = mark::in_domain(xml).map_or(0, |mark| mark.generation);
                if let Some(ledger) = self.asked.get(&(*host, *uuid, generation)) {
                    self.started.insert((*host, *ledger, *uuid, generation));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Whether some control plane has committed a start of the VM with that number.
fn was_committed(world: &World, uuid: Uuid, generation: u64) -> bool {
    world.planes.iter().any(|plane| {
        let before = numbers_after(plane.state.epoch);
        let Some(index) = generation.checked_sub(before) else { return false };
        let command =
            usize::try_from(index).ok().and_then(|index| plane.log.get(index.checked_sub(1)?));
        let name = plane.state.vm_by_uuid.get(&uuid);
        command.is_some_and(|command| match &command.operation {
            Operation::Decide { vm, decision: Decision::Start { .. }, .. } => {
                // A VM that was forgotten meanwhile is known by its name only.
                name.is_none_or(|name| name == vm)
            }
            // A member of a service starts by its service's decision.
            Operation::DecideService { decision: ServiceDecision::StartMember { .. }, .. } => true,
            _ => false,
        })
    })
}
