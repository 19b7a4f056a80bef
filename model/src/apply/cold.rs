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
            .filter(|vm| !vm.spec.policy.autostart && vm.desired == Desired::Enabled && !vm.cold)
            .map(|vm| vm.spec.name.clone())
            .collect();
        for name in cold {
            self.vm_mut(cx, &name)?.cold = true;
        }
        let cold: Vec<_> = self
            .services
            .values()
            .filter(|it| !it.spec.policy.autostart && it.desired == Desired::Enabled && !it.cold)
            .map(|it| it.spec.name.clone())
            .collect();
        for name in cold {
            self.service_mut(cx, &name)?.cold = true;
        }
        Ok(())
    }

    /// They were only silent: what runs in their sessions never stopped.
    pub(super) fn note_still_there(&mut self, cx: &Context) -> Result<(), Rejection> {
        let there = |id: NodeId| self.nodes.get(&id).is_some_and(|node| node.session().is_some());
        let warm: Vec<_> = self
            .vms
            .values()
            .filter(|vm| vm.cold && vm.state == VmState::Started && vm.owner.is_some_and(there))
            .map(|vm| vm.spec.name.clone())
            .collect();
        let services: Vec<_> = self
            .services
            .values()
            .filter(|it| it.cold && it.owner.is_some_and(there))
            .map(|it| it.spec.name.clone())
            .collect();
        for name in warm {
            self.vm_mut(cx, &name)?.cold = false;
        }
        services.iter().try_for_each(|name| self.note_service_runs(cx, name))
    }

    /// Something of a service is seen where it is: it did not go down with its host.
    pub(super) fn note_service_runs(
        &mut self,
        cx: &Context,
        name: &ServiceName,
    ) -> Result<(), Rejection> {
        let record = self.service(name)?;
        if record.cold && record.state == ServiceState::Started {
            self.service_mut(cx, name)?.cold = false;
        }
        Ok(())
    }
}
