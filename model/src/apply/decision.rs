//! The leader's decisions about VMs: checked once more against the state they meet, then made orders.

use std::collections::BTreeMap;

use crate::cluster::{ClusterState, Context};
use crate::command::{Decision, MoveCause};
use crate::event::EventKind;
use crate::failover_domain::Rank;
use crate::id::{FailoverDomainName, Generation, NodeId, OrderId, VmName};
use crate::rejection::Rejection;
use crate::sabotage::{Rule, off};
use crate::time::Timestamp;
use crate::vm::{
    Desired, MayRun, MigrationMode, MigrationPhase, MigrationRecord, OnConflict, OnIsolation,
    OperationPhase, OrderIntent, OrderRecord, Presence, Verb, VmState,
};

impl ClusterState {
    pub(super) fn decide(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        changed: u64,
        decision: &Decision,
    ) -> Result<(), Rejection> {
        if self.vm(vm)?.changed != changed && !off(Rule::DecisionOnPresentState) {
            return Err(Rejection::Superseded { what: format!("VM {vm}") });
        }
        if acts(decision) {
            self.must_not_be_frozen(cx, vm)?;
            self.must_not_be_paused()?;
        }
        match decision {
            Decision::Start { node, why, restart } => {
                self.order_start(cx, vm, *node, why, *restart)
            }
            Decision::Stop { node, graceful_ms } => self.order_stop(cx, vm, *node, *graceful_ms),
            Decision::Migrate { from, to, mode } => self.order_migration(cx, vm, *from, *to, *mode),
            Decision::Adopt { node } => self.adopt(cx, vm, *node),
            Decision::Settle => self.settled(cx, vm),
            Decision::Disable { why } => self.disable_by_policy(cx, vm, why),
            Decision::Delay { until, why } => self.delay(cx, vm, *until, why),
            Decision::Conflict => self.conflict(cx, vm),
            Decision::Resume { node } => self.order_resume(cx, vm, *node),
            Decision::Evict { node, why } => self.order_eviction(cx, vm, *node, why),
            Decision::FailOperation { why } => {
                self.end_operation(cx, vm, OperationPhase::Failed(why.clone()))
            }
            Decision::Unfreeze => self.freeze_ran_out(cx, vm),
            Decision::DependsMet => {
                self.vm_mut(cx, vm)?.depends_met = true;
                Ok(())
            }
            Decision::Move { from, to, mode: Some(mode), cause, why } => {
                self.order_migration(cx, vm, *from, *to, *mode)?;
                self.moved(cx, vm, *from, *cause, why)
            }
            Decision::Move { from, mode: None, cause, why, .. } => {
                let graceful_ms = self.vm(vm)?.spec.policy.stop_timeout_ms;
                self.order_stop(cx, vm, *from, Some(graceful_ms))?;
                self.moved(cx, vm, *from, *cause, why)
            }
            Decision::AskMove { to, cause, why } => self.move_by_itself(cx, vm, *to, *cause, why),
            Decision::StopForShutdown { node, graceful_ms, waits } => {
                self.stop_for_shutdown(cx, vm, *node, *graceful_ms, *waits)
            }
            Decision::TellAgain { node } => self.tell_again(cx, vm, *node),
            Decision::Fulfilled => self.end_operation(cx, vm, OperationPhase::Done),
        }
    }

    /// Its node has to know what it does with it when it is cut off.
    fn tell_again(&mut self, cx: &mut Context, vm: &VmName, node: NodeId) -> Result<(), Rejection> {
        let record = self.vm_mut(cx, vm)?;
        if !record.must_be_told() || record.owner != Some(node) {
            return Err(Rejection::Superseded { what: format!("VM {vm}") });
        }
        record.give_order(cx, node, OrderIntent::Adopt);
        Ok(())
    }

    /// Says why, and counts what is limited.
    fn moved(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        from: NodeId,
        cause: MoveCause,
        why: &str,
    ) -> Result<(), Rejection> {
        let domain = self.vm(vm)?.spec.policy.failover_domain.clone();
        self.note_failback(cx, cause, domain);
        self.emit(cx, EventKind::VmMoved, Some(vm), Some(from), format!("{vm} moves: {why}"));
        Ok(())
    }

    /// Counts what comes back within an hour.
    pub(super) fn note_failback(
        &mut self,
        cx: &Context,
        cause: MoveCause,
        domain: Option<FailoverDomainName>,
    ) {
        if let (MoveCause::Failback, Some(domain)) = (cause, domain) {
            let mut moments = self.failbacks.remove(&domain).unwrap_or_default();
            moments.push_back(cx.at);
            moments.retain(|moment| cx.at.since(*moment) < HOUR_MS);
            self.failbacks.insert(domain, moments);
        }
    }

