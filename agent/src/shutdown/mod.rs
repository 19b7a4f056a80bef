//! The host goes down in good order: the cluster is told first, and the host waits until nothing of the cluster's is there.
//!
//! ```text
//!  systemd stops the unit ─▶ `berth-agent announce-shutdown` ─socket─▶ the agent ─▶ the leader
//!                                        │                               every half second: AnnounceShutdown
//!                                        └◀── what is left, until nothing is ◀────────────┘
//! ```
//! The running agent speaks for the node, for it has the session; the command only waits. It waits within limits: a host is
//! not kept up for ever by a VM that does not end, nor for long by a control plane that does not answer. What still runs then
//! dies with the host, and is recovered like after any other loss.

mod listen;
pub mod systemd;
mod wait;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use listen::listen;
pub use wait::{Limits, NotReady, wait};

/// How often the control plane is asked whether the host may go; the simulator does so too.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// One request or answer; a node of a thousand VMs with long names stays far below.
const LONGEST_LINE_BYTES: u64 = 1024 * 1024;

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// The host boots again at once: VMs may wait for it.
    Reboot,
    /// It stays off for now.
    StayOff,
}

/// What the command says to the agent, as one line of JSON.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Ask {
    then: Then,
}

/// What the agent says back, one line each time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Word {
    /// The control plane knows, and nothing of the cluster's may be running here.
    Empty,
    /// It knows; this is still here.
    Left(Vec<String>),
    /// It could not be told.
    Unheard(String),
}

/// Where the agent listens: beside its lease.
pub fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join("agent.sock")
}
