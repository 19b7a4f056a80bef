//! What operators define, told from what is done about it: the configuration of the cluster.

use crate::command::Operation;

impl Operation {
    /// Whether it changes what operators defined, and not only what is done about it.
    pub fn configures(&self) -> bool {
        match self {
            Self::IfUnchanged { operation, .. } => operation.configures(),
            operation => matches!(
                operation,
                Self::AddVm(_)
                    | Self::EditVm(_)
                    | Self::ForgetVm(_)
                    | Self::PutFailoverDomain(_)
                    | Self::RemoveFailoverDomain(_)
                    | Self::SetFenceDevices { .. }
                    | Self::AddFenceDevice { .. }
                    | Self::SetNodePolicy { .. }
                    | Self::RemoveNode(_)
                    | Self::ChangeSettings(_)
                    | Self::AddService(_)
                    | Self::EditService(_)
                    | Self::ForgetService(_)
                    | Self::PutPlacementRule(_)
                    | Self::RemovePlacementRule(_)
                    | Self::ApplyChanges { .. }
                    | Self::RestoreEnd
            ),
        }
    }

    /// Whether it may be one of several changes that are made together: definitions, and the wish to run a VM.
    pub fn may_be_applied_with_others(&self) -> bool {
        match self {
            Self::Enable { .. } => true,
            Self::ApplyChanges { .. } | Self::RemoveNode(_) | Self::RestoreEnd => false,
            Self::IfUnchanged { .. } => false,
            operation => operation.configures(),
        }
    }
}
