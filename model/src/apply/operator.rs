//! What an operator asks of a VM: noted here, carried out by what the leader plans from it.

use crate::cluster::{ClusterState, Context};
use crate::event::EventKind;
use crate::id::{NodeId, NodeName, VmName};
use crate::node::NodeState;
use crate::rejection::Rejection;
use crate::vm::{
    Desired, MayRun, MigrationMode, OperationPhase, OperationRecord, OrderIntent, Stay, Verb,
    VmRecord, VmState,
};

impl ClusterState {
    pub(super) fn enable(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        on: Option<&NodeName>,
    ) -> Result<(), Rejection> {
        self.must_not_be_frozen(cx, vm)?;
        let record = self.vm(vm)?;
        let places = record.seen_with_guest().count();
        if places == 0 {
            // What runs is only tracked.
            self.must_not_be_locked()?;
        }
        if record.state == VmState::Failed && places != 1 {
            return Err(record.wrong_state(
                "a stop of it failed, so it may still run; make sure that it is down and `disable` it first",
            ));
        }
        if let Some(operation) = record.open_operation()
            && matches!(operation.verb, Verb::Migrate { .. })
        {
            return Err(busy(&record, "a migration"));
        }
        let on = match on {
            Some(name) => Some(self.allowed_target(&record, name)?),
            None => None,
        };
        // One that was left alone and runs is taken up as it is: nothing is left to be done.
        let wanted = record.desired == Desired::Enabled
            || (record.desired == Desired::Ignored && places == 1);
        let running = wanted && record.state == VmState::Started;
        if let (true, Some(target), Some(owner)) = (running, on, record.owner)
            && target != owner
        {
            let why = format!(
                "it runs on {}; use `relocate` or `migrate` to move it",
                self.node_name(owner)
            );
            return Err(record.wrong_state(&why));
        }
        let everywhere: Vec<NodeId> = self.nodes_alive().collect();
        let record = self.ask(cx, vm, Verb::Enable { on })?;
        record.desired = Desired::Enabled;
        if matches!(record.state, VmState::Disabled | VmState::Lost) {
            // Enabling a lost VM is the operator's word that it runs on no host outside; those inside are asked.
            for node in everywhere.into_iter().filter(|_| record.state == VmState::Lost) {
                record.may_run.entry(node).or_insert(MayRun { since: cx.index });
            }
            // A fresh start: what happened before it was disabled no longer counts.
            record.set_state(cx, VmState::Stopped);
            record.failure = None;
            record.restarts.clear();
            record.restart_count = 0;
        }
        if let Some(failure) = &mut record.failure {
            // The operator asks now: no waiting out a backoff.
            failure.not_before = cx.at;
            failure.tried.clear();
        }
        if running {
            self.end_operation(cx, vm, OperationPhase::Done)?;
        }
        Ok(())
    }

    pub(super) fn disable(&mut self, cx: &mut Context, vm: &VmName) -> Result<(), Rejection> {
        self.must_not_be_frozen(cx, vm)?;
        let record = self.ask(cx, vm, Verb::Disable)?;
        record.desired = Desired::Disabled;
        Ok(())
    }

    pub(super) fn stop(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        now: bool,
    ) -> Result<(), Rejection> {
        self.must_not_be_frozen(cx, vm)?;
        let record = self.vm(vm)?;
        if record.state == VmState::Failed {
            return Err(record.wrong_state(
                "a stop of it failed already; `disable` tries again and leaves it down",
            ));
        }
        if now && record.spec.policy.handling.no_kill {
            return Err(record.wrong_state(
                "its guest is never destroyed (no-kill); `vm edit --no-kill=false` allows it",
            ));
        }
        let record = self.ask(cx, vm, Verb::Stop { now })?;
        // A disabled VM that is stopped once more stays disabled.
        if matches!(record.desired, Desired::Enabled | Desired::Ignored) {
            record.desired = Desired::Stopped;
        }
        Ok(())
    }

    pub(super) fn restart(&mut self, cx: &mut Context, vm: &VmName) -> Result<(), Rejection> {
        self.must_not_be_frozen(cx, vm)?;
        self.must_be_startable(vm, "`enable` starts it")?;
        self.ask(cx, vm, Verb::Restart)?.starts_anew(cx);
        Ok(())
    }

    pub(super) fn relocate(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        to: Option<&NodeName>,
    ) -> Result<(), Rejection> {
        self.must_not_be_frozen(cx, vm)?;
        let record = self.must_be_startable(vm, "`enable --on NODE` starts it")?;
        let to = match to {
            Some(name) => Some(self.other_target(&record, name)?),
            None => None,
        };
        self.ask(cx, vm, Verb::Relocate { to })?.starts_anew(cx);
        match to {
            Some(to) => self.bring_along(cx, vm, to, |_| Verb::Relocate { to: Some(to) }),
            None => Ok(()),
        }
    }

