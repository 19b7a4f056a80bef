//! What is said of the fleet as a whole, and what the cluster moves by itself: placement rules, maintenance, orderly
//! shutdowns, the pause, holds.

use std::sync::Arc;

use crate::cluster::{ClusterState, Context};
use crate::command::MoveCause;
use crate::event::EventKind;
use crate::fleet::{Pause, PauseMode};
use crate::id::{NodeId, NodeName, PlacementRuleName, ServiceName, SessionId, VmName};
use crate::node::{AfterShutdown, Maintenance, NodeState, Shutdown};
use crate::placement_rule::PlacementRule;
use crate::rejection::Rejection;
use crate::sabotage::{Rule, off};
use crate::vm::{
    AutomaticMoves, Claim, Desired, MayRun, OperationPhase, OperationRecord, Stay, Verb, VmRecord,
    VmState,
};

/// Wait before a move that failed is tried again, and between two moves of one VM; doubled with each failure, up to
/// 32 times this.
const MOVE_PAUSE_MS: u64 = 10_000;
/// One line for the record.
const RULE_VMS: usize = 1_000;

impl ClusterState {
    // ---- placement rules -----------------------------------------------------------------------------------------

    pub(super) fn put_placement_rule(
        &mut self,
        cx: &mut Context,
        rule: &PlacementRule,
    ) -> Result<(), Rejection> {
        if !(2..=RULE_VMS).contains(&rule.vms.len()) {
            return Err(Rejection::OutOfRange {
                what: format!("the number of VMs of placement rule {}", rule.name),
                value: rule.vms.len().to_string(),
                range: format!("2 to {RULE_VMS}"),
            });
        }
        self.must_not_clash(cx, |state| {
            state.placement_rules.insert(rule.name.clone(), Arc::new(rule.clone()));
            Ok(())
        })?;
        self.placement_rules.insert(rule.name.clone(), Arc::new(rule.clone()));
        let vms: Vec<_> = rule.vms.iter().map(ToString::to_string).collect();
        let text = format!(
            "{} set placement rule {}: {} {}",
            cx.by,
            rule.name,
            rule.kind.as_str(),
            vms.join(", ")
        );
        self.emit(cx, EventKind::PlacementRuleChanged, None, None, text);
        Ok(())
    }

    pub(super) fn remove_placement_rule(
        &mut self,
        cx: &mut Context,
        name: &PlacementRuleName,
    ) -> Result<(), Rejection> {
        if self.placement_rules.remove(name).is_none() {
            return Err(Rejection::UnknownPlacementRule { rule: name.to_string() });
        }
        let text = format!("{} removed placement rule {name}", cx.by);
        self.emit(cx, EventKind::PlacementRuleChanged, None, None, text);
        Ok(())
    }

    /// Refuses a change after which rules and restricted failover domains could never hold together. What clashes
    /// already, as after a restore, is no reason to refuse what does not make it worse.
    pub(super) fn must_not_clash(
        &self,
        cx: &Context,
        change: impl FnOnce(&mut Self) -> Result<(), Rejection>,
    ) -> Result<(), Rejection> {
        // Of changes made together only the end counts, and is looked at once.
        if cx.together {
            return Ok(());
        }
        let mut after = self.clone();
        change(&mut after)?;
        after.must_not_clash_anew(self)
    }

    /// Refuses what clashes now and did not before.
    pub(super) fn must_not_clash_anew(&self, before: &Self) -> Result<(), Rejection> {
        match self.rules_clash() {
            Some(clash) if before.rules_clash().is_none() => {
                Err(Rejection::RulesClash { why: clash.why })
            }
            _ => Ok(()),
        }
    }

    // ---- nodes ---------------------------------------------------------------------------------------------------

    pub(super) fn set_maintenance(
        &mut self,
        cx: &mut Context,
        name: &NodeName,
        on: bool,
        until_boot: bool,
    ) -> Result<(), Rejection> {
        let id = self.node(name)?.id;
        let (at, by) = (cx.at, cx.by.clone());
        let record = self.node_mut(cx, id)?;
        record.maintenance = on.then(|| Maintenance { by: by.clone(), at, until_boot });
        let what = match (on, until_boot) {
            (true, false) => "is emptied and kept so",
            (true, true) => "is emptied and kept so until it has booted anew",
            (false, _) => "is taken back",
        };
        let text = format!("{name} {what}, as {by} said");
        self.emit(cx, EventKind::NodeMaintenance, None, Some(id), text);
        Ok(())
    }

    pub(super) fn shutdown_announced(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        session: SessionId,
        then: AfterShutdown,
    ) -> Result<(), Rejection> {
        let at = cx.at;
        let record = self.node_mut(cx, node)?;
        if record.session() != Some(session) {
            return Err(Rejection::OldSession {
                node: record.name.to_string(),
                session: session.0,
            });
        }
        // Said again, as an agent does until nothing is left there.
        if record.shutdown.is_some_and(|known| known.then == then) {
            return Ok(());
        }
        record.shutdown = Some(Shutdown { then, at });
        let what = match then {
            AfterShutdown::StayOff => "shuts down",
            AfterShutdown::Reboot => "reboots",
        };
        let text = format!("{} {what} in good order", record.name);
        self.emit(cx, EventKind::NodeShutsDown, None, Some(node), text);
        Ok(())
    }

