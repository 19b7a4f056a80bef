//! What is taken of each node, in the unit that the placement mode weighs, and where VMs are that rules name.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::cluster::ClusterState;
use crate::fleet::PlacementMode;
use crate::id::{NodeId, VmName};
use crate::liveness::{Liveness, Measured};
use crate::node::NodeRecord;
use crate::placement_rule::RuleIndex;
use crate::plan::exclusive::Tenants;
use crate::vm::VmRecord;

/// What is taken of each node, by VMs that may run there and by other domains.
#[derive(Debug, Clone, Default)]
pub struct Load {
    mode: PlacementMode,
    memory_mib: BTreeMap<NodeId, u64>,
    vcpus: BTreeMap<NodeId, u64>,
    /// VMs there, or that come there by this plan.
    vms: BTreeMap<NodeId, u64>,
    /// Measured, or configured where nothing was: thousandths of processors, MiB.
    measured: BTreeMap<NodeId, (u64, u64)>,
    /// All placement rules.
    rules: RuleIndex,
    /// Where VMs are that rules name, or come to by this plan.
    places: BTreeMap<VmName, BTreeSet<NodeId>>,
    /// What agents measured, where the mode asks for it.
    uses: BTreeMap<Uuid, Measured>,
    /// Who wants a node for itself.
    pub(super) tenants: Tenants,
}

impl Load {
    /// Counted from the whole state, nothing measured.
    pub fn of(state: &ClusterState) -> Self {
        Self::measured(state, &Liveness::default())
    }

    /// Counted from the whole state, with what agents measured.
    pub fn measured(state: &ClusterState, liveness: &Liveness) -> Self {
        let mode = state.settings.placement;
        let uses = match mode {
            PlacementMode::Dynamic => liveness.measured.clone(),
            PlacementMode::Count | PlacementMode::Static => BTreeMap::new(),
        };
        let mut load = Self {
            mode,
            rules: state.rule_index(),
            uses,
            tenants: Tenants::of(state),
            ..Self::default()
        };
        for record in state.vms.values() {
            for node in places(record) {
                load.add(node, record);
            }
        }
        for node in state.nodes.values() {
            let others: u64 = node
                .unmanaged
                .values()
                .filter(|domain| domain.presence.is_some())
                .map(|domain| domain.memory_mib)
                .sum();
            *load.memory_mib.entry(node.id).or_default() += others;
            load.measured.entry(node.id).or_default().1 += others;
        }
        load
    }

    /// Counts one more VM on a node, so that the next placement of the same plan sees it.
    pub fn add(&mut self, node: NodeId, record: &VmRecord) {
        let (cpu_milli, memory_mib) = self.use_of(record);
        *self.memory_mib.entry(node).or_default() += record.spec.memory_mib;
        *self.vcpus.entry(node).or_default() += u64::from(record.spec.vcpus);
        *self.vms.entry(node).or_default() += 1;
        let measured = self.measured.entry(node).or_default();
        *measured = (measured.0 + cpu_milli, measured.1 + memory_mib);
        self.tenants.add(node, record);
        if self.rules.names(&record.spec.name) {
            self.places.entry(record.spec.name.clone()).or_default().insert(node);
        }
    }

    /// Counts one VM less on a node: what would be if it went.
    pub(super) fn remove(&mut self, node: NodeId, record: &VmRecord) {
        let (cpu_milli, memory_mib) = self.use_of(record);
        let less = |count: Option<&mut u64>, by: u64| {
            if let Some(count) = count {
                *count = count.saturating_sub(by);
            }
        };
        less(self.memory_mib.get_mut(&node), record.spec.memory_mib);
        less(self.vcpus.get_mut(&node), u64::from(record.spec.vcpus));
        less(self.vms.get_mut(&node), 1);
        if let Some((cpu, memory)) = self.measured.get_mut(&node) {
            (*cpu, *memory) = (cpu.saturating_sub(cpu_milli), memory.saturating_sub(memory_mib));
        }
        self.tenants.remove(node, record);
        if let Some(places) = self.places.get_mut(&record.spec.name) {
            places.remove(&node);
        }
    }

