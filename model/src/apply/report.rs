//! What an agent says in its session.

use uuid::Uuid;

use super::decision::EVICT_AGAIN_MS;
use crate::ailment::{Ailment, AilmentKind};
use crate::cluster::{ClusterState, Context};
use crate::command::Report;
use crate::event::EventKind;
use crate::id::{Generation, NodeId, OrderId, SessionId, VmName};
use crate::node::{NodeState, ProofOfDeath};
use crate::rejection::Rejection;
use crate::sabotage::{Rule, off};
use crate::vm::{
    MigrationPhase, OperationPhase, OrderIntent, OrderRecord, StopCause, Verb, VmState,
};

/// Wait before a VM that could not be started or migrated somewhere is moved by the cluster's own will again: what fails
/// once would otherwise fail, or cost a stop, without end.
pub(super) const FAILBACK_AGAIN_MS: u64 = 600_000;

impl ClusterState {
    pub(super) fn report(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        session: SessionId,
        reports: &[Report],
    ) -> Result<(), Rejection> {
        let unknown = || Rejection::UnknownNode { node: format!("number {node}") };
        let record = self.nodes.get(&node).ok_or_else(unknown)?;
        if record.session() != Some(session) && !off(Rule::ReportOfOldSession) {
            return Err(Rejection::OldSession {
                node: record.name.to_string(),
                session: session.0,
            });
        }
        for report in reports {
            match report {
                Report::Seen { uuid, domain } => self.see(cx, node, *uuid, domain)?,
                Report::Absent { uuid, floor, cause } => {
                    self.absent(cx, node, *uuid, *floor, *cause)?
                }
                Report::OrderDone { uuid, order, error } => {
                    self.order_done(cx, node, *uuid, *order, error.as_deref())?;
                }
                Report::StatusFailed { uuid, error } => {
                    self.status_failed(cx, node, *uuid, error)?;
                }
                Report::ScriptStatus { service, member, started_by, error } => {
                    self.script_status(cx, node, *service, member, *started_by, error.as_deref())?;
                }
                Report::ScriptsSeen { service, members } => {
                    self.scripts_seen(cx, node, *service, members)?;
                }
                Report::Checked { uuid, error } => {
                    self.checked(cx, node, *uuid, error.as_deref())?;
                }
                Report::Noted { uuid, note, text } => self.noted(cx, node, *uuid, *note, text)?,
                Report::StartedHere { uuid, generation } => {
                    self.started_there(cx, *uuid, *generation)?;
                }
                Report::Migration { uuid, order, phase } => {
                    self.migration_phase(cx, node, *uuid, *order, *phase)?;
                }
            }
        }
        Ok(())
    }

    /// A backup may be older than the last start of a VM. A copy that was stopped before that start is never the present one, though
    /// the backup is older than either (design section 3, self-fence).
    fn started_there(
        &mut self,
        cx: &mut Context,
        uuid: Uuid,
        generation: Generation,
    ) -> Result<(), Rejection> {
        let Some(vm) = self.vm_by_uuid.get(&uuid).cloned() else { return Ok(()) };
        if self.vm(&vm)?.generation < generation {
            self.vm_mut(cx, &vm)?.generation = generation;
        }
        Ok(())
    }

    /// The agent's word that the VM is not there: takes the node out of the set, if it was given knowing of the entry.
    fn absent(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        uuid: Uuid,
        floor: u64,
        cause: Option<StopCause>,
    ) -> Result<(), Rejection> {
        if let Some(service) = self.service_by_id.get(&uuid).cloned() {
            return self.scripts_absent(cx, node, &service, floor);
        }
        let Some(vm) = self.vm_by_uuid.get(&uuid).cloned() else {
            if let Some(record) = self.nodes.get_mut(&node) {
                std::sync::Arc::make_mut(record).unmanaged.remove(&uuid);
            }
            return Ok(());
        };
        let record = self.vm_mut(cx, &vm)?;
        record.seen.remove(&node);
        let knowing = record
            .may_run
            .get(&node)
            .is_some_and(|entry| floor >= entry.since || off(Rule::AbsentNeedsFloor));
        if !knowing {
            return Ok(());
        }
        record.may_run.remove(&node);
        self.gone(cx, &vm, node, cause.unwrap_or(StopCause::Unknown), false)
    }

    fn order_done(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        uuid: Uuid,
        id: OrderId,
        error: Option<&str>,
    ) -> Result<(), Rejection> {
        if let Some(service) = self.service_by_id.get(&uuid).cloned() {
            return self.script_done(cx, node, &service, id, error);
        }
        let Some(vm) = self.vm_by_uuid.get(&uuid).cloned() else { return Ok(()) };
        let record = self.vm_mut(cx, &vm)?;
        // A report of an order that is no longer outstanding says nothing new.
        let Some(order) = record.order.take_if(|order| order.id == id && order.node == node) else {
            return Ok(());
        };
        match &order.intent {
            OrderIntent::Start => self.start_done(cx, &vm, &order, error),
            OrderIntent::Stop { .. } => self.stop_done(cx, &vm, &order, error),
            OrderIntent::Migrate { to, .. } => self.migration_done(cx, &vm, &order, *to, error),
            OrderIntent::Adopt => self.adoption_done(cx, &vm, &order, error),
            OrderIntent::Resume => self.resume_done(cx, &vm, &order, error),
            OrderIntent::Evict => self.eviction_done(cx, &vm, &order, error),
        }
    }

