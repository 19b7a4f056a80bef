//! What the leader hears of the nodes: the passing view that never enters the log.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::id::{NodeId, SessionId};

/// What one guest uses, as its agent measured it lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Thousandths of a processor.
    pub cpu_milli: u64,
    /// Memory, in MiB.
    pub memory_mib: u64,
}

/// How one node's session sounds, in the leader's own elapsed time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The session that was heard.
    pub session: SessionId,
    /// At least one heartbeat of it was: a registration alone may have been long on its way.
    pub met: bool,
    /// Milliseconds since the last heartbeat of this session, or since this leader began to listen.
    pub silent_ms: u64,
    /// Milliseconds since the last answer to this session, or since this leader began: what a lease may still rest on.
    pub unanswered_ms: u64,
}

/// What the leader hears of all nodes. A node that is not in it has not been listened for yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Liveness {
    /// By node.
    pub heard: BTreeMap<NodeId, Heard>,
    /// What guests use, by the VM's UUID; nothing of those that no agent has measured lately.
    pub measured: BTreeMap<Uuid, Measured>,
}
