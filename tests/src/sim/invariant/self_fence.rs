//! When its lease is over, an agent that can act stops every guest that the lease binds, in time; and it does not feed its
//! watchdog as long as one runs.

use std::collections::BTreeMap;

use model::vm::{OnIsolation, Presence, VmRecord};
use uuid::Uuid;

use super::{Invariant, Observation};
use crate::sim::World;

/// Calls take a moment, and the agent looks every so often.
const GRACE_MS: u64 = 500;
/// A guest that somebody lets run again is known of within this.
const UNSEEN_MS: u64 = 100;

#[derive(Default)]
pub(super) struct SelfFenceInTime {
    /// By host and VM: which agent could have acted since when, and whether it waits to hear what is there.
    exposed: BTreeMap<(usize, Uuid), (u64, u64, bool)>,
}

/// The guests of a host that may run only while its lease holds: not stopped, or about to come to life.
fn bound(world: &World, host: usize) -> Vec<Uuid> {
    let truth = world.truth();
    let machine = world.hosts[host].hypervisor.machine();
    let stopped = |presence| matches!(presence, Presence::Paused | Presence::Suspended);
    // Of one that was forgotten only its agent still knows what it was told.
    let agent = world.hosts[host].agent.as_ref();
    let told = |uuid: &Uuid| agent.and_then(|agent| agent.core.ledger().entry(*uuid));
    let node = truth.nodes.values().find(|node| node.name.as_str() == world.hosts[host].name);
    let present =
        |record: &&std::sync::Arc<VmRecord>| node.is_some_and(|node| record.owner == Some(node.id));
    // The lease proves nothing of a copy that is not the present one.
    let runs_on = |uuid: &Uuid| match truth.vm_with_uuid(uuid).filter(present) {
        Some(record) => record.outlives_lease(),
        None => told(uuid).is_some_and(|it| it.on_isolation == OnIsolation::Continue),
    };
    machine
        .domains
        .iter()
        .filter(|(_, domain)| domain.mark.is_some() && !domain.outside)
        .filter(|(uuid, domain)| !stopped(domain.presence) && !runs_on(uuid))
        .map(|(uuid, _)| *uuid)
        .collect()
}

fn lease_is_over(world: &World, host: usize) -> bool {
    let host = &world.hosts[host];
    let now = host.reading(world.now);
    host.agent.as_ref().is_some_and(|agent| !agent.core.lease().holds(now))
}

impl SelfFenceInTime {
    fn look(&mut self, world: &World, number: usize) -> Result<(), String> {
        let host = &world.hosts[number];
        let able = host.on
            && !host.stands_still(world.now)
            && host.agent_stalled_until <= world.now
            && host.agent.as_ref().is_some_and(|agent| agent.core.knows_inventory());
        if !able || !lease_is_over(world, number) {
            self.exposed.retain(|(host, _), _| *host != number);
            return Ok(());
        }
        let bound = bound(world, number);
        self.exposed.retain(|(host, uuid), _| *host != number || bound.contains(uuid));
        for uuid in bound {
            let awaits = host.agent.as_ref().is_some_and(|agent| agent.core.awaits(uuid));
            let present = (host.incarnation, world.now, awaits);
            let since = self.exposed.entry((number, uuid)).or_insert(present);
            if (since.0, since.2) != (present.0, present.2) {
                *since = present;
            }
            let self_fence = world.truth().settings.self_fence_ms;
            let limit = match world.hosts[number].watchdog {
                _ if !awaits => self_fence,
                // It knows that something is there and not what: it can only starve its watchdog.
                Some(watchdog) if watchdog.fed.is_some() => self_fence.max(watchdog.timeout_ms),
                // And where none is armed the lease proves nothing.
                Some(_) | None => continue,
            } + GRACE_MS;
            if world.now > since.1 + limit {
                return Err(format!(
                    "{uuid} runs on {} {} ms after the lease was over",
                    host.name,
                    world.now - since.1
                ));
            }
        }
        Ok(())
    }
}

impl Invariant for SelfFenceInTime {
    fn name(&self) -> &'static str {
        "self-fence-in-time"
    }

    fn see(&mut self, world: &World, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Step => {
                (0..world.hosts.len()).try_for_each(|number| self.look(world, number))
            }
            Observation::Fed { host } if lease_is_over(world, *host) => {
                let seen = |uuid: &&Uuid| {
                    let since = self.exposed.get(&(*host, **uuid));
                    since.is_some_and(|(_, since, _)| world.now > since + UNSEEN_MS)
                };
                match bound(world, *host).iter().find(seen) {
                    Some(uuid) => Err(format!(
                        "the watchdog of {} is fed while {uuid} runs there without a lease",
                        world.hosts[*host].name
                    )),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
