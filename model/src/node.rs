//! A hypervisor host: what its agent said of it, its session, and the proof of its death.
//!
//! ```text
//!            silence > lost_after        fence asked             a proof is committed
//!  online ─────────────────────▶ lost ───────────────▶ fencing ───────────────────────▶ dead
//!    ▲                            │ ◀─────────────────── │ the fence failed              │
//!    └────────────────────────────┴──────────────────────────────────────────────────────┘
//!                     its agent registers (not while a fence is asked and unresolved)
//! ```
//! Suspicion is not here: it is the leader's passing view, see [`crate::liveness`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::id::{NodeId, NodeName, SessionId, VmName};
use crate::time::Timestamp;
use crate::vm::Presence;

/// What a host has to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Capacity {
    /// Memory for guests, in MiB: the host's, less what the agent's configuration keeps for the host itself.
    pub memory_mib: u64,
    /// Logical processors.
    pub cpus: u32,
}

/// How the node's death can be made sure of: one fence agent program with its options, as the fence-agents standard
/// has it (options go to its standard input as `key=value` lines).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceDevice {
    /// The program's name, such as `fence_ipmilan`.
    pub agent: String,
    /// Its options. Values may be secret: they are never shown.
    pub options: BTreeMap<String, String>,
    /// How long one call may take.
    pub timeout_ms: u64,
    /// Devices of one level must all say off, as those of two power supplies; levels are tried in turn, the lowest first.
    pub level: u8,
}

/// Why the "off" of a fence agent is no proof of death, where it is none: the guests of a host whose storage or network was cut
/// run on, and are there when it is back. Fence agents say so themselves by an `on` that is automatic in their metadata
/// (fence-agents, "unfencing").
pub fn proves_nothing(agent: &str) -> Option<&'static str> {
    match agent {
        "fence_scsi" | "fence_mpath" | "fence_sanbox2" | "fence_brocade" | "fence_vixel"
        | "fence_mcdata" | "fence_gnbd" => {
            Some("it cuts a host off its storage and leaves its guests running")
        }
        "fence_cisco_mds" | "fence_ifmib" => {
            Some("it closes a port and leaves the host's guests running")
        }
        "fence_manual" | "fence_ack_manual" => {
            Some("it takes an operator's word without a question")
        }
        "fence_dummy"
        | "fence_delay"
        | "fence_kdump"
        | "fence_heuristics_ping"
        | "fence_heuristics_resource" => Some("it switches nothing off"),
        _ => None,
    }
}

/// What becomes of a node after a fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum AfterFence {
    /// It stays off until somebody looks at it.
    #[default]
    StayOff,
    /// It is switched on again, at most so many times an hour.
    PowerOn {
        /// 1 to 60.
        per_hour: u8,
    },
}

/// The lease an agent was given with its session: what a proof by lease must outlast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseTerms {
    /// How long an answered heartbeat lets it run VMs.
    pub ttl_ms: u64,
    /// How long its self-fence may take.
    pub self_fence_ms: u64,
}

impl LeaseTerms {
    /// Whichever lasts longer, each for itself.
    pub fn longer(self, other: Self) -> Self {
        Self {
            ttl_ms: self.ttl_ms.max(other.ttl_ms),
            self_fence_ms: self.self_fence_ms.max(other.self_fence_ms),
        }
    }
}

/// What the agent says of its host beside what the host has to give.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct HostFeatures {
    /// Fence agents that are installed there, by which it can fence another node.
    pub fence_agents: BTreeSet<String>,
    /// Its `libvirt-guests` would start or stop guests behind the cluster's back when the host boots or goes down.
    pub libvirt_guests: bool,
}

/// One attempt to fence, or one act that took its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceAttempt {
    /// When it was resolved.
    pub at: Timestamp,
    /// What it came to, as a sentence.
    pub outcome: String,
    /// It proved the node dead.
    pub proven: bool,
}

