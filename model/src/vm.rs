//! A virtual machine: what was asked (spec) and what the cluster remembers (record).
//!
//! ```text
//!             enable            order Start          report Started
//!  disabled ─────────▶ stopped ────────────▶ starting ─────────────▶ started ◀──────────┐
//!     ▲                   ▲                     │ start failed          │ │ │           │ adopted at the target,
//!     │ disable           │ stop                ▼                       │ │ └▶ migrating ┘ or back at the source
//!     └───────────── stopping ◀──────────── recovering ◀────────────────┘ │
//!                         │  stop failed        ▲  QEMU died, node dead   │ left by migration
//!                         ▼                     └──────────── lost ◀──────┘
//!                      failed                  conflict: seen running on two nodes
//! ```
//! The may-run set is the law's anchor: the nodes on which the VM may be running. See [`MayRun`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ailment::Ailment;
use crate::command::MoveCause;
use crate::dependency::Dependency;
use crate::domain_xml::{Disk, HostTie, KeepsFrom};
use crate::handling::Handling;
use crate::hold::Freeze;
use crate::id::{FailoverDomainName, Generation, NodeId, OrderId, RequestId, VmName};
use crate::recovery::{FailureTolerance, RecoveryPolicy, RestartLimit, StartLimit};
use crate::time::Timestamp;

/// What the operator asked for: the domain and how to treat it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// The domain's `<name>`.
    pub name: VmName,
    /// The domain's `<uuid>`.
    pub uuid: Uuid,
    /// The domain XML as it was given, plus the UUID where it had none.
    pub xml: Arc<str>,
    /// The domain's `<memory>`, rounded up.
    pub memory_mib: u64,
    /// The domain's `<vcpu>`.
    pub vcpus: u32,
    /// The domain's disks and other block sources.
    pub disks: Vec<Disk>,
    /// What ties the domain to the host it runs on.
    pub host_ties: Vec<HostTie>,
    /// How to treat it.
    pub policy: VmPolicy,
}

impl VmSpec {
    /// Why it cannot be migrated, as a sentence without its stop; `None` where it can.
    pub fn cannot_migrate(&self) -> Option<String> {
        let ties: Vec<_> = self
            .host_ties
            .iter()
            .filter(|tie| tie.keeps_from == KeepsFrom::Migrating)
            .map(|tie| tie.what.as_str())
            .collect();
        match self.policy.migratable {
            Migratable::Yes => None,
            Migratable::No => Some("it is set not to be migrated (`--migratable no`)".into()),
            Migratable::Auto if ties.is_empty() => None,
            Migratable::Auto => Some(format!("it has {}", ties.join(", and "))),
        }
    }
}

/// Whether a VM may be migrated: commands, drain and failback heed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum Migratable {
    /// As its domain XML says ([`crate::domain_xml::HostTie`]).
    #[default]
    Auto,
    /// Yes: the operator knows better than the XML.
    Yes,
    /// Never.
    No,
}

impl Migratable {
    /// The word operators write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Yes => "yes",
            Self::No => "no",
        }
    }

    /// Reads the word operators write.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Auto, Self::Yes, Self::No].into_iter().find(|it| it.as_str() == text)
    }
}

/// How to treat a VM; the names are RGManager's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmPolicy {
    /// What to do when it fails.
    pub recovery: RecoveryPolicy,
    /// How often.
    pub restart_limit: RestartLimit,
    /// Where it may run.
    pub failover_domain: Option<FailoverDomainName>,
    /// How it is migrated when nothing else is said.
    pub migration: MigrationMode,
    /// Whether it may be migrated.
    pub migratable: Migratable,
    /// How long a guest may take to shut down before its domain is destroyed. RGManager's `vm.sh`: 120 s.
    pub stop_timeout_ms: u64,
    /// What its node does with it when the node's lease runs out.
    pub on_isolation: OnIsolation,
    /// What happens when it is seen running twice.
    pub on_conflict: OnConflict,
    /// How it is treated on its host.
    pub handling: Handling,
    /// After the whole cluster was down, or was restored from a backup, it is started again by itself.
    pub autostart: bool,
    /// Alone on its node among the cluster's VMs: 0 = no, else its priority: 1 takes the node of 2 where no other is free.
    pub exclusive: u32,
    /// What has to be started before it is.
    pub depend: Vec<Dependency>,
    /// The order in which VMs are started: 1 before 2, and 0 after all that have a number.
    pub start_priority: u32,
    /// Failed status checks that are let pass.
    pub failure_tolerance: FailureTolerance,
    /// How often a start that fails is tried again.
    pub start_limit: StartLimit,
    /// How the cluster may move it by itself.
    pub automatic_moves: AutomaticMoves,
}

