//! Pure: one look of a leader at all there is, and its words on a heartbeat. The reconciler and the agents' service
//! carry these out.

use std::fmt::Display;

use model::ClusterState;
use model::command::Operation;
use model::id::{Epoch, NodeId, SessionId};
use model::liveness::Liveness;
use model::plan::{Plan, plan};
use model::sabotage::{Rule, off};
use model::settings::Settings;
use model::time::Timestamp;

use super::failure_detector::FailureDetector;

/// What one look led to.
#[derive(Debug, Clone)]
pub struct Look {
    /// What was heard.
    pub liveness: Liveness,
    /// What is to be proposed, and why not more.
    pub plan: Plan,
}

/// One look: what is heard, and the plan from it. A session whose loss is about to be proposed is answered no more from
/// here on (design section 3, lease). `now` is the leader's elapsed time in milliseconds.
pub fn look(
    detector: &mut FailureDetector,
    state: &ClusterState,
    now: u64,
    wall: Timestamp,
) -> Look {
    let liveness = detector.look(state, now);
    let plan = plan(state, &liveness, wall);
    for operation in &plan.operations {
        if let Operation::NodeLost { node, session, .. } = operation
            && !off(Rule::NoAnswerAfterLoss)
        {
            detector.end(*node, *session, now);
        }
    }
    Look { liveness, plan }
}

/// Whether a control plane of epoch `ours` has been replaced by a restored one, as somebody tells who has met epoch `met`. A
/// replica that has not heard of its cluster yet has no epoch to speak of.
pub fn is_superseded(ours: Epoch, met: u64) -> bool {
    ours.0 > 0 && met > ours.0 && !off(Rule::HigherEpochStops)
}

/// Whether a node that was heard so many milliseconds ago, by whichever replica, is heard: nobody's word makes it dead then
/// (design section 3, proof of death (c)).
pub fn is_heard(silent_ms: u64, settings: &Settings) -> bool {
    silent_ms < settings.lost_after_ms && !off(Rule::ConfirmOffOfTheSilent)
}

/// Whether that is the node's present session.
pub fn in_session(state: &ClusterState, node: NodeId, session: SessionId) -> bool {
    state.nodes.get(&node).and_then(|node| node.session()) == Some(session)
}

/// At most so much of what is left on a host is told by name.
const LEFT_NAMED: usize = 100;

/// What may still be running on a node, for people, with what is done about it.
pub fn left_on(state: &ClusterState, node: NodeId, plan: Option<&Plan>) -> Vec<String> {
    let line = |kind: &str, name: &dyn Display, reason: Option<&dyn Display>| match reason {
        Some(reason) => format!("{kind}:{name} ({reason})"),
        None => format!("{kind}:{name}"),
    };
    let vms = state.vms.values().filter(|vm| vm.may_run.contains_key(&node)).map(|vm| {
        let reason = plan.and_then(|plan| plan.vms.get(&vm.spec.name));
        line("vm", &vm.spec.name, reason.map(|it| it as &dyn Display))
    });
    let services = state.services.values().filter(|it| it.may_run.contains_key(&node));
    let services = services.map(|service| {
        let reason = plan.and_then(|plan| plan.services.get(&service.spec.name));
        line("service", &service.spec.name, reason.map(|it| it as &dyn Display))
    });
    let mut left: Vec<_> = vms.chain(services).collect();
    let more = left.len().saturating_sub(LEFT_NAMED);
    if more > 0 {
        left.truncate(LEFT_NAMED);
        left.push(format!("and {more} more"));
    }
    left
}
