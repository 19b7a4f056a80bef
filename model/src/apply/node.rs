//! Nodes: registration, loss, fencing and death.

use std::sync::Arc;

use crate::cluster::{ClusterState, Context};
use crate::event::EventKind;
use crate::id::{NodeId, NodeName, SessionId, VmName};
use crate::node::{AfterFence, NodeRecord, NodeState};
use crate::rejection::Rejection;
use crate::sabotage::{Rule, off};
use crate::settings::{Contradiction, Settings};

mod death;
mod fencing;
mod mass_loss;
mod registration;

pub(super) fn contradiction(found: Contradiction) -> Rejection {
    Rejection::Contradiction { rule: found.rule.into(), arithmetic: found.arithmetic }
}

impl ClusterState {
    fn vms_touching(&self, node: NodeId) -> Vec<VmName> {
        self.vms
            .values()
            .filter(|vm| {
                vm.may_run.contains_key(&node)
                    || vm.seen.contains_key(&node)
                    || vm.order.as_ref().is_some_and(|order| order.node == node)
            })
            .map(|vm| vm.spec.name.clone())
            .collect()
    }

    pub(super) fn node_mut(
        &mut self,
        cx: &Context,
        node: NodeId,
    ) -> Result<&mut NodeRecord, Rejection> {
        let unknown = || Rejection::UnknownNode { node: format!("number {node}") };
        let record = Arc::make_mut(self.nodes.get_mut(&node).ok_or_else(unknown)?);
        record.changed = cx.index;
        Ok(record)
    }

    /// The node's record, if the session named is its last one and the node is in one of these states.
    fn node_in_session(
        &mut self,
        cx: &Context,
        node: NodeId,
        session: SessionId,
        allowed: fn(&NodeState) -> bool,
    ) -> Result<&mut NodeRecord, Rejection> {
        let record = self.node_mut(cx, node)?;
        let same_session = record.last_session == session || off(Rule::ProofOfOneSession);
        let allowed = allowed(&record.state)
            || (off(Rule::ProofOfOneSession) && !matches!(record.state, NodeState::Dead(_)));
        if !same_session || !allowed {
            return Err(Rejection::Superseded { what: format!("node {}", record.name) });
        }
        Ok(record)
    }

    /// The agent ends and disarms its watchdog: from now on silence proves nothing of this session.
    pub(super) fn away(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        session: SessionId,
    ) -> Result<(), Rejection> {
        let record = self.node_mut(cx, node)?;
        if record.session() != Some(session) {
            return Err(Rejection::OldSession {
                node: record.name.to_string(),
                session: session.0,
            });
        }
        record.away = true;
        let text = format!("the agent of {} ends by plan", record.name);
        self.emit(cx, EventKind::NodeAway, None, Some(node), text);
        Ok(())
    }

    pub(super) fn set_node_policy(
        &mut self,
        cx: &mut Context,
        name: &NodeName,
        vouched: Option<bool>,
        after_fence: Option<AfterFence>,
    ) -> Result<(), Rejection> {
        if let Some(AfterFence::PowerOn { per_hour }) = after_fence
            && !(1..=60).contains(&per_hour)
        {
            return Err(Rejection::OutOfRange {
                what: "the number of times an hour a node is switched on".into(),
                value: per_hour.to_string(),
                range: "1 to 60".into(),
            });
        }
        let id = self.node(name)?.id;
        let record = self.node_mut(cx, id)?;
        record.vouched = vouched.unwrap_or(record.vouched);
        record.after_fence = after_fence.unwrap_or(record.after_fence);
        let clock = match record.vouched {
            true => "its clock is vouched for",
            false => "its clock is not vouched for",
        };
        let then = match record.after_fence {
            AfterFence::StayOff => "it stays off after a fence".to_owned(),
            AfterFence::PowerOn { per_hour } => {
                format!("it is switched on after a fence, {per_hour} times an hour at the most")
            }
        };
        let text = format!("{} set the policy of {name}: {clock}; {then}", cx.by);
        self.emit(cx, EventKind::NodePolicySet, None, Some(id), text);
        Ok(())
    }

    pub(super) fn change_settings(
        &mut self,
        cx: &mut Context,
        settings: &Settings,
    ) -> Result<(), Rejection> {
        settings.check().map_err(contradiction)?;
        self.settings = settings.clone();
        let text = format!("{} changed the settings; leases change with the next session", cx.by);
        self.emit(cx, EventKind::SettingsChanged, None, None, text);
        Ok(())
    }

    pub(super) fn remove_node(
        &mut self,
        cx: &mut Context,
        name: &NodeName,
    ) -> Result<(), Rejection> {
        let node = self.node(name)?;
        let in_use = |why: String| Rejection::NodeInUse { node: name.to_string(), why };
        if !matches!(node.state, NodeState::Dead(_)) {
            let why = format!(
                "it is {}, and only a node that is proven dead can be removed",
                node.state.as_str()
            );
            return Err(in_use(why));
        }
        if node.fence_under_way {
            return Err(in_use("a fence of it is still under way".into()));
        }
        if let Some(vm) = self.vms.values().find(|vm| vm.may_run.contains_key(&node.id))
            && !off(Rule::NodeInSetStays)
        {
            return Err(in_use(format!(
                "VM {} may be running there; its death must be proven first",
                vm.spec.name
            )));
        }
        if let Some(service) = self.services.values().find(|it| it.may_run.contains_key(&node.id)) {
            return Err(in_use(format!(
                "scripts of service {} may be running there; its death must be proven first",
                service.spec.name
            )));
        }
        if let Some(domain) =
            self.failover_domains.values().find(|domain| domain.nodes.contains_key(name))
        {
            return Err(in_use(format!("it is in failover domain {}", domain.name)));
        }
        self.emit(
            cx,
            EventKind::NodeRemoved,
            None,
            Some(node.id),
            format!("{} removed {name}", cx.by),
        );
        self.nodes.remove(&node.id);
        Ok(())
    }
}
