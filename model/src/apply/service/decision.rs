//! The leader's decisions about services: checked once more against the state they meet.

use std::collections::BTreeMap;

use crate::apply::report::FAILBACK_AGAIN_MS;
use crate::cluster::{ClusterState, Context};
use crate::command::{MoveCause, ServiceDecision};
use crate::event::EventKind;
use crate::id::{Generation, MemberName, NodeId, ServiceName};
use crate::rejection::Rejection;
use crate::sabotage::{Rule, off};
use crate::service::{
    MemberMode, ScriptState, ServiceOperation, ServiceState, ServiceVerb, VmStanding,
};
use crate::time::Timestamp;
use crate::vm::{Desired, MayRun, OperationPhase, Verb, VmState};

/// More than any restart limit that makes sense.
const RESTARTS_KEPT: usize = 100;

impl ClusterState {
    pub(in crate::apply) fn decide_service(
        &mut self,
        cx: &mut Context,
        name: &ServiceName,
        changed: u64,
        decision: &ServiceDecision,
    ) -> Result<(), Rejection> {
        let record = self.service(name)?;
        if record.changed != changed && !off(Rule::DecisionOnPresentState) {
            return Err(Rejection::Superseded { what: format!("service {name}") });
        }
        if record.is_frozen(cx.at) {
            return Err(record.wrong_state("it is frozen"));
        }
        self.must_not_be_paused()?;
        match decision {
            ServiceDecision::Begin { node, why, restart } => {
                self.begin(cx, name, *node, why, *restart)
            }
            ServiceDecision::StartMember { member } => self.start_member(cx, name, member),
            ServiceDecision::StopMember { member } => self.stop_member(cx, name, member),
            ServiceDecision::MigrateMember { member, mode } => {
                self.migrate_member(cx, name, member, *mode)
            }
            ServiceDecision::Up => self.service_up(cx, name),
            ServiceDecision::Cycle { member, why } => self.cycle(cx, name, member, why),
            ServiceDecision::Again => {
                for member in self.service_mut(cx, name)?.members.values_mut() {
                    if member.mode == MemberMode::Cycle {
                        member.mode = MemberMode::Keep;
                    }
                }
                Ok(())
            }
            ServiceDecision::Off { member, why } => self.switch_off(cx, name, member, why),
            ServiceDecision::Fail { why, start_failed } => {
                self.service_failed(cx, name, why, *start_failed)
            }
            ServiceDecision::Stop => self.begin_stop(cx, name),
            ServiceDecision::Down => self.service_down(cx, name),
            ServiceDecision::Stuck { why } => self.service_stuck(cx, name, why),
            ServiceDecision::Disable { why } => self.service_disabled(cx, name, why),
            ServiceDecision::Delay { until, why } => self.delay_service(cx, name, *until, why),
            ServiceDecision::Move { to, why } => self.move_service(cx, name, *to, why),
            ServiceDecision::FailOperation { why } => {
                self.end_service_operation(cx, name, OperationPhase::Failed(why.clone()))
            }
            ServiceDecision::AskMove { to, live, cause, why } => {
                self.ask_move(cx, name, (*to, *live), *cause, why)
            }
            ServiceDecision::DependsMet => {
                self.service_mut(cx, name)?.depends_met = true;
                Ok(())
            }
        }
    }

    /// The law for scripts, and for VMs once more: no start while another node may run any of it.
    fn must_run_nowhere_else(&self, name: &ServiceName, node: NodeId) -> Result<(), Rejection> {
        let record = self.service(name)?;
        let of_vms = record.spec.vms().filter_map(|vm| self.vms.get(vm));
        let places = of_vms.flat_map(|vm| vm.may_run.keys()).chain(record.may_run.keys());
        let elsewhere: std::collections::BTreeSet<_> =
            places.filter(|other| **other != node).map(|other| self.node_name(*other)).collect();
        if elsewhere.is_empty() || off(Rule::ServiceMayRunRefusal) {
            return Ok(());
        }
        Err(Rejection::MayRunElsewhere {
            vm: format!("service:{name}"),
            node: self.node_name(node),
            nodes: elsewhere.into_iter().collect::<Vec<_>>().join(", "),
        })
    }

