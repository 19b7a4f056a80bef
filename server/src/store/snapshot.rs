//! Snapshot files: the state machine at an index, whole or not there at all.

use std::fs;
use std::path::{Path, PathBuf};

use crate::store::format::{sync_parent, write_durably};
use crate::store::{StoreError, codec, file};

/// Older ones are removed; the one before the last is kept for the case that the last is damaged.
const KEPT: usize = 2;
const EXTENSION: &str = "berth";

/// The directory of a replica's snapshots.
#[derive(Debug, Clone)]
pub struct SnapshotFiles {
    directory: PathBuf,
}

impl SnapshotFiles {
    /// Opens or makes `DIR/snapshots`.
    pub fn open(data: &Path) -> Result<Self, StoreError> {
        let directory = data.join("snapshots");
        fs::create_dir_all(&directory)
            .map_err(|source| file("making the directory", &directory, source))?;
        Ok(Self { directory })
    }

    /// Writes a snapshot; when this returns it is on stable storage under its name.
    pub fn write(&self, index: u64, term: u64, bytes: &[u8]) -> Result<(), StoreError> {
        // Fixed width, so that names sort like indexes.
        let path = self.directory.join(format!("{index:020}-{term}.{EXTENSION}"));
        write_durably(&path, &codec::seal(bytes))?;
        let names = self.names()?;
        for old in names.iter().rev().skip(KEPT) {
            fs::remove_file(old).map_err(|source| file("removing", old, source))?;
        }
        sync_parent(&path)
    }

    /// The newest snapshot. A damaged one is an error: an older one may lack what the log no longer has.
    pub fn newest(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(path) = self.names()?.pop() else { return Ok(None) };
        let bytes = fs::read(&path).map_err(|source| file("reading", &path, source))?;
        let value = codec::unseal(&bytes).map_err(|reason| StoreError::Damaged {
            what: "the newest snapshot".into(),
            path: path.clone(),
            reason: reason.to_string(),
        })?;
        Ok(Some(value))
    }

    fn names(&self) -> Result<Vec<PathBuf>, StoreError> {
        let reading = |source| file("reading the directory", &self.directory, source);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(reading)? {
            let path = entry.map_err(reading)?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                names.push(path);
            }
        }
        names.sort();
        Ok(names)
    }
}