    pub(super) fn migrate(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        to: &NodeName,
        mode: Option<MigrationMode>,
    ) -> Result<(), Rejection> {
        self.must_not_be_frozen(cx, vm)?;
        let record = self.must_run(vm, "only a started VM can be migrated")?;
        if let Some(why) = record.spec.cannot_migrate() {
            return Err(Rejection::CannotMigrate { vm: vm.to_string(), why });
        }
        let to = self.other_target(&record, to)?;
        let mode = mode.unwrap_or(record.spec.policy.migration);
        self.ask(cx, vm, Verb::Migrate { to, mode })?;
        self.bring_along(cx, vm, to, |other| Verb::Migrate {
            to,
            mode: other.spec.policy.migration,
        })
    }

    /// VMs that a placement rule keeps with one that is moved are moved with it; those that cannot be are left, and the
    /// rule is seen to afterwards.
    fn bring_along(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        to: NodeId,
        verb: impl Fn(&VmRecord) -> Verb,
    ) -> Result<(), Rejection> {
        let others = self.rule_index().group(vm).cloned().unwrap_or_default();
        for other in others.iter().filter(|other| *other != vm) {
            let Some(record) = self.vms.get(other).cloned() else { continue };
            let live = matches!(verb(&record), Verb::Migrate { .. });
            let movable = record.state == VmState::Started
                && record.desired == Desired::Enabled
                && record.order.is_none()
                && record.open_operation().is_none()
                && record.owner != Some(to)
                && record.frozen.is_none()
                && !(live && record.spec.cannot_migrate().is_some());
            if movable {
                self.ask(cx, other, verb(&record))?;
            }
        }
        Ok(())
    }

    pub(super) fn cancel(&mut self, cx: &mut Context, vm: &VmName) -> Result<(), Rejection> {
        let record = self.vm(vm)?;
        let nothing = || Rejection::NothingToCancel { vm: vm.to_string() };
        match &record.order {
            Some(order) => match &order.intent {
                OrderIntent::Migrate { .. } => {
                    let record = self.vm_mut(cx, vm)?;
                    if let Some(order) = &mut record.order
                        && let OrderIntent::Migrate { cancelled, .. } = &mut order.intent
                    {
                        *cancelled = true;
                    }
                    return Ok(());
                }
                OrderIntent::Start
                | OrderIntent::Stop { .. }
                | OrderIntent::Adopt
                | OrderIntent::Resume
                | OrderIntent::Evict => {
                    return Err(Rejection::Busy {
                        vm: vm.to_string(),
                        what: format!("the {}", record.state.as_str()),
                    });
                }
            },
            None => record.open_operation().ok_or_else(nothing)?,
        };
        let verb =
            record.open_operation().map(|operation| operation.verb.clone()).ok_or_else(nothing)?;
        let halfway = record
            .open_operation()
            .is_some_and(|operation| operation.phase == OperationPhase::Halfway);
        if let (Verb::Enable { .. }, VmState::Stopped) = (&verb, record.state) {
            // Calling off a start that could not be carried out leaves the VM as it was: down.
            let record = self.vm_mut(cx, vm)?;
            record.desired = Desired::Stopped;
        }
        let why = match halfway {
            true => format!("cancelled by {}, after it was stopped", cx.by),
            false => format!("cancelled by {}", cx.by),
        };
        self.end_operation(cx, vm, OperationPhase::Failed(why))
    }

    /// Which copy of a VM in conflict is kept; the others are destroyed, one after the other.
    pub(super) fn resolve(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        keep: &NodeName,
    ) -> Result<(), Rejection> {
        self.must_not_be_frozen(cx, vm)?;
        let record = self.vm(vm)?;
        if record.state != VmState::Conflict {
            return Err(record.wrong_state("there is no conflict to resolve"));
        }
        let id = self.node(keep)?.id;
        if !record.seen.get(&id).is_some_and(|sighting| sighting.presence.holds_guest()) {
            return Err(bad_target(&record, keep, "it does not run there"));
        }
        self.vm_mut(cx, vm)?.keep = Some(id);
        let text = format!("{} said to keep the copy of {vm} on {keep}", cx.by);
        self.emit(cx, EventKind::OperationAsked, Some(vm), Some(id), text);
        Ok(())
    }

