//! Elapsed time by two clocks at once, of which the agent believes the one that ran further.
//!
//! `CLOCK_BOOTTIME` goes on while the host sleeps and may be slewed; `CLOCK_MONOTONIC_RAW` is never slewed and stands
//! while the host sleeps (clock_gettime(2)). A lease is over when either says so.

use model::sabotage::{Rule, off};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// One look at both clocks, in milliseconds since the host booted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// `CLOCK_BOOTTIME`.
    pub boot_ms: u64,
    /// `CLOCK_MONOTONIC_RAW`.
    pub raw_ms: u64,
}

impl Reading {
    /// Now.
    pub fn now() -> Self {
        Self {
            boot_ms: milliseconds(ClockId::CLOCK_BOOTTIME),
            raw_ms: milliseconds(ClockId::CLOCK_MONOTONIC_RAW),
        }
    }

    /// The larger elapsed time since `earlier`; 0 where a clock went back, as after a reboot.
    pub fn since(self, earlier: Reading) -> u64 {
        let boot = self.boot_ms.saturating_sub(earlier.boot_ms);
        let raw = self.raw_ms.saturating_sub(earlier.raw_ms);
        if off(Rule::AgentTakesLargerClock) { boot.min(raw) } else { boot.max(raw) }
    }
}

fn milliseconds(clock: ClockId) -> u64 {
    // Both clocks exist on every Linux that runs; one that could not be read ends every lease.
    clock_gettime(clock)
        .map_or(u64::MAX, |now| now.tv_sec() as u64 * 1_000 + now.tv_nsec() as u64 / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_that_ran_further_is_believed() {
        let earlier = Reading { boot_ms: 1_000, raw_ms: 900 };
        assert_eq!(Reading { boot_ms: 1_500, raw_ms: 1_300 }.since(earlier), 500);
        assert_eq!(Reading { boot_ms: 1_500, raw_ms: 1_600 }.since(earlier), 700);
    }
}
