//! A node falls silent: its session ends, a proof of its death is sought by every way there is, and the first counts.
//! Recovery follows from the proof alone, never from the silence.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::cluster::{ClusterState, MassLoss};
use crate::command::Operation;
use crate::id::NodeId;
use crate::liveness::{Heard, Liveness};
use crate::node::{NodeRecord, NodeState, ProofOfDeath};
use crate::plan::{Plan, Reason};
use crate::sabotage::{Rule, off};
use crate::time::Timestamp;

/// How long an agent that ended by plan may be away, as for an upgrade, before its node counts as lost.
const AWAY_GRACE_MS: u64 = 60_000;

pub(super) fn plan_nodes(
    state: &ClusterState,
    liveness: &Liveness,
    now: Timestamp,
    plan: &mut Plan,
) {
    if let Some(pause) = &state.pause {
        for node in state.nodes.keys() {
            let (by, why) = (pause.by.clone(), pause.why.clone());
            plan.nodes.insert(*node, Reason::Paused { by, why });
        }
        return;
    }
    let asked = |node: &Arc<NodeRecord>| {
        node.shutdown.is_some() || node.state == NodeState::Off || is_dead_by_lease(node)
    };
    let in_use: BTreeSet<NodeId> = match state.nodes.values().any(asked) {
        true => {
            let vms = state.vms.values().flat_map(|vm| vm.may_run.keys());
            let scripts = state.services.values().flat_map(|service| service.may_run.keys());
            vms.chain(scripts).copied().collect()
        }
        // Asked of none.
        false => BTreeSet::new(),
    };
    let seems_lost = seems_lost(state, liveness, &in_use);
    let braked = brake(state, &seems_lost, now, plan);
    for node in state.nodes.values() {
        let heard = liveness.heard.get(&node.id).filter(|heard| heard.session == node.last_session);
        let reason = match &node.state {
            NodeState::Online if is_empty_on_its_way_off(node, &in_use) => {
                going_off(state, node, heard, plan)
            }
            // Something of it is to be known after all: its death is sought like any other's.
            NodeState::Off if in_use.contains(&node.id) && !braked => {
                let (node, session) = (node.id, node.last_session);
                plan.operations.push(Operation::NodeLost { node, session, silent_ms: 0 });
                Reason::Deciding(
                    "it is off, and something may run there: its death is sought".into(),
                )
            }
            NodeState::Off => Reason::AsWanted,
            NodeState::Online if braked => held_up(state, heard),
            NodeState::Lost if braked => Reason::MassLoss,
            NodeState::Fencing if braked => Reason::Fencing,
            NodeState::Online => online(state, node, heard, plan),
            NodeState::Lost => lost(state, node, heard, now, plan),
            NodeState::Fencing => fencing(state, node, heard, plan),
            // The lease did not bind all that may run there: a fence settles the rest.
            NodeState::Dead(ProofOfDeath::Lease { .. })
                if in_use.contains(&node.id)
                    && !braked
                    && !node.fence_devices.is_empty()
                    && !node.fence_under_way =>
            {
                fence_when_due(state, node, now, plan)
            }
            NodeState::Dead(_) => not_switched_on(node).unwrap_or(Reason::AsWanted),
        };
        plan.nodes.insert(node.id, reason);
    }
}

/// Nodes that should be heard and are not, and those whose loss is not settled.
///
/// Nodes that fell silent in one moment are not found out in one: the last heartbeat of one is up to a heartbeat and its
/// answer younger than that of another. So once one is lost, those count that may have fallen silent with it.
fn seems_lost(state: &ClusterState, liveness: &Liveness, in_use: &BTreeSet<NodeId>) -> Vec<NodeId> {
    let settings = &state.settings;
    let together_ms = settings.heartbeat_ms + settings.answer_timeout_ms;
    let over_ms = |node: &NodeRecord, less_ms: u64| match node.state {
        NodeState::Online if is_empty_on_its_way_off(node, in_use) => false,
        NodeState::Online => liveness
            .heard
            .get(&node.id)
            .filter(|heard| heard.session == node.last_session)
            .is_some_and(|heard| {
                let limit = if node.away { AWAY_GRACE_MS } else { settings.lost_after_ms };
                heard.silent_ms > limit.saturating_sub(less_ms).max(settings.suspect_after_ms)
            }),
        NodeState::Lost | NodeState::Fencing => true,
        NodeState::Dead(_) | NodeState::Off => false,
    };
    let all = || state.nodes.values();
    if !all().any(|node| over_ms(node, 0)) {
        return Vec::new();
    }
    all().filter(|node| over_ms(node, together_ms)).map(|node| node.id).collect()
}

