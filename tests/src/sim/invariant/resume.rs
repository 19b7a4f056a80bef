//! Only what Berth itself stopped is resumed, and only at the present generation.

use agent::hypervisor::call::Call;

use super::{Invariant, Observation};
use crate::sim::World;
use crate::sim::host::PausedBy;

pub(super) struct OnlyOwnIsResumed;

impl Invariant for OnlyOwnIsResumed {
    fn name(&self) -> &'static str {
        "only-own-is-resumed"
    }

    fn see(&mut self, world: &World, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::Call { host, uuid, call: Call::Resume } = observation else {
            return Ok(());
        };
        let place = &world.hosts[*host].name;
        let machine = world.hosts[*host].hypervisor.machine();
        let Some(domain) = machine.domains.get(uuid) else { return Ok(()) };
        if domain.paused_by == Some(PausedBy::Outsider) {
            return Err(format!("{place} resumes {uuid}, which somebody else stopped"));
        }
        if !domain.ran {
            // The last step of its start, which is looked at elsewhere.
            return Ok(());
        }
        let truth = world.truth();
        let epoch = world.hosts[*host].agent.as_ref().map(|agent| agent.core.ledger().epoch());
        if epoch != Some(truth.epoch.0) {
            // On the word of the control plane before; what of it may be done is looked at elsewhere.
            return Ok(());
        }
        let generation = domain.mark.map(|mark| mark.generation);
        match truth.vm_with_uuid(uuid) {
            Some(record) if generation != Some(record.generation.0) => Err(format!(
                "{place} resumes {} at {generation:?}, and the present one is {}",
                record.spec.name, record.generation
            )),
            _ => Ok(()),
        }
    }
}
