//! What an operator asks of a service: noted here, carried out by what the leader plans from it.
//!
//! The words and what they do in which state are RGManager's (reference, section 3.3).

use crate::cluster::{ClusterState, Context};
use crate::command::ServiceAsk;
use crate::event::EventKind;
use crate::hold::Freeze;
use crate::id::{NodeId, NodeName, ServiceName};
use crate::node::NodeState;
use crate::rejection::Rejection;
use crate::service::{MemberMode, ServiceOperation, ServiceRecord, ServiceState, ServiceVerb};
use crate::time::Timestamp;
use crate::vm::{Desired, OperationPhase, VmState};

impl ClusterState {
    pub(in crate::apply) fn ask_service(
        &mut self,
        cx: &mut Context,
        name: &ServiceName,
        ask: &ServiceAsk,
    ) -> Result<(), Rejection> {
        let record = self.service(name)?;
        if let Some(freeze) = record.frozen.as_ref().filter(|_| record.is_frozen(cx.at)) {
            // As of a VM: who froze it may do so anew, with another reason or another end.
            let anew = matches!(ask, ServiceAsk::Freeze { .. }) && freeze.by == cx.by;
            if *ask != ServiceAsk::Unfreeze && !anew {
                return Err(frozen(&record, freeze, cx.at));
            }
        }
        let touches_vms = matches!(
            ask,
            ServiceAsk::Disable
                | ServiceAsk::Stop
                | ServiceAsk::Restart
                | ServiceAsk::Relocate { .. }
                | ServiceAsk::Migrate { .. }
        );
        if touches_vms {
            // Not half of it: what comes before a frozen VM would be stopped, and then wait.
            record.spec.vms().try_for_each(|vm| self.must_not_be_frozen(cx, vm))?;
        }
        match ask {
            ServiceAsk::Enable { on } => self.enable_service(cx, &record, on.as_ref()),
            ServiceAsk::Disable => {
                self.note_ask(cx, name, ServiceVerb::Disable)?.desired = Desired::Disabled;
                Ok(())
            }
            ServiceAsk::Stop => {
                if record.state == ServiceState::Failed {
                    return Err(record.wrong_state(
                        "a stop of it failed already; `disable` tries again and leaves it down",
                    ));
                }
                let record = self.note_ask(cx, name, ServiceVerb::Stop)?;
                if record.desired == Desired::Enabled {
                    record.desired = Desired::Stopped;
                }
                Ok(())
            }
            ServiceAsk::Restart => self.start_over(cx, &record, ServiceVerb::Restart),
            ServiceAsk::Relocate { to } => {
                let to = match to {
                    Some(to) => Some(self.other_node(&record, to)?),
                    None => None,
                };
                self.start_over(cx, &record, ServiceVerb::Relocate { to })
            }
            ServiceAsk::Migrate { to, mode } => {
                self.must_migrate_together(&record)?;
                if record.state != ServiceState::Started || record.desired != Desired::Enabled {
                    return Err(record.wrong_state("only a started service can be migrated"));
                }
                must_be_idle(&record)?;
                let to = self.other_node(&record, to)?;
                self.note_ask(cx, name, ServiceVerb::Migrate { to, mode: *mode })?;
                Ok(())
            }
            ServiceAsk::Cancel => self.cancel_service(cx, &record),
            ServiceAsk::Freeze { why, for_ms } => self.freeze_service(cx, &record, why, *for_ms),
            ServiceAsk::Unfreeze => self.unfreeze_service(cx, &record),
            ServiceAsk::Convalesce => self.convalesce_service(cx, &record),
        }
    }

    fn enable_service(
        &mut self,
        cx: &mut Context,
        record: &ServiceRecord,
        on: Option<&NodeName>,
    ) -> Result<(), Rejection> {
        let name = &record.spec.name;
        if record.state == ServiceState::Failed {
            return Err(record.wrong_state(
                "a stop of a member failed, so it may still run; make sure that it is down and `disable` the service first",
            ));
        }
        let running = record.desired == Desired::Enabled && record.state == ServiceState::Started;
        if !running {
            self.must_not_be_locked()?;
        }
        if record.state == ServiceState::Migrating && record.open_operation().is_some() {
            must_be_idle(record)?;
        }
        let on = match on {
            Some(on) => Some(self.allowed_node(record, on)?),
            None => None,
        };
        if running && on.is_some() && on != record.owner {
            return Err(record.wrong_state("it runs elsewhere; use `relocate` to move it"));
        }
        self.take_members(cx, record)?;
        let record = self.note_ask(cx, name, ServiceVerb::Enable { on })?;
        record.desired = Desired::Enabled;
        if record.state == ServiceState::Disabled {
            // A fresh start: what happened before it was disabled no longer counts.
            record.set_state(cx, ServiceState::Stopped);
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
            self.end_service_operation(cx, name, OperationPhase::Done)?;
        }
        Ok(())
    }

