//! Nothing is brought to life on a node whose lease does not hold.

use agent::hypervisor::call::Call;

use super::{Invariant, Observation};
use crate::sim::World;

pub(super) struct NothingBeginsWithoutLease;

impl Invariant for NothingBeginsWithoutLease {
    fn name(&self) -> &'static str {
        "nothing-begins-without-lease"
    }

    fn see(&mut self, world: &World, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::Call { host, uuid, call } = observation else { return Ok(()) };
        if !matches!(call, Call::Create { .. } | Call::Migrate(_) | Call::Resume) {
            return Ok(());
        }
        let host = &world.hosts[*host];
        let now = host.reading(world.now);
        match &host.agent {
            Some(agent) if !agent.core.lease().holds(now) => {
                Err(format!("{} of {uuid} on {}, whose lease is over", call.as_str(), host.name))
            }
            _ => Ok(()),
        }
    }
}
