//! The ledger's files: whole or not at all, with a checksum, and on stable storage where that is asked.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Entries, Ledger, LedgerStorage, SinceBoot, Suspended};

/// The format this version writes: a head line with version and checksum, then JSON.
const VERSION: u32 = 4;
const MAGIC: &str = "berth-ledger";

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

struct LedgerFile {
    path: PathBuf,
    suspended: PathBuf,
    since_boot: PathBuf,
}

impl LedgerFile {
    /// Whole or not at all, and not for ever: it is lost with the host's power.
    fn note(path: &Path, what: &impl Serialize) -> Result<(), LedgerError> {
        let file = |source| LedgerError::File { what: "written", path: path.to_owned(), source };
        let text = serde_json::to_string(what).map_err(|error| file(io::Error::other(error)))?;
        let temporary = path.with_extension("tmp");
        fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path)).map_err(file)
    }
}

impl Ledger {
    /// Reads the ledger in `directory`, or begins one. What self-fence has stopped is noted in `run`, which is empty
    /// after a boot.
    pub fn open(directory: &Path, run: &Path) -> Result<Self, LedgerError> {
        let path = directory.join("ledger");
        let file = |what, source| LedgerError::File { what, path: path.clone(), source };
        fs::create_dir_all(directory).map_err(|source| file("made", source))?;
        let entries = match fs::read_to_string(&path) {
            Ok(text) => parse(&path, &text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Entries::default(),
            Err(source) => return Err(file("read", source)),
        };
        let stopped = run.join("suspended");
        fs::create_dir_all(run).map_err(|source| LedgerError::File {
            what: "made",
            path: run.to_owned(),
            source,
        })?;
        let since_boot = run.join("since-boot");
        // One that cannot be read costs no more than a resume by hand.
        let (suspended, known) = (noted(&stopped), noted(&since_boot));
        let storage = LedgerFile { path, suspended: stopped, since_boot };
        Ok(Self::over(Box::new(storage), entries, suspended).knowing(known))
    }
}

/// What was noted there; nothing where that cannot be read.
fn noted<T: serde::de::DeserializeOwned + Default>(path: &Path) -> T {
    let text = fs::read_to_string(path).ok();
    text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}

impl LedgerStorage for LedgerFile {
    fn write(&mut self, entries: &Entries) -> Result<(), LedgerError> {
        write(&self.path, entries)
    }

    fn write_suspended(&mut self, suspended: &Suspended) -> Result<(), LedgerError> {
        Self::note(&self.suspended, suspended)
    }

    fn write_since_boot(&mut self, noted: &SinceBoot) -> Result<(), LedgerError> {
        Self::note(&self.since_boot, noted)
    }
}

fn parse(path: &Path, text: &str) -> Result<Entries, LedgerError> {
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

fn write(path: &Path, entries: &Entries) -> Result<(), LedgerError> {
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
