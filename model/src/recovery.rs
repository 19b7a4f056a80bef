//! What follows when a VM fails: RGManager's recovery policies, with the counters in the log.
//!
//! Source: RGManager reference, sections 1.1 (`recovery`, `max_restarts`, `restart_expire_time`) and 3.4.

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// The operator's choice of what to do when a VM fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum RecoveryPolicy {
    /// Start it again on the same node; after `max_restarts` within the window, on another.
    #[default]
    Restart,
    /// Start it on another node.
    Relocate,
    /// Leave it down, disabled.
    Disable,
    /// Start it again on the same node; after `max_restarts` within the window, disable it.
    RestartDisable,
}

impl RecoveryPolicy {
    /// The word operators write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Relocate => "relocate",
            Self::Disable => "disable",
            Self::RestartDisable => "restart-disable",
        }
    }

    /// Reads the word operators write.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Restart, Self::Relocate, Self::Disable, Self::RestartDisable]
            .into_iter()
            .find(|policy| policy.as_str() == text)
    }
}

/// How often a VM may be started again before its policy gives way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct RestartLimit {
    /// 0 = no limit.
    pub max_restarts: u32,
    /// Restarts older than this many milliseconds are forgotten; 0 = never.
    pub expire_ms: u64,
}

/// Failed status checks that are let pass, RGManager's `__max_failures` and `__failure_expire_time`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct FailureTolerance {
    /// How many within the window; 0 = none, the first one is a failure.
    pub max_failures: u32,
    /// Failed checks older than this many milliseconds are forgotten; 0 = never.
    pub expire_ms: u64,
}

impl FailureTolerance {
    /// Notes a failed check at `at` among the earlier ones, and says whether it is let pass.
    pub fn passes(self, earlier: &mut Vec<Timestamp>, at: Timestamp) -> bool {
        earlier.retain(|moment| self.expire_ms == 0 || at.since(*moment) < self.expire_ms);
        if earlier.len() < self.max_failures as usize {
            earlier.push(at);
            return true;
        }
        earlier.clear();
        false
    }
}

/// How often a start that fails is tried again before the VM is given up. Other managers let either be set; here both
/// hold together, the retries on every node that is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct StartLimit {
    /// Tries on the same node after the first one, before another node is tried.
    pub retries: u32,
    /// Other nodes that are tried after that; `None` = all, again and again.
    pub relocations: Option<u32>,
}

/// What to do about one failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Start on the node where it failed, not before `wait_ms` after the failure; this will be restart `number`.
    RestartInPlace {
        /// Milliseconds after the failure.
        wait_ms: u64,
        /// Counted within the window, from 1.
        number: u32,
    },
    /// Start on another node, and on the same one only when there is no other.
    Relocate,
    /// Leave it down.
    Disable,
}

/// Restarts within a minute that cost no wait: one crash is an accident, a fourth is a loop.
const FREE_RESTARTS: usize = 3;
const LOOP_WINDOW_MS: u64 = 60_000;
const LONGEST_WAIT_MS: u64 = 60_000;

/// The remedy for a failure at `failed_at`, with the moments of the earlier restarts.
pub fn remedy(
    policy: RecoveryPolicy,
    limit: RestartLimit,
    restarts: &[Timestamp],
    failed_at: Timestamp,
) -> Remedy {
    let counted = restarts
        .iter()
        .filter(|moment| limit.expire_ms == 0 || failed_at.since(**moment) < limit.expire_ms)
        .count() as u32;
    let spent = limit.max_restarts > 0 && counted >= limit.max_restarts;
    match policy {
        RecoveryPolicy::Disable => Remedy::Disable,
        RecoveryPolicy::Relocate => Remedy::Relocate,
        RecoveryPolicy::Restart if spent => Remedy::Relocate,
        RecoveryPolicy::RestartDisable if spent => Remedy::Disable,
        RecoveryPolicy::Restart | RecoveryPolicy::RestartDisable => {
            let recent =
                restarts.iter().filter(|moment| failed_at.since(**moment) < LOOP_WINDOW_MS).count();
            Remedy::RestartInPlace { wait_ms: backoff_ms(recent), number: counted + 1 }
        }
    }
}

/// The wait before a restart when `recent` came within the last minute: none for the first three, then 1 s doubled.
fn backoff_ms(recent: usize) -> u64 {
    match recent.checked_sub(FREE_RESTARTS) {
        None => 0,
        Some(excess) => (1_000u64 << excess.min(6)).min(LONGEST_WAIT_MS),
    }
}

/// The wait before all nodes are tried again when a start failed on each of them `rounds` times.
pub fn start_retry_ms(rounds: u32) -> u64 {
    (5_000u64 << rounds.min(6)).min(300_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1_000)
    }

    #[test]
    fn each_policy_has_its_remedy() {
        let two = RestartLimit { max_restarts: 2, expire_ms: 600_000 };
        let none = RestartLimit::default();
        let now = at(1_000);
        let restart = |number| Remedy::RestartInPlace { wait_ms: 0, number };
        for (policy, limit, restarts, expected) in [
            (RecoveryPolicy::Restart, none, vec![], restart(1)),
            (RecoveryPolicy::Restart, none, vec![at(1), at(2)], restart(3)),
            (RecoveryPolicy::Restart, two, vec![at(900)], restart(2)),
            // The third failure within the window moves it: max_restarts=2 is two restarts in place.
            (RecoveryPolicy::Restart, two, vec![at(900), at(950)], Remedy::Relocate),
            (RecoveryPolicy::Restart, two, vec![at(100), at(950)], restart(2)),
            (RecoveryPolicy::RestartDisable, two, vec![at(900), at(950)], Remedy::Disable),
            (RecoveryPolicy::RestartDisable, two, vec![], restart(1)),
            (RecoveryPolicy::Relocate, two, vec![], Remedy::Relocate),
            (RecoveryPolicy::Disable, two, vec![], Remedy::Disable),
        ] {
            assert_eq!(
                remedy(policy, limit, &restarts, now),
                expected,
                "{policy:?} after {restarts:?}"
            );
        }
    }

    #[test]
    fn failed_checks_pass_while_they_are_few_within_the_window() {
        let second = |second: u64| Timestamp(second * 1_000);
        for (max_failures, expire_ms, checks, expected) in [
            (0, 0, vec![1], vec![false]),
            (2, 0, vec![1, 1_000, 2_000], vec![true, true, false]),
            (2, 60_000, vec![1, 30, 50], vec![true, true, false]),
            (2, 60_000, vec![1, 30, 61], vec![true, true, true]),
            // What made a failure is counted anew from there.
            (1, 60_000, vec![1, 2, 3, 4], vec![true, false, true, false]),
        ] {
            let tolerance = FailureTolerance { max_failures, expire_ms };
            let mut earlier = Vec::new();
            let passed: Vec<_> =
                checks.iter().map(|at| tolerance.passes(&mut earlier, second(*at))).collect();
            assert_eq!(passed, expected, "{max_failures} in {expire_ms} ms, at {checks:?}");
        }
    }

    #[test]
    fn a_crash_loop_is_slowed_down_but_never_given_up_when_there_is_no_limit() {
        let restarts: Vec<_> = (0..5).map(|second| at(100 + second)).collect();
        let remedy = remedy(RecoveryPolicy::Restart, RestartLimit::default(), &restarts, at(105));
        assert_eq!(remedy, Remedy::RestartInPlace { wait_ms: 4_000, number: 6 });
    }
}
