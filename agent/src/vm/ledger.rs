//! The agent's memory on disk: for each VM the highest order taken or promised, and what the last one came to. Synced
//! before the agent acts, so that an order is done once over restarts, and one that was ruled out stays so.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The format this version writes: a head line with version and checksum, then JSON.
const VERSION: u32 = 1;
const MAGIC: &str = "berth-ledger";

/// What an order came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Which.
    pub order: u64,
    /// `None` for success.
    pub error: Option<String>,
}

/// What is known of one VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Orders below this are refused, and so is this one unless it was begun or done.
    pub floor: u64,
    /// The ownership of the last order.
    pub generation: u64,
    /// The order that was begun and not finished.
    pub begun: Option<u64>,
    /// The last order that was finished.
    pub done: Option<Done>,
}

/// Why the ledger cannot be used. The agent does not start without it: it could do an order twice.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The disk.
    #[error("the ledger {} could not be {what}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// By a newer agent.
    #[error("the ledger {} has format {found}, and this agent knows formats up to {VERSION}; install one as new as the one that wrote it", path.display())]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Not what was written.
    #[error("the ledger {} is damaged ({reason}); when no VM of the cluster runs on this host, remove the file and start the agent again", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How that was seen.
        reason: String,
    },
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    entries: BTreeMap<Uuid, Entry>,
}

/// The ledger, shared by all drivers. Its methods block for one fsync.
#[derive(Debug, Clone)]
pub struct Ledger {
    inner: Arc<Mutex<Inner>>,
}

impl Ledger {
    /// Reads the ledger in `directory`, or begins one.
    pub fn open(directory: &Path) -> Result<Self, LedgerError> {
        let path = directory.join("ledger");
        let file = |what, source| LedgerError::File { what, path: path.clone(), source };
        fs::create_dir_all(directory).map_err(|source| file("made", source))?;
        let entries = match fs::read_to_string(&path) {
            Ok(text) => parse(&path, &text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(file("read", source)),
        };
        Ok(Self { inner: Arc::new(Mutex::new(Inner { path, entries })) })
    }

    /// What is known of a VM.
    pub fn entry(&self, uuid: Uuid) -> Option<Entry> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).entries.get(&uuid).cloned()
    }

    /// An order is about to be carried out.
    pub fn begin(&self, uuid: Uuid, order: u64, generation: u64) -> Result<(), LedgerError> {
        self.change(uuid, |entry| {
            entry.floor = entry.floor.max(order);
            entry.generation = generation;
            entry.begun = Some(order);
        })
    }

    /// It came to this.
    pub fn finish(&self, uuid: Uuid, order: u64, error: Option<String>) -> Result<(), LedgerError> {
        self.change(uuid, |entry| {
            entry.begun = None;
            entry.done = Some(Done { order, error });
        })
    }

    /// Orders up to this one are refused from now on.
    pub fn promise(&self, uuid: Uuid, floor: u64) -> Result<(), LedgerError> {
        if self.entry(uuid).is_some_and(|entry| entry.floor >= floor) {
            return Ok(());
        }
        self.change(uuid, |entry| entry.floor = entry.floor.max(floor))
    }

    /// On disk first: what is not written down did not happen.
    fn change(&self, uuid: Uuid, change: impl FnOnce(&mut Entry)) -> Result<(), LedgerError> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries = inner.entries.clone();
        change(entries.entry(uuid).or_default());
        write(&inner.path, &entries)?;
        inner.entries = entries;
        Ok(())
    }
}

fn parse(path: &Path, text: &str) -> Result<BTreeMap<Uuid, Entry>, LedgerError> {
    let damaged =
        |reason: &str| LedgerError::Damaged { path: path.to_owned(), reason: reason.to_owned() };
    let (head, body) = text.split_once('\n').ok_or_else(|| damaged("it has no head line"))?;
    let words: Vec<&str> = head.split(' ').collect();
    let [MAGIC, version, sum] = words.as_slice() else {
        return Err(damaged("its head line is not one"));
    };
    let version: u32 = version.parse().map_err(|_| damaged("its version is not a number"))?;
    if version > VERSION {
        return Err(LedgerError::Newer { path: path.to_owned(), found: version });
    }
    if *sum != format!("{:08x}", crc32fast::hash(body.as_bytes())) {
        return Err(damaged("its checksum is another"));
    }
    serde_json::from_str(body).map_err(|error| damaged(&error.to_string()))
}

fn write(path: &Path, entries: &BTreeMap<Uuid, Entry>) -> Result<(), LedgerError> {
    let file = |what, source| LedgerError::File { what, path: path.to_owned(), source };
    let body =
        serde_json::to_string(entries).map_err(|error| file("written", io::Error::other(error)))?;
    let head = format!("{MAGIC} {VERSION} {:08x}\n", crc32fast::hash(body.as_bytes()));
    let temporary = path.with_extension("tmp");
    let mut out = File::create(&temporary).map_err(|source| file("created", source))?;
    out.write_all(head.as_bytes())
        .and_then(|()| out.write_all(body.as_bytes()))
        .map_err(|source| file("written", source))?;
    out.sync_all().map_err(|source| file("synced", source))?;
    fs::rename(&temporary, path).map_err(|source| file("renamed", source))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| file("synced", source))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: Uuid = Uuid::from_u128(3);

    #[test]
    fn what_was_noted_is_there_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path()).unwrap();
        ledger.begin(VM, 7, 7).unwrap();
        ledger.finish(VM, 7, Some("no".into())).unwrap();
        ledger.promise(VM, 9).unwrap();
        ledger.promise(VM, 8).unwrap();
        let entry = Ledger::open(directory.path()).unwrap().entry(VM).unwrap();
        let done = Some(Done { order: 7, error: Some("no".into()) });
        assert_eq!(entry, Entry { floor: 9, generation: 7, begun: None, done });
    }

    #[test]
    fn a_damaged_or_newer_ledger_is_refused_with_the_way_out() {
        let directory = tempfile::tempdir().unwrap();
        Ledger::open(directory.path()).unwrap().promise(VM, 9).unwrap();
        let path = directory.path().join("ledger");
        let good = fs::read_to_string(&path).unwrap();
        for (text, reason) in [
            (good.replace("\"floor\":9", "\"floor\":8"), "checksum"),
            (good[..good.len() - 3].to_owned(), "checksum"),
            (good.replacen(" 1 ", " 2 ", 1), "formats up to 1"),
            (String::new(), "no head line"),
        ] {
            fs::write(&path, &text).unwrap();
            let error = Ledger::open(directory.path()).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
