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
    /// By host and VM: since when it is kept suspended without a lease.
    kept: BTreeMap<(usize, Uuid), u64>,
    /// By host: which agent is there, in which session, since when. It needs a moment to find out what it is to end, and when.
    agents: BTreeMap<usize, ((u64, Option<u64>), u64)>,
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
            let isolated =
                host.agent.as_ref().is_none_or(|agent| !agent.core.lease().holds(reading));
            if !able || !isolated {
                self.kept.retain(|(host, _), _| *host != number);
                continue;
            }
            // While no agent is there nobody ends a hold, and it goes on all the same.
            let Some(agent) = &host.agent else { continue };
            let present = (host.incarnation, agent.core.session().map(|it| it.session));
            let here = self.agents.entry(number).or_insert((present, world.now));
            if here.0 != present {
                *here = (present, world.now);
            }
            let here = here.1;
            // It goes by what was said last, if it has not lost that.
            let hold = agent.core.ledger().terms().hold_ms;
            // By the lease alone nothing of what outlives it is started elsewhere, and so nothing waits for the end of its hold.
            let truth = world.truth();
            let outlives =
                |uuid: &Uuid| truth.vm_with_uuid(uuid).is_some_and(|it| it.outlives_lease());
            let held: Vec<Uuid> = {
                let machine = host.hypervisor.machine();
                let down = machine.libvirt_down;
                let suspended = machine.domains.iter().filter(|(_, domain)| {
                    !down && domain.paused_by == Some(PausedBy::Agent) && domain.mark.is_some()
                });
                suspended.map(|(uuid, _)| *uuid).filter(|it| !outlives(it)).collect()
            };
            self.kept.retain(|(host, uuid), _| *host != number || held.contains(uuid));
            for uuid in held {
                let since = *self.kept.entry((number, uuid)).or_insert(world.now);
                // The host's clock may run a little slower than true time.
                if world.now > (since + hold + hold / 5).max(here) + GRACE_MS {
                    return Err(format!(
                        "{uuid} is still suspended on {} after {} ms, and its hold is {hold} ms",
                        host.name,
                        world.now - since
                    ));
                }
            }
        }
        Ok(())
    }
}
