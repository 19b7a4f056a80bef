//! A node as it is printed, with its fences and the domains that are not managed there.

use proto::v1;
use serde::Serialize;

use super::{Measured, Reason, reason, time};

/// A node.
#[derive(Debug, Serialize)]
pub struct Node {
    measured: Option<Measured>,
    id: u64,
    name: String,
    state: String,
    state_since: String,
    memory_mib: u64,
    used_memory_mib: u64,
    cpus: u32,
    used_vcpus: u32,
    vms: Vec<String>,
    hardware: String,
    boot_id: String,
    session: u64,
    migration_uri: String,
    watchdog_timeout_ms: Option<u64>,
    agent_version: String,
    fence_devices: Vec<String>,
    silent_ms: Option<u64>,
    proof_of_death: Option<String>,
    maintenance: bool,
    maintenance_until_boot: bool,
    shutdown: Option<String>,
    after_fence: String,
    fence_history: Vec<FenceAttempt>,
    dark_fence: Vec<String>,
    fence_agents: Vec<String>,
    lease_proof_ms: Option<u64>,
    lock_manager: Option<String>,
    autostart: Vec<String>,
    libvirt_guests: bool,
    reason: Option<Reason>,
    unmanaged: Vec<Unmanaged>,
}

/// How one fence ended, or what took its place.
#[derive(Debug, Serialize)]
pub struct FenceAttempt {
    at: String,
    outcome: String,
    proven: bool,
}

impl From<&v1::FenceAttempt> for FenceAttempt {
    fn from(attempt: &v1::FenceAttempt) -> Self {
        let (outcome, proven) = (attempt.outcome.clone(), attempt.proven);
        Self { at: time(attempt.at_ms), outcome, proven }
    }
}

#[derive(Debug, Serialize)]
struct Unmanaged {
    uuid: String,
    name: String,
    presence: String,
    memory_mib: u64,
}

impl From<&v1::Node> for Node {
    fn from(node: &v1::Node) -> Self {
        let node = node.clone();
        Self {
            measured: node.measured.as_ref().map(Measured::from),
            id: node.id,
            name: node.name,
            state: node.state,
            state_since: time(node.state_since_ms),
            memory_mib: node.memory_mib,
            used_memory_mib: node.used_memory_mib,
            cpus: node.cpus,
            used_vcpus: node.used_vcpus,
            vms: node.vms,
            hardware: node.hardware,
            boot_id: node.boot_id,
            session: node.session,
            migration_uri: node.migration_uri,
            watchdog_timeout_ms: node.watchdog_timeout_ms,
            agent_version: node.agent_version,
            fence_devices: node.fence_devices,
            silent_ms: node.silent_ms,
            proof_of_death: node.proof_of_death,
            maintenance: node.maintenance,
            maintenance_until_boot: node.maintenance_until_boot,
            shutdown: node.shutdown,
            after_fence: node.after_fence,
            fence_history: node.fence_history.iter().map(FenceAttempt::from).collect(),
            dark_fence: node.dark_fence,
            fence_agents: node.fence_agents,
            lease_proof_ms: node.lease_proof_ms,
            lock_manager: node.lock_manager,
            autostart: node.autostart,
            libvirt_guests: node.libvirt_guests,
            reason: node.reason.as_ref().map(reason),
            unmanaged: node
                .unmanaged
                .into_iter()
                .map(|domain| Unmanaged {
                    uuid: domain.uuid,
                    name: domain.name,
                    presence: domain.presence,
                    memory_mib: domain.memory_mib,
                })
                .collect(),
        }
    }
}
