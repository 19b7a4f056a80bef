//! What a replica keeps on disk: the Raft log, the vote and the applied bookkeeping in one sled database, and
//! snapshots as files of our own. The only module that names sled.
//!
//! ```text
//!  DIR/FORMAT              the version of all this
//!  DIR/db/                 sled: tree `log` (index and part, big-endian), tree `meta` (vote, purged, …)
//!  DIR/snapshots/*.berth   the state machine at an index
//! ```
//! Everything written carries a version and a checksum ([`codec`]). Nothing is durable before [`Store::sync`] returns;
//! why that is true of sled at all is told in [`durable`].

pub mod codec;
pub mod durable;
pub mod format;
pub mod snapshot;

use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sled::IVec;

/// The largest record taken; it is stored in parts.
pub const MAX_VALUE_BYTES: usize = 100 * 1024;
/// The largest part. sled writes whole leaves, of 17 values before they are split and a few more where two are merged; a
/// leaf above a quarter of a segment, 128 KiB, goes to a blob file, and those are never synced. So it is the leaf that
/// has to stay small, and not only the value.
const PART_BYTES: usize = 4 * 1024;
/// Read cache; the log's tail is small and the state machine lives in memory.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// sled closes its files a moment after the database is dropped; reopening within it fails with "would block".
const REOPEN_PATIENCE: Duration = Duration::from_secs(5);

/// Why the store could not do something. All of them stop the replica.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A directory or file could not be read or written.
    #[error("{what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Made by a newer Berth.
    #[error(
        "the data in {} has format {found}, and this version of berth-server knows formats up to {known}; install a version as new as the one that wrote it",
        path.display()
    )]
    NewerFormat {
        /// The data directory.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The newest known.
        known: u32,
    },
    /// A data directory of an earlier layout that is not upgraded.
    #[error(
        "the data in {} has format {found}, and this version of berth-server reads format {known} only: take a backup with the version that wrote it and restore that",
        path.display()
    )]
    OlderFormat {
        /// The data directory.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The one known.
        known: u32,
    },
    /// Bytes that are not what was written.
    #[error(
        "{what} in {} is damaged: {reason}; this replica cannot be trusted any more: remove it from the cluster, move its data directory away and add it again under a new id",
        path.display()
    )]
    Damaged {
        /// What is damaged.
        what: String,
        /// Where.
        path: PathBuf,
        /// How that was seen.
        reason: String,
    },
    /// sled failed.
    #[error("the database in {} failed", path.display())]
    Database {
        /// Where.
        path: PathBuf,
        /// How.
        #[source]
        source: sled::Error,
    },
    /// The durability remedy does not work here.
    #[error(
        "a flush of the database in {} did not reach fdatasync, so nothing would be safe from a power cut; do not use the io_uring feature of sled, and check how berth-server was linked",
        path.display()
    )]
    NotDurable {
        /// Where.
        path: PathBuf,
    },
    /// A value that sled would keep out of its synced file.
    #[error(
        "a record of {bytes} bytes is larger than the {MAX_VALUE_BYTES} bytes that can be stored safely"
    )]
    TooLarge {
        /// How many.
        bytes: usize,
    },
}

impl From<StoreError> for std::io::Error {
    fn from(error: StoreError) -> Self {
        std::io::Error::other(error)
    }
}

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

/// The store on sled.
pub struct SledStore {
    path: PathBuf,
    database: sled::Db,
    log: sled::Tree,
    meta: sled::Tree,
}

impl SledStore {
    /// Opens or makes the store in `directory`, after checking its format, and proves that a flush is durable here.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        format::check_or_write(directory)?;
        let path = directory.join("db");
        std::fs::create_dir_all(&path)
            .map_err(|source| file("making the directory", &path, source))?;
        durable::remove_half_made_index(&path)?;
        let begun = Instant::now();
        let database = loop {
            match sled::Config::default().path(&path).cache_capacity(CACHE_BYTES).open() {
                Err(sled::Error::Io(error))
                    if would_block(&error) && begun.elapsed() < REOPEN_PATIENCE =>
                {
                    // The lock of the process before us, or of this one's last handle; there is no event to wait for.
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                opened => break opened.map_err(|source| database_error(&path, source))?,
            }
        };
        let tree = |name| database.open_tree(name).map_err(|source| database_error(&path, source));
        let store = Self { log: tree("log")?, meta: tree("meta")?, database, path };
        store.check_durability()?;
        Ok(store)
    }

    /// Writes something new, flushes it, and wants to see that fdatasync was called.
    fn check_durability(&self) -> Result<(), StoreError> {
        let before = durable::barriers();
        // A counter, for sled skips a write that changes nothing.
        let error = |source| database_error(&self.path, source);
        let count = self.meta.get("opened").map_err(error)?.map_or(0, |bytes| count(&bytes));
        self.meta.insert("opened", &(count + 1).to_be_bytes()).map_err(error)?;
        self.database.flush().map_err(error)?;
        if durable::barriers() == before {
            return Err(StoreError::NotDurable { path: self.path.clone() });
        }
        Ok(())
    }

