//! How each command changes the state: one file per family.

mod changes;
mod cold;
pub(crate) mod decision;
mod depend;
mod disks;
mod fleet;
mod health;
mod hold;
mod life;
mod migration;
mod node;
mod operator;
mod report;
mod restore;
mod saved;
mod service;
mod vm;

use std::sync::Arc;

use crate::cluster::{Accepted, ClusterState, Context, Detail, Outcome};
use crate::command::Operation;
use crate::event::EventKind;
use crate::id::NodeId;
use crate::id::{Epoch, NodeName, VmName};
use crate::node::NodeRecord;
use crate::rejection::Rejection;
use crate::vm::{Failure, OperationPhase, VmRecord, VmState};

/// More power supplies and ways to them than any host has.
const FENCE_DEVICES: usize = 16;

impl ClusterState {
    pub(crate) fn operate(&mut self, cx: &mut Context, operation: &Operation) -> Outcome {
        if let Operation::Initialise { cluster, settings } = operation {
            if self.cluster.is_some() {
                return Err(Rejection::AlreadyInitialised);
            }
            settings.check().map_err(node::contradiction)?;
            self.cluster = Some(*cluster);
            self.epoch = Epoch(1);
            self.settings = settings.clone();
            self.emit(
                cx,
                EventKind::ClusterInitialised,
                None,
                None,
                format!("cluster {cluster} was initialised"),
            );
            return accepted(cx);
        }
        if let Operation::RestoreBegin { cluster, epoch, settings } = operation {
            self.restore_begin(cx, *cluster, *epoch, settings)?;
            return accepted(cx);
        }
        if self.cluster.is_none() {
            return Err(Rejection::NotInitialised);
        }
        if self.restoring {
            match operation {
                Operation::RestoreFailoverDomain(domain) => self.restore_failover_domain(domain),
                Operation::RestoreNode(node) => self.restore_node(cx, node),
                Operation::RestoreVm(record) => self.restore_vm(cx, record),
                Operation::RestoreLock(lock) => self.lock = Some(lock.clone()),
                Operation::RestorePause(pause) => self.pause = Some(pause.clone()),
                Operation::RestoreService(record) => self.restore_service(cx, record),
                Operation::RestorePlacementRule(rule) => self.restore_placement_rule(rule),
                Operation::RestoreEnd => self.restore_end(cx),
                _ => return Err(Rejection::Restoring),
            }
            return accepted(cx);
        }
        self.must_not_be_members(operation)?;
        match operation {
            Operation::Initialise { .. }
            | Operation::RestoreBegin { .. }
            | Operation::RestoreFailoverDomain(_)
            | Operation::RestoreNode(_)
            | Operation::RestoreVm(_)
            | Operation::RestoreLock(_)
            | Operation::RestorePause(_)
            | Operation::RestoreService(_)
            | Operation::RestorePlacementRule(_)
            | Operation::RestoreEnd => return Err(Rejection::AlreadyInitialised),
            Operation::AddVm(spec) => self.add_vm(cx, spec)?,
            Operation::EditVm(spec) => self.edit_vm(cx, spec)?,
            Operation::ForgetVm(vm) => self.forget_vm(cx, vm)?,
            Operation::Enable { vm, on } => self.enable(cx, vm, on.as_ref())?,
            Operation::Disable(vm) => self.disable(cx, vm)?,
            Operation::Stop { vm, now } => self.stop(cx, vm, *now)?,
            Operation::Restart(vm) => self.restart(cx, vm)?,
            Operation::Relocate { vm, to } => self.relocate(cx, vm, to.as_ref())?,
            Operation::Migrate { vm, to, mode } => self.migrate(cx, vm, to, *mode)?,
            Operation::Cancel(vm) => self.cancel(cx, vm)?,
            Operation::PutFailoverDomain(domain) => self.put_failover_domain(cx, domain)?,
            Operation::RemoveFailoverDomain(name) => self.remove_failover_domain(cx, name)?,
            Operation::SetFenceDevices { node, devices } => {
                self.set_fence_devices(cx, node, devices)?
            }
            Operation::AddFenceDevice { node, device } => {
                let mut devices = self.node(node)?.fence_devices.clone();
                if devices.len() >= FENCE_DEVICES {
                    return Err(Rejection::OutOfRange {
                        what: format!("the number of fence devices of {node}"),
                        value: (devices.len() + 1).to_string(),
                        range: format!("{FENCE_DEVICES} at the most"),
                    });
                }
                devices.push(device.clone());
                self.set_fence_devices(cx, node, &devices)?
            }
            Operation::RemoveNode(node) => self.remove_node(cx, node)?,
            Operation::Register(registration) => return self.register(cx, registration),
            Operation::Report { node, session, reports } => {
                self.report(cx, *node, *session, reports)?
            }
            Operation::Decide { vm, changed, decision } => {
                self.decide(cx, vm, *changed, decision)?
            }
            Operation::NodeLost { node, session, silent_ms } => {
                self.node_lost(cx, *node, *session, *silent_ms)?
            }
            Operation::FenceAsked { node, session } => self.fence_asked(cx, *node, *session)?,
            Operation::FenceFailed { node, session, error } => {
                self.fence_failed(cx, *node, *session, error)?
            }
            Operation::NodeDead { node, session, proof } => {
                self.node_dead(cx, *node, *session, proof)?
            }
            Operation::ChangeSettings(settings) => self.change_settings(cx, settings)?,
            Operation::ConfirmOff { node, why } => self.confirm_off(cx, node, why)?,
            Operation::FenceNode { node, why } => self.fence_node(cx, node, why)?,
            Operation::Resolve { vm, keep } => self.resolve(cx, vm, keep)?,
            Operation::ReleaseMassLoss { nodes } => self.release_mass_loss(cx, nodes)?,
            Operation::MassLoss { nodes } => self.mass_loss(cx, nodes)?,
            Operation::MassLossOver => self.mass_loss_over(cx)?,
            Operation::Away { node, session } => self.away(cx, *node, *session)?,
            Operation::SetNodePolicy { node, vouched, after_fence } => {
                self.set_node_policy(cx, node, *vouched, *after_fence)?
            }
            Operation::PoweredOn { node, session, error } => {
                self.powered_on(cx, *node, *session, error.as_deref())?
            }
            Operation::FenceProbed { node, dark } => self.fence_probed(cx, *node, dark)?,
            Operation::PutPlacementRule(rule) => self.put_placement_rule(cx, rule)?,
            Operation::RemovePlacementRule(name) => self.remove_placement_rule(cx, name)?,
            Operation::SetMaintenance { node, on, until_boot } => {
                self.set_maintenance(cx, node, *on, *until_boot)?
            }
            Operation::ShutdownAnnounced { node, session, then } => {
                self.shutdown_announced(cx, *node, *session, *then)?
            }
            Operation::NodeOff { node, session } => self.node_off(cx, *node, *session)?,
            Operation::PauseCluster { mode, why } => self.pause_cluster(cx, *mode, why)?,
            Operation::UnpauseCluster => self.unpause_cluster(cx)?,
            Operation::Ignore(vm) => self.ignore_vm(cx, vm)?,
            Operation::Claim { vm, reason } => self.claim(cx, vm, reason)?,
            Operation::Unclaim(vm) => self.unclaim(cx, vm)?,
            Operation::Uneven(uneven) => self.uneven(cx, *uneven)?,
            Operation::IfUnchanged { changed, operation } => {
                self.must_be_unchanged(operation, *changed)?;
                return self.operate(cx, operation);
            }
            Operation::StageChanges { batch, part, changes } => {
                self.stage_changes(*batch, *part, changes)?
            }
            Operation::ApplyChanges { batch, parts, based_on, changes } => {
                self.apply_changes(cx, *batch, *parts, *based_on, changes)?
            }
            Operation::Freeze { vm, why, for_ms } => self.freeze(cx, vm, why, *for_ms)?,
            Operation::Unfreeze(vm) => self.unfreeze(cx, vm)?,
            Operation::Lock { why } => self.lock_starts(cx, why)?,
            Operation::Unlock => self.unlock_starts(cx)?,
            Operation::Convalesce(vm) => self.convalesce(cx, vm)?,
            Operation::AddService(spec) => self.add_service(cx, spec)?,
            Operation::EditService(spec) => self.edit_service(cx, spec)?,
            Operation::ForgetService(service) => self.forget_service(cx, service)?,
            Operation::AskService { service, ask } => self.ask_service(cx, service, ask)?,
            Operation::DecideService { service, changed, decision } => {
                self.decide_service(cx, service, *changed, decision)?
            }
        }
        accepted(cx)
    }

