//! Berth in virtual time: the real `model`, the real agent core, the real leader's look and failure detector, over hosts,
//! a network and a log in memory. One seed decides everything.
//!
//! ```text
//!  faults, operators ─▶ world: one queue of events in time ◀─┐
//!                         │                                  │
//!       ┌─────────────────┼──────────────┐                   │
//!       ▼                 ▼              ▼                   │
//!    replicas          agents          hosts ── calls end ───┘
//!  (log, leader)   (the real core)  (domains, migrations, power)
//!                         │
//!                         └─▶ invariants after every step
//! ```
//! Left to stand-ins: Raft (a total order with leaders, terms and quorums), gRPC, libvirt, QEMU, fence devices.

pub mod acts;
pub mod agent;
mod calls;
pub mod control;
pub mod crash_table;
pub mod drill;
pub mod faults;
pub mod host;
pub mod invariant;
pub mod leader;
pub mod migration;
pub mod network;
pub mod operators;
mod outsider;
mod power;
pub mod quiet;
mod rare_acts;
pub mod scripts;
pub mod shutdown;
pub mod sweep;
pub mod teeth;
pub mod theme;
pub mod trace;
pub mod world;

pub use world::{Options, World};
