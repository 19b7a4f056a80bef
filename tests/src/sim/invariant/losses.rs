//! A leader that stood still itself gives nobody up for the silence of that time.

use model::node::NodeState;

use super::{Invariant, Observation};
use crate::sim::World;

/// A stall shorter than this may go unnoticed, and costs no node its session.
const SHORTEST_STALL_MS: u64 = 1_200;

pub(super) struct LossesAreJust;

impl Invariant for LossesAreJust {
    fn name(&self) -> &'static str {
        "losses-are-just"
    }

    fn see(&mut self, world: &World, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::GivenUp { replica, node } = observation else { return Ok(()) };
        let replica = &world.replicas[*replica];
        let off = replica.state.nodes.get(node).is_some_and(|it| it.state == NodeState::Off);
        if off {
            // Not for its silence: something of it is to be known after all.
            return Ok(());
        }
        let stood_still = replica.stalled_until.saturating_sub(replica.stalled_since);
        let since = world.now.saturating_sub(replica.stalled_until);
        let window = replica.state.settings.lost_after_ms * 98 / 100;
        // It led before it stood still, or else it listens since it leads.
        let led = replica.leading.as_ref().is_some_and(|it| it.since <= replica.stalled_since);
        if led && stood_still > SHORTEST_STALL_MS && since < window {
            return Err(format!(
                "node {node} was given up by a leader that had stood still for {stood_still} ms until {since} ms before"
            ));
        }
        Ok(())
    }
}
