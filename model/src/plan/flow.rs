//! What VMs hold up for each other: the order of starts, and how many move at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::ClusterState;
use crate::id::{FailoverDomainName, VmName};
use crate::vm::{Desired, VmRecord, VmState};

/// What is under way, counted from the whole state and added to as the plan is made.
#[derive(Debug, Clone, Default)]
pub(super) struct Flow {
    /// The VM that is being started and comes before all others that are.
    starting: Option<(u32, VmName)>,
    /// VMs of each failover domain that are on their way.
    moving: BTreeMap<FailoverDomainName, u32>,
    /// VMs of each failover domain that this plan brings back.
    back: BTreeMap<FailoverDomainName, usize>,
}

/// The order in which VMs are started: those with a number first, 1 before 2.
fn rank(record: &VmRecord) -> u32 {
    match record.spec.policy.start_priority {
        0 => u32::MAX,
        number => number,
    }
}

impl Flow {
    pub(super) fn of(state: &ClusterState) -> Self {
        let mut flow = Self::default();
        for record in state.vms.values() {
            match record.state {
                VmState::Starting if record.order.is_some() => flow.starts(record),
                VmState::Migrating => flow.moves(record),
                VmState::Stopping if record.desired == Desired::Enabled => flow.moves(record),
                _ => {}
            }
        }
        flow
    }

    pub(super) fn starts(&mut self, record: &VmRecord) {
        let this = (rank(record), record.spec.name.clone());
        if self.starting.as_ref().is_none_or(|first| this < *first) {
            self.starting = Some(this);
        }
        // On its way back by stop and start, perhaps: that counts as long as it is not up.
        self.moves(record);
    }

    pub(super) fn moves(&mut self, record: &VmRecord) {
        if let Some(domain) = &record.spec.policy.failover_domain {
            *self.moving.entry(domain.clone()).or_default() += 1;
        }
    }

    pub(super) fn comes_back(&mut self, record: &VmRecord) {
        self.moves(record);
        if let Some(domain) = &record.spec.policy.failover_domain {
            *self.back.entry(domain.clone()).or_default() += 1;
        }
    }

    pub(super) fn coming_back(&self, domain: &FailoverDomainName) -> usize {
        self.back.get(domain).copied().unwrap_or(0)
    }

    pub(super) fn moving(&self, domain: &FailoverDomainName) -> u32 {
        self.moving.get(domain).copied().unwrap_or(0)
    }

    /// The VM that is being started and has to be up before this one is started. One whose start has failed, or that
    /// cannot be started at all, holds up nobody.
    pub(super) fn before(&self, record: &VmRecord) -> Option<&VmName> {
        let (first, name) = self.starting.as_ref()?;
        (*first < rank(record)).then_some(name)
    }
}

/// All VMs in the order in which they are planned: those that need a node for themselves, the lowest number first, then
/// by their start priority, then by name.
pub(super) fn in_order(state: &ClusterState) -> Vec<&Arc<VmRecord>> {
    let plain = |record: &&Arc<VmRecord>| {
        record.spec.policy.exclusive == 0 && record.spec.policy.start_priority == 0
    };
    let (plain, mut special): (Vec<_>, Vec<_>) = state.vms.values().partition(plain);
    special.sort_by_key(|record| {
        let exclusive = match record.spec.policy.exclusive {
            0 => u32::MAX,
            number => number,
        };
        (exclusive, rank(record), record.spec.name.clone())
    });
    special.into_iter().chain(plain).collect()
}