    fn begin(
        &mut self,
        cx: &mut Context,
        name: &ServiceName,
        node: NodeId,
        why: &str,
        restart: bool,
    ) -> Result<(), Rejection> {
        self.must_have_session(node)?;
        self.must_not_be_locked()?;
        self.must_run_nowhere_else(name, node)?;
        let record = self.service(name)?;
        if cx.at < self.quiet_until && !off(Rule::RestoredIsUnknown) {
            return Err(record.wrong_state("the control plane was restored a moment ago"));
        }
        let down = matches!(record.state, ServiceState::Stopped | ServiceState::Recovering);
        if record.desired != Desired::Enabled || !down || record.order.is_some() {
            return Err(record.wrong_state("nothing may be started now"));
        }
        let recovering = record.state == ServiceState::Recovering;
        let has_scripts = record.spec.scripts().next().is_some();
        let depends_met = self.unmet(&record.spec.policy.depend).next().is_none();
        let by_hand = record.open_operation().is_some_and(|it| {
            it.cause.is_none()
                && matches!(it.verb, ServiceVerb::Enable { on: Some(to) } | ServiceVerb::Relocate { to: Some(to) }
                    if to == node)
        });
        let record = self.service_mut(cx, name)?;
        record.placed_at = by_hand.then_some(cx.at);
        record.depends_met = depends_met;
        record.cold = None;
        if restart {
            record.restarts.push(cx.at);
            let expire = record.spec.policy.restart_limit.expire_ms;
            record.restarts.retain(|moment| expire == 0 || cx.at.since(*moment) < expire);
            let excess = record.restarts.len().saturating_sub(RESTARTS_KEPT);
            record.restarts.drain(..excess);
        } else {
            record.restarts.clear();
        }
        record.restart_count += u32::from(recovering);
        record.generation = Generation(cx.index);
        record.owner = Some(node);
        record.may_run = match has_scripts {
            true => BTreeMap::from([(node, MayRun { since: cx.index })]),
            false => BTreeMap::new(),
        };
        // What runs there already and was not ordered yet is remembered: no lease binds it.
        record.seen.retain(|at, _| *at == node);
        for member in record.members.values_mut() {
            member.mode = MemberMode::Keep;
            member.script = ScriptState::Down;
            member.failure = None;
            member.tolerated.clear();
            member.restarts.clear();
        }
        record.set_state(cx, ServiceState::Starting);
        let text = format!("service {name} starts on {}: {why}", self.node_name(node));
        self.emit_service(cx, EventKind::ServiceStarting, name, Some(node), text);
        Ok(())
    }

    /// The leader asks what an operator could: that the service is moved.
    fn ask_move(
        &mut self,
        cx: &mut Context,
        name: &ServiceName,
        (to, live): (NodeId, bool),
        cause: MoveCause,
        why: &str,
    ) -> Result<(), Rejection> {
        self.must_have_session(to)?;
        self.must_not_be_locked()?;
        let record = self.service(name)?;
        let started = record.state == ServiceState::Started && record.desired == Desired::Enabled;
        let Some(owner) = record.owner.filter(|_| started) else {
            return Err(record.wrong_state("it cannot be moved now"));
        };
        if record.order.is_some() || record.open_operation().is_some() || owner == to {
            return Err(record.wrong_state("something of it is under way"));
        }
        record.spec.vms().try_for_each(|vm| self.must_not_be_frozen(cx, vm))?;
        let domain = record.spec.policy.failover_domain.clone();
        let record = self.service_mut(cx, name)?;
        record.operation = Some(ServiceOperation {
            request: cx.request,
            verb: match live {
                true => ServiceVerb::Migrate { to, mode: None },
                false => ServiceVerb::Relocate { to: Some(to) },
            },
            at: cx.at,
            phase: OperationPhase::Pending,
            cause: Some(cause),
        });
        self.note_failback(cx, cause, domain);
        let (from, target) = (self.node_name(owner), self.node_name(to));
        let text =
            format!("service {name} is moved from {from} to {target}: {}; {why}", cause.as_str());
        self.emit_service(cx, EventKind::ServiceMigrating, name, Some(owner), text);
        Ok(())
    }