    /// The VM's record, to be changed; it counts as changed by this command.
    fn vm_mut(&mut self, cx: &Context, name: &VmName) -> Result<&mut VmRecord, Rejection> {
        let record =
            self.vms.get_mut(name).ok_or_else(|| Rejection::UnknownVm { vm: name.to_string() })?;
        let record = Arc::make_mut(record);
        record.changed = cx.index;
        Ok(record)
    }

    fn vm(&self, name: &VmName) -> Result<Arc<VmRecord>, Rejection> {
        self.vms.get(name).cloned().ok_or_else(|| Rejection::UnknownVm { vm: name.to_string() })
    }

    /// What was asked on an older record is refused: whoever asked has not seen what it is now.
    fn must_be_unchanged(&self, operation: &Operation, changed: u64) -> Result<(), Rejection> {
        if let Some(service) = operation.service() {
            return match self.service(service)?.changed == changed {
                true => Ok(()),
                false => Err(Rejection::Superseded { what: format!("service {service}") }),
            };
        }
        let vm = operation.vm().ok_or_else(|| Rejection::OutOfRange {
            what: "the expected revision".into(),
            value: changed.to_string(),
            range: "left out where no VM is meant".into(),
        })?;
        if self.vm(vm)?.changed != changed {
            return Err(Rejection::Superseded { what: format!("VM {vm}") });
        }
        Ok(())
    }