    pub(super) fn must_have_session(&self, node: NodeId) -> Result<(), Rejection> {
        match self.nodes.get(&node).and_then(|node| node.session()) {
            Some(_) => Ok(()),
            None => Err(Rejection::Superseded { what: format!("node {}", self.node_name(node)) }),
        }
    }

    /// The law: no start while another node may run it (design section 3, may-run set).
    pub(super) fn order_start(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        node: NodeId,
        why: &str,
        restart: bool,
    ) -> Result<(), Rejection> {
        self.must_have_session(node)?;
        self.must_not_be_locked()?;
        let record = self.vm(vm)?;
        if cx.at < self.quiet_until && !off(Rule::RestoredIsUnknown) {
            return Err(record.wrong_state("the control plane was restored a moment ago"));
        }
        let elsewhere: Vec<_> = record
            .may_run
            .keys()
            .filter(|other| **other != node)
            .map(|other| self.node_name(*other))
            .collect();
        let place = self.node_name(node);
        if !elsewhere.is_empty() && !off(Rule::MayRunRefusal) {
            return Err(Rejection::MayRunElsewhere {
                vm: vm.to_string(),
                node: place,
                nodes: elsewhere.join(", "),
            });
        }
        let down = matches!(record.state, VmState::Stopped | VmState::Recovering)
            || (record.state == VmState::Lost && off(Rule::LostIsNotRestarted));
        if record.desired != Desired::Enabled || !down || record.order.is_some() {
            return Err(record.wrong_state("nothing may be started now"));
        }
        if let Some(claim) = record.claim.as_ref().filter(|_| !off(Rule::ClaimHoldsStart)) {
            return Err(record.wrong_state(&format!("{} claims it ({})", claim.by, claim.reason)));
        }
        let recovering = record.state == VmState::Recovering;
        let depends_met = self.unmet(&record.spec.policy.depend).next().is_none();
        let by_hand = record.open_operation().is_some_and(|operation| {
            matches!(operation.verb, Verb::Enable { on: Some(to) } | Verb::Relocate { to: Some(to) }
                if to == node)
        });
        let record = self.vm_mut(cx, vm)?;
        record.placed_at = by_hand.then_some(cx.at);
        record.depends_met = depends_met;
        record.cold = None;
        record.status_failures.clear();
        if restart {
            record.restarts.push(cx.at);
            let expire = record.spec.policy.restart_limit.expire_ms;
            record.restarts.retain(|moment| expire == 0 || cx.at.since(*moment) < expire);
            // A window without an end still needs a bound on what is remembered of it.
            let excess = record.restarts.len().saturating_sub(RESTARTS_KEPT);
            record.restarts.drain(..excess);
        } else {
            record.restarts.clear();
        }
        record.restart_count += u32::from(recovering);
        record.stay.waits_for = None;
        if !off(Rule::GenerationOnce) {
            record.generation = Generation(cx.index);
        }
        record.owner = Some(node);
        if !record.may_run.contains_key(&node) {
            // It is nowhere, so that nobody goes by what was told before.
            record.bound_isolation = record.spec.policy.on_isolation;
        }
        record.unbound_since = None;
        record.may_run = BTreeMap::from([(node, MayRun { since: cx.index })]);
        record.give_order(cx, node, OrderIntent::Start);
        record.set_state(cx, VmState::Starting);
        self.take_saved(cx, vm, node)?;
        self.emit(
            cx,
            EventKind::VmStarting,
            Some(vm),
            Some(node),
            format!("{vm} starts on {place}: {why}"),
        );
        Ok(())
    }

    pub(super) fn order_stop(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        node: NodeId,
        graceful_ms: Option<u64>,
    ) -> Result<(), Rejection> {
        self.must_have_session(node)?;
        let place = self.node_name(node);
        let record = self.vm(vm)?;
        let replaceable = match &record.order {
            None => true,
            // A stop may be hastened; anything else is waited for.
            Some(order) => {
                matches!(order.intent, OrderIntent::Stop { graceful_ms: Some(_) })
                    && graceful_ms.is_none()
            }
        };
        if !replaceable {
            return Err(Rejection::Busy { vm: vm.to_string(), what: record.state.as_str().into() });
        }
        let record = self.vm_mut(cx, vm)?;
        record.owner = Some(node);
        // The index of this order, so that only a word spoken after it takes the node out of the set.
        record.may_run.insert(node, MayRun { since: cx.index });
        record.give_order(cx, node, OrderIntent::Stop { graceful_ms });
        record.set_state(cx, VmState::Stopping);
        let how = match graceful_ms {
            Some(limit) => format!("within {} s", limit.div_ceil(1_000)),
            None => "at once".into(),
        };
        self.emit(
            cx,
            EventKind::VmStopping,
            Some(vm),
            Some(node),
            format!("{vm} stops on {place} {how}"),
        );
        Ok(())
    }

