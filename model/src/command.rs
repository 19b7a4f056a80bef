//! All that may enter the Raft log.
//!
//! Time, identities and what was read from XML come in with the command, so that applying it needs nothing else.
//! New variants are added at the end: the log holds them by number.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::failover_domain::FailoverDomain;
use crate::fleet::{Pause, PauseMode};
use crate::hold::Lock;
use crate::id::{
    ClusterId, Epoch, FailoverDomainName, Generation, MemberName, NodeId, NodeName, OrderId,
    PlacementRuleName, RequestId, ServiceName, SessionId, VmName,
};
use crate::node::{
    AfterFence, AfterShutdown, Capacity, FenceDevice, HostFeatures, NodeRecord, ProofOfDeath,
    SeenDomain,
};
use crate::placement_rule::PlacementRule;
use crate::service::{ServiceRecord, ServiceSpec};
use crate::settings::Settings;
use crate::time::Timestamp;
use crate::vm::{MigrationMode, MigrationPhase, StopCause, VmRecord, VmSpec};

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

/// What an operator asks of a service; the words are RGManager's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceAsk {
    /// Start it and keep it running.
    Enable {
        /// Where, if the operator cares.
        on: Option<NodeName>,
    },
    /// Stop it and keep it so.
    Disable,
    /// Stop it.
    Stop,
    /// Stop and start in place.
    Restart,
    /// Stop and start elsewhere.
    Relocate {
        /// Where, if the operator cares.
        to: Option<NodeName>,
    },
    /// Move it with running VMs.
    Migrate {
        /// Where.
        to: NodeName,
        /// How; `None` as each VM's policy says.
        mode: Option<MigrationMode>,
    },
    /// Call off what has not begun.
    Cancel,
    /// Set it aside: nothing is checked, started, stopped or moved.
    Freeze {
        /// Why.
        why: String,
        /// For how many milliseconds; `None` = until it is unfrozen.
        for_ms: Option<u64>,
    },
    /// No longer.
    Unfreeze,
    /// Start the members that stay down again.
    Convalesce,
}

impl ServiceAsk {
    /// The word operators write.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Enable { .. } => "enable",
            Self::Disable => "disable",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Relocate { .. } => "relocate",
            Self::Migrate { .. } => "migrate",
            Self::Cancel => "cancel",
            Self::Freeze { .. } => "freeze",
            Self::Unfreeze => "unfreeze",
            Self::Convalesce => "convalesce",
        }
    }
}

/// What the leader decides about one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceDecision {
    /// It is to run there: its members start in order from now on.
    Begin {
        /// Where.
        node: NodeId,
        /// Why there, as a sentence.
        why: String,
        /// It counts as a restart in place.
        restart: bool,
    },
    /// A member starts.
    StartMember {
        /// Which.
        member: MemberName,
    },
    /// A member stops.
    StopMember {
        /// Which.
        member: MemberName,
    },
    /// A VM member migrates to the service's node.
    MigrateMember {
        /// Which.
        member: MemberName,
        /// How.
        mode: MigrationMode,
    },
    /// All that is wanted is up.
    Up,
    /// A member and what hangs below it are restarted alone.
    Cycle {
        /// Which.
        member: MemberName,
        /// Why, as a sentence.
        why: String,
    },
    /// What was to be restarted is down, and starts again.
    Again,
    /// A member and what hangs below it stay down; the service is partial.
    Off {
        /// Which.
        member: MemberName,
        /// Why, as a sentence.
        why: String,
    },
    /// It failed: all its members stop.
    Fail {
        /// Why, as a sentence.
        why: String,
        /// That node could not start it.
        start_failed: bool,
    },
    /// All its members stop, as was asked.
    Stop,
    /// All are down.
    Down,
    /// A member could not be stopped: an operator must act.
    Stuck {
        /// Why, as a sentence.
        why: String,
    },
    /// Leave it down by policy.
    Disable {
        /// Why, as a sentence.
        why: String,
    },
    /// No allowed node could start it: try again later.
    Delay {
        /// Not before.
        until: Timestamp,
        /// Why, as a sentence.
        why: String,
    },
    /// Its scripts are down: its VMs move to this node, and its scripts start there.
    Move {
        /// Where.
        to: NodeId,
        /// Why, as a sentence.
        why: String,
    },
    /// What the operator asked cannot be done.
    FailOperation {
        /// Why, as a sentence.
        why: String,
    },
    /// All that it depends on is started, for the first time since it is.
    DependsMet,
    /// Ask by itself what an operator could: that it is moved.
    AskMove {
        /// Where to.
        to: NodeId,
        /// Its VMs migrate; else all of it stops and starts there.
        live: bool,
        /// What for.
        cause: MoveCause,
        /// Why, as a sentence.
        why: String,
    },
}

