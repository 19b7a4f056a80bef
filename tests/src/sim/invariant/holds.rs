//! A copy that self-fence has suspended is not kept for ever: when its hold is over it is destroyed.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Invariant, Observation};
use crate::sim::World;
use crate::sim::host::PausedBy;

/// To look, to call libvirt, and to kill where it does not answer.
const GRACE_MS: u64 = 3_000;

#[derive(Default)]
pub(super) struct HoldsEnd {
    /// By host and VM: which agent has kept it suspended without a lease since when.
    kept: BTreeMap<(usize, Uuid), (u64, u64)>,
}

impl Invariant for HoldsEnd {
    fn name(&self) -> &'static str {
        "holds-end"
    }

    fn see(&mut self, world: &World, observation: &Observation<'_>) -> Result<(), String> {
        if !matches!(observation, Observation::Step) {
            return Ok(());
        }
        for (number, host) in world.hosts.iter().enumerate() {
            let reading = host.reading(world.now);
            let able = host.on
                && !host.stands_still(world.now)
                && host.agent_stalled_until <= world.now
                && host.libvirt_stalled_until <= world.now
                && host.slow_until <= world.now;
            // Only an agent that was given a session knows how long it is to keep them.
            let isolated = host.agent.as_ref().is_some_and(|agent| {
                agent.core.session().is_some() && !agent.core.lease().holds(reading)
            });
            if !able || !isolated {
                self.kept.retain(|(host, _), _| *host != number);
                continue;
            }
            let held: Vec<Uuid> = {
                let machine = host.hypervisor.machine();
                let down = machine.libvirt_down;
                let suspended = machine.domains.iter().filter(|(_, domain)| {
                    !down && domain.paused_by == Some(PausedBy::Agent) && domain.mark.is_some()
                });
                suspended.map(|(uuid, _)| *uuid).collect()
            };
            self.kept.retain(|(host, uuid), _| *host != number || held.contains(uuid));
            for uuid in held {
                let of = (host.incarnation, world.now);
                let since = self.kept.entry((number, uuid)).or_insert(of);
                if since.0 != host.incarnation {
                    *since = of;
                }
                let hold = world.truth().settings.isolation_hold_ms;
                // The host's clock may run a little slower than true time.
                if world.now > since.1 + hold + hold / 5 + GRACE_MS {
                    return Err(format!(
                        "{uuid} is still suspended on {} after {} ms, and its hold is {hold} ms",
                        host.name,
                        world.now - since.1
                    ));
                }
            }
        }
        Ok(())
    }
}
