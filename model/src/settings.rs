//! What holds for the whole cluster.

use serde::{Deserialize, Serialize};

/// Cluster-wide settings; the numbers are those of the design, section 5.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// How often an agent sends a heartbeat.
    pub heartbeat_ms: u64,
    /// Silence after which nothing new is placed on a node.
    pub suspect_after_ms: u64,
    /// Silence after which a node's session is ended and proof of its death is sought.
    pub lost_after_ms: u64,
    /// How long after sending an answered heartbeat an agent may run VMs.
    pub lease_ttl_ms: u64,
    /// How long an agent waits for an answer before it asks another replica.
    pub answer_timeout_ms: u64,
    /// How long the agent's own fence may take once the lease ran out.
    pub self_fence_ms: u64,
    /// How far two clocks may drift apart, in per cent.
    pub drift_percent: u64,
    /// How long a VM may be seen running on two nodes before that is a conflict: a migration's last moment, told by
    /// two agents, takes a few milliseconds.
    pub conflict_grace_ms: u64,
    /// Wait before a fence that failed is tried again; doubled each time, up to sixteen times this.
    pub fence_retry_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            heartbeat_ms: 500,
            suspect_after_ms: 1_500,
            lost_after_ms: 3_000,
            lease_ttl_ms: 3_000,
            answer_timeout_ms: 500,
            self_fence_ms: 1_000,
            drift_percent: 1,
            conflict_grace_ms: 3_000,
            fence_retry_ms: 2_000,
        }
    }
}

impl Settings {
    /// The silence after which a lease proves death: (`lease_ttl` + the larger of `self_fence` and the watchdog's
    /// time) × (1 + drift). Design section 3, proof of death (b).
    pub fn lease_proof_ms(&self, watchdog_timeout_ms: u64) -> u64 {
        let longest = self.lease_ttl_ms + self.self_fence_ms.max(watchdog_timeout_ms);
        (longest * (100 + self.drift_percent)).div_ceil(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_proves_death_after_itself_the_longer_of_the_two_ends_and_the_drift() {
        let settings = Settings::default();
        assert_eq!(settings.lease_proof_ms(2_000), 5_050);
        assert_eq!(settings.lease_proof_ms(500), 4_040);
    }
}
