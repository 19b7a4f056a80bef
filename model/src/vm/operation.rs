//! What an operator last asked of a VM, and what it came to.

use serde::{Deserialize, Serialize};

use super::MigrationMode;
use crate::command::MoveCause;
use crate::id::{NodeId, RequestId};
use crate::time::Timestamp;

/// What the operator last asked of a VM, until it came to something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRecord {
    /// The request that asked.
    pub request: RequestId,
    /// What was asked.
    pub verb: Verb,
    /// When.
    pub at: Timestamp,
    /// What it came to.
    pub phase: OperationPhase,
    /// Why the cluster asked it by itself; `None` where an operator did.
    pub cause: Option<MoveCause>,
}

/// What an operator may ask of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// Run, preferably on this node.
    Enable {
        /// The operator's choice.
        on: Option<NodeId>,
    },
    /// Be down and stay so.
    Disable,
    /// Be down for now.
    Stop {
        /// Destroy at once.
        now: bool,
    },
    /// Stop and start on the same node.
    Restart,
    /// Stop and start on another node.
    Relocate {
        /// The operator's choice.
        to: Option<NodeId>,
    },
    /// Move while running.
    Migrate {
        /// The target.
        to: NodeId,
        /// Live or paused.
        mode: MigrationMode,
    },
}

impl Verb {
    /// Where it is to be brought, where the verb says so.
    pub fn target(&self) -> Option<NodeId> {
        match self {
            Self::Migrate { to, .. } => Some(*to),
            Self::Relocate { to } => *to,
            Self::Enable { .. } | Self::Disable | Self::Stop { .. } | Self::Restart => None,
        }
    }

    /// The word operators write.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Enable { .. } => "enable",
            Self::Disable => "disable",
            Self::Stop { .. } => "stop",
            Self::Restart => "restart",
            Self::Relocate { .. } => "relocate",
            Self::Migrate { .. } => "migrate",
        }
    }
}

/// How far an operation has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperationPhase {
    /// Not yet there.
    Pending,
    /// Restart and relocate: the stop is done, the start is to come.
    Halfway,
    /// It holds now.
    Done,
    /// It did not work out, and why.
    Failed(String),
}

impl OperationPhase {
    /// Still to be worked on.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Pending | Self::Halfway)
    }
}
