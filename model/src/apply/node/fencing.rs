//! Fencing: what a node's fence devices are asked and say, and what follows a fence.

use crate::cluster::{ClusterState, Context};
use crate::event::EventKind;
use crate::id::{NodeId, NodeName, SessionId};
use crate::node::{FenceAttempt, FenceAttempts, FenceDevice, NodeRecord, NodeState, ProofOfDeath};
use crate::rejection::Rejection;
use crate::time::Timestamp;

/// Fences remembered of each node.
const FENCES_KEPT: usize = 20;
const HOUR_MS: u64 = 3_600_000;

impl NodeRecord {
    pub(super) fn note_fence(&mut self, at: Timestamp, outcome: String, proven: bool) {
        self.fence_history.push(FenceAttempt { at, outcome, proven });
        let excess = self.fence_history.len().saturating_sub(FENCES_KEPT);
        self.fence_history.drain(..excess);
    }
}

impl ClusterState {
    pub(in crate::apply) fn fence_asked(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        session: SessionId,
    ) -> Result<(), Rejection> {
        let at = cx.at;
        if self.braked() || self.brakes_unseen() {
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

    pub(in crate::apply) fn fence_failed(
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

    /// The operator's fence: the session ends, and the leader's fencer does the rest.
    pub(in crate::apply) fn fence_node(
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

    pub(in crate::apply) fn powered_on(
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

    pub(in crate::apply) fn fence_probed(
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

    pub(in crate::apply) fn set_fence_devices(
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
}
