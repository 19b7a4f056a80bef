//! What a running VM depends on is lost, or is there for the first time.

use super::Planner;
use crate::command::Decision;
use crate::dependency::{DependMode, Unmet};
use crate::id::NodeId;
use crate::plan::Reason;

impl Planner<'_> {
    /// It is stopped when something that it needs as long as it runs stops running. What was never there while it ran, or is
    /// no longer known, stops nothing: editing and forgetting are passive.
    pub(super) fn dependency_lost(&mut self, owner: NodeId) -> Option<Reason> {
        if !self.record.depends_met {
            return None;
        }
        let (on, state) =
            self.state.unmet(&self.record.spec.policy).find_map(|(it, unmet)| {
                match (it.mode, unmet) {
                    (DependMode::Hard, Unmet::NotStarted(state)) => Some((it.on.clone(), state)),
                    _ => None,
                }
            })?;
        let what =
            format!("{on}, on which it depends, is {}: it stops until that is started", state);
        Some(self.decide(self.stop_decision(owner), what))
    }

    pub(super) fn dependencies_met(&mut self) -> Option<Reason> {
        let policy = &self.record.spec.policy;
        let first = !policy.depend.is_empty() && !self.record.depends_met;
        (first && self.state.unmet(policy).next().is_none())
            .then(|| self.decide(Decision::DependsMet, "all that it depends on is started"))
    }
}
