//! What a service waits for before it starts, and what stops it while it runs: as of a VM.

use super::Planner;
use crate::command::ServiceDecision;
use crate::plan::Reason;
use crate::service::ServiceState;

impl Planner<'_> {
    /// Why nothing of it may be started now, wherever there is a place.
    pub(super) fn held_up(&self) -> Option<Reason> {
        if let Some(lock) = &self.state.lock {
            return Some(Reason::Locked { by: lock.by.clone(), why: lock.why.clone() });
        }
        let on = self.state.waits_for(&self.record.spec.policy.depend);
        if !on.is_empty() {
            return Some(Reason::DependsOn { on });
        }
        let after = self.flow.before(self.record.into())?;
        Some(Reason::StartsLater { after })
    }

    /// Something that it needs as long as it runs stopped running, or all of it is there for the first time.
    pub(super) fn dependencies(&mut self) -> Option<Reason> {
        let record = self.record;
        if record.state != ServiceState::Started {
            return None;
        }
        let depend = &record.spec.policy.depend;
        if let Some(what) = self.state.lost(depend, record.depends_met) {
            return Some(self.decide(ServiceDecision::Stop, what));
        }
        self.state
            .newly_met(depend, record.depends_met)
            .then(|| self.decide(ServiceDecision::DependsMet, "all that it depends on is started"))
    }

    /// The whole cluster was down, and it is not to be started by itself after that.
    pub(super) fn stays_cold(&mut self) -> Option<Reason> {
        if !self.state.is_cold(self.record.cold) || self.record.open_operation().is_some() {
            return None;
        }
        if self.state.braked() {
            // They may only be out of sight.
            return Some(Reason::MassLoss);
        }
        let why = "the whole cluster was down, and its autostart is off".to_owned();
        Some(self.decide(ServiceDecision::Disable { why: why.clone() }, why))
    }
}
