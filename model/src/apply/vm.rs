//! Putting VMs and failover domains under management, changing and forgetting them. Starts and stops nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::apply::depend::Definition;
use crate::apply::disks::DiskUsers;
use crate::cluster::{ClusterState, Context};
use crate::event::EventKind;
use crate::failover_domain::FailoverDomain;
use crate::id::{FailoverDomainName, Generation, VmName};
use crate::node::{NodeState, SeenDomain};
use crate::rejection::Rejection;
use crate::sabotage::{Rule, off};
use crate::time::Timestamp;
use crate::vm::{
    Desired, MayRun, OnIsolation, OrderIntent, Presence, Sighting, Stay, VmRecord, VmSpec, VmState,
};

impl ClusterState {
    pub(super) fn add_vm(&mut self, cx: &mut Context, spec: &VmSpec) -> Result<(), Rejection> {
        if self.vms.contains_key(&spec.name) {
            return Err(Rejection::NameTaken { vm: spec.name.to_string() });
        }
        if let Some(service) = self.service_by_id.get(&spec.uuid) {
            // What agents say under that UUID is said of its scripts, and would be taken for the VM's.
            return Err(Rejection::UuidTaken {
                uuid: spec.uuid.to_string(),
                holder: format!("service {service}"),
            });
        }
        self.check_spec(cx, spec)?;
        // Nobody knows yet where it runs: every node is in its set until its agent says otherwise, but for those
        // proven dead until they register (design section 3, may-run set). No lease ever bound it.
        let may_run = self
            .nodes_alive()
            .filter(|_| !off(Rule::NewVmEverywhere))
            .map(|node| (node, MayRun { since: cx.index }))
            .collect();
        let seen = self.take_sightings(cx, spec);
        // A copy that Berth suspended is the VM's own, and its memory goes on when it is enabled and nobody else has it.
        let suspended = seen.values().filter(|it| it.presence == Presence::Suspended);
        let generation = suspended.filter_map(|it| it.generation).max();
        self.vm_by_uuid.insert(spec.uuid, spec.name.clone());
        self.vms.insert(
            spec.name.clone(),
            Arc::new(VmRecord {
                spec: spec.clone(),
                spec_revision: cx.index,
                desired: Desired::Disabled,
                state: VmState::Disabled,
                owner: None,
                last_owner: None,
                generation: generation.unwrap_or(Generation(cx.index)),
                may_run,
                seen,
                order: None,
                operation: None,
                failure: None,
                restarts: Vec::new(),
                restart_count: 0,
                keep: None,
                evict_not_before: Timestamp::default(),
                ailment: None,
                resumed: 0,
                saved: None,
                migration: None,
                // It may have been the cluster's before, and what its node was told then holds there still.
                bound_isolation: OnIsolation::Continue,
                unbound_since: None,
                frozen: None,
                placed_at: None,
                cold: None,
                depends_met: false,
                status_failures: Vec::new(),
                failback_not_before: Timestamp::default(),
                claim: None,
                stay: Stay::default(),
                state_since: cx.at,
                changed: cx.index,
            }),
        );
        self.emit(
            cx,
            EventKind::VmAdded,
            Some(&spec.name),
            None,
            format!("{} was added by {}", spec.name, cx.by),
        );
        Ok(())
    }

    /// Domains of this VM that agents saw before it was managed.
    fn take_sightings(
        &mut self,
        cx: &Context,
        spec: &VmSpec,
    ) -> BTreeMap<crate::id::NodeId, Sighting> {
        let mut seen = BTreeMap::new();
        let holders: Vec<_> = self
            .nodes
            .values()
            .filter(|node| node.unmanaged.contains_key(&spec.uuid))
            .map(|node| node.id)
            .collect();
        for id in holders {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            let node = Arc::make_mut(node);
            let Some(domain) = node.unmanaged.remove(&spec.uuid) else { continue };
            if let (NodeState::Online, Some(presence)) = (&node.state, domain.presence) {
                let generation = domain.generation.map(Generation);
                seen.insert(id, Sighting { presence, generation, at: cx.at });
            }
        }
        seen
    }

    pub(super) fn edit_vm(&mut self, cx: &mut Context, spec: &VmSpec) -> Result<(), Rejection> {
        let record = self.vm(&spec.name)?;
        if record.spec.uuid != spec.uuid {
            return Err(Rejection::IdentityChanged {
                vm: spec.name.to_string(),
                what: "UUID".into(),
            });
        }
        self.check_spec(cx, spec)?;
        self.must_not_clash(cx, |state| {
            state.vm_mut(cx, &spec.name)?.spec = spec.clone();
            Ok(())
        })?;
        // Editing stops nothing: what it newly depends on binds it from when that is started.
        let depends_met = self.unmet(&spec.policy.depend).next().is_none();
        let record = self.vm_mut(cx, &spec.name)?;
        record.depends_met &= depends_met;
        record.spec = spec.clone();
        record.spec_revision = cx.index;
        // Its node has to know what it does with it when it is cut off.
        if record.must_be_told()
            && let Some(owner) = record.owner
        {
            record.give_order(cx, owner, OrderIntent::Adopt);
        }
        let when = match record.state {
            VmState::Stopped | VmState::Disabled => "",
            _ => "; a changed domain XML holds from its next start",
        };
        let text = format!("{} was edited by {}{when}", spec.name, cx.by);
        self.emit(cx, EventKind::VmEdited, Some(&spec.name), None, text);
        Ok(())
    }