    /// Restart and relocate end with a start. One that is under way is waited for: RGManager queued them too.
    fn must_be_startable(
        &self,
        vm: &VmName,
        way_out: &str,
    ) -> Result<std::sync::Arc<VmRecord>, Rejection> {
        let record = self.vm(vm)?;
        self.must_not_be_locked()?;
        let wanted = record.desired == Desired::Enabled;
        let why = match record.state {
            VmState::Started if wanted => {
                let operation = record.open_operation();
                return operation.map_or(Ok(record.clone()), |operation| {
                    Err(busy(&record, &format!("a {}", operation.verb.as_str())))
                });
            }
            VmState::Stopped => return Ok(record),
            VmState::Starting | VmState::Stopping | VmState::Migrating | VmState::Recovering
                if wanted =>
            {
                return Ok(record);
            }
            VmState::Starting
            | VmState::Started
            | VmState::Stopping
            | VmState::Migrating
            | VmState::Recovering => "it is to be down",
            VmState::Failed => "a stop of it failed, so it may still run; `disable` it first",
            VmState::Disabled => "it stays down",
            VmState::Conflict => "it runs twice; `resolve` says which copy is kept",
            VmState::Lost => "it left by a migration, and is started only if it is surely down",
        };
        Err(record.wrong_state(&format!("{why}; {way_out}")))
    }

    fn must_run(&self, vm: &VmName, why: &str) -> Result<std::sync::Arc<VmRecord>, Rejection> {
        let record = self.vm(vm)?;
        if record.state != VmState::Started || record.desired != Desired::Enabled {
            return Err(record.wrong_state(why));
        }
        if let Some(operation) = record.open_operation() {
            return Err(busy(&record, &format!("a {}", operation.verb.as_str())));
        }
        Ok(record)
    }

    /// Replaces what was asked before by what is asked now.
    pub(super) fn ask(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        verb: Verb,
    ) -> Result<&mut VmRecord, Rejection> {
        self.hands_on(cx, vm)?;
        let word = verb.as_str();
        let why = format!("superseded by {word} from {}", cx.by);
        self.end_operation(cx, vm, OperationPhase::Failed(why))?;
        self.emit(
            cx,
            EventKind::OperationAsked,
            Some(vm),
            None,
            format!("{} asked to {word} {vm}", cx.by),
        );
        let operation = OperationRecord {
            request: cx.request,
            verb,
            at: cx.at,
            phase: OperationPhase::Pending,
            cause: None,
        };
        let record = self.vm_mut(cx, vm)?;
        // Where it goes is the operator's now.
        if !matches!(operation.verb, Verb::Restart | Verb::Stop { .. }) {
            record.stay = Stay::default();
        }
        record.operation = Some(operation);
        Ok(record)
    }

    fn other_target(&self, record: &VmRecord, name: &NodeName) -> Result<NodeId, Rejection> {
        let id = self.allowed_target(record, name)?;
        if record.owner == Some(id) {
            return Err(bad_target(record, name, "it runs there already"));
        }
        Ok(id)
    }

    fn allowed_target(&self, record: &VmRecord, name: &NodeName) -> Result<NodeId, Rejection> {
        let node = self.node(name)?;
        if node.state != NodeState::Online {
            return Err(bad_target(record, name, &format!("the node is {}", node.state.as_str())));
        }
        let domain = record
            .spec
            .policy
            .failover_domain
            .as_ref()
            .and_then(|domain| self.failover_domains.get(domain));
        if let Some(domain) = domain
            && domain.rank(name).is_none()
        {
            let why = format!("it is not in the VM's restricted failover domain {}", domain.name);
            return Err(bad_target(record, name, &why));
        }
        Ok(node.id)
    }
}

impl VmRecord {
    /// What is down already is not stopped first: only the start is left of a restart or a relocation.
    fn starts_anew(&mut self, cx: &Context) {
        if !matches!(self.state, VmState::Stopped | VmState::Recovering) {
            return;
        }
        self.desired = Desired::Enabled;
        if let Some(operation) = &mut self.operation {
            operation.phase = OperationPhase::Halfway;
        }
        if let Some(failure) = &mut self.failure {
            // The operator asks now: no waiting out a backoff.
            failure.not_before = cx.at;
            failure.tried.clear();
        }
    }
}

fn busy(record: &VmRecord, what: &str) -> Rejection {
    Rejection::Busy { vm: record.spec.name.to_string(), what: what.to_owned() }
}

fn bad_target(record: &VmRecord, node: &NodeName, why: &str) -> Rejection {
    Rejection::BadTarget {
        vm: record.spec.name.to_string(),
        node: node.to_string(),
        why: why.to_owned(),
    }
}
