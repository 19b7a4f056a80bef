//! Autostart: what becomes of VMs and services that are not to be started by themselves when the whole cluster was down.
//!
//! RGManager forgot its whole state then, and judged each by `autostart` anew. Here the state is durable, so that
//! moment is noted in it.

use std::sync::Arc;

use crate::cluster::{ClusterState, Context};
use crate::id::{NodeId, ServiceName};
use crate::node::NodeRecord;
use crate::rejection::Rejection;
use crate::service::ServiceState;
use crate::time::Timestamp;
use crate::vm::{Desired, VmState};

impl ClusterState {
    /// Called when nodes are lost, or seem to be (`silent`). When none is there any more, wanted VMs and services without autostart are
    /// not started by themselves afterwards, unless they turn out to run still.
    pub(super) fn note_all_down(
        &mut self,
        cx: &Context,
        silent: &[NodeId],
    ) -> Result<(), Rejection> {
        let there = |node: &Arc<NodeRecord>| node.session().is_some() && !silent.contains(&node.id);
        if self.nodes.values().any(there) {
            return Ok(());
        }
        let cold: Vec<_> = self
            .vms
            .values()
            .filter(|vm| !vm.spec.policy.autostart && vm.desired == Desired::Enabled)
            .filter(|vm| vm.cold.is_none())
            .map(|vm| vm.spec.name.clone())
            .collect();
        for name in cold {
            self.vm_mut(cx, &name)?.cold = Some(cx.at);
        }
        let cold: Vec<_> = self
            .services
            .values()
            .filter(|it| !it.spec.policy.autostart && it.desired == Desired::Enabled)
            .filter(|it| it.cold.is_none())
            .map(|it| it.spec.name.clone())
            .collect();
        for name in cold {
            self.service_mut(cx, &name)?.cold = Some(cx.at);
        }
        Ok(())
    }

    /// They were only silent: what runs in their sessions never stopped. And where one of them is there as it was before all of
    /// them were silent, the whole cluster was not down: that makes nothing cold, whatever it was doing then.
    pub(super) fn note_still_there(&mut self, cx: &Context) -> Result<(), Rejection> {
        let there = |id: NodeId| self.nodes.get(&id).is_some_and(|node| node.session().is_some());
        let never_down = |since: Timestamp| {
            let through = |node: &NodeRecord| node.booted.is_some_and(|booted| booted < since);
            self.nodes.values().any(|node| node.session().is_some() && through(node))
        };
        let warm = |cold: Option<Timestamp>, started: bool, owner: Option<NodeId>| {
            cold.is_some_and(|since| never_down(since) || (started && owner.is_some_and(there)))
        };
        let vms: Vec<_> = self
            .vms
            .values()
            .filter(|vm| warm(vm.cold, vm.state == VmState::Started, vm.owner))
            .map(|vm| vm.spec.name.clone())
            .collect();
        let services: Vec<_> = self
            .services
            .values()
            .filter(|it| warm(it.cold, it.state == ServiceState::Started, it.owner))
            .map(|it| it.spec.name.clone())
            .collect();
        for name in vms {
            self.vm_mut(cx, &name)?.cold = None;
        }
        for name in services {
            self.service_mut(cx, &name)?.cold = None;
        }
        Ok(())
    }

    /// It stays down after the whole cluster was. That is decided once a node is there again: only then it is known whether it
    /// has booted or was out of sight.
    pub(crate) fn is_cold(&self, since: Option<Timestamp>) -> bool {
        since.is_some() && self.nodes.values().any(|node| node.session().is_some())
    }

    /// Something of a service is seen where it is: it did not go down with its host.
    pub(super) fn note_service_runs(
        &mut self,
        cx: &Context,
        name: &ServiceName,
    ) -> Result<(), Rejection> {
        let record = self.service(name)?;
        if record.cold.is_some() && record.state == ServiceState::Started {
            self.service_mut(cx, name)?.cold = None;
        }
        Ok(())
    }
}
