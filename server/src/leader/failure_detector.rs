//! Stepper: heartbeats and answers in, how each node sounds out. Time is the leader's own elapsed milliseconds.
//!
//! It proposes nothing and knows no thresholds; those are `model::plan`'s.

use std::collections::BTreeMap;

use model::cluster::ClusterState;
use model::id::{NodeId, SessionId};
use model::liveness::{Heard, Liveness, Measured};
use model::sabotage::{Rule, off};
use uuid::Uuid;

/// A gap between two looks that is longer than this means that this process itself stood still: what was not heard
/// then says nothing about the nodes. Above the reconciler's period by far; where `suspect_after` is shorter, that.
const STALL_MS: u64 = 1_000;

/// The session has ended, or is about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionOver;

#[derive(Debug, Clone, Copy)]
struct Times {
    session: SessionId,
    heard: u64,
    answered: u64,
    ended: bool,
    /// Nothing of it was answered by this leader.
    fresh: bool,
    /// A heartbeat of it was heard.
    met: bool,
}

/// What this leader heard of each node in its term.
#[derive(Debug, Default)]
pub struct FailureDetector {
    /// When this leader began to listen, or began anew after a stall.
    listening_since: u64,
    looked: u64,
    nodes: BTreeMap<NodeId, Times>,
    /// When anything was heard of a node, of whatever session.
    contact: BTreeMap<NodeId, u64>,
    /// What guests use, with the node that said so and when.
    measured: BTreeMap<Uuid, (NodeId, u64, Measured)>,
}

/// What was measured longer ago says nothing any more.
const MEASURED_FOR_MS: u64 = 120_000;

/// The heartbeats that a follower carried to the leader: by node the session and when the last one came.
pub type Carried = BTreeMap<NodeId, (SessionId, u64)>;

impl FailureDetector {
    /// A new leader begins to listen: every lease is counted from this moment, and so is every silence but for those
    /// whose last heartbeats it carried itself as a follower. What it heard then lets it suspect at once, and renews
    /// nothing (design section 3, lease). Until `led_until` another leader was heard of, who may have been told through
    /// any replica; so no silence is longer than since then: an agent that went over to another replica long ago is not
    /// dead.
    pub fn begin(&mut self, now: u64, carried: &Carried, led_until: u64) {
        let times = |(node, (session, heard)): (&NodeId, &(SessionId, u64))| {
            let (session, heard) = (*session, (*heard).max(led_until).min(now));
            (*node, Times { session, heard, answered: now, ended: false, fresh: true, met: true })
        };
        let nodes = carried.iter().map(times);
        *self = Self {
            listening_since: now,
            looked: now,
            nodes: nodes.collect(),
            contact: carried.iter().map(|(node, (_, heard))| (*node, *heard)).collect(),
            measured: BTreeMap::new(),
        };
    }

    /// A node's agent says what guests use; kept in memory only, and of no weight for the law.
    pub fn measured(
        &mut self,
        node: NodeId,
        loads: impl IntoIterator<Item = (Uuid, Measured)>,
        now: u64,
    ) {
        self.measured.extend(loads.into_iter().map(|(uuid, load)| (uuid, (node, now, load))));
    }

    /// Milliseconds since anything was heard of the node, of whatever session; `None` where nothing ever was.
    pub fn last_contact_ms(&self, node: NodeId, now: u64) -> Option<u64> {
        self.contact.get(&node).map(|heard| now.saturating_sub(*heard))
    }

    /// Something of the node arrived, of whatever session: it asks to register, or knows no better.
    pub fn contacted(&mut self, node: NodeId, now: u64) {
        self.contact.insert(node, now);
    }

    /// A heartbeat of a session arrived.
    pub fn heard(&mut self, node: NodeId, session: SessionId, now: u64) -> Result<(), SessionOver> {
        self.contact.insert(node, now);
        let times = self.times(node, session, now);
        if times.ended || times.session != session {
            return Err(SessionOver);
        }
        times.heard = now;
        times.met = true;
        Ok(())
    }

    /// A heartbeat is about to be answered: the session's lease may rest on this answer from now on. Refused once the
    /// session was given up, so that no lease is renewed after the leader asked for the node's death.
    pub fn answered(
        &mut self,
        node: NodeId,
        session: SessionId,
        now: u64,
    ) -> Result<(), SessionOver> {
        let times = self.times(node, session, now);
        if times.ended || times.session != session {
            return Err(SessionOver);
        }
        times.answered = now;
        times.fresh = false;
        Ok(())
    }

    /// From now on nothing of this session is answered.
    pub fn end(&mut self, node: NodeId, session: SessionId, now: u64) {
        let times = self.times(node, session, now);
        if times.session == session {
            times.ended = true;
        }
    }

