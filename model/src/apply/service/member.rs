//! One member of a service starts, stops or migrates: a script by an order of the service's own, a VM by the decisions
//! of its own record.

use std::sync::Arc;

use crate::cluster::{ClusterState, Context};
use crate::id::{MemberName, NodeId, OrderId, ServiceName, VmName};
use crate::rejection::Rejection;
use crate::sabotage::{Rule, off};
use crate::service::{
    MemberKind, MemberMode, MemberSpec, ScriptIntent, ScriptOrderRecord, ScriptState,
    ServiceRecord, ServiceState,
};
use crate::vm::{Desired, MayRun, MigrationMode, OperationPhase, Verb, VmState};

impl ClusterState {
    fn member_of(
        &self,
        record: &ServiceRecord,
        member: &MemberName,
    ) -> Result<(MemberSpec, NodeId), Rejection> {
        let spec = record.spec.member(member).cloned();
        let spec = spec.ok_or_else(|| record.wrong_state("it has no such member"))?;
        let owner = record.owner.ok_or_else(|| record.wrong_state("it is on no node"))?;
        Ok((spec, owner))
    }

    pub(super) fn start_member(
        &mut self,
        cx: &mut Context,
        name: &ServiceName,
        member: &MemberName,
    ) -> Result<(), Rejection> {
        let record = self.service(name)?;
        let (spec, owner) = self.member_of(&record, member)?;
        self.must_have_session(owner)?;
        self.must_not_be_locked()?;
        let live = matches!(
            record.state,
            ServiceState::Starting | ServiceState::Started | ServiceState::Migrating
        );
        let wanted =
            record.members.get(member).is_some_and(|member| member.mode == MemberMode::Keep);
        if record.desired != Desired::Enabled || !live || !wanted || record.order.is_some() {
            return Err(record.wrong_state("that member may not be started now"));
        }
        match &spec.kind {
            MemberKind::Vm(vm) => self.start_vm_member(cx, name, vm, owner),
            MemberKind::Script(_) => {
                let elsewhere: Vec<_> = record
                    .may_run
                    .keys()
                    .filter(|other| **other != owner)
                    .map(|other| self.node_name(*other))
                    .collect();
                if !elsewhere.is_empty() && !off(Rule::ServiceMayRunRefusal) {
                    return Err(Rejection::MayRunElsewhere {
                        vm: format!("service:{name}"),
                        node: self.node_name(owner),
                        nodes: elsewhere.join(", "),
                    });
                }
                let down = record.members.get(member).map(|it| it.script);
                if down != Some(ScriptState::Down) {
                    return Err(record.wrong_state("that member is not down"));
                }
                let record = self.service_mut(cx, name)?;
                // The node enters before the order leaves.
                record.may_run.insert(owner, MayRun { since: cx.index });
                record.give_script_order(cx, owner, member, ScriptIntent::Start);
                Ok(())
            }
        }
    }

    /// The ordinary start of a VM, with all its checks, on the service's node. One that is seen there already is left
    /// to be tracked.
    fn start_vm_member(
        &mut self,
        cx: &mut Context,
        name: &ServiceName,
        vm: &VmName,
        owner: NodeId,
    ) -> Result<(), Rejection> {
        self.must_not_be_frozen(cx, vm)?;
        let before = self.vm(vm)?;
        self.hands_on(cx, vm)?;
        let record = self.vm_mut(cx, vm)?;
        record.desired = Desired::Enabled;
        if record.state == VmState::Disabled {
            record.set_state(cx, VmState::Stopped);
            record.failure = None;
        }
        let starts = record.may_run.is_empty() && record.seen.is_empty() && record.order.is_none();
        let changed = before.desired != Desired::Enabled || before.state == VmState::Disabled;
        // The member's start counts as a change of the service: a plan made on the one before is over.
        self.service_mut(cx, name)?;
        let done = match (starts, changed) {
            (true, _) => {
                self.order_start(cx, vm, owner, &format!("member of service {name}"), false)
            }
            (false, true) => Ok(()),
            (false, false) => Err(Rejection::Superseded { what: format!("VM {vm}") }),
        };
        if done.is_err() {
            // A refused command changes nothing.
            self.vms.insert(vm.clone(), before);
            return done;
        }
        // What the service has begun is no operation of the VM's own any more: one that was to bring it elsewhere would do so for
        // ever.
        let open = before.open_operation().map(|operation| &operation.verb);
        if matches!(open, Some(Verb::Relocate { .. } | Verb::Migrate { .. } | Verb::Restart)) {
            let why = format!("it starts with its service {name}");
            self.end_operation(cx, vm, OperationPhase::Failed(why))?;
        }
        Ok(())
    }

    pub(super) fn stop_member(
        &mut self,
        cx: &mut Context,
        name: &ServiceName,
        member: &MemberName,
    ) -> Result<(), Rejection> {
        let record = self.service(name)?;
        let (spec, owner) = self.member_of(&record, member)?;
        match &spec.kind {
            MemberKind::Vm(vm) => {
                self.must_not_be_frozen(cx, vm)?;
                let unasked = record.takes_down(&*self.vm(vm)?);
                self.hands_on(cx, vm)?;
                self.service_mut(cx, name)?;
                if unasked {
                    self.ask(cx, vm, Verb::Stop { now: false })?;
                }
                self.vm_mut(cx, vm)?.desired = Desired::Stopped;
                Ok(())
            }
            MemberKind::Script(_) => {
                self.must_have_session(owner)?;
                if record.order.is_some() {
                    return Err(record.wrong_state("an order to a script of it is out"));
                }
                let record = self.service_mut(cx, name)?;
                // The index of this order, so that only a word spoken after it takes the node out of the set.
                record.may_run.insert(owner, MayRun { since: cx.index });
                record.give_script_order(cx, owner, member, ScriptIntent::Stop);
                Ok(())
            }
        }
    }

