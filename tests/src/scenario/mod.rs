//! Stories in the format `ha-scenario/1`, played by the simulator: the real decisions over fake hosts.
//!
//! ```text
//!  file ─▶ what it needs ─▶ stage (hosts, replicas, VMs as they last were) ─▶ play, step by step ─▶ trace
//! ```
//! What Berth does not have yet is skipped by name, never guessed at.

pub mod expect;
pub mod file;
pub mod names;
pub mod needs;
pub mod play;
mod seed;
pub mod stage;
