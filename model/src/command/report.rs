//! What agents say: the registration that begins a session, and the reports in it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::id::{Generation, MemberName, NodeName, OrderId, SessionId};
use crate::node::{Capacity, HostFeatures, SeenDomain};
use crate::vm::{MigrationPhase, StopCause};

/// What an agent says when it begins a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The node's name.
    pub name: NodeName,
    /// The host's UUID.
    pub hardware: Uuid,
    /// The kernel's boot id.
    pub boot_id: String,
    /// The last session of this node when its agent asked before it registered; `None` where there was none. A
    /// registration that was long on its way names an older one and is refused.
    pub replaces: Option<SessionId>,
    /// What it has to give.
    pub capacity: Capacity,
    /// How other hosts migrate to it.
    pub migration_uri: String,
    /// The time-out of its armed watchdog.
    pub watchdog_timeout_ms: Option<u64>,
    /// Its clock can be paused, for it is a virtual machine itself.
    pub pausable: bool,
    /// The lock manager of its libvirt.
    pub lock_manager: Option<String>,
    /// The agent's version.
    pub agent_version: String,
    /// What it says of its host.
    pub features: HostFeatures,
    /// All domains there.
    pub inventory: BTreeMap<Uuid, SeenDomain>,
}

/// What an agent says in a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// A domain is there now.
    Seen {
        /// Which.
        uuid: Uuid,
        /// What was seen.
        domain: SeenDomain,
    },
    /// libvirt answered, no domain and no QEMU process has this UUID, and orders up to `floor` are refused from now on.
    Absent {
        /// Which.
        uuid: Uuid,
        /// The highest order id that will be refused.
        floor: u64,
        /// Why it went, if it was seen to go.
        cause: Option<StopCause>,
    },
    /// An order came to this.
    OrderDone {
        /// Of which VM.
        uuid: Uuid,
        /// Which order.
        order: OrderId,
        /// `None` for success.
        error: Option<String>,
    },
    /// A status check of a VM that runs there failed.
    StatusFailed {
        /// Of which VM.
        uuid: Uuid,
        /// What it said.
        error: String,
    },
    /// A check of a script that is up came to something else than before.
    ScriptStatus {
        /// Of which service.
        service: Uuid,
        /// Which member.
        member: MemberName,
        /// The order that started it: what is said of an earlier start does not count.
        started_by: OrderId,
        /// `None` when it is well.
        error: Option<String>,
    },
    /// Asked, an agent found scripts of a service running, or could not find out.
    ScriptsSeen {
        /// Of which service.
        service: Uuid,
        /// Which members.
        members: Vec<MemberName>,
    },
    /// A check of a guest failed, or no longer does.
    Checked {
        /// Which.
        uuid: Uuid,
        /// What is wrong; `None` for nothing any more.
        error: Option<String>,
    },
    /// Something happened in a guest.
    Noted {
        /// Which.
        uuid: Uuid,
        /// What.
        note: GuestNote,
        /// More about it, perhaps empty.
        text: String,
    },
    /// How far a migration is.
    Migration {
        /// Of which VM.
        uuid: Uuid,
        /// By which order.
        order: OrderId,
        /// How far.
        phase: MigrationPhase,
    },
    /// The latest ownership of a VM that an agent's ledger knows: told to a control plane that was restored.
    StartedHere {
        /// Of which VM.
        uuid: Uuid,
        /// That ownership.
        generation: Generation,
    },
}

/// What happened in a guest, by libvirt's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestNote {
    /// It rebooted.
    Rebooted,
    /// Its kernel panicked.
    Panicked,
    /// Its watchdog device bit.
    Watchdog,
    /// Its storage failed.
    IoError,
    /// Its saved memory could not be restored, and it boots anew.
    BootsAnew,
}
