//! What happened, for people and programs: one event per transition, kept for a while in the state itself.

use serde::{Deserialize, Serialize};

use crate::id::{NodeName, ServiceName, VmName};
use crate::time::Timestamp;

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    /// As it should be.
    Info,
    /// Something failed and is being dealt with.
    Warning,
    /// An operator must look.
    Alarm,
}

impl Severity {
    /// The word operators read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Alarm => "alarm",
        }
    }

    /// The severity with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Info, Self::Warning, Self::Alarm].into_iter().find(|it| it.as_str() == word)
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $severity:ident;)*) => {
        /// What happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum EventKind { $($(#[$doc])* $name,)* }

        impl EventKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The kind with this word.
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|kind| kind.as_str() == word)
            }

            /// The word programs match on; stable.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }

            /// How much it matters.
            pub fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)* }
            }
        }
    };
}

kinds! {
    /// The cluster came to be.
    ClusterInitialised = "cluster-initialised", Info;
    /// Settings changed.
    SettingsChanged = "settings-changed", Info;
    /// A failover domain was set or removed.
    FailoverDomainChanged = "failover-domain-changed", Info;
    /// A VM came under management.
    VmAdded = "vm-added", Info;
    /// A VM's spec changed.
    VmEdited = "vm-edited", Info;
    /// A VM left management.
    VmForgotten = "vm-forgotten", Info;
    /// An operator asked something of a VM.
    OperationAsked = "operation-asked", Info;
    /// What was asked holds.
    OperationDone = "operation-done", Info;
    /// What was asked did not work out.
    OperationFailed = "operation-failed", Warning;
    /// A start was ordered.
    VmStarting = "vm-starting", Info;
    /// It runs.
    VmStarted = "vm-started", Info;
    /// A start failed.
    VmStartFailed = "vm-start-failed", Warning;
    /// A stop was ordered.
    VmStopping = "vm-stopping", Info;
    /// It is down.
    VmStopped = "vm-stopped", Info;
    /// A stop failed.
    VmStopFailed = "vm-stop-failed", Alarm;
    /// It failed and is to be recovered.
    VmFailed = "vm-failed", Warning;
    /// A recovery gave up for now.
    VmRecoveryDelayed = "vm-recovery-delayed", Warning;
    /// It is down by policy.
    VmDisabled = "vm-disabled", Warning;
    /// A migration was ordered.
    VmMigrating = "vm-migrating", Info;
    /// A migration arrived.
    VmMigrated = "vm-migrated", Info;
    /// A migration failed; it runs where it was.
    VmMigrationFailed = "vm-migration-failed", Warning;
    /// A domain that ran already is now tracked.
    VmAdopted = "vm-adopted", Info;
    /// It left by a migration that was not ordered here.
    VmLost = "vm-lost", Alarm;
    /// Two nodes run it.
    VmConflict = "vm-conflict", Alarm;
    /// The conflict is over.
    VmConflictEnded = "vm-conflict-ended", Info;
    /// A domain of this VM was seen where none was ordered.
    VmSeen = "vm-seen", Warning;
    /// An agent registered.
    NodeRegistered = "node-registered", Info;
    /// A node fell silent.
    NodeLost = "node-lost", Warning;
    /// A fence was asked.
    NodeFencing = "node-fencing", Warning;
    /// A fence failed.
    NodeFenceFailed = "node-fence-failed", Alarm;
    /// A node is proven dead.
    NodeDead = "node-dead", Warning;
    /// How a node is fenced changed.
    NodeFenceDevicesSet = "node-fence-devices-set", Info;
    /// A node left the cluster.
    NodeRemoved = "node-removed", Info;
    /// A copy that self-fence stopped runs on.
    VmResumed = "vm-resumed", Info;
    /// A copy that is not the owner's is destroyed.
    VmEvicted = "vm-evicted", Warning;
    /// It could not be destroyed.
    VmEvictionFailed = "vm-eviction-failed", Alarm;
    /// A VM was suspended by its node's self-fence.
    VmSuspended = "vm-suspended", Warning;
    /// Too many nodes seem lost at once.
    MassLoss = "mass-loss", Alarm;
    /// They are back, or an operator let the cluster go on.
    MassLossEnded = "mass-loss-ended", Info;
    /// A node was heard after its death was proven by a fence device.
    NodeProofVoid = "node-proof-void", Alarm;
    /// An agent ended by plan.
    NodeAway = "node-away", Info;
    /// A node's policy changed.
    NodePolicySet = "node-policy-set", Info;
    /// A fenced node was switched on.
    NodePoweredOn = "node-powered-on", Info;
    /// A fenced node could not be switched on.
    NodePowerOnFailed = "node-power-on-failed", Warning;
    /// A fence device does not answer.
    NodeFenceDark = "node-fence-dark", Alarm;
    /// All fence devices answer again.
    NodeFenceAnswers = "node-fence-answers", Info;
    /// The control plane was restored from a backup.
    ClusterRestored = "cluster-restored", Warning;
    /// An operator works on a VM: nothing is done to it.
    VmFrozen = "vm-frozen", Info;
    /// It is the cluster's again.
    VmUnfrozen = "vm-unfrozen", Info;
    /// Nothing is started any more, by an operator's will.
    ClusterLocked = "cluster-locked", Warning;
    /// VMs are started again.
    ClusterUnlocked = "cluster-unlocked", Info;
    /// What counted against a VM was forgotten.
    VmConvalesced = "vm-convalesced", Info;
    /// The cluster moves a VM by its own will.
    VmMoved = "vm-moved", Info;
    /// A status check of a VM failed.
    VmStatusFailed = "vm-status-failed", Warning;
    /// A service came under management.
    ServiceAdded = "service-added", Info;
    /// A service's spec changed.
    ServiceEdited = "service-edited", Info;
    /// A service left management.
    ServiceForgotten = "service-forgotten", Info;
    /// A node was chosen, and its members start there.
    ServiceStarting = "service-starting", Info;
    /// All of it that is wanted is up.
    ServiceStarted = "service-started", Info;
    /// Its members stop.
    ServiceStopping = "service-stopping", Info;
    /// All of it is down.
    ServiceStopped = "service-stopped", Info;
    /// It failed and is to be recovered.
    ServiceFailed = "service-failed", Warning;
    /// A member of it could not be stopped.
    ServiceStopFailed = "service-stop-failed", Alarm;
    /// A member of it failed.
    ServiceMemberFailed = "service-member-failed", Warning;
    /// A member that is not critical stays down.
    ServicePartial = "service-partial", Warning;
    /// It is down by policy.
    ServiceDisabled = "service-disabled", Warning;
    /// A recovery gave up for now.
    ServiceRecoveryDelayed = "service-recovery-delayed", Warning;
    /// It moves with its VMs running.
    ServiceMigrating = "service-migrating", Info;
    /// An operator set it aside.
    ServiceFrozen = "service-frozen", Info;
    /// No longer so.
    ServiceUnfrozen = "service-unfrozen", Info;
    /// Scripts of it were found running.
    ServiceSeen = "service-seen", Warning;
    /// A placement rule was set or removed.
    PlacementRuleChanged = "placement-rule-changed", Info;
    /// A node is to be empty, or is taken back.
    NodeMaintenance = "node-maintenance", Info;
    /// A host shuts down in good order.
    NodeShutsDown = "node-shuts-down", Info;
    /// A host was shut down in good order.
    NodeOff = "node-off", Info;
    /// An operator holds up all that is done by itself.
    ClusterPaused = "cluster-paused", Warning;
    /// It goes on.
    ClusterUnpaused = "cluster-unpaused", Info;
    /// An outside job claims a VM.
    VmClaimed = "vm-claimed", Info;
    /// It no longer does.
    VmUnclaimed = "vm-unclaimed", Info;
    /// The cluster moves a VM by itself.
    VmMoving = "vm-moving", Info;
    /// Load is uneven.
    LoadUneven = "load-uneven", Info;
    /// A guest is paused because its storage failed.
    VmIoError = "vm-io-error", Alarm;
    /// A guest crashed, and its domain is kept.
    VmGuestCrashed = "vm-guest-crashed", Alarm;
    /// A guest is paused because its watchdog bit.
    VmWatchdog = "vm-watchdog", Alarm;
    /// A guest is well again.
    VmHealthy = "vm-healthy", Info;
    /// A guest rebooted by itself.
    VmRebooted = "vm-rebooted", Info;
    /// A guest's kernel panicked.
    VmGuestPanicked = "vm-guest-panicked", Warning;
    /// A guest's watchdog device bit.
    VmWatchdogBit = "vm-watchdog-bit", Warning;
    /// A guest's storage failed.
    VmStorageError = "vm-storage-error", Warning;
    /// A guest boots anew, though its memory was saved.
    VmMemoryLost = "vm-memory-lost", Warning;
    /// A node could not take over what runs there, and is asked again.
    VmAdoptionFailed = "vm-adoption-failed", Warning;
    /// A domain that the cluster does not know was suspended by its node's self-fence, and nothing lets it run on.
    UnmanagedSuspended = "unmanaged-suspended", Alarm;
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// The log index of the command that made it.
    pub revision: u64,
    /// Its place among the events of that command, from 0.
    pub sequence: u32,
    /// When, as the command says.
    pub at: Timestamp,
    /// What.
    pub kind: EventKind,
    /// The VM it is about.
    pub vm: Option<VmName>,
    /// The service it is about.
    pub service: Option<ServiceName>,
    /// The node it is about.
    pub node: Option<NodeName>,
    /// A sentence for people.
    pub text: String,
}
