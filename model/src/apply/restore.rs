//! A control plane comes back from a backup: a new epoch, in which nothing is known of where VMs run.
//!
//! The backup's nodes and VMs come as commands of their own, so that no log entry grows with the size of the fleet.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::{ClusterState, Context, restored_epoch};
use crate::event::EventKind;
use crate::failover_domain::FailoverDomain;
use crate::id::{ClusterId, Epoch, SessionId};
use crate::node::{NodeRecord, NodeState};
use crate::placement_rule::PlacementRule;
use crate::rejection::Rejection;
use crate::sabotage::{Rule, off};
use crate::service::{MemberRecord, ServiceRecord, ServiceState};
use crate::settings::Settings;
use crate::vm::{Desired, MayRun, OnIsolation, Stay, VmRecord, VmState};

/// Nothing is started for so many leases and self-fences after a restore, and for as long as those of the default settings take
/// at the least: the settings may have been changed since the backup.
const QUIET_LEASES: u64 = 10;

impl ClusterState {
    pub(super) fn restore_begin(
        &mut self,
        cx: &mut Context,
        cluster: ClusterId,
        epoch: Epoch,
        settings: &Settings,
    ) -> Result<(), Rejection> {
        if self.cluster.is_some() {
            return Err(Rejection::AlreadyInitialised);
        }
        self.cluster = Some(cluster);
        self.epoch = if off(Rule::EpochRises) { epoch } else { restored_epoch(epoch, cx.at) };
        self.settings = settings.clone();
        self.restoring = true;
        let text = format!("cluster {cluster} is restored from a backup, as epoch {}", self.epoch);
        self.emit(cx, EventKind::ClusterRestored, None, None, text);
        Ok(())
    }

    pub(super) fn restore_failover_domain(&mut self, domain: &FailoverDomain) {
        self.failover_domains.insert(domain.name.clone(), Arc::new(domain.clone()));
    }

    pub(super) fn restore_placement_rule(&mut self, rule: &PlacementRule) {
        self.placement_rules.insert(rule.name.clone(), Arc::new(rule.clone()));
    }

    /// A node is not in session and not proven dead; the old control plane may still be renewing its lease, so a proof
    /// by lease has to wait for a session of this epoch.
    pub(super) fn restore_node(&mut self, cx: &Context, node: &NodeRecord) {
        let mut node = node.clone();
        if !off(Rule::RestoredIsUnknown) || node.session().is_some() {
            node.state = NodeState::Lost;
        }
        node.state_since = cx.at;
        node.booted = None;
        node.last_session = SessionId(cx.index);
        node.away = true;
        node.fence_attempts = None;
        node.power_on_attempts = None;
        node.shutdown = None;
        node.fence_under_way = false;
        node.unmanaged.clear();
        node.changed = cx.index;
        self.nodes.insert(node.id, Arc::new(node));
    }

    pub(super) fn restore_vm(&mut self, cx: &Context, record: &VmRecord) {
        let mut record = record.clone();
        if !off(Rule::RestoredIsUnknown) {
            // Every node, those that were proven dead too: it may have been switched on since.
            record.may_run =
                self.nodes.keys().map(|id| (*id, MayRun { since: cx.index })).collect();
            record.last_owner = record.owner.take().or(record.last_owner);
        }
        // What its nodes were told since the backup nobody knows, so no lease proves anything of it until one is told anew.
        record.bound_isolation = OnIsolation::Continue;
        record.seen = BTreeMap::new();
        record.order = None;
        record.operation = None;
        record.failure = None;
        record.keep = None;
        record.ailment = None;
        record.migration = None;
        // The guest may have run since the backup was made, and its disks no longer fit to what was saved then.
        record.saved = None;
        let cold = !record.spec.policy.autostart && record.desired == Desired::Enabled;
        record.cold = cold.then_some(cx.at);
        record.stay = Stay::default();
        record.state = match record.desired {
            Desired::Enabled | Desired::Stopped | Desired::Ignored => VmState::Stopped,
            Desired::Disabled => VmState::Disabled,
        };
        record.state_since = cx.at;
        record.changed = cx.index;
        self.vm_by_uuid.insert(record.spec.uuid, record.spec.name.clone());
        self.vms.insert(record.spec.name.clone(), Arc::new(record));
    }

    /// Nobody knows where its scripts run: every node is asked.
    pub(super) fn restore_service(&mut self, cx: &Context, record: &ServiceRecord) {
        let mut record = record.clone();
        if record.spec.scripts().next().is_some() {
            record.may_run =
                self.nodes.keys().map(|id| (*id, MayRun { since: cx.index })).collect();
        }
        record.last_owner = record.owner.take().or(record.last_owner);
        let cold = !record.spec.policy.autostart && record.desired == Desired::Enabled;
        record.cold = cold.then_some(cx.at);
        record.seen = BTreeMap::new();
        record.order = None;
        record.operation = None;
        record.failure = None;
        for member in record.members.values_mut() {
            *member = MemberRecord::default();
        }
        record.state = match record.desired {
            Desired::Enabled | Desired::Stopped | Desired::Ignored => ServiceState::Stopped,
            Desired::Disabled => ServiceState::Disabled,
        };
        record.state_since = cx.at;
        record.changed = cx.index;
        for vm in record.spec.vms() {
            self.service_of.insert(vm.clone(), record.spec.name.clone());
        }
        self.service_by_id.insert(record.spec.id, record.spec.name.clone());
        self.services.insert(record.spec.name.clone(), Arc::new(record));
    }

    pub(super) fn restore_end(&mut self, cx: &mut Context) {
        self.restoring = false;
        let lease_ms = |settings: &Settings| settings.lease_ttl_ms + settings.self_fence_ms;
        let longest_ms = lease_ms(&self.settings).max(lease_ms(&Settings::default()));
        self.quiet_until = cx.at.plus(QUIET_LEASES * longest_ms);
        let (nodes, vms) = (self.nodes.len(), self.vms.len());
        let text =
            format!("{vms} VMs and {nodes} nodes are back; each node has to say what it runs");
        self.emit(cx, EventKind::ClusterRestored, None, None, text);
    }
}