    fn service_up(&mut self, cx: &mut Context, name: &ServiceName) -> Result<(), Rejection> {
        let record = self.service(name)?;
        let live = matches!(
            record.state,
            ServiceState::Starting | ServiceState::Started | ServiceState::Migrating
        );
        if !live || record.order.is_some() {
            return Err(record.wrong_state("it is not starting"));
        }
        let (owner, before, partial) = (record.owner, record.state, record.is_partial());
        let asked = record.open_operation().cloned();
        let record = self.service_mut(cx, name)?;
        record.failure = None;
        record.cold = None;
        record.set_state(cx, ServiceState::Started);
        if before != ServiceState::Started {
            let place =
                owner.map_or_else(String::new, |owner| format!(" on {}", self.node_name(owner)));
            let rest = match self.service(name)?.is_partial() || partial {
                true => ", partially",
                false => "",
            };
            let text = format!("service {name} is started{place}{rest}");
            self.emit_service(cx, EventKind::ServiceStarted, name, owner, text);
        }
        match asked.as_ref().map(|operation| &operation.verb) {
            Some(ServiceVerb::Migrate { to, .. }) if Some(*to) != owner => self
                .end_service_operation(
                    cx,
                    name,
                    OperationPhase::Failed("it is back where it was".into()),
                ),
            // Asked while it was starting or migrating: it has not been stopped for that yet.
            Some(ServiceVerb::Restart | ServiceVerb::Relocate { .. })
                if asked.as_ref().is_some_and(|it| it.phase == OperationPhase::Pending) =>
            {
                Ok(())
            }
            Some(ServiceVerb::Disable | ServiceVerb::Stop) | None => Ok(()),
            Some(_) => self.end_service_operation(cx, name, OperationPhase::Done),
        }
    }

    fn cycle(
        &mut self,
        cx: &mut Context,
        name: &ServiceName,
        root: &MemberName,
        why: &str,
    ) -> Result<(), Rejection> {
        let record = self.service_mut(cx, name)?;
        let spec = record.spec.clone();
        for (member, it) in &mut record.members {
            if spec.is_below(member, root) && it.mode == MemberMode::Keep {
                it.mode = MemberMode::Cycle;
            }
            if member == root {
                it.restarts.push(cx.at);
                let excess = it.restarts.len().saturating_sub(RESTARTS_KEPT);
                it.restarts.drain(..excess);
            }
        }
        let node = record.owner;
        let text = format!("member {root} of service {name} is restarted alone: {why}");
        self.emit_service(cx, EventKind::ServiceMemberFailed, name, node, text);
        Ok(())
    }

    fn switch_off(
        &mut self,
        cx: &mut Context,
        name: &ServiceName,
        root: &MemberName,
        why: &str,
    ) -> Result<(), Rejection> {
        let record = self.service_mut(cx, name)?;
        let spec = record.spec.clone();
        for (member, it) in &mut record.members {
            if spec.is_below(member, root) {
                it.mode = MemberMode::Off;
            }
            if member == root {
                it.failure = Some(why.to_owned());
            }
        }
        let node = record.owner;
        let convalescing = record
            .open_operation()
            .is_some_and(|operation| operation.verb == ServiceVerb::Convalesce);
        let text = format!(
            "member {root} of service {name} stays down, and the service is partial: {why}; `berthctl convalesce service:{name}` tries again"
        );
        self.emit_service(cx, EventKind::ServicePartial, name, node, text);
        match convalescing {
            true => {
                let why = OperationPhase::Failed(format!("{root}: {why}"));
                self.end_service_operation(cx, name, why)
            }
            false => Ok(()),
        }
    }

