//! A program that starts, stops and checks something on its node: an OCF agent, an LSB init script or a systemd unit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A script member. Time-outs are enforced by the agent on the program's whole process group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// What is run.
    pub program: ScriptProgram,
    /// An OCF agent's parameters; they reach it as `OCF_RESKEY_name`.
    pub parameters: BTreeMap<String, String>,
    /// How long a start may take, in milliseconds.
    pub start_timeout_ms: u64,
    /// How long a stop may take, in milliseconds.
    pub stop_timeout_ms: u64,
    /// How it is checked while it is up; without any it is never checked.
    pub checks: Vec<StatusCheck>,
}

/// What is run for a script member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScriptProgram {
    /// An OCF resource agent: a path, or `provider:type` below `/usr/lib/ocf/resource.d`.
    Ocf(String),
    /// An init script with the actions and exit codes of the Linux Standard Base: a path.
    Lsb(String),
    /// A systemd unit, through `systemctl`.
    Systemd(String),
}

impl ScriptProgram {
    /// The word for its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ocf(_) => "ocf",
            Self::Lsb(_) => "lsb",
            Self::Systemd(_) => "systemd",
        }
    }

    /// What was written after the kind.
    pub fn what(&self) -> &str {
        match self {
            Self::Ocf(what) | Self::Lsb(what) | Self::Systemd(what) => what,
        }
    }
}

/// One way a script is checked. RGManager runs the deepest check that is due, and counts from the end of the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusCheck {
    /// How deep it looks; OCF agents get it as `OCF_CHECK_LEVEL`.
    pub depth: u32,
    /// Milliseconds between the end of one and the beginning of the next.
    pub interval_ms: u64,
    /// How long it may take, in milliseconds.
    pub timeout_ms: u64,
}

impl Default for StatusCheck {
    /// The usual numbers of RGManager's agents.
    fn default() -> Self {
        Self { depth: 0, interval_ms: 30_000, timeout_ms: 20_000 }
    }
}