/// What the leader decides about one VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decision {
    /// Start it.
    Start {
        /// Where.
        node: NodeId,
        /// Why there, as a sentence.
        why: String,
        /// It counts as a restart in place.
        restart: bool,
    },
    /// Stop it.
    Stop {
        /// Where it runs.
        node: NodeId,
        /// Milliseconds for the guest; `None` destroys at once.
        graceful_ms: Option<u64>,
    },
    /// Migrate it.
    Migrate {
        /// From.
        from: NodeId,
        /// To.
        to: NodeId,
        /// How.
        mode: MigrationMode,
    },
    /// It runs there: take that as its place.
    Adopt {
        /// Where.
        node: NodeId,
    },
    /// It is down, as was wanted.
    Settle,
    /// Leave it down by policy.
    Disable {
        /// Why, as a sentence.
        why: String,
    },
    /// No allowed node could start it: try again later.
    Delay {
        /// Not before.
        until: Timestamp,
        /// Why, as a sentence.
        why: String,
    },
    /// Two nodes run it.
    Conflict,
    /// What the operator asked cannot be done.
    FailOperation {
        /// Why, as a sentence.
        why: String,
    },
    /// Let a copy that self-fence suspended run on: its node is still the owner, at the same generation.
    Resume {
        /// Where.
        node: NodeId,
    },
    /// Destroy a copy that is not the owner's.
    Evict {
        /// Where.
        node: NodeId,
        /// Why, as a sentence.
        why: String,
    },
    /// Its freeze has run out.
    Unfreeze,
    /// All that it depends on is started, for the first time since it is.
    DependsMet,
    /// Move it, by the cluster's own will.
    Move {
        /// From.
        from: NodeId,
        /// To.
        to: NodeId,
        /// How; `None` stops it there, and it starts on the best node.
        mode: Option<MigrationMode>,
        /// What for.
        cause: MoveCause,
        /// Why, as a sentence.
        why: String,
    },
    /// Ask by itself what an operator could: that it is moved.
    AskMove {
        /// Where to.
        to: NodeId,
        /// Why the cluster moves it.
        cause: MoveCause,
        /// Why there, as a sentence.
        why: String,
    },
    /// Stop it for its host shuts down; it stays wanted.
    StopForShutdown {
        /// Where it runs.
        node: NodeId,
        /// Milliseconds for the guest; `None` destroys at once.
        graceful_ms: Option<u64>,
        /// It waits for its host to come back; else it is started elsewhere.
        waits: bool,
    },
    /// Tell its node anew what to do with it without a lease.
    TellAgain {
        /// Where it runs.
        node: NodeId,
    },
    /// It was to be enabled, and runs where it is to: nothing is left to be done.
    Fulfilled,
}

/// Why the cluster moves a VM or service that runs well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MoveCause {
    /// A better node of its failover domain is back.
    Failback,
    /// It gives way to a VM that has to be alone.
    Exclusive,
    /// Its node is to be empty.
    Drain,
    /// It is where a placement rule or a restricted failover domain forbids it to be.
    Rule,
    /// The node that it was drained from is back.
    Return,
    /// To even out load.
    Balance,
}

impl MoveCause {
    /// For sentences: "it is moved: ...".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failback => "its failover domain prefers another node",
            Self::Exclusive => "it gives way to a VM that has to be alone",
            Self::Drain => "its node is to be empty",
            Self::Rule => "it may not stay where it is",
            Self::Return => "the node that it was drained from is back",
            Self::Balance => "load is evened out",
        }
    }
}