/// How the cluster may move a running VM by itself: for a drain, a placement rule, its failover domain or to even out load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum AutomaticMoves {
    /// By migration only.
    #[default]
    Live,
    /// Stopped and started again: for what cannot be migrated, where a short stop is better than staying. Never only to
    /// even out load.
    Cold,
    /// Not at all.
    Never,
}

impl AutomaticMoves {
    /// The word operators write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Cold => "cold",
            Self::Never => "never",
        }
    }

    /// Reads the word operators write.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Live, Self::Cold, Self::Never].into_iter().find(|it| it.as_str() == text)
    }
}

/// What a node that lost its lease does with a VM (design section 3, self-fence).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum OnIsolation {
    /// Its vCPUs are stopped; it is resumed when the node is still its owner on return.
    #[default]
    Suspend,
    /// It is destroyed at once.
    Destroy,
    /// It runs on, under a lock manager that keeps a second copy from its disks. The lease then proves nothing.
    Continue,
}

impl OnIsolation {
    /// The word operators write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Suspend => "suspend",
            Self::Destroy => "destroy",
            Self::Continue => "continue",
        }
    }

    /// Reads the word operators write.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Suspend, Self::Destroy, Self::Continue].into_iter().find(|it| it.as_str() == text)
    }
}

/// What happens to a VM that is seen running twice (design section 3, conflict).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum OnConflict {
    /// Nothing, until an operator says which copy is kept.
    #[default]
    Wait,
    /// The owner's copy is kept, the others are destroyed.
    KeepOwner,
}

impl OnConflict {
    /// The word operators write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::KeepOwner => "keep-owner",
        }
    }

    /// Reads the word operators write.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Wait, Self::KeepOwner].into_iter().find(|it| it.as_str() == text)
    }
}

impl Default for VmPolicy {
    fn default() -> Self {
        Self {
            recovery: RecoveryPolicy::Restart,
            restart_limit: RestartLimit::default(),
            failover_domain: None,
            migration: MigrationMode::Live,
            migratable: Migratable::default(),
            stop_timeout_ms: 120_000,
            on_isolation: OnIsolation::default(),
            on_conflict: OnConflict::default(),
            handling: Handling::default(),
            autostart: true,
            exclusive: 0,
            depend: Vec::new(),
            start_priority: 0,
            failure_tolerance: FailureTolerance::default(),
            start_limit: StartLimit::default(),
            automatic_moves: AutomaticMoves::default(),
        }
    }
}

/// How a running VM is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum MigrationMode {
    /// The guest runs on while its memory is copied (`VIR_MIGRATE_LIVE`).
    #[default]
    Live,
    /// The guest is paused for the copy.
    Pause,
}

/// What the operator wants of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Desired {
    /// It shall run.
    Enabled,
    /// It shall be down for now.
    Stopped,
    /// It shall be down and stay so.
    Disabled,
    /// Hands off: whatever it does, nothing is done about it.
    Ignored,
}

impl Desired {
    /// The word operators read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Stopped => "stopped",
            Self::Disabled => "disabled",
            Self::Ignored => "ignored",
        }
    }
}

/// Where a VM is in its life. RGManager's states, plus conflict and lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmState {
    /// Down; started as soon as that is wanted and possible.
    Stopped,
    /// A start was ordered.
    Starting,
    /// It runs.
    Started,
    /// A stop was ordered.
    Stopping,
    /// A migration was ordered.
    Migrating,
    /// It failed and is to be started again.
    Recovering,
    /// A stop failed: it may still run.
    Failed,
    /// Down by the operator's or the policy's will.
    Disabled,
    /// Seen running on two nodes: nothing is done by itself.
    Conflict,
    /// It left by a migration nobody here ordered, and no node of the cluster has it.
    Lost,
}

