//! Integration with real processes, in one binary: on loopback (`processes`), and in the lab with real libvirt and QEMU.

mod berth;
mod fence_agents;
mod lab;
mod linearizability;
mod processes;
mod replicas;
mod self_fence;
mod simulation;
