//! Whether the control plane can be told from one that does everything at once, one thing after the other: histories of
//! real clients against real replicas in trouble, and a checker for them.
//!
//! ```text
//!  operators ──read, compare-and-set──▶ replicas ◀──orders, reports── stand-ins of agents
//!      │                                  ▲ kill -9, SIGSTOP, cut links
//!      ▼                                  └── trouble, from a seed
//!  history, per VM ──▶ checker with the register's model
//! ```

pub mod agent;
pub mod checker;
pub mod events;
pub mod operator;
pub mod register;
pub mod trouble;
pub mod workload;
