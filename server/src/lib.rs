//! One replica of Berth's control plane.

pub mod backup;
pub mod clock;
pub mod config;
pub mod grpc;
pub mod hooks;
pub mod leader;
pub mod raft;
pub mod server;
pub mod store;
