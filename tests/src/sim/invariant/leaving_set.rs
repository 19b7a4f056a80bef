//! A node leaves a VM's may-run set by its agent's word, given knowing of the entry, or by proof of its death; and a dead
//! target of a migration stays until the source has given up.

use model::ClusterState;
use model::command::{Decision, Operation, Report};
use model::id::NodeId;
use model::node::NodeState;
use model::vm::{OrderIntent, VmRecord};

use super::{Invariant, Observation};
use crate::sim::World;

pub(super) struct SetIsLeftLawfully;

impl Invariant for SetIsLeftLawfully {
    fn name(&self) -> &'static str {
        "set-is-left-lawfully"
    }

    fn see(&mut self, _world: &World, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::Committed { command, outcome: Ok(_), before, after, .. } = observation
        else {
            return Ok(());
        };
        if before.restoring {
            return Ok(());
        }
        for old in before.vms.values() {
            let Some(new) = after.vms.get(&old.spec.name) else { continue };
            for node in old.may_run.keys().filter(|node| !new.may_run.contains_key(node)) {
                if !lawful(before, old, *node, &command.operation) {
                    return Err(format!(
                        "{} left the set of {} by {:?}",
                        before.node_name(*node),
                        old.spec.name,
                        command.operation
                    ));
                }
            }
        }
        Ok(())
    }
}

fn lawful(before: &ClusterState, vm: &VmRecord, node: NodeId, operation: &Operation) -> bool {
    match operation {
        Operation::Report { node: by, reports, .. } if *by == node => {
            reports.iter().any(|report| is_absent(vm, node, report))
        }
        // The source gave up, and the target is dead.
        Operation::Report { reports, .. } => {
            let dead = before
                .nodes
                .get(&node)
                .is_some_and(|node| matches!(node.state, NodeState::Dead(_)));
            dead && reports.iter().any(|report| matches!(report, Report::OrderDone { .. }))
        }
        Operation::NodeDead { node: dead, .. } if *dead == node => !awaited(vm, node),
        Operation::Register(registration) => {
            let known = before.node_named(&registration.name).map(|node| node.id);
            known == Some(node) && !awaited(vm, node)
        }
        Operation::ConfirmOff { node: name, .. } => {
            before.node_named(name).map(|node| node.id) == Some(node) && !awaited(vm, node)
        }
        Operation::Decide { decision: Decision::Start { node: target, .. }, .. } => *target == node,
        _ => false,
    }
}

/// A migration to it may still be carried out.
fn awaited(vm: &VmRecord, node: NodeId) -> bool {
    vm.order.as_ref().is_some_and(
        |order| matches!(order.intent, OrderIntent::Migrate { to, .. } if to == node && order.node != node),
    )
}

fn is_absent(vm: &VmRecord, node: NodeId, report: &Report) -> bool {
    match report {
        Report::Absent { uuid, floor, .. } => {
            *uuid == vm.spec.uuid
                && vm.may_run.get(&node).is_some_and(|entry| *floor >= entry.since)
        }
        Report::OrderDone { uuid, order, error: None } => {
            *uuid == vm.spec.uuid
                && vm.order.as_ref().is_some_and(|out| {
                    out.id == *order
                        && out.node == node
                        && matches!(out.intent, OrderIntent::Stop { .. } | OrderIntent::Evict)
                })
        }
        _ => false,
    }
}