    /// From here to the outcome both nodes are in the set: libvirt switches over by itself.
    fn order_migration(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        from: NodeId,
        to: NodeId,
        mode: MigrationMode,
    ) -> Result<(), Rejection> {
        self.must_have_session(from)?;
        self.must_have_session(to)?;
        let (source, target) = (self.node_name(from), self.node_name(to));
        let record = self.vm(vm)?;
        if record.state != VmState::Started || record.owner != Some(from) || record.order.is_some()
        {
            return Err(record.wrong_state("it cannot be migrated now"));
        }
        let record = self.vm_mut(cx, vm)?;
        if !off(Rule::TargetInSet) {
            record.may_run.insert(to, MayRun { since: cx.index });
        }
        record.give_order(cx, from, OrderIntent::Migrate { to, mode, cancelled: false });
        record.migration = Some(MigrationRecord {
            order: OrderId(cx.index),
            from,
            to,
            mode,
            phase: MigrationPhase::Prepared,
            begun: cx.at,
            since: cx.at,
        });
        record.set_state(cx, VmState::Migrating);
        let text = format!("{vm} migrates from {source} to {target}");
        self.emit(cx, EventKind::VmMigrating, Some(vm), Some(from), text);
        Ok(())
    }

    /// It runs there: ownership follows the fact. Nothing is started.
    fn adopt(&mut self, cx: &mut Context, vm: &VmName, node: NodeId) -> Result<(), Rejection> {
        self.must_have_session(node)?;
        let place = self.node_name(node);
        let record = self.vm(vm)?;
        let here = record.seen.get(&node).is_some_and(|sighting| sighting.presence.holds_guest());
        if !here || record.seen_with_guest().count() != 1 || record.order.is_some() {
            return Err(Rejection::Superseded { what: format!("VM {vm}") });
        }
        let migrated = record.state == VmState::Migrating;
        let outside = record
            .spec
            .policy
            .failover_domain
            .as_ref()
            .and_then(|name| self.failover_domains.get(name));
        let breach = outside.zip(self.nodes.get(&node)).and_then(|(domain, node)| {
            match domain.rank(&node.name) {
                None => Some(format!(", outside its restricted failover domain {}", domain.name)),
                Some(Rank::Outside) => {
                    Some(format!(", outside its failover domain {}", domain.name))
                }
                Some(Rank::Member(_)) => None,
            }
        });
        let depends_met = self.unmet(&record.spec.policy.depend).next().is_none();
        let asked = record.open_operation().map(|operation| operation.verb.clone());
        let record = self.vm_mut(cx, vm)?;
        // Brought there by an operator, or by somebody behind the cluster's back: it stays until a better node returns.
        match migrated {
            true if matches!(asked, Some(Verb::Migrate { to, .. }) if to == node) => {
                record.placed_at = Some(cx.at);
            }
            true if record.owner.or(record.last_owner) != Some(node) => record.placed_at = None,
            false if record.owner.or(record.last_owner) != Some(node) => {
                record.placed_at = Some(cx.at);
            }
            _ => {}
        }
        if record.state != VmState::Migrating {
            record.depends_met = depends_met;
        }
        let before = record.owner.replace(node);
        if before != Some(node) {
            record.last_owner = before.or(record.last_owner);
        }
        record.generation = Generation(cx.index);
        record.failure = None;
        record.stay.waits_for = None;
        record.ailment = None;
        // It runs without it: what was saved no longer fits to its disks.
        record.saved = None;
        record.unbound_since = None;
        record.give_order(cx, node, OrderIntent::Adopt);
        record.set_state(cx, VmState::Started);
        record.settle_migration(cx, node);
        let verb = record.open_operation().map(|operation| operation.verb.clone());
        let (kind, text) = match migrated {
            true => (EventKind::VmMigrated, format!("{vm} runs on {place} after its migration")),
            false => (
                EventKind::VmAdopted,
                format!(
                    "{vm} runs on {place} already: tracked there{}",
                    breach.unwrap_or_default()
                ),
            ),
        };
        self.emit(cx, kind, Some(vm), Some(node), text);
        if let Some(sighting) = self.vm(vm)?.seen.get(&node).copied() {
            self.note_health(cx, vm, node, sighting.presence)?;
        }
        match verb {
            // Asked while it was on its way: that is still to be done.
            Some(Verb::Restart | Verb::Relocate { .. }) if migrated => Ok(()),
            Some(Verb::Enable { .. } | Verb::Restart) => {
                self.end_operation(cx, vm, OperationPhase::Done)
            }
            Some(Verb::Migrate { to, .. } | Verb::Relocate { to: Some(to) }) if to == node => {
                self.end_operation(cx, vm, OperationPhase::Done)
            }
            Some(Verb::Migrate { .. } | Verb::Relocate { .. }) => {
                self.end_operation(cx, vm, OperationPhase::Failed(format!("it runs on {place}")))
            }
            Some(Verb::Disable | Verb::Stop { .. }) | None => Ok(()),
        }
    }

