//! Whom the leader has a fence carried out by beside itself, and when a fenced node is switched on again.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::ClusterState;
use crate::id::NodeId;
use crate::liveness::Liveness;
use crate::node::{AfterFence, FenceDevice, NodeRecord, NodeState, ProofOfDeath};
use crate::settings::Settings;
use crate::time::Timestamp;

/// Nodes that are asked at a time: two, so that one that is about to be lost as well costs no time.
const HELPERS: usize = 2;
const HOUR_MS: u64 = 3_600_000;

/// The nodes whose agents are to fence `victim`: in session and heard, with the fence agents of a whole level installed.
/// Each attempt begins with another one, so that a node that cannot reach the device is not asked for ever.
pub fn helpers(state: &ClusterState, liveness: &Liveness, victim: &NodeRecord) -> Vec<NodeId> {
    let able: Vec<NodeId> = state
        .nodes
        .values()
        .filter(|node| node.id != victim.id && is_heard(state, liveness, node))
        .filter(|node| can_run_a_level(&victim.fence_devices, &node.features.fence_agents))
        .map(|node| node.id)
        .collect();
    if able.is_empty() {
        return able;
    }
    let failed = victim.fence_attempts.as_ref().map_or(0, |attempts| attempts.failed) as usize;
    let first = failed * HELPERS % able.len();
    able.iter().cycle().skip(first).take(HELPERS.min(able.len())).copied().collect()
}

fn is_heard(state: &ClusterState, liveness: &Liveness, node: &NodeRecord) -> bool {
    let heard = liveness.heard.get(&node.id).filter(|heard| heard.session == node.last_session);
    node.state == NodeState::Online
        && !node.away
        && node.shutdown.is_none()
        && heard
            .is_some_and(|heard| heard.met && heard.silent_ms <= state.settings.suspect_after_ms)
}

fn can_run_a_level(devices: &[FenceDevice], installed: &BTreeSet<String>) -> bool {
    let mut levels: BTreeMap<u8, bool> = BTreeMap::new();
    for device in devices {
        *levels.entry(device.level).or_insert(true) &= installed.contains(&device.agent);
    }
    levels.values().any(|whole| *whole)
}

