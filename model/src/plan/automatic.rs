//! What the cluster moves by itself: off a node that is to be empty, out of where rules forbid it, back home, and stops
//! with a host that shuts down. One VM at a time looks after itself here; evening out load is `balance.rs`.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::ClusterState;
use crate::command::{Decision, MoveCause};
use crate::fleet::ShutdownPolicy;
use crate::id::NodeId;
use crate::node::{NodeRecord, NodeState};
use crate::plan::Reason;
use crate::plan::placement;
use crate::plan::ruling::Ruling;
use crate::plan::vm::Planner;
use crate::vm::{AutomaticMoves, Desired, VmRecord, VmState};

/// Failures in a row after which a move is said to be stuck, though it is tried on.
const STUCK_AFTER: u32 = 3;
/// Failures in a row after which a VM is no longer moved off a host that shuts down, but stopped.
const SHUTDOWN_PATIENCE: u32 = 2;

/// Moves under way and those that this plan adds: what limits hold against.
#[derive(Debug, Default)]
pub(super) struct Moves {
    all: u64,
    of_node: BTreeMap<NodeId, u64>,
    /// Of the kind of which one at a time is enough.
    unhurried: u64,
}

impl Moves {
    /// Counted from the whole state.
    pub(super) fn of(state: &ClusterState) -> Self {
        let mut moves = Self::default();
        for record in state.vms.values() {
            let asked = record.open_operation().and_then(|it| Some((it.cause?, it.verb.target())));
            let ordered = record.migration_target();
            if asked.is_none() && ordered.is_none() {
                continue;
            }
            let target = ordered.or(asked.and_then(|(_, to)| to));
            moves.note(record.owner.or(record.last_owner), target, asked.map(|(cause, _)| cause));
        }
        moves
    }

    pub(super) fn note(
        &mut self,
        from: Option<NodeId>,
        to: Option<NodeId>,
        cause: Option<MoveCause>,
    ) {
        self.all += 1;
        for node in from.into_iter().chain(to) {
            *self.of_node.entry(node).or_default() += 1;
        }
        self.unhurried += u64::from(cause.is_some_and(unhurried));
    }

    /// Whether one more fits in.
    pub(super) fn has_room(
        &self,
        state: &ClusterState,
        from: NodeId,
        to: NodeId,
        cause: MoveCause,
    ) -> bool {
        let of = |node| self.of_node.get(&node).copied().unwrap_or(0);
        let settings = &state.settings;
        self.all < settings.moves_at_once
            && of(from) < settings.moves_per_node
            && of(to) < settings.moves_per_node
            && !(unhurried(cause) && self.unhurried > 0)
    }
}

/// Where nothing presses, one VM moves at a time, and the next is chosen from what that led to.
fn unhurried(cause: MoveCause) -> bool {
    matches!(cause, MoveCause::Rule | MoveCause::Balance)
}