    /// A node that could not note it, or not mark the domain, does not make sure of the guest when its lease runs out.
    fn adoption_done(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        order: &OrderRecord,
        error: Option<&str>,
    ) -> Result<(), Rejection> {
        let place = self.node_name(order.node);
        let record = self.vm_mut(cx, vm)?;
        let Some(error) = error else {
            record.bound_isolation = order.on_isolation;
            record.unbound_since = None;
            return Ok(());
        };
        record.unbound_since = Some(cx.at);
        let text = format!("{place} could not take {vm} over, and is asked again: {error}");
        self.emit(cx, EventKind::VmAdoptionFailed, Some(vm), Some(order.node), text);
        Ok(())
    }

    /// It runs and does not work. As many as its policy tolerates are let pass, then it is a failure.
    pub(super) fn status_failed(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        uuid: Uuid,
        error: &str,
    ) -> Result<(), Rejection> {
        let Some(vm) = self.vm_by_uuid.get(&uuid).cloned() else { return Ok(()) };
        let record = self.vm(&vm)?;
        // Of a VM that is on its way, or that somebody works on, a check says nothing.
        let counts = record.state == VmState::Started
            && record.owner == Some(node)
            && record.frozen.is_none()
            && record.ailment.is_none();
        if !counts {
            return Ok(());
        }
        let record = self.vm_mut(cx, &vm)?;
        let tolerance = record.spec.policy.failure_tolerance;
        let passes = tolerance.passes(&mut record.status_failures, cx.at);
        let count = record.status_failures.len();
        if !passes {
            let (kind, why) = (AilmentKind::Check, error.to_owned());
            record.ailment = Some(Ailment { kind, why, node, at: cx.at });
        }
        let what = match passes {
            true => format!("let pass, {count} of {}", tolerance.max_failures),
            false => "it is recovered".to_owned(),
        };
        let text = format!("a status check of {vm} failed ({what}): {error}");
        self.emit(cx, EventKind::VmStatusFailed, Some(&vm), Some(node), text);
        Ok(())
    }

    fn start_done(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        order: &OrderRecord,
        error: Option<&str>,
    ) -> Result<(), Rejection> {
        let place = self.node_name(order.node);
        let record = self.vm_mut(cx, vm)?;
        let Some(error) = error else {
            if record.owner != Some(order.node) || !record.may_run.contains_key(&order.node) {
                // It did start, and has been told gone again since.
                return Ok(());
            }
            record.failure = None;
            record.ailment = None;
            record.resumed = 0;
            record.bound_isolation = order.on_isolation;
            record.unbound_since = None;
            record.set_state(cx, VmState::Started);
            self.emit(
                cx,
                EventKind::VmStarted,
                Some(vm),
                Some(order.node),
                format!("{vm} is started on {place}"),
            );
            let fulfilled = self.vm(vm)?.open_operation().is_some_and(|operation| {
                match operation.verb {
                    Verb::Enable { .. } | Verb::Restart => true,
                    Verb::Relocate { to: Some(to) } => to == order.node,
                    // Asked while this start was under way, it is still to be carried out.
                    Verb::Relocate { to: None } => operation.phase == OperationPhase::Halfway,
                    Verb::Disable | Verb::Stop { .. } | Verb::Migrate { .. } => false,
                }
            });
            return if fulfilled {
                self.end_operation(cx, vm, OperationPhase::Done)
            } else {
                Ok(())
            };
        };
        record.fail(cx, format!("the start on {place} failed: {error}"), order.node, false);
        let retries = record.spec.policy.start_limit.retries;
        if let Some(failure) = &mut record.failure {
            failure.failed_starts += 1;
            if failure.failed_starts > retries {
                failure.tried.insert(order.node);
            }
        }
        record.failback_not_before = cx.at.plus(FAILBACK_AGAIN_MS);
        record.last_owner = Some(order.node);
        record.owner = None;
        if off(Rule::FailedStartStaysInSet) {
            record.may_run.remove(&order.node);
        }
        record.set_state(cx, VmState::Recovering);
        let given_up =
            record.failure.as_ref().is_some_and(|failure| failure.tried.contains(&order.node));
        let asked = record.open_operation().is_some_and(|operation| {
            matches!(operation.verb, Verb::Relocate { to: Some(to) } if to == order.node)
        });
        let text = format!("the start of {vm} on {place} failed: {error}");
        self.emit(cx, EventKind::VmStartFailed, Some(vm), Some(order.node), text.clone());
        if given_up && asked {
            // Started elsewhere, it would be stopped there to be started here in vain, again and again.
            return self.end_operation(cx, vm, OperationPhase::Failed(text));
        }
        Ok(())
    }