/// Whether a fenced node is to be switched on now: its policy says so, that was not done since this death, or failed some time
/// ago, and it was not tried too often within the last hour.
pub fn power_on_is_due(node: &NodeRecord, settings: &Settings, now: Timestamp) -> bool {
    let AfterFence::PowerOn { per_hour } = node.after_fence else { return false };
    let fenced = matches!(node.state, NodeState::Dead(ProofOfDeath::Fenced { .. }));
    let waits = match &node.power_on_attempts {
        Some(attempts) => attempts.next_ms(settings.fence_retry_ms) > now,
        None => node.powered_on.iter().any(|moment| *moment >= node.state_since),
    };
    let lately = node.powered_on.iter().filter(|moment| now.since(**moment) < HOUR_MS).count();
    fenced && !waits && lately < usize::from(per_hour)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::id::{NodeName, SessionId};
    use crate::liveness::Heard;
    use crate::node::{Capacity, FenceAttempts, HostFeatures, LeaseTerms};

    fn node(id: u64, installed: &[&str]) -> NodeRecord {
        let fence_agents = installed.iter().map(|name| (*name).to_owned()).collect();
        NodeRecord {
            id: NodeId(id),
            name: NodeName::new(format!("n{id}")).unwrap(),
            hardware: uuid::Uuid::nil(),
            boot_id: "b".into(),
            booted: None,
            last_session: SessionId(id),
            state: NodeState::Online,
            state_since: Timestamp(0),
            capacity: Capacity::default(),
            migration_uri: String::new(),
            watchdog_timeout_ms: None,
            lease: LeaseTerms { ttl_ms: 3_000, self_fence_ms: 1_000 },
            longest_lease: LeaseTerms { ttl_ms: 3_000, self_fence_ms: 1_000 },
            pausable: false,
            vouched: false,
            away: false,
            lock_manager: None,
            agent_version: String::new(),
            features: HostFeatures { fence_agents, libvirt_guests: false },
            fence_devices: Vec::new(),
            after_fence: AfterFence::StayOff,
            fence_history: Vec::new(),
            powered_on: Vec::new(),
            power_on_attempts: None,
            dark_fence: Vec::new(),
            fence_attempts: None,
            fence_under_way: false,
            autostart: BTreeSet::new(),
            unmanaged: BTreeMap::new(),
            maintenance: None,
            shutdown: None,
            changed: 1,
        }
    }

    fn device(agent: &str, level: u8) -> FenceDevice {
        FenceDevice { agent: agent.into(), options: BTreeMap::new(), timeout_ms: 1_000, level }
    }

    /// Nodes 2 to 5 and how they sound; 1 is the victim.
    fn asked(
        nodes: Vec<NodeRecord>,
        silent: &[u64],
        devices: Vec<FenceDevice>,
        failed: u32,
    ) -> Vec<u64> {
        let mut victim = node(1, &["fence_a"]);
        victim.fence_devices = devices;
        victim.fence_attempts = Some(FenceAttempts { failed, at: Timestamp(0), error: None });
        let mut state = ClusterState::default();
        let mut liveness = Liveness::default();
        for node in nodes {
            let silent_ms = if silent.contains(&node.id.0) { 2_000 } else { 100 };
            let session = node.last_session;
            let heard = Heard { session, met: true, silent_ms, unanswered_ms: silent_ms };
            liveness.heard.insert(node.id, heard);
            state.nodes.insert(node.id, Arc::new(node));
        }
        state.nodes.insert(victim.id, Arc::new(victim.clone()));
        helpers(&state, &liveness, &victim).into_iter().map(|id| id.0).collect()
    }

    #[test]
    fn those_are_asked_that_are_heard_and_have_what_it_takes_another_one_each_time() {
        let all = || vec![node(2, &["fence_a"]), node(3, &["fence_a"]), node(4, &["fence_a"])];
        let a = || vec![device("fence_a", 0)];
        for (nodes, silent, devices, failed, expected, what) in [
            (all(), vec![], a(), 0, vec![2, 3], "the first two"),
            (all(), vec![], a(), 1, vec![4, 2], "the next ones"),
            (all(), vec![2], a(), 0, vec![3, 4], "not one that is silent"),
            (all(), vec![2, 3, 4], a(), 0, vec![], "nobody is heard"),
            (all(), vec![], vec![device("fence_b", 0)], 0, vec![], "nobody has it"),
            (
                all(),
                vec![],
                vec![device("fence_b", 0), device("fence_a", 1)],
                0,
                vec![2, 3],
                "a level",
            ),
            (
                all(),
                vec![],
                vec![device("fence_b", 0), device("fence_a", 0)],
                0,
                vec![],
                "half a level",
            ),
            (all(), vec![], vec![], 0, vec![], "no device"),
        ] {
            assert_eq!(asked(nodes, &silent, devices, failed), expected, "{what}");
        }
        let mut nodes = all();
        nodes[0].away = true;
        nodes[1].state = NodeState::Lost;
        assert_eq!(asked(nodes, &[], a(), 0), [4], "only who is in session and stays");
    }

    #[test]
    fn a_fenced_node_is_switched_on_once_a_death_and_so_many_times_an_hour() {
        let settings = Settings::default();
        let due = |node: &NodeRecord, now| power_on_is_due(node, &settings, now);
        let mut dead = node(1, &[]);
        dead.state = NodeState::Dead(ProofOfDeath::Fenced { device: "fence_a".into() });
        dead.state_since = Timestamp(10_000_000);
        let now = Timestamp(10_001_000);
        assert!(!due(&dead, now), "it stays off");
        dead.after_fence = AfterFence::PowerOn { per_hour: 2 };
        assert!(due(&dead, now));
        dead.powered_on = vec![Timestamp(10_000_500)];
        assert!(!due(&dead, now), "it was tried since it died");
        let failed = |failed| {
            let at = Timestamp(10_000_500);
            Some(FenceAttempts { failed, at, error: Some("busy".into()) })
        };
        dead.power_on_attempts = failed(1);
        assert!(!due(&dead, now), "it has just failed");
        let retry_ms = settings.fence_retry_ms;
        assert!(due(&dead, Timestamp(10_000_500 + retry_ms)), "and is tried again");
        dead.power_on_attempts = failed(2);
        assert!(!due(&dead, Timestamp(10_000_500 + retry_ms)), "after twice as long");
        dead.power_on_attempts = None;
        dead.powered_on = vec![Timestamp(9_000_000)];
        assert!(due(&dead, now));
        dead.powered_on.push(Timestamp(9_500_000));
        assert!(!due(&dead, now), "twice within the hour");
        assert!(due(&dead, Timestamp(12_700_000)), "the hour is over");
        dead.state = NodeState::Dead(ProofOfDeath::Lease { silent_ms: 1 });
        assert!(!due(&dead, Timestamp(12_700_000)), "it was not fenced");
    }
}
