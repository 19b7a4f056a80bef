//! What VMs and services hold up for each other: the order of starts, and how many move at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cluster::ClusterState;
use crate::dependency::Dependee;
use crate::id::{FailoverDomainName, NodeId, VmName};
use crate::plan::exclusive;
use crate::service::{ServiceRecord, ServiceState};
use crate::vm::{Desired, VmRecord, VmState};

/// What is under way, counted from the whole state and added to as the plan is made.
#[derive(Debug, Clone, Default)]
pub(super) struct Flow {
    /// The one that is being started and comes before all others that are.
    starting: Option<(u32, Dependee)>,
    /// VMs and services of each failover domain that are on their way.
    moving: BTreeMap<FailoverDomainName, u32>,
    /// VMs and services of each failover domain that this plan brings back.
    back: BTreeMap<FailoverDomainName, usize>,
}

/// A VM or service, as far as others wait for it.
#[derive(Clone, Copy)]
pub(super) enum Turn<'t> {
    Vm(&'t VmRecord),
    Service(&'t ServiceRecord),
}

impl<'t> From<&'t VmRecord> for Turn<'t> {
    fn from(record: &'t VmRecord) -> Self {
        Self::Vm(record)
    }
}

impl<'t> From<&'t ServiceRecord> for Turn<'t> {
    fn from(record: &'t ServiceRecord) -> Self {
        Self::Service(record)
    }
}

impl<'t> Turn<'t> {
    fn dependee(self) -> Dependee {
        match self {
            Self::Vm(record) => Dependee::Vm(record.spec.name.clone()),
            Self::Service(record) => Dependee::Service(record.spec.name.clone()),
        }
    }

    /// Those with a number come first, 1 before 2.
    fn rank(self) -> u32 {
        match self {
            Self::Vm(record) => number(record.spec.policy.start_priority),
            Self::Service(record) => number(record.spec.policy.start_priority),
        }
    }

    fn exclusive(self, state: &ClusterState) -> u32 {
        match self {
            Self::Vm(record) => number(record.spec.policy.exclusive),
            Self::Service(record) => number(exclusive::number_of(state, record)),
        }
    }

    fn domain(self) -> Option<&'t FailoverDomainName> {
        match self {
            Self::Vm(record) => record.spec.policy.failover_domain.as_ref(),
            Self::Service(record) => record.spec.policy.failover_domain.as_ref(),
        }
    }
}

/// 0 comes after all that have a number.
fn number(given: u32) -> u32 {
    match given {
        0 => u32::MAX,
        number => number,
    }
}

impl Flow {
    pub(super) fn of(state: &ClusterState) -> Self {
        let mut flow = Self::default();
        for record in state.vms.values() {
            match record.state {
                VmState::Starting if order_is_heard(state, record) => {
                    flow.starts((&**record).into());
                }
                // One that nobody carries out holds up no start, and is on its way all the same.
                VmState::Starting if record.order.is_some() => flow.moves((&**record).into()),
                VmState::Migrating => flow.moves((&**record).into()),
                VmState::Stopping if record.desired == Desired::Enabled => {
                    flow.moves((&**record).into());
                }
                _ => {}
            }
        }
        for record in state.services.values() {
            let turn = Turn::from(&**record);
            match record.state {
                ServiceState::Starting if is_being_started(state, record) => flow.starts(turn),
                // Between two of its members it is on its way too, and so it is when it is down in between.
                ServiceState::Starting | ServiceState::Migrating => flow.moves(turn),
                ServiceState::Stopping if record.desired == Desired::Enabled => flow.moves(turn),
                _ => {}
            }
        }
        flow
    }

    pub(super) fn starts(&mut self, what: Turn<'_>) {
        let this = (what.rank(), what.dependee());
        if self.starting.as_ref().is_none_or(|first| this < *first) {
            self.starting = Some(this);
        }
        // On its way back by stop and start, perhaps: that counts as long as it is not up.
        self.moves(what);
    }

    pub(super) fn moves(&mut self, what: Turn<'_>) {
        if let Some(domain) = what.domain() {
            *self.moving.entry(domain.clone()).or_default() += 1;
        }
    }

    pub(super) fn comes_back(&mut self, what: Turn<'_>) {
        self.moves(what);
        if let Some(domain) = what.domain() {
            *self.back.entry(domain.clone()).or_default() += 1;
        }
    }

    pub(super) fn coming_back(&self, domain: &FailoverDomainName) -> usize {
        self.back.get(domain).copied().unwrap_or(0)
    }

    pub(super) fn moving(&self, domain: &FailoverDomainName) -> u32 {
        self.moving.get(domain).copied().unwrap_or(0)
    }

    /// What is being started and has to be up before this one is started. One whose start has failed, or that cannot be
    /// started at all, holds up nobody.
    pub(super) fn before(&self, what: Turn<'_>) -> Option<String> {
        let (first, name) = self.starting.as_ref()?;
        (*first < what.rank()).then(|| match name {
            Dependee::Vm(vm) => vm.to_string(),
            Dependee::Service(_) => name.to_string(),
        })
    }
}

/// A member of it is on its way up. Between two of them the leader orders the next in this same plan; one that waits for
/// something holds up nobody else.
fn is_being_started(state: &ClusterState, record: &ServiceRecord) -> bool {
    let mut vms = record.spec.vms().filter_map(|vm| state.vms.get(vm));
    record.order.as_ref().is_some_and(|order| is_in_session(state, order.node))
        || vms.any(|vm| vm.state == VmState::Starting && order_is_heard(state, vm))
}

/// Somebody carries its order out. A node that is lost may not be proven dead for hours, and what was being started there would
/// hold up every start that comes after it for as long.
fn order_is_heard(state: &ClusterState, record: &VmRecord) -> bool {
    record.order.as_ref().is_some_and(|order| is_in_session(state, order.node))
}

fn is_in_session(state: &ClusterState, node: NodeId) -> bool {
    state.nodes.get(&node).is_some_and(|node| node.session().is_some())
}

/// All in the order in which they are planned: those that need a node for themselves, the lowest number first, then by
/// their start priority, then by name; those that have neither last.
pub(super) fn in_order(state: &ClusterState) -> Vec<Turn<'_>> {
    let vms = state.vms.values().map(|record: &Arc<VmRecord>| Turn::from(&**record));
    let services = state.services.values().map(|record| Turn::from(&**record));
    let plain = |turn: &Turn<'_>| turn.exclusive(state) == u32::MAX && turn.rank() == u32::MAX;
    let (plain, mut special): (Vec<_>, Vec<_>) = vms.chain(services).partition(plain);
    special.sort_by_cached_key(|turn| (turn.exclusive(state), turn.rank(), turn.dependee()));
    // What is said of a service goes by what is said of its VMs.
    let first = special.iter().filter_map(|turn| match turn {
        Turn::Service(record) => Some(record.spec.vms()),
        Turn::Vm(_) => None,
    });
    let first: BTreeSet<&VmName> = first.flatten().collect();
    let (early, plain): (Vec<_>, Vec<_>) = plain
        .into_iter()
        .partition(|turn| matches!(turn, Turn::Vm(vm) if first.contains(&vm.spec.name)));
    early.into_iter().chain(special).chain(plain).collect()
}
