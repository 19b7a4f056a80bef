//! Self-fence: the VM when the node's lease has run out and when it is back, and what is noted of a copy kept suspended.

use model::sabotage::{Rule, off};
use model::vm::OnIsolation;
use tracing::warn;

use super::{Driver, Purpose, Scene};
use crate::hypervisor::call::Call;
use crate::vm::isolation::{Isolation, IsolationStep};
use crate::vm::ledger::{IsolationTerms, Ledger, Suspension};

impl Driver {
    /// The lease binds it: an order has brought it to life here or taken it over, or it bears the cluster's mark.
    fn is_bound(&self, ledger: &Ledger) -> bool {
        let marked = self.known.as_ref().is_some_and(|seen| seen.generation.is_some());
        ledger.entry(self.uuid).is_some_and(|entry| entry.bound)
            || (marked && !off(Rule::MarkBinds))
            || self.work.is_some()
    }

    /// The lease has run out: migrations are called off, and its guest is stopped (design section 3, self-fence).
    pub(crate) fn isolate(&mut self, scene: &mut Scene<'_>, terms: IsolationTerms) {
        if self.isolation.is_some() || !self.is_bound(scene.ledger) || off(Rule::SelfFence) {
            return;
        }
        let policy = self.policy_without_lease(scene.ledger);
        self.abort(scene);
        let calls = self.isolation_calls;
        let mut isolation =
            Isolation::new(policy, scene.now, (terms.self_fence_ms, terms.hold_ms), calls);
        if let Some(noted) = scene.ledger.suspension(self.uuid) {
            match noted.since_ms.filter(|_| self.inherits_hold) {
                Some(since_ms) => isolation.kept_since(since_ms),
                // It has had its lease since, or is created with stopped vCPUs and kept so from now on.
                None => {
                    let since_ms = Some(scene.now);
                    self.note_suspended(scene, Suspension { since_ms, ..noted });
                }
            }
        }
        self.inherits_hold = false;
        let asked = scene.ledger.entry(self.uuid).is_some_and(|entry| entry.bringing);
        if self.work.is_none() && (asked || self.of_new_ledger) {
            isolation.may_run_yet();
        }
        self.isolation = Some(isolation);
        self.isolation_step(scene, Isolation::tick);
    }

    /// What the ledger says of an earlier stay is not this one's: a guest that has come since, as by a migration, and was not
    /// adopted yet is suspended like one that the ledger does not know.
    pub(super) fn policy_without_lease(&self, ledger: &Ledger) -> OnIsolation {
        let Some(entry) = ledger.entry(self.uuid) else { return OnIsolation::default() };
        let of_this_stay = match &self.known {
            Some(seen) => seen.generation == Some(entry.generation),
            None => entry.bringing,
        };
        match of_this_stay {
            true => entry.on_isolation,
            false => OnIsolation::default(),
        }
    }

    /// The cluster says how long a suspended copy is kept.
    pub(crate) fn hold(&mut self, hold_ms: u64) {
        if let Some(isolation) = &mut self.isolation {
            isolation.hold(hold_ms);
        }
    }

    /// Its hold is over, however it ended: what is noted of its beginning is not the next one's, nor another agent's.
    pub(crate) fn has_its_lease(&mut self, scene: &mut Scene<'_>) {
        self.inherits_hold = false;
        let noted = scene.ledger.suspension(self.uuid);
        if let Some(noted) = noted.filter(|noted| noted.since_ms.is_some()) {
            self.note_suspended(scene, Suspension { since_ms: None, ..noted });
        }
    }

    /// The lease is back: what was stopped waits for the leader's order.
    pub(crate) fn end_isolation(&mut self, scene: &mut Scene<'_>) {
        self.has_its_lease(scene);
        if let Some(isolation) = self.isolation.take() {
            self.isolation_calls = isolation.calls();
            self.look(scene);
        }
    }

    /// Its guest is stopped for sure, or there is none, or it is not the lease's.
    pub(crate) fn is_safe(&self, ledger: &Ledger) -> bool {
        if self.may_come() {
            return false;
        }
        match &self.isolation {
            Some(isolation) => isolation.is_safe(),
            None if self.is_awaited() => off(Rule::SilenceIsNotAbsence),
            None => self.known.is_none() || !self.is_bound(ledger),
        }
    }

    /// Something has happened to a domain that is not known, and libvirt has not said yet what it is: a guest of the
    /// cluster that has arrived by migration, perhaps.
    pub(crate) fn is_awaited(&self) -> bool {
        let asked = |it: &Purpose| matches!(it, Purpose::Look | Purpose::LookAfter(_));
        (self.known.is_none() || self.is_nameless()) && (self.unanswered || self.calling(asked))
    }

    pub(super) fn isolation_step(
        &mut self,
        scene: &mut Scene<'_>,
        step: impl FnOnce(&mut Isolation, u64) -> IsolationStep,
    ) {
        let Some(mut isolation) = self.isolation.take() else { return };
        let step = step(&mut isolation, scene.now);
        self.isolation = Some(isolation);
        match step {
            IsolationStep::Nothing => {}
            IsolationStep::Call(number, call) => {
                // Noted before it is done: a copy that nobody knows to be ours would never be resumed.
                let noted = Suspension::fenced(scene.now);
                let call = match call {
                    Call::Suspend if !self.note_suspended(scene, noted) => Call::Destroy,
                    call => call,
                };
                self.call(scene, call, Purpose::Isolation(number));
            }
        }
    }

    pub(super) fn note_suspended(&self, scene: &mut Scene<'_>, noted: Suspension) -> bool {
        let noted = scene.ledger.note_suspended(self.uuid, noted);
        if let Err(error) = &noted {
            let error = error as &dyn std::error::Error;
            warn!(uuid = %self.uuid, error, "a suspension cannot be noted");
        }
        noted.is_ok()
    }

    pub(super) fn forget_suspended(&self, scene: &mut Scene<'_>) {
        if let Err(error) = scene.ledger.forget_suspended(self.uuid) {
            let error = &error as &dyn std::error::Error;
            warn!(uuid = %self.uuid, error, "the end of a suspension cannot be noted");
        }
    }
}
