//! Loss and death: a node falls silent, and what it had is recovered when it is proven to run nothing.

use crate::cluster::{ClusterState, Context};
use crate::event::EventKind;
use crate::id::{NodeId, NodeName, SessionId};
use crate::node::{NodeState, ProofOfDeath};
use crate::rejection::Rejection;
use crate::sabotage::{Rule, off};
use crate::vm::{OrderIntent, OrderRecord, StopCause, VmState};

impl ClusterState {
    pub(in crate::apply) fn node_lost(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        session: SessionId,
        silent_ms: u64,
    ) -> Result<(), Rejection> {
        let at = cx.at;
        self.must_not_be_paused()?;
        let record = self.node_in_session(cx, node, session, |state| {
            matches!(state, NodeState::Online | NodeState::Off)
        })?;
        record.state = NodeState::Lost;
        record.state_since = at;
        record.fence_attempts = None;
        let text = format!("{} was not heard for {silent_ms} ms: lost", record.name);
        self.emit(cx, EventKind::NodeLost, None, Some(node), text);
        self.note_all_down(cx, &[])
    }

    pub(in crate::apply) fn node_dead(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        session: SessionId,
        proof: &ProofOfDeath,
    ) -> Result<(), Rejection> {
        if matches!(proof, ProofOfDeath::Lease { .. }) {
            if self.braked() || self.brakes_unseen() {
                return Err(Rejection::Braked);
            }
            self.must_not_be_paused()?;
        }
        let record = self.node_in_session(cx, node, session, |state| {
            matches!(state, NodeState::Lost | NodeState::Fencing | NodeState::Dead(_))
        })?;
        // What was planned before silence stopped counting.
        let void = matches!(proof, ProofOfDeath::Lease { .. })
            && record.away
            && !off(Rule::AwayEndsLeaseProof);
        if void {
            return Err(Rejection::Superseded { what: format!("node {}", record.name) });
        }
        let resolved = matches!(proof, ProofOfDeath::Fenced { .. })
            && std::mem::take(&mut record.fence_under_way);
        if let (ProofOfDeath::Fenced { device }, NodeState::Lost) = (proof, &record.state) {
            // It was begun before the moment from which a proof counts; the next is asked after it.
            if !resolved {
                return Err(Rejection::Superseded { what: format!("node {}", record.name) });
            }
            let outcome = format!("{device} says it is off, asked too early to prove it");
            record.note_fence(cx.at, outcome, false);
            return Ok(());
        }
        if let NodeState::Dead(earlier) = &record.state {
            // The lease was quicker; what the fence came to lets the node return.
            if !resolved {
                return Err(Rejection::Superseded { what: format!("node {}", record.name) });
            }
            if matches!(earlier, ProofOfDeath::Lease { .. }) {
                // It proves the death of what the lease did not bind, too.
                return self.bury(cx, node, proof);
            }
            // Confirmed by an operator it stays: he may have his hands in it, and a fenced one is switched on by its policy.
            if !matches!(earlier, ProofOfDeath::Confirmed { .. }) {
                record.state = NodeState::Dead(proof.clone());
                record.state_since = cx.at;
            }
            if let ProofOfDeath::Fenced { device } = proof {
                record.note_fence(cx.at, format!("{device} says it is off"), true);
            }
            return Ok(());
        }
        self.bury(cx, node, proof)
    }

    /// Proof of death (c): refused here while the node is in session, and by the leader while any replica hears it.
    pub(in crate::apply) fn confirm_off(
        &mut self,
        cx: &mut Context,
        name: &NodeName,
        why: &str,
    ) -> Result<(), Rejection> {
        let node = self.node(name)?;
        match node.state {
            NodeState::Lost | NodeState::Fencing | NodeState::Off => {}
            // A lease says nothing of guests that it did not bind; the operator does.
            NodeState::Dead(ProofOfDeath::Lease { .. }) => {}
            NodeState::Online | NodeState::Dead(_) => {
                return Err(Rejection::NodeAlive {
                    node: name.to_string(),
                    state: node.state.as_str().to_owned(),
                });
            }
        }
        let proof = ProofOfDeath::Confirmed { by: cx.by.clone(), why: why.to_owned() };
        self.bury(cx, node.id, &proof)
    }

