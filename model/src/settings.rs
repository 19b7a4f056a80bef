//! What holds for the whole cluster.

use serde::{Deserialize, Serialize};

use crate::fleet::{PlacementMode, ShutdownPolicy};

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
    /// How long a copy that self-fence suspended is kept without contact before it is destroyed.
    pub isolation_hold_ms: u64,
    /// The share of nodes, in per cent, above which a loss at once is taken for a broken network.
    pub mass_loss_percent: u64,
    /// How often fence devices are asked whether they answer.
    pub fence_probe_ms: u64,
    /// The longest wait of any replica before it stands for election. Each replica has its own in its configuration; one
    /// whose wait is longer than this complains, and the leader refuses settings that are below its own.
    pub election_max_ms: u64,
    /// How nodes are weighed.
    pub placement: PlacementMode,
    /// A VM that is to start goes where it fits best, and not where it ran before.
    pub rebalance_on_start: bool,
    /// Running VMs are moved to even out load.
    pub auto_rebalance: bool,
    /// Load is uneven when the busiest node is this much busier than the idlest, in per cent of a node. 1 to 100.
    pub rebalance_threshold_percent: u64,
    /// For how long it has to be so before a VM is moved.
    pub rebalance_hold_ms: u64,
    /// A move has to make the difference smaller by this much, in per cent of a node. 1 to 100.
    pub rebalance_margin_percent: u64,
    /// VMs that the cluster moves at once by itself, in all. 1 to 1,000.
    pub moves_at_once: u64,
    /// And from or to one node. 1 to 100.
    pub moves_per_node: u64,
    /// What becomes of the VMs of a host that shuts down in good order.
    pub shutdown_policy: ShutdownPolicy,
}

/// Raft's longest wait before an election where nothing else is configured (design section 5).
pub const DEFAULT_ELECTION_MAX_MS: u64 = 600;

impl Settings {
    /// For a network that never delays a packet by 50 ms, and replicas whose elections are configured as quick as
    /// `docs/tuning.md` says: what the design's faster goals are measured with.
    pub fn quiet_network() -> Self {
        Self {
            heartbeat_ms: 100,
            suspect_after_ms: 300,
            lost_after_ms: 700,
            answer_timeout_ms: 150,
            lease_ttl_ms: 800,
            self_fence_ms: 500,
            election_max_ms: 150,
            ..Self::default()
        }
    }
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
            isolation_hold_ms: 600_000,
            mass_loss_percent: 50,
            fence_probe_ms: 60_000,
            election_max_ms: DEFAULT_ELECTION_MAX_MS,
            placement: PlacementMode::default(),
            rebalance_on_start: false,
            auto_rebalance: false,
            rebalance_threshold_percent: 25,
            rebalance_hold_ms: 60_000,
            rebalance_margin_percent: 5,
            moves_at_once: 16,
            moves_per_node: 4,
            shutdown_policy: ShutdownPolicy::default(),
        }
    }
}

/// Why settings are refused: the rule, with its arithmetic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {arithmetic}")]
pub struct Contradiction {
    /// What must hold.
    pub rule: &'static str,
    /// The numbers, put in.
    pub arithmetic: String,
}

impl Settings {
    /// Settings that would break the law or pause guests needlessly are refused (design section 5).
    pub fn check(&self) -> Result<(), Contradiction> {
        let must = |holds: bool, rule: &'static str, arithmetic: String| {
            if holds { Ok(()) } else { Err(Contradiction { rule, arithmetic }) }
        };
        let Self { heartbeat_ms, suspect_after_ms, lost_after_ms, lease_ttl_ms, .. } = *self;
        let (answer_ms, election_ms) = (self.answer_timeout_ms, self.election_max_ms);
        for (what, value, least, most) in [
            ("heartbeat_ms", heartbeat_ms, 20, 60_000),
            ("answer_timeout_ms", answer_ms, 20, 60_000),
            ("self_fence_ms", self.self_fence_ms, 100, 600_000),
            ("lost_after_ms", lost_after_ms, 100, 600_000),
            ("lease_ttl_ms", lease_ttl_ms, 100, 600_000),
            ("drift_percent", self.drift_percent, 1, 50),
            ("fence_retry_ms", self.fence_retry_ms, 100, 600_000),
            ("isolation_hold_ms", self.isolation_hold_ms, 1_000, 86_400_000),
            ("mass_loss_percent", self.mass_loss_percent, 1, 100),
            ("fence_probe_ms", self.fence_probe_ms, 1_000, 86_400_000),
            ("conflict_grace_ms", self.conflict_grace_ms, 100, 600_000),
            ("election_max_ms", election_ms, 20, 60_000),
            ("rebalance_threshold_percent", self.rebalance_threshold_percent, 1, 100),
            ("rebalance_hold_ms", self.rebalance_hold_ms, 0, 86_400_000),
            ("rebalance_margin_percent", self.rebalance_margin_percent, 1, 100),
            ("moves_at_once", self.moves_at_once, 1, 1_000),
            ("moves_per_node", self.moves_per_node, 1, 100),
        ] {
            must(
                (least..=most).contains(&value),
                "a setting is out of its range",
                format!("{what} = {value}, and must be {least} to {most}"),
            )?;
        }
        let longest = heartbeat_ms + 3 * election_ms + answer_ms;
        must(
            longest <= lease_ttl_ms,
            "no guest may pause at a change of leader: heartbeat + 3 × longest election + answer time-out ≤ lease",
            format!(
                "{heartbeat_ms} + 3 × {election_ms} + {answer_ms} = {longest} ms > {lease_ttl_ms} ms"
            ),
        )?;
        let longest = 3 * heartbeat_ms + answer_ms;
        must(
            longest <= lost_after_ms,
            "two lost heartbeats may not cost a node: 3 × heartbeat + answer time-out ≤ lost after",
            format!("3 × {heartbeat_ms} + {answer_ms} = {longest} ms > {lost_after_ms} ms"),
        )?;
        must(
            suspect_after_ms < lost_after_ms,
            "a node is suspected before it is lost: suspect after < lost after",
            format!("{suspect_after_ms} ms ≥ {lost_after_ms} ms"),
        )?;
        must(
            heartbeat_ms < suspect_after_ms,
            "a node is not suspected between two heartbeats: heartbeat < suspect after",
            format!("{heartbeat_ms} ms ≥ {suspect_after_ms} ms"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_and_the_quiet_network_hold() {
        Settings::default().check().unwrap();
        Settings::quiet_network().check().unwrap();
    }

    #[test]
    fn a_contradiction_is_refused_with_the_arithmetic() {
        let default = Settings::default;
        for (settings, arithmetic) in [
            (
                Settings { lease_ttl_ms: 2_000, ..default() },
                "500 + 3 × 600 + 500 = 2800 ms > 2000 ms",
            ),
            (Settings { election_max_ms: 900, ..default() }, "500 + 3 × 900 + 500 = 3700 ms"),
            (
                Settings { lost_after_ms: 1_900, suspect_after_ms: 1_000, ..default() },
                "3 × 500 + 500 = 2000 ms > 1900 ms",
            ),
            (Settings { suspect_after_ms: 3_000, ..default() }, "3000 ms ≥ 3000 ms"),
            (Settings { suspect_after_ms: 500, ..default() }, "500 ms ≥ 500 ms"),
            (Settings { drift_percent: 0, ..default() }, "drift_percent = 0"),
        ] {
            let error = settings.check().unwrap_err().to_string();
            assert!(error.contains(arithmetic), "{error}");
        }
    }
}
