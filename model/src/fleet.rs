//! Words about the fleet as a whole: how nodes are weighed, what a host's shutdown means, and the cluster-wide pause.

use serde::{Deserialize, Serialize};

use crate::node::AfterShutdown;
use crate::time::Timestamp;

/// How nodes are weighed for a VM that any of them could take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum PlacementMode {
    /// By the number of VMs there.
    Count,
    /// By the configured sizes of the VMs there, against what the node has.
    #[default]
    Static,
    /// By what the VMs there use as agents measure it; where nothing is known of one, by its configured size.
    Dynamic,
}

impl PlacementMode {
    /// The word operators write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Static => "static",
            Self::Dynamic => "dynamic",
        }
    }

    /// Reads the word operators write.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Count, Self::Static, Self::Dynamic].into_iter().find(|it| it.as_str() == text)
    }
}

/// What becomes of the VMs of a host that shuts down in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum ShutdownPolicy {
    /// A reboot is waited for; of a host that stays off they are started elsewhere.
    #[default]
    Conditional,
    /// They are stopped and wait for their host, whatever follows.
    Freeze,
    /// They are stopped and started elsewhere, each as soon as it is down.
    Failover,
    /// They are moved away first, and come back with the host.
    Migrate,
}

impl ShutdownPolicy {
    /// The word operators write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Conditional => "conditional",
            Self::Freeze => "freeze",
            Self::Failover => "failover",
            Self::Migrate => "migrate",
        }
    }

    /// Whether what is stopped with its host waits for it.
    pub fn waits(self, then: AfterShutdown) -> bool {
        match self {
            Self::Freeze => true,
            Self::Failover => false,
            Self::Conditional | Self::Migrate => then == AfterShutdown::Reboot,
        }
    }

    /// Reads the word operators write.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Conditional, Self::Freeze, Self::Failover, Self::Migrate]
            .into_iter()
            .find(|it| it.as_str() == text)
    }
}

/// How all that is done by itself is held up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PauseMode {
    /// VMs keep the state they have: what happens to them is noted, and dealt with afterwards.
    Freeze,
    /// VMs are let go of: afterwards they are taken as they are found then.
    Ignore,
}

impl PauseMode {
    /// The word operators write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Ignore => "ignore",
        }
    }

    /// Reads the word operators write.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Freeze, Self::Ignore].into_iter().find(|it| it.as_str() == text)
    }
}

/// An operator holds up all that is done by itself: nothing is started, stopped, moved, fenced or recovered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// How.
    pub mode: PauseMode,
    /// Who.
    pub by: String,
    /// Why.
    pub why: String,
    /// Since when.
    pub at: Timestamp,
}
