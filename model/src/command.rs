//! All that may enter the Raft log.
//!
//! Time, identities and what was read from XML come in with the command, so that applying it needs nothing else.
//! New variants are added at the end: the log holds them by number.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::failover_domain::FailoverDomain;
use crate::fleet::{Pause, PauseMode};
use crate::hold::Lock;
use crate::id::{
    ClusterId, Epoch, FailoverDomainName, NodeId, NodeName, PlacementRuleName, RequestId,
    ServiceName, SessionId, VmName,
};
use crate::node::{AfterFence, AfterShutdown, FenceDevice, NodeRecord, ProofOfDeath};
use crate::placement_rule::PlacementRule;
use crate::service::{ServiceRecord, ServiceSpec};
use crate::settings::Settings;
use crate::time::Timestamp;
use crate::vm::{MigrationMode, VmRecord, VmSpec};

mod decision;
mod report;
mod service;
mod subject;

pub use decision::{Decision, MoveCause};
pub use report::{GuestNote, Registration, Report};
pub use service::{ServiceAsk, ServiceDecision};

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// A repeated one is done once.
    pub request: RequestId,
    /// When it was proposed, by the proposer's clock.
    pub at: Timestamp,
    /// Who asked: an operator's name, an agent's node, or the leader.
    pub by: String,
    /// What.
    pub operation: Operation,
}