    /// All placement rules.
    pub fn rules(&self) -> &RuleIndex {
        &self.rules
    }

    /// Where a VM that a rule names is, or comes to by this plan.
    pub fn places(&self, vm: &VmName) -> impl Iterator<Item = NodeId> + '_ {
        self.places.get(vm).into_iter().flatten().copied()
    }

    /// Memory taken of a node, in MiB.
    pub fn used_memory_mib(&self, node: NodeId) -> u64 {
        self.memory_mib.get(&node).copied().unwrap_or(0)
    }

    /// Virtual processors on a node.
    pub fn used_vcpus(&self, node: NodeId) -> u64 {
        self.vcpus.get(&node).copied().unwrap_or(0)
    }

    /// Memory left of a node, in MiB; below zero where it is promised twice.
    pub fn free_memory_mib(&self, node: &NodeRecord) -> i64 {
        node.capacity.memory_mib as i64 - self.used_memory_mib(node.id) as i64
    }

    /// Processors left of a node; below zero where they are shared.
    pub fn free_vcpus(&self, node: &NodeRecord) -> i64 {
        i64::from(node.capacity.cpus) - self.used_vcpus(node.id) as i64
    }

    /// What a VM weighs: thousandths of processors and MiB, measured where the mode asks for it and somebody did.
    fn use_of(&self, record: &VmRecord) -> (u64, u64) {
        match self.uses.get(&record.spec.uuid) {
            Some(measured) => (measured.cpu_milli, measured.memory_mib),
            None => (u64::from(record.spec.vcpus) * 1_000, record.spec.memory_mib),
        }
    }

    /// How busy a node is, or would be with one more VM: per mille of the node, the busier of processors and memory; by
    /// number, a thousand for each VM. Comparable between nodes, and steady: no chance in it.
    pub fn busy(&self, node: &NodeRecord, with: Option<&VmRecord>) -> u64 {
        let more = with.map_or((0, 0, 0), |record| {
            let (cpu_milli, memory_mib) = self.use_of(record);
            (1, cpu_milli as i64, memory_mib as i64)
        });
        self.with_use(node, more)
    }

    /// The same without one of its VMs.
    pub fn busy_without(&self, node: &NodeRecord, record: &VmRecord) -> u64 {
        let (cpu_milli, memory_mib) = self.use_of(record);
        self.with_use(node, (-1, -(cpu_milli as i64), -(memory_mib as i64)))
    }

    fn with_use(&self, node: &NodeRecord, (vms, cpu_milli, memory_mib): (i64, i64, i64)) -> u64 {
        let sum = |known: u64, more: i64| (known as i64 + more).max(0) as u64;
        if self.mode == PlacementMode::Count {
            return sum(self.vms.get(&node.id).copied().unwrap_or(0), vms) * 1_000;
        }
        let (cpu, memory) = match self.mode {
            PlacementMode::Dynamic => self.measured.get(&node.id).copied().unwrap_or_default(),
            PlacementMode::Static | PlacementMode::Count => {
                (self.used_vcpus(node.id) * 1_000, self.used_memory_mib(node.id))
            }
        };
        let share = |used: u64, of: u64| used.saturating_mul(1_000) / of.max(1);
        let cpu = share(sum(cpu, cpu_milli), u64::from(node.capacity.cpus) * 1_000);
        let memory = share(sum(memory, memory_mib), node.capacity.memory_mib);
        cpu.max(memory)
    }
}

/// Where a VM takes room: where it is or may be, and where it is on its way to.
fn places(record: &VmRecord) -> BTreeSet<NodeId> {
    record
        .may_run
        .keys()
        .filter(|node| record.owner == Some(**node) || record.seen.contains_key(node))
        .copied()
        .chain(record.migration_target())
        .collect()
}
