//! A service failed and all of it is down: what its policy says, and where.

use std::collections::BTreeSet;

use super::Planner;
use crate::command::ServiceDecision;
use crate::plan::Reason;
use crate::recovery::{Remedy, remedy, start_retry_ms};
use crate::service::{ServiceFailure, ServiceVerb};

impl Planner<'_> {
    pub(super) fn recover(&mut self) -> Reason {
        let record = self.record;
        let Some(failure) = &record.failure else { return self.begin() };
        if self.start_is_asked_for(failure) {
            return self.begin();
        }
        if let Some(lock) = &self.state.lock {
            return Reason::Locked { by: lock.by.clone(), why: lock.why.clone() };
        }
        match self.held_at() {
            Err(reason) => return reason,
            // Somebody started it by hand meanwhile.
            Ok(Some(node)) => return self.begin_where_it_is(node),
            Ok(None) => {}
        }
        if let Some(reason) = self.stays_cold() {
            return reason;
        }
        if failure.not_before > self.now {
            return self.wait_for(failure, failure.not_before.since(self.now));
        }
        if failure.node_died || !failure.tried.is_empty() || failure.rounds > 0 {
            return self.elsewhere(failure);
        }
        let policy = &record.spec.policy;
        match remedy(policy.recovery, policy.restart_limit, &record.restarts, failure.at) {
            Remedy::Disable => {
                let recovery = policy.recovery.as_str();
                let why = format!("{}, and its recovery policy is {recovery}", failure.why);
                self.decide(ServiceDecision::Disable { why: why.clone() }, why)
            }
            Remedy::RestartInPlace { wait_ms, .. } if failure.at.plus(wait_ms) > self.now => {
                self.wait_for(failure, failure.at.plus(wait_ms).since(self.now))
            }
            Remedy::RestartInPlace { number, .. } => {
                if self.refusal(failure.node).is_some() {
                    return self.elsewhere(failure);
                }
                let why = format!("restart {number} after: {}", failure.why);
                let decision = ServiceDecision::Begin { node: failure.node, why, restart: true };
                self.decide(decision, "it starts again")
            }
            Remedy::Relocate => {
                let here = BTreeSet::from([failure.node]);
                let choices = self.choices(&here);
                match self.best(choices, &here) {
                    Ok((node, why)) => self.begin_elsewhere(failure, node, &why),
                    Err(_) => self.elsewhere(failure),
                }
            }
        }
    }

    /// An operator wants it up since it failed, and said where if that matters: that goes before the policy, until it fails
    /// again.
    fn start_is_asked_for(&self, failure: &ServiceFailure) -> bool {
        let asked = self.record.open_operation().filter(|it| it.cause.is_none());
        asked.is_some_and(|it| {
            let start = matches!(
                it.verb,
                ServiceVerb::Enable { .. } | ServiceVerb::Restart | ServiceVerb::Relocate { .. }
            );
            start && it.at >= failure.at
        })
    }

    fn wait_for(&mut self, failure: &ServiceFailure, wait_ms: u64) -> Reason {
        self.plan.wake(self.now.plus(wait_ms));
        Reason::WaitingUntil { wait_ms, why: failure.why.clone() }
    }

    /// Any allowed node that was not tried in vain; when all were, all of them again after a while.
    fn elsewhere(&mut self, failure: &ServiceFailure) -> Reason {
        let choices = self.choices(&failure.tried);
        match self.best(choices, &failure.tried) {
            Ok((node, why)) => self.begin_elsewhere(failure, node, &why),
            Err(no_place) if failure.tried.is_empty() => self.no_place(no_place),
            Err(_) => {
                let why = format!("{}, and no other node can take it", failure.why);
                let until = self.now.plus(start_retry_ms(failure.rounds));
                self.decide(ServiceDecision::Delay { until, why: why.clone() }, why)
            }
        }
    }

    fn begin_elsewhere(
        &mut self,
        failure: &ServiceFailure,
        node: crate::id::NodeId,
        place: &str,
    ) -> Reason {
        let why = format!("{}; {place}", failure.why);
        self.decide(ServiceDecision::Begin { node, why, restart: false }, "it starts")
    }
}
