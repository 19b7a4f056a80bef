//! Pure: one look of a leader at all there is, and its words on a heartbeat. The reconciler and the agents' service
//! carry these out.

use model::ClusterState;
use model::command::Operation;
use model::id::{NodeId, SessionId};
use model::liveness::Liveness;
use model::plan::{Plan, plan};
use model::sabotage::{Rule, off};
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

/// Whether that is the node's present session.
pub fn in_session(state: &ClusterState, node: NodeId, session: SessionId) -> bool {
    state.nodes.get(&node).and_then(|node| node.session()) == Some(session)
}
