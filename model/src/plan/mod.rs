//! The whole of the leader's policy: from the state, what it hears and the time to what it should propose.
//!
//! ```text
//!  for every node:  silence ▶ lost ▶ fence asked │ lease proof ▶ dead            (failover.rs)
//!  for every VM:    state × wanted × seen ▶ start, stop, migrate, adopt, wait    (vm.rs, recovery.rs, placement.rs)
//!  for every node that is to be empty, every rule, uneven load: moves             (moves.rs, ruling.rs, balance.rs)
//! ```
//! Planning twice is harmless: every decision names the revision of the record it was made on, and `apply` refuses it
//! on another. It takes no hint of what changed.

mod ailing;
mod automatic;
mod balance;
mod exclusive;
mod failback;
pub mod failover;
pub mod fencing;
mod flow;
pub mod load;
pub mod placement;
pub mod reason;
mod recovery;
mod ruling;
mod service;
mod vm;

use std::collections::BTreeMap;

use crate::cluster::ClusterState;
use crate::command::Operation;
use crate::id::{NodeId, ServiceName, VmName};
use crate::liveness::Liveness;
use crate::plan::flow::{Flow, Turn};
use crate::time::Timestamp;

pub use exclusive::{EXCLUSIVE_IS_THERE, OTHERS_ARE_THERE};
pub use load::Load;
pub use placement::{Candidate, NoPlace, Placement};
pub use reason::Reason;

/// What the leader should do now, and why not more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be proposed, in this order.
    pub operations: Vec<Operation>,
    /// For each VM that is not as it should be: what is done about it, or why nothing is.
    pub vms: BTreeMap<VmName, Reason>,
    /// The same for services.
    pub services: BTreeMap<ServiceName, Reason>,
    /// The same for nodes.
    pub nodes: BTreeMap<NodeId, Reason>,
    /// The next moment at which time alone changes the plan.
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// Plans from the whole state.
pub fn plan(state: &ClusterState, liveness: &Liveness, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if state.cluster.is_none() {
        return plan;
    }
    failover::plan_nodes(state, liveness, now, &mut plan);
    let mut load = Load::measured(state, liveness);
    let mut flow = Flow::of(state);
    let mut moves = automatic::Moves::of(state);
    for turn in flow::in_order(state) {
        match turn {
            Turn::Vm(record) => {
                let counts = (&mut load, &mut flow, &mut moves);
                vm::plan_vm(state, liveness, now, counts, record, &mut plan);
            }
            Turn::Service(record) => {
                let counts = (&mut load, &mut flow);
                service::plan_service(state, liveness, now, counts, record, &mut plan);
            }
        }
    }
    balance::even_out(state, liveness, now, &mut moves, &load, &mut plan);
    plan
}
