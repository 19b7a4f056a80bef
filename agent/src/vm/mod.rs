//! What this node does with one VM: all of it steppers, without clocks, tasks or I/O of their own but the ledger's.

pub mod driver;
mod isolation;
pub mod ledger;
pub mod order;
pub mod request_queue;
mod work;
