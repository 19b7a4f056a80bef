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

use serde::{Deserialize, Serialize};

use crate::ailment::Ailment;
use crate::hold::Freeze;
use crate::id::{Generation, NodeId};
use crate::time::Timestamp;

mod migration;
mod operation;
mod order;
mod policy;
mod presence;
mod spec;

pub use migration::{MigrationMode, MigrationPhase, MigrationRecord};
pub use operation::{OperationPhase, OperationRecord, Verb};
pub use order::{OrderIntent, OrderRecord};
pub use policy::{AutomaticMoves, Migratable, OnConflict, OnIsolation, VmPolicy};
pub use presence::{Presence, Sighting, StopCause};
pub use spec::VmSpec;

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
