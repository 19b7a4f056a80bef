//! How far a migration is, in the log.

use uuid::Uuid;

use crate::cluster::{ClusterState, Context};
use crate::id::{NodeId, OrderId, VmName};
use crate::rejection::Rejection;
use crate::vm::{MigrationPhase, VmRecord};

impl VmRecord {
    /// Its guest began to run at the target of a migration that is not over: the source is never resumed.
    pub fn in_post_copy(&self) -> bool {
        self.migration.is_some_and(|it| it.phase == MigrationPhase::PostCopy)
    }

    /// It is known where it runs after a migration.
    pub(super) fn settle_migration(&mut self, cx: &Context, node: NodeId) {
        if let Some(migration) = self.migration.as_mut().filter(|it| it.phase.is_open()) {
            migration.phase = match migration.to == node {
                true => MigrationPhase::Committed,
                false => MigrationPhase::RolledBack,
            };
            migration.since = cx.at;
        }
    }
}

impl ClusterState {
    /// The source says how far it is. Phases only go on: a late word changes nothing.
    pub(super) fn migration_phase(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        uuid: Uuid,
        order: OrderId,
        phase: MigrationPhase,
    ) -> Result<(), Rejection> {
        let Some(vm) = self.vm_by_uuid.get(&uuid).cloned() else { return Ok(()) };
        let told = matches!(phase, MigrationPhase::Copying | MigrationPhase::PostCopy);
        let onward = self.vm(&vm)?.migration.is_some_and(|it| {
            let before = match it.phase {
                MigrationPhase::Prepared => 0,
                MigrationPhase::Copying => 1,
                _ => 2,
            };
            let after = if phase == MigrationPhase::PostCopy { 2 } else { 1 };
            it.from == node && before < after
        });
        if told && onward { self.set_phase(cx, &vm, order, phase) } else { Ok(()) }
    }

    pub(super) fn set_phase(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        order: OrderId,
        phase: MigrationPhase,
    ) -> Result<(), Rejection> {
        let record = self.vm_mut(cx, vm)?;
        if let Some(migration) =
            record.migration.as_mut().filter(|it| it.order == order && it.phase.is_open())
        {
            migration.phase = phase;
            migration.since = cx.at;
        }
        Ok(())
    }
}
