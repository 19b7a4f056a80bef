//! What one VM needs now.

mod depend;
mod hold;
mod moves;
mod start;

use std::collections::BTreeSet;

use crate::apply::decision::TELL_AGAIN_MS;
use crate::cluster::ClusterState;
use crate::command::{Decision, Operation};
use crate::id::NodeId;
use crate::liveness::Liveness;
use crate::node::NodeState;
use crate::plan::automatic::Moves;
use crate::plan::flow::Flow;
use crate::plan::load::Load;
use crate::plan::placement;
use crate::plan::{Plan, Reason};
use crate::sabotage::{Rule, off};
use crate::time::Timestamp;
use crate::vm::{Desired, OrderIntent, OrderRecord, Presence, Sighting, Verb, VmRecord, VmState};

pub(super) struct Planner<'p> {
    pub(super) state: &'p ClusterState,
    pub(super) liveness: &'p Liveness,
    pub(super) now: Timestamp,
    pub(super) load: &'p mut Load,
    pub(super) flow: &'p mut Flow,
    pub(super) moves: &'p mut Moves,
    pub(super) record: &'p VmRecord,
    pub(super) plan: &'p mut Plan,
}

pub(super) fn plan_vm(
    state: &ClusterState,
    liveness: &Liveness,
    now: Timestamp,
    (load, flow, moves): (&mut Load, &mut Flow, &mut Moves),
    record: &VmRecord,
    plan: &mut Plan,
) {
    let mut planner = Planner { state, liveness, now, load, flow, moves, record, plan };
    let reason = planner.reason();
    planner.plan.vms.insert(record.spec.name.clone(), reason);
}

