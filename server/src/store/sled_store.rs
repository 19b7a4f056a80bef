//! The store on sled, with a tally beside it.

use std::ops::{Bound, RangeBounds};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use sled::IVec;
use tracing::error;

use super::tally::{Tally, checksum};
use super::twin::Twin;
use super::{MAX_VALUE_BYTES, MetaKey, Store, StoreError, codec, durable, file, format};

/// The largest part. sled writes whole leaves, of 17 values before they are split and a few more where two are merged; a
/// leaf above a quarter of a segment, 128 KiB, goes to a blob file, and those are never synced. So it is the leaf that
/// has to stay small, and not only the value.
pub(super) const PART_BYTES: usize = 4 * 1024;
/// Read cache; the log's tail is small and the state machine lives in memory.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;
/// sled closes its files a moment after the database is dropped; reopening within it fails with "would block".
const REOPEN_PATIENCE: Duration = Duration::from_secs(5);
/// How long the tally may be in the kernel only: a power cut costs so much of the second account, and nothing else.
const TALLY_SYNC: Duration = Duration::from_millis(500);
/// The key of [`Tally::sequence`] in the tree `meta`.
const SEQUENCE: &str = "sequence";
const OPENED: &str = "opened";

/// The store on sled.
pub struct SledStore {
    directory: PathBuf,
    path: PathBuf,
    database: sled::Db,
    pub(super) log: sled::Tree,
    pub(super) meta: sled::Tree,
    /// What the database holds, as of the last change.
    held: Mutex<Tally>,
    /// One sync at a time, so that the tally never goes back.
    syncing: Mutex<()>,
    noted: Arc<Twin>,
    starts: u64,
}