    /// A VM whose service is active is started, stopped, moved and forgotten by nobody else; only one that somebody
    /// moved away from its service may be brought home.
    fn must_not_be_members(&self, operation: &Operation) -> Result<(), Rejection> {
        match operation {
            Operation::Migrate { vm, to, .. }
                if self.governing(vm).is_some_and(|service| {
                    let home = self.node_named(to).map(|node| node.id);
                    service.owner.is_some() && service.owner == home
                }) =>
            {
                Ok(())
            }
            Operation::Enable { vm, .. }
            | Operation::Disable(vm)
            | Operation::Stop { vm, .. }
            | Operation::Restart(vm)
            | Operation::Relocate { vm, .. }
            | Operation::Migrate { vm, .. }
            | Operation::Ignore(vm) => self.must_stand_alone(vm),
            Operation::ForgetVm(vm) => match self.service_of.get(vm) {
                None => Ok(()),
                Some(service) => Err(Rejection::MemberOfService {
                    vm: vm.to_string(),
                    service: service.to_string(),
                }),
            },
            _ => Ok(()),
        }
    }

    fn node(&self, name: &NodeName) -> Result<Arc<NodeRecord>, Rejection> {
        self.node_named(name)
            .cloned()
            .ok_or_else(|| Rejection::UnknownNode { node: name.to_string() })
    }

    /// Ends the open operation of a VM, if it has one.
    fn end_operation(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        end: OperationPhase,
    ) -> Result<(), Rejection> {
        let record = self.vm_mut(cx, vm)?;
        let Some(operation) =
            record.operation.as_mut().filter(|operation| operation.phase.is_open())
        else {
            return Ok(());
        };
        operation.phase = end.clone();
        let verb = operation.verb.as_str();
        if operation.cause.is_some() {
            Self::note_move(record, cx, end == OperationPhase::Done);
        }
        match end {
            OperationPhase::Done => {
                self.emit(
                    cx,
                    EventKind::OperationDone,
                    Some(vm),
                    None,
                    format!("{verb} of {vm} is done"),
                );
            }
            OperationPhase::Failed(why) => {
                self.emit(
                    cx,
                    EventKind::OperationFailed,
                    Some(vm),
                    None,
                    format!("{verb} of {vm} failed: {why}"),
                );
            }
            OperationPhase::Pending | OperationPhase::Halfway => {}
        }
        Ok(())
    }
}

impl VmRecord {
    fn set_state(&mut self, cx: &Context, state: VmState) {
        if self.state != state {
            self.state = state;
            self.state_since = cx.at;
        }
    }

    /// Notes a failure; what was tried before without success in between is kept.
    fn fail(&mut self, cx: &Context, why: String, node: NodeId, node_died: bool) {
        let (tried, rounds, failed_starts) = match self.failure.take() {
            Some(earlier) if earlier.node == node => {
                (earlier.tried, earlier.rounds, earlier.failed_starts)
            }
            Some(earlier) => (earlier.tried, earlier.rounds, 0),
            None => Default::default(),
        };
        self.failure = Some(Failure {
            why,
            at: cx.at,
            node,
            node_died,
            tried,
            rounds,
            failed_starts,
            not_before: cx.at,
        });
    }

    fn wrong_state(&self, why: &str) -> Rejection {
        Rejection::WrongState {
            vm: self.spec.name.to_string(),
            state: self.state.as_str().to_owned(),
            why: why.to_owned(),
        }
    }
}

fn accepted(cx: &Context) -> Outcome {
    Ok(Accepted { revision: cx.index, detail: Detail::None })
}