impl Operation {
    /// The VM an operator's operation is about.
    pub fn vm(&self) -> Option<&VmName> {
        match self {
            Self::AddVm(spec) | Self::EditVm(spec) => Some(&spec.name),
            Self::ForgetVm(vm)
            | Self::Enable { vm, .. }
            | Self::Disable(vm)
            | Self::Stop { vm, .. }
            | Self::Restart(vm)
            | Self::Relocate { vm, .. }
            | Self::Migrate { vm, .. }
            | Self::Cancel(vm)
            | Self::Resolve { vm, .. }
            | Self::Freeze { vm, .. }
            | Self::Unfreeze(vm)
            | Self::Convalesce(vm)
            | Self::Ignore(vm)
            | Self::Claim { vm, .. }
            | Self::Unclaim(vm)
            | Self::Decide { vm, .. } => Some(vm),
            Self::RestoreVm(record) => Some(&record.spec.name),
            Self::IfUnchanged { operation, .. } => operation.vm(),
            Self::AddService(_)
            | Self::EditService(_)
            | Self::ForgetService(_)
            | Self::AskService { .. }
            | Self::DecideService { .. }
            | Self::RestoreService(_)
            | Self::Initialise { .. }
            | Self::PutFailoverDomain(_)
            | Self::RemoveFailoverDomain(_)
            | Self::SetFenceDevices { .. }
            | Self::AddFenceDevice { .. }
            | Self::RemoveNode(_)
            | Self::Register(_)
            | Self::Report { .. }
            | Self::NodeLost { .. }
            | Self::FenceAsked { .. }
            | Self::FenceFailed { .. }
            | Self::NodeDead { .. }
            | Self::ChangeSettings(_)
            | Self::ConfirmOff { .. }
            | Self::FenceNode { .. }
            | Self::ReleaseMassLoss { .. }
            | Self::MassLoss { .. }
            | Self::MassLossOver
            | Self::Away { .. }
            | Self::SetNodePolicy { .. }
            | Self::PoweredOn { .. }
            | Self::FenceProbed { .. }
            | Self::RestoreBegin { .. }
            | Self::RestoreFailoverDomain(_)
            | Self::RestoreNode(_)
            | Self::RestoreEnd
            | Self::Lock { .. }
            | Self::Unlock
            | Self::RestoreLock(_)
            | Self::RestorePause(_)
            | Self::StageChanges { .. }
            | Self::ApplyChanges { .. }
            | Self::PutPlacementRule(_)
            | Self::RemovePlacementRule(_)
            | Self::RestorePlacementRule(_)
            | Self::SetMaintenance { .. }
            | Self::ShutdownAnnounced { .. }
            | Self::NodeOff { .. }
            | Self::PauseCluster { .. }
            | Self::UnpauseCluster
            | Self::Uneven(_) => None,
        }
    }

    /// The VM that it puts under management or changes.
    pub fn defined_vm(&self) -> Option<&VmName> {
        match self {
            Self::AddVm(spec) | Self::EditVm(spec) => Some(&spec.name),
            Self::IfUnchanged { operation, .. } => operation.defined_vm(),
            _ => None,
        }
    }