impl VmState {
    /// The word operators read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Started => "started",
            Self::Stopping => "stopping",
            Self::Migrating => "migrating",
            Self::Recovering => "recovering",
            Self::Failed => "failed",
            Self::Disabled => "disabled",
            Self::Conflict => "conflict",
            Self::Lost => "lost",
        }
    }
}

/// One node on which a VM may be running. A node enters before any order leaves, and leaves by its agent's word or by
/// proof of death only (design section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MayRun {
    /// The log index at which the node entered, or was last asked anew. Only a word given with a floor at or above
    /// this takes the node out: an older one may have been spoken before the order arrived.
    pub since: u64,
}

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

/// Where a VM's memory was saved when it was stopped. It belongs to the next start and to no later one: once the guest has
/// run, its disks no longer fit to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// The file, with the number of the stop in its name, so that an older one is never taken for it.
    pub file: String,
    /// Where it was saved.
    pub node: NodeId,
    /// Other nodes see it too.
    pub shared: bool,
    /// When.
    pub at: Timestamp,
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

/// What the operator last asked of a VM, until it came to something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationRecord {
    /// The request that asked.
    pub request: RequestId,
    /// What was asked.
    pub verb: Verb,
    /// When.
    pub at: Timestamp,
    /// What it came to.
    pub phase: OperationPhase,
    /// Why the cluster asked it by itself; `None` where an operator did.
    pub cause: Option<MoveCause>,
}

/// An outside job, such as a backup, claims a VM: it is not started meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// What for.
    pub reason: String,
    /// Who said so.
    pub by: String,
    /// Since when.
    pub at: Timestamp,
    /// The VM's node then, where the job runs: it ends with that node's proven death.
    pub node: Option<NodeId>,
}

/// What the cluster itself did to place a VM, and what it has in mind for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stay {
    /// The node that a drain took it from, and to which it goes back.
    pub home: Option<NodeId>,
    /// It was stopped with this node, which is to come back, and waits for it.
    pub waits_for: Option<NodeId>,
    /// Automatic moves that failed in a row.
    pub failed_moves: u32,
    /// No automatic move before this.
    pub not_before: Timestamp,
}

/// What an operator may ask of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// Run, preferably on this node.
    Enable {
        /// The operator's choice.
        on: Option<NodeId>,
    },
    /// Be down and stay so.
    Disable,
    /// Be down for now.
    Stop {
        /// Destroy at once.
        now: bool,
    },
    /// Stop and start on the same node.
    Restart,
    /// Stop and start on another node.
    Relocate {
        /// The operator's choice.
        to: Option<NodeId>,
    },
    /// Move while running.
    Migrate {
        /// The target.
        to: NodeId,
        /// Live or paused.
        mode: MigrationMode,
    },
}

impl Verb {
    /// Where it is to be brought, where the verb says so.
    pub fn target(&self) -> Option<NodeId> {
        match self {
            Self::Migrate { to, .. } => Some(*to),
            Self::Relocate { to } => *to,
            Self::Enable { .. } | Self::Disable | Self::Stop { .. } | Self::Restart => None,
        }
    }

    /// The word operators write.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Enable { .. } => "enable",
            Self::Disable => "disable",
            Self::Stop { .. } => "stop",
            Self::Restart => "restart",
            Self::Relocate { .. } => "relocate",
            Self::Migrate { .. } => "migrate",
        }
    }
}

/// How far an operation has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OperationPhase {
    /// Not yet there.
    Pending,
    /// Restart and relocate: the stop is done, the start is to come.
    Halfway,
    /// It holds now.
    Done,
    /// It did not work out, and why.
    Failed(String),
}

impl OperationPhase {
    /// Still to be worked on.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Pending | Self::Halfway)
    }
}

