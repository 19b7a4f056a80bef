//! Why a store fails, in words for operators.

use std::path::PathBuf;

use crate::store::MAX_VALUE_BYTES;

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
    /// Made by an older Berth that nobody was promised to be able to read.
    #[error(
        "the data in {} has format {found}, which this version of berth-server, of format {known}, cannot read; run the version that wrote it, `berthctl backup` there and `berthctl restore` here",
        path.display()
    )]
    OlderFormat {
        /// The data directory.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The one this version writes.
        known: u32,
    },
    /// Bytes that are not what was written.
    #[error(
        "{what} in {} is damaged: {reason}; this replica cannot be trusted any more; bring it back from its peers with `berthctl replica rebuild`, on its host",
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
    /// The disk did not take what it was given.
    #[error(
        "syncing the data in {} failed, and the kernel may have dropped what it could not write: this replica stops, and acknowledges nothing of it; check the disk, and boot the host before this replica starts again, or bring it back from its peers with `berthctl replica rebuild`",
        path.display()
    )]
    SyncFailed {
        /// The data directory.
        path: PathBuf,
    },
    /// The same, found by the next process.
    #[error(
        "an earlier process could not sync the data in {}, so that what is read there now may be in the kernel's memory and not on the disk; check the disk and boot the host, or bring this replica back from its peers with `berthctl replica rebuild`",
        path.display()
    )]
    SyncHadFailed {
        /// The data directory.
        path: PathBuf,
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