impl SledStore {
    /// Opens or makes the store in `directory`, after checking its format, proves that a flush is durable here, and reads
    /// all of it: what was acknowledged is there, or the store is refused.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        durable::refuse_after_failure(directory)?;
        let is_new = format::check(directory)?;
        // sled trusts its own files more than a damaged disk deserves.
        let opened = catch_unwind(AssertUnwindSafe(|| Self::open_checked(directory, is_new)));
        opened.unwrap_or_else(|panic| {
            let reason = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(StoreError::Damaged {
                what: "the database".into(),
                path: directory.join("db"),
                reason: reason.unwrap_or_else(|| "sled could not read it".into()),
            })
        })
    }

    fn open_checked(directory: &Path, is_new: bool) -> Result<Self, StoreError> {
        let path = directory.join("db");
        let tally = directory.join("tally");
        if !is_new && !tally.exists() {
            return Err(StoreError::Damaged {
                what: "the file tally".into(),
                path: directory.to_owned(),
                reason: "it is missing".into(),
            });
        }
        let (noted, value) = Twin::open(&tally)?;
        let noted_tally: Option<Tally> = value
            .map(|value| postcard::from_bytes(&value))
            .transpose()
            .map_err(|error| damaged("the file tally", directory, error.to_string()))?;
        if noted_tally.is_none() && is_new {
            // Before there is a database, so that none is ever without.
            note(&noted, &Tally::default())?;
            noted.sync()?;
        }
        let database = open_database(&path)?;
        let tree = |name| database.open_tree(name).map_err(|source| database_error(&path, source));
        let (log, meta) = (tree("log")?, tree("meta")?);
        let mut store = Self {
            directory: directory.to_owned(),
            log,
            meta,
            database,
            path,
            held: Mutex::new(Tally::default()),
            syncing: Mutex::new(()),
            noted: Arc::new(noted),
            starts: 0,
        };
        let noted = noted_tally.unwrap_or_default();
        let (found, held) = store.take_stock(noted.end)?;
        if let Some(missing) = noted.missing_in(&found) {
            return Err(damaged("the database", &store.path, missing));
        }
        *store.held() = held;
        store.starts = store.check_durability()?;
        store.sync()?;
        format::write(directory)?;
        let noted = Arc::downgrade(&store.noted);
        std::thread::Builder::new()
            .name("tally-sync".into())
            .spawn(move || sync_tally(&noted))
            .map_err(|source| file("starting a thread for", directory, source))?;
        Ok(store)
    }

    /// How often this directory has been opened, this time included.
    pub fn starts(&self) -> u64 {
        self.starts
    }

    /// Reads everything there is: each record whole and in its place. Returns what there is up to the entry before `end`,
    /// and all there is.
    fn take_stock(&self, end: u64) -> Result<(Tally, Tally), StoreError> {
        let sequence = self.meta.get(SEQUENCE).map_err(|source| self.error(source))?;
        let mut held =
            Tally { sequence: sequence.map_or(0, |bytes| count(&bytes)), ..Tally::default() };
        let mut early = 0u64;
        let mut record: Option<(u64, u16, Vec<u8>)> = None;
        let whole = |record: &Option<(u64, u16, Vec<u8>)>| match record {
            Some((index, _, bytes)) => self.unseal(&format!("log entry {index}"), bytes).map(drop),
            None => Ok(()),
        };
        for pair in self.log.iter() {
            let (key, bytes) = pair.map_err(|source| self.error(source))?;
            let (index, part) = (index_of(&key), part_of(&key));
            let sum = checksum(&key, &bytes);
            held.entries = held.entries.wrapping_add(sum);
            early = if index < end { early.wrapping_add(sum) } else { early };
            let expected = match &mut record {
                Some((last, last_part, value)) if *last == index => {
                    value.extend_from_slice(&bytes);
                    *last_part += 1;
                    (index, *last_part)
                }
                before => {
                    whole(before)?;
                    let next = before.as_ref().map_or(index, |(last, ..)| last + 1);
                    *before = Some((index, 0, bytes.to_vec()));
                    (next, 0)
                }
            };
            if expected != (index, part) {
                let reason = format!("entry {} is missing", expected.0);
                return Err(damaged("the log", &self.path, reason));
            }
        }
        whole(&record)?;
        held.end = record.map_or(0, |(last, ..)| last + 1);
        for key in MetaKey::ALL {
            let value = self.meta.get(key.name()).map_err(|source| self.error(source))?;
            if let Some(value) = value {
                self.unseal(key.name(), &value)?;
                held.values = held.values.wrapping_add(checksum(key.name().as_bytes(), &value));
            }
        }
        Ok((Tally { entries: early, ..held }, held))
    }

    /// Writes something new, flushes it, and wants to see that fdatasync was called. Returns how often that was.
    fn check_durability(&self) -> Result<u64, StoreError> {
        let before = durable::barriers();
        // A counter, for sled skips a write that changes nothing.
        let error = |source| database_error(&self.path, source);
        let opened = self.meta.get(OPENED).map_err(error)?.map_or(0, |bytes| count(&bytes)) + 1;
        self.meta.insert(OPENED, &opened.to_be_bytes()).map_err(error)?;
        self.database.flush().map_err(error)?;
        if durable::barriers() == before {
            return Err(StoreError::NotDurable { path: self.path.clone() });
        }
        Ok(opened)
    }

    fn held(&self) -> MutexGuard<'_, Tally> {
        // Every statement under it leaves it valid, and a store that failed is not used again.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before something is taken away or replaced, so that its absence is told from a loss.
    fn step(&self, held: &mut Tally) -> Result<(), StoreError> {
        held.sequence += 1;
        self.meta
            .insert(SEQUENCE, &held.sequence.to_be_bytes())
            .map_err(|source| self.error(source))?;
        Ok(())
    }

    fn remove_held(
        &self,
        held: &mut Tally,
        range: (Bound<u64>, Bound<u64>),
    ) -> Result<(), StoreError> {
        self.step(held)?;
        let mut batch = sled::Batch::default();
        for pair in self.log.range(keys(&range)) {
            let (key, value) = pair.map_err(|source| self.error(source))?;
            held.entries = held.entries.wrapping_sub(checksum(&key, &value));
            batch.remove(key);
        }
        self.log.apply_batch(batch).map_err(|source| self.error(source))?;
        let last = self.log.last().map_err(|source| self.error(source))?;
        held.end = last.map_or(0, |(key, _)| index_of(&key) + 1);
        Ok(())
    }

    fn unseal(&self, what: &str, bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
        codec::unseal(bytes).map_err(|reason| damaged(what, &self.path, reason.to_string()))
    }

    fn error(&self, source: sled::Error) -> StoreError {
        self.sync_failure().unwrap_or_else(|| database_error(&self.path, source))
    }

    /// A sync that failed may come to light in whatever is asked of sled next.
    fn sync_failure(&self) -> Option<StoreError> {
        durable::has_failed().then(|| {
            durable::leave_note(&self.directory);
            StoreError::SyncFailed { path: self.directory.clone() }
        })
    }
}

