//! What becomes of a VM when its guest is seen, gone, or settled: shared by reports, deaths and decisions.

use uuid::Uuid;

use crate::cluster::{ClusterState, Context};
use crate::event::EventKind;
use crate::handling::GuestEnd;
use crate::id::{Generation, NodeId, VmName};
use crate::node::{NodeState, ProofOfDeath, SeenDomain};
use crate::rejection::Rejection;
use crate::vm::{Desired, MayRun, OperationPhase, Presence, Sighting, StopCause, Verb, VmState};

impl ClusterState {
    /// The guest is no longer on `node`; called after it has left the may-run set. What follows depends on what the
    /// VM was doing there.
    pub(super) fn gone(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        node: NodeId,
        cause: StopCause,
        node_died: bool,
    ) -> Result<(), Rejection> {
        let record = self.vm(vm)?;
        let was_owner = record.owner == Some(node);
        let ordered = record.migration_target().is_some() || record.state == VmState::Migrating;
        if cause == StopCause::MigratedAway && was_owner && !ordered {
            return self.left(cx, vm, node);
        }
        match record.state {
            VmState::Started | VmState::Starting if was_owner => {
                self.owner_gone(cx, vm, node, cause, node_died)
            }
            VmState::Migrating
                if record.migration_target().is_none() && record.may_run.is_empty() =>
            {
                self.owner_gone(cx, vm, node, cause, node_died)
            }
            // The source's end, while the target is still to speak or the order to be reported.
            VmState::Migrating if was_owner => {
                let record = self.vm_mut(cx, vm)?;
                record.owner = None;
                record.last_owner = Some(node);
                Ok(())
            }
            VmState::Stopping | VmState::Failed if record.may_run.is_empty() => {
                match self.after_ailment(vm)? {
                    Some((why, end)) => self.guest_ended(cx, vm, node, why, end),
                    None => self.settled(cx, vm),
                }
            }
            VmState::Conflict if record.seen_with_guest().count() < 2 => {
                self.emit(
                    cx,
                    EventKind::VmConflictEnded,
                    Some(vm),
                    Some(node),
                    format!("{vm} no longer runs twice"),
                );
                let record = self.vm_mut(cx, vm)?;
                record.owner = None;
                record.keep = None;
                record.set_state(cx, VmState::Stopped);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// It left by somebody's migration. Where it went is not known yet: every node is asked, and one that has it will
    /// say so at once (design section 4, tracking).
    fn left(&mut self, cx: &mut Context, vm: &VmName, node: NodeId) -> Result<(), Rejection> {
        let place = self.node_name(node);
        let others = self.nodes_alive().filter(|other| *other != node).collect::<Vec<_>>();
        let record = self.vm_mut(cx, vm)?;
        for other in others {
            record.may_run.entry(other).or_insert(MayRun { since: cx.index });
        }
        record.last_owner = record.owner.take();
        record.order = None;
        record.set_state(cx, VmState::Lost);
        let text = format!("{vm} left {place} by a migration that was not ordered here");
        self.emit(cx, EventKind::VmLost, Some(vm), Some(node), text);
        Ok(())
    }

    /// Every node that may run something that was never asked of it: one whose lease ran out may, for its agent stopped only
    /// what the lease bound and could keep its watchdog fed then.
    pub(super) fn nodes_alive(&self) -> impl Iterator<Item = NodeId> + '_ {
        let alive = |node: &&std::sync::Arc<crate::node::NodeRecord>| match &node.state {
            NodeState::Dead(proof) => matches!(proof, ProofOfDeath::Lease { .. }),
            _ => true,
        };
        self.nodes.values().filter(alive).map(|node| node.id)
    }

    /// A VM or a script may be running there.
    pub fn may_run_anything(&self, node: NodeId) -> bool {
        self.vms.values().any(|vm| vm.may_run.contains_key(&node))
            || self.services.values().any(|service| service.may_run.contains_key(&node))
    }

    fn owner_gone(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        node: NodeId,
        cause: StopCause,
        node_died: bool,
    ) -> Result<(), Rejection> {
        let place = self.node_name(node);
        let record = self.vm(vm)?;
        if record.desired != Desired::Enabled {
            return self.settled(cx, vm);
        }
        let end = record.spec.policy.handling.guest.after(cause);
        if end != GuestEnd::Recover && !node_died && record.state == VmState::Started {
            return self.guest_ended(cx, vm, node, cause.as_str().to_owned(), end);
        }
        if cause == StopCause::Unknown && !node_died {
            // Nobody saw how it ended: it may have been moved away while nobody looked. Those that can be asked are.
            let asked: Vec<NodeId> = self
                .nodes
                .values()
                .filter(|other| other.session().is_some() && other.id != node)
                .map(|other| other.id)
                .collect();
            let record = self.vm_mut(cx, vm)?;
            for other in asked {
                record.may_run.entry(other).or_insert(MayRun { since: cx.index });
            }
        }
        let record = self.vm(vm)?;
        // A guest that was on its way when its source died went with it, not by a failure of its own.
        let dead = |id: &NodeId| {
            self.nodes.get(id).is_some_and(|node| matches!(node.state, NodeState::Dead(_)))
        };
        let source =
            record.last_owner.filter(|source| record.state == VmState::Migrating && dead(source));
        let node_died = node_died || source.is_some();
        let why = match (node_died, record.state) {
            (true, _) => {
                format!("{} died", source.map_or(place.clone(), |source| self.node_name(source)))
            }
            (false, VmState::Migrating) => "it did not survive its migration".to_owned(),
            (false, _) => cause.as_str().to_owned(),
        };
        self.failed_at(cx, vm, node, why, node_died)
    }

    /// From here its recovery policy decides.
    fn failed_at(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        node: NodeId,
        why: String,
        node_died: bool,
    ) -> Result<(), Rejection> {
        let place = self.node_name(node);
        let record = self.vm_mut(cx, vm)?;
        let starting = record.state == VmState::Starting;
        record.ailment = None;
        record.fail(cx, why.clone(), node, node_died);
        record.last_owner = Some(node);
        record.owner = None;
        record.set_state(cx, VmState::Recovering);
        if let Some(operation) = record.open_operation()
            && !starting
            && matches!(
                operation.verb,
                Verb::Migrate { .. } | Verb::Restart | Verb::Relocate { .. }
            )
        {
            self.end_operation(cx, vm, OperationPhase::Failed(why.clone()))?;
        }
        self.emit(
            cx,
            EventKind::VmFailed,
            Some(vm),
            Some(node),
            format!("{vm} failed on {place}: {why}"),
        );
        Ok(())
    }

    /// It is down and nowhere any more: what was wanted of it decides what that is called.
    pub(super) fn settled(&mut self, cx: &mut Context, vm: &VmName) -> Result<(), Rejection> {
        let record = self.vm_mut(cx, vm)?;
        record.last_owner = record.owner.take().or(record.last_owner);
        record.failure = None;
        record.ailment = None;
        let operation = record.open_operation().map(|operation| operation.verb.clone());
        let desired = record.desired;
        record.set_state(
            cx,
            match desired {
                Desired::Disabled => VmState::Disabled,
                Desired::Enabled | Desired::Stopped | Desired::Ignored => VmState::Stopped,
            },
        );
        if let Some(operation) = &mut record.operation
            && operation.phase == OperationPhase::Pending
            && matches!(operation.verb, Verb::Restart | Verb::Relocate { .. })
        {
            operation.phase = OperationPhase::Halfway;
        }
        let node = record.last_owner;
        self.emit(cx, EventKind::VmStopped, Some(vm), node, format!("{vm} is down"));
        match operation {
            Some(Verb::Disable | Verb::Stop { .. }) => {
                self.end_operation(cx, vm, OperationPhase::Done)
            }
            // What was asked before its service stopped it: left open, it would be settled again and again.
            Some(_) if desired != Desired::Enabled => {
                let why = format!("{vm} is to be down");
                self.end_operation(cx, vm, OperationPhase::Failed(why))
            }
            _ => Ok(()),
        }
    }

    /// A domain was seen on a node: a VM's, or one that is not the cluster's.
    pub(super) fn see(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        uuid: Uuid,
        domain: &SeenDomain,
    ) -> Result<(), Rejection> {
        let Some(name) = self.vm_by_uuid.get(&uuid).cloned() else {
            return self.see_unmanaged(cx, node, uuid, domain);
        };
        let starts_itself = self.nodes.get(&node).is_some_and(|it| it.autostart.contains(&name));
        if starts_itself != domain.autostart {
            let record = self.node_mut(cx, node)?;
            match domain.autostart {
                true => record.autostart.insert(name.clone()),
                false => record.autostart.remove(&name),
            };
        }
        let record = self.vm_mut(cx, &name)?;
        let Some(presence) = domain.presence else {
            // Defined there and not active. Only the agent's word "absent" takes the node out of the set.
            record.seen.remove(&node);
            return Ok(());
        };
        let generation = domain.generation.map(Generation);
        let before = record.seen.insert(node, Sighting { presence, generation, at: cx.at });
        let first = before.is_none();
        // Whoever started it: it writes to its disks, and memory from before that would not fit them any more.
        let outlived = record.saved.take_if(|_| presence.holds_guest());
        if let Some(saved) = outlived {
            let text = format!(
                "{name} runs on {} without the memory that was saved for it: {} is not used any more",
                self.node_name(node),
                saved.file
            );
            self.emit(cx, EventKind::VmMemoryLost, Some(&name), Some(node), text);
        }
        if presence == Presence::Suspended
            && before.is_none_or(|sighting| sighting.presence != Presence::Suspended)
        {
            let text =
                format!("{name} is suspended on {}: it had lost its lease", self.node_name(node));
            self.emit(cx, EventKind::VmSuspended, Some(&name), Some(node), text);
            self.enter_set(cx, &name, node)?;
            // Before it is let run on: whoever has their hands on it may have brought it anywhere meanwhile.
            return match self.vm(&name)?.desired {
                Desired::Ignored => self.ask_all(cx, &name),
                Desired::Enabled | Desired::Stopped | Desired::Disabled => Ok(()),
            };
        }
        let record = self.vm_mut(cx, &name)?;
        record.cold.take_if(|_| presence.holds_guest());
        // What is seen there may run there, whoever started it.
        // An entry that is there keeps its index: the agent's word is already measured against it.
        let unexpected = !record.may_run.contains_key(&node);
        record.may_run.entry(node).or_insert(MayRun { since: cx.index });
        if first && unexpected && presence.holds_guest() && record.state != VmState::Lost {
            let text =
                format!("{name} is {} on {}, unasked", presence.as_str(), self.node_name(node));
            self.emit(cx, EventKind::VmSeen, Some(&name), Some(node), text);
        }
        let service = self.service_of.get(&name).filter(|_| presence.holds_guest()).cloned();
        if let Some(service) = service {
            self.note_service_runs(cx, &service)?;
        }
        self.note_health(cx, &name, node, presence)
    }

    /// One that Berth has suspended and does not know, as after a restore from a backup that is older than the VM: only the
    /// operator can have it run on.
    fn see_unmanaged(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        uuid: Uuid,
        domain: &SeenDomain,
    ) -> Result<(), Rejection> {
        let before = self.node_mut(cx, node)?.unmanaged.insert(uuid, domain.clone());
        let suspended = |it: &SeenDomain| it.presence == Some(Presence::Suspended);
        if suspended(domain) && !before.as_ref().is_some_and(suspended) {
            let text = format!(
                "{} is suspended on {}, which had lost its lease, and the cluster does not know it: `berthctl adopt {}` takes it up and lets it run on",
                domain.name,
                self.node_name(node),
                domain.name
            );
            self.emit(cx, EventKind::UnmanagedSuspended, None, Some(node), text);
        }
        Ok(())
    }

    fn enter_set(&mut self, cx: &Context, name: &VmName, node: NodeId) -> Result<(), Rejection> {
        let record = self.vm_mut(cx, name)?;
        record.may_run.entry(node).or_insert(MayRun { since: cx.index });
        Ok(())
    }
}
