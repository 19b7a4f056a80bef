//! A guest's memory, saved at its stop and restored at its next start (RGManager's `snapshot`); never twice, and never one
//! that is not the last.

use crate::cluster::{ClusterState, Context};
use crate::event::EventKind;
use crate::id::{NodeId, OrderId, VmName};
use crate::rejection::Rejection;
use crate::vm::{OrderIntent, OrderRecord, Saved, Verb, VmRecord};

impl VmRecord {
    /// Where this stop saves the guest's memory, if it does. A restart is asked for to have the guest boot anew, and a file
    /// that no other node sees is of no use to a relocation.
    pub(super) fn file_for(&self, intent: &OrderIntent, order: OrderId) -> Option<String> {
        let save = self.spec.policy.handling.save.as_ref()?;
        let OrderIntent::Stop { graceful_ms: Some(_) } = intent else { return None };
        let boots_anew = match self.open_operation().map(|operation| &operation.verb) {
            Some(Verb::Restart) => true,
            Some(Verb::Relocate { .. }) => !save.shared,
            _ => false,
        };
        // What ails would ail again.
        if boots_anew || self.ailment.is_some() {
            return None;
        }
        let directory = save.directory.trim_end_matches('/');
        Some(format!("{directory}/{}.{order}.save", self.spec.uuid))
    }
}

impl ClusterState {
    /// A stop that saves has ended: the file is there, or the guest could not be saved and was shut down. The next start
    /// looks, once.
    pub(super) fn note_saved(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        order: &OrderRecord,
    ) -> Result<(), Rejection> {
        let Some(file) = order.memory_file.clone() else { return Ok(()) };
        let record = self.vm_mut(cx, vm)?;
        let shared = record.spec.policy.handling.save.as_ref().is_some_and(|save| save.shared);
        record.saved = Some(Saved { file, node: order.node, shared, at: cx.at });
        Ok(())
    }

    /// A start takes what was saved with it, where its node sees that; after it nobody restores it any more.
    pub(super) fn take_saved(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        node: NodeId,
    ) -> Result<(), Rejection> {
        let record = self.vm_mut(cx, vm)?;
        let Some(saved) = record.saved.take() else { return Ok(()) };
        let reached = saved.shared || saved.node == node;
        if let Some(order) = record.order.as_mut().filter(|_| reached) {
            order.memory_file = Some(saved.file);
            return Ok(());
        }
        let (at, place) = (self.node_name(saved.node), self.node_name(node));
        let text = format!(
            "{vm} boots anew on {place}: its memory is saved on {at} only, in {}, and is not used any more",
            saved.file
        );
        self.emit(cx, EventKind::VmMemoryLost, Some(vm), Some(node), text);
        Ok(())
    }

    /// Hands were off, and a node is out of session: the guest may have run there unseen, and its disks no longer fit.
    pub(super) fn doubt_saved(&mut self, cx: &mut Context, vm: &VmName) -> Result<(), Rejection> {
        let Some(unseen) = self
            .nodes_alive()
            .find(|id| self.nodes.get(id).is_some_and(|node| node.session().is_none()))
        else {
            return Ok(());
        };
        let place = self.node_name(unseen);
        if let Some(saved) = self.vm_mut(cx, vm)?.saved.take() {
            let text = format!(
                "{vm} may have run on {place}, which was not heard while hands were off: its memory, saved in {}, is not used any more",
                saved.file
            );
            self.emit(cx, EventKind::VmMemoryLost, Some(vm), Some(unseen), text);
        }
        Ok(())
    }
}