    pub(super) fn migrate_member(
        &mut self,
        cx: &mut Context,
        name: &ServiceName,
        member: &MemberName,
        mode: MigrationMode,
    ) -> Result<(), Rejection> {
        let record = self.service(name)?;
        let (spec, owner) = self.member_of(&record, member)?;
        let vm = spec.vm().cloned().ok_or_else(|| record.wrong_state("that member is no VM"))?;
        self.must_not_be_frozen(cx, &vm)?;
        if self.vm(&vm)?.state != VmState::Started {
            return Err(Rejection::Superseded { what: format!("VM {vm}") });
        }
        self.service_mut(cx, name)?;
        self.ask(cx, &vm, Verb::Migrate { to: owner, mode })?;
        Ok(())
    }

    /// Its node is proven dead: scripts that ran there are down, and VMs are not recovered for themselves.
    pub(in crate::apply) fn bury_services(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        by_lease: bool,
    ) -> Result<(), Rejection> {
        // Of scripts that somebody started by hand no ledger tells: the agent stops none when the lease runs out.
        let bound =
            |it: &ServiceRecord| !by_lease || (it.owner == Some(node) && !it.has_unbound(node));
        let touched: Vec<Arc<ServiceRecord>> = self
            .services
            .values()
            .filter(|it| {
                it.owner == Some(node)
                    || it.may_run.contains_key(&node)
                    || it.order.as_ref().is_some_and(|order| order.node == node)
            })
            .filter(|it| bound(it))
            .cloned()
            .collect();
        for service in touched {
            let name = service.spec.name.clone();
            let back = self.way_back(&service, node);
            let record = self.service_mut(cx, &name)?;
            record.may_run.remove(&node);
            record.seen.remove(&node);
            record.order.take_if(|order| order.node == node);
            if record.owner != Some(node) {
                continue;
            }
            for member in record.members.values_mut() {
                member.script = ScriptState::Down;
            }
            if let Some(back) = back {
                // It had not got there yet: what still runs where it came from is where the service is.
                record.last_owner = record.owner.replace(back);
                let why = "the target died".to_owned();
                self.end_service_operation(cx, &name, OperationPhase::Failed(why))?;
                continue;
            }
            if record.desired == Desired::Enabled {
                record.fail(cx, String::new(), node, true);
            }
            record.set_state(cx, ServiceState::Stopping);
            self.node_of_service_died(cx, &name, node)?;
        }
        Ok(())
    }

    /// The node from which a service was on its way to `node`, where VMs of it still run.
    fn way_back(&self, service: &ServiceRecord, node: NodeId) -> Option<NodeId> {
        let moving = service.state == ServiceState::Migrating && service.owner == Some(node);
        let from = service.last_owner.filter(|from| moving && *from != node)?;
        let runs = service.spec.vms().filter_map(|vm| self.vms.get(vm));
        let mut there = runs.filter(|vm| vm.may_run.contains_key(&from));
        there.next().is_some().then_some(from)
    }

    fn node_of_service_died(
        &mut self,
        cx: &mut Context,
        name: &ServiceName,
        node: NodeId,
    ) -> Result<(), Rejection> {
        let place = self.node_name(node);
        let record = self.service_mut(cx, name)?;
        if let Some(failure) = &mut record.failure {
            failure.why = format!("{place} died");
        }
        let vms: Vec<_> = record.spec.vms().cloned().collect();
        for vm in vms {
            let there = self.vms.get(&vm).is_some_and(|vm| vm.may_run.contains_key(&node));
            if there {
                self.hands_on(cx, &vm)?;
                self.vm_mut(cx, &vm)?.desired = Desired::Stopped;
            }
        }
        let text = format!("service {name} failed: {place} died");
        self.emit_service(cx, crate::event::EventKind::ServiceFailed, name, Some(node), text);
        Ok(())
    }

    /// A new session knows nothing of what the last one saw.
    pub(in crate::apply) fn forget_script_sightings(
        &mut self,
        cx: &mut Context,
        node: NodeId,
    ) -> Result<(), Rejection> {
        let touched: Vec<_> = self
            .services
            .values()
            .filter(|it| it.may_run.contains_key(&node) || it.seen.contains_key(&node))
            .map(|it| it.spec.name.clone())
            .collect();
        for name in touched {
            let record = self.service_mut(cx, &name)?;
            record.seen.remove(&node);
            if let Some(entry) = record.may_run.get_mut(&node) {
                *entry = MayRun { since: cx.index };
            }
        }
        Ok(())
    }
}

impl ServiceRecord {
    fn give_script_order(
        &mut self,
        cx: &Context,
        node: NodeId,
        member: &MemberName,
        intent: ScriptIntent,
    ) {
        self.order = Some(ScriptOrderRecord {
            id: OrderId(cx.index),
            node,
            generation: self.generation,
            at: cx.at,
            member: member.clone(),
            intent,
        });
    }
}
