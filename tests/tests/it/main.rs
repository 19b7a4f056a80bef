//! Integration with real processes, in one binary: on loopback (`processes`), and in the lab with real libvirt and QEMU.

mod berth;
mod faults;
mod fence_agents;
mod fencing;
mod lab;
mod linearizability;
mod policy;
mod processes;
mod replicas;
mod restore;
mod self_fence;
mod services;
mod simulation;
mod standstill;
mod storage;
mod way_over;
