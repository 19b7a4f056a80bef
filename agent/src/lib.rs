//! Berth's agent on one hypervisor host: it carries out orders and reports what it sees; it decides nothing about
//! where a VM runs.

pub mod agent;
pub mod config;
pub mod hypervisor;
pub mod lease;
pub mod session;
pub mod vm;
pub mod watchdog;
