//! Integration with real processes, in one binary: on loopback (`processes`), and in the lab with real libvirt and QEMU.

mod berth;
mod faults;
mod fence_agents;
mod fencing;
mod guest_agent;
mod hooks;
mod lab;
mod linearizability;
mod policy;
mod processes;
mod replicas;
mod restore;
mod self_fence;
mod services;
mod shutdown;
mod simulation;
mod standstill;
mod storage;
mod tracking;
mod vm_attributes;
mod way_over;
