//! The one place where the server reads clocks.

use std::time::{SystemTime, UNIX_EPOCH};

use model::sabotage::{Rule, off};
use model::time::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// Now, for people and for windows of minutes.
pub(crate) fn now() -> Timestamp {
    Timestamp(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_millis() as u64),
    )
}

/// Elapsed time by `CLOCK_BOOTTIME` and `CLOCK_MONOTONIC_RAW` at once, of which the leader believes the one that ran
/// less: what it takes for over must be over for the agent too (design section 3, lease).
#[derive(Debug)]
pub struct ElapsedClock {
    boot_us: u64,
    raw_us: u64,
    elapsed_us: u64,
}

impl ElapsedClock {
    pub(crate) fn start() -> Self {
        Self::begin(read())
    }

    /// Begins at a reading of both clocks, in microseconds.
    pub fn begin((boot_us, raw_us): (u64, u64)) -> Self {
        Self { boot_us, raw_us, elapsed_us: 0 }
    }

    /// Milliseconds since it was started: the smaller step of the two clocks, look by look.
    pub(crate) fn elapsed_ms(&mut self) -> u64 {
        self.step(read())
    }

    /// Another reading of both clocks; milliseconds since the first.
    pub fn step(&mut self, (boot_us, raw_us): (u64, u64)) -> u64 {
        let boot = boot_us.saturating_sub(self.boot_us);
        let raw = raw_us.saturating_sub(self.raw_us);
        (self.boot_us, self.raw_us) = (boot_us, raw_us);
        self.elapsed_us += match off(Rule::LeaderTakesSmallerClock) {
            true => boot.max(raw),
            false => boot.min(raw),
        };
        self.elapsed_us / 1_000
    }
}

fn read() -> (u64, u64) {
    let microseconds = |clock| {
        let now = clock_gettime(clock);
        now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
    };
    (microseconds(ClockId::Boottime), microseconds(ClockId::MonotonicRaw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_clocks_the_slower_one_is_believed_at_each_step() {
        let mut clock = ElapsedClock { boot_us: 0, raw_us: 0, elapsed_us: 0 };
        assert_eq!(clock.step((10_000, 9_000)), 9);
        // The host slept: one clock went on by a minute.
        assert_eq!(clock.step((60_010_000, 9_500)), 9);
        assert_eq!(clock.step((60_020_000, 29_500)), 19);
    }
}
