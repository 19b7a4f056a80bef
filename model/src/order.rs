//! What each node's agent is to do, read off the committed state.
//!
//! Orders are not stored as messages: they follow from the state, so that they are sent again until the state says
//! that they were reported, whoever leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use crate::cluster::ClusterState;
use crate::handling::{Checks, DomainSource, MigrationOptions, Route};
use crate::id::{Epoch, Generation, NodeId, OrderId, SessionId, VmName};
use crate::sabotage::{Rule, off};
use crate::vm::{MigrationMode, OnIsolation, OrderIntent, OrderRecord, VmRecord, VmState};

/// One order to one agent, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Its number; probes take the index at which the node entered the may-run set.
    pub id: OrderId,
    /// The session it is for: an agent does nothing for another one.
    pub session: SessionId,
    /// The control plane's epoch.
    pub epoch: Epoch,
    /// The ownership it serves.
    pub generation: Generation,
    /// The VM's name.
    pub vm: VmName,
    /// The VM's UUID, by which the agent knows it.
    pub uuid: Uuid,
    /// What the node does with the VM when its lease runs out.
    pub on_isolation: OnIsolation,
    /// What to do.
    pub kind: OrderKind,
}

/// What an agent is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderKind {
    /// Create the domain from this XML, unless it is there.
    Start {
        /// The domain XML, as the log has it.
        xml: Arc<str>,
        /// Where it is read from instead.
        source: DomainSource,
        /// A file to restore it from, if that is there.
        memory_file: Option<String>,
        /// What has to succeed before it is started.
        checks: Checks,
        /// Milliseconds within which that has to be.
        timeout_ms: u64,
    },
    /// Shut it down, and destroy it after so long; `None` destroys at once.
    Stop {
        /// Milliseconds for the guest.
        graceful_ms: Option<u64>,
        /// Save its memory in this file first.
        memory_file: Option<String>,
        /// Never destroy it.
        ask_only: bool,
    },
    /// Migrate it.
    Migrate {
        /// The target's name, for messages.
        to: String,
        /// How it is reached.
        route: Route,
        /// Live or paused.
        mode: MigrationMode,
        /// How else.
        options: MigrationOptions,
        /// Abort it where it is under way.
        cancelled: bool,
    },
    /// Mark the running domain as the cluster's and note the generation.
    Adopt,
    /// Say whether it is there; when it is not, refuse from now on all orders up to this one.
    Probe,
    /// Let a copy that this node's self-fence stopped run on.
    Resume,
}

/// What an agent is to keep an eye on: not an order, for it ends with the ownership and no report ends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// The VM's name, for the programs that check it.
    pub vm: VmName,
    /// The VM.
    pub uuid: Uuid,
    /// How it is checked.
    pub checks: Checks,
}

/// The VMs that run and are to be checked, by owner.
pub fn watches(state: &ClusterState) -> BTreeMap<NodeId, Vec<Watch>> {
    let mut all: BTreeMap<NodeId, Vec<Watch>> = BTreeMap::new();
    for record in state.vms.values() {
        let checks = &record.spec.policy.handling.checks;
        if let Some(owner) = record.owner
            && record.state == VmState::Started
            && checks.any()
        {
            let (vm, uuid) = (record.spec.name.clone(), record.spec.uuid);
            all.entry(owner).or_default().push(Watch { vm, uuid, checks: checks.clone() });
        }
    }
    all
}

/// All orders that are outstanding now, by node. A node without a session gets none.
pub fn outstanding(state: &ClusterState) -> BTreeMap<NodeId, Vec<Order>> {
    let mut orders: BTreeMap<NodeId, Vec<Order>> = BTreeMap::new();
    for record in state.vms.values() {
        let mut add =
            |node: NodeId, id: u64, generation: Generation, isolation, kind: OrderKind| {
                let Some(session) = state.nodes.get(&node).and_then(|node| node.session()) else {
                    return;
                };
                orders.entry(node).or_default().push(Order {
                    id: OrderId(id),
                    session,
                    epoch: state.epoch,
                    generation,
                    vm: record.spec.name.clone(),
                    uuid: record.spec.uuid,
                    on_isolation: isolation,
                    kind,
                });
            };
        if let Some(order) = &record.order
            && let Some(kind) = kind_of(state, record, order)
        {
            add(order.node, order.id.0, order.generation, order.on_isolation, kind);
        }
        for (node, entry) in record.to_probe() {
            let isolation = record.bound_isolation;
            add(node, entry.since, record.generation, isolation, OrderKind::Probe);
        }
    }
    orders
}

/// What a registering agent must know, so that one that lost its ledger refuses what was ruled out before: orders up to
/// `below` are refused but for those about what may run there. What may not is nearly all of the cluster, so it is not named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Floors {
    /// By log index, as the numbers of orders are.
    pub below: u64,
    /// The VMs that may run there, by UUID.
    pub vms: BTreeSet<Uuid>,
    /// The services of which scripts may run there, by id.
    pub services: BTreeSet<Uuid>,
}

/// The floors of a node.
pub fn floors(state: &ClusterState, node: NodeId) -> Floors {
    if off(Rule::FloorsRestored) {
        return Floors::default();
    }
    let vms = state.vms.values().filter(|record| record.may_run.contains_key(&node));
    let services = state.services.values().filter(|record| record.may_run.contains_key(&node));
    Floors {
        below: state.revision,
        vms: vms.map(|record| record.spec.uuid).collect(),
        services: services.map(|record| record.spec.id).collect(),
    }
}

fn kind_of(state: &ClusterState, record: &VmRecord, order: &OrderRecord) -> Option<OrderKind> {
    let handling = &record.spec.policy.handling;
    Some(match &order.intent {
        OrderIntent::Start => OrderKind::Start {
            xml: record.spec.xml.clone(),
            source: handling.source.clone(),
            memory_file: order.memory_file.clone(),
            checks: handling.checks.clone(),
            timeout_ms: handling.start_timeout_ms,
        },
        OrderIntent::Resume => OrderKind::Resume,
        OrderIntent::Evict => {
            OrderKind::Stop { graceful_ms: None, memory_file: None, ask_only: false }
        }
        OrderIntent::Stop { graceful_ms } => OrderKind::Stop {
            graceful_ms: *graceful_ms,
            memory_file: order.memory_file.clone(),
            ask_only: order.ask_only,
        },
        OrderIntent::Adopt => OrderKind::Adopt,
        OrderIntent::Migrate { to, mode, cancelled } => {
            let target = state.nodes.get(to)?;
            OrderKind::Migrate {
                to: target.name.to_string(),
                route: handling.migration.route(&target.name, &target.migration_uri),
                mode: *mode,
                options: handling.migration.clone(),
                cancelled: *cancelled,
            }
        }
    })
}
