//! Mass loss: many nodes seem lost at once, until an operator or their return says otherwise.

use std::sync::Arc;

use crate::cluster::{ClusterState, Context, MassLoss};
use crate::event::EventKind;
use crate::id::{NodeId, NodeName};
use crate::node::{NodeRecord, NodeState};
use crate::rejection::Rejection;
use crate::sabotage::{Rule, off};

impl ClusterState {
    pub(in crate::apply) fn mass_loss(
        &mut self,
        cx: &mut Context,
        nodes: &[NodeId],
    ) -> Result<(), Rejection> {
        let released = self.mass_loss.as_ref().is_some_and(|loss| loss.released_by.is_some());
        if let Some(loss) = &mut self.mass_loss
            && (!released || nodes.iter().all(|node| loss.nodes.contains(node)))
        {
            if loss.nodes == nodes || released {
                return Err(Rejection::Superseded { what: "the mass loss".into() });
            }
            // It goes on with others: the calm before its end is counted anew.
            loss.nodes = nodes.to_vec();
            loss.since = cx.at;
            return self.note_all_down(cx, nodes);
        }
        let names: Vec<_> = nodes.iter().map(|node| self.node_name(*node)).collect();
        self.mass_loss = Some(MassLoss { since: cx.at, nodes: nodes.to_vec(), released_by: None });
        let text = format!(
            "{} seem lost at once: that is a broken network until an operator says otherwise, and nothing is fenced or recovered",
            names.join(", ")
        );
        self.emit(cx, EventKind::MassLoss, None, None, text);
        self.note_all_down(cx, nodes)
    }

    /// More nodes are lost than whoever leads knew when it decided on a fence: it will brake.
    pub(super) fn brakes_unseen(&self) -> bool {
        let is_lost =
            |node: &&Arc<NodeRecord>| matches!(node.state, NodeState::Lost | NodeState::Fencing);
        let lost = || self.nodes.values().filter(is_lost);
        let released = self.mass_loss.as_ref().is_some_and(|loss| {
            loss.released_by.is_some()
                && (off(Rule::ReleaseIsOfItsNodes)
                    || lost().all(|node| loss.nodes.contains(&node.id)))
        });
        self.is_mass_loss(lost().count()) && !released && !off(Rule::MassLossBrake)
    }

    pub(in crate::apply) fn mass_loss_over(&mut self, cx: &mut Context) -> Result<(), Rejection> {
        if self.mass_loss.take().is_none() {
            return Err(Rejection::NoMassLoss);
        }
        let text = "no longer are so many nodes lost at once".to_owned();
        self.emit(cx, EventKind::MassLossEnded, None, None, text);
        self.note_still_there(cx)
    }

    /// An operator's word of the nodes they were shown: what fell silent since is looked at first.
    pub(in crate::apply) fn release_mass_loss(
        &mut self,
        cx: &mut Context,
        nodes: &[NodeName],
    ) -> Result<(), Rejection> {
        nodes.iter().try_for_each(|name| self.node(name).map(drop))?;
        let loss = self.mass_loss.as_ref().filter(|loss| loss.released_by.is_none());
        let lost = loss.ok_or(Rejection::NoMassLoss)?.nodes.iter();
        let others: Vec<_> = lost
            .filter_map(|id| self.nodes.get(id))
            .filter(|node| !nodes.contains(&node.name) && !off(Rule::ReleaseIsOfItsNodes))
            .map(|node| node.name.to_string())
            .collect();
        if !others.is_empty() {
            return Err(Rejection::OthersLost { nodes: others.join(", ") });
        }
        let by = cx.by.clone();
        if let Some(loss) = &mut self.mass_loss {
            loss.released_by = Some(by.clone());
        }
        let names: Vec<_> = nodes.iter().map(ToString::to_string).collect();
        let text = format!(
            "{by} says that {} are lost indeed: fencing and recovery go on",
            names.join(", ")
        );
        self.emit(cx, EventKind::MassLossEnded, None, None, text);
        Ok(())
    }

    /// It is back: what an operator said of it, while it was lost, is not said of the next time.
    pub(super) fn is_no_longer_lost(&mut self, cx: &Context, node: NodeId) {
        let Some(loss) = &mut self.mass_loss else { return };
        if !loss.nodes.contains(&node) || off(Rule::ReleaseIsOfItsNodes) {
            return;
        }
        loss.nodes.retain(|other| *other != node);
        // The others may be on their way back, too: the calm before the end is counted anew.
        loss.since = cx.at;
    }
}
