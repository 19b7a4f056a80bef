//! Nodes: registration, loss, fencing and death.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cluster::MassLoss;
use crate::cluster::{Accepted, ClusterState, Context, Detail, Outcome};
use crate::command::Registration;
use crate::event::EventKind;
use crate::id::{NodeId, NodeName, SessionId, VmName};
use crate::node::{
    AfterFence, FenceAttempt, FenceAttempts, FenceDevice, LeaseTerms, NodeRecord, NodeState,
    ProofOfDeath,
};
use crate::rejection::Rejection;
use crate::sabotage::{Rule, off};
use crate::settings::{Contradiction, Settings};
use crate::time::Timestamp;
use crate::vm::{MayRun, OrderIntent, OrderRecord, StopCause, VmState};

/// Fences remembered of each node.
const FENCES_KEPT: usize = 20;
const HOUR_MS: u64 = 3_600_000;

impl NodeRecord {
    fn note_fence(&mut self, at: Timestamp, outcome: String, proven: bool) {
        self.fence_history.push(FenceAttempt { at, outcome, proven });
        let excess = self.fence_history.len().saturating_sub(FENCES_KEPT);
        self.fence_history.drain(..excess);
    }
}

pub(super) fn contradiction(found: Contradiction) -> Rejection {
    Rejection::Contradiction { rule: found.rule.into(), arithmetic: found.arithmetic }
}

impl ClusterState {
    /// A session begins. The inventory replaces all that was seen there before; VMs that may run there and were not
    /// seen are asked for anew.
    pub(super) fn register(&mut self, cx: &mut Context, registration: &Registration) -> Outcome {
        let known = self.node_named(&registration.name).cloned();
        let last_session = known.as_ref().map(|node| node.last_session);
        if registration.replaces != last_session && !off(Rule::RegistrationInTurn) {
            return Err(Rejection::OutOfTurn { node: registration.name.to_string() });
        }
        let id = match &known {
            None => self.new_node_id(cx),
            Some(node) => {
                self.check_return(node, registration)?;
                let same_boot = node.boot_id == registration.boot_id;
                if let (NodeState::Dead(ProofOfDeath::Fenced { device }), true) =
                    (&node.state, same_boot)
                    && !off(Rule::ProofVoidAlarm)
                {
                    let text = format!(
                        "{} was never off, though {device} said so: the device lies or is another host's; VMs may run twice",
                        node.name
                    );
                    self.emit(cx, EventKind::NodeProofVoid, None, Some(node.id), text);
                }
                if !same_boot {
                    // A new boot id on the same hardware: what ran before is gone (design section 3, proof (d)).
                    self.bury(cx, node.id, &ProofOfDeath::NewBoot)?;
                }
                node.id
            }
        };
        // An agent that comes back to a node that was never lost is no return of that node.
        let state_since = known
            .as_ref()
            .filter(|node| node.state == NodeState::Online && node.boot_id == registration.boot_id)
            .map_or(cx.at, |node| node.state_since);
        let booted = known.as_ref().is_some_and(|node| node.boot_id != registration.boot_id);
        let maintenance = known
            .as_ref()
            .and_then(|node| node.maintenance.clone())
            .filter(|it| !(booted && it.until_boot));
        let known_before = known.is_some();
        let lease = LeaseTerms {
            ttl_ms: self.settings.lease_ttl_ms,
            self_fence_ms: self.settings.self_fence_ms,
        };
        let before = known.as_ref().filter(|_| !booted).map(|node| node.longest_lease);
        let record = NodeRecord {
            id,
            name: registration.name.clone(),
            hardware: registration.hardware,
            boot_id: registration.boot_id.clone(),
            booted: match &known {
                Some(node) if !booted => node.booted,
                _ => Some(cx.at),
            },
            last_session: SessionId(cx.index),
            state: NodeState::Online,
            state_since,
            capacity: registration.capacity,
            migration_uri: registration.migration_uri.clone(),
            watchdog_timeout_ms: registration.watchdog_timeout_ms,
            lease,
            longest_lease: before.map_or(lease, |before| before.longer(lease)),
            pausable: registration.pausable,
            vouched: known.as_ref().is_some_and(|node| node.vouched),
            away: false,
            lock_manager: registration.lock_manager.clone(),
            agent_version: registration.agent_version.clone(),
            features: registration.features.clone(),
            after_fence: known.as_ref().map(|node| node.after_fence).unwrap_or_default(),
            fence_history: known.as_ref().map(|it| it.fence_history.clone()).unwrap_or_default(),
            powered_on: known.as_ref().map(|node| node.powered_on.clone()).unwrap_or_default(),
            power_on_attempts: None,
            dark_fence: known.as_ref().map(|node| node.dark_fence.clone()).unwrap_or_default(),
            fence_devices: known.map(|node| node.fence_devices.clone()).unwrap_or_default(),
            fence_attempts: None,
            fence_under_way: false,
            autostart: BTreeSet::new(),
            unmanaged: BTreeMap::new(),
            maintenance,
            // Should it still be on its way down, its agent says so again.
            shutdown: None,
            changed: cx.index,
        };
        self.nodes.insert(id, Arc::new(record));
        self.is_no_longer_lost(cx, id);
        let count = registration.inventory.len();
        let text = format!("{} registered with {count} domains", registration.name);
        self.emit(cx, EventKind::NodeRegistered, None, Some(id), text);
        if known_before {
            self.forget_sightings(cx, id)?;
        }
        if known_before && !booted {
            self.note_still_there(cx)?;
        }
        if !known_before || booted {
            // Its inventory tells of domains. What it runs of scripts, as one that a backup does not know or that was removed, only
            // its own word does; and a boot that is newer than a backup may be older than what was started since.
            self.ask_node_for_scripts(cx, id)?;
        }
        for (uuid, domain) in &registration.inventory {
            self.see(cx, id, *uuid, domain)?;
        }
        Ok(Accepted {
            revision: cx.index,
            detail: Detail::Registered { node: id, session: SessionId(cx.index) },
        })
    }

