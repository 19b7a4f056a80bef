//! In the end, when nothing goes wrong any more: all replicas are equal, and every VM is as it is wanted or there is a
//! reason.

use model::ClusterState;
use model::plan::Reason;
use model::service::{MemberMode, ServiceRecord, ServiceState};
use model::vm::{Desired, VmState};
use uuid::Uuid;

use crate::sim::World;
use crate::sim::host::PausedBy;

/// What somebody stopped by hand is theirs to let run.
fn paused_by_somebody(world: &World, host: usize, uuid: Uuid) -> bool {
    let machine = world.hosts[host].hypervisor.machine();
    machine.domains.get(&uuid).is_some_and(|it| it.paused_by == Some(PausedBy::Outsider))
}

/// So many rounds over all nodes in vain are for the operator to look at: settings of his contradict each other. The wait
/// before the next has grown to minutes by then, and it says what each of them came to.
const ROUNDS_IN_VAIN: u32 = 4;

/// It says why it does not run, and nobody would see it run soon.
fn is_given(reason: &Reason, rounds: Option<u32>) -> bool {
    let in_vain = rounds.is_some_and(|rounds| rounds >= ROUNDS_IN_VAIN);
    reason.is_stuck() || (in_vain && matches!(reason, Reason::WaitingUntil { .. }))
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
    let services = leader.and_then(|leader| leader.leading.as_ref()).map(|it| &it.services);
    for record in truth.services.values() {
        let reason = services.and_then(|services| services.get(&record.spec.name));
        if let Some(why) = service(world, &truth, record, reason) {
            return Some(why);
        }
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
            // Its service says why.
            (Desired::Enabled, _) if matches!(reason, Some(Reason::Member { .. })) => {}
            (Desired::Enabled, state) => {
                if !reason
                    .is_some_and(|it| is_given(it, record.failure.as_ref().map(|it| it.rounds)))
                {
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

/// What is not as it should be with a service.
fn service(
    world: &World,
    truth: &ClusterState,
    record: &ServiceRecord,
    reason: Option<&Reason>,
) -> Option<String> {
    let name = &record.spec.name;
    if record.order.is_some() {
        return Some(format!("an order for service {name} is out: {:?}", record.order));
    }
    match (record.desired, record.state) {
        // The operator's, and it says so.
        (_, ServiceState::Failed) => None,
        (Desired::Enabled, ServiceState::Started) => {
            let owner = record.owner.map(|owner| truth.node_name(owner))?;
            let host = world.hosts.iter().find(|host| host.name == owner)?;
            let wanted = record.spec.scripts().filter(|(member, _)| {
                record.members.get(*member).is_some_and(|it| it.mode == MemberMode::Keep)
            });
            let mut down =
                wanted.filter(|(_, script)| !host.scripts.contains(script.program.what()));
            match (down.next(), reason) {
                // What is down besides waits for the operator too.
                (_, Some(reason)) if reason.is_stuck() => None,
                (Some((member, _)), _) => {
                    Some(format!("{member} of {name} is to be up on {owner}, and is not"))
                }
                // All of it runs; it may be better off elsewhere, and there in time.
                (
                    None,
                    Some(
                        Reason::AsWanted
                        | Reason::MemberElsewhere { .. }
                        | Reason::FailbackWaits { .. },
                    ),
                ) => None,
                (None, reason) => member_stuck(truth, record)
                    .is_none()
                    .then(|| format!("service {name} is started: {reason:?}")),
            }
        }
        (Desired::Enabled, state) => {
            let stuck = reason
                .is_some_and(|it| is_given(it, record.failure.as_ref().map(|it| it.rounds)))
                || member_stuck(truth, record).is_some();
            (!stuck).then(|| format!("service {name} is {}: {reason:?}", state.as_str()))
        }
        (_, ServiceState::Stopped | ServiceState::Disabled) => None,
        (_, state) => {
            Some(format!("service {name} is {}, and is to be down: {reason:?}", state.as_str()))
        }
    }
}

/// A VM of it that only an operator can help.
fn member_stuck(truth: &ClusterState, record: &ServiceRecord) -> Option<()> {
    let mut vms = record.spec.vms().filter_map(|vm| truth.vms.get(vm));
    vms.any(|vm| matches!(vm.state, VmState::Conflict | VmState::Lost | VmState::Failed))
        .then_some(())
}
