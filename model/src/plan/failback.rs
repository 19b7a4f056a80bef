//! A VM comes back to a better node of its failover domain: when, how, and what holds it up.
//!
//! RGManager did it at once, of all VMs at the same time, on each return of a node. Here it follows from the state: delay,
//! window and rate are the domain's, and `berthctl explain` shows what is waited for. One thing is RGManager's: a VM that
//! was put where it is by hand stays there until a better node returns from a loss.

use std::collections::BTreeSet;

use crate::cluster::ClusterState;
use crate::failover_domain::Standing;
use crate::id::NodeId;
use crate::liveness::Liveness;
use crate::node::NodeState;
use crate::plan::flow::Flow;
use crate::plan::load::Load;
use crate::plan::placement;
use crate::time::Timestamp;
use crate::vm::{MigrationMode, VmRecord};

/// The window of the limit per hour.
const HOUR_MS: u64 = 3_600_000;

/// What is to be done about a VM that has a better node.
pub(super) enum Failback {
    /// It moves now.
    Go {
        /// Where.
        to: NodeId,
        /// How; `None` stops it and starts it there.
        mode: Option<MigrationMode>,
        /// Why, as a sentence.
        why: String,
    },
    /// Not yet.
    Wait {
        /// Where it would go.
        to: NodeId,
        /// Until then, where time alone ends it.
        until: Option<Timestamp>,
        /// What is waited for.
        why: String,
    },
}

impl Failback {
    pub(super) fn to(&self) -> NodeId {
        match self {
            Self::Go { to, .. } | Self::Wait { to, .. } => *to,
        }
    }
}

/// `None` where the VM is on as good a node as there is.
pub(super) fn failback(
    state: &ClusterState,
    liveness: &Liveness,
    load: &Load,
    flow: &Flow,
    record: &VmRecord,
    owner: NodeId,
    now: Timestamp,
) -> Option<Failback> {
    let name = record.spec.policy.failover_domain.as_ref()?;
    let domain = state.failover_domains.get(name)?;
    let place = &state.nodes.get(&owner)?.name;
    let online: BTreeSet<_> = state
        .nodes
        .values()
        .filter(|node| node.state == NodeState::Online)
        .map(|node| node.name.clone())
        .collect();
    let here = domain.standing(place, &online, Some(place));
    if here == Standing::Best {
        return None;
    }
    let none = BTreeSet::new();
    let better = placement::candidates(state, liveness, load, record, &none)
        .into_iter()
        .filter(|candidate| candidate.refused.is_none() && candidate.node != owner)
        .filter_map(|candidate| {
            let node = state.nodes.get(&candidate.node)?;
            let standing = domain.standing(&node.name, &online, Some(place));
            (standing > here).then_some((standing, node))
        })
        // The first of the best: they come in the order of placement.
        .reduce(|best, next| if next.0 > best.0 { next } else { best });
    let (_, target) = better?;
    let to = target.id;
    let wait = |until: Option<Timestamp>, why: String| Some(Failback::Wait { to, until, why });
    if record.placed_at.is_some_and(|placed| target.state_since <= placed) {
        let why = "it was put where it is by hand, and stays until a better node returns";
        return wait(None, why.into());
    }
    let limits = &domain.failback;
    for (due, why) in [
        (record.failback_not_before, "the last attempt to start or migrate it failed"),
        (target.state_since.plus(limits.delay_ms), "the node has to be online for a while before"),
    ] {
        if due > now {
            return wait(Some(due), format!("{why}; {} s to go", due.since(now).div_ceil(1_000)));
        }
    }
    if let Some(window) = limits.window
        && let opens_in_ms @ 1.. = window.opens_in_ms(now)
    {
        let why = format!("the window for it opens in {} s", opens_in_ms.div_ceil(1_000));
        return wait(Some(now.plus(opens_in_ms)), why);
    }
    let moving = flow.moving(name);
    if limits.at_once > 0 && moving >= limits.at_once {
        let why = format!("{moving} VMs of failover domain {name} are on their way already");
        return wait(None, why);
    }
    let moments = state.failbacks.get(name).into_iter().flatten();
    let recent: Vec<_> = moments.filter(|moment| now.since(**moment) < HOUR_MS).collect();
    let count = recent.len() + flow.coming_back(name);
    if limits.per_hour > 0 && count >= limits.per_hour as usize {
        let due = recent.first().map(|moment| moment.plus(HOUR_MS));
        return wait(
            due,
            format!("{count} VMs of failover domain {name} come back within an hour"),
        );
    }
    let why = format!("{} is a better node of failover domain {name}", target.name);
    let mode = match record.spec.cannot_migrate() {
        None => Some(record.spec.policy.migration),
        Some(_) if limits.relocate => None,
        Some(why) => {
            let why = format!("it cannot be migrated, and {name} stops nothing for it: {why}");
            return wait(None, why);
        }
    };
    Some(Failback::Go { to, mode, why })
}
