//! Placeholder of the replicated state, until the real one lands.
use serde::{Deserialize, Serialize};

/// All that may enter the Raft log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Says the same command again when sent again.
    pub request_id: u128,
    /// Text.
    pub text: String,
}

/// What a command came to.
pub type Outcome = Result<Accepted, Rejection>;

/// A lawful yes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The log index.
    pub revision: u64,
}

/// A lawful no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// No.
    Refused,
}

/// The replicated state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterState {
    revision: u64,
    texts: imbl::OrdMap<u64, String>,
}

impl ClusterState {
    /// Applies one command.
    pub fn apply(&mut self, index: u64, command: &Command) -> Outcome {
        self.revision = index;
        self.texts.insert(index, command.text.clone());
        Ok(Accepted { revision: index })
    }
}
