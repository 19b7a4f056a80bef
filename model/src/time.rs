//! Time as data: it enters as a field of a command or an argument of `plan`, never from a clock.

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch, as the proposer's clock had it. For people and for windows of minutes;
/// nothing that safety rests on compares timestamps of different machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// How many milliseconds have passed since `earlier`; 0 when the clock went back.
    pub fn since(self, earlier: Timestamp) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This moment plus so many milliseconds.
    pub fn plus(self, milliseconds: u64) -> Timestamp {
        Timestamp(self.0.saturating_add(milliseconds))
    }
}