    /// Its agent had said that the host goes down, and nothing may be running there by that agent's word: there is
    /// nothing to recover, and nothing to prove.
    pub(super) fn node_off(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        session: SessionId,
    ) -> Result<(), Rejection> {
        let used = self.may_run_anything(node);
        let at = cx.at;
        let record = self.node_mut(cx, node)?;
        if record.session() != Some(session) || record.shutdown.is_none() || used {
            return Err(Rejection::Superseded { what: format!("node {}", record.name) });
        }
        record.state = NodeState::Off;
        record.state_since = at;
        let text = format!("{} was shut down in good order", record.name);
        self.emit(cx, EventKind::NodeOff, None, Some(node), text);
        Ok(())
    }

    // ---- the pause -----------------------------------------------------------------------------------------------

    pub(super) fn pause_cluster(
        &mut self,
        cx: &mut Context,
        mode: PauseMode,
        why: &str,
    ) -> Result<(), Rejection> {
        self.pause = Some(Pause { mode, by: cx.by.clone(), why: why.to_owned(), at: cx.at });
        let text = format!(
            "{} paused the cluster ({}): {why}; nothing is started, stopped, moved, fenced or recovered by itself",
            cx.by,
            mode.as_str()
        );
        self.emit(cx, EventKind::ClusterPaused, None, None, text);
        Ok(())
    }

    pub(super) fn unpause_cluster(&mut self, cx: &mut Context) -> Result<(), Rejection> {
        let Some(pause) = self.pause.take() else { return Err(Rejection::NotPaused) };
        if pause.mode == PauseMode::Ignore {
            self.look_for_all(cx)?;
        }
        let text = format!("{} ended the pause of the cluster", cx.by);
        self.emit(cx, EventKind::ClusterUnpaused, None, None, text);
        Ok(())
    }

    /// VMs and services were let go of: wherever a VM that is not seen, or a script, may have been brought meanwhile, it is
    /// asked for. A service's owner is not: its agent checks what is up there, and no other node's does.
    fn look_for_all(&mut self, cx: &mut Context) -> Result<(), Rejection> {
        let nodes: Vec<NodeId> = self.nodes_alive().collect();
        let unseen: Vec<VmName> = self
            .vms
            .values()
            .filter(|vm| vm.seen.is_empty() && vm.order.is_none())
            .map(|vm| vm.spec.name.clone())
            .collect();
        for vm in unseen {
            self.doubt_saved(cx, &vm)?;
            let record = self.vm_mut(cx, &vm)?;
            for node in &nodes {
                record.may_run.entry(*node).or_insert(MayRun { since: cx.index });
            }
        }
        let with_scripts: Vec<ServiceName> = self
            .services
            .values()
            .filter(|service| service.spec.scripts().next().is_some())
            .map(|service| service.spec.name.clone())
            .collect();
        for service in with_scripts {
            let record = self.service_mut(cx, &service)?;
            for node in nodes.iter().filter(|node| record.owner != Some(**node)) {
                // Also one that was asked before: what it says of the time before this is no answer.
                record.may_run.insert(*node, MayRun { since: cx.index });
            }
        }
        Ok(())
    }

    /// Refuses what the cluster would do by itself while it is paused.
    pub(super) fn must_not_be_paused(&self) -> Result<(), Rejection> {
        match &self.pause {
            Some(_) if off(Rule::PauseHoldsAll) => Ok(()),
            Some(pause) => Err(Rejection::Paused { by: pause.by.clone(), why: pause.why.clone() }),
            None => Ok(()),
        }
    }

    // ---- VMs -----------------------------------------------------------------------------------------------------

    /// Hands off: what is open is dropped, an order that is out is still carried out.
    pub(super) fn ignore_vm(&mut self, cx: &mut Context, vm: &VmName) -> Result<(), Rejection> {
        self.vm(vm)?;
        let why = format!("{} said hands off", cx.by);
        self.end_operation(cx, vm, OperationPhase::Failed(why))?;
        let record = self.vm_mut(cx, vm)?;
        record.desired = Desired::Ignored;
        record.stay = Stay::default();
        if record.state == VmState::Recovering {
            record.set_state(cx, VmState::Stopped);
        }
        record.failure = None;
        let text = format!("{} said hands off {vm}: nothing is done about it any more", cx.by);
        self.emit(cx, EventKind::OperationAsked, Some(vm), None, text);
        Ok(())
    }

    /// It is the cluster's again, whatever is done to it: whoever had their hands on it may have moved it, as with a freeze, so
    /// every node has to say whether it is there.
    pub(super) fn hands_on(&mut self, cx: &mut Context, vm: &VmName) -> Result<(), Rejection> {
        match self.vm(vm)?.desired {
            Desired::Ignored => self.ask_all(cx, vm),
            Desired::Enabled | Desired::Stopped | Desired::Disabled => Ok(()),
        }
    }