    fn service_failed(
        &mut self,
        cx: &mut Context,
        name: &ServiceName,
        why: &str,
        start_failed: bool,
    ) -> Result<(), Rejection> {
        let record = self.service(name)?;
        let Some(node) = record.owner else {
            return Err(record.wrong_state("it is on no node"));
        };
        let place = self.node_name(node);
        let ends = record.open_operation().is_some_and(|operation| {
            !start_failed
                && matches!(
                    operation.verb,
                    ServiceVerb::Migrate { .. }
                        | ServiceVerb::Restart
                        | ServiceVerb::Relocate { .. }
                )
        });
        let record = self.service_mut(cx, name)?;
        record.fail(cx, why.to_owned(), node, false);
        if let (true, Some(failure)) = (start_failed, &mut record.failure) {
            failure.tried.insert(node);
            // As a VM: the better node could not start it, and is not tried again at once.
            record.failback_not_before = cx.at.plus(FAILBACK_AGAIN_MS);
        }
        record.set_state(cx, ServiceState::Stopping);
        let text = format!("service {name} failed on {place}, and all of it stops: {why}");
        self.emit_service(cx, EventKind::ServiceFailed, name, Some(node), text);
        if ends {
            self.end_service_operation(cx, name, OperationPhase::Failed(why.to_owned()))?;
        }
        Ok(())
    }

    /// All stop in reverse order; what could not be stopped before is stopped once more.
    fn begin_stop(&mut self, cx: &mut Context, name: &ServiceName) -> Result<(), Rejection> {
        let record = self.service(name)?;
        let node = record.owner;
        for vm in record.spec.vms() {
            // A frozen one keeps the service where it is.
            if self.vm(vm)?.state == VmState::Failed && self.vm(vm)?.frozen.is_none() {
                self.ask(cx, vm, Verb::Disable)?.desired = Desired::Stopped;
            }
        }
        let record = self.service_mut(cx, name)?;
        record.failure = None;
        for member in record.members.values_mut() {
            if member.script == ScriptState::Stuck {
                member.script = ScriptState::Bad;
            }
        }
        record.set_state(cx, ServiceState::Stopping);
        let text = format!("service {name} stops");
        self.emit_service(cx, EventKind::ServiceStopping, name, node, text);
        Ok(())
    }

    fn service_down(&mut self, cx: &mut Context, name: &ServiceName) -> Result<(), Rejection> {
        let record = self.service(name)?;
        let up = record.standings(self).into_iter().find(|it| it.standing != VmStanding::Down);
        if let Some(up) = up
            && matches!(record.state, ServiceState::Stopping | ServiceState::Failed)
        {
            let why = format!("member {} is not down", up.name());
            return Err(record.wrong_state(&why));
        }
        if let Some(owner) = record.held_by_owner() {
            let why = format!(
                "{} has not said yet that none of its scripts runs there",
                self.node_name(owner)
            );
            return Err(record.wrong_state(&why));
        }
        let record = self.service_mut(cx, name)?;
        record.last_owner = record.owner.take().or(record.last_owner);
        let node = record.last_owner;
        let recovers = record.failure.is_some() && record.desired == Desired::Enabled;
        let state = match record.desired {
            Desired::Enabled if recovers => ServiceState::Recovering,
            Desired::Enabled | Desired::Stopped | Desired::Ignored => ServiceState::Stopped,
            Desired::Disabled => ServiceState::Disabled,
        };
        if !recovers {
            record.failure = None;
        }
        record.set_state(cx, state);
        let verb = record.open_operation().map(|operation| operation.verb.clone());
        if let Some(operation) = &mut record.operation
            && operation.phase == OperationPhase::Pending
            && matches!(operation.verb, ServiceVerb::Restart | ServiceVerb::Relocate { .. })
        {
            operation.phase = OperationPhase::Halfway;
        }
        let text = format!("service {name} is down");
        self.emit_service(cx, EventKind::ServiceStopped, name, node, text);
        match verb {
            Some(ServiceVerb::Disable | ServiceVerb::Stop) => {
                self.end_service_operation(cx, name, OperationPhase::Done)
            }
            _ => Ok(()),
        }
    }

