//! What the cluster remembers of a service.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::command::MoveCause;
use crate::hold::Freeze;
use crate::id::{Generation, MemberName, NodeId, OrderId, RequestId, VmName};
use crate::sabotage::{Rule, off};
use crate::service::ServiceSpec;
use crate::time::Timestamp;
use crate::vm::{Desired, MayRun, MigrationMode, OperationPhase, VmRecord, VmState};

/// Where a service is in its life. RGManager's states; partial is no state but a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceState {
    /// Down; started as soon as that is wanted and possible.
    Stopped,
    /// A node was chosen, and its members start there in order.
    Starting,
    /// Every member that is wanted is up.
    Started,
    /// Its members stop in reverse order.
    Stopping,
    /// Its VMs move to another node.
    Migrating,
    /// All is down after a failure, and it is to be started again.
    Recovering,
    /// A stop of a member failed: it may still run.
    Failed,
    /// Down by the operator's or the policy's will.
    Disabled,
}

impl ServiceState {
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
        }
    }
}

/// What is remembered of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// What was asked.
    pub spec: ServiceSpec,
    /// The revision of the last change of the spec.
    pub spec_revision: u64,
    /// What the operator wants.
    pub desired: Desired,
    /// Where it is in its life.
    pub state: ServiceState,
    /// The node its members are, or are to be, on.
    pub owner: Option<NodeId>,
    /// The node that had it before.
    pub last_owner: Option<NodeId>,
    /// The present ownership of its scripts, or the last.
    pub generation: Generation,
    /// Where its scripts may be running.
    pub may_run: BTreeMap<NodeId, MayRun>,
    /// Scripts that agents found running when they were asked.
    pub seen: BTreeMap<NodeId, BTreeSet<MemberName>>,
    /// By member.
    pub members: BTreeMap<MemberName, MemberRecord>,
    /// The order to a script that is outstanding.
    pub order: Option<ScriptOrderRecord>,
    /// What the operator last asked.
    pub operation: Option<ServiceOperation>,
    /// Why it is to be recovered.
    pub failure: Option<ServiceFailure>,
    /// The moments it was restarted in place, oldest first.
    pub restarts: Vec<Timestamp>,
    /// How often Berth has started it again since it was enabled.
    pub restart_count: u32,
    /// Set aside by an operator: nothing is checked, started, stopped or moved.
    pub frozen: Option<Freeze>,
    /// Since when the whole cluster was down, or seemed to be, after it last ran: it is not to be started by itself after that.
    pub cold: Option<Timestamp>,
    /// All that it depends on was started since it was: what is lost from then on stops it, if it is bound hard.
    pub depends_met: bool,
    /// An operator put it where it is: no failback before a better node returns after that.
    pub placed_at: Option<Timestamp>,
    /// No failback by itself before this: the last one failed.
    pub failback_not_before: Timestamp,
    /// When `state` last changed.
    pub state_since: Timestamp,
    /// The revision of the last change of this record: a decision made on an older one is refused.
    pub changed: u64,
}

impl ServiceRecord {
    /// Whether this VM of it is to be down now: all of it stops, or this member is left out or is to start again.
    pub fn stops(&self, vm: &VmName) -> bool {
        let its = self.spec.members.iter().find(|it| it.vm() == Some(vm));
        let mode = its.and_then(|it| self.members.get(&it.name)).map(|it| it.mode);
        self.state == ServiceState::Stopping || mode.is_some_and(|mode| mode != MemberMode::Keep)
    }

    /// Whether this VM of it runs though Berth did not start it, and goes down with it: all of it stops, for an operator or to start
    /// again.
    pub fn takes_down(&self, vm: &VmRecord) -> bool {
        self.state == ServiceState::Stopping
            && matches!(vm.state, VmState::Disabled | VmState::Stopped)
            && vm.seen_with_guest().count() == 1
            && vm.order.is_none()
            && vm.open_operation().is_none()
    }