/// Why a node is known to run nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProofOfDeath {
    /// A fence device, asked after "off", said off.
    Fenced {
        /// The fence agent's name.
        device: String,
    },
    /// The lease and the armed watchdog's time ran out.
    Lease {
        /// How long the node had been unanswered, in milliseconds.
        silent_ms: u64,
    },
    /// The same hardware registered with a new boot id.
    NewBoot,
    /// An operator made sure.
    Confirmed {
        /// Who.
        by: String,
        /// How they know.
        why: String,
    },
}

/// Where a node is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    /// Its agent has a session.
    Online,
    /// Its session was ended for silence.
    Lost,
    /// A fence was asked and has not been resolved.
    Fencing,
    /// Proven dead.
    Dead(ProofOfDeath),
    /// Shut down in good order: its agent had said so, and that nothing of the cluster's ran there any more. Not a proof:
    /// should a VM turn out to have it in its may-run set, its death is sought like any other's.
    Off,
}

impl NodeState {
    /// The word operators read.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Lost => "lost",
            Self::Fencing => "fencing",
            Self::Dead(_) => "dead",
            Self::Off => "off",
        }
    }
}

/// An operator has a node emptied and kept so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintenance {
    /// Who.
    pub by: String,
    /// Since when.
    pub at: Timestamp,
    /// It ends by itself when the node has booted anew.
    pub until_boot: bool,
}

/// What follows an orderly shutdown of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AfterShutdown {
    /// It stays off for now.
    StayOff,
    /// It boots again at once.
    Reboot,
}

/// A host shuts down in good order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// What follows.
    pub then: AfterShutdown,
    /// Since when.
    pub at: Timestamp,
}

/// A domain as an agent sees it; the agent does not know which are the cluster's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenDomain {
    /// Its name there.
    pub name: String,
    /// What was seen, `None` for one that is defined and not active.
    pub presence: Option<Presence>,
    /// Its memory.
    pub memory_mib: u64,
    /// The generation its mark names, where it bears this cluster's mark.
    pub generation: Option<u64>,
    /// libvirt would start it when the host boots, whatever the cluster thinks.
    pub autostart: bool,
}

impl SeenDomain {
    /// One that runs or is otherwise active, without a mark.
    pub fn active(name: &str, presence: Presence, memory_mib: u64) -> Self {
        Self {
            name: name.to_owned(),
            presence: Some(presence),
            memory_mib,
            generation: None,
            autostart: false,
        }
    }
}

/// The last attempt to fence a node, or to switch it on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceAttempts {
    /// How many failed since the node was lost, or was fenced.
    pub failed: u32,
    /// When the last was asked or failed.
    pub at: Timestamp,
    /// What the last said.
    pub error: Option<String>,
}

impl FenceAttempts {
    /// Not before that is the next due: the wait is doubled each time, up to sixteen times the first.
    pub fn next_ms(&self, retry_ms: u64) -> Timestamp {
        self.at.plus(retry_ms << self.failed.saturating_sub(1).min(4))
    }
}

