//! VMs and services that have their node for themselves: RGManager's `exclusive`, with its priorities.
//!
//! An exclusive one goes where no other of the cluster is, and no other goes where it is. Where no node is free it may take
//! the node of an exclusive one with a higher number, which goes elsewhere: RGManager reference, section 6.2. The VMs and
//! scripts of a service that is wanted are one tenant together, and it is exclusive when one of its VMs is.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::ClusterState;
use crate::command::{Decision, MoveCause, Operation, ServiceDecision};
use crate::dependency::{Dependee, Dependency};
use crate::id::{NodeId, ServiceName, VmName};
use crate::liveness::Liveness;
use crate::plan::load::Load;
use crate::plan::placement::NoPlace;
use crate::plan::{placement, service};
use crate::service::{ServiceRecord, ServiceState};
use crate::time::Timestamp;
use crate::vm::{Desired, VmRecord, VmState};

/// What is said of a node that an exclusive one has, after that one's name.
pub const EXCLUSIVE_IS_THERE: &str = "is exclusive and has it for itself";
/// What is said of a node where an exclusive one would not be alone.
pub const OTHERS_ARE_THERE: &str = "it is exclusive, and other VMs or services are there";

/// Who is on each node, as far as that matters here.
#[derive(Debug, Clone, Default)]
pub(super) struct Tenants {
    count: BTreeMap<NodeId, u32>,
    exclusive: BTreeMap<NodeId, BTreeMap<Dependee, u32>>,
    /// How much of each service is there.
    services: BTreeMap<NodeId, BTreeMap<ServiceName, u32>>,
    /// VMs whose lives are their service's, with its number.
    members: BTreeMap<VmName, (ServiceName, u32)>,
}

/// Somebody who is to go somewhere, or is there.
struct Tenant {
    name: Dependee,
    exclusive: u32,
    /// It is counted on the node in question.
    counted: bool,
}

/// The number of a service: its own, or the first of its VMs'.
pub(super) fn number_of(state: &ClusterState, record: &ServiceRecord) -> u32 {
    let own = record.spec.policy.exclusive;
    let vms = record.spec.vms().filter_map(|vm| state.vms.get(vm));
    let of_vms = vms.map(|vm| vm.spec.policy.exclusive).filter(|number| *number > 0).min();
    if own > 0 { own } else { of_vms.unwrap_or(0) }
}

impl Tenants {
    /// The services that are wanted: what their VMs count as.
    pub(super) fn of(state: &ClusterState) -> Self {
        let mut tenants = Self::default();
        for record in state.services.values().filter(|it| it.governs()) {
            let number = number_of(state, record);
            for vm in record.spec.vms() {
                tenants.members.insert(vm.clone(), (record.spec.name.clone(), number));
            }
            let seen = record.seen.iter().filter(|(_, it)| !it.is_empty()).map(|(node, _)| *node);
            for node in record.owner.into_iter().chain(seen).collect::<BTreeSet<_>>() {
                tenants.add_service(node, &record.spec.name, number);
            }
        }
        tenants
    }

    pub(super) fn add(&mut self, node: NodeId, record: &VmRecord) {
        if let Some((service, number)) = self.members.get(&record.spec.name).cloned() {
            return self.add_service(node, &service, number);
        }
        let name = || Dependee::Vm(record.spec.name.clone());
        self.comes(node, record.spec.policy.exclusive, name);
    }

    pub(super) fn add_service(&mut self, node: NodeId, service: &ServiceName, number: u32) {
        let parts = self.services.entry(node).or_default().entry(service.clone()).or_default();
        *parts += 1;
        if *parts == 1 {
            self.comes(node, number, || Dependee::Service(service.clone()));
        }
    }

    pub(super) fn remove(&mut self, node: NodeId, record: &VmRecord) {
        match self.members.get(&record.spec.name).cloned() {
            Some((service, _)) => self.remove_service(node, &service, 1),
            None => self.goes(node, &Dependee::Vm(record.spec.name.clone())),
        }
    }