    /// Whether scripts of it may run on its owner that its agent's ledger does not bind, so that the lease proves nothing of them
    /// (design section 3, lease): what was seen there and nobody has ordered since it is the owner, as by hand or from before; what
    /// was stopped and runs on; and what was stopped a moment ago, as long as its agent has not said that none of it runs.
    pub fn has_unbound(&self, owner: NodeId) -> bool {
        if off(Rule::LeaseProvesTheBound) {
            return false;
        }
        let unbound = |name: &MemberName| {
            self.members.get(name).is_some_and(|it| {
                it.started_by.0 < self.generation.0
                    || it.found_up
                    || matches!(it.script, ScriptState::Down | ScriptState::Stuck)
            })
        };
        let stopped = self.asks_owner() && self.may_run.contains_key(&owner);
        stopped || self.seen.get(&owner).is_some_and(|seen| seen.iter().any(unbound))
    }

    /// A member that is wanted is down: RGManager's flag [P].
    pub fn is_partial(&self) -> bool {
        self.state == ServiceState::Started
            && self.members.values().any(|member| member.mode == MemberMode::Off)
    }

    /// Nothing may be done to it at that moment.
    pub fn is_frozen(&self, at: Timestamp) -> bool {
        let ends = |freeze: &Freeze| freeze.until.is_some_and(|until| until <= at);
        self.frozen.as_ref().is_some_and(|freeze| !ends(freeze))
    }

    /// The open operation, if there is one.
    pub fn open_operation(&self) -> Option<&ServiceOperation> {
        self.operation.as_ref().filter(|operation| operation.phase.is_open())
    }

    /// Its members' lives are the service's: they are not started, stopped or recovered for themselves.
    pub fn governs(&self) -> bool {
        self.desired == Desired::Enabled
            || !matches!(self.state, ServiceState::Disabled | ServiceState::Stopped)
    }

    /// Every script that it was known to have up is stopped. Whether others run there only their node can say.
    pub fn scripts_are_down(&self) -> bool {
        self.members.values().all(|it| it.script == ScriptState::Down)
    }

    /// Whether its owner is asked too: it leaves, and all that is known to be up there is stopped. What it was never told
    /// to start may run there all the same, as after a restore.
    pub fn asks_owner(&self) -> bool {
        let moves = self
            .open_operation()
            .is_some_and(|operation| matches!(operation.verb, ServiceVerb::Migrate { .. }));
        let leaves = match self.state {
            ServiceState::Stopping => true,
            ServiceState::Started | ServiceState::Migrating => moves,
            _ => false,
        };
        leaves && self.scripts_are_down()
    }

    /// The owner, as long as it has not said that none of its scripts runs there.
    pub fn held_by_owner(&self) -> Option<NodeId> {
        self.owner.filter(|owner| self.may_run.contains_key(owner))
    }

    /// Nodes that must be asked whether scripts run there: they may, and no other order would answer that.
    pub fn to_probe(&self) -> impl Iterator<Item = (NodeId, MayRun)> + '_ {
        let settled = matches!(
            self.state,
            ServiceState::Stopped
                | ServiceState::Disabled
                | ServiceState::Recovering
                | ServiceState::Failed
        );
        let has_scripts = self.spec.scripts().next().is_some();
        let of_owner = settled || self.asks_owner();
        self.may_run
            .iter()
            .filter(move |(node, _)| {
                let busy = self.order.as_ref().is_some_and(|order| order.node == **node);
                has_scripts && !busy && (of_owner || self.owner != Some(**node))
            })
            .map(|(node, entry)| (*node, *entry))
    }
}

