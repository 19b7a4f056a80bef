//! Where and when a VM that is down is started.

use std::collections::BTreeSet;

use super::Planner;
use crate::command::Decision;
use crate::id::NodeId;
use crate::plan::Reason;
use crate::plan::exclusive;
use crate::plan::load::Load;
use crate::plan::placement::{self, NoPlace};
use crate::plan::recovery::{self, Step};
use crate::sabotage::{Rule, off};
use crate::vm::{OperationPhase, Verb, VmState};

impl Planner<'_> {
    /// It is to run and is seen nowhere.
    pub(super) fn start(&mut self) -> Reason {
        let record = self.record;
        if let Some(reason) = self.places_but_own() {
            return reason;
        }
        let quiet_until = self.state.quiet_until;
        if quiet_until > self.now && !off(Rule::RestoredIsUnknown) {
            self.plan.wake(quiet_until);
            return Reason::WaitingUntil {
                wait_ms: quiet_until.since(self.now),
                why: "the control plane was restored, and nodes that the backup does not know may still run it".into(),
            };
        }
        if let Some(service) = self.state.governing(&record.spec.name) {
            return Reason::Member { service: service.spec.name.to_string() };
        }
        if let Some(claim) = record.claim.as_ref().filter(|_| !off(Rule::ClaimHoldsStart)) {
            return Reason::Claimed { reason: claim.reason.clone(), by: claim.by.clone() };
        }
        if let Some(reason) = self.waits_for_host() {
            return reason;
        }
        if self.state.is_cold(record.cold) && record.open_operation().is_none() {
            if self.state.braked() {
                // They may only be out of sight.
                return Reason::MassLoss;
            }
            let why = "the whole cluster was down, and its autostart is off".to_owned();
            return self.decide(Decision::Disable { why: why.clone() }, why);
        }
        if let (VmState::Recovering, Some(failure), false) =
            (record.state, &record.failure, self.wishes_a_start())
        {
            return match recovery::step(
                self.state,
                self.liveness,
                self.load,
                record,
                failure,
                self.now,
            ) {
                Step::Decide(decision) => {
                    let what = decision_text(&decision);
                    self.decide(decision, what)
                }
                Step::Wait(until) => {
                    self.plan.wake(until);
                    Reason::WaitingUntil {
                        wait_ms: until.since(self.now),
                        why: failure.why.clone(),
                    }
                }
                Step::NoPlace(no_place) => self.no_place(no_place),
            };
        }
        let (preferred, avoid) = self.wish();
        if let Some(node) = preferred
            && self.can_take(node)
        {
            let why = "asked for by the operator".to_owned();
            return self.decide(Decision::Start { node, why, restart: false }, "it starts");
        }
        // Where it was before, among equals: what it needs may still be at hand there. A node that has just registered is
        // heard in a moment.
        if let Some(last) = record.last_owner.filter(|last| !avoid.contains(last))
            && self.is_about_to_be_heard(last)
        {
            return Reason::Deciding("the node where it ran before is about to be heard".into());
        }
        let anew = self.state.settings.rebalance_on_start;
        if let Some(last) = record.last_owner.filter(|last| !avoid.contains(last) && !anew)
            && self.is_among_the_best(last)
        {
            let why = "it ran there before".to_owned();
            return self.decide(Decision::Start { node: last, why, restart: false }, "it starts");
        }
        match placement::place(self.state, self.liveness, self.load, record, &avoid).or_else(|_| {
            placement::place(self.state, self.liveness, self.load, record, &BTreeSet::new())
        }) {
            Ok(place) => {
                let decision = Decision::Start { node: place.node, why: place.why, restart: false };
                self.decide(decision, "it starts")
            }
            Err(no_place) => self.no_place(no_place),
        }
    }

    /// The operator said where, and that was not tried in vain: it goes before the recovery policy.
    fn wishes_a_start(&self) -> bool {
        let Some(operation) = self.record.open_operation() else { return false };
        let tried = |node: &NodeId| {
            self.record.failure.as_ref().is_some_and(|failure| failure.tried.contains(node))
        };
        match &operation.verb {
            Verb::Enable { on: Some(to) } | Verb::Relocate { to: Some(to) } => !tried(to),
            Verb::Restart => self.record.last_owner.is_some_and(|last| !tried(&last)),
            Verb::Relocate { to: None } => {
                self.record.failure.as_ref().is_none_or(|failure| failure.tried.is_empty())
            }
            Verb::Enable { on: None }
            | Verb::Disable
            | Verb::Stop { .. }
            | Verb::Migrate { .. } => false,
        }
    }

    /// An exclusive VM may take the node of one that comes after it.
    fn no_place(&mut self, no_place: NoPlace) -> Reason {
        if self.held_up().is_some() {
            return Reason::NoPlace(no_place);
        }
        let (state, liveness, record) = (self.state, self.liveness, self.record);
        let takes = |load: &Load, node: NodeId| {
            placement::candidates(state, liveness, load, record, &BTreeSet::new())
                .iter()
                .any(|candidate| candidate.node == node && candidate.refused.is_none())
        };
        let policy = &record.spec.policy;
        let first = (record.spec.name.to_string(), policy.exclusive, policy.depend.as_slice());
        match exclusive::displace((state, liveness, self.now), self.load, first, &no_place, takes) {
            Some((victim, operation)) => {
                self.plan.operations.push(operation);
                Reason::Deciding(format!("{victim} makes room for it"))
            }
            None => Reason::NoPlace(no_place),
        }
    }

    /// Why nothing of this VM may be started now, wherever there is a place.
    pub(super) fn held_up(&self) -> Option<Reason> {
        if let Some(lock) = self.state.lock.as_ref().filter(|_| !off(Rule::LockHoldsStarts)) {
            return Some(Reason::Locked { by: lock.by.clone(), why: lock.why.clone() });
        }
        let unmet = self.state.waits_for(&self.record.spec.policy.depend);
        if !unmet.is_empty() {
            return Some(Reason::DependsOn { on: unmet });
        }
        let after = self.flow.before(self.record.into())?;
        Some(Reason::StartsLater { after })
    }

    /// Where the operator wants it, and where not.
    fn wish(&self) -> (Option<NodeId>, BTreeSet<NodeId>) {
        let last = self.record.last_owner;
        match self.record.open_operation().map(|operation| (&operation.verb, &operation.phase)) {
            Some((Verb::Enable { on }, _)) => (*on, BTreeSet::new()),
            Some((Verb::Restart, OperationPhase::Halfway)) => (last, BTreeSet::new()),
            Some((Verb::Relocate { to: Some(to) }, _)) => (Some(*to), BTreeSet::new()),
            Some((Verb::Relocate { to: None }, _)) => (None, last.into_iter().collect()),
            _ => (None, BTreeSet::new()),
        }
    }

    pub(in crate::plan) fn can_take(&self, node: NodeId) -> bool {
        placement::candidates(self.state, self.liveness, self.load, self.record, &BTreeSet::new())
            .iter()
            .any(|candidate| candidate.node == node && candidate.refused.is_none())
    }

    pub(in crate::plan) fn is_about_to_be_heard(&self, node: NodeId) -> bool {
        let session = self.state.nodes.get(&node).and_then(|node| node.session());
        let heard = self.liveness.heard.get(&node);
        session.is_some() && heard.is_some_and(|it| Some(it.session) == session && !it.met)
    }

    fn is_among_the_best(&self, node: NodeId) -> bool {
        let none = BTreeSet::new();
        let all = placement::candidates(self.state, self.liveness, self.load, self.record, &none);
        let best = all.first().map(|best| best.rank);
        all.iter().any(|it| it.node == node && it.refused.is_none() && Some(it.rank) == best)
    }
}

fn decision_text(decision: &Decision) -> String {
    match decision {
        Decision::Start { why, .. } => format!("it starts: {why}"),
        Decision::Disable { why } | Decision::Delay { why, .. } => why.clone(),
        Decision::Stop { .. }
        | Decision::Migrate { .. }
        | Decision::Adopt { .. }
        | Decision::Settle
        | Decision::Conflict
        | Decision::Resume { .. }
        | Decision::Evict { .. }
        | Decision::FailOperation { .. }
        | Decision::Unfreeze
        | Decision::DependsMet
        | Decision::Move { .. }
        | Decision::AskMove { .. }
        | Decision::TellAgain { .. }
        | Decision::Fulfilled
        | Decision::StopForShutdown { .. } => String::new(),
    }
}
