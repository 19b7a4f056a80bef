//! What a database must hold, kept beside it: a second, independent account of what was acknowledged.
//!
//! sled takes the end of its file that it cannot read for a write that never happened, and goes on without it. After a
//! flipped bit or a file that was cut short this would silently take back what has been acknowledged: a vote, or an entry
//! that counts for a quorum. So after each sync it is noted here how far the database had come, and a database that has
//! not come so far is refused.
//!
//! The note is written after the sync, and is brought to stable storage a moment later and not before the
//! acknowledgement: it costs no time, and it never claims more than the database holds. What is left open is a power cut
//! *and* damage to what sled had synced in the half second before it.

use serde::{Deserialize, Serialize};

/// How far a database has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Tally {
    /// Rises with each sync, and before each change that takes something away or replaces it.
    pub(super) sequence: u64,
    /// The index after the last entry's; 0 without entries.
    pub(super) end: u64,
    /// Sum of the checksums of all parts of all entries.
    pub(super) entries: u64,
    /// Sum of the checksums of the values beside the log.
    pub(super) values: u64,
}

impl Tally {
    /// What is wrong with a database that holds `found`, where `found.entries` counts entries before `self.end` only.
    ///
    /// At the same sequence nothing was taken away or replaced since, and entries may have been added. At a later one the
    /// process ended between a sync and its note: all that the note speaks of has been there since.
    pub(super) fn missing_in(&self, found: &Self) -> Option<String> {
        if found.sequence < self.sequence {
            return Some(format!(
                "it ends at change {}, and change {} had been made durable",
                found.sequence, self.sequence
            ));
        }
        if found.sequence > self.sequence {
            return None;
        }
        if found.end < self.end {
            return Some(format!(
                "its log ends before entry {}, and had come to the one before entry {}",
                found.end, self.end
            ));
        }
        if found.entries != self.entries {
            return Some("its log entries are not those that were written last".into());
        }
        (found.values != self.values)
            .then(|| "its vote or another value is not the one that was written last".into())
    }
}

/// The checksum of one key with its value.
pub(super) fn checksum(key: &[u8], value: &[u8]) -> u64 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(value);
    u64::from(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_has_not_come_so_far_is_told_from_one_that_has() {
        let noted = Tally { sequence: 7, end: 20, entries: 100, values: 9 };
        for (found, whole) in [
            (noted, true),
            (Tally { end: 22, ..noted }, true),
            (Tally { sequence: 8, end: 5, entries: 1, values: 2 }, true),
            (Tally { sequence: 6, ..noted }, false),
            (Tally { end: 19, ..noted }, false),
            (Tally { entries: 99, ..noted }, false),
            (Tally { values: 8, ..noted }, false),
        ] {
            assert_eq!(noted.missing_in(&found).is_none(), whole, "{found:?}");
        }
    }
}