    /// The service an operator's operation is about.
    pub fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::AddService(spec) | Self::EditService(spec) => Some(&spec.name),
            Self::ForgetService(service)
            | Self::AskService { service, .. }
            | Self::DecideService { service, .. } => Some(service),
            Self::RestoreService(record) => Some(&record.spec.name),
            Self::IfUnchanged { operation, .. } => operation.service(),
            _ => None,
        }
    }

    /// The operation's word and whom it is about, the same in every build: what a repeated request must share with
    /// the first.
    pub fn subject(&self) -> String {
        match self {
            Self::Initialise { .. } => "initialise".into(),
            Self::AddVm(spec) => format!("add-vm {}", spec.name),
            Self::EditVm(spec) => format!("edit-vm {}", spec.name),
            Self::ForgetVm(vm) => format!("forget-vm {vm}"),
            Self::Enable { vm, .. } => format!("enable {vm}"),
            Self::Disable(vm) => format!("disable {vm}"),
            Self::Stop { vm, .. } => format!("stop {vm}"),
            Self::Restart(vm) => format!("restart {vm}"),
            Self::Relocate { vm, .. } => format!("relocate {vm}"),
            Self::Migrate { vm, to, .. } => format!("migrate {vm} {to}"),
            Self::Cancel(vm) => format!("cancel {vm}"),
            Self::PutFailoverDomain(domain) => format!("put-failover-domain {}", domain.name),
            Self::RemoveFailoverDomain(name) => format!("remove-failover-domain {name}"),
            Self::SetFenceDevices { node, .. } => format!("set-fence-devices {node}"),
            Self::AddFenceDevice { node, .. } => format!("add-fence-device {node}"),
            Self::RemoveNode(node) => format!("remove-node {node}"),
            Self::Register(registration) => format!("register {}", registration.name),
            Self::Report { node, .. } => format!("report {node}"),
            Self::Decide { vm, .. } => format!("decide {vm}"),
            Self::NodeLost { node, .. } => format!("node-lost {node}"),
            Self::FenceAsked { node, .. } => format!("fence-asked {node}"),
            Self::FenceFailed { node, .. } => format!("fence-failed {node}"),
            Self::NodeDead { node, .. } => format!("node-dead {node}"),
            Self::ChangeSettings(_) => "change-settings".into(),
            Self::ConfirmOff { node, .. } => format!("confirm-off {node}"),
            Self::FenceNode { node, .. } => format!("fence-node {node}"),
            Self::Resolve { vm, keep } => format!("resolve {vm} {keep}"),
            Self::ReleaseMassLoss { .. } => "release-mass-loss".into(),
            Self::MassLoss { .. } => "mass-loss".into(),
            Self::MassLossOver => "mass-loss-over".into(),
            Self::Away { node, .. } => format!("away {node}"),
            Self::SetNodePolicy { node, .. } => format!("set-node-policy {node}"),
            Self::PoweredOn { node, .. } => format!("powered-on {node}"),
            Self::FenceProbed { node, .. } => format!("fence-probed {node}"),
            Self::RestoreBegin { .. } => "restore-begin".into(),
            Self::RestoreFailoverDomain(domain) => {
                format!("restore-failover-domain {}", domain.name)
            }
            Self::RestoreNode(node) => format!("restore-node {}", node.name),
            Self::RestoreVm(record) => format!("restore-vm {}", record.spec.name),
            Self::RestoreEnd => "restore-end".into(),
            Self::IfUnchanged { changed, operation } => {
                format!("{} if unchanged since {changed}", operation.subject())
            }
            Self::Freeze { vm, .. } => format!("freeze {vm}"),
            Self::Unfreeze(vm) => format!("unfreeze {vm}"),
            Self::Lock { .. } => "lock".into(),
            Self::Unlock => "unlock".into(),
            Self::Convalesce(vm) => format!("convalesce {vm}"),
            Self::RestoreLock(_) => "restore-lock".into(),
            Self::RestorePause(_) => "restore-pause".into(),
            Self::AddService(spec) => format!("add-service {}", spec.name),
            Self::EditService(spec) => format!("edit-service {}", spec.name),
            Self::ForgetService(service) => format!("forget-service {service}"),
            Self::AskService { service, ask } => format!("{}-service {service}", ask.as_str()),
            Self::DecideService { service, .. } => format!("decide-service {service}"),
            Self::RestoreService(record) => format!("restore-service {}", record.spec.name),
            Self::StageChanges { batch, part, .. } => format!("stage-changes {batch} {part}"),
            Self::ApplyChanges { batch, based_on, .. } => {
                format!("apply-changes {batch} {based_on}")
            }
            Self::PutPlacementRule(rule) => format!("put-placement-rule {}", rule.name),
            Self::RemovePlacementRule(name) => format!("remove-placement-rule {name}"),
            Self::RestorePlacementRule(rule) => format!("restore-placement-rule {}", rule.name),
            Self::SetMaintenance { node, on, .. } => format!("set-maintenance {node} {on}"),
            Self::ShutdownAnnounced { node, .. } => format!("shutdown-announced {node}"),
            Self::NodeOff { node, .. } => format!("node-off {node}"),
            Self::PauseCluster { mode, .. } => format!("pause-cluster {}", mode.as_str()),
            Self::UnpauseCluster => "unpause-cluster".into(),
            Self::Ignore(vm) => format!("ignore {vm}"),
            Self::Claim { vm, .. } => format!("claim {vm}"),
            Self::Unclaim(vm) => format!("unclaim {vm}"),
            Self::Uneven(uneven) => format!("uneven {uneven}"),
        }
    }
}
