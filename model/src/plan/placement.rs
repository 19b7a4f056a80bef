//! Which node: placement rules allow it, the failover domain ranks it, and among equals the least busy is taken. One total
//! order, no ties, no chance.

use std::collections::BTreeSet;

use crate::cluster::ClusterState;
use crate::failover_domain::Rank;
use crate::fleet::PlacementMode;
use crate::id::NodeId;
use crate::liveness::Liveness;
use crate::node::{NodeRecord, NodeState};
use crate::plan::load::Load;
use crate::plan::ruling::Ruling;
use crate::vm::{OnIsolation, VmRecord};

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
    /// How busy it would be with the VM, see [`Load::busy`].
    pub busy: u64,
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
    let ruling = Ruling::of(state, load, record);
    let mut candidates: Vec<Candidate> = state
        .nodes
        .values()
        .map(|node| {
            let rank = domain.map_or(Some(Rank::Member(0)), |domain| domain.rank(&node.name));
            let free_memory_mib = load.free_memory_mib(node);
            // What is counted there already is not counted twice.
            let with = (!counted(record, node.id)).then_some(record);
            Candidate {
                node: node.id,
                name: node.name.to_string(),
                rank,
                free_memory_mib,
                free_vcpus: load.free_vcpus(node),
                busy: load.busy(node, with),
                refused: refusal(state, liveness, node, record, rank, free_memory_mib, avoid)
                    .or_else(|| load.tenants.refusal(node.id, record))
                    .or_else(|| ruling.refuses(state, node, free_memory_mib)),
            }
        })
        .collect();
    candidates.sort_by(|one, other| {
        (one.refused.is_some().cmp(&other.refused.is_some()))
            .then(one.rank.cmp(&other.rank))
            .then(one.busy.cmp(&other.busy))
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
    if let Some(maintenance) = &node.maintenance {
        return Some(format!("it is kept empty by {}", maintenance.by));
    }
    if node.shutdown.is_some() {
        return Some("it is being shut down".into());
    }
    if rank.is_none() {
        return Some("it is not in the restricted failover domain".into());
    }
    if avoid.contains(&node.id) {
        return Some("it was tried already".into());
    }
    let need = record.spec.memory_mib as i64;
    // What already runs there, or is counted there, needs no second room.
    (need > free_memory_mib && !counted(record, node.id))
        .then(|| format!("{free_memory_mib} MiB are free, {need} MiB are needed"))
}

fn counted(record: &VmRecord, node: NodeId) -> bool {
    record.owner == Some(node) || record.seen.contains_key(&node)
}

/// The best node for a VM: lowest rank in its failover domain, then the least busy, then most free
/// memory, then most free processors, then the name.
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
            let room = match state.settings.placement {
                PlacementMode::Count => {
                    format!("the fewest VMs ({})", (best.busy / 1_000).saturating_sub(1))
                }
                PlacementMode::Static | PlacementMode::Dynamic => {
                    format!("{} MiB free", best.free_memory_mib)
                }
            };
            Ok(Placement { node: best.node, why: format!("{domain}{room}") })
        }
        None => Err(NoPlace {
            refused: candidates
                .into_iter()
                .map(|candidate| (candidate.name, candidate.refused.unwrap_or_default()))
                .collect(),
        }),
    }
}
