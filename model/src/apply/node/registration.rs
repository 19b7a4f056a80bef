//! A session begins: a node registers, for the first time or again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cluster::{Accepted, ClusterState, Context, Detail, Outcome};
use crate::command::Registration;
use crate::event::EventKind;
use crate::id::{NodeId, SessionId};
use crate::node::{LeaseTerms, NodeRecord, NodeState, ProofOfDeath};
use crate::rejection::Rejection;
use crate::sabotage::{Rule, off};
use crate::vm::MayRun;

impl ClusterState {
    /// A session begins. The inventory replaces all that was seen there before; VMs that may run there and were not
    /// seen are asked for anew.
    pub(in crate::apply) fn register(
        &mut self,
        cx: &mut Context,
        registration: &Registration,
    ) -> Outcome {
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
}
