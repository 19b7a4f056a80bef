//! Whom an operation is about.

use super::Operation;
use crate::id::{ServiceName, VmName};

impl Operation {
    /// The VM an operator's operation is about.
    pub fn vm(&self) -> Option<&VmName> {
        match self {
            Self::AddVm(spec) | Self::EditVm(spec) => Some(&spec.name),
            Self::ForgetVm(vm)
            | Self::Enable { vm, .. }
            | Self::Disable(vm)
            | Self::Stop { vm, .. }
            | Self::Restart(vm)
            | Self::Relocate { vm, .. }
            | Self::Migrate { vm, .. }
            | Self::Cancel(vm)
            | Self::Resolve { vm, .. }
            | Self::Freeze { vm, .. }
            | Self::Unfreeze(vm)
            | Self::Convalesce(vm)
            | Self::Ignore(vm)
            | Self::Claim { vm, .. }
            | Self::Unclaim(vm)
            | Self::Decide { vm, .. } => Some(vm),
            Self::RestoreVm(record) => Some(&record.spec.name),
            Self::IfUnchanged { operation, .. } => operation.vm(),
            Self::AddService(_)
            | Self::EditService(_)
            | Self::ForgetService(_)
            | Self::AskService { .. }
            | Self::DecideService { .. }
            | Self::RestoreService(_)
            | Self::Initialise { .. }
            | Self::PutFailoverDomain(_)
            | Self::RemoveFailoverDomain(_)
            | Self::SetFenceDevices { .. }
            | Self::AddFenceDevice { .. }
            | Self::RemoveNode(_)
            | Self::Register(_)
            | Self::Report { .. }
            | Self::NodeLost { .. }
            | Self::FenceAsked { .. }
            | Self::FenceFailed { .. }
            | Self::NodeDead { .. }
            | Self::ChangeSettings(_)
            | Self::ConfirmOff { .. }
            | Self::FenceNode { .. }
            | Self::ReleaseMassLoss { .. }
            | Self::MassLoss { .. }
            | Self::MassLossOver
            | Self::Away { .. }
            | Self::SetNodePolicy { .. }
            | Self::PoweredOn { .. }
            | Self::FenceProbed { .. }
            | Self::RestoreBegin { .. }
            | Self::RestoreFailoverDomain(_)
            | Self::RestoreNode(_)
            | Self::RestoreEnd
            | Self::Lock { .. }
            | Self::Unlock
            | Self::RestoreLock(_)
            | Self::RestorePause(_)
            | Self::StageChanges { .. }
            | Self::ApplyChanges { .. }
            | Self::PutPlacementRule(_)
            | Self::RemovePlacementRule(_)
            | Self::RestorePlacementRule(_)
            | Self::SetMaintenance { .. }
            | Self::ShutdownAnnounced { .. }
            | Self::NodeOff { .. }
            | Self::PauseCluster { .. }
            | Self::UnpauseCluster
            | Self::Uneven(_) => None,
        }
    }

    /// The VM that it puts under management or changes.
    pub fn defined_vm(&self) -> Option<&VmName> {
        match self {
            Self::AddVm(spec) | Self::EditVm(spec) => Some(&spec.name),
            Self::IfUnchanged { operation, .. } => operation.defined_vm(),
            _ => None,
        }
    }

