//! Whether all is settled: nothing is in flight, and the cluster knows what has happened.

use model::ClusterState;
use model::node::NodeState;
use model::plan::Reason;
use model::vm::{Desired as Wanted, Presence, VmRecord, VmState};

use super::Play;
use super::SETTLED_MS;
use crate::sim::network::Place;

impl Play<'_> {
    /// Nothing is in flight: no start, stop, move, fence or recovery, and the cluster knows what has happened.
    pub(super) fn settled(&self) -> bool {
        let world = &self.world;
        if world.migrating() {
            return false;
        }
        // What stands still goes on.
        if world.replicas.iter().any(|replica| replica.up && replica.stalled_until > world.now)
            || world.hosts.iter().any(|host| host.on && host.agent_stalled_until > world.now)
        {
            return false;
        }
        if world.shutting_down() || self.balances() {
            return false;
        }
        // A host that boots is something in flight.
        if world.hosts.iter().any(|host| host.on && !host.guarded) {
            return false;
        }
        let quorum = world.could_elect(0);
        if !quorum {
            // Nothing is decided; guests that were cut off have been stopped.
            return self.asked.is_empty() || world.hosts.iter().all(|host| self.quiet(host));
        }
        if !world.has_leader(0) || !self.asked.is_empty() {
            return false;
        }
        let truth = world.truth();
        let plane = &world.planes[0];
        let Some(leader) = plane.leader else { return false };
        for (number, host) in world.hosts.iter().enumerate() {
            let node = truth.nodes.values().find(|node| node.name.as_str() == host.name);
            if truth.pause.is_some() {
                // Nothing is done about a node that is not heard.
                continue;
            }
            let reachable =
                host.on && world.network.connected(Place::Host(number), Place::Replica(leader));
            let Some(node) = node else { return false };
            let session = host.agent.as_ref().and_then(|agent| agent.session);
            let known = match node.state {
                // Under the brake nobody is given up, and nothing is in flight for it.
                NodeState::Online if truth.braked() && !reachable => true,
                NodeState::Online => reachable && session == Some((node.id, node.last_session)),
                NodeState::Dead(_) | NodeState::Off => !reachable,
                NodeState::Lost => !reachable && truth.braked(),
                NodeState::Fencing => false,
            };
            if !known {
                return false;
            }
        }
        let reasons = world.replicas[leader].leading.as_ref().map(|leading| &leading.reasons);
        truth.vms.values().all(|record| {
            let reason = reasons.and_then(|reasons| reasons.get(&record.spec.name));
            self.vm_settled(&truth, record, reason)
        })
    }

    /// Load is uneven, and the hold is not over yet, or a VM was moved a moment ago and the next may follow.
    pub(super) fn balances(&self) -> bool {
        let truth = self.world.truth();
        let Some(since) = truth.uneven_since else { return false };
        let last_move = truth
            .events
            .iter()
            .rev()
            .find(|event| event.kind == model::event::EventKind::VmMigrated)
            .map_or(since, |event| event.at);
        let begun = since.max(last_move);
        self.world.wall().since(begun) < truth.settings.rebalance_hold_ms + 2 * SETTLED_MS
    }

    pub(super) fn quiet(&self, host: &crate::sim::host::SimHost) -> bool {
        let now = host.reading(self.world.now);
        host.agent.as_ref().is_none_or(|agent| agent.core.may_feed(now))
    }

    pub(super) fn vm_settled(
        &self,
        truth: &ClusterState,
        record: &VmRecord,
        reason: Option<&Reason>,
    ) -> bool {
        if record.order.is_some() {
            return false;
        }
        let stuck = matches!(reason, Some(Reason::WaitingUntil { .. }))
            || reason.is_some_and(Reason::is_stuck);
        let waits_for_mass_loss = truth.braked() && !record.may_run.is_empty();
        let asked = record.open_operation().is_some();
        if record.desired == Wanted::Ignored || truth.pause.is_some() {
            return true;
        }
        let moves = matches!(
            reason,
            Some(Reason::Deciding(_) | Reason::MoveWaits { .. } | Reason::MoveQueued { .. })
        );
        match (record.desired, record.state) {
            (_, VmState::Conflict | VmState::Lost | VmState::Failed) => true,
            (Wanted::Enabled, VmState::Started) if moves => false,
            (Wanted::Enabled, VmState::Started) => {
                !asked
                    && self.world.copies(record.spec.uuid).iter().any(|(host, presence)| {
                        *presence == Presence::Running
                            && record.owner.map(|owner| truth.node_name(owner))
                                == Some(self.world.hosts[*host].name.clone())
                    })
                    || waits_for_mass_loss
            }
            (Wanted::Enabled, _) => stuck || waits_for_mass_loss,
            (_, VmState::Stopped | VmState::Disabled) => true,
            _ => stuck || waits_for_mass_loss,
        }
    }
}
