//! What operators ask of a service, and what the leader decides about one.

use serde::{Deserialize, Serialize};

use super::MoveCause;
use crate::id::{MemberName, NodeId, NodeName};
use crate::time::Timestamp;
use crate::vm::MigrationMode;

/// What an operator asks of a service; the words are RGManager's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceAsk {
    /// Start it and keep it running.
    Enable {
        /// Where, if the operator cares.
        on: Option<NodeName>,
    },
    /// Stop it and keep it so.
    Disable,
    /// Stop it.
    Stop,
    /// Stop and start in place.
    Restart,
    /// Stop and start elsewhere.
    Relocate {
        /// Where, if the operator cares.
        to: Option<NodeName>,
    },
    /// Move it with running VMs.
    Migrate {
        /// Where.
        to: NodeName,
        /// How; `None` as each VM's policy says.
        mode: Option<MigrationMode>,
    },
    /// Call off what has not begun.
    Cancel,
    /// Set it aside: nothing is checked, started, stopped or moved.
    Freeze {
        /// Why.
        why: String,
        /// For how many milliseconds; `None` = until it is unfrozen.
        for_ms: Option<u64>,
    },
    /// No longer.
    Unfreeze,
    /// Start the members that stay down again.
    Convalesce,
}

impl ServiceAsk {
    /// The word operators write.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Enable { .. } => "enable",
            Self::Disable => "disable",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Relocate { .. } => "relocate",
            Self::Migrate { .. } => "migrate",
            Self::Cancel => "cancel",
            Self::Freeze { .. } => "freeze",
            Self::Unfreeze => "unfreeze",
            Self::Convalesce => "convalesce",
        }
    }
}

/// What the leader decides about one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceDecision {
    /// It is to run there: its members start in order from now on.
    Begin {
        /// Where.
        node: NodeId,
        /// Why there, as a sentence.
        why: String,
        /// It counts as a restart in place.
        restart: bool,
    },
    /// A member starts.
    StartMember {
        /// Which.
        member: MemberName,
    },
    /// A member stops.
    StopMember {
        /// Which.
        member: MemberName,
    },
    /// A VM member migrates to the service's node.
    MigrateMember {
        /// Which.
        member: MemberName,
        /// How.
        mode: MigrationMode,
    },
    /// All that is wanted is up.
    Up,
    /// A member and what hangs below it are restarted alone.
    Cycle {
        /// Which.
        member: MemberName,
        /// Why, as a sentence.
        why: String,
    },
    /// What was to be restarted is down, and starts again.
    Again,
    /// A member and what hangs below it stay down; the service is partial.
    Off {
        /// Which.
        member: MemberName,
        /// Why, as a sentence.
        why: String,
    },
    /// It failed: all its members stop.
    Fail {
        /// Why, as a sentence.
        why: String,
        /// That node could not start it.
        start_failed: bool,
    },
    /// All its members stop, as was asked.
    Stop,
    /// All are down.
    Down,
    /// A member could not be stopped: an operator must act.
    Stuck {
        /// Why, as a sentence.
        why: String,
    },
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
    /// Its scripts are down: its VMs move to this node, and its scripts start there.
    Move {
        /// Where.
        to: NodeId,
        /// Why, as a sentence.
        why: String,
    },
    /// What the operator asked cannot be done.
    FailOperation {
        /// Why, as a sentence.
        why: String,
    },
    /// All that it depends on is started, for the first time since it is.
    DependsMet,
    /// Ask by itself what an operator could: that it is moved.
    AskMove {
        /// Where to.
        to: NodeId,
        /// Its VMs migrate; else all of it stops and starts there.
        live: bool,
        /// What for.
        cause: MoveCause,
        /// Why, as a sentence.
        why: String,
    },
}
