//! What must never be, one file each. All of them look at every step; the first that sees its own broken ends the run.

mod convergence;
mod counters;
mod decisions;
mod frozen;
mod held;
mod holds;
mod identities;
mod lease;
mod leaving_set;
mod ledger;
mod losses;
mod may_run;
mod orders;
mod proofs;
mod registrations;
mod requests;
mod resume;
mod scripts;
mod self_fence;
mod services;
mod single_owner;

use agent::hypervisor::call::Call;
use agent::script::call::ScriptCall;
use model::ClusterState;
use model::cluster::Outcome;
use model::command::Command;
use model::id::{NodeId, SessionId};
use uuid::Uuid;

use super::World;

pub use convergence::converged;

/// Something that happened.
pub enum Observation<'o> {
    /// Anything.
    Step,
    /// A command was committed by the newest control plane.
    Committed {
        /// Which.
        command: &'o Command,
        /// What it came to.
        outcome: &'o Outcome,
        /// The state before.
        before: &'o ClusterState,
        /// The state after.
        after: &'o ClusterState,
        /// Whoever proposed it still led then.
        in_office: bool,
    },
    /// A leader proposes the end of a node's session.
    GivenUp {
        /// Which leader.
        replica: usize,
        /// Which node.
        node: NodeId,
    },
    /// A leader passes an operator's word on that a node is off, which was heard so many milliseconds before.
    SaidOff {
        /// By which the word is known.
        request: Uuid,
        /// How long nothing was heard of the node.
        silent_ms: u64,
    },
    /// An agent feeds its watchdog.
    Fed {
        /// On which host.
        host: usize,
    },
    /// An agent has read a list of orders.
    Heard {
        /// On which host.
        host: usize,
        /// One that it has begun, and that is of another session or epoch than its own.
        foreign: Option<u64>,
    },
    /// A replica has heard from an agent that has met this epoch, and goes on.
    Met {
        /// Which.
        replica: usize,
        /// The epoch.
        epoch: u64,
    },
    /// An agent makes a call.
    Call {
        /// On which host.
        host: usize,
        /// About which VM.
        uuid: Uuid,
        /// What.
        call: &'o Call,
    },
    /// A call had its effect, or failed.
    Called {
        /// On which host.
        host: usize,
        /// About which VM.
        uuid: Uuid,
        /// What.
        call: &'o Call,
        /// It had its effect.
        done: bool,
    },
    /// An agent has a script run.
    ScriptRuns {
        /// On which host.
        host: usize,
        /// What.
        call: &'o ScriptCall,
    },
    /// An agent took a session.
    Registered {
        /// On which host.
        host: usize,
        /// As which node.
        node: NodeId,
        /// In which session.
        session: SessionId,
    },
    /// A fence device is about to cut a host's power.
    FenceBites {
        /// Of which host.
        host: usize,
        /// For the death of which session.
        session: SessionId,
    },
    /// A leader answered a heartbeat.
    Answered {
        /// Of which node.
        node: NodeId,
        /// In which session.
        session: SessionId,
        /// It had proposed that session's loss before.
        given_up: bool,
    },
}

/// Something that must hold.
pub trait Invariant: Send {
    /// Its name.
    fn name(&self) -> &'static str;
    /// Looks at what happened; an error says what is wrong.
    fn see(&mut self, world: &World, observation: &Observation<'_>) -> Result<(), String>;
}

/// What was the matter.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which invariant.
    pub invariant: &'static str,
    /// When, in virtual milliseconds.
    pub at: u64,
    /// What.
    pub what: String,
}

/// All of them.
pub fn all() -> Vec<Box<dyn Invariant>> {
    vec![
        Box::new(single_owner::SingleOwner::default()),
        Box::new(may_run::MayRunCovers),
        Box::new(proofs::ProofsHold::default()),
        Box::new(decisions::DecisionsAreLawful::default()),
        Box::new(orders::OrdersAreFresh::default()),
        Box::new(ledger::LedgerNeverGoesBack::default()),
        Box::new(resume::OnlyOwnIsResumed),
        Box::new(counters::CountersAreRight::default()),
        Box::new(requests::RequestsOnce::default()),
        Box::new(self_fence::SelfFenceInTime::default()),
        Box::new(lease::NothingBeginsWithoutLease),
        Box::new(leaving_set::SetIsLeftLawfully),
        Box::new(registrations::RegistrationsInTurn::default()),
        Box::new(losses::LossesAreJust),
        Box::new(identities::NumbersComeOnce::default()),
        Box::new(holds::HoldsEnd::default()),
        Box::new(frozen::FrozenUntouched),
        Box::new(held::HeldIsHeld),
        Box::new(scripts::ScriptsRunOnce),
        Box::new(services::MembersBeginAlone),
    ]
}