/// What a command does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// The first command of a cluster.
    Initialise {
        /// Its identity.
        cluster: ClusterId,
        /// What holds from the start.
        settings: Settings,
    },
    /// Operator: put a VM under management. Starts nothing.
    AddVm(Box<VmSpec>),
    /// Operator: change a VM's spec. Stops nothing; a new XML holds from the next start.
    EditVm(Box<VmSpec>),
    /// Operator: take a VM out of management. Stops nothing.
    ForgetVm(VmName),
    /// Operator: start it and keep it running.
    Enable {
        /// Which.
        vm: VmName,
        /// Where, if the operator cares.
        on: Option<NodeName>,
    },
    /// Operator: stop it and keep it so.
    Disable(VmName),
    /// Operator: stop it.
    Stop {
        /// Which.
        vm: VmName,
        /// Destroy at once.
        now: bool,
    },
    /// Operator: stop and start in place.
    Restart(VmName),
    /// Operator: stop and start elsewhere.
    Relocate {
        /// Which.
        vm: VmName,
        /// Where, if the operator cares.
        to: Option<NodeName>,
    },
    /// Operator: move it while it runs.
    Migrate {
        /// Which.
        vm: VmName,
        /// Where.
        to: NodeName,
        /// How; `None` as the VM's policy says.
        mode: Option<MigrationMode>,
    },
    /// Operator: call off what is under way.
    Cancel(VmName),
    /// Operator: set a failover domain.
    PutFailoverDomain(FailoverDomain),
    /// Operator: remove a failover domain.
    RemoveFailoverDomain(FailoverDomainName),
    /// Operator: say how a node is fenced.
    SetFenceDevices {
        /// Which.
        node: NodeName,
        /// In the order of trying.
        devices: Vec<FenceDevice>,
    },
    /// Operator: take a node out of the cluster that can run nothing any more.
    RemoveNode(NodeName),
    /// Agent: here I am, and this is what I see.
    Register(Box<Registration>),
    /// Agent: this changed, this was done.
    Report {
        /// Whose.
        node: NodeId,
        /// In which session.
        session: SessionId,
        /// In the order it happened.
        reports: Vec<Report>,
    },
    /// Leader: a decision about a VM, made on a certain state of its record.
    Decide {
        /// Which.
        vm: VmName,
        /// The revision of the record it was made on.
        changed: u64,
        /// What was decided.
        decision: Decision,
    },
    /// Leader: a node was silent for too long.
    NodeLost {
        /// Which.
        node: NodeId,
        /// The session that fell silent.
        session: SessionId,
        /// For how long.
        silent_ms: u64,
    },
    /// Leader: its fence devices are to be asked.
    FenceAsked {
        /// Which.
        node: NodeId,
        /// Of which session a death is sought.
        session: SessionId,
    },
    /// Leader: no fence device could say off.
    FenceFailed {
        /// Which.
        node: NodeId,
        /// Of which session.
        session: SessionId,
        /// What they said.
        error: String,
    },
    /// Leader: it runs nothing any more.
    NodeDead {
        /// Which.
        node: NodeId,
        /// Of which session.
        session: SessionId,
        /// How that is known.
        proof: ProofOfDeath,
    },
    /// Operator: change what holds for the whole cluster.
    ChangeSettings(Settings),
    /// Operator: this node is off, I have made sure.
    ConfirmOff {
        /// Which.
        node: NodeName,
        /// How they know.
        why: String,
    },
    /// Operator: fence this node, whatever it says of itself.
    FenceNode {
        /// Which.
        node: NodeName,
        /// Why.
        why: String,
    },
    /// Operator: of a VM in conflict keep this node's copy; the others are destroyed.
    Resolve {
        /// Which.
        vm: VmName,
        /// Whose copy is kept.
        keep: NodeName,
    },
    /// Operator: the nodes that seem lost are lost; go on.
    ReleaseMassLoss {
        /// Those that the operator was shown, and no others.
        nodes: Vec<NodeName>,
    },
    /// Leader: too many nodes seem lost at once.
    MassLoss {
        /// Which.
        nodes: Vec<NodeId>,
    },
    /// Leader: no longer so.
    MassLossOver,
    /// Agent: I end, and disarm my watchdog after this is committed.
    Away {
        /// Whose.
        node: NodeId,
        /// In which session.
        session: SessionId,
    },
    /// Operator: how a node's death may be proven and what follows.
    SetNodePolicy {
        /// Which.
        node: NodeName,
        /// Its clock is never paused, though it is a virtual machine.
        vouched: Option<bool>,
        /// What follows a fence.
        after_fence: Option<AfterFence>,
    },
    /// Leader: a fenced node was switched on again, or could not be.
    PoweredOn {
        /// Which.
        node: NodeId,
        /// The session whose end was proven.
        session: SessionId,
        /// `None` for success.
        error: Option<String>,
    },
    /// Leader: fence devices of a node that do not answer, or no longer so.
    FenceProbed {
        /// Which.
        node: NodeId,
        /// What they said, empty when all answer.
        dark: Vec<String>,
    },
    /// First command of a restored control plane.
    RestoreBegin {
        /// As in the backup: the marks on domains name it.
        cluster: ClusterId,
        /// The epoch of the backup.
        epoch: Epoch,
        /// As in the backup.
        settings: Settings,
    },
    /// A failover domain of the backup.
    RestoreFailoverDomain(FailoverDomain),
    /// A node of the backup.
    RestoreNode(Box<NodeRecord>),
    /// A VM of the backup.
    RestoreVm(Box<VmRecord>),
    /// All is there.
    RestoreEnd,
    /// Operator: an operation about a VM, refused if the VM's record is no longer the one that it was asked on.
    IfUnchanged {
        /// The revision of that record.
        changed: u64,
        /// What to do.
        operation: Box<Operation>,
    },
    /// Operator: do nothing to this VM until it is unfrozen.
    Freeze {
        /// Which.
        vm: VmName,
        /// Why, for whoever meets it frozen.
        why: String,
        /// For how many milliseconds; `None` = until it is unfrozen.
        for_ms: Option<u64>,
    },
    /// Operator: it is the cluster's again; every node says first whether it runs there.
    Unfreeze(VmName),
    /// Operator: start nothing in the whole cluster.
    Lock {
        /// Why, for whoever meets it locked.
        why: String,
    },
    /// Operator: go on.
    Unlock,
    /// Operator: forget what counts against this VM, and look again.
    Convalesce(VmName),
    /// The lock of the backup.
    RestoreLock(Lock),
    /// Operator: put a service under management. Starts nothing.
    AddService(Box<ServiceSpec>),
    /// Operator: change a service's spec. Stops nothing; a member that is taken out stays as it is.
    EditService(Box<ServiceSpec>),
    /// Operator: take a service out of management. Stops nothing.
    ForgetService(ServiceName),
    /// Operator: something is asked of a service.
    AskService {
        /// Which.
        service: ServiceName,
        /// What.
        ask: ServiceAsk,
    },
    /// Leader: a decision about a service, made on a certain state of its record.
    DecideService {
        /// Which.
        service: ServiceName,
        /// The revision of the record it was made on.
        changed: u64,
        /// What was decided.
        decision: ServiceDecision,
    },
    /// A service of the backup.
    RestoreService(Box<ServiceRecord>),
    /// Operator: changes that are to be made together later, kept until then: one log entry holds no more than
    /// 100 KiB, and the definition of a fleet is larger.
    StageChanges {
        /// Which changes belong together.
        batch: Uuid,
        /// Their order, from 0; part 0 drops what was staged before.
        part: u32,
        /// In their order.
        changes: Vec<Operation>,
    },
    /// Operator: change the configuration, all of it or nothing, if it still is the one that was looked at.
    ApplyChanges {
        /// Of which staged changes.
        batch: Uuid,
        /// How many parts of them are staged; they come first.
        parts: u32,
        /// [`crate::ClusterState::configuration`] as it was looked at.
        based_on: u64,
        /// In their order.
        changes: Vec<Operation>,
    },
    /// Operator: set a placement rule.
    PutPlacementRule(PlacementRule),
    /// Operator: remove a placement rule.
    RemovePlacementRule(PlacementRuleName),
    /// A placement rule of the backup.
    RestorePlacementRule(PlacementRule),
    /// Operator: empty a node and keep it so, or take it back.
    SetMaintenance {
        /// Which.
        node: NodeName,
        /// On or off.
        on: bool,
        /// It ends by itself when the node has booted anew.
        until_boot: bool,
    },
    /// Agent: my host shuts down in good order.
    ShutdownAnnounced {
        /// Whose.
        node: NodeId,
        /// In which session.
        session: SessionId,
        /// What follows.
        then: AfterShutdown,
    },
    /// Leader: a node that had said so is off, and nothing of the cluster's was there any more.
    NodeOff {
        /// Which.
        node: NodeId,
        /// Of which session.
        session: SessionId,
    },
    /// Operator: hold up all that is done by itself.
    PauseCluster {
        /// How.
        mode: PauseMode,
        /// Why.
        why: String,
    },
    /// Operator: go on.
    UnpauseCluster,
    /// Operator: hands off this VM, until it is enabled, stopped or disabled again.
    Ignore(VmName),
    /// Operator: an outside job claims a VM; it is not started meanwhile.
    Claim {
        /// Which.
        vm: VmName,
        /// What for.
        reason: String,
    },
    /// Operator: the job is done.
    Unclaim(VmName),
    /// Leader: load is uneven beyond the threshold, or no longer so.
    Uneven(bool),
    /// Operator: one more way to fence a node, beside those that are set.
    AddFenceDevice {
        /// Which.
        node: NodeName,
        /// What is added.
        device: FenceDevice,
    },
    /// The pause of the backup.
    RestorePause(Pause),
}
