//! A node falls silent: its session ends, a proof of its death is sought by every way there is, and the first counts.
//! Recovery follows from the proof alone, never from the silence.

use crate::cluster::ClusterState;
use crate::command::Operation;
use crate::liveness::{Heard, Liveness};
use crate::node::{NodeRecord, NodeState, ProofOfDeath};
use crate::plan::{Plan, Reason};
use crate::time::Timestamp;

pub(super) fn plan_nodes(
    state: &ClusterState,
    liveness: &Liveness,
    now: Timestamp,
    plan: &mut Plan,
) {
    for node in state.nodes.values() {
        let heard = liveness.heard.get(&node.id).filter(|heard| heard.session == node.last_session);
        let reason = match &node.state {
            NodeState::Online => online(state, node, heard, plan),
            NodeState::Lost => lost(state, node, heard, now, plan),
            NodeState::Fencing => fencing(state, node, heard, plan),
            NodeState::Dead(_) => Reason::AsWanted,
        };
        plan.nodes.insert(node.id, reason);
    }
}

fn online(
    state: &ClusterState,
    node: &NodeRecord,
    heard: Option<&Heard>,
    plan: &mut Plan,
) -> Reason {
    let silent_ms = heard.map_or(0, |heard| heard.silent_ms);
    if silent_ms > state.settings.lost_after_ms {
        plan.operations.push(Operation::NodeLost {
            node: node.id,
            session: node.last_session,
            silent_ms,
        });
        return Reason::Deciding(format!("not heard for {silent_ms} ms: its session ends"));
    }
    if silent_ms > state.settings.suspect_after_ms {
        Reason::Suspect { silent_ms }
    } else {
        Reason::AsWanted
    }
}

fn lost(
    state: &ClusterState,
    node: &NodeRecord,
    heard: Option<&Heard>,
    now: Timestamp,
    plan: &mut Plan,
) -> Reason {
    if let Some(reason) = lease_proof(state, node, heard, plan) {
        return reason;
    }
    if node.fence_devices.is_empty() {
        return Reason::NoProofYet { waiting_for: without_fence(node) };
    }
    let not_before = match &node.fence_attempts {
        // Doubled each time, up to sixteen times the first wait.
        Some(attempts) => attempts
            .at
            .plus(state.settings.fence_retry_ms << (attempts.failed.saturating_sub(1)).min(4)),
        None => now,
    };
    if not_before > now {
        plan.wake(not_before);
        let error = node
            .fence_attempts
            .as_ref()
            .and_then(|attempts| attempts.error.clone())
            .unwrap_or_default();
        let wait = not_before.since(now).div_ceil(1_000);
        return Reason::NoProofYet {
            waiting_for: format!("fencing failed ({error}), next attempt in {wait} s"),
        };
    }
    plan.operations.push(Operation::FenceAsked { node: node.id, session: node.last_session });
    Reason::Deciding("its fence devices are asked".into())
}

fn fencing(
    state: &ClusterState,
    node: &NodeRecord,
    heard: Option<&Heard>,
    plan: &mut Plan,
) -> Reason {
    lease_proof(state, node, heard, plan).unwrap_or(Reason::Fencing)
}

/// Proof by lease, sought at the same time as the fence; only where an armed watchdog bites when the lease is gone.
fn lease_proof(
    state: &ClusterState,
    node: &NodeRecord,
    heard: Option<&Heard>,
    plan: &mut Plan,
) -> Option<Reason> {
    let (timeout, heard) = node.watchdog_timeout_ms.zip(heard)?;
    if heard.unanswered_ms <= state.settings.lease_proof_ms(timeout) {
        return None;
    }
    plan.operations.push(Operation::NodeDead {
        node: node.id,
        session: node.last_session,
        proof: ProofOfDeath::Lease { silent_ms: heard.unanswered_ms },
    });
    Some(Reason::Deciding("its lease and its watchdog ran out".into()))
}

fn without_fence(node: &NodeRecord) -> String {
    match node.watchdog_timeout_ms {
        Some(_) => "its lease and its watchdog have to run out".into(),
        None => format!(
            "it has neither a fence device nor a watchdog; `berthctl node fence {}` sets one, or start its agent again",
            node.name
        ),
    }
}
