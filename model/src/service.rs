//! A service: an ordered group of members, VMs and scripts, that start in order on one node and stop in reverse.
//!
//! ```text
//!              enable              a node is chosen           every member is up
//!  disabled ─────────▶ stopped ───────────────────▶ starting ───────────────────▶ started ─▶ migrating
//!     ▲                  ▲                             │ a start failed             │   ▲        │
//!     │ disable          │ stop                        ▼                            │   └────────┘
//!     └────────────── stopping ◀────────────────── stopping ◀───────────────────────┘ a critical member failed
//!                        │  a stop failed             ▼  all are down
//!                        ▼                        recovering ◀── the node died
//!                      failed
//! ```
//! A VM member keeps its own record, may-run set and generations: it is started by the same decision as any VM, on the
//! service's node. The scripts of a service have one may-run set together: they may hold shared data, so that a node
//! enters before an order to start one leaves, and leaves by its agent's word that all are stopped or by proof of death.
//!
//! Source: RGManager reference, sections 1.1 (framework attributes), 3 and 5.8.

pub mod order;
mod record;
mod script;
mod view;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::dependency::Dependency;
use crate::id::{FailoverDomainName, MemberName, ServiceName, VmName};
use crate::recovery::{RecoveryPolicy, RestartLimit};

pub use record::{
    MemberMode, MemberRecord, ScriptIntent, ScriptOrderRecord, ScriptState, ServiceFailure,
    ServiceOperation, ServiceRecord, ServiceState, ServiceVerb,
};
pub use script::{Script, ScriptProgram, StatusCheck};
pub use view::{MemberView, VmStanding};

/// The most members of one service; RGManager's largest known ones have a few dozen.
pub const MAX_MEMBERS: usize = 100;

/// What the operator asked for: the members in the order of their start, and how to treat the whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Its name, unique among services.
    pub name: ServiceName,
    /// By which agents know it: given when it is added, and kept for ever.
    pub id: Uuid,
    /// In the order of their start.
    pub members: Vec<MemberSpec>,
    /// How to treat it.
    pub policy: ServicePolicy,
}

impl ServiceSpec {
    /// The member of that name.
    pub fn member(&self, name: &MemberName) -> Option<&MemberSpec> {
        self.members.iter().find(|member| member.name == *name)
    }

    /// Its VMs, in order.
    pub fn vms(&self) -> impl Iterator<Item = &VmName> {
        self.members.iter().filter_map(|member| member.vm())
    }

    /// Its scripts, in order.
    pub fn scripts(&self) -> impl Iterator<Item = (&MemberName, &Script)> {
        self.members.iter().filter_map(|member| match &member.kind {
            MemberKind::Script(script) => Some((&member.name, script)),
            MemberKind::Vm(_) => None,
        })
    }

    /// Whether `member` is `root` or hangs below it, however deep.
    pub fn is_below(&self, member: &MemberName, root: &MemberName) -> bool {
        let mut at = Some(member);
        // A chain of parents goes to earlier members only, so it ends.
        while let Some(name) = at {
            if name == root {
                return true;
            }
            at = self.member(name).and_then(|member| member.under.as_ref());
        }
        false
    }

    /// What has to be restarted when a member fails: itself or the nearest one above that stands alone; `None` for the
    /// whole service.
    pub fn repaired_with(&self, member: &MemberName) -> Option<&MemberSpec> {
        let mut at = self.member(member);
        while let Some(spec) = at {
            if spec.weight != MemberWeight::Critical {
                return Some(spec);
            }
            at = spec.under.as_ref().and_then(|parent| self.member(parent));
        }
        None
    }
}

/// How to treat a service; the names are RGManager's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePolicy {
    /// What to do when a critical member fails.
    pub recovery: RecoveryPolicy,
    /// How often it is restarted in place.
    pub restart_limit: RestartLimit,
    /// Where it may run.
    pub failover_domain: Option<FailoverDomainName>,
    /// Its VMs may be migrated: all of them, with the scripts stopped on one node and started on the other. Without
    /// this its members do not migrate, as RGManager's.
    pub migrate_together: bool,
    /// After the whole cluster was down, or was restored from a backup, it is started again by itself.
    pub autostart: bool,
    /// Alone on its node among the cluster's VMs and services: 0 = no, else its priority: 1 takes the node of 2 where no
    /// other is free.
    pub exclusive: u32,
    /// What has to be started before it is.
    pub depend: Vec<Dependency>,
    /// The order of starts among VMs and services: 1 before 2, and 0 after all that have a number.
    pub start_priority: u32,
}

impl Default for ServicePolicy {
    fn default() -> Self {
        Self {
            recovery: RecoveryPolicy::Restart,
            restart_limit: RestartLimit::default(),
            failover_domain: None,
            migrate_together: false,
            autostart: true,
            exclusive: 0,
            depend: Vec::new(),
            start_priority: 0,
        }
    }
}

/// One member, as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberSpec {
    /// Its name, unique in the service.
    pub name: MemberName,
    /// What it is.
    pub kind: MemberKind,
    /// The earlier member that it hangs below: it is restarted with that one.
    pub under: Option<MemberName>,
    /// What its failure means for the service (RGManager's `__independent_subtree`).
    pub weight: MemberWeight,
    /// How often it is restarted alone before the whole service is (`__max_restarts`, `__restart_expire_time`).
    pub restart_limit: RestartLimit,
    /// How many failed status checks are let pass (`__max_failures`, `__failure_expire_time`).
    pub tolerance: Tolerance,
}

impl MemberSpec {
    /// The VM it is.
    pub fn vm(&self) -> Option<&VmName> {
        match &self.kind {
            MemberKind::Vm(vm) => Some(vm),
            MemberKind::Script(_) => None,
        }
    }
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberKind {
    /// A VM under management.
    Vm(VmName),
    /// A program that starts, stops and checks something.
    Script(Script),
}

/// What a member's failure means for its service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum MemberWeight {
    /// The service is recovered.
    #[default]
    Critical,
    /// Only it and what hangs below are restarted; the service is recovered when that fails or came too often.
    Independent,
    /// Only it and what hangs below are restarted; when that fails or came too often they stay down, and the service
    /// is partial until it is convalesced.
    NonCritical,
}

impl MemberWeight {
    /// The word operators write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Independent => "independent",
            Self::NonCritical => "non-critical",
        }
    }

    /// Reads the word operators write.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Critical, Self::Independent, Self::NonCritical]
            .into_iter()
            .find(|weight| weight.as_str() == text)
    }
}

/// How many failed status checks of a member are let pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Tolerance {
    /// So many failures within the window are let pass; 0 = none.
    pub max_failures: u32,
    /// Failures older than this many milliseconds are forgotten; RGManager needs both, and so does Berth.
    pub expire_ms: u64,
}
