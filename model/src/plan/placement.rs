//! Which node: by failover domain if there is one, and by free memory and processors otherwise. One total order, no
//! ties, no chance.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::ClusterState;
use crate::failover_domain::Rank;
use crate::id::NodeId;
use crate::liveness::Liveness;
use crate::node::{NodeRecord, NodeState};
use crate::plan::exclusive::Tenants;
use crate::vm::{OnIsolation, VmRecord};

/// What is taken of each node, by VMs that may run there and by other domains.
#[derive(Debug, Clone, Default)]
pub struct Load {
    memory_mib: BTreeMap<NodeId, u64>,
    vcpus: BTreeMap<NodeId, u64>,
    pub(super) tenants: Tenants,
}

impl Load {
    /// Counted from the whole state.
    pub fn of(state: &ClusterState) -> Self {
        let mut load = Self::default();
        for record in
            state.vms.values().filter(|record| record.owner.is_some() || !record.seen.is_empty())
        {
            let places: BTreeSet<_> = record
                .may_run
                .keys()
                .filter(|node| record.owner == Some(**node) || record.seen.contains_key(node))
                .collect();
            for node in places {
                load.add(*node, record);
            }
            if let Some(target) = record.migration_target() {
                load.add(target, record);
            }
        }
        for node in state.nodes.values() {
            let others: u64 = node
                .unmanaged
                .values()
                .filter(|domain| domain.presence.is_some())
                .map(|domain| domain.memory_mib)
                .sum();
            *load.memory_mib.entry(node.id).or_default() += others;
        }
        load
    }

    /// Counts one more VM on a node, so that the next placement of the same plan sees it.
    pub fn add(&mut self, node: NodeId, record: &VmRecord) {
        *self.memory_mib.entry(node).or_default() += record.spec.memory_mib;
        *self.vcpus.entry(node).or_default() += u64::from(record.spec.vcpus);
        self.tenants.add(node, record);
    }

    /// Counts one VM less on a node: what would be if it went.
    pub(super) fn remove(&mut self, node: NodeId, record: &VmRecord) {
        if let Some(memory) = self.memory_mib.get_mut(&node) {
            *memory = memory.saturating_sub(record.spec.memory_mib);
        }
        if let Some(vcpus) = self.vcpus.get_mut(&node) {
            *vcpus = vcpus.saturating_sub(u64::from(record.spec.vcpus));
        }
        self.tenants.remove(node, record);
    }

    /// Memory taken of a node, in MiB.
    pub fn used_memory_mib(&self, node: NodeId) -> u64 {
        self.memory_mib.get(&node).copied().unwrap_or(0)
    }

    /// Virtual processors on a node.
    pub fn used_vcpus(&self, node: NodeId) -> u64 {
        self.vcpus.get(&node).copied().unwrap_or(0)
    }

    fn free_memory_mib(&self, node: &NodeRecord) -> i64 {
        node.capacity.memory_mib as i64 - self.used_memory_mib(node.id) as i64
    }

    fn free_vcpus(&self, node: &NodeRecord) -> i64 {
        i64::from(node.capacity.cpus) - self.used_vcpus(node.id) as i64
    }
}

/// One node, weighed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Its place in the VM's failover domain.
    pub rank: Option<Rank>,
    /// Memory left before the VM comes.
    pub free_memory_mib: i64,
    /// Processors left before the VM comes; below zero where they are shared.
    pub free_vcpus: i64,
    /// Why it cannot take the VM.
    pub refused: Option<String>,
}

/// A place, and how it was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The best node.
    pub node: NodeId,
    /// As a sentence.
    pub why: String,
}

/// Why each node was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoPlace {
    /// Name and reason.
    pub refused: Vec<(String, String)>,
}

impl std::fmt::Display for NoPlace {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.refused.is_empty() {
            return write!(formatter, "no node is registered");
        }
        write!(formatter, "no node can take it: ")?;
        let parts: Vec<_> =
            self.refused.iter().map(|(node, why)| format!("{node}: {why}")).collect();
        write!(formatter, "{}", parts.join("; "))
    }
}

