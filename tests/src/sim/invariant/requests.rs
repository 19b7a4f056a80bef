//! A request that is sent again is done once, and no word of an old session is heard.

use std::collections::BTreeSet;

use model::command::Operation;
use uuid::Uuid;

use super::{Invariant, Observation};
use crate::sim::World;

/// A seed of the usual length has a few hundred commands; what is decided again and again fills a disk.
const LOG_MOST: usize = 4_000;

#[derive(Default)]
pub(super) struct RequestsOnce {
    /// By epoch: a restored control plane knows nothing of requests before it.
    seen: BTreeSet<(u64, Uuid)>,
}

impl Invariant for RequestsOnce {
    fn name(&self) -> &'static str {
        "requests-once"
    }

    fn see(&mut self, world: &World, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::Committed { command, outcome, before, after, .. } = observation else {
            return Ok(());
        };
        let log = world.planes.last().map_or(0, |plane| plane.log.len());
        if log > LOG_MOST {
            return Err(format!(
                "{log} commands, the last of them {}",
                command.operation.subject()
            ));
        }
        if let (Operation::Report { node, session, .. }, Ok(_)) = (&command.operation, outcome)
            && !self.seen.contains(&(before.epoch.0, command.request.0))
            && before.nodes.get(node).and_then(|node| node.session()) != Some(*session)
        {
            return Err(format!(
                "a report of session {session} of node {node} was taken after its end"
            ));
        }
        let again = !self.seen.insert((before.epoch.0, command.request.0));
        if again && before.revision != after.revision {
            return Err(format!("{} was done twice", command.operation.subject()));
        }
        Ok(())
    }
}
