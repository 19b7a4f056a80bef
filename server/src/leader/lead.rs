//! Pure: one look of a leader at all there is, and its words on a heartbeat. The reconciler and the agents' service
//! carry these out.

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
