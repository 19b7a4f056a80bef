//! Stepper: heartbeats and answers in, how each node sounds out. Time is the leader's own elapsed milliseconds.
//!
//! It proposes nothing and knows no thresholds; those are `model::plan`'s.

use std::collections::BTreeMap;

use model::cluster::ClusterState;
use model::id::{NodeId, SessionId};
use model::liveness::{Heard, Liveness};

/// A gap between two looks that is longer than this means that this process itself stood still: what was not heard
/// then says nothing about the nodes. Above the reconciler's period by far, below `suspect_after` by default.
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
}

/// What this leader heard of each node in its term.
#[derive(Debug, Default)]
pub struct FailureDetector {
    /// When this leader began to listen, or began anew after a stall.
    listening_since: u64,
    looked: u64,
    nodes: BTreeMap<NodeId, Times>,
}

impl FailureDetector {
    /// A new leader begins to listen: every silence and every lease is counted from this moment.
    pub fn begin(&mut self, now: u64) {
        *self = Self { listening_since: now, looked: now, nodes: BTreeMap::new() };
    }

    /// A heartbeat of a session arrived.
    pub fn heard(&mut self, node: NodeId, session: SessionId, now: u64) -> Result<(), SessionOver> {
        let times = self.times(node, session, now);
        if times.ended || times.session != session {
            return Err(SessionOver);
        }
        times.heard = now;
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
        if now.saturating_sub(self.looked) > STALL_MS {
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
                    silent_ms: now.saturating_sub(times.heard),
                    unanswered_ms: now.saturating_sub(times.answered),
                },
            );
        }
        Liveness { heard }
    }

    /// A session met for the first time counts from now, or from the begin of listening for one that is older.
    fn times(&mut self, node: NodeId, session: SessionId, now: u64) -> &mut Times {
        let fresh = Times { session, heard: now, answered: now, ended: false };
        let times = self.nodes.entry(node).or_insert(fresh);
        if times.session < session {
            *times = fresh;
        }
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(3);

    #[test]
    fn a_session_that_was_given_up_is_heard_and_answered_no_more() {
        let mut detector = FailureDetector::default();
        detector.begin(0);
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
