//! How it ended: the last line of the trace.

use model::ClusterState;
use model::fleet::PauseMode;
use model::id::VmName;
use model::node::NodeState;
use model::plan::Reason;
use model::vm::{Desired as Wanted, VmRecord, VmState};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::Play;

impl Play<'_> {
    pub(super) fn ending(&self) -> Map<String, Value> {
        let truth = self.world.truth();
        let decided = self.world.could_elect(0);
        let leader = self.world.planes[0].leader.map(|leader| &self.world.replicas[leader]);
        let reasons = leader.and_then(|leader| leader.leading.as_ref()).map(|it| &it.reasons);
        let vms: Map<String, Value> = self
            .scenario
            .vms
            .keys()
            .filter_map(|name| {
                let vm = VmName::new(name).ok()?;
                let uuid = self.uuid(name).ok()?;
                let place = self.running_at(uuid);
                let (state, node) = match truth.vms.get(&vm) {
                    None if self.removed.contains(name) => ("removed", place),
                    None => ("unmanaged", place),
                    Some(record) => {
                        let reason = reasons.and_then(|reasons| reasons.get(&vm));
                        let state = state(&truth, record, reason, decided, place.is_some());
                        (state, place.or_else(|| self.place_of(name)))
                    }
                };
                Some((name.clone(), json!({"state": state, "node": node})))
            })
            .collect();
        let nodes: Map<String, Value> = self
            .world
            .hosts
            .iter()
            .map(|host| {
                let node = truth.nodes.values().find(|node| node.name.as_str() == host.name);
                let maintained = node.is_some_and(|node| node.maintenance.is_some());
                let word = match node.map(|node| &node.state) {
                    Some(NodeState::Online) if maintained => "maintenance",
                    Some(NodeState::Online) => "up",
                    Some(NodeState::Lost | NodeState::Fencing) => "being-fenced",
                    Some(NodeState::Dead(_) | NodeState::Off) | None => "unknown",
                };
                (host.name.clone(), json!(word))
            })
            .collect();
        Map::from_iter([
            ("vms".to_owned(), Value::Object(vms)),
            ("nodes".to_owned(), Value::Object(nodes)),
        ])
    }

    pub(super) fn running_at(&self, uuid: Uuid) -> Option<String> {
        let runs = |it: &&crate::sim::host::SimHost| it.running(self.world.now).contains(&uuid);
        self.world.hosts.iter().find(runs).map(|host| host.name.clone())
    }
}

/// Its recovery policy or its start limit gave up on it.
pub(super) fn gave_up(record: &VmRecord) -> bool {
    record.state == VmState::Disabled && record.failure.is_some()
}

fn state(
    truth: &ClusterState,
    record: &VmRecord,
    reason: Option<&Reason>,
    decided: bool,
    runs: bool,
) -> &'static str {
    let let_go = truth.pause.as_ref().is_some_and(|pause| pause.mode == PauseMode::Ignore);
    match record.state {
        _ if record.desired == Wanted::Ignored || let_go => "unmanaged",
        // A stop of it failed: nothing more is done, whether it runs or not.
        VmState::Failed => "failed",
        _ if runs && record.state != VmState::Conflict => "running",
        _ if !decided && record.desired == Wanted::Enabled => "no-quorum",
        VmState::Conflict => "conflict",
        VmState::Lost => "lost",
        VmState::Disabled if gave_up(record) => "failed",
        VmState::Stopped | VmState::Disabled if record.desired != Wanted::Enabled => "stopped",
        _ if truth.pause.is_some() => "frozen",
        // Its recovery policy gave up on it.
        VmState::Disabled => "failed",
        _ if matches!(reason, Some(Reason::WaitsForHost { .. })) => "frozen",
        VmState::Recovering if matches!(reason, Some(Reason::WaitingUntil { .. })) => "failed",
        _ if matches!(reason, Some(Reason::NoPlace(_))) => "unplaceable",
        VmState::Recovering => "failed",
        _ => "stopped",
    }
}
