//! What a running VM depends on is lost, or is there for the first time.

use super::Planner;
use crate::command::Decision;
use crate::id::NodeId;
use crate::plan::Reason;

impl Planner<'_> {
    /// It is stopped when something that it needs as long as it runs stops running.
    pub(super) fn dependency_lost(&mut self, owner: NodeId) -> Option<Reason> {
        let record = self.record;
        let what = self.state.lost(&record.spec.policy.depend, record.depends_met)?;
        Some(self.decide(self.stop_decision(owner), what))
    }

    pub(super) fn dependencies_met(&mut self) -> Option<Reason> {
        let record = self.record;
        self.state
            .newly_met(&record.spec.policy.depend, record.depends_met)
            .then(|| self.decide(Decision::DependsMet, "all that it depends on is started"))
    }
}
