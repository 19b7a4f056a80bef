//! Scripts of services: OCF agents, LSB init scripts and systemd units.
//!
//! ```text
//!  orders, watch list, answers, time ─▶ driver (one a service) ─▶ calls, kills, reports
//!                                            │                       │
//!                                          ledger                   run: processes in groups of their own
//! ```
//! A run that outlives its agent is ended by the next one (`orphan`) before anything else is done with its service.
//! The driver decides and the ledger remembers, as with VMs; `verdict` reads exit codes, `command` says what is run.

pub mod call;
pub mod command;
pub mod driver;
pub mod ledger;
pub mod order;
pub mod orphan;
pub mod run;
pub mod verdict;

#[cfg(test)]
mod tests;