    /// Still owner, same generation, still wanted: the copy that self-fence stopped runs on (design section 3).
    fn order_resume(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        node: NodeId,
    ) -> Result<(), Rejection> {
        self.must_have_session(node)?;
        let place = self.node_name(node);
        let record = self.vm(vm)?;
        let sighting = record.seen.get(&node);
        let suspended = sighting.is_some_and(|it| it.presence == Presence::Suspended);
        // One that its storage has paused is the owner's own, and goes on where it is.
        let stuck = record.owner == Some(node)
            && record.state == VmState::Started
            && sighting.is_some_and(|it| it.presence == Presence::IoError);
        let generation = sighting.and_then(|it| it.generation);
        let left_alone = record.desired == Desired::Ignored;
        // A later one than is known comes from before a restore: the backup was older than the last start.
        let same = generation >= Some(record.generation) || off(Rule::ResumeSameGeneration);
        if !(suspended || stuck)
            || !same
            || record.order.is_some()
            || !(record.desired == Desired::Enabled || (suspended && left_alone))
        {
            return Err(record.wrong_state("nothing of it may be resumed there now"));
        }
        let elsewhere: Vec<_> = record
            .may_run
            .keys()
            .filter(|other| **other != node)
            .map(|other| self.node_name(*other))
            .collect();
        // A node that the backup does not know may have been given it since: it has until then to register and say so.
        if suspended && cx.at < self.quiet_until && !off(Rule::RestoredIsUnknown) {
            return Err(record.wrong_state("the control plane was restored a moment ago"));
        }
        if !elsewhere.is_empty() && !off(Rule::ResumeSameGeneration) {
            return Err(Rejection::MayRunElsewhere {
                vm: vm.to_string(),
                node: place,
                nodes: elsewhere.join(", "),
            });
        }
        let record = self.vm_mut(cx, vm)?;
        record.owner = Some(node);
        record.failure = None;
        record.generation = record.generation.max(generation.unwrap_or_default());
        record.give_order(cx, node, OrderIntent::Resume);
        record.set_state(cx, VmState::Started);
        if stuck {
            record.evict_not_before = cx.at.plus(resume_again_ms(record.resumed));
            record.resumed = record.resumed.saturating_add(1);
        }
        let why = match stuck {
            true => "its storage may be back",
            false => "its node is back and still its owner",
        };
        let text = format!("{vm} is resumed on {place}: {why}");
        self.emit(cx, EventKind::VmResumed, Some(vm), Some(node), text);
        Ok(())
    }

    /// A copy that is nobody's: destroyed where it is, and the VM's own life is not touched.
    fn order_eviction(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        node: NodeId,
        why: &str,
    ) -> Result<(), Rejection> {
        self.must_have_session(node)?;
        let place = self.node_name(node);
        let record = self.vm(vm)?;
        if !record.seen.contains_key(&node) || record.order.is_some() {
            return Err(Rejection::Superseded { what: format!("VM {vm}") });
        }
        let record = self.vm_mut(cx, vm)?;
        // The index of this order, so that only a word spoken after it takes the node out of the set.
        record.may_run.insert(node, MayRun { since: cx.index });
        record.give_order(cx, node, OrderIntent::Evict);
        let text = format!("the copy of {vm} on {place} is destroyed: {why}");
        self.emit(cx, EventKind::VmEvicted, Some(vm), Some(node), text);
        Ok(())
    }

