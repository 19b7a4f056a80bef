//! One door to the Raft library: proposals, reads, membership. The only module that names openraft.
//!
//! Concrete types are written once, here. [`RaftHandle`] is the door; everything else in the server knows only it.

mod bootstrap;
mod handle;
mod identity;
mod log_store;
mod network;
mod peer;
mod recall;
mod state_machine;
mod vouch;
mod witness;

use std::fmt;

use model::Outcome;
use model::command::Command;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use handle::{
    Applied, ENTRY_LIMIT_BYTES, MembershipError, OpenError, ProposeError, RaftHandle, RaftOptions,
    ReplicaStatus, ReplicaView, Timing,
};
pub use peer::PeerService;

/// A member, as the membership in the log has it. The instance id was made with its data directory, so that an empty
/// or rolled-back directory under a known id is refused.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Replica {
    /// `HOST:PORT`.
    pub address: String,
    /// Of its data directory.
    pub instance: Uuid,
}

/// A log entry's payload: the model's command, with the form that the library prints.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry(pub Command);

impl fmt::Display for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.operation.subject())
    }
}

/// How many bytes a value takes in a log entry.
pub fn encoded_bytes(value: &impl Serialize) -> std::io::Result<usize> {
    log_store::encode(value).map(|bytes| bytes.len())
}

/// What applying an entry gave; `None` for the library's own entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer(pub Option<Outcome>);

openraft::declare_raft_types!(
    /// Berth's Raft: one leader a term, as in the thesis.
    pub TypeConfig:
        D = Entry,
        R = Answer,
        NodeId = u64,
        Node = Replica,
        LeaderId = openraft::impls::leader_id_std::LeaderId<Self::Term, Self::NodeId>,
);

type Raft = openraft::Raft<TypeConfig, state_machine::StateMachine>;
type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
type LogEntry = openraft::type_config::alias::EntryOf<TypeConfig>;

#[cfg(test)]
mod tests;