    pub(super) fn claim(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        reason: &str,
    ) -> Result<(), Rejection> {
        let (by, at) = (cx.by.clone(), cx.at);
        let record = self.vm_mut(cx, vm)?;
        let node = record.owner.or(record.last_owner);
        record.claim = Some(Claim { reason: reason.to_owned(), by: by.clone(), at, node });
        let text = format!("{vm} is claimed by {by} ({reason}): it is not started meanwhile");
        self.emit(cx, EventKind::VmClaimed, Some(vm), node, text);
        Ok(())
    }

    pub(super) fn unclaim(&mut self, cx: &mut Context, vm: &VmName) -> Result<(), Rejection> {
        if self.vm(vm)?.claim.is_none() {
            return Err(self.vm(vm)?.wrong_state("nothing claims it"));
        }
        self.vm_mut(cx, vm)?.claim = None;
        let text = format!("{vm} is no longer claimed, as {} said", cx.by);
        self.emit(cx, EventKind::VmUnclaimed, Some(vm), None, text);
        Ok(())
    }

    /// The job that claimed a VM ran on a node that is proven dead: it ended with it.
    pub(super) fn claim_ends_with(
        &mut self,
        cx: &mut Context,
        node: NodeId,
    ) -> Result<(), Rejection> {
        let claimed =
            |vm: &&Arc<VmRecord>| vm.claim.as_ref().is_some_and(|it| it.node == Some(node));
        let names: Vec<VmName> =
            self.vms.values().filter(claimed).map(|vm| vm.spec.name.clone()).collect();
        for vm in names {
            let reason = self.vm_mut(cx, &vm)?.claim.take().map(|claim| claim.reason);
            let text = format!(
                "what claimed {vm} ({}) ended with {}",
                reason.unwrap_or_default(),
                self.node_name(node)
            );
            self.emit(cx, EventKind::VmUnclaimed, Some(&vm), Some(node), text);
        }
        Ok(())
    }

    // ---- decisions -----------------------------------------------------------------------------------------------

    /// The leader asks what an operator could: that the VM is moved.
    pub(super) fn move_by_itself(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        to: NodeId,
        cause: MoveCause,
        why: &str,
    ) -> Result<(), Rejection> {
        let record = self.vm(vm)?;
        let started = record.state == VmState::Started && record.desired == Desired::Enabled;
        let Some(owner) = record.owner.filter(|_| started) else {
            return Err(record.wrong_state("it cannot be moved now"));
        };
        if record.order.is_some() || record.open_operation().is_some() || owner == to {
            return Err(record.wrong_state("something of it is under way"));
        }
        let verb = match record.spec.policy.automatic_moves {
            AutomaticMoves::Live => Verb::Migrate { to, mode: record.spec.policy.migration },
            AutomaticMoves::Cold => Verb::Relocate { to: Some(to) },
            AutomaticMoves::Never => {
                return Err(record.wrong_state("its policy lets no one but operators move it"));
            }
        };
        let (from, target) = (self.node_name(owner), self.node_name(to));
        let record = self.vm_mut(cx, vm)?;
        match cause {
            // The first node it was drained from is its home, however many follow.
            MoveCause::Drain => drop(record.stay.home.get_or_insert(owner)),
            MoveCause::Return | MoveCause::Failback => record.stay.home = None,
            MoveCause::Rule | MoveCause::Balance | MoveCause::Exclusive => {}
        }
        record.operation = Some(OperationRecord {
            request: cx.request,
            verb,
            at: cx.at,
            phase: OperationPhase::Pending,
            cause: Some(cause),
        });
        let text = format!("{vm} is moved from {from} to {target}: {}; {why}", cause.as_str());
        self.emit(cx, EventKind::VmMoving, Some(vm), Some(owner), text);
        Ok(())
    }

    /// An operation that the cluster asked by itself has ended: how soon it may move the VM again.
    pub(super) fn note_move(record: &mut VmRecord, cx: &Context, done: bool) {
        let stay = &mut record.stay;
        stay.failed_moves = if done { 0 } else { stay.failed_moves.saturating_add(1) };
        let doubled = stay.failed_moves.saturating_sub(1).min(5);
        stay.not_before = cx.at.plus(MOVE_PAUSE_MS << doubled);
    }

    pub(super) fn stop_for_shutdown(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        node: NodeId,
        graceful_ms: Option<u64>,
        waits: bool,
    ) -> Result<(), Rejection> {
        self.order_stop(cx, vm, node, graceful_ms)?;
        self.vm_mut(cx, vm)?.stay.waits_for = waits.then_some(node);
        Ok(())
    }

    pub(super) fn uneven(&mut self, cx: &mut Context, uneven: bool) -> Result<(), Rejection> {
        if self.uneven_since.is_some() == uneven {
            return Err(Rejection::Superseded { what: "how even load is".into() });
        }
        self.uneven_since = uneven.then_some(cx.at);
        if uneven {
            let text = "load is uneven beyond the threshold".to_owned();
            self.emit(cx, EventKind::LoadUneven, None, None, text);
        }
        Ok(())
    }
}