/// Why a VM is to be recovered, and what was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What happened, as a sentence without its stop.
    pub why: String,
    /// When.
    pub at: Timestamp,
    /// The node it happened on.
    pub node: NodeId,
    /// Whether the node itself died: then the restart policy does not apply, the VM just moves.
    pub node_died: bool,
    /// Nodes on which a start failed since it last ran.
    pub tried: BTreeSet<NodeId>,
    /// How often all allowed nodes were tried in vain.
    pub rounds: u32,
    /// Starts that failed in a row on `node`.
    pub failed_starts: u32,
    /// No start before this.
    pub not_before: Timestamp,
}

/// What the cluster remembers of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// What was asked.
    pub spec: VmSpec,
    /// The revision of the last change of the spec.
    pub spec_revision: u64,
    /// What the operator wants.
    pub desired: Desired,
    /// Where it is in its life.
    pub state: VmState,
    /// The node that has it.
    pub owner: Option<NodeId>,
    /// The node that had it before.
    pub last_owner: Option<NodeId>,
    /// The present ownership, or the last.
    pub generation: Generation,
    /// Where it may be running.
    pub may_run: BTreeMap<NodeId, MayRun>,
    /// Where its domain is seen active.
    pub seen: BTreeMap<NodeId, Sighting>,
    /// The order outstanding.
    pub order: Option<OrderRecord>,
    /// What the operator last asked.
    pub operation: Option<OperationRecord>,
    /// Why it is to be recovered.
    pub failure: Option<Failure>,
    /// The moments it was restarted in place, oldest first; those outside the window are dropped.
    pub restarts: Vec<Timestamp>,
    /// How often Berth has started it again since it was enabled (clustat's `restarts`).
    pub restart_count: u32,
    /// The copy to keep of a VM in conflict.
    pub keep: Option<NodeId>,
    /// No eviction and no resumption before this: the last one failed.
    pub evict_not_before: Timestamp,
    /// What is wrong with its guest, on its owner.
    pub ailment: Option<Ailment>,
    /// How often in a row it was resumed after its storage had failed.
    pub resumed: u32,
    /// Where its memory was saved by its last stop.
    pub saved: Option<Saved>,
    /// Its last migration.
    pub migration: Option<MigrationRecord>,
    /// What the nodes that may run it were last told to do when isolated. Who may have been told to continue counts as
    /// told so until one of them has said that it was told otherwise.
    pub bound_isolation: OnIsolation,
    /// Since then its node, which runs it, could not take it over: the node's lease binds nothing there.
    pub unbound_since: Option<Timestamp>,
    /// An operator works on it: nothing is done to it.
    pub frozen: Option<Freeze>,
    /// An operator, or somebody outside the cluster, put it where it is: no failback before a better node returns after
    /// that.
    pub placed_at: Option<Timestamp>,
    /// Since when the whole cluster was down, or seemed to be, after it last ran: it is not to be started by itself after that.
    pub cold: Option<Timestamp>,
    /// All that it depends on was started since it was: what is lost from then on stops it, if it is bound hard.
    pub depends_met: bool,
    /// Failed status checks that were let pass, oldest first.
    pub status_failures: Vec<Timestamp>,
    /// No failback by itself before this: the last one failed.
    pub failback_not_before: Timestamp,
    /// An outside job claims it.
    pub claim: Option<Claim>,
    /// What the cluster itself did to place it.
    pub stay: Stay,
    /// When `state` last changed.
    pub state_since: Timestamp,
    /// The revision of the last change of this record: a decision made on an older one is refused.
    pub changed: u64,
}

impl VmRecord {
    /// Nodes where the guest is seen, in the order of their ids; a half-built migration target does not count.
    pub fn seen_with_guest(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.seen
            .iter()
            .filter(|(_, sighting)| sighting.presence.holds_guest())
            .map(|(node, _)| *node)
    }

