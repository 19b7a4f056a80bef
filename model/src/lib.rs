//! Berth's decisions, as pure functions over data.
//!
//! ```text
//!  Command ──apply──▶ ClusterState ──plan(state, liveness, now)──▶ decisions (commands to propose) + reasons
//!                          │
//!                          └──orders──▶ what each node's agent is to do
//! ```
//! The laws of this crate: no async, no clock, no randomness, no I/O and no hash order. The same commands give the
//! same state on every replica and every build; time and identities come in with the command that needs them.
//! State changes only in [`ClusterState::apply`].
#![warn(missing_docs)]

pub mod ailment;
pub mod cluster;
pub mod command;
pub mod configuration;
pub mod dependency;
pub mod domain_xml;
pub mod event;
pub mod failover_domain;
pub mod fleet;
pub mod handling;
pub mod hold;
pub mod id;
pub mod liveness;
pub mod node;
pub mod order;
pub mod placement_rule;
pub mod plan;
pub mod recovery;
pub mod rejection;
pub mod sabotage;
pub mod service;
pub mod settings;
pub mod time;
pub mod vm;

mod apply;

pub use cluster::{Accepted, ClusterState, Outcome};
pub use command::{Command, Operation};
pub use rejection::Rejection;
