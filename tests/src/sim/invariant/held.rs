//! What operators hold back stays so: nothing starts while the cluster is locked, nothing is done by itself while it is
//! paused, a claimed VM is not started, and an ignored one is not touched.

use model::ClusterState;
use model::command::Operation;
use model::service::ScriptIntent;
use model::vm::{Desired, OrderIntent};

use super::frozen::{is_new, touches};
use super::{Invariant, Observation};
use crate::sim::World;

pub(super) struct HeldIsHeld;

impl Invariant for HeldIsHeld {
    fn name(&self) -> &'static str {
        "held-is-held"
    }

    fn see(&mut self, _world: &World, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::Committed { command, outcome: Ok(_), before, after, .. } = observation
        else {
            return Ok(());
        };
        let by_itself =
            matches!(command.operation, Operation::Decide { .. } | Operation::DecideService { .. });
        if before.pause.is_some() && matches!(command.operation, Operation::FenceAsked { .. }) {
            return Err(format!(
                "the cluster is paused, and {:?} was committed",
                command.operation
            ));
        }
        if !by_itself {
            return Ok(());
        }
        for new in after.vms.values() {
            let Some(old) = before.vms.get(&new.spec.name) else { continue };
            let order = new.order.as_ref().filter(|order| is_new(old.order.as_ref(), order));
            let Some(order) = order.filter(|order| touches(&order.intent)) else { continue };
            let starts = order.intent == OrderIntent::Start;
            let held = match old {
                _ if before.pause.is_some() => "the cluster is paused",
                _ if before.lock.is_some() && starts => "the cluster is locked",
                old if old.claim.is_some() && starts => "it is claimed",
                old if old.desired == Desired::Ignored => "it is ignored",
                _ => continue,
            };
            return Err(format!("{held}, and {} is ordered to {:?}", new.spec.name, order.intent));
        }
        scripts(before, after)
    }
}

fn scripts(before: &ClusterState, after: &ClusterState) -> Result<(), String> {
    for new in after.services.values() {
        let Some(old) = before.services.get(&new.spec.name) else { continue };
        let order = new.order.as_ref().filter(|order| Some(*order) != old.order.as_ref());
        let Some(order) = order else { continue };
        let starts = order.intent == ScriptIntent::Start;
        let held = match old {
            _ if before.pause.is_some() => "the cluster is paused",
            _ if before.lock.is_some() && starts => "the cluster is locked",
            old if old.is_frozen(order.at) => "the service is frozen",
            _ => continue,
        };
        return Err(format!(
            "{held}, and {} of {} is ordered to {:?}",
            order.member, new.spec.name, order.intent
        ));
    }
    Ok(())
}
