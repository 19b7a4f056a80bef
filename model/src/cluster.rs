//! The replicated state, the same on every replica.

use std::sync::Arc;

use imbl::{OrdMap, Vector};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::command::{Command, Operation};
use crate::event::{Event, EventKind};
use crate::failover_domain::FailoverDomain;
use crate::fleet::Pause;
use crate::hold::Lock;
use crate::id::{
    ClusterId, Epoch, FailoverDomainName, NodeId, NodeName, PlacementRuleName, RequestId,
    ServiceName, SessionId, VmName,
};
use crate::node::{NodeRecord, NodeState};
use crate::placement_rule::PlacementRule;
use crate::rejection::Rejection;
use crate::sabotage::{Rule, off};
use crate::service::ServiceRecord;
use crate::settings::Settings;
use crate::time::Timestamp;
use crate::vm::VmRecord;

/// Events kept in the state for `berthctl events`; at a thousand bytes each, 10 MB at the most.
pub const EVENTS_KEPT: usize = 10_000;
/// A thousand numbers to each step of the epoch: as the epoch of a restored control plane is the millisecond of its restore, a
/// million log entries a second for as long as one before it lived, and two hundred years before JSON's numbers end.
const EPOCH_SHIFT: u32 = 10;
/// Where no clock says how much the one before may have given out since: a million million numbers.
const EPOCH_STEP: u64 = 1 << 30;
/// Requests remembered, so that one sent again is done once: minutes of a busy cluster, days of a usual one.
pub const REQUESTS_KEPT: usize = 20_000;

/// What a command came to.
pub type Outcome = Result<Accepted, Rejection>;

/// A lawful yes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The log index of the command; for a repeated request, of the first one.
    pub revision: u64,
    /// What the caller must know beyond that.
    pub detail: Detail,
}

/// What an accepted command gives back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Detail {
    /// Nothing more.
    None,
    /// An agent's registration.
    Registered {
        /// The node's id.
        node: NodeId,
        /// The session.
        session: SessionId,
    },
}

/// More nodes seemed lost at once than a working network loses (design section 3, mass loss).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MassLoss {
    /// Since when it has been these nodes.
    pub since: Timestamp,
    /// Which nodes.
    pub nodes: Vec<NodeId>,
    /// The operator who said that they are lost indeed.
    pub released_by: Option<String>,
}

/// One node is never a mass.
const LEAST_MASS_LOSS: usize = 2;

/// Changes that wait for the command that makes all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedChanges {
    /// Which changes belong together.
    pub batch: Uuid,
    /// Their parts, in order.
    pub parts: Vec<Arc<Vec<Operation>>>,
}

/// An answer remembered under its request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// A fingerprint of what was asked, to tell a repeated request from a reused id.
    pub content: u64,
    /// What it came to.
    pub outcome: Outcome,
}

/// All that the cluster knows. Cloning is cheap: the maps share their structure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    /// Set by the first command.
    pub cluster: Option<ClusterId>,
    /// Rises when the control plane is restored.
    pub epoch: Epoch,
    /// The log index of the last command applied.
    pub revision: u64,
    /// Cluster-wide settings.
    pub settings: Settings,
    /// By id.
    pub nodes: OrdMap<NodeId, Arc<NodeRecord>>,
    /// By name.
    pub vms: OrdMap<VmName, Arc<VmRecord>>,
    /// Which VM has a UUID.
    pub vm_by_uuid: OrdMap<Uuid, VmName>,
    /// By name.
    pub services: OrdMap<ServiceName, Arc<ServiceRecord>>,
    /// Which service agents know by an id.
    pub service_by_id: OrdMap<Uuid, ServiceName>,
    /// Which service a VM is a member of.
    pub service_of: OrdMap<VmName, ServiceName>,
    /// By name.
    pub failover_domains: OrdMap<FailoverDomainName, Arc<FailoverDomain>>,
    /// By name.
    pub placement_rules: OrdMap<PlacementRuleName, Arc<PlacementRule>>,
    /// An operator holds up all that is done by itself.
    pub pause: Option<Pause>,
    /// Since when load has been uneven beyond the threshold.
    pub uneven_since: Option<Timestamp>,
    /// Too many nodes seemed lost at once.
    pub mass_loss: Option<MassLoss>,
    /// Nothing is started, by an operator's will.
    pub lock: Option<Lock>,
    /// When VMs came back to a better node within the last hour, by failover domain.
    pub failbacks: OrdMap<FailoverDomainName, Vector<Timestamp>>,
    /// A backup is being read back: nothing else is taken until it is all there.
    pub restoring: bool,
    /// After a restore nothing is started before this: nodes that the backup does not know may still run what the old
    /// control plane let them run, until they have registered here or their leases have run out.
    pub quiet_until: Timestamp,
    /// The revision at which operators last changed what they define: VMs, failover domains, fence devices, settings.
    pub configuration: u64,
    /// Changes that are kept until they are made together.
    pub staged: Option<Arc<StagedChanges>>,
    /// What happened lately, oldest first.
    pub events: Vector<Arc<Event>>,
    /// Answers given lately.
    pub requests: OrdMap<RequestId, Arc<Remembered>>,
    /// Their order, oldest first.
    pub requests_in_order: Vector<RequestId>,
}

/// What holds while one command is applied.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// The log index of the command.
    pub(crate) index: u64,
    /// Its time.
    pub(crate) at: Timestamp,
    /// Its request.
    pub(crate) request: RequestId,
    /// Who asked.
    pub(crate) by: String,
    /// Events so far.
    pub(crate) sequence: u32,
    /// It is one of many that are made together: what only holds of all VMs at once is looked at in the end.
    pub(crate) together: bool,
}

