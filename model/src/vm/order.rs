//! The order outstanding for a VM.

use serde::{Deserialize, Serialize};

use super::{MigrationMode, OnIsolation};
use crate::id::{Generation, NodeId, OrderId};
use crate::time::Timestamp;

/// The one order outstanding for a VM: committed, and sent to the node until it is reported done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRecord {
    /// Its number.
    pub id: OrderId,
    /// Who is to carry it out.
    pub node: NodeId,
    /// The ownership it serves.
    pub generation: Generation,
    /// When it was committed.
    pub at: Timestamp,
    /// What its node shall do with the VM when it is cut off.
    pub on_isolation: OnIsolation,
    /// What is to be done.
    pub intent: OrderIntent,
    /// A stop saves the guest's memory in this file; a start restores it from there, if it is there.
    pub memory_file: Option<String>,
    /// A stop only ever asks the guest.
    pub ask_only: bool,
}

/// What an order asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OrderIntent {
    /// Create the domain.
    Start,
    /// Shut it down, and destroy it after so long; `None` destroys at once.
    Stop {
        /// Milliseconds for the guest.
        graceful_ms: Option<u64>,
    },
    /// Migrate it to another node.
    Migrate {
        /// The target.
        to: NodeId,
        /// Live or paused.
        mode: MigrationMode,
        /// The operator called it off.
        cancelled: bool,
    },
    /// Take over a domain that runs there already: mark it and note the generation.
    Adopt,
    /// Let a copy that self-fence stopped run on.
    Resume,
    /// Destroy a copy that is not the owner's; the VM's own life is not touched.
    Evict,
}

impl OrderIntent {
    /// For sentences: "… of VM v is under way".
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Start => "a start",
            Self::Stop { .. } => "a stop",
            Self::Migrate { .. } => "a migration",
            Self::Adopt => "an adoption",
            Self::Resume => "a resumption",
            Self::Evict => "an eviction",
        }
    }
}
