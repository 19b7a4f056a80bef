//! A VM or service comes back to a better node of its failover domain: when, how, and what holds it up.
//!
//! RGManager did it at once, of all VMs at the same time, on each return of a node. Here it follows from the state: delay,
//! window and rate are the domain's, and `berthctl explain` shows what is waited for. One thing is RGManager's: a VM that
//! was put where it is by hand stays there until a better node returns from a loss.

use std::collections::BTreeSet;

use crate::cluster::ClusterState;
use crate::failover_domain::Standing;
use crate::id::{FailoverDomainName, NodeId};
use crate::node::NodeState;
use crate::plan::flow::Flow;
use crate::time::Timestamp;
use crate::vm::MigrationMode;

/// The window of the limit per hour.
const HOUR_MS: u64 = 3_600_000;

/// What is to be done about one that has a better node.
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

/// One that runs, as far as this matters.
pub(super) struct Settled<'s> {
    /// Of which domain it is.
    pub(super) domain: Option<&'s FailoverDomainName>,
    /// Where it runs.
    pub(super) owner: NodeId,
    /// It was put there by hand.
    pub(super) placed_at: Option<Timestamp>,
    /// The last attempt failed.
    pub(super) not_before: Timestamp,
    /// How it would move, `None` by stop and start; or why it cannot migrate.
    pub(super) way: Result<Option<MigrationMode>, String>,
}

/// `None` where it is on as good a node as there is. `able` are the nodes that can take it, in the order of placement.
pub(super) fn failback(
    state: &ClusterState,
    flow: &Flow,
    settled: Settled<'_>,
    able: impl FnOnce() -> Vec<NodeId>,
    now: Timestamp,
) -> Option<Failback> {
    let name = settled.domain?;
    let owner = settled.owner;
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
    let better = able()
        .into_iter()
        .filter(|node| *node != owner)
        .filter_map(|node| {
            let node = state.nodes.get(&node)?;
            let standing = domain.standing(&node.name, &online, Some(place));
            (standing > here).then_some((standing, node))
        })
        // The first of the best: they come in the order of placement.
        .reduce(|best, next| if next.0 > best.0 { next } else { best });
    let (_, target) = better?;
    let to = target.id;
    let wait = |until: Option<Timestamp>, why: String| Some(Failback::Wait { to, until, why });
    if settled.placed_at.is_some_and(|placed| target.state_since <= placed) {
        let why = "it was put where it is by hand, and stays until a better node returns";
        return wait(None, why.into());
    }
    let limits = &domain.failback;
    for (due, why) in [
        (settled.not_before, "the last attempt to start or migrate it failed"),
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
        let why =
            format!("{moving} VMs and services of failover domain {name} are on their way already");
        return wait(None, why);
    }
    let moments = state.failbacks.get(name).into_iter().flatten();
    let recent: Vec<_> = moments.filter(|moment| now.since(**moment) < HOUR_MS).collect();
    let count = recent.len() + flow.coming_back(name);
    if limits.per_hour > 0 && count >= limits.per_hour as usize {
        let due = recent.first().map(|moment| moment.plus(HOUR_MS));
        return wait(
            due,
            format!("{count} VMs and services of failover domain {name} come back within an hour"),
        );
    }
    let why = format!("{} is a better node of failover domain {name}", target.name);
    let mode = match settled.way {
        Ok(mode) => mode,
        Err(_) if limits.relocate => None,
        Err(why) => {
            let why = format!("it cannot be migrated, and {name} stops nothing for it: {why}");
            return wait(None, why);
        }
    };
    Some(Failback::Go { to, mode, why })
}
