//! A frozen VM: followed where it goes, and not touched.

use super::Planner;
use crate::command::Decision;
use crate::hold::Freeze;
use crate::id::NodeId;
use crate::plan::Reason;
use crate::vm::{Desired, VmState};

impl Planner<'_> {
    pub(super) fn frozen(&mut self, freeze: &Freeze, guests: &[NodeId]) -> Reason {
        let record = self.record;
        if let Some(until) = freeze.until {
            if until <= self.now {
                return self.decide(Decision::Unfreeze, "its freeze has run out");
            }
            self.plan.wake(until);
        }
        let frozen = Reason::Frozen {
            by: freeze.by.clone(),
            why: freeze.why.clone(),
            left_ms: freeze.until.map(|until| until.since(self.now)),
        };
        // Two copies are an alarm all the same; which one goes is not decided while it is frozen.
        if record.state != VmState::Conflict
            && let Some(reason) = self.twice(guests)
        {
            return reason;
        }
        if record.order.is_some() || matches!(record.state, VmState::Conflict | VmState::Failed) {
            return frozen;
        }
        let wanted = record.desired == Desired::Enabled;
        if let Some(reason) = self.stopped_copies(wanted, guests) {
            return reason;
        }
        match guests {
            [node]
                if (wanted || self.is_ours())
                    && !self.tracked_at(*node)
                    && self.has_session(*node) =>
            {
                let place = self.state.node_name(*node);
                self.decide(Decision::Adopt { node: *node }, format!("tracked on {place}"))
            }
            [] if record.may_run.is_empty()
                && matches!(
                    record.state,
                    VmState::Migrating | VmState::Starting | VmState::Stopping
                ) =>
            {
                self.decide(Decision::Settle, "it is nowhere any more")
            }
            _ => frozen,
        }
    }
}