    fn disable_by_policy(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        why: &str,
    ) -> Result<(), Rejection> {
        let record = self.vm(vm)?;
        if !record.may_run.is_empty() || record.order.is_some() {
            return Err(record.wrong_state("it may still be running somewhere"));
        }
        let record = self.vm_mut(cx, vm)?;
        record.desired = Desired::Disabled;
        record.last_owner = record.owner.take().or(record.last_owner);
        record.set_state(cx, VmState::Disabled);
        self.emit(cx, EventKind::VmDisabled, Some(vm), None, format!("{vm} stays down: {why}"));
        self.end_operation(cx, vm, OperationPhase::Failed(why.to_owned()))
    }

    fn delay(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        until: Timestamp,
        why: &str,
    ) -> Result<(), Rejection> {
        let record = self.vm_mut(cx, vm)?;
        let Some(failure) = &mut record.failure else {
            return Err(Rejection::Superseded { what: format!("VM {vm}") });
        };
        failure.not_before = until;
        failure.tried.clear();
        failure.rounds += 1;
        let wait = until.since(cx.at).div_ceil(1_000);
        let text = format!("{vm} is tried again in {wait} s: {why}");
        self.emit(cx, EventKind::VmRecoveryDelayed, Some(vm), None, text);
        self.end_operation(cx, vm, OperationPhase::Failed(why.to_owned()))
    }

    fn conflict(&mut self, cx: &mut Context, vm: &VmName) -> Result<(), Rejection> {
        let record = self.vm(vm)?;
        let places: Vec<_> = record.seen_with_guest().map(|node| self.node_name(node)).collect();
        if places.len() < 2 {
            return Err(Rejection::Superseded { what: format!("VM {vm}") });
        }
        let record = self.vm_mut(cx, vm)?;
        record.order = None;
        if record.spec.policy.on_conflict == OnConflict::KeepOwner {
            record.keep = record.owner.filter(|owner| record.seen.contains_key(owner));
        }
        record.set_state(cx, VmState::Conflict);
        let text = format!(
            "{vm} runs on {}: nothing is done by itself until only one is left",
            places.join(" and ")
        );
        self.emit(cx, EventKind::VmConflict, Some(vm), None, text.clone());
        self.end_operation(cx, vm, OperationPhase::Failed(text))
    }
}

/// Whether this does something to the guest or to what is wanted of it; the rest only follows what is seen.
fn acts(decision: &Decision) -> bool {
    match decision {
        Decision::Start { .. }
        | Decision::Stop { .. }
        | Decision::Migrate { .. }
        | Decision::Move { .. }
        | Decision::AskMove { .. }
        | Decision::StopForShutdown { .. }
        | Decision::Disable { .. }
        | Decision::Delay { .. }
        | Decision::FailOperation { .. }
        | Decision::Evict { .. } => true,
        Decision::Adopt { .. }
        | Decision::Settle
        | Decision::Conflict
        // What Berth itself suspended: being cut off costs a pause, also of a frozen VM.
        | Decision::Resume { .. }
        | Decision::Unfreeze
        // What happens to it without a lease, and not to it now.
        | Decision::TellAgain { .. }
        | Decision::DependsMet
        | Decision::Fulfilled => false,
    }
}

/// The window of a failover domain's failbacks per hour.
const HOUR_MS: u64 = 3_600_000;
/// Wait before a copy that could not be destroyed is destroyed again.
pub(super) const EVICT_AGAIN_MS: u64 = 10_000;
/// Wait before a node that could not take a VM over is asked to once more.
pub(crate) const TELL_AGAIN_MS: u64 = 10_000;
/// Wait before a guest that its storage paused is resumed once more after `resumed` attempts: 5 s, doubled up to 5 min.
fn resume_again_ms(resumed: u32) -> u64 {
    (5_000u64 << resumed.min(6)).min(300_000)
}
/// More than any restart limit that makes sense.
const RESTARTS_KEPT: usize = 100;

impl crate::vm::VmRecord {
    pub(super) fn give_order(&mut self, cx: &Context, node: NodeId, intent: OrderIntent) {
        if self.spec.policy.on_isolation == OnIsolation::Continue {
            // From now on its node may have been told so, whatever becomes of the order.
            self.bound_isolation = OnIsolation::Continue;
        }
        self.order = Some(OrderRecord {
            id: OrderId(cx.index),
            node,
            generation: self.generation,
            at: cx.at,
            on_isolation: self.spec.policy.on_isolation,
            memory_file: self.file_for(&intent, OrderId(cx.index)),
            ask_only: self.spec.policy.handling.no_kill,
            intent,
        });
    }
}