    /// The log index, which never comes again.
    fn new_node_id(&self, cx: &Context) -> NodeId {
        let free = || (1..).map(NodeId).find(|id| !self.nodes.contains_key(id));
        match off(Rule::NodeIdOnce).then(free).flatten() {
            Some(free) => free,
            None => NodeId(cx.index),
        }
    }

    fn check_return(
        &self,
        node: &NodeRecord,
        registration: &Registration,
    ) -> Result<(), Rejection> {
        if node.hardware != registration.hardware && !off(Rule::SameHardware) {
            return Err(Rejection::OtherHardware {
                node: node.name.to_string(),
                known: node.hardware.to_string(),
            });
        }
        // It may still cut its power, whatever it was asked for.
        if node.fence_under_way && !off(Rule::FenceResolvedFirst) {
            return Err(Rejection::FenceUnresolved { node: node.name.to_string() });
        }
        Ok(())
    }

    /// A new session knows nothing of the last one: who may run there and is not in the inventory is asked for again.
    fn forget_sightings(&mut self, cx: &mut Context, node: NodeId) -> Result<(), Rejection> {
        self.forget_script_sightings(cx, node)?;
        for name in self.vms_touching(node) {
            let record = self.vm_mut(cx, &name)?;
            record.seen.remove(&node);
            if let Some(entry) = record.may_run.get_mut(&node) {
                *entry = MayRun { since: cx.index };
            }
        }
        Ok(())
    }

    fn vms_touching(&self, node: NodeId) -> Vec<VmName> {
        self.vms
            .values()
            .filter(|vm| {
                vm.may_run.contains_key(&node)
                    || vm.seen.contains_key(&node)
                    || vm.order.as_ref().is_some_and(|order| order.node == node)
            })
            .map(|vm| vm.spec.name.clone())
            .collect()
    }

    pub(super) fn node_mut(
        &mut self,
        cx: &Context,
        node: NodeId,
    ) -> Result<&mut NodeRecord, Rejection> {
        let unknown = || Rejection::UnknownNode { node: format!("number {node}") };
        let record = Arc::make_mut(self.nodes.get_mut(&node).ok_or_else(unknown)?);
        record.changed = cx.index;
        Ok(record)
    }

    /// The node's record, if the session named is its last one and the node is in one of these states.
    fn node_in_session(
        &mut self,
        cx: &Context,
        node: NodeId,
        session: SessionId,
        allowed: fn(&NodeState) -> bool,
    ) -> Result<&mut NodeRecord, Rejection> {
        let record = self.node_mut(cx, node)?;
        let same_session = record.last_session == session || off(Rule::ProofOfOneSession);
        let allowed = allowed(&record.state)
            || (off(Rule::ProofOfOneSession) && !matches!(record.state, NodeState::Dead(_)));
        if !same_session || !allowed {
            return Err(Rejection::Superseded { what: format!("node {}", record.name) });
        }
        Ok(record)
    }

