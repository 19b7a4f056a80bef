//! What placement rules say of one VM's places now.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::ClusterState;
use crate::id::{NodeId, VmName};
use crate::node::NodeRecord;
use crate::plan::load::Load;
use crate::vm::{Desired, VmRecord};

/// What placement rules say of one VM.
#[derive(Debug, Default)]
pub(super) struct Ruling {
    /// Where those are that it is to be with, and one of them; `None` where none of them is anywhere that serves.
    anchor: Option<(NodeId, VmName)>,
    /// Where it may not be, and for whose sake.
    barred: BTreeMap<NodeId, (VmName, String)>,
    /// Restricted failover domains that bind it through those it is to be with.
    through: Vec<VmName>,
    /// Memory that those need besides that come with it, in MiB.
    besides_mib: i64,
}

impl Ruling {
    pub(super) fn of(state: &ClusterState, load: &Load, record: &VmRecord) -> Self {
        let rules = load.rules();
        let name = &record.spec.name;
        if !rules.names(name) {
            return Self::default();
        }
        let mut barred = BTreeMap::new();
        for (foe, rule) in rules.foes(name) {
            for node in load.places(foe) {
                barred.entry(node).or_insert_with(|| (foe.clone(), rule.to_string()));
            }
        }
        let Some(group) = rules.group(name) else { return Self { barred, ..Self::default() } };
        let anchor = anchor(state, load, group, name);
        // Those that are nowhere yet come to where the first of them goes, and so do those whose node is to be empty.
        let besides_mib = match anchor {
            Some(_) => 0,
            None => group
                .iter()
                .filter(|other| *other != name)
                .filter_map(|other| state.vms.get(other))
                .filter(|other| other.desired == Desired::Enabled)
                .map(|other| other.spec.memory_mib as i64)
                .sum(),
        };
        let through = group.iter().filter(|other| *other != name).cloned().collect();
        Self { anchor, barred, through, besides_mib }
    }

    /// Why the node cannot take it by the rules.
    pub(super) fn refuses(
        &self,
        state: &ClusterState,
        node: &NodeRecord,
        free_memory_mib: i64,
    ) -> Option<String> {
        if let Some((anchor, with)) = &self.anchor
            && *anchor != node.id
        {
            let place = state.node_name(*anchor);
            return Some(format!("a placement rule keeps it with {with}, which is on {place}"));
        }
        if let Some((foe, rule)) = self.barred.get(&node.id) {
            return Some(format!("placement rule {rule} keeps it apart from {foe}"));
        }
        let bars = |other: &&VmName| {
            let record = state.vms.get(*other);
            let domain = record.and_then(|it| it.spec.policy.failover_domain.as_ref());
            let domain = domain.and_then(|domain| state.failover_domains.get(domain));
            domain.is_some_and(|domain| domain.rank(&node.name).is_none())
        };
        if let Some(other) = self.through.iter().find(bars) {
            return Some(format!(
                "{other}, which a placement rule keeps with it, is restricted to other nodes"
            ));
        }
        (self.besides_mib > 0 && self.besides_mib > free_memory_mib).then(|| {
            format!(
                "{free_memory_mib} MiB are free, and those that are kept with it need {} MiB besides",
                self.besides_mib
            )
        })
    }

    /// Why it may not stay on a node where it is.
    pub(super) fn ousts(&self, state: &ClusterState, node: NodeId) -> Option<String> {
        if let Some((anchor, with)) = &self.anchor
            && *anchor != node
        {
            let place = state.node_name(*anchor);
            return Some(format!("a placement rule keeps it with {with}, which is on {place}"));
        }
        let (foe, rule) = self.barred.get(&node)?;
        Some(format!("placement rule {rule} keeps it apart from {foe}"))
    }
}

/// Where most of a group are, among nodes that serve; of equals the one whose first member comes first, counting the VM
/// itself, so that all of the group find the same.
fn anchor(
    state: &ClusterState,
    load: &Load,
    group: &BTreeSet<VmName>,
    own: &VmName,
) -> Option<(NodeId, VmName)> {
    let mut there: BTreeMap<NodeId, Vec<&VmName>> = BTreeMap::new();
    for vm in group {
        let asked =
            state.vms.get(vm).and_then(|it| it.open_operation()).and_then(|it| it.verb.target());
        // One that is to be brought somewhere counts as there: the others follow it.
        let places: Vec<NodeId> = match asked {
            Some(to) => vec![to],
            None => load.places(vm).collect(),
        };
        for node in places {
            if state.nodes.get(&node).is_some_and(|node| node.serves()) {
                there.entry(node).or_default().push(vm);
            }
        }
    }
    let best = there.into_iter().max_by(|(_, one), (_, other)| {
        one.len().cmp(&other.len()).then_with(|| other.first().cmp(&one.first()))
    });
    let (node, vms) = best?;
    // Where it is alone it may go anywhere: the others come to it.
    let other = vms.into_iter().find(|vm| *vm != own)?;
    Some((node, other.clone()))
}