impl Planner<'_> {
    /// What is to be done by itself about a VM that runs as wanted.
    pub(super) fn automatic_move(&mut self, owner: NodeId) -> Option<Reason> {
        if !self.may_move(owner) {
            return None;
        }
        let node = self.state.nodes.get(&owner)?;
        if node.shutdown.is_some() {
            return Some(self.with_shutdown(node));
        }
        if node.maintenance.is_some() {
            return Some(self.drain(owner));
        }
        self.by_rule(owner).or_else(|| self.go_home(owner))
    }

    /// Why the cluster may not move it by itself, as a sentence without its stop.
    fn bound(&self) -> Option<String> {
        let spec = &self.record.spec;
        match spec.policy.automatic_moves {
            AutomaticMoves::Never => Some("its policy lets no one but operators move it".into()),
            AutomaticMoves::Live => spec.cannot_migrate().map(|why| {
                format!("it cannot be migrated ({why}), and its policy does not let it be stopped for a move")
            }),
            AutomaticMoves::Cold => None,
        }
    }

    fn drain(&mut self, owner: NodeId) -> Reason {
        if let Some(why) = self.bound() {
            return Reason::CannotLeave { why };
        }
        if let Some(reason) = self.move_pause(MoveCause::Drain) {
            return reason;
        }
        let here = BTreeSet::from([owner]);
        match placement::place(self.state, self.liveness, self.load, self.record, &here) {
            Ok(place) => self.move_to(owner, place.node, MoveCause::Drain, place.why),
            Err(no_place) => Reason::CannotLeave { why: no_place.to_string() },
        }
    }

    /// Its host goes down: it is moved off first, or stopped, as the policy says; each VM as soon as it can be.
    fn with_shutdown(&mut self, node: &NodeRecord) -> Reason {
        let Some(shutdown) = node.shutdown else { return Reason::AsWanted };
        let policy = self.state.settings.shutdown_policy;
        let waits = policy.waits(shutdown.then);
        let movable = self.bound().is_none() && self.record.stay.failed_moves < SHUTDOWN_PATIENCE;
        if policy == ShutdownPolicy::Migrate && movable {
            if let Some(reason) = self.move_pause(MoveCause::Drain) {
                return reason;
            }
            let here = BTreeSet::from([node.id]);
            let place = placement::place(self.state, self.liveness, self.load, self.record, &here);
            if let Ok(place) = place {
                return self.move_to(node.id, place.node, MoveCause::Drain, place.why);
            }
        }
        let graceful_ms = Some(self.record.spec.policy.stop_timeout_ms);
        let decision = Decision::StopForShutdown { node: node.id, graceful_ms, waits };
        self.decide(decision, "it stops with its host")
    }

    /// It is where a rule or a restricted failover domain forbids it to be.
    fn by_rule(&mut self, owner: NodeId) -> Option<Reason> {
        let record = self.record;
        let node = self.state.nodes.get(&owner)?;
        let domain = record.spec.policy.failover_domain.as_ref();
        let domain = domain.and_then(|name| self.state.failover_domains.get(name));
        let outside = domain.filter(|domain| domain.rank(&node.name).is_none());
        let why = match outside {
            Some(domain) => {
                format!("{} is not in its restricted failover domain {}", node.name, domain.name)
            }
            None => Ruling::of(self.state, self.load, record).ousts(self.state, owner)?,
        };
        if let Some(bound) = self.bound() {
            return Some(Reason::CannotLeave { why: format!("{why}, and {bound}") });
        }
        if let Some(reason) = self.move_pause(MoveCause::Rule) {
            return Some(reason);
        }
        let here = BTreeSet::from([owner]);
        Some(match placement::place(self.state, self.liveness, self.load, record, &here) {
            Ok(place) => self.move_to(owner, place.node, MoveCause::Rule, why),
            Err(no_place) => Reason::CannotLeave { why: format!("{why}, and {no_place}") },
        })
    }

    /// The node that a drain took it from is back.
    fn go_home(&mut self, owner: NodeId) -> Option<Reason> {
        let record = self.record;
        let home = record.stay.home.filter(|home| *home != owner)?;
        let domain = record.spec.policy.failover_domain.as_ref();
        let domain = domain.and_then(|name| self.state.failover_domains.get(name));
        if domain.is_some_and(|domain| domain.nofailback) || self.bound().is_some() {
            return None;
        }
        let all =
            placement::candidates(self.state, self.liveness, self.load, record, &BTreeSet::new());
        let rank = |node| all.iter().find(|it| it.node == node).and_then(|it| it.rank);
        let target = all.iter().find(|it| it.node == home && it.refused.is_none())?;
        // A failover domain that likes it better where it is now has the last word.
        if rank(owner).is_some_and(|here| target.rank > Some(here)) {
            return None;
        }
        if let Some(reason) = self.move_pause(MoveCause::Return) {
            return Some(reason);
        }
        let why = format!("it was drained from {}", target.name);
        Some(self.move_to(owner, home, MoveCause::Return, why))
    }

    /// A pause after the last move, or after those that failed. What presses waits for failures only.
    pub(super) fn move_pause(&mut self, cause: MoveCause) -> Option<Reason> {
        let stay = &self.record.stay;
        let pressing = cause == MoveCause::Drain || cause == MoveCause::Return;
        if stay.not_before <= self.now || (pressing && stay.failed_moves == 0) {
            return None;
        }
        self.plan.wake(stay.not_before);
        let wait_ms = stay.not_before.since(self.now);
        Some(match stay.failed_moves {
            0..STUCK_AFTER => Reason::MoveWaits { wait_ms },
            failed => Reason::CannotLeave {
                why: format!(
                    "{failed} moves of it failed in a row; the next is tried in {} s",
                    wait_ms.div_ceil(1_000)
                ),
            },
        })
    }

    /// Proposes the move, if the limits leave room for it.
    pub(super) fn move_to(
        &mut self,
        from: NodeId,
        to: NodeId,
        cause: MoveCause,
        why: String,
    ) -> Reason {
        if !self.moves.has_room(self.state, from, to, cause) {
            return Reason::MoveQueued { to: self.state.node_name(to) };
        }
        self.moves.note(Some(from), Some(to), Some(cause));
        self.load.add(to, self.record);
        self.decide(Decision::AskMove { to, cause, why }, "it is moved by itself")
    }

    /// It was stopped with its host and waits for it, as long as that is not back. One that is proven dead does not come back
    /// by itself: only where the policy is that VMs stay with their host is it waited for on.
    pub(super) fn waits_for_host(&mut self) -> Option<Reason> {
        let node = self.record.stay.waits_for?;
        let host = self.state.nodes.get(&node)?;
        let dead = matches!(host.state, NodeState::Dead(_));
        if dead && self.state.settings.shutdown_policy != ShutdownPolicy::Freeze {
            return None;
        }
        let back = host.state == NodeState::Online && host.shutdown.is_none();
        if !back || self.is_about_to_be_heard(node) {
            return Some(Reason::WaitsForHost { node: host.name.to_string() });
        }
        // What keeps it from there, such as a maintenance, holds for it like for any other.
        if !self.can_take(node) {
            return None;
        }
        let why = "its host is back".to_owned();
        Some(self.decide(Decision::Start { node, why, restart: false }, "it starts"))
    }
}

/// Whether a VM may be moved only to even out load: it runs as wanted, can be migrated, and nothing else is going on.
pub(super) fn may_be_balanced(record: &VmRecord) -> bool {
    record.state == VmState::Started
        && record.desired == Desired::Enabled
        && record.spec.policy.automatic_moves == AutomaticMoves::Live
        && record.spec.cannot_migrate().is_none()
        && record.order.is_none()
        && record.open_operation().is_none()
        && record.frozen.is_none()
}
