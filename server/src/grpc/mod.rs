//! The gRPC services: they check, translate and call; they decide nothing.

pub mod agent;
pub mod control;
pub mod forward;
pub mod questions;
pub mod status;