    fn service_stuck(
        &mut self,
        cx: &mut Context,
        name: &ServiceName,
        why: &str,
    ) -> Result<(), Rejection> {
        let record = self.service_mut(cx, name)?;
        let Some(node) = record.owner.or(record.last_owner) else {
            return Err(record.wrong_state("it is on no node"));
        };
        record.fail(cx, why.to_owned(), node, false);
        record.set_state(cx, ServiceState::Failed);
        let text = format!("service {name}: {why}");
        self.emit_service(cx, EventKind::ServiceStopFailed, name, Some(node), text);
        self.end_service_operation(cx, name, OperationPhase::Failed(why.to_owned()))
    }

    fn service_disabled(
        &mut self,
        cx: &mut Context,
        name: &ServiceName,
        why: &str,
    ) -> Result<(), Rejection> {
        let record = self.service_mut(cx, name)?;
        if !record.may_run.is_empty() || record.order.is_some() || record.owner.is_some() {
            return Err(record.wrong_state("it may still be running somewhere"));
        }
        record.desired = Desired::Disabled;
        record.set_state(cx, ServiceState::Disabled);
        let text = format!("service {name} stays down: {why}");
        self.emit_service(cx, EventKind::ServiceDisabled, name, None, text);
        self.end_service_operation(cx, name, OperationPhase::Failed(why.to_owned()))
    }

    fn delay_service(
        &mut self,
        cx: &mut Context,
        name: &ServiceName,
        until: Timestamp,
        why: &str,
    ) -> Result<(), Rejection> {
        let record = self.service_mut(cx, name)?;
        let Some(failure) = &mut record.failure else {
            return Err(Rejection::Superseded { what: format!("service {name}") });
        };
        failure.not_before = until;
        failure.tried.clear();
        failure.rounds += 1;
        let wait = until.since(cx.at).div_ceil(1_000);
        let text = format!("service {name} is tried again in {wait} s: {why}");
        self.emit_service(cx, EventKind::ServiceRecoveryDelayed, name, None, text);
        self.end_service_operation(cx, name, OperationPhase::Failed(why.to_owned()))
    }

    /// The service's node becomes another one, while its VMs run: its scripts are down, so that nothing holds it where
    /// it was but the VMs, which move by migrations of their own.
    fn move_service(
        &mut self,
        cx: &mut Context,
        name: &ServiceName,
        to: NodeId,
        why: &str,
    ) -> Result<(), Rejection> {
        self.must_have_session(to)?;
        let record = self.service(name)?;
        let down = record.members.values().all(|it| it.script == ScriptState::Down);
        let live = matches!(record.state, ServiceState::Started | ServiceState::Migrating);
        if !down || !live || record.order.is_some() || !record.may_run.is_empty() {
            return Err(record.wrong_state("its scripts are not down everywhere"));
        }
        let aim = record.open_operation().map(|operation| operation.verb.clone());
        let by_hand = record.open_operation().is_some_and(|it| {
            it.cause.is_none()
                && matches!(it.verb, ServiceVerb::Migrate { to: aim, .. } if aim == to)
        });
        let record = self.service_mut(cx, name)?;
        record.placed_at = by_hand.then_some(cx.at);
        record.last_owner = record.owner.replace(to).or(record.last_owner);
        record.generation = Generation(cx.index);
        record.set_state(cx, ServiceState::Migrating);
        let text = format!("service {name} migrates to {}: {why}", self.node_name(to));
        self.emit_service(cx, EventKind::ServiceMigrating, name, Some(to), text);
        match aim {
            Some(ServiceVerb::Migrate { to: aim, .. }) if aim != to => {
                self.end_service_operation(cx, name, OperationPhase::Failed(why.to_owned()))
            }
            _ => Ok(()),
        }
    }
}
