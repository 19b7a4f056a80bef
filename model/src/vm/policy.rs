//! How a VM is treated: its policy, with the words that operators write for it.

use serde::{Deserialize, Serialize};

use super::MigrationMode;
use crate::dependency::Dependency;
use crate::handling::Handling;
use crate::id::FailoverDomainName;
use crate::recovery::{FailureTolerance, RecoveryPolicy, RestartLimit, StartLimit};

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