    fn unseal(&self, what: &str, bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
        codec::unseal(bytes).map_err(|reason| StoreError::Damaged {
            what: what.to_owned(),
            path: self.path.clone(),
            reason: reason.to_string(),
        })
    }

    fn error(&self, source: sled::Error) -> StoreError {
        database_error(&self.path, source)
    }
}

fn count(bytes: &IVec) -> u64 {
    bytes.as_ref().try_into().map_or(0, u64::from_be_bytes)
}

fn would_block(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock
        || error.to_string().contains("could not acquire lock")
}

fn file(what: &'static str, path: &Path, source: std::io::Error) -> StoreError {
    StoreError::File { what, path: path.to_owned(), source }
}

fn database_error(path: &Path, source: sled::Error) -> StoreError {
    match source {
        sled::Error::Corruption { .. } => StoreError::Damaged {
            what: "the database".into(),
            path: path.to_owned(),
            reason: source.to_string(),
        },
        source => StoreError::Database { path: path.to_owned(), source },
    }
}

fn seal(value: &[u8], limit: usize) -> Result<Vec<u8>, StoreError> {
    let bytes = codec::seal(value);
    if bytes.len() > limit {
        return Err(StoreError::TooLarge { bytes: bytes.len() });
    }
    Ok(bytes)
}

/// The key of a part: the index, then the part's number, so that parts stand in order.
fn part_key(index: u64, part: u16) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&part.to_be_bytes());
    key
}

/// The index in a part's key.
fn index_of(key: &IVec) -> u64 {
    key.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// All parts of a range of indexes.
fn keys(range: &(Bound<u64>, Bound<u64>)) -> (Bound<[u8; 10]>, Bound<[u8; 10]>) {
    let start = match range.start_bound() {
        Bound::Included(index) => Bound::Included(part_key(*index, 0)),
        Bound::Excluded(index) => Bound::Excluded(part_key(*index, u16::MAX)),
        Bound::Unbounded => Bound::Unbounded,
    };
    let end = match range.end_bound() {
        Bound::Included(index) => Bound::Included(part_key(*index, u16::MAX)),
        Bound::Excluded(index) => Bound::Excluded(part_key(*index, 0)),
        Bound::Unbounded => Bound::Unbounded,
    };
    (start, end)
}

impl Store for SledStore {
    fn append(&self, entries: Vec<(u64, Vec<u8>)>) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for (index, bytes) in entries {
            for (part, bytes) in (0..).zip(seal(&bytes, MAX_VALUE_BYTES)?.chunks(PART_BYTES)) {
                batch.insert(&part_key(index, part), bytes);
            }
        }
        self.log.apply_batch(batch).map_err(|source| self.error(source))
    }

    fn read(&self, range: (Bound<u64>, Bound<u64>)) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut sealed: Vec<(u64, Vec<u8>)> = Vec::new();
        for pair in self.log.range(keys(&range)) {
            let (key, bytes) = pair.map_err(|source| self.error(source))?;
            let index = index_of(&key);
            match sealed.last_mut().filter(|(last, _)| *last == index) {
                Some((_, value)) => value.extend_from_slice(&bytes),
                None => sealed.push((index, bytes.to_vec())),
            }
        }
        sealed
            .iter()
            .map(|(index, bytes)| self.unseal(&format!("log entry {index}"), bytes))
            .collect()
    }

    fn last(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let Some((key, _)) = self.log.last().map_err(|source| self.error(source))? else {
            return Ok(None);
        };
        let index = index_of(&key);
        Ok(self.read((Bound::Included(index), Bound::Included(index)))?.pop())
    }

    fn remove(&self, range: (Bound<u64>, Bound<u64>)) -> Result<(), StoreError> {
        let mut batch = sled::Batch::default();
        for key in self.log.range(keys(&range)).keys() {
            batch.remove(key.map_err(|source| self.error(source))?);
        }
        self.log.apply_batch(batch).map_err(|source| self.error(source))
    }

    fn put(&self, key: MetaKey, value: &[u8]) -> Result<(), StoreError> {
        self.meta
            .insert(key.name(), seal(value, PART_BYTES)?)
            .map_err(|source| self.error(source))?;
        Ok(())
    }

    fn get(&self, key: MetaKey) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.meta.get(key.name()).map_err(|source| self.error(source))?;
        value.map(|bytes| self.unseal(key.name(), &bytes)).transpose()
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.database.flush().map_err(|source| self.error(source))?;
        Ok(())
    }
}

#[cfg(test)]
mod power_cut;
#[cfg(test)]
mod tests;
