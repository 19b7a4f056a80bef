//! A member of a service is not started while another node may run it, and what starts it was committed.

use std::collections::BTreeSet;

use agent::script::call::Action;
use model::ClusterState;
use model::command::{Operation, ServiceDecision};
use model::id::{NodeId, VmName};
use model::service::ServiceRecord;
use model::vm::OrderIntent;

use super::{Invariant, Observation};
use crate::sim::World;

pub(super) struct MembersBeginAlone;

impl Invariant for MembersBeginAlone {
    fn name(&self) -> &'static str {
        "members-begin-alone"
    }

    fn see(&mut self, world: &World, observation: &Observation<'_>) -> Result<(), String> {
        match observation {
            Observation::Committed { command, outcome: Ok(_), before, after, .. } => {
                let Operation::DecideService { service, decision, .. } = &command.operation else {
                    return Ok(());
                };
                let (Some(old), Some(new)) =
                    (before.services.get(service), after.services.get(service))
                else {
                    return Ok(());
                };
                let Some(owner) = new.owner else { return Ok(()) };
                let set = match decision {
                    ServiceDecision::Begin { .. } => all_of(before, old),
                    ServiceDecision::StartMember { member } => {
                        match old.spec.member(member).and_then(|member| member.vm()) {
                            None => old.may_run.keys().copied().collect(),
                            // One that runs elsewhere is left to run there, and what is under way with it is not begun by this.
                            Some(vm) if !starts(after, vm) || starts(before, vm) => BTreeSet::new(),
                            Some(vm) => before
                                .vms
                                .get(vm)
                                .map(|vm| vm.may_run.keys().copied().collect())
                                .unwrap_or_default(),
                        }
                    }
                    _ => return Ok(()),
                };
                match set.iter().find(|node| **node != owner) {
                    None => Ok(()),
                    Some(other) => Err(format!(
                        "{decision:?} of {service} on {}, and {} may run it",
                        after.node_name(owner),
                        after.node_name(*other)
                    )),
                }
            }
            Observation::ScriptRuns { host, call } if call.action == Action::Start => {
                let Some(agent) = &world.hosts[*host].agent else { return Ok(()) };
                let now = world.hosts[*host].reading(world.now);
                match agent.core.lease().holds(now) {
                    true => Ok(()),
                    false => Err(format!(
                        "{} starts {} of {} without a lease",
                        world.hosts[*host].name, call.member, call.service_name
                    )),
                }
            }
            _ => Ok(()),
        }
    }
}

/// An order to start it is out.
fn starts(state: &ClusterState, vm: &VmName) -> bool {
    let order = state.vms.get(vm).and_then(|vm| vm.order.as_ref());
    order.is_some_and(|order| matches!(order.intent, OrderIntent::Start))
}

/// Wherever anything of a service may be running.
fn all_of(state: &ClusterState, record: &ServiceRecord) -> BTreeSet<NodeId> {
    let vms = record.spec.vms().filter_map(|vm| state.vms.get(vm));
    vms.flat_map(|vm| vm.may_run.keys()).chain(record.may_run.keys()).copied().collect()
}
