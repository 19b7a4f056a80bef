//! The version of the data directory: another one than this version writes is refused; upgrades would be made here.

use std::cmp::Ordering;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;

use crate::store::{StoreError, file};

/// The format this version writes.
///
/// 1 (2026-11-23): sled 0.34 with trees `log` and `meta`, postcard inside envelope 1; snapshots with header 1.
/// 2 (2026-11-25): VMs have a handling, and what goes with it; a tally and what peers acknowledged beside the database.
/// Nothing was released in format 1, so it is not upgraded.
pub const CURRENT: u32 = 2;

/// Makes the directory and checks its format; whether it is a new one.
pub fn check(directory: &Path) -> Result<bool, StoreError> {
    fs::create_dir_all(directory)
        .map_err(|source| file("making the directory", directory, source))?;
    let path = directory.join("FORMAT");
    let damaged = |reason: String| StoreError::Damaged {
        what: "the file FORMAT".into(),
        path: directory.to_owned(),
        reason,
    };
    match fs::read_to_string(&path) {
        Ok(text) => {
            let found = text.trim().parse::<u32>().map_err(|error| damaged(error.to_string()))?;
            match found.cmp(&CURRENT) {
                Ordering::Equal => Ok(false),
                Ordering::Greater => Err(StoreError::NewerFormat {
                    path: directory.to_owned(),
                    found,
                    known: CURRENT,
                }),
                Ordering::Less => Err(StoreError::OlderFormat {
                    path: directory.to_owned(),
                    found,
                    known: CURRENT,
                }),
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // Written when all else has been made; a first start that was interrupted has nothing to lose.
            let used = directory.join("snapshots");
            match used.exists() {
                true => Err(damaged("it is missing".into())),
                false => Ok(true),
            }
        }
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(damaged(error.to_string())),
        Err(source) => Err(file("reading", &path, source)),
    }
}

/// Notes the format of a directory that has been made.
pub fn write(directory: &Path) -> Result<(), StoreError> {
    let path = directory.join("FORMAT");
    if path.exists() { Ok(()) } else { write_durably(&path, format!("{CURRENT}\n").as_bytes()) }
}

/// Temporary name, fsync, rename, fsync of the directory: after this the file is there, whole, whatever happens.
pub fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let temporary = path.with_extension("tmp");
    let mut out =
        fs::File::create(&temporary).map_err(|source| file("creating", &temporary, source))?;
    out.write_all(bytes).map_err(|source| file("writing", &temporary, source))?;
    out.sync_all().map_err(|source| file("syncing", &temporary, source))?;
    fs::rename(&temporary, path).map_err(|source| file("renaming to", path, source))?;
    sync_parent(path)
}

/// Makes a change of names in a file's directory durable.
pub fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let directory = fs::File::open(parent).map_err(|source| file("opening", parent, source))?;
    directory.sync_all().map_err(|source| file("syncing", parent, source))
}
