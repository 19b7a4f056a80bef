//! A migration of a VM: how, and how far it is as a transaction between two nodes.

use serde::{Deserialize, Serialize};

use crate::id::{NodeId, OrderId};
use crate::time::Timestamp;

/// How a running VM is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum MigrationMode {
    /// The guest runs on while its memory is copied (`VIR_MIGRATE_LIVE`).
    #[default]
    Live,
    /// The guest is paused for the copy.
    Pause,
}

/// How far a migration is, as a transaction between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MigrationPhase {
    /// It is ordered; both nodes are in the may-run set.
    Prepared,
    /// The source copies the guest's memory.
    Copying,
    /// The guest runs on at the target while the rest is fetched: it is never resumed at the source any more.
    PostCopy,
    /// The source says that it has left; the target's word is awaited.
    Handover,
    /// It runs at the target.
    Committed,
    /// It runs where it was, or ended.
    RolledBack,
}

impl MigrationPhase {
    /// The word operators read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prepared => "prepared",
            Self::Copying => "copying",
            Self::PostCopy => "post-copy",
            Self::Handover => "handover",
            Self::Committed => "committed",
            Self::RolledBack => "rolled back",
        }
    }

    /// It is not over.
    pub fn is_open(self) -> bool {
        !matches!(self, Self::Committed | Self::RolledBack)
    }
}

/// A migration, as the log knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationRecord {
    /// The order.
    pub order: OrderId,
    /// The source.
    pub from: NodeId,
    /// The target.
    pub to: NodeId,
    /// Live or paused.
    pub mode: MigrationMode,
    /// How far it is.
    pub phase: MigrationPhase,
    /// When it was ordered.
    pub begun: Timestamp,
    /// When it came to this phase.
    pub since: Timestamp,
}
