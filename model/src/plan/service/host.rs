//! A service on a host that goes down in good order, or that is to be empty.

use std::collections::BTreeSet;

use super::Planner;
use crate::command::{Operation, ServiceAsk};
use crate::fleet::ShutdownPolicy;
use crate::id::NodeId;
use crate::node::NodeState;
use crate::plan::Reason;
use crate::vm::AutomaticMoves;

impl Planner<'_> {
    /// Its agent said that the host goes down: all of the service stops there in its order.
    pub(super) fn goes_down(&self, node: NodeId) -> bool {
        self.state.nodes.get(&node).is_some_and(|node| node.shutdown.is_some())
    }

    /// It was stopped with its host, and waits for it as the policy says; not when an operator wants it now, or when the
    /// host has died meanwhile.
    pub(super) fn waits_for_host(&self) -> Option<Reason> {
        let record = self.record;
        if record.open_operation().is_some() {
            return None;
        }
        let host = record.last_owner.and_then(|last| self.state.nodes.get(&last))?;
        let policy = self.state.settings.shutdown_policy;
        let waits = match host.shutdown {
            Some(shutdown) => {
                let died = matches!(host.state, NodeState::Dead(_));
                record.state_since >= shutdown.at
                    && policy.waits(shutdown.then)
                    && (!died || policy == ShutdownPolicy::Freeze)
            }
            // It is back, and what it registered with may have been long on its way.
            None => {
                let heard = self.liveness.heard.get(&host.id);
                let met = heard.is_none_or(|it| it.session != host.last_session || it.met);
                host.session().is_some() && host.state_since >= record.state_since && !met
            }
        };
        waits.then(|| Reason::WaitsForHost { node: host.name.to_string() })
    }

    /// An operator wants its node empty. It is relocated, which stops its VMs: only when their policies let them be stopped
    /// for a move, and when another node can take all of it.
    pub(super) fn leave(&mut self, owner: NodeId) -> Option<Reason> {
        self.state.nodes.get(&owner)?.maintenance.as_ref()?;
        if let Some(lock) = &self.state.lock {
            return Some(Reason::Locked { by: lock.by.clone(), why: lock.why.clone() });
        }
        let name = &self.record.spec.name;
        let vms = self.record.spec.vms().filter_map(|vm| self.state.vms.get(vm));
        let bound = vms.into_iter().find_map(|vm| {
            let vm_name = &vm.spec.name;
            match (vm.spec.policy.automatic_moves, &vm.frozen) {
                (_, Some(freeze)) => Some(format!("VM {vm_name} is frozen by {}", freeze.by)),
                (AutomaticMoves::Cold, None) => None,
                (AutomaticMoves::Live | AutomaticMoves::Never, None) => Some(format!(
                    "the policy of VM {vm_name} does not let it be stopped for a move; `berthctl relocate service:{name}` moves it"
                )),
            }
        });
        if let Some(why) = bound {
            return Some(Reason::CannotLeave { why });
        }
        let here = BTreeSet::from([owner]);
        let choices = self.choices(&here);
        Some(match self.best(choices, &here) {
            Ok(_) => {
                let ask = ServiceAsk::Relocate { to: None };
                self.plan.operations.push(Operation::AskService { service: name.clone(), ask });
                Reason::Deciding("it leaves its node, which is to be empty".into())
            }
            Err(no_place) => Reason::CannotLeave { why: no_place.to_string() },
        })
    }
}