impl Planner<'_> {
    pub(super) fn decide(&mut self, decision: Decision, what: impl Into<String>) -> Reason {
        if let Decision::Start { node, .. } = &decision {
            if let Some(reason) = self.held_up() {
                return reason;
            }
            self.load.add(*node, self.record);
            self.flow.starts(self.record.into());
        }
        self.plan.operations.push(Operation::Decide {
            vm: self.record.spec.name.clone(),
            changed: self.record.changed,
            decision,
        });
        Reason::Deciding(what.into())
    }

    fn names(&self, nodes: impl IntoIterator<Item = NodeId>) -> Vec<String> {
        nodes.into_iter().map(|node| self.state.node_name(node)).collect()
    }

    fn reason(&mut self) -> Reason {
        let record = self.record;
        let guests: Vec<NodeId> = record.seen_with_guest().collect();
        if let Some(freeze) = &record.frozen
            && !off(Rule::FrozenIsLeftAlone)
        {
            return self.frozen(freeze, &guests);
        }
        if let Some(reason) = self.twice(&guests) {
            return reason;
        }
        if let Some(order) = &record.order {
            return self.order_out(order);
        }
        if record.desired == Desired::Ignored {
            return self.left_alone(&guests);
        }
        if let Some(reason) = self.paused() {
            return reason;
        }
        let wanted = record.desired == Desired::Enabled;
        if let Some(reason) = self.stopped_copies(wanted, &guests) {
            return reason;
        }
        if let Some(reason) = self.ailing(wanted) {
            return reason;
        }
        match (record.state, guests.as_slice()) {
            (VmState::Conflict, []) => self.decide(Decision::Settle, "it runs nowhere any more"),
            // The operator wants it as it is: the stop that failed is called off.
            (VmState::Failed, [node])
                if self.asked(|verb| matches!(verb, Verb::Enable { .. }))
                    && self.has_session(*node) =>
            {
                let place = self.state.node_name(*node);
                self.decide(Decision::Adopt { node: *node }, format!("tracked on {place} again"))
            }
            (VmState::Failed, _) if !self.asked(|verb| matches!(verb, Verb::Disable)) => {
                Reason::StopFailed {
                    why: record
                        .failure
                        .as_ref()
                        .map(|failure| failure.why.clone())
                        .unwrap_or_default(),
                }
            }
            (_, [node])
                if (wanted || self.is_ours())
                    && !self.tracked_at(*node)
                    && !self.has_session(*node) =>
            {
                self.owner_silent(*node)
            }
            // It runs there already: that is its place, whoever brought it there.
            (_, [node]) if (wanted || self.is_ours()) && !self.tracked_at(*node) => self.decide(
                Decision::Adopt { node: *node },
                format!("tracked on {}", self.state.node_name(*node)),
            ),
            (_, [node]) if !wanted && (self.is_ours() || record.open_operation().is_some()) => {
                self.stop_at(*node)
            }
            (_, [_, ..]) if !wanted => {
                Reason::RunsUnasked { nodes: self.names(guests.iter().copied()) }
            }
            (VmState::Started, _) => self.started(),
            // The node it went to has a moment to say so.
            (VmState::Lost, _) if !wanted && self.just_left() => Reason::Lost,
            (VmState::Lost, _) if wanted && !off(Rule::LostIsNotRestarted) => Reason::Lost,
            _ if !wanted => self.down(),
            (VmState::Stopped | VmState::Recovering, []) => self.start(),
            (VmState::Lost, []) if off(Rule::LostIsNotRestarted) => self.start(),
            (VmState::Migrating | VmState::Starting | VmState::Stopping, [])
                if record.may_run.is_empty() =>
            {
                self.decide(Decision::Settle, "it is nowhere any more")
            }
            _ => self.unknown_places().unwrap_or(Reason::AsWanted),
        }
    }

    /// Nothing is done about it, but that a guest which Berth itself suspended is let run on: that keeps what was.
    fn left_alone(&mut self, guests: &[NodeId]) -> Reason {
        let record = self.record;
        let suspended = record.seen.values().any(|it| it.presence == Presence::Suspended);
        if !suspended || record.state == VmState::Failed {
            return Reason::Ignored;
        }
        self.stopped_copies(true, guests).unwrap_or(Reason::Ignored)
    }

    /// While the cluster is paused nothing is done, but that a guest which Berth itself suspended is let run on: that
    /// keeps what was.
    fn paused(&mut self) -> Option<Reason> {
        let pause = self.state.pause.as_ref().filter(|_| !off(Rule::PauseHoldsAll))?;
        let record = self.record;
        let (by, why) = (pause.by.clone(), pause.why.clone());
        let paused = Reason::Paused { by, why };
        let suspended = record.seen.values().any(|it| it.presence == Presence::Suspended);
        if record.desired != Desired::Enabled || !suspended || record.seen.len() != 1 {
            return Some(paused);
        }
        match self.stopped_copies(true, &[]) {
            Some(reason @ Reason::Deciding(_)) => Some(reason),
            _ => Some(paused),
        }
    }

    /// A VM seen with its guest on two nodes; a migration under way is no such thing.
    fn twice(&mut self, guests: &[NodeId]) -> Option<Reason> {
        if guests.len() < 2 || self.record.migration_target().is_some() {
            return None;
        }
        if self.record.state == VmState::Conflict || off(Rule::ConflictIsLeftAlone) {
            let keep = match self.record.keep {
                None if off(Rule::ConflictIsLeftAlone) => guests.first().copied(),
                keep => keep,
            };
            if let Some(keep) = keep
                && let Some(other) = guests.iter().find(|node| **node != keep)
                && self.record.order.is_none()
                && self.record.desired != Desired::Ignored
                && self.state.pause.is_none()
                && self.may_evict(*other)
            {
                let why = format!("{} is kept", self.state.node_name(keep));
                return Some(self.decide(Decision::Evict { node: *other, why }, "one is kept"));
            }
            return Some(Reason::Conflict { nodes: self.names(guests.iter().copied()) });
        }
        let since = guests
            .iter()
            .filter_map(|node| self.record.seen.get(node))
            .map(|sighting| sighting.at)
            .max()?;
        let due = since.plus(self.state.settings.conflict_grace_ms);
        if due > self.now {
            self.plan.wake(due);
            return Some(Reason::Deciding(
                "two nodes report it; one of them may be about to lose it".into(),
            ));
        }
        Some(self.decide(Decision::Conflict, "it runs twice"))
    }

    pub(super) fn may_evict(&mut self, node: NodeId) -> bool {
        let due = self.record.evict_not_before;
        if due > self.now {
            self.plan.wake(due);
        }
        due <= self.now && self.has_session(node)
    }

    /// Copies that do not run: what self-fence suspended is resumed where it is still the owner's and wanted, and all
    /// that is nobody's is destroyed (design section 3, self-fence).
    fn stopped_copies(&mut self, wanted: bool, guests: &[NodeId]) -> Option<Reason> {
        let record = self.record;
        // The one of the latest start is the last to be dealt with: until then the others are nobody's.
        let order = |(node, sighting): &(NodeId, Sighting)| {
            let resumable = sighting.presence == Presence::Suspended;
            (resumable.then_some(sighting.generation).flatten(), *node)
        };
        let copies = record.stopped_copies().filter(|(node, _)| self.has_session(*node));
        let count = record.stopped_copies().count();
        let (node, sighting) = copies.min_by_key(order)?;
        let name = self.state.node_name(node);
        let waits = |waiting_for: &str| {
            Some(Reason::StoppedCopy { node: name.clone(), waiting_for: waiting_for.into() })
        };
        let alone = record.may_run.keys().all(|other| *other == node);
        let present = (sighting.generation >= Some(record.generation) && count == 1)
            || off(Rule::ResumeSameGeneration);
        let suspended = sighting.presence == Presence::Suspended;
        if wanted && suspended && present && guests.is_empty() && record.state != VmState::Conflict
        {
            if !alone && !off(Rule::ResumeSameGeneration) {
                // Another node may have it, as after a migration that was cut off: that node's word decides.
                return waits("other nodes have to say that it is not there");
            }
            let quiet_until = self.state.quiet_until;
            if quiet_until > self.now && !off(Rule::RestoredIsUnknown) {
                self.plan.wake(quiet_until);
                return waits(
                    "the control plane was restored, and nodes that the backup does not know may run it",
                );
            }
            if !self.may_evict(node) {
                return waits("the last attempt to resume it failed");
            }
            return Some(self.decide(Decision::Resume { node }, "it is resumed"));
        }
        if sighting.presence == Presence::Leaving {
            // libvirt lets go of it in a moment, one way or the other.
            let due = sighting.at.plus(self.state.settings.conflict_grace_ms);
            if due > self.now {
                self.plan.wake(due);
                return waits("its migration is ending");
            }
        }
        if record.state == VmState::Lost && guests.is_empty() {
            return None;
        }
        // Which copy goes is not decided while hands are off.
        let hands_off = record.frozen.is_some() || record.desired == Desired::Ignored;
        if hands_off || self.state.pause.is_some() {
            return None;
        }
        // Nobody has said yet what is wanted: to add a VM stops and destroys nothing.
        // Of its VMs a service has said it, of those that it stops.
        let service = self.state.governing(&record.spec.name);
        let goes = service.is_some_and(|service| service.stops(&record.spec.name));
        let undecided = record.state == VmState::Disabled && record.operation.is_none() && !goes;
        if undecided && suspended {
            return waits("`berthctl enable` lets it run on, `berthctl disable` destroys it");
        }
        if !self.may_evict(node) {
            return waits("it could not be destroyed and is tried again");
        }
        let why = match (wanted, guests.first()) {
            (false, _) => "the VM is not wanted".to_owned(),
            (true, Some(at)) => format!("the VM runs on {}", self.state.node_name(*at)),
            (true, None) => "it is not the present one".to_owned(),
        };
        Some(self.decide(Decision::Evict { node, why }, "a stopped copy is destroyed"))
    }

    /// The state says that Berth has it running, so that it is followed and can be stopped.
    fn is_ours(&self) -> bool {
        matches!(
            self.record.state,
            VmState::Started
                | VmState::Starting
                | VmState::Stopping
                | VmState::Migrating
                | VmState::Recovering
                | VmState::Conflict
                | VmState::Failed
                | VmState::Lost
        )
    }

    fn just_left(&mut self) -> bool {
        let due = self.record.state_since.plus(self.state.settings.conflict_grace_ms);
        if due > self.now {
            self.plan.wake(due);
        }
        due > self.now
    }

    fn tracked_at(&self, node: NodeId) -> bool {
        self.record.owner == Some(node)
            && matches!(self.record.state, VmState::Started | VmState::Failed)
    }

    fn asked(&self, which: impl Fn(&Verb) -> bool) -> bool {
        self.record.open_operation().is_some_and(|operation| which(&operation.verb))
    }

    fn order_out(&mut self, order: &OrderRecord) -> Reason {
        let record = self.record;
        // A graceful stop under way may be hastened, unless the cluster is paused.
        if self.state.pause.is_none()
            && matches!(order.intent, OrderIntent::Stop { graceful_ms: Some(_) })
            && self.asked(|verb| matches!(verb, Verb::Stop { now: true }))
            && self.has_session(order.node)
        {
            let decision = Decision::Stop { node: order.node, graceful_ms: None };
            return self.decide(decision, "it is destroyed now");
        }
        let what = match &order.intent {
            OrderIntent::Start => "start it".to_owned(),
            OrderIntent::Stop { graceful_ms: Some(limit) } => {
                let left = (order.at.plus(*limit)).since(self.now).div_ceil(1_000);
                format!("shut it down ({left} s left for the guest)")
            }
            OrderIntent::Stop { graceful_ms: None } => "destroy it".into(),
            OrderIntent::Migrate { to, cancelled: false, .. } => {
                format!("migrate it to {}", self.state.node_name(*to))
            }
            OrderIntent::Migrate { cancelled: true, .. } => "cancel its migration".into(),
            OrderIntent::Adopt => "mark it as the cluster's".into(),
            OrderIntent::Resume => "resume it".into(),
            OrderIntent::Evict => "destroy a copy that is not the owner's".into(),
        };
        let online = self.has_session(order.node);
        if !online && record.state == VmState::Started {
            return self.owner_silent(order.node);
        }
        Reason::OrderOut { what, node: self.state.node_name(order.node), online }
    }

    pub(super) fn has_session(&self, node: NodeId) -> bool {
        self.state.nodes.get(&node).is_some_and(|node| node.session().is_some())
    }

    fn owner_silent(&self, node: NodeId) -> Reason {
        let record = self.state.nodes.get(&node);
        let doing = record
            .and_then(|it| it.unbound_by_lease())
            .or_else(|| self.plan.nodes.get(&node).map(ToString::to_string));
        let doing = doing.unwrap_or_else(|| "it left the cluster".into());
        Reason::OwnerSilent { node: self.state.node_name(node), doing }
    }

    fn unknown_places(&self) -> Option<Reason> {
        let nodes: Vec<_> = self
            .record
            .may_run
            .keys()
            .map(|id| match self.state.nodes.get(id) {
                Some(node) if node.state == NodeState::Online => format!("{} (asked)", node.name),
                Some(node) => {
                    let unbound = node.unbound_by_lease();
                    let how = unbound.unwrap_or_else(|| node.state.as_str().to_owned());
                    format!("{} ({how})", node.name)
                }
                None => format!("node {id}"),
            })
            .collect();
        (!nodes.is_empty()).then_some(Reason::MayRunOn { nodes })
    }

    fn started(&mut self) -> Reason {
        let record = self.record;
        let runs =
            |sighting: &Sighting| matches!(sighting.presence, Presence::Running | Presence::Paused);
        let Some(owner) = record.owner else {
            return self.unknown_places().unwrap_or(Reason::Lost);
        };
        if !self.has_session(owner) {
            return self.owner_silent(owner);
        }
        if record.desired != Desired::Enabled {
            return self.stop_at(owner);
        }
        if let Some(reason) = self.dependency_lost(owner) {
            return reason;
        }
        if record.must_be_told() {
            let due = record.unbound_since.map_or(self.now, |since| since.plus(TELL_AGAIN_MS));
            if due <= self.now {
                let why = "its node is told anew what to do with it when it is cut off";
                return self.decide(Decision::TellAgain { node: owner }, why);
            }
            self.plan.wake(due);
        }
        let Some(operation) = record.open_operation() else { return self.at_rest(owner) };
        match &operation.verb {
            Verb::Migrate { to, mode } => {
                let decision = Decision::Migrate { from: owner, to: *to, mode: *mode };
                self.with_target(*to, decision, "it is migrated")
            }
            Verb::Relocate { to: Some(to) } => {
                let decision = self.stop_decision(owner);
                self.with_target(*to, decision, "it stops, to start elsewhere")
            }
            // Stopping it is worth it only when another node can take it.
            Verb::Relocate { to: None } => {
                let here = BTreeSet::from([owner]);
                match placement::place(self.state, self.liveness, self.load, record, &here) {
                    Ok(_) => self.decide(self.stop_decision(owner), "it stops, to start elsewhere"),
                    Err(no_place) => self
                        .decide(Decision::FailOperation { why: no_place.to_string() }, "refused"),
                }
            }
            Verb::Restart => self.decide(self.stop_decision(owner), "it stops, to start again"),
            Verb::Enable { .. } if record.seen.get(&owner).is_some_and(runs) => {
                self.decide(Decision::Fulfilled, "it runs as it was asked to")
            }
            Verb::Enable { .. } | Verb::Disable | Verb::Stop { .. } => Reason::AsWanted,
        }
    }

    /// It runs as it is wanted: the cluster may move it by its own will.
    fn at_rest(&mut self, owner: NodeId) -> Reason {
        self.dependencies_met()
            .or_else(|| self.automatic_move(owner))
            .or_else(|| self.leave_to_be_alone(owner))
            .or_else(|| self.failback(owner))
            .unwrap_or(Reason::AsWanted)
    }

    /// Only when the target can take it; else the operation ends and nothing is touched.
    fn with_target(&mut self, to: NodeId, decision: Decision, what: &str) -> Reason {
        let none = BTreeSet::new();
        let refused =
            placement::candidates(self.state, self.liveness, self.load, self.record, &none)
                .into_iter()
                .find(|candidate| candidate.node == to)
                .map_or(Some("it left the cluster".to_owned()), |candidate| candidate.refused);
        match refused {
            None => {
                self.load.add(to, self.record);
                self.decide(decision, what)
            }
            Some(why) => {
                let why = format!("{} cannot take it: {why}", self.state.node_name(to));
                self.decide(Decision::FailOperation { why: why.clone() }, why)
            }
        }
    }

    fn stop_decision(&self, node: NodeId) -> Decision {
        let now = self.asked(|verb| matches!(verb, Verb::Stop { now: true }));
        let graceful_ms = (!now).then_some(self.record.spec.policy.stop_timeout_ms);
        Decision::Stop { node, graceful_ms }
    }

    fn stop_at(&mut self, node: NodeId) -> Reason {
        if !self.has_session(node) {
            return self.owner_silent(node);
        }
        self.decide(self.stop_decision(node), "it stops")
    }

    /// It is to be down and is seen nowhere.
    fn down(&mut self) -> Reason {
        let record = self.record;
        let settled = match record.desired {
            Desired::Disabled => record.state == VmState::Disabled,
            Desired::Enabled | Desired::Stopped | Desired::Ignored => {
                record.state == VmState::Stopped
            }
        };
        if settled && record.open_operation().is_none() {
            return Reason::AsWanted;
        }
        // A failed VM may be stopped once more where it was last, so that its agent looks again.
        if let (VmState::Failed, Some(owner)) = (record.state, record.owner)
            && record.may_run.contains_key(&owner)
            && self.has_session(owner)
        {
            return self.decide(self.stop_decision(owner), "it is stopped once more");
        }
        match self.unknown_places() {
            // A VM that never ran here need not be proven down to be called so.
            Some(reason) if self.is_ours() => reason,
            _ => self.decide(Decision::Settle, "it is down"),
        }
    }

    /// Nodes that must speak before a start anywhere can be lawful.
    fn places_but_own(&self) -> Option<Reason> {
        let silent = self.record.may_run.is_empty() || off(Rule::MayRunRefusal);
        if silent { None } else { self.unknown_places() }
    }
}
