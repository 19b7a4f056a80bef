//! Every reason the cluster says no; each message names the thing, the reason and the way out.

use serde::{Deserialize, Serialize};

use crate::id::RequestId;

/// A lawful no. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    /// Commands before the first.
    #[error("the cluster is not initialised; run `berthctl replica init` first")]
    NotInitialised,
    /// A second first command.
    #[error("the cluster is initialised already")]
    AlreadyInitialised,
    /// No such VM.
    #[error("no VM is named {vm}; `berthctl status` lists them")]
    UnknownVm {
        /// As asked.
        vm: String,
    },
    /// No such node.
    #[error("no node is named {node}; `berthctl node list` lists them")]
    UnknownNode {
        /// As asked.
        node: String,
    },
    /// No such failover domain.
    #[error("no failover domain is named {domain}; `berthctl failover-domain list` lists them")]
    UnknownFailoverDomain {
        /// As asked.
        domain: String,
    },
    /// The name is taken.
    #[error(
        "a VM named {vm} is managed already; edit it with `berthctl vm edit`, or forget it first"
    )]
    NameTaken {
        /// As asked.
        vm: String,
    },
    /// The UUID is taken.
    #[error("UUID {uuid} belongs to {holder}; give the domain a UUID of its own")]
    UuidTaken {
        /// As asked.
        uuid: String,
        /// Who has it.
        holder: String,
    },
    /// A disk is taken.
    #[error(
        "disk {disk} is written by VM {holder}; two VMs may share a disk only when both mark it <shareable/> or <readonly/>"
    )]
    DiskTaken {
        /// The source.
        disk: String,
        /// Who has it.
        holder: String,
    },
    /// An edit that would make it another VM.
    #[error("the {what} of VM {vm} cannot be changed by an edit; forget the VM and add it anew")]
    IdentityChanged {
        /// Which.
        vm: String,
        /// Name or UUID.
        what: String,
    },
    /// The VM is not in a state for this.
    #[error("VM {vm} is {state}: {why}")]
    WrongState {
        /// Which.
        vm: String,
        /// Its state.
        state: String,
        /// Why that forbids it and what to do.
        why: String,
    },
    /// The target cannot take it.
    #[error("node {node} cannot take VM {vm}: {why}")]
    BadTarget {
        /// The VM.
        vm: String,
        /// The node.
        node: String,
        /// Why.
        why: String,
    },
    /// Something of it belongs to its host.
    #[error(
        "VM {vm} cannot be migrated: {why}; `berthctl relocate {vm}` stops it and starts it elsewhere, and `berthctl vm edit {vm} --migratable yes` has it tried"
    )]
    CannotMigrate {
        /// Which.
        vm: String,
        /// Why.
        why: String,
    },
    /// Nothing is under way.
    #[error("nothing of VM {vm} is under way that could be cancelled")]
    NothingToCancel {
        /// Which.
        vm: String,
    },
    /// Something is under way.
    #[error("{what} of VM {vm} is under way; wait for it, or `berthctl cancel {vm}`")]
    Busy {
        /// Which.
        vm: String,
        /// What.
        what: String,
    },
    /// In use.
    #[error("failover domain {domain} is used by VM {vm}; edit that VM first")]
    FailoverDomainInUse {
        /// Which.
        domain: String,
        /// By whom.
        vm: String,
    },
    /// A node that may still run something.
    #[error("node {node} cannot be removed: {why}")]
    NodeInUse {
        /// Which.
        node: String,
        /// Why.
        why: String,
    },
    /// A value out of range.
    #[error("{what} is {value}, and must be {range}")]
    OutOfRange {
        /// Which value.
        what: String,
        /// As given.
        value: String,
        /// What it may be.
        range: String,
    },
    /// An agent of other hardware under a known name.
    #[error(
        "node {node} is known with other hardware (host UUID {known}); remove it first, or give this host another name"
    )]
    OtherHardware {
        /// The name.
        node: String,
        /// The UUID on record.
        known: String,
    },
    /// A registration that was long on its way.
    #[error(
        "node {node} has registered since this registration was made; its agent asks again and registers anew"
    )]
    OutOfTurn {
        /// The name.
        node: String,
    },
    /// A node that is being fenced comes back.
    #[error("node {node} is being fenced; it may register when that is resolved")]
    FenceUnresolved {
        /// The name.
        node: String,
    },
    /// An order or word of an old session.
    #[error("session {session} of node {node} is over; the agent must register again")]
    OldSession {
        /// The node.
        node: String,
        /// As given.
        session: u64,
    },
    /// A decision made on an older state.
    #[error("{what} changed since that was decided")]
    Superseded {
        /// What.
        what: String,
    },
    /// The law: the VM may still run elsewhere.
    #[error(
        "VM {vm} may be running on {nodes}: it cannot be started on {node} before that is disproven"
    )]
    MayRunElsewhere {
        /// The VM.
        vm: String,
        /// Where it would be started.
        node: String,
        /// Where it may run.
        nodes: String,
    },
    /// A backup is being read back.
    #[error("the cluster is being restored from a backup; try again when that is done")]
    Restoring,
    /// Settings that contradict each other.
    #[error("{rule}: {arithmetic}")]
    Contradiction {
        /// What must hold.
        rule: String,
        /// The numbers.
        arithmetic: String,
    },
    /// An operator says off, and it is heard.
    #[error("node {node} is {state}, so it is not off; fence it with `berthctl fence {node}`")]
    NodeAlive {
        /// Which.
        node: String,
        /// What it is.
        state: String,
    },
    /// Nothing to release.
    #[error("no mass loss is holding anything up")]
    NoMassLoss,
    /// Fencing is held up.
    #[error(
        "many nodes seem lost at once, so nothing is fenced; `berthctl node release` goes on if they are lost indeed"
    )]
    Braked,
    /// An operator works on it.
    #[error("VM {vm} is frozen{until}: {why} ({by}); `berthctl unfreeze {vm}` if that is over")]
    Frozen {
        /// Which.
        vm: String,
        /// Who froze it.
        by: String,
        /// Why.
        why: String,
        /// " until ..." or nothing.
        until: String,
    },
    /// It is not frozen.
    #[error("VM {vm} is not frozen")]
    NotFrozen {
        /// Which.
        vm: String,
    },
    /// Nothing is started.
    #[error(
        "the cluster is locked, so nothing is started: {why} ({by}); `berthctl unlock` if that is over"
    )]
    Locked {
        /// Who locked it.
        by: String,
        /// Why.
        why: String,
    },
    /// No such placement rule.
    #[error("no placement rule is named {rule}; `berthctl rule list` lists them")]
    UnknownPlacementRule {
        /// As asked.
        rule: String,
    },
    /// Rules that can never hold.
    #[error("that could never hold: {why}; change or remove one of them first")]
    RulesClash {
        /// What cannot hold.
        why: String,
    },
    /// An operator holds up all that is done by itself.
    #[error("the cluster is paused by {by} ({why}); `berthctl unpause` goes on")]
    Paused {
        /// Who.
        by: String,
        /// Why.
        why: String,
    },
    /// It is not locked.
    #[error("the cluster is not locked")]
    NotLocked,
    /// A VM or service would wait for itself.
    #[error(
        "{what} cannot depend on that, for it would wait for itself: {way}; leave one of these dependencies out"
    )]
    DependencyCycle {
        /// Which, as `vm:web` or `service:web`.
        what: String,
        /// The way round.
        way: String,
    },
    /// One of several changes that are made together, or not at all.
    #[error("nothing was changed, because {change} is refused: {why}")]
    OneOfMany {
        /// Which, as `edit-vm web`.
        change: String,
        /// Why.
        why: Box<Rejection>,
    },
    /// Changes based on a configuration that is no longer so.
    #[error(
        "the configuration was changed at revision {now}, and these changes are based on revision {based_on}; look at `berthctl diff` and try again"
    )]
    ConfigurationChanged {
        /// As given.
        based_on: u64,
        /// The revision of the last change.
        now: u64,
    },
    /// Nothing to go on with.
    #[error("the cluster is not paused")]
    NotPaused,
    /// The same request came with another content.
    #[error("request {0} was used for another command; use a new id for each request")]
    RequestReused(RequestId),
    /// No such service.
    #[error("no service is named {service}; `berthctl service list` lists them")]
    UnknownService {
        /// As asked.
        service: String,
    },
    /// A service's spec that cannot be.
    #[error("service {service}: {why}")]
    BadService {
        /// Which.
        service: String,
        /// What is wrong with it.
        why: String,
    },
    /// The service is not in a state for this.
    #[error("service {service} is {state}: {why}")]
    ServiceState {
        /// Which.
        service: String,
        /// Its state.
        state: String,
        /// Why that forbids it and what to do.
        why: String,
    },
    /// A VM whose life is its service's.
    #[error(
        "VM {vm} is a member of service {service}, which starts, stops and moves it; act on `service:{service}`"
    )]
    MemberOfService {
        /// Which.
        vm: String,
        /// Of which service.
        service: String,
    },
    /// An operator works on it.
    #[error(
        "service {service} is frozen{until}: {why} ({by}); `berthctl unfreeze service:{service}` if that is over"
    )]
    ServiceFrozen {
        /// Which.
        service: String,
        /// Who froze it.
        by: String,
        /// Why.
        why: String,
        /// " for another ..." or nothing.
        until: String,
    },
    /// It is not frozen.
    #[error("service {service} is not frozen")]
    ServiceNotFrozen {
        /// Which.
        service: String,
    },
    /// Its members are not to migrate, or one of them cannot.
    #[error(
        "service {service} cannot be migrated: {why}; `berthctl relocate service:{service}` stops it and starts it elsewhere"
    )]
    ServiceCannotMigrate {
        /// Which.
        service: String,
        /// Why.
        why: String,
    },
    /// A release that does not name all that are lost.
    #[error(
        "{nodes} seem lost as well, and fell silent after you looked: look at them, and name them too in `berthctl node release`"
    )]
    OthersLost {
        /// Which.
        nodes: String,
    },
}
