//! What a replica keeps on disk: the Raft log, the vote and the applied bookkeeping in one sled database, and
//! snapshots as files of our own. The only module that names sled.
//!
//! ```text
//!  DIR/FORMAT              the version of all this
//!  DIR/db/                 sled: tree `log` (index and part, big-endian), tree `meta` (vote, purged, …)
//!  DIR/tally               how far the database had come at its last sync: an account beside it
//!  DIR/peers               what this replica heard the others acknowledge
//!  DIR/snapshots/*.berth   the state machine at an index
//!  DIR/SYNC-FAILED         there when a sync failed, with the boot in which it did
//! ```
//! Everything written carries a version and a checksum ([`codec`]). Nothing is durable before [`Store::sync`] returns;
//! why that is true of sled at all is told in [`durable`]. What was acknowledged and is no longer there is noticed when a
//! directory is opened, as a damaged file is: [`tally`] tells how.

pub mod codec;
pub mod durable;
mod error;
pub mod format;
mod sled_store;
pub mod snapshot;
mod tally;
mod twin;

use std::ops::Bound;
use std::path::Path;

pub use error::StoreError;
pub use sled_store::SledStore;
pub(crate) use twin::Twin;

/// The largest record taken; it is stored in parts.
pub const MAX_VALUE_BYTES: usize = 100 * 1024;

/// The small values kept beside the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetaKey {
    /// Raft's vote.
    Vote,
    /// The last purged log id.
    Purged,
    /// The last committed log id that was seen.
    Committed,
    /// Who this replica is.
    Identity,
}

impl MetaKey {
    const ALL: [Self; 4] = [Self::Vote, Self::Purged, Self::Committed, Self::Identity];

    fn name(self) -> &'static str {
        match self {
            Self::Vote => "vote",
            Self::Purged => "purged",
            Self::Committed => "committed",
            Self::Identity => "identity",
        }
    }
}

/// A durable log with a few values beside it. Writes are readable when they return and durable when a later
/// [`Store::sync`] has returned; they become durable in the order in which they were made.
pub trait Store: Send + Sync + 'static {
    /// Writes entries at their indexes.
    fn append(&self, entries: Vec<(u64, Vec<u8>)>) -> Result<(), StoreError>;
    /// Reads the entries of a range, in order.
    fn read(&self, range: (Bound<u64>, Bound<u64>)) -> Result<Vec<Vec<u8>>, StoreError>;
    /// The last entry's index and bytes.
    fn last(&self) -> Result<Option<Vec<u8>>, StoreError>;
    /// Removes all entries of a range.
    fn remove(&self, range: (Bound<u64>, Bound<u64>)) -> Result<(), StoreError>;
    /// Writes a value.
    fn put(&self, key: MetaKey, value: &[u8]) -> Result<(), StoreError>;
    /// Reads a value.
    fn get(&self, key: MetaKey) -> Result<Option<Vec<u8>>, StoreError>;
    /// Returns when everything written before is on stable storage.
    fn sync(&self) -> Result<(), StoreError>;
}

fn file(what: &'static str, path: &Path, source: std::io::Error) -> StoreError {
    StoreError::File { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod damage;
#[cfg(test)]
mod power_cut;
#[cfg(test)]
mod tests;
