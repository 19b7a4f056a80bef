//! All members stop, in reverse order.

use super::Planner;
use crate::command::ServiceDecision;
use crate::id::NodeId;
use crate::plan::Reason;
use crate::service::{MemberMode, VmStanding};
use crate::vm::Desired;

impl Planner<'_> {
    pub(super) fn stop_all(&mut self) -> Reason {
        if let Some(reason) = self.order_out() {
            return reason;
        }
        let record = self.record;
        if let Some(owner) = record.owner.filter(|owner| !self.has_session(*owner))
            && self.may_be_up_at(owner)
        {
            return self.owner_silent(owner);
        }
        if let Some(reason) = self.stop_next(|_| true) {
            return reason;
        }
        match record.held_by_owner() {
            Some(owner) if !self.has_session(owner) => self.owner_silent(owner),
            Some(owner) => self
                .strays(owner)
                .unwrap_or_else(|| Reason::MayRunOn { nodes: vec![self.place_text(owner)] }),
            None => self.decide(ServiceDecision::Down, "all of it is down"),
        }
    }

    /// Scripts that were its members once, as before a restore, and that nobody can order about any more.
    fn strays(&self, owner: NodeId) -> Option<Reason> {
        let record = self.record;
        let strays = record.seen.get(&owner)?.iter().filter(|it| record.spec.member(it).is_none());
        let names: Vec<_> = strays.map(ToString::to_string).collect();
        let place = self.state.node_name(owner);
        (!names.is_empty()).then(|| Reason::MemberStuck {
            why: format!(
                "{} may run on {place} from when it was a member of this service: stop it there, and its node will say so",
                names.join(" and ")
            ),
        })
    }

    /// Something of it may run there. What of it runs elsewhere does not wait for a node that runs nothing any more.
    fn may_be_up_at(&self, node: NodeId) -> bool {
        let mut vms = self.record.spec.vms().filter_map(|vm| self.state.vms.get(vm));
        self.record.may_run.contains_key(&node) || vms.any(|vm| vm.may_run.contains_key(&node))
    }

    /// Stops the last of these members that is not down; `None` when all of them are.
    pub(super) fn stop_next(
        &mut self,
        which: impl Fn(&crate::service::MemberSpec) -> bool,
    ) -> Option<Reason> {
        let record = self.record;
        let standings = record.standings(self.state);
        let last =
            standings.iter().rev().find(|it| which(it.spec) && it.standing != VmStanding::Down)?;
        let name = last.name().clone();
        Some(match last.standing {
            // It was told already, and its own record goes on from there.
            VmStanding::Failing if self.is_told_to_stop(last.spec) => self.waits_for(last.spec),
            VmStanding::Up(_) | VmStanding::Failing => {
                if let Some(reason) = self.frozen_member(last.spec) {
                    return Some(reason);
                }
                let what = format!("{name} stops");
                self.decide(ServiceDecision::StopMember { member: name }, what)
            }
            VmStanding::Stuck => {
                let why = self.stuck_text(last.spec);
                self.decide(ServiceDecision::Stuck { why: why.clone() }, why)
            }
            VmStanding::Busy if self.left_alone(last.spec) || self.goes_as_asked(last.spec) => {
                if let Some(reason) = self.frozen_member(last.spec) {
                    return Some(reason);
                }
                let what = format!("{name} stops");
                self.decide(ServiceDecision::StopMember { member: name }, what)
            }
            VmStanding::Busy | VmStanding::Down => self.waits_for(last.spec),
        })
    }

    /// What it waits for, or that only an operator can help.
    pub(super) fn waits_for(&self, spec: &crate::service::MemberSpec) -> Reason {
        let member = spec.name.to_string();
        let of_vm = spec.vm().and_then(|vm| self.plan.vms.get(vm));
        if let Some(Reason::RunsUnasked { nodes }) = of_vm {
            let nodes = nodes.join(" and ");
            let why = format!(
                "member {member} is to be down, and is on {nodes} though nobody here brought it there: stop it there"
            );
            return Reason::MemberStuck { why };
        }
        if let Some(reason) = of_vm.filter(|reason| reason.is_stuck()) {
            return Reason::MemberStuck { why: format!("member {member}: {reason}") };
        }
        Reason::MemberWaits { member, what: self.record.member_word(self.state, spec).into() }
    }

    fn is_told_to_stop(&self, spec: &crate::service::MemberSpec) -> bool {
        spec.vm()
            .and_then(|vm| self.state.vms.get(vm))
            .is_some_and(|vm| matches!(vm.desired, Desired::Stopped | Desired::Disabled))
    }

    /// A VM that runs, and that hands were off before it was a member: it goes with its service.
    fn left_alone(&self, spec: &crate::service::MemberSpec) -> bool {
        spec.vm()
            .and_then(|vm| self.state.vms.get(vm))
            .is_some_and(|vm| vm.desired == Desired::Ignored && vm.order.is_none())
    }

    /// A VM that nobody here brought to where it runs: it goes down with its service.
    fn goes_as_asked(&self, spec: &crate::service::MemberSpec) -> bool {
        let vm = spec.vm().and_then(|vm| self.state.vms.get(vm));
        vm.is_some_and(|vm| self.record.takes_down(vm))
    }

    pub(super) fn stuck_text(&self, spec: &crate::service::MemberSpec) -> String {
        let word = self.record.member_word(self.state, spec);
        let of_vm = spec.vm().and_then(|vm| self.state.vms.get(vm));
        let of_vm = of_vm.and_then(|vm| vm.failure.as_ref()).map(|failure| failure.why.clone());
        let it = self.record.members.get(&spec.name);
        match of_vm.or_else(|| it.and_then(|it| it.failure.clone())) {
            Some(why) => format!("member {} is {word}: {why}", spec.name),
            None => format!("member {} is {word}", spec.name),
        }
    }

    /// A VM that an operator works on is not touched by its service either.
    pub(super) fn frozen_member(&self, spec: &crate::service::MemberSpec) -> Option<Reason> {
        let vm = spec.vm().and_then(|vm| self.state.vms.get(vm))?;
        let freeze = vm.frozen.as_ref()?;
        let why = format!(
            "member {} is frozen by {} ({}); `berthctl unfreeze {}` lets its service go on",
            spec.name, freeze.by, freeze.why, vm.spec.name
        );
        Some(Reason::MemberStuck { why })
    }

    /// Whether a member is to be down while its service is up.
    pub(super) fn is_out(&self, spec: &crate::service::MemberSpec) -> bool {
        self.record.members.get(&spec.name).is_some_and(|it| it.mode != MemberMode::Keep)
    }
}
