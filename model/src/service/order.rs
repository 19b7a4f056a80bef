//! What each node's agent is to do with scripts, read off the committed state, as orders to VMs are.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::cluster::ClusterState;
use crate::id::{Generation, MemberName, NodeId, OrderId, ServiceName, SessionId};
use crate::service::{MemberKind, Script, ScriptIntent, ScriptState, ServiceRecord, ServiceState};

/// All that concerns the scripts of one node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScriptWork {
    /// Orders outstanding.
    pub orders: Vec<ScriptOrder>,
    /// Scripts that are up there, and are to be checked.
    pub watched: Vec<WatchedScript>,
}

/// One order about scripts to one agent, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptOrder {
    /// Its number; probes take the index at which the node entered the may-run set.
    pub id: OrderId,
    /// The session it is for.
    pub session: SessionId,
    /// The ownership it serves.
    pub generation: Generation,
    /// The service's name.
    pub service: ServiceName,
    /// The service's id, by which the agent knows it.
    pub service_id: Uuid,
    /// What to do.
    pub kind: ScriptOrderKind,
}

/// What an agent is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScriptOrderKind {
    /// Start it.
    Start {
        /// Which member.
        member: MemberName,
        /// How.
        script: Script,
    },
    /// Stop it.
    Stop {
        /// Which member.
        member: MemberName,
        /// How.
        script: Script,
    },
    /// Say whether any of them runs; when none does, refuse from now on all orders up to this one.
    Probe {
        /// All scripts of the service.
        scripts: Vec<(MemberName, Script)>,
    },
}

/// A script that is up, and to be checked until this is no longer said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchedScript {
    /// The service's name.
    pub service: ServiceName,
    /// The service's id.
    pub service_id: Uuid,
    /// Which member.
    pub member: MemberName,
    /// The order that started it.
    pub started_by: OrderId,
    /// How it is checked.
    pub script: Script,
}

/// All that concerns scripts now, by node. A node without a session gets nothing.
pub fn work(state: &ClusterState) -> BTreeMap<NodeId, ScriptWork> {
    let mut all: BTreeMap<NodeId, ScriptWork> = BTreeMap::new();
    let session = |node: NodeId| state.nodes.get(&node).and_then(|node| node.session());
    for record in state.services.values() {
        let order = |id, session, generation, kind| ScriptOrder {
            id,
            session,
            generation,
            service: record.spec.name.clone(),
            service_id: record.spec.id,
            kind,
        };
        if let Some(it) = &record.order
            && let Some(session) = session(it.node)
            && let Some(MemberKind::Script(script)) =
                record.spec.member(&it.member).map(|member| &member.kind)
        {
            let (member, script) = (it.member.clone(), script.clone());
            let kind = match it.intent {
                ScriptIntent::Start => ScriptOrderKind::Start { member, script },
                ScriptIntent::Stop => ScriptOrderKind::Stop { member, script },
            };
            all.entry(it.node).or_default().orders.push(order(it.id, session, it.generation, kind));
        }
        for (node, entry) in record.to_probe() {
            let Some(session) = session(node) else { continue };
            let scripts =
                record.spec.scripts().map(|(name, it)| (name.clone(), it.clone())).collect();
            let kind = ScriptOrderKind::Probe { scripts };
            let probe = order(OrderId(entry.since), session, record.generation, kind);
            all.entry(node).or_default().orders.push(probe);
        }
        if let Some(owner) = record.owner.filter(|owner| session(*owner).is_some()) {
            all.entry(owner).or_default().watched.extend(watched(record));
        }
    }
    all
}

/// What is up, while its service is neither frozen nor on its way down.
fn watched(record: &ServiceRecord) -> impl Iterator<Item = WatchedScript> + '_ {
    let live = matches!(
        record.state,
        ServiceState::Starting | ServiceState::Started | ServiceState::Migrating
    ) && record.frozen.is_none();
    record.spec.scripts().filter_map(move |(name, script)| {
        let member = record.members.get(name)?;
        let checked = matches!(member.script, ScriptState::Up | ScriptState::Bad);
        (live && checked).then(|| WatchedScript {
            service: record.spec.name.clone(),
            service_id: record.spec.id,
            member: name.clone(),
            started_by: member.started_by,
            script: script.clone(),
        })
    })
}
