//! A service that wants its node for itself, and one that makes room for another.

use std::collections::BTreeSet;

use super::Planner;
use crate::cluster::ClusterState;
use crate::command::{MoveCause, ServiceDecision};
use crate::id::NodeId;
use crate::liveness::Liveness;
use crate::plan::flow::Flow;
use crate::plan::load::Load;
use crate::plan::placement::NoPlace;
use crate::plan::{Plan, Reason, exclusive};
use crate::service::ServiceRecord;
use crate::time::Timestamp;

/// Asks something of a service's planner that counts nothing and decides nothing.
fn asked<T>(
    (state, liveness, now): (&ClusterState, &Liveness, Timestamp),
    load: &Load,
    record: &ServiceRecord,
    ask: impl FnOnce(&Planner<'_>) -> T,
) -> T {
    let (mut load, mut flow, mut plan) = (load.clone(), Flow::default(), Plan::default());
    let (load, flow, plan) = (&mut load, &mut flow, &mut plan);
    ask(&Planner { state, liveness, now, load, flow, record, plan })
}

/// Where a service could go from here, and whether its VMs run on meanwhile.
pub(in crate::plan) fn elsewhere(
    state: &ClusterState,
    liveness: &Liveness,
    now: Timestamp,
    load: &Load,
    record: &ServiceRecord,
    here: &BTreeSet<NodeId>,
) -> Option<(NodeId, bool)> {
    asked((state, liveness, now), load, record, |planner| {
        let (node, _) = planner.best(planner.choices(here), here).ok()?;
        Some((node, matches!(planner.way(), Ok(Some(_)))))
    })
}

impl Planner<'_> {
    /// It may take the node of an exclusive one that comes after it.
    pub(super) fn no_place(&mut self, no_place: NoPlace) -> Reason {
        if self.held_up().is_some() {
            return Reason::NoPlace(no_place);
        }
        let record = self.record;
        let at = (self.state, self.liveness, self.now);
        let takes = |load: &Load, node: NodeId| {
            asked(at, load, record, |planner| planner.refusal(node).is_none())
        };
        let number = exclusive::number_of(self.state, record);
        let depend = record.spec.policy.depend.as_slice();
        let first = (format!("service:{}", record.spec.name), number, depend);
        match exclusive::displace(at, self.load, first, &no_place, takes) {
            Some((victim, operation)) => {
                self.plan.operations.push(operation);
                Reason::Deciding(format!("{victim} makes room for it"))
            }
            None => Reason::NoPlace(no_place),
        }
    }

    /// It was made exclusive, or came by hand to where others are: it moves while its VMs run, when a node is free.
    pub(super) fn leave_to_be_alone(&mut self, owner: NodeId) -> Option<Reason> {
        let record = self.record;
        let number = exclusive::number_of(self.state, record);
        let leaves = self.load.tenants.service_must_leave(owner, &record.spec.name, number)
            && self.may_move(owner)
            && matches!(self.way(), Ok(Some(_)))
            && record.failback_not_before <= self.now;
        if !leaves {
            return None;
        }
        let here = BTreeSet::from([owner]);
        let (to, _) = self.best(self.choices(&here), &here).ok()?;
        self.load.tenants.add_service(to, &record.spec.name, number);
        let why = "it is exclusive, and others are on its node".to_owned();
        let what = why.clone();
        let cause = MoveCause::Exclusive;
        Some(self.decide(ServiceDecision::AskMove { to, live: true, cause, why }, what))
    }
}