/// Whether nothing is to be fenced or recovered now: more nodes seem lost at once than the set share, and at least two
/// (design section 3, mass loss). The brake and its release are in the log, so that every leader heeds them.
fn brake(state: &ClusterState, lost: &[NodeId], now: Timestamp, plan: &mut Plan) -> bool {
    let many = state.is_mass_loss(lost.len());
    if off(Rule::MassLossBrake) {
        return false;
    }
    let Some(loss) = &state.mass_loss else {
        if many {
            plan.operations.push(Operation::MassLoss { nodes: lost.to_vec() });
        }
        return many;
    };
    // A network that heals gives its nodes back one after the other: the first must not be the death of the others.
    let calm = loss.since.plus(2 * state.settings.lost_after_ms);
    // Once it was released there is nothing to wait for, and what falls silent later is another loss.
    let released = loss.released_by.is_some();
    let settled = match released && !off(Rule::ReleaseIsOfItsNodes) {
        true => !many,
        false => !many && loss.nodes == lost && calm <= now,
    };
    if lost.is_empty() || settled {
        plan.operations.push(Operation::MassLossOver);
        return false;
    }
    if released && !is_of_others(loss, lost) {
        return false;
    }
    if loss.nodes != lost {
        plan.operations.push(Operation::MassLoss { nodes: lost.to_vec() });
    } else if !many {
        plan.wake(calm);
    }
    true
}

/// An operator said that certain nodes are lost indeed, and now they are others.
fn is_of_others(loss: &MassLoss, lost: &[NodeId]) -> bool {
    !off(Rule::ReleaseIsOfItsNodes) && lost.iter().any(|node| !loss.nodes.contains(node))
}

/// Its agent said that the host goes down, and by that agent's word nothing of the cluster's is there any more.
fn is_empty_on_its_way_off(node: &NodeRecord, in_use: &BTreeSet<NodeId>) -> bool {
    node.shutdown.is_some() && !in_use.contains(&node.id)
}

/// There is nothing to recover and nothing to prove: once it is silent it is off.
fn going_off(
    state: &ClusterState,
    node: &NodeRecord,
    heard: Option<&Heard>,
    plan: &mut Plan,
) -> Reason {
    if heard.map_or(0, |heard| heard.silent_ms) > state.settings.lost_after_ms {
        plan.operations.push(Operation::NodeOff { node: node.id, session: node.last_session });
        return Reason::Deciding("it was shut down in good order".into());
    }
    Reason::ShuttingDown
}

fn held_up(state: &ClusterState, heard: Option<&Heard>) -> Reason {
    match heard.map_or(0, |heard| heard.silent_ms) {
        silent_ms if silent_ms > state.settings.lost_after_ms => Reason::MassLoss,
        silent_ms if silent_ms > state.settings.suspect_after_ms => Reason::Suspect { silent_ms },
        _ => Reason::AsWanted,
    }
}

fn online(
    state: &ClusterState,
    node: &NodeRecord,
    heard: Option<&Heard>,
    plan: &mut Plan,
) -> Reason {
    let silent_ms = heard.map_or(0, |heard| heard.silent_ms);
    if node.away && silent_ms > state.settings.suspect_after_ms && silent_ms <= AWAY_GRACE_MS {
        return Reason::Away;
    }
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
    if node.fence_under_way {
        return Reason::NoProofYet {
            waiting_for: "a fence that was asked too early to prove anything has to end first"
                .into(),
        };
    }
    if node.fence_devices.is_empty() {
        return Reason::NoProofYet { waiting_for: without_fence(node) };
    }
    fence_when_due(state, node, now, plan)
}

fn is_dead_by_lease(node: &NodeRecord) -> bool {
    matches!(node.state, NodeState::Dead(ProofOfDeath::Lease { .. }))
}

fn not_switched_on(node: &NodeRecord) -> Option<Reason> {
    let error = node.power_on_attempts.as_ref()?.error.as_deref().unwrap_or_default();
    Some(Reason::Deciding(format!(
        "it could not be switched on ({error}); that is tried again, within what its policy allows in an hour"
    )))
}

/// The next attempt, as long after the last one as that makes necessary.
fn fence_when_due(
    state: &ClusterState,
    node: &NodeRecord,
    now: Timestamp,
    plan: &mut Plan,
) -> Reason {
    let not_before = match &node.fence_attempts {
        Some(attempts) => attempts.next_ms(state.settings.fence_retry_ms),
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
    let (needed_ms, heard) = node.lease_proof_ms(state.settings.drift_percent).zip(heard)?;
    if heard.unanswered_ms <= needed_ms {
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
    let name = &node.name;
    let ways_out = format!(
        "make sure that it is off and say so with `berthctl node confirm-off {name}`, or start its agent again"
    );
    match node.watchdog_timeout_ms {
        Some(_) if node.away => {
            format!(
                "its agent had ended by plan, or something may have come there since it did, so a lease proves nothing; {ways_out}"
            )
        }
        Some(_) if node.pausable && !node.vouched => format!(
            "it is a virtual machine whose clock may be paused, so a lease proves nothing (`berthctl node policy {name} --vouch-clock` vouches for it); {ways_out}"
        ),
        Some(_) => "its lease and its watchdog have to run out".into(),
        None => format!("it has neither a fence device nor a watchdog; {ways_out}"),
    }
}
