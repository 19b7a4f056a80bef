//! Berth's agent on one hypervisor host: it carries out orders and reports what it sees; it decides nothing about
//! where a VM runs.

pub mod agent;
pub mod check;
pub mod clock;
pub mod config;
pub mod core;
pub mod domain_source;
pub mod feeder;
mod fencing;
pub mod host;
pub mod hypervisor;
pub mod lease;
pub mod lease_file;
pub mod load;
pub mod outbox;
pub mod script;
pub mod session;
pub mod shutdown;
pub mod vm;
pub mod watchdog;
