//! One run of a script, as data.

use model::service::Script;
use uuid::Uuid;

/// What a script is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// To start.
    Start,
    /// To stop.
    Stop,
    /// To say how it is, looking this deep.
    Status {
        /// An OCF agent's `OCF_CHECK_LEVEL`.
        depth: u32,
    },
}

/// One run to be made; its outcome comes back by its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptCall {
    /// The service's id.
    pub service: Uuid,
    /// Its number.
    pub id: u64,
    /// The service's name, for the script's environment.
    pub service_name: String,
    /// The member's name.
    pub member: String,
    /// What is run.
    pub script: Script,
    /// What for.
    pub action: Action,
    /// After this many milliseconds its process group is ended.
    pub timeout_ms: u64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// By itself, with this code.
    Exited {
        /// The exit code.
        code: i32,
        /// The last it wrote.
        output: String,
    },
    /// By a signal that was not ours.
    Killed {
        /// Which.
        signal: i32,
    },
    /// It took too long, and its whole process group was ended: what it has done is not known.
    TimedOut {
        /// The last it wrote.
        output: String,
    },
    /// It was ended because something else became more important.
    Cancelled,
    /// There is no such program on this node.
    Missing(String),
    /// It could not be run.
    NotRun(String),
}
