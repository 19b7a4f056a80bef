//! A frozen VM is followed where it goes, and not touched: no order to start, stop, migrate or destroy it is given, whoever
//! asks. What was under way when it was frozen goes on to its end.

use model::vm::{OrderIntent, OrderRecord};

use super::{Invariant, Observation};
use crate::sim::World;

pub(super) struct FrozenUntouched;

/// Following a guest is marking it; and what Berth itself suspended it lets run on.
pub(super) fn touches(intent: &OrderIntent) -> bool {
    match intent {
        OrderIntent::Start
        | OrderIntent::Stop { .. }
        | OrderIntent::Migrate { .. }
        | OrderIntent::Evict => true,
        OrderIntent::Adopt | OrderIntent::Resume => false,
    }
}

/// Given by this command; calling off what is under way gives none.
pub(super) fn is_new(old: Option<&OrderRecord>, order: &OrderRecord) -> bool {
    old.is_none_or(|old| old.id != order.id)
}

impl Invariant for FrozenUntouched {
    fn name(&self) -> &'static str {
        "frozen-untouched"
    }

    fn see(&mut self, _world: &World, observation: &Observation<'_>) -> Result<(), String> {
        let Observation::Committed { command, outcome: Ok(_), before, after, .. } = observation
        else {
            return Ok(());
        };
        for old in before.vms.values().filter(|it| it.frozen.is_some()) {
            let Some(new) = after.vms.get(&old.spec.name) else { continue };
            let order = new.order.as_ref().filter(|order| is_new(old.order.as_ref(), order));
            if let Some(order) = order.filter(|order| touches(&order.intent)) {
                return Err(format!(
                    "{} is frozen, and is ordered to {:?} by {:?}",
                    old.spec.name, order.intent, command.operation
                ));
            }
        }
        Ok(())
    }
}