    /// VMs that were left alone are the service's from now on: what self-fence has suspended of them is let run, and what is
    /// down starts in its turn.
    fn take_members(&mut self, cx: &mut Context, record: &ServiceRecord) -> Result<(), Rejection> {
        for vm in record.spec.vms() {
            if self.vm(vm)?.desired == Desired::Ignored {
                self.hands_on(cx, vm)?;
                let record = self.vm_mut(cx, vm)?;
                record.desired = Desired::Enabled;
                // It was disabled when it was left alone.
                if record.state == VmState::Disabled {
                    record.set_state(cx, VmState::Stopped);
                }
            }
        }
        Ok(())
    }

    /// Its VMs may move while they run, and each of them can.
    fn must_migrate_together(&self, record: &ServiceRecord) -> Result<(), Rejection> {
        let refused = |why: String| Rejection::ServiceCannotMigrate {
            service: record.spec.name.to_string(),
            why,
        };
        if !record.spec.policy.migrate_together {
            return Err(refused(
                "its members do not migrate unless it says `migrate_together`".into(),
            ));
        }
        for vm in record.spec.vms() {
            if let Some(why) = self.vm(vm)?.spec.cannot_migrate() {
                return Err(refused(format!("its member VM {vm} cannot: {why}")));
            }
        }
        Ok(())
    }

    /// Restart and relocate: of a started service stop and start, of one that is down start. What is under way is waited
    /// for: RGManager queued them too.
    fn start_over(
        &mut self,
        cx: &mut Context,
        record: &ServiceRecord,
        verb: ServiceVerb,
    ) -> Result<(), Rejection> {
        self.must_not_be_locked()?;
        let wanted = record.desired == Desired::Enabled;
        let why = match record.state {
            ServiceState::Started if wanted => must_be_idle(record).map(|()| None)?,
            ServiceState::Stopped => None,
            ServiceState::Starting
            | ServiceState::Stopping
            | ServiceState::Migrating
            | ServiceState::Recovering
                if wanted =>
            {
                None
            }
            ServiceState::Failed => {
                Some("a stop of it failed, so it may still run; `disable` it first")
            }
            ServiceState::Disabled => Some("it stays down; `enable` starts it"),
            _ => Some("it is to be down; `enable` starts it"),
        };
        if let Some(why) = why {
            return Err(record.wrong_state(why));
        }
        // Only the start is left of it; one that stops already has its phase when it is down.
        let down = matches!(record.state, ServiceState::Stopped | ServiceState::Recovering);
        self.take_members(cx, record)?;
        let record = self.note_ask(cx, &record.spec.name, verb)?;
        record.desired = Desired::Enabled;
        if let (true, Some(operation)) = (down, &mut record.operation) {
            operation.phase = OperationPhase::Halfway;
        }
        if let Some(failure) = &mut record.failure {
            // The operator asks now: no waiting out a backoff.
            failure.not_before = cx.at;
            failure.tried.clear();
        }
        Ok(())
    }

    fn cancel_service(
        &mut self,
        cx: &mut Context,
        record: &ServiceRecord,
    ) -> Result<(), Rejection> {
        let name = &record.spec.name;
        let idle = record.order.is_none()
            && matches!(
                record.state,
                ServiceState::Started | ServiceState::Stopped | ServiceState::Recovering
            );
        let Some(operation) = record.open_operation().filter(|_| idle) else {
            return Err(record.wrong_state("nothing of it is under way that could be called off"));
        };
        if matches!(operation.verb, ServiceVerb::Enable { .. })
            && record.state == ServiceState::Stopped
        {
            self.service_mut(cx, name)?.desired = Desired::Stopped;
        }
        let why = format!("cancelled by {}", cx.by);
        self.end_service_operation(cx, name, OperationPhase::Failed(why))
    }

    fn freeze_service(
        &mut self,
        cx: &mut Context,
        record: &ServiceRecord,
        why: &str,
        for_ms: Option<u64>,
    ) -> Result<(), Rejection> {
        let moving = matches!(
            record.state,
            ServiceState::Starting | ServiceState::Stopping | ServiceState::Migrating
        );
        if moving || record.order.is_some() {
            return Err(record.wrong_state("wait until that is done, then freeze it"));
        }
        let name = record.spec.name.clone();
        let by = cx.by.clone();
        let record = self.service_mut(cx, &name)?;
        record.frozen = Some(Freeze {
            by: by.clone(),
            why: why.to_owned(),
            since: cx.at,
            until: for_ms.map(|span| cx.at.plus(span)),
        });
        let text = format!("service {name} was frozen by {by}: {why}");
        self.emit_service(cx, EventKind::ServiceFrozen, &name, None, text);
        Ok(())
    }

