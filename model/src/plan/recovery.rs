//! A VM failed: what its policy says, and where.

use std::collections::BTreeSet;

use crate::cluster::ClusterState;
use crate::command::Decision;
use crate::liveness::Liveness;
use crate::node::NodeState;
use crate::plan::load::Load;
use crate::plan::placement::{self, NoPlace};
use crate::recovery::{RecoveryPolicy, Remedy, remedy, start_retry_ms};
use crate::time::Timestamp;
use crate::vm::{Failure, VmRecord};

/// What to do about a VM that is to be recovered.
pub(super) enum Step {
    /// Propose this.
    Decide(Decision),
    /// Not before this moment.
    Wait(Timestamp),
    /// No node can take it now.
    NoPlace(NoPlace),
}

pub(super) fn step(
    state: &ClusterState,
    liveness: &Liveness,
    load: &Load,
    record: &VmRecord,
    failure: &Failure,
    now: Timestamp,
) -> Step {
    if failure.not_before > now {
        return Step::Wait(failure.not_before);
    }
    let retries = record.spec.policy.start_limit.retries;
    if (1..=retries).contains(&failure.failed_starts) && !failure.tried.contains(&failure.node) {
        let here = placement::candidates(state, liveness, load, record, &failure.tried)
            .into_iter()
            .any(|candidate| candidate.node == failure.node && candidate.refused.is_none());
        if here {
            let why = format!("retry {} of {retries} after {}", failure.failed_starts, failure.why);
            return Step::Decide(Decision::Start { node: failure.node, why, restart: false });
        }
    }
    let policy = record.spec.policy.recovery;
    // With this policy it is never moved because a restart in place failed or cannot be made. RGManager moved it all the
    // same, contrary to its documentation. The death of its node is no failure of its own.
    let dead = |id| state.nodes.get(id).is_none_or(|node| matches!(node.state, NodeState::Dead(_)));
    let stays =
        policy == RecoveryPolicy::RestartDisable && !failure.node_died && !dead(&failure.node);
    if stays && !record.restarts.is_empty() && !failure.tried.is_empty() {
        return disable(failure, policy);
    }
    if failure.node_died
        && let Some(step) = where_it_was(state, liveness, load, record, failure, now)
    {
        return step;
    }
    if failure.node_died || !failure.tried.is_empty() || failure.rounds > 0 {
        return elsewhere(state, liveness, load, record, failure, now);
    }
    match remedy(policy, record.spec.policy.restart_limit, &record.restarts, failure.at) {
        Remedy::Disable => disable(failure, policy),
        Remedy::RestartInPlace { wait_ms, .. } if failure.at.plus(wait_ms) > now => {
            Step::Wait(failure.at.plus(wait_ms))
        }
        Remedy::RestartInPlace { number, .. } => {
            let here = placement::candidates(state, liveness, load, record, &BTreeSet::new())
                .into_iter()
                .find(|candidate| candidate.node == failure.node);
            let refused = match here {
                Some(here) => here.refused.map(|why| (here.name, why)),
                None => Some((state.node_name(failure.node), "it left the cluster".to_owned())),
            };
            if let Some(refused) = refused {
                if stays {
                    return Step::NoPlace(NoPlace { refused: vec![refused] });
                }
                return elsewhere(state, liveness, load, record, failure, now);
            }
            let limit = record.spec.policy.restart_limit.max_restarts;
            let count = if limit > 0 { format!("{number} of {limit}") } else { number.to_string() };
            let why = format!("restart {count} after {}", failure.why);
            Step::Decide(Decision::Start { node: failure.node, why, restart: true })
        }
        Remedy::Relocate => {
            let here = BTreeSet::from([failure.node]);
            match placement::place(state, liveness, load, record, &here) {
                Ok(place) => start(place, &failure.why),
                Err(_) => elsewhere(state, liveness, load, record, failure, now),
            }
        }
    }
}

/// Its node died and is back already, having booted anew: among equals it starts where it was. A node that has just
/// registered is heard in a moment.
fn where_it_was(
    state: &ClusterState,
    liveness: &Liveness,
    load: &Load,
    record: &VmRecord,
    failure: &Failure,
    now: Timestamp,
) -> Option<Step> {
    let node = state.nodes.get(&failure.node).filter(|node| node.serves())?;
    if failure.tried.contains(&node.id) || state.settings.rebalance_on_start {
        return None;
    }
    let heard = liveness.heard.get(&node.id).filter(|heard| heard.session == node.last_session);
    if heard.is_some_and(|heard| !heard.met && heard.silent_ms <= state.settings.suspect_after_ms) {
        return Some(Step::Wait(now.plus(HEARD_SOON_MS)));
    }
    let all = placement::candidates(state, liveness, load, record, &failure.tried);
    let best = all.first().map(|best| best.rank);
    let here = all.iter().find(|it| it.node == node.id && it.refused.is_none())?;
    (Some(here.rank) == best).then(|| {
        let why = format!("{}; it ran there before", failure.why);
        Step::Decide(Decision::Start { node: node.id, why, restart: false })
    })
}

/// A heartbeat follows a registration within this.
const HEARD_SOON_MS: u64 = 200;

/// Any allowed node that was not tried in vain; when all were, all of them again after a while.
fn elsewhere(
    state: &ClusterState,
    liveness: &Liveness,
    load: &Load,
    record: &VmRecord,
    failure: &Failure,
    now: Timestamp,
) -> Step {
    let limit = record.spec.policy.start_limit.relocations;
    if let Some(limit) = limit
        && failure.tried.len() as u64 > u64::from(limit)
    {
        let why = format!("{}, and {limit} other nodes were tried", failure.why);
        return Step::Decide(Decision::Disable { why });
    }
    match placement::place(state, liveness, load, record, &failure.tried) {
        Ok(place) => start(place, &failure.why),
        Err(_) if limit.is_some() && !failure.tried.is_empty() => Step::Decide(Decision::Disable {
            why: format!("{}, and no other node can take it", failure.why),
        }),
        Err(no_place) if failure.tried.is_empty() => Step::NoPlace(no_place),
        Err(_) => Step::Decide(Decision::Delay {
            until: now.plus(start_retry_ms(failure.rounds)),
            why: format!("{}, and no other node can take it", failure.why),
        }),
    }
}

fn disable(failure: &Failure, policy: RecoveryPolicy) -> Step {
    let why = format!("{}, and its recovery policy is {}", failure.why, policy.as_str());
    Step::Decide(Decision::Disable { why })
}

fn start(place: placement::Placement, why: &str) -> Step {
    Step::Decide(Decision::Start {
        node: place.node,
        why: format!("{why}; {}", place.why),
        restart: false,
    })
}
