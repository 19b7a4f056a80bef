//! Behaviour of the whole of Berth: a lab of real hypervisor hosts, and clusters of real processes in it.

pub mod cluster;
pub mod faults;
pub mod lab;
pub mod linearizability;
pub mod measure;
pub mod scenario;
pub mod sim;
