//! The operator's tool: speaks to any replica, knows the wire and the model, decides nothing.

pub mod args;
pub mod client;
pub mod cmd;
pub mod config;
pub mod domain_file;
pub mod exit;
pub mod fleet;
pub mod import;
pub mod render;
pub mod rgmanager;
pub mod service_file;
pub mod wait;
