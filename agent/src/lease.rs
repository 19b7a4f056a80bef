//! Stepper: until when this node may run VMs. Elapsed time comes in as data, from the clock that goes on while the
//! host sleeps.
//!
//! Suspending and destroying guests when it runs out is not here yet; an armed watchdog cuts the host's power then.

/// The node's lease (design section 3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lease {
    deadline_ms: Option<u64>,
}

impl Lease {
    /// A lease that an agent before this one left behind.
    pub fn inherited(deadline_ms: Option<u64>) -> Self {
        Self { deadline_ms }
    }

    /// The leader answered a heartbeat that was *sent* at `sent_ms`: that moment counts, not the answer's.
    pub fn renew(&mut self, sent_ms: u64, ttl_ms: u64) {
        let deadline = sent_ms + ttl_ms;
        if self.deadline_ms.is_none_or(|old| old < deadline) {
            self.deadline_ms = Some(deadline);
        }
    }

    /// It holds at this moment.
    pub fn holds(&self, now_ms: u64) -> bool {
        self.deadline_ms.is_some_and(|deadline| now_ms < deadline)
    }

    /// When it runs out, if there is one.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.deadline_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_the_sending_and_never_gets_shorter() {
        let mut lease = Lease::default();
        assert!(!lease.holds(0));
        lease.renew(1_000, 3_000);
        assert!(lease.holds(3_999) && !lease.holds(4_000));
        // The answer to an older heartbeat comes late.
        lease.renew(500, 3_000);
        assert!(lease.holds(3_999));
    }
}