    /// The service an operator's operation is about.
    pub fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::AddService(spec) | Self::EditService(spec) => Some(&spec.name),
            Self::ForgetService(service)
            | Self::AskService { service, .. }
            | Self::DecideService { service, .. } => Some(service),
            Self::RestoreService(record) => Some(&record.spec.name),
            Self::IfUnchanged { operation, .. } => operation.service(),
            _ => None,
        }
    }

    /// The operation's word and whom it is about, the same in every build: what a repeated request must share with
    /// the first.
    pub fn subject(&self) -> String {
        match self {
            Self::Initialise { .. } => "initialise".into(),
            Self::AddVm(spec) => format!("add-vm {}", spec.name),
            Self::EditVm(spec) => format!("edit-vm {}", spec.name),
            Self::ForgetVm(vm) => format!("forget-vm {vm}"),
            Self::Enable { vm, .. } => format!("enable {vm}"),
            Self::Disable(vm) => format!("disable {vm}"),
            Self::Stop { vm, .. } => format!("stop {vm}"),
            Self::Restart(vm) => format!("restart {vm}"),
            Self::Relocate { vm, .. } => format!("relocate {vm}"),
            Self::Migrate { vm, to, .. } => format!("migrate {vm} {to}"),
            Self::Cancel(vm) => format!("cancel {vm}"),
            Self::PutFailoverDomain(domain) => format!("put-failover-domain {}", domain.name),
            Self::RemoveFailoverDomain(name) => format!("remove-failover-domain {name}"),
            Self::SetFenceDevices { node, .. } => format!("set-fence-devices {node}"),
            Self::AddFenceDevice { node, .. } => format!("add-fence-device {node}"),
            Self::RemoveNode(node) => format!("remove-node {node}"),
            Self::Register(registration) => format!("register {}", registration.name),
            Self::Report { node, .. } => format!("report {node}"),
            Self::Decide { vm, .. } => format!("decide {vm}"),
            Self::NodeLost { node, .. } => format!("node-lost {node}"),
            Self::FenceAsked { node, .. } => format!("fence-asked {node}"),
            Self::FenceFailed { node, .. } => format!("fence-failed {node}"),
            Self::NodeDead { node, .. } => format!("node-dead {node}"),
            Self::ChangeSettings(_) => "change-settings".into(),
            Self::ConfirmOff { node, .. } => format!("confirm-off {node}"),
            Self::FenceNode { node, .. } => format!("fence-node {node}"),
            Self::Resolve { vm, keep } => format!("resolve {vm} {keep}"),
            Self::ReleaseMassLoss { .. } => "release-mass-loss".into(),
            Self::MassLoss { .. } => "mass-loss".into(),
            Self::MassLossOver => "mass-loss-over".into(),
            Self::Away { node, .. } => format!("away {node}"),
            Self::SetNodePolicy { node, .. } => format!("set-node-policy {node}"),
            Self::PoweredOn { node, .. } => format!("powered-on {node}"),
            Self::FenceProbed { node, .. } => format!("fence-probed {node}"),
            Self::RestoreBegin { .. } => "restore-begin".into(),
            Self::RestoreFailoverDomain(domain) => {
                format!("restore-failover-domain {}", domain.name)
            }
            Self::RestoreNode(node) => format!("restore-node {}", node.name),
            Self::RestoreVm(record) => format!("restore-vm {}", record.spec.name),
            Self::RestoreEnd => "restore-end".into(),
            Self::IfUnchanged { changed, operation } => {
                format!("{} if unchanged since {changed}", operation.subject())
            }
            Self::Freeze { vm, .. } => format!("freeze {vm}"),
            Self::Unfreeze(vm) => format!("unfreeze {vm}"),
            Self::Lock { .. } => "lock".into(),
            Self::Unlock => "unlock".into(),
            Self::Convalesce(vm) => format!("convalesce {vm}"),
            Self::RestoreLock(_) => "restore-lock".into(),
            Self::RestorePause(_) => "restore-pause".into(),
            Self::AddService(spec) => format!("add-service {}", spec.name),
            Self::EditService(spec) => format!("edit-service {}", spec.name),
            Self::ForgetService(service) => format!("forget-service {service}"),
            Self::AskService { service, ask } => format!("{}-service {service}", ask.as_str()),
            Self::DecideService { service, .. } => format!("decide-service {service}"),
            Self::RestoreService(record) => format!("restore-service {}", record.spec.name),
            Self::StageChanges { batch, part, .. } => format!("stage-changes {batch} {part}"),
            Self::ApplyChanges { batch, based_on, .. } => {
                format!("apply-changes {batch} {based_on}")
            }
            Self::PutPlacementRule(rule) => format!("put-placement-rule {}", rule.name),
            Self::RemovePlacementRule(name) => format!("remove-placement-rule {name}"),
            Self::RestorePlacementRule(rule) => format!("restore-placement-rule {}", rule.name),
            Self::SetMaintenance { node, on, .. } => format!("set-maintenance {node} {on}"),
            Self::ShutdownAnnounced { node, .. } => format!("shutdown-announced {node}"),
            Self::NodeOff { node, .. } => format!("node-off {node}"),
            Self::PauseCluster { mode, .. } => format!("pause-cluster {}", mode.as_str()),
            Self::UnpauseCluster => "unpause-cluster".into(),
            Self::Ignore(vm) => format!("ignore {vm}"),
            Self::Claim { vm, .. } => format!("claim {vm}"),
            Self::Unclaim(vm) => format!("unclaim {vm}"),
            Self::Uneven(uneven) => format!("uneven {uneven}"),
        }
    }
}
