//! One VM on this host: what is accepted, what was done, and the one task that touches it.

pub mod driver;
pub mod ledger;
pub mod order;
pub mod request_queue;
