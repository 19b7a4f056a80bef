//! Nodes: registration, loss, fencing and death.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::{Accepted, ClusterState, Context, Detail, Outcome};
use crate::command::Registration;
use crate::event::EventKind;
use crate::id::{NodeId, NodeName, SessionId, VmName};
use crate::node::{FenceAttempts, FenceDevice, NodeRecord, NodeState, ProofOfDeath};
use crate::rejection::Rejection;
use crate::vm::{MayRun, OrderIntent, OrderRecord, StopCause};

/// Boot ids remembered, so that a registration that was long on its way is not taken for a new boot.
const BOOTS_KEPT: usize = 16;

impl ClusterState {
    /// A session begins. The inventory replaces all that was seen there before; VMs that may run there and were not
    /// seen are asked for anew.
    pub(super) fn register(&mut self, cx: &mut Context, registration: &Registration) -> Outcome {
        let known = self.node_named(&registration.name).cloned();
        let id = match &known {
            None => NodeId(cx.index),
            Some(node) => {
                self.check_return(node, registration)?;
                if node.past_boots.contains(&registration.boot_id) {
                    return Err(Rejection::OldBoot { node: node.name.to_string() });
                }
                if node.boot_id != registration.boot_id {
                    // A new boot id on the same hardware: what ran before is gone (design section 3, proof (d)).
                    self.bury(cx, node.id, &ProofOfDeath::NewBoot)?;
                }
                node.id
            }
        };
        let mut past_boots = known.as_ref().map(|node| node.past_boots.clone()).unwrap_or_default();
        if let Some(node) = known.as_ref().filter(|node| node.boot_id != registration.boot_id) {
            past_boots.push(node.boot_id.clone());
            let excess = past_boots.len().saturating_sub(BOOTS_KEPT);
            past_boots.drain(..excess);
        }
        let record = NodeRecord {
            id,
            name: registration.name.clone(),
            hardware: registration.hardware,
            boot_id: registration.boot_id.clone(),
            last_session: SessionId(cx.index),
            state: NodeState::Online,
            state_since: cx.at,
            capacity: registration.capacity,
            migration_uri: registration.migration_uri.clone(),
            watchdog_timeout_ms: registration.watchdog_timeout_ms,
            agent_version: registration.agent_version.clone(),
            fence_devices: known.map(|node| node.fence_devices.clone()).unwrap_or_default(),
            fence_attempts: None,
            past_boots,
            unmanaged: BTreeMap::new(),
            changed: cx.index,
        };
        self.nodes.insert(id, Arc::new(record));
        let count = registration.inventory.len();
        let text = format!("{} registered with {count} domains", registration.name);
        self.emit(cx, EventKind::NodeRegistered, None, Some(id), text);
        self.forget_sightings(cx, id)?;
        for (uuid, domain) in &registration.inventory {
            self.see(cx, id, *uuid, domain)?;
        }
        Ok(Accepted {
            revision: cx.index,
            detail: Detail::Registered { node: id, session: SessionId(cx.index) },
        })
    }

    fn check_return(
        &self,
        node: &NodeRecord,
        registration: &Registration,
    ) -> Result<(), Rejection> {
        if node.hardware != registration.hardware {
            return Err(Rejection::OtherHardware {
                node: node.name.to_string(),
                known: node.hardware.to_string(),
            });
        }
        // A new boot settles what the fence was asked for; otherwise a fence under way may still cut its power.
        if node.state == NodeState::Fencing && node.boot_id == registration.boot_id {
            return Err(Rejection::FenceUnresolved { node: node.name.to_string() });
        }
        Ok(())
    }

    /// A new session knows nothing of the last one: who may run there and is not in the inventory is asked for again.
    fn forget_sightings(&mut self, cx: &mut Context, node: NodeId) -> Result<(), Rejection> {
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
            .filter(|vm| vm.may_run.contains_key(&node) || vm.seen.contains_key(&node))
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
        if record.last_session != session || !allowed(&record.state) {
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
        let record =
            self.node_in_session(cx, node, session, |state| *state == NodeState::Online)?;
        record.state = NodeState::Lost;
        record.state_since = at;
        record.fence_attempts = None;
        let text = format!("{} was not heard for {silent_ms} ms: lost", record.name);
        self.emit(cx, EventKind::NodeLost, None, Some(node), text);
        Ok(())
    }

    pub(super) fn fence_asked(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        session: SessionId,
    ) -> Result<(), Rejection> {
        let at = cx.at;
        let record = self.node_in_session(cx, node, session, |state| *state == NodeState::Lost)?;
        record.state = NodeState::Fencing;
        record.state_since = at;
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
        let record =
            self.node_in_session(cx, node, session, |state| *state == NodeState::Fencing)?;
        record.state = NodeState::Lost;
        record.state_since = at;
        let failed = record.fence_attempts.as_ref().map_or(0, |attempts| attempts.failed) + 1;
        record.fence_attempts = Some(FenceAttempts { failed, at, error: Some(error.to_owned()) });
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
        self.node_in_session(cx, node, session, |state| {
            matches!(state, NodeState::Lost | NodeState::Fencing)
        })?;
        self.bury(cx, node, proof)
    }

    /// A death is proven: the node leaves every may-run set, and what it had is to be recovered.
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
        record.unmanaged.clear();
        let how = match proof {
            ProofOfDeath::Fenced { device } => format!("{device} says it is off"),
            ProofOfDeath::Lease { silent_ms } => {
                format!("its lease and its watchdog ran out ({silent_ms} ms without an answer)")
            }
            ProofOfDeath::NewBoot => "it booted anew".to_owned(),
        };
        let text = format!("{} runs nothing any more: {how}", record.name);
        self.emit(cx, EventKind::NodeDead, None, Some(node), text);
        for name in self.vms_touching(node) {
            let record = self.vm_mut(cx, &name)?;
            record.seen.remove(&node);
            // The source may still carry the migration out, to a host that has booted again: the target stays in the set
            // until that order has come to something.
            if let Some(OrderRecord { intent: OrderIntent::Migrate { to, cancelled, .. }, .. }) =
                &mut record.order
                && *to == node
            {
                *cancelled = true;
                continue;
            }
            record.may_run.remove(&node);
            if record.order.as_ref().is_some_and(|order| order.node == node) {
                record.order = None;
            }
            self.gone(cx, &name, node, StopCause::Unknown, true)?;
        }
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
        if let Some(vm) = self.vms.values().find(|vm| vm.may_run.contains_key(&node.id)) {
            return Err(in_use(format!(
                "VM {} may be running there; its death must be proven first",
                vm.spec.name
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