    pub(super) fn node_lost(
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

    pub(super) fn fence_asked(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        session: SessionId,
    ) -> Result<(), Rejection> {
        let at = cx.at;
        if self.braked() {
            return Err(Rejection::Braked);
        }
        self.must_not_be_paused()?;
        let record = self.node_in_session(cx, node, session, |state| {
            matches!(state, NodeState::Lost | NodeState::Dead(ProofOfDeath::Lease { .. }))
        })?;
        if record.fence_under_way {
            // One that was begun too early ends first, or what it says would be taken for this one's word.
            return Err(Rejection::Superseded { what: format!("node {}", record.name) });
        }
        record.fence_under_way = true;
        // What its lease has proven stays so.
        if record.state == NodeState::Lost {
            record.state = NodeState::Fencing;
            record.state_since = at;
        }
        let devices: Vec<_> =
            record.fence_devices.iter().map(|device| device.agent.clone()).collect();
        let text = format!("{} is being fenced with {}", record.name, devices.join(", "));
        self.emit(cx, EventKind::NodeFencing, None, Some(node), text);
        Ok(())
    }

    pub(super) fn fence_failed(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        session: SessionId,
        error: &str,
    ) -> Result<(), Rejection> {
        let at = cx.at;
        let record = self.node_in_session(cx, node, session, |state| {
            matches!(state, NodeState::Lost | NodeState::Fencing | NodeState::Dead(_))
        })?;
        if !std::mem::take(&mut record.fence_under_way) {
            return Err(Rejection::Superseded { what: format!("node {}", record.name) });
        }
        let failed = record.fence_attempts.as_ref().map_or(0, |attempts| attempts.failed) + 1;
        if record.state != NodeState::Lost {
            let error = Some(error.to_owned());
            record.fence_attempts = Some(FenceAttempts { failed, at, error });
        }
        if record.state == NodeState::Fencing {
            record.state = NodeState::Lost;
            record.state_since = at;
        }
        record.note_fence(at, format!("failed: {error}"), false);
        let text = format!("fencing {} failed (attempt {failed}): {error}", record.name);
        self.emit(cx, EventKind::NodeFenceFailed, None, Some(node), text);
        Ok(())
    }

    pub(super) fn node_dead(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        session: SessionId,
        proof: &ProofOfDeath,
    ) -> Result<(), Rejection> {
        if matches!(proof, ProofOfDeath::Lease { .. }) {
            if self.braked() {
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
    pub(super) fn confirm_off(
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

    /// The operator's fence: the session ends, and the leader's fencer does the rest.
    pub(super) fn fence_node(
        &mut self,
        cx: &mut Context,
        name: &NodeName,
        why: &str,
    ) -> Result<(), Rejection> {
        let node = self.node(name)?;
        if node.fence_devices.is_empty() {
            return Err(Rejection::NodeInUse {
                node: name.to_string(),
                why: "it has no fence device; `berthctl node fence` sets one".into(),
            });
        }
        if node.state == NodeState::Fencing {
            return Err(Rejection::Superseded { what: format!("node {name}") });
        }
        if node.state == NodeState::Lost && node.fence_under_way {
            return Err(Rejection::NodeInUse {
                node: name.to_string(),
                why: "a fence of it that proves nothing any more is still under way; the next is asked by itself when that has ended"
                    .into(),
            });
        }
        let at = cx.at;
        let by = cx.by.clone();
        let record = self.node_mut(cx, node.id)?;
        record.state = NodeState::Fencing;
        record.state_since = at;
        record.fence_under_way = true;
        let text = format!("{by} has {name} fenced: {why}");
        self.emit(cx, EventKind::NodeFencing, None, Some(node.id), text);
        Ok(())
    }

    /// The agent ends and disarms its watchdog: from now on silence proves nothing of this session.
    pub(super) fn away(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        session: SessionId,
    ) -> Result<(), Rejection> {
        let record = self.node_mut(cx, node)?;
        if record.session() != Some(session) {
            return Err(Rejection::OldSession {
                node: record.name.to_string(),
                session: session.0,
            });
        }
        record.away = true;
        let text = format!("the agent of {} ends by plan", record.name);
        self.emit(cx, EventKind::NodeAway, None, Some(node), text);
        Ok(())
    }

    pub(super) fn set_node_policy(
        &mut self,
        cx: &mut Context,
        name: &NodeName,
        vouched: Option<bool>,
        after_fence: Option<AfterFence>,
    ) -> Result<(), Rejection> {
        if let Some(AfterFence::PowerOn { per_hour }) = after_fence
            && !(1..=60).contains(&per_hour)
        {
            return Err(Rejection::OutOfRange {
                what: "the number of times an hour a node is switched on".into(),
                value: per_hour.to_string(),
                range: "1 to 60".into(),
            });
        }
        let id = self.node(name)?.id;
        let record = self.node_mut(cx, id)?;
        record.vouched = vouched.unwrap_or(record.vouched);
        record.after_fence = after_fence.unwrap_or(record.after_fence);
        let clock = match record.vouched {
            true => "its clock is vouched for",
            false => "its clock is not vouched for",
        };
        let then = match record.after_fence {
            AfterFence::StayOff => "it stays off after a fence".to_owned(),
            AfterFence::PowerOn { per_hour } => {
                format!("it is switched on after a fence, {per_hour} times an hour at the most")
            }
        };
        let text = format!("{} set the policy of {name}: {clock}; {then}", cx.by);
        self.emit(cx, EventKind::NodePolicySet, None, Some(id), text);
        Ok(())
    }

    pub(super) fn powered_on(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        session: SessionId,
        error: Option<&str>,
    ) -> Result<(), Rejection> {
        let at = cx.at;
        let record =
            self.node_in_session(cx, node, session, |state| matches!(state, NodeState::Dead(_)))?;
        record.powered_on.retain(|moment| at.since(*moment) < HOUR_MS);
        record.powered_on.push(at);
        let failed = record.power_on_attempts.as_ref().map_or(0, |attempts| attempts.failed) + 1;
        record.power_on_attempts =
            error.map(|error| FenceAttempts { failed, at, error: Some(error.to_owned()) });
        let (kind, text) = match error {
            None => (EventKind::NodePoweredOn, format!("{} was switched on", record.name)),
            Some(error) => (
                EventKind::NodePowerOnFailed,
                format!("{} could not be switched on: {error}", record.name),
            ),
        };
        self.emit(cx, kind, None, Some(node), text);
        Ok(())
    }

    pub(super) fn fence_probed(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        dark: &[String],
    ) -> Result<(), Rejection> {
        let record = self.node_mut(cx, node)?;
        if record.dark_fence == dark {
            return Ok(());
        }
        record.dark_fence = dark.to_vec();
        let name = record.name.clone();
        let (kind, text) = match dark {
            [] => {
                (EventKind::NodeFenceAnswers, format!("all fence devices of {name} answer again"))
            }
            dark => (
                EventKind::NodeFenceDark,
                format!("fence devices of {name} do not answer: {}", dark.join("; ")),
            ),
        };
        self.emit(cx, kind, None, Some(node), text);
        Ok(())
    }

    pub(super) fn mass_loss(
        &mut self,
        cx: &mut Context,
        nodes: &[NodeId],
    ) -> Result<(), Rejection> {
        let released = self.mass_loss.as_ref().is_some_and(|loss| loss.released_by.is_some());
        if let Some(loss) = &mut self.mass_loss
            && (!released || nodes.iter().all(|node| loss.nodes.contains(node)))
        {
            if loss.nodes == nodes || released {
                return Err(Rejection::Superseded { what: "the mass loss".into() });
            }
            // It goes on with others: the calm before its end is counted anew.
            loss.nodes = nodes.to_vec();
            loss.since = cx.at;
            return self.note_all_down(cx, nodes);
        }
        let names: Vec<_> = nodes.iter().map(|node| self.node_name(*node)).collect();
        self.mass_loss = Some(MassLoss { since: cx.at, nodes: nodes.to_vec(), released_by: None });
        let text = format!(
            "{} seem lost at once: that is a broken network until an operator says otherwise, and nothing is fenced or recovered",
            names.join(", ")
        );
        self.emit(cx, EventKind::MassLoss, None, None, text);
        self.note_all_down(cx, nodes)
    }

    pub(super) fn mass_loss_over(&mut self, cx: &mut Context) -> Result<(), Rejection> {
        if self.mass_loss.take().is_none() {
            return Err(Rejection::NoMassLoss);
        }
        let text = "no longer are so many nodes lost at once".to_owned();
        self.emit(cx, EventKind::MassLossEnded, None, None, text);
        self.note_still_there(cx)
    }

    /// An operator's word of the nodes they were shown: what fell silent since is looked at first.
    pub(super) fn release_mass_loss(
        &mut self,
        cx: &mut Context,
        nodes: &[NodeName],
    ) -> Result<(), Rejection> {
        nodes.iter().try_for_each(|name| self.node(name).map(drop))?;
        let loss = self.mass_loss.as_ref().filter(|loss| loss.released_by.is_none());
        let lost = loss.ok_or(Rejection::NoMassLoss)?.nodes.iter();
        let others: Vec<_> = lost
            .filter_map(|id| self.nodes.get(id))
            .filter(|node| !nodes.contains(&node.name) && !off(Rule::ReleaseIsOfItsNodes))
            .map(|node| node.name.to_string())
            .collect();
        if !others.is_empty() {
            return Err(Rejection::OthersLost { nodes: others.join(", ") });
        }
        let by = cx.by.clone();
        if let Some(loss) = &mut self.mass_loss {
            loss.released_by = Some(by.clone());
        }
        let names: Vec<_> = nodes.iter().map(ToString::to_string).collect();
        let text = format!(
            "{by} says that {} are lost indeed: fencing and recovery go on",
            names.join(", ")
        );
        self.emit(cx, EventKind::MassLossEnded, None, None, text);
        Ok(())
    }

    /// It is back: what an operator said of it, while it was lost, is not said of the next time.
    fn is_no_longer_lost(&mut self, cx: &Context, node: NodeId) {
        let Some(loss) = &mut self.mass_loss else { return };
        if !loss.nodes.contains(&node) || off(Rule::ReleaseIsOfItsNodes) {
            return;
        }
        loss.nodes.retain(|other| *other != node);
        // The others may be on their way back, too: the calm before the end is counted anew.
        loss.since = cx.at;
    }

    pub(super) fn change_settings(
        &mut self,
        cx: &mut Context,
        settings: &Settings,
    ) -> Result<(), Rejection> {
        settings.check().map_err(contradiction)?;
        self.settings = settings.clone();
        let text = format!("{} changed the settings; leases change with the next session", cx.by);
        self.emit(cx, EventKind::SettingsChanged, None, None, text);
        Ok(())
    }

    /// A death is proven: the node leaves every may-run set, and what it had is to be recovered. A proof by lease takes it
    /// out only for what the lease bound.
    fn bury(
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
    pub(super) fn prove_again(
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

    pub(super) fn set_fence_devices(
        &mut self,
        cx: &mut Context,
        node: &NodeName,
        devices: &[FenceDevice],
    ) -> Result<(), Rejection> {
        let id = self.node(node)?.id;
        self.node_mut(cx, id)?.fence_devices = devices.to_vec();
        let agents: Vec<_> = devices.iter().map(|device| device.agent.as_str()).collect();
        let text = match agents.as_slice() {
            [] => format!("{} removed the fence devices of {node}", cx.by),
            agents => format!("{} set the fence devices of {node}: {}", cx.by, agents.join(", ")),
        };
        self.emit(cx, EventKind::NodeFenceDevicesSet, None, Some(id), text);
        Ok(())
    }

    pub(super) fn remove_node(
        &mut self,
        cx: &mut Context,
        name: &NodeName,
    ) -> Result<(), Rejection> {
        let node = self.node(name)?;
        let in_use = |why: String| Rejection::NodeInUse { node: name.to_string(), why };
        if !matches!(node.state, NodeState::Dead(_)) {
            let why = format!(
                "it is {}, and only a node that is proven dead can be removed",
                node.state.as_str()
            );
            return Err(in_use(why));
        }
        if node.fence_under_way {
            return Err(in_use("a fence of it is still under way".into()));
        }
        if let Some(vm) = self.vms.values().find(|vm| vm.may_run.contains_key(&node.id))
            && !off(Rule::NodeInSetStays)
        {
            return Err(in_use(format!(
                "VM {} may be running there; its death must be proven first",
                vm.spec.name
            )));
        }
        if let Some(service) = self.services.values().find(|it| it.may_run.contains_key(&node.id)) {
            return Err(in_use(format!(
                "scripts of service {} may be running there; its death must be proven first",
                service.spec.name
            )));
        }
        if let Some(domain) =
            self.failover_domains.values().find(|domain| domain.nodes.contains_key(name))
        {
            return Err(in_use(format!("it is in failover domain {}", domain.name)));
        }
        self.emit(
            cx,
            EventKind::NodeRemoved,
            None,
            Some(node.id),
            format!("{} removed {name}", cx.by),
        );
        self.nodes.remove(&node.id);
        Ok(())
    }
}
