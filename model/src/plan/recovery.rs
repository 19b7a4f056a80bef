//! A VM failed: what its policy says, and where.

use std::collections::BTreeSet;

use crate::cluster::ClusterState;
use crate::command::Decision;
use crate::liveness::Liveness;
use crate::plan::placement::{self, Load, NoPlace};
use crate::recovery::{Remedy, remedy, start_retry_ms};
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
    if failure.node_died || !failure.tried.is_empty() || failure.rounds > 0 {
        return elsewhere(state, liveness, load, record, failure, now);
    }
    match remedy(
        record.spec.policy.recovery,
        record.spec.policy.restart_limit,
        &record.restarts,
        failure.at,
    ) {
        Remedy::Disable => Step::Decide(Decision::Disable {
            why: format!(
                "{}, and its recovery policy is {}",
                failure.why,
                record.spec.policy.recovery.as_str()
            ),
        }),
        Remedy::RestartInPlace { wait_ms, .. } if failure.at.plus(wait_ms) > now => {
            Step::Wait(failure.at.plus(wait_ms))
        }
        Remedy::RestartInPlace { number, .. } => {
            let here = placement::candidates(state, liveness, load, record, &BTreeSet::new())
                .into_iter()
                .any(|candidate| candidate.node == failure.node && candidate.refused.is_none());
            if !here {
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

/// Any allowed node that was not tried in vain; when all were, all of them again after a while.
fn elsewhere(
    state: &ClusterState,
    liveness: &Liveness,
    load: &Load,
    record: &VmRecord,
    failure: &Failure,
    now: Timestamp,
) -> Step {
    match placement::place(state, liveness, load, record, &failure.tried) {
        Ok(place) => start(place, &failure.why),
        Err(no_place) if failure.tried.is_empty() => Step::NoPlace(no_place),
        Err(_) => Step::Decide(Decision::Delay {
            until: now.plus(start_retry_ms(failure.rounds)),
            why: format!("{}, and no other node can take it", failure.why),
        }),
    }
}

fn start(place: placement::Placement, why: &str) -> Step {
    Step::Decide(Decision::Start {
        node: place.node,
        why: format!("{why}; {}", place.why),
        restart: false,
    })
}
