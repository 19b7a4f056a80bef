//! A service that runs well goes back to a better node of its failover domain: with its VMs running where it says
//! `migrate_together`, else by stop and start. When, and what holds it up, is decided as for a VM.

use std::collections::BTreeSet;

use super::Planner;
use crate::command::{MoveCause, ServiceDecision};
use crate::id::NodeId;
use crate::plan::Reason;
use crate::plan::failback::{self, Failback, Settled};
use crate::service::VmStanding;

impl Planner<'_> {
    /// All of it is seen at one place in a living session, and nowhere else in question.
    pub(super) fn may_move(&self, owner: NodeId) -> bool {
        let record = self.record;
        let there = |node: &NodeId| *node == owner;
        let mut vms = record.spec.vms().filter_map(|vm| self.state.vms.get(vm));
        record.order.is_none()
            && record.open_operation().is_none()
            && record.may_run.keys().all(there)
            && self
                .standings()
                .iter()
                .all(|it| self.is_out(it.spec) || it.standing == VmStanding::Up(owner))
            && vms.all(|vm| vm.frozen.is_none() && vm.may_run.keys().all(there))
            && self.state.lock.is_none()
            && !self.state.braked()
    }

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
            way: self.way(),
        };
        let able = || {
            let choices = self.choices(&BTreeSet::new()).into_iter();
            choices.filter(|it| it.refused.is_none()).map(|it| it.node).collect()
        };
        match failback::failback(self.state, self.flow, settled, able, self.now)? {
            Failback::Go { to, mode, why } => {
                for vm in record.spec.vms().filter_map(|vm| self.state.vms.get(vm)) {
                    self.load.add(to, vm);
                }
                self.flow.comes_back(record.into());
                let (what, live) = (why.clone(), mode.is_some());
                let cause = MoveCause::Failback;
                Some(self.decide(ServiceDecision::AskMove { to, live, cause, why }, what))
            }
            Failback::Wait { to, until, why } => {
                if let Some(until) = until {
                    self.plan.wake(until);
                }
                Some(Reason::FailbackWaits { to: self.state.node_name(to), why })
            }
        }
    }

    /// How it moves: its VMs as their policies say, or all of it by stop and start.
    pub(super) fn way(&self) -> Result<Option<crate::vm::MigrationMode>, String> {
        if !self.record.spec.policy.migrate_together {
            return Ok(None);
        }
        let mut mode = None;
        for vm in self.record.spec.vms().filter_map(|vm| self.state.vms.get(vm)) {
            if let Some(why) = vm.spec.cannot_migrate() {
                return Err(format!("VM {}: {why}", vm.spec.name));
            }
            mode = mode.or(Some(vm.spec.policy.migration));
        }
        Ok(mode)
    }
}