/// What is remembered of one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Whether it is wanted now.
    pub mode: MemberMode,
    /// Of a script: how it stands.
    pub script: ScriptState,
    /// The order that started the script: what is said of an earlier start does not count.
    pub started_by: OrderId,
    /// It was found to run when it was said to be down, and is stopped once more.
    pub found_up: bool,
    /// The last that went wrong, as a sentence.
    pub failure: Option<String>,
    /// Failed status checks that were let pass, oldest first.
    pub tolerated: Vec<Timestamp>,
    /// The moments it was restarted alone, oldest first.
    pub restarts: Vec<Timestamp>,
}

impl Default for MemberRecord {
    fn default() -> Self {
        Self {
            mode: MemberMode::Keep,
            script: ScriptState::Down,
            started_by: OrderId::default(),
            found_up: false,
            failure: None,
            tolerated: Vec::new(),
            restarts: Vec::new(),
        }
    }
}

/// Whether a member is wanted while its service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberMode {
    /// It is to be up.
    Keep,
    /// It is to be stopped first, and then to be up: an independent restart.
    Cycle,
    /// It failed and is not critical: it stays down until the service is convalesced or started anew.
    Off,
}

/// How a script stands, by its agent's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScriptState {
    /// Stopped.
    Down,
    /// Started.
    Up,
    /// A start of it failed: what there is of it has to be stopped before it is started again.
    Unstarted,
    /// A check of it failed: the same.
    Bad,
    /// A stop of it failed: it may still run.
    Stuck,
}

impl ScriptState {
    /// The word operators read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Down => "stopped",
            Self::Up => "started",
            Self::Unstarted | Self::Bad => "failing",
            Self::Stuck => "failed",
        }
    }
}

/// The one order outstanding for a service's scripts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptOrderRecord {
    /// Its number.
    pub id: OrderId,
    /// Who is to carry it out.
    pub node: NodeId,
    /// The ownership it serves.
    pub generation: Generation,
    /// When it was committed.
    pub at: Timestamp,
    /// Which script.
    pub member: MemberName,
    /// What is to be done.
    pub intent: ScriptIntent,
}

/// What an order asks of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScriptIntent {
    /// Start it.
    Start,
    /// Stop it.
    Stop,
}

/// What the operator last asked of a service, until it came to something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceOperation {
    /// The request that asked.
    pub request: RequestId,
    /// What was asked.
    pub verb: ServiceVerb,
    /// When.
    pub at: Timestamp,
    /// What it came to.
    pub phase: OperationPhase,
    /// Why the cluster asked it by itself; `None` for an operator's.
    pub cause: Option<MoveCause>,
}

/// What an operator may ask of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceVerb {
    /// Run, preferably on this node.
    Enable {
        /// The operator's choice.
        on: Option<NodeId>,
    },
    /// Be down and stay so.
    Disable,
    /// Be down for now.
    Stop,
    /// Stop and start on the same node.
    Restart,
    /// Stop and start on another node.
    Relocate {
        /// The operator's choice.
        to: Option<NodeId>,
    },
    /// Move with running VMs.
    Migrate {
        /// The target.
        to: NodeId,
        /// Live or paused; `None` as each VM's policy says.
        mode: Option<MigrationMode>,
    },
    /// Start the members that stay down again.
    Convalesce,
}

impl ServiceVerb {
    /// The word operators write.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Enable { .. } => "enable",
            Self::Disable => "disable",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Relocate { .. } => "relocate",
            Self::Migrate { .. } => "migrate",
            Self::Convalesce => "convalesce",
        }
    }
}

/// Why a service is to be recovered, and what was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceFailure {
    /// What happened, as a sentence without its stop.
    pub why: String,
    /// When.
    pub at: Timestamp,
    /// The node it happened on.
    pub node: NodeId,
    /// Whether the node itself died: then the recovery policy does not apply, the service just moves.
    pub node_died: bool,
    /// Nodes on which a start failed since it last was up.
    pub tried: BTreeSet<NodeId>,
    /// How often all allowed nodes were tried in vain.
    pub rounds: u32,
    /// No start before this.
    pub not_before: Timestamp,
}
