//! In the end, when nothing goes wrong any more: all replicas are equal, and every VM is as it is wanted or there is a
//! reason.

use model::vm::{Desired, VmState};

use uuid::Uuid;

use crate::sim::World;
use crate::sim::host::PausedBy;

/// What somebody stopped by hand is theirs to let run.
fn paused_by_somebody(world: &World, host: usize, uuid: Uuid) -> bool {
    let machine = world.hosts[host].hypervisor.machine();
    machine.domains.get(&uuid).is_some_and(|it| it.paused_by == Some(PausedBy::Outsider))
}

/// What is still not as it should be; `None` when all is.
pub fn converged(world: &World) -> Option<String> {
    let plane = world.planes.len() - 1;
    if !world.has_leader(plane) {
        return Some("there is no leader".into());
    }
    let truth = world.truth();
    for number in &world.planes[plane].members {
        let replica = &world.replicas[*number];
        if replica.state != *truth {
            return Some(format!("replica {number} is another than the log says"));
        }
    }
    let leader = world.planes[plane].leader.map(|leader| &world.replicas[leader]);
    let reasons = leader.and_then(|leader| leader.leading.as_ref()).map(|it| &it.reasons);
    if world.migrating() {
        return Some("a migration is under way".into());
    }
    for record in truth.vms.values() {
        let name = record.spec.name.to_string();
        let copies = world.copies(record.spec.uuid);
        let reason = reasons.and_then(|reasons| reasons.get(&record.spec.name));
        let owner = record.owner.map(|owner| truth.node_name(owner));
        if record.order.is_some() {
            return Some(format!("an order for {name} is out: {:?}", record.order));
        }
        match (record.desired, record.state) {
            (Desired::Enabled, VmState::Started) => {
                let there = copies.as_slice();
                let right = matches!(there, [(host, presence)]
                    if Some(&world.hosts[*host].name) == owner.as_ref()
                        && (*presence == model::vm::Presence::Running
                            || paused_by_somebody(world, *host, record.spec.uuid)));
                if !right {
                    return Some(format!("{name} is started on {owner:?}, and there is {there:?}"));
                }
            }
            // Nothing is done about it.
            (Desired::Ignored, _) => {}
            // A conflict and a lost VM are the operator's, and both say so.
            (_, VmState::Conflict | VmState::Lost | VmState::Failed) => {}
            (Desired::Enabled, state) => {
                if !reason.is_some_and(model::plan::Reason::is_stuck) {
                    return Some(format!("{name} is {}: {reason:?}", state.as_str()));
                }
            }
            (Desired::Stopped | Desired::Disabled, VmState::Stopped | VmState::Disabled) => {}
            (Desired::Stopped | Desired::Disabled, state) => {
                return Some(format!(
                    "{name} is {}, and is to be down: {reason:?}",
                    state.as_str()
                ));
            }
        }
    }
    None
}