    /// Its scripts are checked at once by the owner's agent, before anything is decided on what they were: see
    /// `order::watched`. Whoever worked on it may have moved them by hand, so all other nodes are asked.
    fn unfreeze_service(
        &mut self,
        cx: &mut Context,
        record: &ServiceRecord,
    ) -> Result<(), Rejection> {
        if record.frozen.is_none() {
            return Err(Rejection::ServiceNotFrozen { service: record.spec.name.to_string() });
        }
        let name = record.spec.name.clone();
        self.ask_for_scripts(cx, &name, record.owner)?;
        self.service_mut(cx, &name)?.frozen = None;
        let text = format!("service {name} was unfrozen by {}", cx.by);
        self.emit_service(cx, EventKind::ServiceUnfrozen, &name, None, text);
        Ok(())
    }

    fn convalesce_service(
        &mut self,
        cx: &mut Context,
        record: &ServiceRecord,
    ) -> Result<(), Rejection> {
        if !record.is_partial() {
            return Err(record.wrong_state("it is not partial: no member of it stays down"));
        }
        must_be_idle(record)?;
        let record = self.note_ask(cx, &record.spec.name, ServiceVerb::Convalesce)?;
        for member in record.members.values_mut().filter(|it| it.mode == MemberMode::Off) {
            // What is left of it is stopped first.
            member.mode = MemberMode::Cycle;
            member.restarts.clear();
            member.failure = None;
        }
        Ok(())
    }

    /// Replaces what was asked before by what is asked now.
    fn note_ask(
        &mut self,
        cx: &mut Context,
        name: &ServiceName,
        verb: ServiceVerb,
    ) -> Result<&mut ServiceRecord, Rejection> {
        let word = verb.as_str();
        let why = format!("superseded by {word} from {}", cx.by);
        self.end_service_operation(cx, name, OperationPhase::Failed(why))?;
        let text = format!("{} asked to {word} service {name}", cx.by);
        self.emit_service(cx, EventKind::OperationAsked, name, None, text);
        let record = self.service_mut(cx, name)?;
        record.operation = Some(ServiceOperation {
            request: cx.request,
            verb,
            at: cx.at,
            phase: OperationPhase::Pending,
            cause: None,
        });
        Ok(record)
    }

    fn other_node(&self, record: &ServiceRecord, name: &NodeName) -> Result<NodeId, Rejection> {
        let id = self.allowed_node(record, name)?;
        if record.owner == Some(id) {
            return Err(bad_node(record, name, "it runs there already"));
        }
        Ok(id)
    }

    fn allowed_node(&self, record: &ServiceRecord, name: &NodeName) -> Result<NodeId, Rejection> {
        let node = self.node(name)?;
        if node.state != NodeState::Online {
            return Err(bad_node(record, name, &format!("the node is {}", node.state.as_str())));
        }
        let domain = record.spec.policy.failover_domain.as_ref();
        if let Some(domain) = domain.and_then(|domain| self.failover_domains.get(domain))
            && domain.rank(name).is_none()
        {
            let why =
                format!("it is not in the service's restricted failover domain {}", domain.name);
            return Err(bad_node(record, name, &why));
        }
        Ok(node.id)
    }
}

fn frozen(record: &ServiceRecord, freeze: &Freeze, at: Timestamp) -> Rejection {
    let left = freeze.until.map(|until| until.since(at).div_ceil(1_000));
    Rejection::ServiceFrozen {
        service: record.spec.name.to_string(),
        by: freeze.by.clone(),
        why: freeze.why.clone(),
        until: left.map(|seconds| format!(" for another {seconds} s")).unwrap_or_default(),
    }
}

fn must_be_idle(record: &ServiceRecord) -> Result<(), Rejection> {
    match record.open_operation() {
        None => Ok(()),
        Some(operation) => {
            let why = format!("a {} of it is under way; wait for it", operation.verb.as_str());
            Err(record.wrong_state(&why))
        }
    }
}

fn bad_node(record: &ServiceRecord, node: &NodeName, why: &str) -> Rejection {
    Rejection::BadTarget {
        vm: format!("service:{}", record.spec.name),
        node: node.to_string(),
        why: why.to_owned(),
    }
}