    /// A death is proven: the node leaves every may-run set, and what it had is to be recovered. A proof by lease takes it
    /// out only for what the lease bound.
    pub(super) fn bury(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        proof: &ProofOfDeath,
    ) -> Result<(), Rejection> {
        let at = cx.at;
        let record = self.node_mut(cx, node)?;
        record.state = NodeState::Dead(proof.clone());
        record.state_since = at;
        record.power_on_attempts = None;
        record.unmanaged.clear();
        let how = match proof {
            ProofOfDeath::Fenced { device } => format!("{device} says it is off"),
            ProofOfDeath::Lease { silent_ms } => {
                format!("its lease and its watchdog ran out ({silent_ms} ms without an answer)")
            }
            ProofOfDeath::NewBoot => "it booted anew".to_owned(),
            ProofOfDeath::Confirmed { by, why } => format!("{by} made sure ({why})"),
        };
        record.note_fence(at, how.clone(), true);
        let text = format!("{} runs nothing any more: {how}", record.name);
        self.emit(cx, EventKind::NodeDead, None, Some(node), text);
        // Before their VMs: a member is not recovered for itself.
        let by_lease = matches!(proof, ProofOfDeath::Lease { .. });
        self.bury_services(cx, node, by_lease)?;
        self.claim_ends_with(cx, node)?;
        let mut targets = Vec::new();
        for name in self.vms_touching(node) {
            let record = self.vm_mut(cx, &name)?;
            // A guest that runs on without a lease is not dead when the lease is, nor is one that the lease never bound.
            // Where its agent has said before that nothing is there, what is left is an order that nobody will carry out.
            let may_be_there =
                record.may_run.contains_key(&node) || record.seen.contains_key(&node);
            if by_lease && may_be_there && (record.outlives_lease() || !record.is_bound_at(node)) {
                // Nothing is migrated to a node that is not heard, whatever may have arrived there so far.
                if let Some(OrderRecord {
                    intent: OrderIntent::Migrate { to, cancelled, .. }, ..
                }) = &mut record.order
                    && *to == node
                {
                    *cancelled = true;
                }
                continue;
            }
            record.seen.remove(&node);
            // The source may still carry the migration out, to a host that has booted again: the target stays in the set
            // until that order has come to something.
            if let Some(OrderRecord { intent: OrderIntent::Migrate { to, cancelled, .. }, .. }) =
                &mut record.order
                && *to == node
                && !off(Rule::DeadTargetStays)
            {
                *cancelled = true;
                continue;
            }
            // Its boot proves nothing of a guest that the source may have handed over to it since: it is asked.
            let may_have_arrived = matches!(proof, ProofOfDeath::NewBoot)
                && record.state == VmState::Migrating
                && record.migration.as_ref().is_some_and(|it| it.to == node && it.phase.is_open());
            if may_have_arrived && !off(Rule::DeadTargetStays) {
                continue;
            }
            record.may_run.remove(&node);
            if let Some(order) = record.order.take_if(|order| order.node == node)
                && let OrderIntent::Migrate { to, .. } = order.intent
                && record.may_run.contains_key(&to)
            {
                targets.push(to);
            }
            self.gone(cx, &name, node, StopCause::Unknown, true)?;
        }
        targets.sort_unstable();
        targets.dedup();
        targets.into_iter().try_for_each(|target| self.prove_again(cx, target, node))
    }

    /// The source of a migration died while its target is in no session: until then it could still have migrated to a target
    /// that has booted again and not registered yet. Only a proof that is sought after the source's death settles it: not
    /// silence, for what arrived there is bound by no lease, and not a fence that was asked before.
    pub(in crate::apply) fn prove_again(
        &mut self,
        cx: &mut Context,
        target: NodeId,
        source: NodeId,
    ) -> Result<(), Rejection> {
        let source = self.node_name(source);
        let at = cx.at;
        let record = self.node_mut(cx, target)?;
        if record.state == NodeState::Online {
            // It is asked, and its word counts.
            return Ok(());
        }
        record.state = NodeState::Lost;
        record.state_since = at;
        record.away = true;
        record.fence_attempts = None;
        let text = format!(
            "{} has to be proven dead from now on: so far {source} could still have migrated a VM there",
            record.name
        );
        self.emit(cx, EventKind::NodeLost, None, Some(target), text);
        Ok(())
    }
}
