//! What the leader decides about a VM, and why it moves one that runs well.

use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::time::Timestamp;
use crate::vm::MigrationMode;

/// What the leader decides about one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decision {
    /// Start it.
    Start {
        /// Where.
        node: NodeId,
        /// Why there, as a sentence.
        why: String,
        /// It counts as a restart in place.
        restart: bool,
    },
    /// Stop it.
    Stop {
        /// Where it runs.
        node: NodeId,
        /// Milliseconds for the guest; `None` destroys at once.
        graceful_ms: Option<u64>,
    },
    /// Migrate it.
    Migrate {
        /// From.
        from: NodeId,
        /// To.
        to: NodeId,
        /// How.
        mode: MigrationMode,
    },
    /// It runs there: take that as its place.
    Adopt {
        /// Where.
        node: NodeId,
    },
    /// It is down, as was wanted.
    Settle,
    /// Leave it down by policy.
    Disable {
        /// Why, as a sentence.
        why: String,
    },
    /// No allowed node could start it: try again later.
    Delay {
        /// Not before.
        until: Timestamp,
        /// Why, as a sentence.
        why: String,
    },
    /// Two nodes run it.
    Conflict,
    /// What the operator asked cannot be done.
    FailOperation {
        /// Why, as a sentence.
        why: String,
    },
    /// Let a copy that self-fence suspended run on: its node is still the owner, at the same generation.
    Resume {
        /// Where.
        node: NodeId,
    },
    /// Destroy a copy that is not the owner's.
    Evict {
        /// Where.
        node: NodeId,
        /// Why, as a sentence.
        why: String,
    },
    /// Its freeze has run out.
    Unfreeze,
    /// All that it depends on is started, for the first time since it is.
    DependsMet,
    /// Move it, by the cluster's own will.
    Move {
        /// From.
        from: NodeId,
        /// To.
        to: NodeId,
        /// How; `None` stops it there, and it starts on the best node.
        mode: Option<MigrationMode>,
        /// What for.
        cause: MoveCause,
        /// Why, as a sentence.
        why: String,
    },
    /// Ask by itself what an operator could: that it is moved.
    AskMove {
        /// Where to.
        to: NodeId,
        /// Why the cluster moves it.
        cause: MoveCause,
        /// Why there, as a sentence.
        why: String,
    },
    /// Stop it for its host shuts down; it stays wanted.
    StopForShutdown {
        /// Where it runs.
        node: NodeId,
        /// Milliseconds for the guest; `None` destroys at once.
        graceful_ms: Option<u64>,
        /// It waits for its host to come back; else it is started elsewhere.
        waits: bool,
    },
    /// Tell its node anew what to do with it without a lease.
    TellAgain {
        /// Where it runs.
        node: NodeId,
    },
    /// It was to be enabled, and runs where it is to: nothing is left to be done.
    Fulfilled,
}

/// Why the cluster moves a VM or service that runs well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveCause {
    /// A better node of its failover domain is back.
    Failback,
    /// It gives way to a VM that has to be alone.
    Exclusive,
    /// Its node is to be empty.
    Drain,
    /// It is where a placement rule or a restricted failover domain forbids it to be.
    Rule,
    /// The node that it was drained from is back.
    Return,
    /// To even out load.
    Balance,
}

impl MoveCause {
    /// For sentences: "it is moved: ...".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failback => "its failover domain prefers another node",
            Self::Exclusive => "it gives way to a VM that has to be alone",
            Self::Drain => "its node is to be empty",
            Self::Rule => "it may not stay where it is",
            Self::Return => "the node that it was drained from is back",
            Self::Balance => "load is evened out",
        }
    }
}