    /// The same, with nodes where a copy is kept that self-fence stopped: where there is only that, it is let run there and started
    /// nowhere else.
    pub fn seen_there(&self) -> impl Iterator<Item = NodeId> + '_ {
        let there = |it: &Sighting| it.presence.holds_guest() || it.presence == Presence::Suspended;
        self.seen.iter().filter(move |(_, sighting)| there(sighting)).map(|(node, _)| *node)
    }

    /// Whether the node's lease binds it there: its agent was told to bring it to life or to take it over, or its domain
    /// bears a mark. Of others the agent makes sure of nothing when the lease runs out, and so the lease proves nothing
    /// (design section 3, lease).
    pub fn is_bound_at(&self, node: NodeId) -> bool {
        let sighting = self.seen.get(&node);
        // What an older ownership was told of a copy that is not the present one is nobody's to know.
        let marked = sighting.is_some_and(|sighting| sighting.generation == Some(self.generation));
        // Stops and evictions are for guests too that nobody took over, and bind nothing; an adoption does when it is done.
        let binds_nothing = self.order.as_ref().is_some_and(|order| {
            order.node == node
                && matches!(
                    order.intent,
                    OrderIntent::Adopt | OrderIntent::Stop { .. } | OrderIntent::Evict
                )
        });
        let lives = matches!(self.state, VmState::Starting | VmState::Started | VmState::Migrating);
        let owns =
            self.owner == Some(node) && lives && !binds_nothing && self.unbound_since.is_none();
        // Its agent said that the start there failed, and may not have said yet that nothing is left of it.
        let known_since = self.may_run.get(&node).map(|entry| entry.since);
        let failed_start = self.last_owner == Some(node)
            && self.state == VmState::Recovering
            && known_since.is_none_or(|since| since <= self.generation.0);
        // It had it when the migration was ordered, and nobody has been asked anew since.
        let was_source = self.migration.as_ref().is_some_and(|migration| {
            migration.from == node && known_since.is_some_and(|since| since <= migration.order.0)
        });
        marked || owns || (sighting.is_none() && (failed_start || was_source))
    }

    /// Whether it runs on where the lease has run out, as far as its nodes were told: only its lock manager keeps it single
    /// then, and the lease proves nothing.
    pub fn outlives_lease(&self) -> bool {
        [self.spec.policy.on_isolation, self.bound_isolation].contains(&OnIsolation::Continue)
    }

    /// Whether its node, which runs it, has yet to be told what it is to do when it is cut off; nothing else is under way
    /// there.
    pub fn must_be_told(&self) -> bool {
        self.state == VmState::Started
            && self.order.is_none()
            && (self.bound_isolation != self.spec.policy.on_isolation
                || self.unbound_since.is_some())
    }

    /// Nodes with a copy that does not run and is not resumed by itself: those of self-fence and of migrations, and
    /// what somebody paused and the cluster has started anew elsewhere since.
    pub fn stopped_copies(&self) -> impl Iterator<Item = (NodeId, Sighting)> + '_ {
        let stopped = |node: &NodeId, it: &Sighting| match it.presence {
            Presence::Suspended | Presence::Leaving => true,
            Presence::Paused => {
                it.generation.is_some_and(|generation| generation < self.generation)
                    && self.owner.is_some_and(|owner| owner != *node)
            }
            Presence::Running
            | Presence::Incoming
            | Presence::ShuttingDown
            | Presence::Crashed
            | Presence::IoError
            | Presence::WatchdogPaused => false,
        };
        self.seen
            .iter()
            .filter(move |(node, it)| stopped(node, it))
            .map(|(node, sighting)| (*node, *sighting))
    }

    /// The open operation, if there is one.
    pub fn open_operation(&self) -> Option<&OperationRecord> {
        self.operation.as_ref().filter(|operation| operation.phase.is_open())
    }

    /// The node a migration under way goes to.
    pub fn migration_target(&self) -> Option<NodeId> {
        match &self.order {
            Some(OrderRecord { intent: OrderIntent::Migrate { to, .. }, .. }) => Some(*to),
            _ => None,
        }
    }

    /// Nodes that must be asked whether the VM is there: they may run it, it was not seen there, and no order that
    /// would answer that is under way.
    pub fn to_probe(&self) -> impl Iterator<Item = (NodeId, MayRun)> + '_ {
        let ordered = self.order.as_ref().map(|order| order.node);
        let target = self.migration_target();
        self.may_run
            .iter()
            .filter(move |(node, _)| {
                !self.seen.contains_key(node) && ordered != Some(**node) && target != Some(**node)
            })
            .map(|(node, entry)| (*node, *entry))
    }
}
