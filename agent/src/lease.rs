//! Stepper: until when this node may run VMs. Elapsed time comes in as data.

use model::sabotage::{Rule, off};
use serde::{Deserialize, Serialize};

use crate::clock::Reading;

/// The node's lease (design section 3): from the sending of the last heartbeat that was answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    granted: Option<Granted>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Granted {
    sent: Reading,
    ttl_ms: u64,
}

impl Lease {
    /// The leader answered a heartbeat that was *sent* at this moment: that counts, and not when the answer came.
    pub fn renew(&mut self, sent: Reading, ttl_ms: u64, now: Reading) {
        let sent = if off(Rule::LeaseFromSending) { now } else { sent };
        let renewed = Granted { sent, ttl_ms };
        let left = |granted: Granted| granted.ttl_ms.saturating_sub(now.since(granted.sent));
        if self.granted.is_none_or(|old| left(old) < left(renewed)) {
            self.granted = Some(renewed);
        }
    }

    /// It holds at this moment.
    pub fn holds(&self, now: Reading) -> bool {
        self.left_ms(now) > 0
    }

    /// How much of it is left, in milliseconds.
    pub fn left_ms(&self, now: Reading) -> u64 {
        self.granted.map_or(0, |granted| granted.ttl_ms.saturating_sub(now.since(granted.sent)))
    }

    /// Milliseconds since it ran out, or `None` while it holds or where there never was one.
    pub fn over_for_ms(&self, now: Reading) -> Option<u64> {
        let granted = self.granted?;
        now.since(granted.sent).checked_sub(granted.ttl_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Reading {
        Reading { boot_ms: milliseconds, raw_ms: milliseconds }
    }

    #[test]
    fn a_lease_counts_from_the_sending_and_never_gets_shorter() {
        let mut lease = Lease::default();
        assert!(!lease.holds(at(0)));
        lease.renew(at(1_000), 3_000, at(1_400));
        assert!(lease.holds(at(3_999)) && !lease.holds(at(4_000)));
        // The answer to an older heartbeat comes late.
        lease.renew(at(500), 3_000, at(1_500));
        assert!(lease.holds(at(3_999)));
        assert_eq!(lease.over_for_ms(at(4_250)), Some(250));
    }

    #[test]
    fn a_host_that_slept_has_lost_its_lease_though_one_clock_stood_still() {
        let mut lease = Lease::default();
        lease.renew(at(1_000), 3_000, at(1_000));
        assert!(!lease.holds(Reading { boot_ms: 9_000, raw_ms: 1_010 }));
    }
}