    /// How each node's last session sounds.
    pub fn look(&mut self, state: &ClusterState, now: u64) -> Liveness {
        let stall_ms = STALL_MS.min(state.settings.suspect_after_ms);
        if now.saturating_sub(self.looked) > stall_ms && !off(Rule::StalledLeaderWaits) {
            self.listening_since = now;
            for times in self.nodes.values_mut() {
                times.heard = times.heard.max(now);
                times.answered = times.answered.max(now);
            }
        }
        self.looked = now;
        self.nodes.retain(|node, _| state.nodes.contains_key(node));
        let mut heard = BTreeMap::new();
        for node in state.nodes.values() {
            let times = *self.times(node.id, node.last_session, now);
            heard.insert(
                node.id,
                Heard {
                    session: times.session,
                    met: times.met,
                    silent_ms: now.saturating_sub(times.heard),
                    unanswered_ms: match off(Rule::NewLeaderWaits) && times.fresh {
                        true => u64::MAX,
                        false => now.saturating_sub(times.answered),
                    },
                },
            );
        }
        self.measured.retain(|uuid, (_, at, _)| {
            now.saturating_sub(*at) <= MEASURED_FOR_MS && state.vm_by_uuid.contains_key(uuid)
        });
        let measured = self.measured.iter().map(|(uuid, (_, _, load))| (*uuid, *load)).collect();
        Liveness { heard, measured }
    }

    /// A session met for the first time counts from now, or from the begin of listening for one that is older.
    fn times(&mut self, node: NodeId, session: SessionId, now: u64) -> &mut Times {
        let fresh =
            Times { session, heard: now, answered: now, ended: false, fresh: true, met: false };
        let times = self.nodes.entry(node).or_insert(fresh);
        if times.session < session {
            *times = fresh;
        }
        times
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::node::{AfterFence, Capacity, LeaseTerms, NodeRecord, NodeState};
    use model::time::Timestamp;
    use uuid::Uuid;

    use super::*;

    const NODE: NodeId = NodeId(3);

    fn test_node(id: NodeId, session: SessionId) -> NodeRecord {
        NodeRecord {
            id,
            name: model::id::NodeName::new("n").unwrap(),
            hardware: Uuid::nil(),
            booted: None,
            boot_id: "b".into(),
            last_session: session,
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
            features: Default::default(),
            fence_devices: Vec::new(),
            after_fence: AfterFence::StayOff,
            fence_history: Vec::new(),
            powered_on: Vec::new(),
            power_on_attempts: None,
            dark_fence: Vec::new(),
            fence_attempts: None,
            fence_under_way: false,
            autostart: Default::default(),
            unmanaged: BTreeMap::new(),
            maintenance: None,
            shutdown: None,
            changed: 1,
        }
    }

    #[test]
    fn what_a_follower_carried_is_silent_from_then_on_and_no_lease_ends_sooner() {
        let mut state = ClusterState::default();
        let node = test_node(NODE, SessionId(5));
        state.nodes.insert(NODE, Arc::new(node));
        let mut detector = FailureDetector::default();
        detector.begin(10_000, &Carried::from([(NODE, (SessionId(5), 8_000))]), 7_000);
        let heard = detector.look(&state, 10_500).heard[&NODE];
        assert_eq!((heard.silent_ms, heard.unanswered_ms), (2_500, 500));
    }

    #[test]
    fn an_agent_that_went_over_to_another_replica_long_ago_is_silent_only_since_the_leader_is() {
        let mut state = ClusterState::default();
        state.nodes.insert(NODE, Arc::new(test_node(NODE, SessionId(5))));
        let mut detector = FailureDetector::default();
        detector.begin(90_000, &Carried::from([(NODE, (SessionId(5), 8_000))]), 89_000);
        assert_eq!(detector.look(&state, 90_100).heard[&NODE].silent_ms, 1_100);
    }

    #[test]
    fn a_node_without_a_session_is_heard_all_the_same() {
        let mut detector = FailureDetector::default();
        detector.begin(0, &Carried::new(), 0);
        assert_eq!(detector.last_contact_ms(NODE, 10), None);
        detector.contacted(NODE, 10);
        assert_eq!(detector.last_contact_ms(NODE, 25), Some(15));
    }

    #[test]
    fn a_session_that_was_given_up_is_heard_and_answered_no_more() {
        let mut detector = FailureDetector::default();
        detector.begin(0, &Carried::new(), 0);
        assert_eq!(detector.heard(NODE, SessionId(5), 10), Ok(()));
        detector.end(NODE, SessionId(5), 20);
        assert_eq!(detector.heard(NODE, SessionId(5), 30), Err(SessionOver));
        assert_eq!(detector.answered(NODE, SessionId(5), 30), Err(SessionOver));
        assert_eq!(
            detector.heard(NODE, SessionId(9), 40),
            Ok(()),
            "the next session is another matter"
        );
        assert_eq!(
            detector.heard(NODE, SessionId(5), 50),
            Err(SessionOver),
            "an older one is over"
        );
    }
}