    /// So many parts of a service less.
    fn remove_service(&mut self, node: NodeId, service: &ServiceName, parts: u32) {
        let Some(known) = self.services.get_mut(&node).and_then(|it| it.get_mut(service)) else {
            return;
        };
        *known = known.saturating_sub(parts);
        if *known == 0 {
            self.services.entry(node).or_default().remove(service);
            self.goes(node, &Dependee::Service(service.clone()));
        }
    }

    fn comes(&mut self, node: NodeId, number: u32, name: impl FnOnce() -> Dependee) {
        *self.count.entry(node).or_default() += 1;
        if number > 0 {
            self.exclusive.entry(node).or_default().insert(name(), number);
        }
    }

    fn goes(&mut self, node: NodeId, name: &Dependee) {
        if let Some(count) = self.count.get_mut(&node) {
            *count = count.saturating_sub(1);
        }
        if let Some(tenants) = self.exclusive.get_mut(&node) {
            tenants.remove(name);
        }
    }

    fn vm(&self, node: NodeId, record: &VmRecord) -> Tenant {
        match self.members.get(&record.spec.name) {
            Some((service, number)) => self.service(node, service, *number),
            None => Tenant {
                name: Dependee::Vm(record.spec.name.clone()),
                exclusive: record.spec.policy.exclusive,
                counted: record.owner == Some(node) || record.seen.contains_key(&node),
            },
        }
    }

    fn service(&self, node: NodeId, service: &ServiceName, number: u32) -> Tenant {
        let there = self.services.get(&node).is_some_and(|it| it.contains_key(service));
        Tenant { name: Dependee::Service(service.clone()), exclusive: number, counted: there }
    }

    /// Why a node that could take the VM otherwise cannot, for one of them wants to be alone.
    pub(super) fn refusal(&self, node: NodeId, record: &VmRecord) -> Option<String> {
        self.refuses(node, &self.vm(node, record))
    }

    /// The same of a service.
    pub(super) fn refusal_of_service(
        &self,
        node: NodeId,
        service: &ServiceName,
        number: u32,
    ) -> Option<String> {
        self.refuses(node, &self.service(node, service, number))
    }

    fn refuses(&self, node: NodeId, tenant: &Tenant) -> Option<String> {
        let others = self.exclusive.get(&node).into_iter().flatten();
        if let Some((name, _)) = others.into_iter().find(|(name, _)| **name != tenant.name) {
            let name = match name {
                Dependee::Vm(vm) => vm.to_string(),
                Dependee::Service(_) => name.to_string(),
            };
            return Some(format!("{name} {EXCLUSIVE_IS_THERE}"));
        }
        let others = self.others(node, tenant);
        (tenant.exclusive > 0 && others > 0).then(|| format!("{OTHERS_ARE_THERE} ({others})"))
    }

    fn others(&self, node: NodeId, tenant: &Tenant) -> u32 {
        let count = self.count.get(&node).copied().unwrap_or(0);
        count.saturating_sub(u32::from(tenant.counted))
    }

    /// The one tenant of a node, if it is exclusive with a number above `priority`.
    fn outranked(&self, node: NodeId, priority: u32) -> Option<&Dependee> {
        if self.count.get(&node) != Some(&1) {
            return None;
        }
        let (name, number) = self.exclusive.get(&node)?.first_key_value()?;
        (*number > priority).then_some(name)
    }

    /// Whether an exclusive VM has to leave a node that it shares: all others count, of exclusive ones those that come
    /// first.
    pub(super) fn must_leave(&self, node: NodeId, record: &VmRecord) -> bool {
        self.leaves(node, &self.vm(node, record))
    }

    /// The same of a service.
    pub(super) fn service_must_leave(
        &self,
        node: NodeId,
        service: &ServiceName,
        number: u32,
    ) -> bool {
        self.leaves(node, &self.service(node, service, number))
    }

    fn leaves(&self, node: NodeId, tenant: &Tenant) -> bool {
        let exclusive = self.exclusive.get(&node).into_iter().flatten();
        let after = exclusive
            .filter(|(name, number)| (**number, *name) > (tenant.exclusive, &tenant.name))
            .count() as u32;
        tenant.exclusive > 0 && self.others(node, tenant) > after
    }
}

