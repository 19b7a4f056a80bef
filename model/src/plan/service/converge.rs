//! A service that has a node: what is to be down there is stopped, what is to be up is started, what failed is dealt with.

use super::Planner;
use crate::command::ServiceDecision;
use crate::id::NodeId;
use crate::plan::Reason;
use crate::recovery::{RecoveryPolicy, Remedy, remedy};
use crate::service::{
    MemberKind, MemberMode, MemberSpec, MemberWeight, ScriptState, ServiceState, ServiceVerb,
    VmStanding,
};
use crate::vm::{Desired, OperationPhase, Verb, VmState};

impl Planner<'_> {
    pub(super) fn converge(&mut self, owner: NodeId) -> Reason {
        if let Some(reason) = self.stuck() {
            return reason;
        }
        if let Some(reason) = self.dependencies() {
            return reason;
        }
        if self.record.state == ServiceState::Started
            && let Some(reason) = self.asked(owner)
        {
            return reason;
        }
        if let Some(reason) = self.failing(owner) {
            return reason;
        }
        // What is to be down goes first: an independent restart, or what stays down.
        let out: Vec<_> = self
            .record
            .spec
            .members
            .iter()
            .filter(|it| self.is_out(it))
            .map(|it| it.name.clone())
            .collect();
        if let Some(reason) = self.stop_next(|spec| out.contains(&spec.name)) {
            return reason;
        }
        if self.record.members.values().any(|it| it.mode == MemberMode::Cycle) {
            return self.decide(ServiceDecision::Again, "what was stopped starts again");
        }
        if self.record.state == ServiceState::Migrating
            && let Some(reason) = self.vms_first(owner)
        {
            return reason;
        }
        self.start_next(owner)
    }

    /// A stop that failed, or a VM that only an operator can help.
    fn stuck(&mut self) -> Option<Reason> {
        let standings = self.record.standings(self.state);
        let stuck = standings.iter().find(|it| it.standing == VmStanding::Stuck)?;
        let why = self.stuck_text(stuck.spec);
        let of_vm = stuck.spec.vm().and_then(|vm| self.state.vms.get(vm));
        if of_vm.is_some_and(|vm| matches!(vm.state, VmState::Conflict | VmState::Lost)) {
            // The VM's own record says what can be done.
            return Some(Reason::MemberStuck { why });
        }
        Some(self.decide(ServiceDecision::Stuck { why: why.clone() }, why))
    }

    /// What the operator asked of a started service.
    fn asked(&mut self, owner: NodeId) -> Option<Reason> {
        let operation = self.record.open_operation()?;
        let what = "it stops, to start again";
        Some(match &operation.verb {
            ServiceVerb::Restart => self.decide(ServiceDecision::Stop, what),
            ServiceVerb::Relocate { to: Some(to) } => match self.refusal(*to) {
                None => self.decide(ServiceDecision::Stop, "it stops, to start elsewhere"),
                Some(why) => self.refuse(*to, &why),
            },
            // Stopping it is worth it only when another node can take it.
            ServiceVerb::Relocate { to: None } => {
                let here = [owner].into();
                let choices = self.choices(&here);
                match self.best(choices, &here) {
                    Ok(_) => self.decide(ServiceDecision::Stop, "it stops, to start elsewhere"),
                    Err(no_place) => {
                        let why = no_place.to_string();
                        self.decide(ServiceDecision::FailOperation { why: why.clone() }, why)
                    }
                }
            }
            ServiceVerb::Migrate { to, .. } if *to != owner => {
                if let Some(why) = self.refusal(*to) {
                    return Some(self.refuse(*to, &why));
                }
                // Its scripts let go first; its VMs run on.
                let is_script = |spec: &MemberSpec| matches!(spec.kind, MemberKind::Script(_));
                if let Some(reason) = self.stop_next(is_script) {
                    return Some(reason);
                }
                if let Some(reason) = self.scripts_elsewhere(None) {
                    return Some(reason);
                }
                let why = "asked for by the operator".to_owned();
                self.decide(ServiceDecision::Move { to: *to, why }, "its VMs migrate")
            }
            ServiceVerb::Enable { .. }
            | ServiceVerb::Migrate { .. }
            | ServiceVerb::Convalesce
            | ServiceVerb::Disable
            | ServiceVerb::Stop => return None,
        })
    }

    fn refuse(&mut self, node: NodeId, why: &str) -> Reason {
        let why = format!("{} cannot take it: {why}", self.state.node_name(node));
        self.decide(ServiceDecision::FailOperation { why: why.clone() }, why)
    }

    /// A member failed: alone restarted, left down, or the end of the whole service here.
    fn failing(&mut self, owner: NodeId) -> Option<Reason> {
        let record = self.record;
        let standings = record.standings(self.state);
        let failing = standings.iter().find(|it| {
            it.standing == VmStanding::Failing
                && !self.is_out(it.spec)
                && self.frozen_member(it.spec).is_none()
        })?;
        let member = failing.spec;
        let why = self.failure_text(member);
        let start_failed = self.start_failed(member, owner);
        let root = record.spec.repaired_with(&member.name);
        let fail = |start_failed| ServiceDecision::Fail { why: why.clone(), start_failed };
        let Some(root) = root else {
            return Some(self.decide(fail(start_failed), why.clone()));
        };
        let off = ServiceDecision::Off { member: root.name.clone(), why: why.clone() };
        let alone = root.weight == MemberWeight::NonCritical;
        // While the whole service starts, or when it does not start again, being restarted alone is over.
        let spent = start_failed || record.state == ServiceState::Starting;
        if spent || (alone && root.restart_limit.max_restarts == 0) {
            let start_failed = start_failed && record.state == ServiceState::Starting;
            return Some(match alone {
                true => self.decide(off, why),
                false => self.decide(fail(start_failed), why.clone()),
            });
        }
        let restarts = record.members.get(&root.name).map(|it| it.restarts.as_slice());
        let restarts = restarts.unwrap_or_default();
        let policy = RecoveryPolicy::Restart;
        Some(match remedy(policy, root.restart_limit, restarts, self.now) {
            Remedy::RestartInPlace { wait_ms, .. } => {
                let due = restarts.last().map_or(self.now, |last| last.plus(wait_ms));
                if due > self.now {
                    self.plan.wake(due);
                    return Some(Reason::WaitingUntil { wait_ms: due.since(self.now), why });
                }
                let what = format!("{} is restarted alone", root.name);
                self.decide(ServiceDecision::Cycle { member: root.name.clone(), why }, what)
            }
            Remedy::Relocate | Remedy::Disable if alone => self.decide(off, why),
            Remedy::Relocate | Remedy::Disable => {
                let why =
                    format!("{why}, after as many restarts of {} alone as it may have", root.name);
                let fail = ServiceDecision::Fail { why: why.clone(), start_failed: false };
                self.decide(fail, why)
            }
        })
    }

    fn failure_text(&self, member: &MemberSpec) -> String {
        let of_vm = member.vm().and_then(|vm| self.state.vms.get(vm));
        let of_vm = of_vm.and_then(|vm| vm.failure.as_ref());
        if let Some(failure) = of_vm {
            return format!("{}: {}", member.name, failure.why);
        }
        let it = self.record.members.get(&member.name);
        it.and_then(|it| it.failure.clone()).unwrap_or_else(|| format!("{} failed", member.name))
    }

    fn start_failed(&self, member: &MemberSpec, owner: NodeId) -> bool {
        let of_vm = member.vm().and_then(|vm| self.state.vms.get(vm));
        match of_vm {
            Some(vm) => vm.failure.as_ref().is_some_and(|it| it.tried.contains(&owner)),
            None => {
                let it = self.record.members.get(&member.name);
                it.is_some_and(|it| it.script == ScriptState::Unstarted)
            }
        }
    }

    /// A migration under way: no script starts before every VM is there. One that cannot come brings all of them back.
    fn vms_first(&mut self, owner: NodeId) -> Option<Reason> {
        let record = self.record;
        let standings = record.standings(self.state);
        let away = standings.iter().find(|it| {
            it.spec.vm().is_some()
                && !self.is_out(it.spec)
                && !matches!(it.standing, VmStanding::Up(at) if at == owner)
        })?;
        let name = away.name().clone();
        let at = match away.standing {
            VmStanding::Up(at) => at,
            // Down or not known: it is started, or waited for, in its turn.
            VmStanding::Down => return None,
            VmStanding::Busy | VmStanding::Failing | VmStanding::Stuck => {
                return Some(self.waits_for(away.spec));
            }
        };
        let vm = away.spec.vm().and_then(|vm| self.state.vms.get(vm))?;
        if vm.open_operation().is_some() {
            let what = "migrating".to_owned();
            return Some(Reason::MemberWaits { member: name.to_string(), what });
        }
        if let Some(reason) = self.frozen_member(away.spec) {
            return Some(reason);
        }
        let failed = vm.operation.as_ref().filter(|it| {
            let there = matches!(it.verb, Verb::Migrate { to, .. } if to == owner);
            there && it.at >= record.state_since && matches!(it.phase, OperationPhase::Failed(_))
        });
        let mode = match record.operation.as_ref().map(|it| &it.verb) {
            Some(ServiceVerb::Migrate { mode: Some(mode), .. }) => *mode,
            _ => vm.spec.policy.migration,
        };
        match failed.map(|it| &it.phase) {
            None => {
                let what = format!("{name} migrates");
                Some(self.decide(ServiceDecision::MigrateMember { member: name, mode }, what))
            }
            // Once: when the way back fails as well, what runs is left where it runs.
            Some(OperationPhase::Failed(why)) if self.is_asked_to_migrate() => {
                if let Some(reason) = self.scripts_elsewhere(None) {
                    return Some(reason);
                }
                let why = format!("{name} did not get to {}: {why}", self.state.node_name(owner));
                Some(self.decide(ServiceDecision::Move { to: at, why: why.clone() }, why))
            }
            Some(_) => None,
        }
    }

    /// What was asked of it since its migration failed is another thing.
    fn is_asked_to_migrate(&self) -> bool {
        let open = self.record.open_operation();
        open.is_some_and(|open| matches!(open.verb, ServiceVerb::Migrate { .. }))
    }

    /// The first member in order that is to be up and is not.
    fn start_next(&mut self, owner: NodeId) -> Reason {
        let record = self.record;
        let standings = record.standings(self.state);
        let mut elsewhere = None;
        for it in standings.iter().filter(|it| !self.is_out(it.spec)) {
            let name = it.name().clone();
            match it.standing {
                VmStanding::Up(at) if at == owner => {}
                VmStanding::Up(at) => {
                    let node = self.state.node_name(at);
                    elsewhere = Some(Reason::MemberElsewhere { member: name.to_string(), node });
                }
                VmStanding::Down => return self.start_one(it.spec, owner),
                VmStanding::Busy if self.waits_to_be_taken(it.spec) => {
                    return self.start_one(it.spec, owner);
                }
                VmStanding::Busy | VmStanding::Failing | VmStanding::Stuck => {
                    if let Some(reason) = self.frozen_member(it.spec) {
                        return reason;
                    }
                    return self.waits_for(it.spec);
                }
            }
        }
        let open = record.open_operation().is_some();
        if record.state != ServiceState::Started || open || record.failure.is_some() {
            return self.decide(ServiceDecision::Up, "all of it that is wanted is up");
        }
        elsewhere
            .or_else(|| self.leave(owner))
            .or_else(|| self.leave_to_be_alone(owner))
            .or_else(|| self.failback(owner))
            .unwrap_or(Reason::AsWanted)
    }

    /// A VM that may run, and is not wanted by itself: it becomes the service's. So does one that runs and that hands were off
    /// before it was a member.
    fn waits_to_be_taken(&self, spec: &MemberSpec) -> bool {
        spec.vm().and_then(|vm| self.state.vms.get(vm)).is_some_and(|vm| {
            let left_alone = vm.desired == Desired::Ignored && vm.state == VmState::Started;
            vm.desired != Desired::Enabled
                && vm.order.is_none()
                && (left_alone || matches!(vm.state, VmState::Disabled | VmState::Stopped))
        })
    }

    fn start_one(&mut self, spec: &MemberSpec, owner: NodeId) -> Reason {
        if let Some(lock) = &self.state.lock {
            return Reason::Locked { by: lock.by.clone(), why: lock.why.clone() };
        }
        if let Some(reason) = self.frozen_member(spec) {
            return reason;
        }
        if let MemberKind::Script(_) = spec.kind
            && let Some(reason) = self.scripts_elsewhere(Some(owner))
        {
            return reason;
        }
        let vm = spec.vm().and_then(|vm| self.state.vms.get(vm));
        if let Some(vm) = vm.filter(|vm| vm.seen.is_empty()) {
            // It has its own dependencies besides its service's.
            let on = self.state.waits_for(&vm.spec.policy.depend);
            if !on.is_empty() {
                return Reason::DependsOn { on };
            }
            // Its start would be refused, for as long as somebody works on its disks.
            if let Some(claim) = &vm.claim {
                return Reason::Claimed { reason: claim.reason.clone(), by: claim.by.clone() };
            }
            let none = std::collections::BTreeSet::new();
            let all =
                crate::plan::placement::candidates(self.state, self.liveness, self.load, vm, &none);
            let refused = all.into_iter().find(|it| it.node == owner).and_then(|it| it.refused);
            if let Some(refused) = refused {
                let node = self.state.node_name(owner);
                let why = format!("{node} cannot take {}: {refused}", spec.name);
                let fail = ServiceDecision::Fail { why: why.clone(), start_failed: true };
                return self.decide(fail, why);
            }
            self.load.add(owner, vm);
        }
        let what = format!("{} starts", spec.name);
        self.decide(ServiceDecision::StartMember { member: spec.name.clone() }, what)
    }
}