    /// A copy that was not resumed is still suspended, or gone; what is seen of it decides.
    fn resume_done(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        order: &OrderRecord,
        error: Option<&str>,
    ) -> Result<(), Rejection> {
        let Some(error) = error else {
            let record = self.vm_mut(cx, vm)?;
            record.bound_isolation = order.on_isolation;
            record.unbound_since = None;
            return Ok(());
        };
        let place = self.node_name(order.node);
        let record = self.vm_mut(cx, vm)?;
        record.evict_not_before = cx.at.plus(EVICT_AGAIN_MS);
        let text = format!("{vm} could not be resumed on {place}: {error}");
        self.emit(cx, EventKind::VmEvictionFailed, Some(vm), Some(order.node), text);
        Ok(())
    }

    fn eviction_done(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        order: &OrderRecord,
        error: Option<&str>,
    ) -> Result<(), Rejection> {
        let record = self.vm_mut(cx, vm)?;
        if let Some(error) = error {
            record.evict_not_before = cx.at.plus(EVICT_AGAIN_MS);
            let place = self.node_name(order.node);
            let text = format!("the copy of {vm} on {place} could not be destroyed: {error}");
            self.emit(cx, EventKind::VmEvictionFailed, Some(vm), Some(order.node), text);
            return Ok(());
        }
        // As with a stop: done means made sure of, and noted before.
        record.seen.remove(&order.node);
        if record.may_run.remove(&order.node).is_none() {
            return Ok(());
        }
        self.gone(cx, vm, order.node, StopCause::Destroyed, false)
    }

    fn stop_done(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        order: &OrderRecord,
        error: Option<&str>,
    ) -> Result<(), Rejection> {
        let Some(error) = error else {
            // An agent calls a stop done only when it has made sure that the domain is not there, and it noted this
            // order before: that is the word "absent" up to it, whenever that itself arrives.
            self.note_saved(cx, vm, order)?;
            let record = self.vm_mut(cx, vm)?;
            record.seen.remove(&order.node);
            if record.may_run.remove(&order.node).is_none() {
                return Ok(());
            }
            return self.gone(cx, vm, order.node, StopCause::Destroyed, false);
        };
        let place = self.node_name(order.node);
        let record = self.vm_mut(cx, vm)?;
        record.set_state(cx, VmState::Failed);
        let why = format!("the stop on {place} failed: {error}");
        record.fail(cx, why.clone(), order.node, false);
        self.emit(cx, EventKind::VmStopFailed, Some(vm), Some(order.node), format!("{vm}: {why}"));
        self.end_operation(cx, vm, OperationPhase::Failed(why))
    }

    /// The source's word on a migration. Where the guest is now is settled by what both nodes say of it, not by this.
    fn migration_done(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        order: &OrderRecord,
        to: NodeId,
        error: Option<&str>,
    ) -> Result<(), Rejection> {
        let target = self.node_name(to);
        let post_copy = self.vm(vm)?.in_post_copy();
        let phase = match error {
            None => MigrationPhase::Handover,
            Some(_) if post_copy => MigrationPhase::PostCopy,
            Some(_) => MigrationPhase::RolledBack,
        };
        self.set_phase(cx, vm, order.id, phase)?;
        let record = self.vm_mut(cx, vm)?;
        if let Some(error) = error {
            // Once the guest ran at the target, what is left at the source is never it again.
            let stayed = !post_copy
                && record
                    .seen
                    .get(&order.node)
                    .is_some_and(|sighting| sighting.presence.holds_guest());
            if stayed && record.state == VmState::Migrating {
                record.owner = Some(order.node);
                record.set_state(cx, VmState::Started);
            }
            // A target that is proven dead could only have come back by this migration, or run on where its lease proved
            // nothing of it.
            let outlives = self.vm(vm)?.outlives_lease();
            let dead = self.nodes.get(&to).is_some_and(|node| match &node.state {
                NodeState::Dead(ProofOfDeath::Lease { .. }) => !outlives,
                NodeState::Dead(_) => true,
                _ => false,
            });
            let record = self.vm_mut(cx, vm)?;
            record.failback_not_before = cx.at.plus(FAILBACK_AGAIN_MS);
            if dead {
                record.may_run.remove(&to);
            }
            if record.may_run.is_empty() && record.state == VmState::Migrating {
                self.gone(cx, vm, order.node, StopCause::Unknown, false)?;
            }
            let why = format!("the migration of {vm} to {target} failed: {error}");
            self.emit(cx, EventKind::VmMigrationFailed, Some(vm), Some(order.node), why);
            return self.end_operation(cx, vm, OperationPhase::Failed(error.to_owned()));
        }
        // It has left the source; that none of it is left there, the source has yet to say.
        record.seen.remove(&order.node);
        // A target that was proven dead meanwhile could have booted again before it arrived: it is that host which is asked
        // for anew, or the VM would wait for it until somebody switches it on.
        if self.nodes.get(&to).is_some_and(|node| matches!(node.state, NodeState::Dead(_))) {
            self.prove_again(cx, to, order.node)?;
        }
        let record = self.vm_mut(cx, vm)?;
        if record.may_run.is_empty() && record.state == VmState::Migrating {
            return self.gone(cx, vm, order.node, StopCause::Unknown, false);
        }
        Ok(())
    }
}
