//! What is seen of a VM's domain on a node: how it is there, and why it went.

use serde::{Deserialize, Serialize};

use crate::id::Generation;
use crate::time::Timestamp;

/// What an agent sees of an active domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// It runs.
    Running,
    /// Its vCPUs are stopped, by whomever.
    Paused,
    /// A migration's half-built target: never counts as running.
    Incoming,
    /// The guest is shutting down.
    ShuttingDown,
    /// The guest crashed and the domain is kept.
    Crashed,
    /// Its vCPUs were stopped by its node's self-fence: it writes nothing, and only an order resumes it.
    Suspended,
    /// A migration's source in its last moment: stopped, and gone as soon as the target runs.
    Leaving,
    /// It is paused because its storage failed.
    IoError,
    /// It is paused because its own watchdog device bit.
    WatchdogPaused,
}

impl Presence {
    /// It holds the guest, so that a second one would be one too many. A half-built target, a source in handover and
    /// a copy stopped by self-fence do not run and are not resumed without an order.
    pub fn holds_guest(self) -> bool {
        if crate::sabotage::off(crate::sabotage::Rule::IncomingIsNotRunning)
            && self == Self::Incoming
        {
            return true;
        }
        !matches!(self, Self::Incoming | Self::Suspended | Self::Leaving)
    }

    /// The word operators read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Incoming => "incoming",
            Self::ShuttingDown => "shutting down",
            Self::Crashed => "crashed",
            Self::Suspended => "suspended by self-fence",
            Self::Leaving => "leaving",
            Self::IoError => "paused by an I/O error",
            Self::WatchdogPaused => "paused by its watchdog",
        }
    }
}

/// A domain seen on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// What was seen.
    pub presence: Presence,
    /// The generation its mark names, where it bears this cluster's mark.
    pub generation: Option<Generation>,
    /// When it was committed.
    pub at: Timestamp,
}

/// Why a domain that ran is gone; from libvirt's lifecycle event details.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopCause {
    /// The guest shut itself down.
    GuestShutdown,
    /// Somebody destroyed the domain.
    Destroyed,
    /// QEMU or the guest crashed.
    Crashed,
    /// It left by migration.
    MigratedAway,
    /// It was saved to a file.
    Saved,
    /// QEMU failed.
    Failed,
    /// It was not seen to go.
    Unknown,
    /// The guest's kernel panicked.
    Panicked,
    /// The guest's own watchdog device bit and ended it.
    Watchdog,
    /// Its QEMU was told to end by a signal of its host.
    Terminated,
}

impl StopCause {
    /// For sentences: "the domain is gone: ...".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GuestShutdown => "the guest shut down",
            Self::Destroyed => "the domain was destroyed",
            Self::Crashed => "the guest or its QEMU crashed",
            Self::MigratedAway => "it left by migration",
            Self::Saved => "it was saved to a file",
            Self::Failed => "its QEMU failed",
            Self::Unknown => "its QEMU is gone, cause unknown",
            Self::Panicked => "the guest panicked",
            Self::Watchdog => "the guest's watchdog bit",
            Self::Terminated => "its QEMU was ended by a signal",
        }
    }
}