/// The epoch of a control plane that is restored at that moment from a backup of that epoch: the moment, so that one backup
/// restored twice makes two epochs, and the later one is the higher; agents and the control plane before tell them apart by it.
/// A clock that is behind the backup's epoch cannot say what was restored since; the next epoch lies far enough above then.
pub fn restored_epoch(backup: Epoch, at: Timestamp) -> Epoch {
    if at.0 > backup.0 { Epoch(at.0) } else { Epoch(backup.0 + EPOCH_STEP) }
}

/// A control plane of that epoch gives out numbers above this one.
pub fn numbers_after(epoch: Epoch) -> u64 {
    epoch.0.saturating_sub(1) << EPOCH_SHIFT
}

impl ClusterState {
    /// Applies the command at log index `index`. The only place where state changes; a refused command changes
    /// nothing but the memory of its request.
    pub fn apply(&mut self, index: u64, command: &Command) -> Outcome {
        let content = fingerprint(command);
        let index = self.stamp(index, command.at, &command.operation);
        if let Some(remembered) = self.requests.get(&command.request)
            && !off(Rule::RequestOnce)
        {
            return if remembered.content == content {
                remembered.outcome.clone()
            } else {
                Err(Rejection::RequestReused(command.request))
            };
        }
        let mut context = Context {
            index,
            at: command.at,
            request: command.request,
            by: command.by.clone(),
            sequence: 0,
            together: false,
        };
        let outcome = self.operate(&mut context, &command.operation);
        if outcome.is_ok() && command.operation.configures() {
            self.configuration = index;
        }
        self.revision = index;
        self.remember(command.request, content, &outcome);
        outcome
    }

    /// The number by which everything that this command makes is known: the log index, raised by so much for each epoch
    /// that a restored control plane never gives out a number again that one before it used.
    fn stamp(&self, index: u64, at: Timestamp, operation: &Operation) -> u64 {
        let epoch = match operation {
            Operation::RestoreBegin { epoch, .. } if self.cluster.is_none() => {
                restored_epoch(*epoch, at)
            }
            _ => self.epoch,
        };
        numbers_after(epoch) + index
    }

    /// Whether so many nodes that seem lost at once are a broken network until an operator says otherwise: more than the set
    /// share of those that are not dead, and at least [`LEAST_MASS_LOSS`] (design section 3, mass loss).
    pub(crate) fn is_mass_loss(&self, lost: usize) -> bool {
        let alive =
            |node: &&Arc<NodeRecord>| !matches!(node.state, NodeState::Dead(_) | NodeState::Off);
        let alive = self.nodes.values().filter(alive).count() as u64;
        lost >= LEAST_MASS_LOSS && lost as u64 * 100 > alive * self.settings.mass_loss_percent
    }

    /// Whether nothing may be fenced or recovered now.
    pub fn braked(&self) -> bool {
        self.mass_loss.as_ref().is_some_and(|loss| loss.released_by.is_none())
            && !off(Rule::MassLossBrake)
    }

    fn remember(&mut self, request: RequestId, content: u64, outcome: &Outcome) {
        self.requests.insert(request, Arc::new(Remembered { content, outcome: outcome.clone() }));
        self.requests_in_order.push_back(request);
        while self.requests_in_order.len() > REQUESTS_KEPT {
            if let Some(oldest) = self.requests_in_order.pop_front() {
                self.requests.remove(&oldest);
            }
        }
    }

    /// The node of that name.
    pub fn node_named(&self, name: &NodeName) -> Option<&Arc<NodeRecord>> {
        self.nodes.values().find(|node| node.name == *name)
    }

    /// A node's name for sentences; its number when it has left the cluster.
    pub fn node_name(&self, node: NodeId) -> String {
        self.nodes
            .get(&node)
            .map_or_else(|| format!("node {node}"), |record| record.name.to_string())
    }

    /// The VM with that UUID.
    pub fn vm_with_uuid(&self, uuid: &Uuid) -> Option<&Arc<VmRecord>> {
        self.vm_by_uuid.get(uuid).and_then(|name| self.vms.get(name))
    }

    /// The revision before which events are no longer kept.
    pub fn oldest_event(&self) -> u64 {
        self.events.front().map_or(0, |event| event.revision)
    }

    pub(crate) fn emit(
        &mut self,
        context: &mut Context,
        kind: EventKind,
        vm: Option<&VmName>,
        node: Option<NodeId>,
        text: String,
    ) {
        let node = node.and_then(|id| self.nodes.get(&id)).map(|record| record.name.clone());
        self.events.push_back(Arc::new(Event {
            revision: context.index,
            sequence: context.sequence,
            at: context.at,
            kind,
            vm: vm.cloned(),
            service: None,
            node,
            text,
        }));
        context.sequence += 1;
        // A whole revision goes at a time, so that a reader never sees half of one.
        while self.events.len() > EVENTS_KEPT {
            let oldest = self.oldest_event();
            while self.events.front().is_some_and(|event| event.revision == oldest) {
                self.events.pop_front();
            }
        }
    }
}

/// FNV-1a over the debug form: stable within one build is not enough for a replicated answer, so only the variant and
/// its names go in, which are the same in every build.
fn fingerprint(command: &Command) -> u64 {
    let text = command.operation.subject();
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