    pub(super) fn forget_vm(&mut self, cx: &mut Context, name: &VmName) -> Result<(), Rejection> {
        let record = self.vm(name)?;
        if let Some(order) = &record.order {
            return Err(Rejection::Busy {
                vm: name.to_string(),
                what: order.intent.as_str().into(),
            });
        }
        self.vms.remove(name);
        self.vm_by_uuid.remove(&record.spec.uuid);
        for (id, sighting) in &record.seen {
            if let Some(node) = self.nodes.get_mut(id) {
                let mut domain =
                    SeenDomain::active(name.as_str(), sighting.presence, record.spec.memory_mib);
                domain.generation = sighting.generation.map(|generation| generation.0);
                Arc::make_mut(node).unmanaged.insert(record.spec.uuid, domain);
            }
        }
        let places: Vec<_> = record.seen_with_guest().map(|node| self.node_name(node)).collect();
        let rest = match places.as_slice() {
            [] => String::new(),
            places => format!("; it runs on at {}", places.join(", ")),
        };
        self.emit(
            cx,
            EventKind::VmForgotten,
            Some(name),
            None,
            format!("{name} was forgotten by {}{rest}", cx.by),
        );
        Ok(())
    }

    /// What holds for a new and for an edited VM alike.
    fn check_spec(&self, cx: &Context, spec: &VmSpec) -> Result<(), Rejection> {
        if let Some(holder) = self.vm_by_uuid.get(&spec.uuid).filter(|holder| **holder != spec.name)
        {
            return Err(Rejection::UuidTaken {
                uuid: spec.uuid.to_string(),
                holder: format!("VM {holder}"),
            });
        }
        if let Some(domain) = &spec.policy.failover_domain
            && !self.failover_domains.contains_key(domain)
        {
            return Err(Rejection::UnknownFailoverDomain { domain: domain.to_string() });
        }
        match cx.together {
            // Those are looked at once, when all changes are made.
            true => Ok(()),
            false => {
                self.must_not_wait_for_itself(Definition::Vm(spec))?;
                DiskUsers::for_one(self, spec).must_be_free(spec)
            }
        }
    }

    pub(super) fn put_failover_domain(
        &mut self,
        cx: &mut Context,
        domain: &FailoverDomain,
    ) -> Result<(), Rejection> {
        for (node, priority) in &domain.nodes {
            self.node(node)?;
            if !(1..=100).contains(priority) {
                return Err(Rejection::OutOfRange {
                    what: format!("the priority of node {node}"),
                    value: priority.to_string(),
                    range: "1 to 100".into(),
                });
            }
        }
        let times = domain.failback.window.into_iter().flat_map(|window| [window.from, window.to]);
        if let Some(minute) = times.into_iter().find(|minute| *minute >= 24 * 60) {
            return Err(Rejection::OutOfRange {
                what: "a time of the failback window".into(),
                value: format!("minute {minute} of the day"),
                range: "00:00 to 23:59".into(),
            });
        }
        if domain.nodes.is_empty() {
            return Err(Rejection::OutOfRange {
                what: format!("the number of nodes of failover domain {}", domain.name),
                value: "0".into(),
                range: "1 or more".into(),
            });
        }
        self.must_not_clash(cx, |state| {
            state.failover_domains.insert(domain.name.clone(), Arc::new(domain.clone()));
            Ok(())
        })?;
        self.failover_domains.insert(domain.name.clone(), Arc::new(domain.clone()));
        let text = format!("failover domain {} was set by {}", domain.name, cx.by);
        self.emit(cx, EventKind::FailoverDomainChanged, None, None, text);
        Ok(())
    }

    pub(super) fn remove_failover_domain(
        &mut self,
        cx: &mut Context,
        name: &FailoverDomainName,
    ) -> Result<(), Rejection> {
        if !self.failover_domains.contains_key(name) {
            return Err(Rejection::UnknownFailoverDomain { domain: name.to_string() });
        }
        if let Some(user) =
            self.vms.values().find(|vm| vm.spec.policy.failover_domain.as_ref() == Some(name))
        {
            return Err(Rejection::FailoverDomainInUse {
                domain: name.to_string(),
                vm: user.spec.name.to_string(),
            });
        }
        if let Some(user) = self
            .services
            .values()
            .find(|service| service.spec.policy.failover_domain.as_ref() == Some(name))
        {
            return Err(Rejection::FailoverDomainInUse {
                domain: name.to_string(),
                vm: format!("service:{}", user.spec.name),
            });
        }
        self.failover_domains.remove(name);
        let text = format!("failover domain {name} was removed by {}", cx.by);
        self.emit(cx, EventKind::FailoverDomainChanged, None, None, text);
        Ok(())
    }
}
