//! Freeze and unfreeze, lock and unlock, convalesce: what an operator holds back, and how it is let go.

use crate::cluster::{ClusterState, Context};
use crate::event::EventKind;
use crate::hold::{Freeze, Lock};
use crate::id::{NodeId, VmName};
use crate::rejection::Rejection;
use crate::sabotage::{Rule, off};
use crate::vm::MayRun;

impl ClusterState {
    /// What is under way goes on to its end and is noted; nothing new is begun. A second freeze replaces the first.
    pub(super) fn freeze(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        why: &str,
        for_ms: Option<u64>,
    ) -> Result<(), Rejection> {
        let until = for_ms.map(|milliseconds| cx.at.plus(milliseconds));
        let by = cx.by.clone();
        // Somebody else's hands are on it, and would not know that its freeze ends sooner now.
        if self.vm(vm)?.frozen.as_ref().is_some_and(|freeze| freeze.by != by) {
            self.must_not_be_frozen(cx, vm)?;
        }
        let record = self.vm_mut(cx, vm)?;
        record.frozen = Some(Freeze { by, why: why.to_owned(), since: cx.at, until });
        let end = for_ms.map_or_else(String::new, |milliseconds| {
            format!(" for {} s", milliseconds.div_ceil(1_000))
        });
        let text = format!("{vm} was frozen by {}{end}: {why}", cx.by);
        self.emit(cx, EventKind::VmFrozen, Some(vm), None, text);
        Ok(())
    }

    pub(super) fn unfreeze(&mut self, cx: &mut Context, vm: &VmName) -> Result<(), Rejection> {
        if self.vm(vm)?.frozen.is_none() {
            return Err(Rejection::NotFrozen { vm: vm.to_string() });
        }
        let text = format!("{vm} was unfrozen by {}: its nodes are asked for it first", cx.by);
        self.let_go(cx, vm, text)
    }

    pub(super) fn freeze_ran_out(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
    ) -> Result<(), Rejection> {
        let due = self.vm(vm)?.frozen.as_ref().and_then(|freeze| freeze.until);
        if due.is_none_or(|due| due > cx.at) {
            return Err(Rejection::Superseded { what: format!("VM {vm}") });
        }
        let text = format!("the freeze of {vm} has run out: its nodes are asked for it first");
        self.let_go(cx, vm, text)
    }

    /// Whoever worked on it may have moved it by hand. So every node has to say whether it is there before anything is
    /// started, stopped or moved: RGManager's restarted it where it was last known.
    fn let_go(&mut self, cx: &mut Context, vm: &VmName, text: String) -> Result<(), Rejection> {
        self.ask_all(cx, vm)?;
        self.vm_mut(cx, vm)?.frozen = None;
        self.emit(cx, EventKind::VmUnfrozen, Some(vm), None, text);
        Ok(())
    }

    /// Every node enters the may-run set until it says that the VM is not there. Where it is seen running in a session
    /// that lives, those out of session need not be waited for.
    pub(super) fn ask_all(&mut self, cx: &mut Context, vm: &VmName) -> Result<(), Rejection> {
        self.doubt_saved(cx, vm)?;
        let record = self.vm(vm)?;
        let in_session =
            |id: &NodeId| self.nodes.get(id).is_some_and(|node| node.session().is_some());
        let runs = record.seen_with_guest().any(|node| in_session(&node));
        // Those that an order is out to answer by themselves.
        let busy = record.order.as_ref().map(|order| order.node).into_iter();
        let busy: Vec<_> = busy.chain(record.migration_target()).collect();
        let asked: Vec<_> = self
            .nodes_alive()
            .filter(|node| (!runs || in_session(node)) && !busy.contains(node))
            .filter(|node| !record.seen.contains_key(node))
            .collect();
        let record = self.vm_mut(cx, vm)?;
        for node in asked {
            record.may_run.insert(node, MayRun { since: cx.index });
        }
        Ok(())
    }

    /// One lock, of one operator: with a second one of somebody else's, the end of either would be that of both.
    pub(super) fn lock_starts(&mut self, cx: &mut Context, why: &str) -> Result<(), Rejection> {
        if self.lock.as_ref().is_some_and(|lock| lock.by != cx.by) {
            self.must_not_be_locked()?;
        }
        self.lock = Some(Lock { by: cx.by.clone(), why: why.to_owned(), since: cx.at });
        let text = format!("the cluster was locked by {}, so nothing is started: {why}", cx.by);
        self.emit(cx, EventKind::ClusterLocked, None, None, text);
        Ok(())
    }

    pub(super) fn unlock_starts(&mut self, cx: &mut Context) -> Result<(), Rejection> {
        self.lock.take().ok_or(Rejection::NotLocked)?;
        let text = format!("the cluster was unlocked by {}", cx.by);
        self.emit(cx, EventKind::ClusterUnlocked, None, None, text);
        Ok(())
    }

    /// Restarts, failed checks, nodes tried in vain and waits are forgotten; a failed VM's node is asked once more.
    pub(super) fn convalesce(&mut self, cx: &mut Context, vm: &VmName) -> Result<(), Rejection> {
        self.must_not_be_frozen(cx, vm)?;
        let record = self.vm_mut(cx, vm)?;
        record.restarts.clear();
        record.restart_count = 0;
        record.status_failures.clear();
        record.failback_not_before = cx.at;
        record.evict_not_before = cx.at;
        if let Some(failure) = &mut record.failure {
            failure.tried.clear();
            failure.rounds = 0;
            failure.not_before = cx.at;
        }
        let text = format!("{} let what counted against {vm} be forgotten", cx.by);
        self.emit(cx, EventKind::VmConvalesced, Some(vm), None, text);
        Ok(())
    }

    pub(super) fn must_not_be_frozen(&self, cx: &Context, vm: &VmName) -> Result<(), Rejection> {
        let record = self.vm(vm)?;
        let Some(freeze) = record.frozen.as_ref().filter(|_| !off(Rule::FrozenIsLeftAlone)) else {
            return Ok(());
        };
        let left = freeze.until.map(|until| until.since(cx.at).div_ceil(1_000));
        Err(Rejection::Frozen {
            vm: vm.to_string(),
            by: freeze.by.clone(),
            why: freeze.why.clone(),
            until: left.map(|seconds| format!(" for another {seconds} s")).unwrap_or_default(),
        })
    }

    pub(super) fn must_not_be_locked(&self) -> Result<(), Rejection> {
        match &self.lock {
            Some(_) if off(Rule::LockHoldsStarts) => Ok(()),
            None => Ok(()),
            Some(lock) => Err(Rejection::Locked { by: lock.by.clone(), why: lock.why.clone() }),
        }
    }
}