/// Every node weighed for a VM, the best first, the refused last.
pub fn candidates(
    state: &ClusterState,
    liveness: &Liveness,
    load: &Load,
    record: &VmRecord,
    avoid: &BTreeSet<NodeId>,
) -> Vec<Candidate> {
    let domain = record
        .spec
        .policy
        .failover_domain
        .as_ref()
        .and_then(|name| state.failover_domains.get(name));
    let mut candidates: Vec<Candidate> = state
        .nodes
        .values()
        .map(|node| {
            let rank = domain.map_or(Some(Rank::Member(0)), |domain| domain.rank(&node.name));
            let free_memory_mib = load.free_memory_mib(node);
            Candidate {
                node: node.id,
                name: node.name.to_string(),
                rank,
                free_memory_mib,
                free_vcpus: load.free_vcpus(node),
                refused: refusal(state, liveness, node, record, rank, free_memory_mib, avoid)
                    .or_else(|| load.tenants.refusal(node.id, record)),
            }
        })
        .collect();
    candidates.sort_by(|one, other| {
        (one.refused.is_some().cmp(&other.refused.is_some()))
            .then(one.rank.cmp(&other.rank))
            .then(other.free_memory_mib.cmp(&one.free_memory_mib))
            .then(other.free_vcpus.cmp(&one.free_vcpus))
            .then(one.name.cmp(&other.name))
    });
    candidates
}

fn refusal(
    state: &ClusterState,
    liveness: &Liveness,
    node: &NodeRecord,
    record: &VmRecord,
    rank: Option<Rank>,
    free_memory_mib: i64,
    avoid: &BTreeSet<NodeId>,
) -> Option<String> {
    if node.state != NodeState::Online {
        return Some(format!("it is {}", node.state.as_str()));
    }
    let heard = liveness.heard.get(&node.id).filter(|heard| heard.session == node.last_session);
    if heard.is_some_and(|heard| !heard.met) {
        return Some("it was not heard yet in its session".into());
    }
    let silent_ms = heard.map_or(0, |heard| heard.silent_ms);
    if silent_ms > state.settings.suspect_after_ms {
        return Some(format!("it was not heard for {silent_ms} ms"));
    }
    if record.spec.policy.on_isolation == OnIsolation::Continue && node.lock_manager.is_none() {
        return Some("it has no lock manager, and the VM runs on when its node is isolated".into());
    }
    if node.away {
        return Some("its agent is about to end".into());
    }
    if rank.is_none() {
        return Some("it is not in the restricted failover domain".into());
    }
    if avoid.contains(&node.id) {
        return Some("it was tried already".into());
    }
    let need = record.spec.memory_mib as i64;
    // What already runs there, or is counted there, needs no second room.
    let counted = record.owner == Some(node.id) || record.seen.contains_key(&node.id);
    (need > free_memory_mib && !counted)
        .then(|| format!("{free_memory_mib} MiB are free, {need} MiB are needed"))
}

/// The best node for a VM: lowest rank in its failover domain, then most free memory, then most free processors, then
/// the name.
pub fn place(
    state: &ClusterState,
    liveness: &Liveness,
    load: &Load,
    record: &VmRecord,
    avoid: &BTreeSet<NodeId>,
) -> Result<Placement, NoPlace> {
    let candidates = candidates(state, liveness, load, record, avoid);
    match candidates.first().filter(|best| best.refused.is_none()) {
        Some(best) => {
            let domain = match (&record.spec.policy.failover_domain, best.rank) {
                (Some(domain), Some(Rank::Member(priority))) if priority > 0 => {
                    format!("priority {priority} in failover domain {domain}, ")
                }
                (Some(domain), Some(Rank::Member(_))) => {
                    format!("member of failover domain {domain}, ")
                }
                (Some(domain), _) => {
                    format!("outside failover domain {domain}, no member can take it, ")
                }
                (None, _) => String::new(),
            };
            Ok(Placement {
                node: best.node,
                why: format!("{domain}{} MiB free", best.free_memory_mib),
            })
        }
        None => Err(NoPlace {
            refused: candidates
                .into_iter()
                .map(|candidate| (candidate.name, candidate.refused.unwrap_or_default()))
                .collect(),
        }),
    }
}
