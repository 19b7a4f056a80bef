//! VMs that have their node for themselves: RGManager's `exclusive`, with its priorities.
//!
//! An exclusive VM goes where no other VM of the cluster is, and no other goes where it is. Where no node is free it may
//! take the node of an exclusive VM with a higher number, which goes elsewhere: RGManager reference, section 6.2.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::ClusterState;
use crate::command::{Decision, MoveCause};
use crate::id::{NodeId, VmName};
use crate::liveness::Liveness;
use crate::plan::load::Load;
use crate::plan::placement;
use crate::vm::{Desired, VmRecord, VmState};

/// Who is on each node, as far as that matters here.
#[derive(Debug, Clone, Default)]
pub(super) struct Tenants {
    count: BTreeMap<NodeId, u32>,
    exclusive: BTreeMap<NodeId, BTreeMap<VmName, u32>>,
}

impl Tenants {
    pub(super) fn add(&mut self, node: NodeId, record: &VmRecord) {
        *self.count.entry(node).or_default() += 1;
        if record.spec.policy.exclusive > 0 {
            let tenants = self.exclusive.entry(node).or_default();
            tenants.insert(record.spec.name.clone(), record.spec.policy.exclusive);
        }
    }

    pub(super) fn remove(&mut self, node: NodeId, record: &VmRecord) {
        if let Some(count) = self.count.get_mut(&node) {
            *count = count.saturating_sub(1);
        }
        if let Some(tenants) = self.exclusive.get_mut(&node) {
            tenants.remove(&record.spec.name);
        }
    }

    /// Why a node that could take the VM otherwise cannot, for one of them wants to be alone.
    pub(super) fn refusal(&self, node: NodeId, record: &VmRecord) -> Option<String> {
        let others = self.exclusive.get(&node).into_iter().flatten();
        let mut others = others.filter(|(name, _)| **name != record.spec.name);
        if let Some((name, _)) = others.next() {
            return Some(format!("{name} is exclusive and has it for itself"));
        }
        let others = self.others(node, record);
        (record.spec.policy.exclusive > 0 && others > 0)
            .then(|| format!("it is exclusive, and other VMs are there ({others})"))
    }

    fn others(&self, node: NodeId, record: &VmRecord) -> u32 {
        let counted = record.owner == Some(node) || record.seen.contains_key(&node);
        self.count.get(&node).copied().unwrap_or(0).saturating_sub(u32::from(counted))
    }

    /// The one VM on a node, if it is exclusive with a number above `priority`.
    fn outranked(&self, node: NodeId, priority: u32) -> Option<&VmName> {
        if self.count.get(&node) != Some(&1) {
            return None;
        }
        let (name, number) = self.exclusive.get(&node)?.first_key_value()?;
        (*number > priority).then_some(name)
    }

    /// Whether an exclusive VM has to leave a node that it shares: all others count, of exclusive ones those that come
    /// first.
    pub(super) fn must_leave(&self, node: NodeId, record: &VmRecord) -> bool {
        let exclusive = self.exclusive.get(&node).into_iter().flatten();
        let after = exclusive
            .filter(|(name, number)| {
                (**number, *name) > (record.spec.policy.exclusive, &record.spec.name)
            })
            .count() as u32;
        record.spec.policy.exclusive > 0 && self.others(node, record) > after
    }
}

/// The VM that makes room for an exclusive one for which no node is free, and what is decided about it.
pub(super) fn displace(
    state: &ClusterState,
    liveness: &Liveness,
    load: &Load,
    record: &VmRecord,
) -> Option<(VmName, u64, Decision)> {
    let priority = record.spec.policy.exclusive;
    if priority == 0 {
        return None;
    }
    let none = BTreeSet::new();
    let mut outranked: Vec<(u32, NodeId, &VmRecord)> = state
        .nodes
        .keys()
        .filter_map(|node| {
            let victim = state.vms.get(load.tenants.outranked(*node, priority)?)?;
            let settled = victim.state == VmState::Started
                && victim.desired == Desired::Enabled
                && victim.owner == Some(*node)
                && victim.order.is_none()
                && victim.frozen.is_none();
            settled.then_some((victim.spec.policy.exclusive, *node, &**victim))
        })
        .collect();
    // The least important gives way first.
    outranked.sort_by_key(|(number, node, _)| (std::cmp::Reverse(*number), *node));
    outranked.into_iter().find_map(|(_, node, victim)| {
        let mut without = load.clone();
        without.remove(node, victim);
        let takes = placement::candidates(state, liveness, &without, record, &none)
            .into_iter()
            .find(|candidate| candidate.node == node)
            .is_some_and(|candidate| candidate.refused.is_none());
        let name = &record.spec.name;
        let why = format!("{name} is exclusive and comes first ({priority})");
        let here = BTreeSet::from([node]);
        let elsewhere = placement::place(state, liveness, load, victim, &here).ok();
        let (to, mode) = match elsewhere {
            Some(place) if victim.spec.cannot_migrate().is_none() => {
                (place.node, Some(victim.spec.policy.migration))
            }
            _ => (node, None),
        };
        let cause = MoveCause::Exclusive;
        let decision = Decision::Move { from: node, to, mode, cause, why };
        takes.then(|| (victim.spec.name.clone(), victim.changed, decision))
    })
}
