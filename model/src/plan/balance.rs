//! Evens out load: when the busiest node has been busier than the idlest by the threshold for a while, one VM moves, the
//! one that makes the difference smallest; the next is chosen from what that led to.

use std::collections::BTreeSet;

use crate::cluster::ClusterState;
use crate::command::{Decision, MoveCause, Operation};
use crate::fleet::PlacementMode;
use crate::id::NodeId;
use crate::liveness::Liveness;
use crate::node::NodeRecord;
use crate::plan::automatic::{Moves, may_be_balanced};
use crate::plan::load::Load;
use crate::plan::{Plan, placement};
use crate::time::Timestamp;
use crate::vm::VmRecord;

/// The nodes between which load is evened out, with how busy they are.
struct Fleet<'f> {
    nodes: Vec<(&'f NodeRecord, u64)>,
}

/// One move, and what it makes of the sum of squares of all nodes' loads: the smaller, the more even.
struct Better<'b> {
    record: &'b VmRecord,
    from: NodeId,
    to: NodeId,
    gain: u64,
}

pub(super) fn even_out(
    state: &ClusterState,
    liveness: &Liveness,
    now: Timestamp,
    moves: &mut Moves,
    load: &Load,
    plan: &mut Plan,
) {
    if !state.settings.auto_rebalance || state.pause.is_some() || state.braked() {
        if state.uneven_since.is_some() {
            plan.operations.push(Operation::Uneven(false));
        }
        return;
    }
    let fleet = Fleet::of(state, liveness, load);
    let uneven = fleet.difference() >= threshold(state);
    if uneven != state.uneven_since.is_some() {
        plan.operations.push(Operation::Uneven(uneven));
    }
    let Some(since) = state.uneven_since.filter(|_| uneven) else { return };
    let due = since.plus(state.settings.rebalance_hold_ms);
    if due > now {
        return plan.wake(due);
    }
    // What is decided or under way comes first: it changes what is even.
    let busy = plan.operations.iter().any(|it| matches!(it, Operation::Decide { .. }));
    if busy {
        return;
    }
    let Some(best) = fleet.best_move(state, liveness, now, load) else { return };
    if !moves.has_room(state, best.from, best.to, MoveCause::Balance) {
        return;
    }
    moves.note(Some(best.from), Some(best.to), Some(MoveCause::Balance));
    let why = "the busiest node gives it away".to_owned();
    plan.operations.push(Operation::Decide {
        vm: best.record.spec.name.clone(),
        changed: best.record.changed,
        decision: Decision::AskMove { to: best.to, cause: MoveCause::Balance, why },
    });
}

/// In the unit of [`Load::busy`]: per mille of a node; by number, a difference of two VMs, for one can never be evened out.
fn threshold(state: &ClusterState) -> u64 {
    match state.settings.placement {
        PlacementMode::Count => 2_000,
        PlacementMode::Static | PlacementMode::Dynamic => {
            state.settings.rebalance_threshold_percent * 10
        }
    }
}

impl<'f> Fleet<'f> {
    fn of(state: &'f ClusterState, liveness: &Liveness, load: &Load) -> Self {
        let heard = |node: &NodeRecord| {
            let heard = liveness.heard.get(&node.id);
            heard.is_some_and(|it| it.met && it.silent_ms <= state.settings.suspect_after_ms)
        };
        let nodes = state
            .nodes
            .values()
            .filter(|node| node.serves() && heard(node))
            .map(|node| (node.as_ref(), load.busy(node, None)))
            .collect();
        Self { nodes }
    }

    fn difference(&self) -> u64 {
        let busy = self.nodes.iter().map(|(_, busy)| *busy);
        busy.clone().max().unwrap_or(0) - busy.min().unwrap_or(0)
    }

    /// The move from the busiest node that evens out most; of equals that of the first VM to the first node by name.
    fn best_move<'b>(
        &self,
        state: &'b ClusterState,
        liveness: &Liveness,
        now: Timestamp,
        load: &Load,
    ) -> Option<Better<'b>> {
        let by_load =
            |(node, busy): &&(&NodeRecord, u64)| (*busy, std::cmp::Reverse(node.name.clone()));
        let (busiest, before) = self.nodes.iter().max_by_key(by_load)?;
        let movable = state.vms.values().filter(|record| {
            record.owner == Some(busiest.id)
                && may_be_balanced(record)
                // A service's VMs move with it.
                && state.governing(&record.spec.name).is_none()
                && record.stay.not_before <= now
                && record.stay.home.is_none()
        });
        let here = BTreeSet::from([busiest.id]);
        let margin = state.settings.rebalance_margin_percent * 10;
        let mut best: Option<Better<'b>> = None;
        for record in movable {
            let left = load.busy_without(busiest, record);
            let all = placement::candidates(state, liveness, load, record, &here);
            let rank = all.iter().find(|it| it.node == busiest.id).and_then(|it| it.rank);
            for target in all.iter().filter(|it| it.refused.is_none() && it.rank <= rank) {
                let known = self.nodes.iter().find(|(node, _)| node.id == target.node);
                let Some((_, there)) = known else { continue };
                let pair = before.abs_diff(*there);
                let after = left.abs_diff(target.busy);
                if target.busy >= *before || after + margin > pair {
                    continue;
                }
                let gain = pair - after;
                if best.as_ref().is_none_or(|it| gain > it.gain) {
                    best = Some(Better { record, from: busiest.id, to: target.node, gain });
                }
            }
        }
        best
    }
}