/// What makes room for an exclusive one for which no node is free: its name, and what is decided about it. Only on a node
/// that was weighed for it: of others its recovery policy wants nothing. `takes` says whether a node could take that one
/// then: where rules keep it with what gives way, it would go after that for ever.
pub(super) fn displace(
    (state, liveness, now): (&ClusterState, &Liveness, Timestamp),
    load: &Load,
    (name, priority, depend): (String, u32, &[Dependency]),
    weighed: &NoPlace,
    takes: impl Fn(&Load, NodeId) -> bool,
) -> Option<(String, Operation)> {
    if priority == 0 {
        return None;
    }
    let mut outranked: Vec<(u32, NodeId, &Dependee)> = state
        .nodes
        .iter()
        .filter_map(|(node, record)| {
            let victim = load.tenants.outranked(*node, priority)?;
            weighed.refused.iter().find(|(name, _)| name == record.name.as_str())?;
            let number = load.tenants.exclusive.get(node)?.get(victim)?;
            is_settled(state, *node, victim).then_some((*number, *node, victim))
        })
        .collect();
    // The least important gives way first.
    outranked.sort_by_key(|(number, node, _)| (std::cmp::Reverse(*number), *node));
    let why = format!("{name} is exclusive and comes first ({priority})");
    let cause = MoveCause::Exclusive;
    outranked.into_iter().find_map(|(_, node, victim)| {
        let mut without = load.clone();
        let (here, needed) = (BTreeSet::from([node]), victim);
        let operation = match victim {
            Dependee::Vm(vm) => {
                let victim = state.vms.get(vm)?;
                without.remove(node, victim);
                let elsewhere = placement::place(state, liveness, load, victim, &here).ok();
                let (to, mode) = match elsewhere {
                    Some(place) if victim.spec.cannot_migrate().is_none() => {
                        (place.node, Some(victim.spec.policy.migration))
                    }
                    _ => (node, None),
                };
                match mode {
                    Some(_) => without.add(to, victim),
                    // Nothing would ever run of the two.
                    None if state.needs(depend, needed) => return None,
                    None => {}
                }
                let decision = Decision::Move { from: node, to, mode, cause, why: why.clone() };
                Operation::Decide { vm: vm.clone(), changed: victim.changed, decision }
            }
            Dependee::Service(service) => {
                let victim = state.services.get(service)?;
                for vm in victim.spec.vms().filter_map(|vm| state.vms.get(vm)) {
                    without.remove(node, vm);
                }
                without.tenants.remove_service(node, service, u32::MAX);
                let decision = match service::elsewhere(state, liveness, now, load, victim, &here) {
                    Some((to, live)) => {
                        for vm in victim.spec.vms().filter_map(|vm| state.vms.get(vm)) {
                            without.add(to, vm);
                        }
                        ServiceDecision::AskMove { to, live, cause, why: why.clone() }
                    }
                    None if state.needs(depend, needed) => return None,
                    None => ServiceDecision::Stop,
                };
                let service = service.clone();
                Operation::DecideService { service, changed: victim.changed, decision }
            }
        };
        let victim = match victim {
            Dependee::Vm(vm) => vm.to_string(),
            Dependee::Service(_) => victim.to_string(),
        };
        takes(&without, node).then_some((victim, operation))
    })
}

/// It runs there well, and nothing of it is under way.
fn is_settled(state: &ClusterState, node: NodeId, victim: &Dependee) -> bool {
    match victim {
        Dependee::Vm(vm) => state.vms.get(vm).is_some_and(|victim| {
            victim.state == VmState::Started
                && victim.desired == Desired::Enabled
                && victim.owner == Some(node)
                && victim.order.is_none()
                && victim.frozen.is_none()
        }),
        Dependee::Service(service) => state.services.get(service).is_some_and(|victim| {
            let mut vms = victim.spec.vms().filter_map(|vm| state.vms.get(vm));
            victim.state == ServiceState::Started
                && victim.desired == Desired::Enabled
                && victim.owner == Some(node)
                && victim.order.is_none()
                && victim.frozen.is_none()
                && victim.open_operation().is_none()
                && vms.all(|vm| vm.frozen.is_none())
        }),
    }
}
