//! A VM that runs well and is moved by the cluster's own will.

use std::collections::BTreeSet;

use super::Planner;
use crate::command::{Decision, MoveCause};
use crate::id::NodeId;
use crate::plan::failback::{self, Failback, Settled};
use crate::plan::{Reason, placement};

impl Planner<'_> {
    /// All that the cluster moves by its own will has to be seen running at one place in a living session, and nowhere
    /// else in question.
    pub(in crate::plan) fn may_move(&self, owner: NodeId) -> bool {
        let record = self.record;
        record.order.is_none()
            && record.may_run.keys().eq([&owner])
            && record.seen.get(&owner).is_some_and(|it| it.presence.holds_guest())
            && self.state.lock.is_none()
            && !self.state.braked()
            // A service's VMs move with it.
            && self.state.governing(&record.spec.name).is_none()
    }

    /// A better node of its failover domain is there.
    pub(super) fn failback(&mut self, owner: NodeId) -> Option<Reason> {
        if !self.may_move(owner) {
            return None;
        }
        let record = self.record;
        let settled = Settled {
            domain: record.spec.policy.failover_domain.as_ref(),
            owner,
            placed_at: record.placed_at,
            not_before: record.failback_not_before,
            way: match record.spec.cannot_migrate() {
                None => Ok(Some(record.spec.policy.migration)),
                Some(why) => Err(why),
            },
        };
        let able = || {
            let none = BTreeSet::new();
            placement::candidates(self.state, self.liveness, self.load, record, &none)
                .into_iter()
                .filter(|candidate| candidate.refused.is_none())
                .map(|candidate| candidate.node)
                .collect()
        };
        let found = failback::failback(self.state, self.flow, settled, able, self.now)?;
        let to = found.to();
        match found {
            Failback::Go { mode, why, .. } => {
                self.load.add(to, self.record);
                self.flow.comes_back(self.record.into());
                let what = why.clone();
                let cause = MoveCause::Failback;
                Some(self.decide(Decision::Move { from: owner, to, mode, cause, why }, what))
            }
            Failback::Wait { until, why, .. } => {
                if let Some(until) = until {
                    self.plan.wake(until);
                }
                Some(Reason::FailbackWaits { to: self.state.node_name(to), why })
            }
        }
    }

    /// It was made exclusive, or came by hand to where others are: it moves while it runs, when a node is free.
    pub(super) fn leave_to_be_alone(&mut self, owner: NodeId) -> Option<Reason> {
        let record = self.record;
        let leaves = self.load.tenants.must_leave(owner, record)
            && self.may_move(owner)
            && record.spec.cannot_migrate().is_none()
            && record.failback_not_before <= self.now;
        if !leaves {
            return None;
        }
        let here = BTreeSet::from([owner]);
        let place = placement::place(self.state, self.liveness, self.load, record, &here).ok()?;
        self.load.add(place.node, record);
        let mode = Some(record.spec.policy.migration);
        let cause = MoveCause::Exclusive;
        let why = "it is exclusive, and other VMs are on its node".to_owned();
        let what = why.clone();
        Some(self.decide(Decision::Move { from: owner, to: place.node, mode, cause, why }, what))
    }
}