fn open_database(path: &Path) -> Result<sled::Db, StoreError> {
    std::fs::create_dir_all(path).map_err(|source| file("making the directory", path, source))?;
    durable::remove_half_made_index(path)?;
    let begun = Instant::now();
    loop {
        match sled::Config::default().path(path).cache_capacity(CACHE_BYTES).open() {
            Err(sled::Error::Io(error))
                if would_block(&error) && begun.elapsed() < REOPEN_PATIENCE =>
            {
                // The lock of the process before us, or of this one's last handle; there is no event to wait for.
                std::thread::park_timeout(Duration::from_millis(20));
            }
            opened => return opened.map_err(|source| database_error(path, source)),
        }
    }
}

fn note(noted: &Twin, tally: &Tally) -> Result<(), StoreError> {
    // Four numbers always encode, and fit.
    noted.write(&postcard::to_stdvec(tally).unwrap_or_default())
}

/// Until the store is gone.
fn sync_tally(noted: &Weak<Twin>) {
    loop {
        std::thread::park_timeout(TALLY_SYNC);
        let Some(noted) = noted.upgrade() else { return };
        if let Err(failure) = noted.sync() {
            error!(error = &failure as &dyn std::error::Error, "the tally could not be synced");
            durable::note_failure();
        }
    }
}

fn count(bytes: &IVec) -> u64 {
    bytes.as_ref().try_into().map_or(0, u64::from_be_bytes)
}

fn would_block(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock
        || error.to_string().contains("could not acquire lock")
}

fn damaged(what: &str, path: &Path, reason: String) -> StoreError {
    StoreError::Damaged { what: what.to_owned(), path: path.to_owned(), reason }
}

fn database_error(path: &Path, source: sled::Error) -> StoreError {
    match source {
        sled::Error::Corruption { .. } => damaged("the database", path, source.to_string()),
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
pub(super) fn part_key(index: u64, part: u16) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&index.to_be_bytes());
    key[8..].copy_from_slice(&part.to_be_bytes());
    key
}

/// The index in a part's key.
fn index_of(key: &[u8]) -> u64 {
    key.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// The part's number in its key.
fn part_of(key: &[u8]) -> u16 {
    key.last_chunk::<2>().map_or(0, |bytes| u16::from_be_bytes(*bytes))
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
        let mut sealed = Vec::with_capacity(entries.len());
        for (index, bytes) in entries {
            sealed.push((index, seal(&bytes, MAX_VALUE_BYTES)?));
        }
        let mut held = self.held();
        if let Some((first, _)) = sealed.first().filter(|(first, _)| *first < held.end) {
            // Parts of a longer record must not stay behind a shorter one.
            self.remove_held(&mut held, (Bound::Included(*first), Bound::Unbounded))?;
        }
        let mut batch = sled::Batch::default();
        for (index, bytes) in &sealed {
            for (part, bytes) in (0..).zip(bytes.chunks(PART_BYTES)) {
                let key = part_key(*index, part);
                held.entries = held.entries.wrapping_add(checksum(&key, bytes));
                batch.insert(&key, bytes);
            }
            held.end = held.end.max(index + 1);
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
        self.remove_held(&mut self.held(), range)
    }

    fn put(&self, key: MetaKey, value: &[u8]) -> Result<(), StoreError> {
        let value = seal(value, PART_BYTES)?;
        let sum = |value: &[u8]| checksum(key.name().as_bytes(), value);
        let mut held = self.held();
        self.step(&mut held)?;
        let after = sum(&value);
        let before = self.meta.insert(key.name(), value).map_err(|source| self.error(source))?;
        let before = before.map_or(0, |value| sum(&value));
        held.values = held.values.wrapping_sub(before).wrapping_add(after);
        Ok(())
    }

    fn get(&self, key: MetaKey) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.meta.get(key.name()).map_err(|source| self.error(source))?;
        value.map(|bytes| self.unseal(key.name(), &bytes)).transpose()
    }

    fn sync(&self) -> Result<(), StoreError> {
        let _one = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = {
            let mut held = self.held();
            self.step(&mut held)?;
            *held
        };
        let flushed = self.database.flush();
        if let Some(failure) = self.sync_failure() {
            return Err(failure);
        }
        flushed.map_err(|source| self.error(source))?;
        note(&self.noted, &tally)
    }
}