/// What the cluster remembers of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// For ever.
    pub id: NodeId,
    /// As the operator knows it.
    pub name: NodeName,
    /// The host's UUID (libvirt's `host_uuid`): tells the same hardware from another under the same name.
    pub hardware: Uuid,
    /// The kernel's boot id at its last registration.
    pub boot_id: String,
    /// When that boot first registered in this epoch; `None` where a backup told of it.
    pub booted: Option<Timestamp>,
    /// The last session that was committed; of this one a death is proven.
    pub last_session: SessionId,
    /// Where it is in its life.
    pub state: NodeState,
    /// When `state` last changed.
    pub state_since: Timestamp,
    /// What it has to give.
    pub capacity: Capacity,
    /// The libvirt URI by which other hosts migrate to it.
    pub migration_uri: String,
    /// The time-out of its armed watchdog, as the device reads back; `None` without one: then no proof by lease.
    pub watchdog_timeout_ms: Option<u64>,
    /// The lease its session was given.
    pub lease: LeaseTerms,
    /// The longest that a session of this boot was given: what was answered in an earlier one may hold longer than all of this one.
    pub longest_lease: LeaseTerms,
    /// Its clock can be paused, for it is a virtual machine itself: a lease proves nothing unless an operator vouches.
    pub pausable: bool,
    /// An operator vouches that its clock is never paused.
    pub vouched: bool,
    /// No proof by lease of this session: its agent said that it stops and disarms the watchdog, the control plane was
    /// restored, or a migration may have brought a guest there that no agent knows of.
    pub away: bool,
    /// The lock manager of its libvirt, as `lockd` or `sanlock`.
    pub lock_manager: Option<String>,
    /// The agent's version.
    pub agent_version: String,
    /// What its agent says of the host.
    pub features: HostFeatures,
    /// How it can be fenced.
    pub fence_devices: Vec<FenceDevice>,
    /// What follows a fence.
    pub after_fence: AfterFence,
    /// How fences of it ended, the oldest first.
    pub fence_history: Vec<FenceAttempt>,
    /// When it was switched on after a fence, within the last hour.
    pub powered_on: Vec<Timestamp>,
    /// How switching it on has failed since it was fenced.
    pub power_on_attempts: Option<FenceAttempts>,
    /// What its fence devices said that did not answer when they were last probed.
    pub dark_fence: Vec<String>,
    /// A fence of it was asked and has not been resolved, whatever has proven its death meanwhile: it may still cut its power.
    pub fence_under_way: bool,
    /// How fencing has gone since it was lost.
    pub fence_attempts: Option<FenceAttempts>,
    /// Managed VMs that its libvirt would start by itself when the host boots.
    pub autostart: BTreeSet<VmName>,
    /// Domains there that are not the cluster's.
    pub unmanaged: BTreeMap<Uuid, SeenDomain>,
    /// An operator has it emptied and kept so.
    pub maintenance: Option<Maintenance>,
    /// Its host shuts down.
    pub shutdown: Option<Shutdown>,
    /// The revision of the last change of this record.
    pub changed: u64,
}

impl NodeRecord {
    /// Of a node that is dead by its lease, where something may still run there: why, and the way out.
    pub fn unbound_by_lease(&self) -> Option<String> {
        matches!(self.state, NodeState::Dead(ProofOfDeath::Lease { .. })).then(|| {
            format!(
                "dead by its lease, which did not bind this; `berthctl node confirm-off {}` when it is off",
                self.name
            )
        })
    }

    /// The silence after which its lease proves its death, where it can: (lease + the larger of self-fence and
    /// watchdog) × (1 + drift). Design section 3, proof of death (b).
    pub fn lease_proof_ms(&self, drift_percent: u64) -> Option<u64> {
        use crate::sabotage::{Rule, off};
        let watchdog = match self.watchdog_timeout_ms {
            None if off(Rule::LeaseProofNeedsWatchdog) => Some(0),
            watchdog => watchdog,
        }?;
        let clock_stands = self.pausable && !self.vouched && !off(Rule::LeaseProofNeedsClock);
        let disarmed = self.away && !off(Rule::AwayEndsLeaseProof);
        if clock_stands || disarmed {
            return None;
        }
        let lease = match off(Rule::LeaseTermsOfSession) {
            true => LeaseTerms { ttl_ms: 3_000, self_fence_ms: 1_000 },
            false => self.longest_lease,
        };
        let longest = lease.ttl_ms
            + if off(Rule::LeaseProofWaitsForFence) {
                0
            } else {
                lease.self_fence_ms.max(watchdog)
            };
        let drift_percent = if off(Rule::Drift) { 0 } else { drift_percent };
        Some((longest * (100 + drift_percent)).div_ceil(100))
    }

    /// VMs may be placed there: it is in session, and nothing says that it is to be empty.
    pub fn serves(&self) -> bool {
        self.state == NodeState::Online && self.maintenance.is_none() && self.shutdown.is_none()
    }

    /// The session, while it has one.
    pub fn session(&self) -> Option<SessionId> {
        (self.state == NodeState::Online).then_some(self.last_session)
    }
}
