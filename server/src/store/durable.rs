//! Why a flush of sled is durable here.
//!
//! sled 0.34's `flush` writes with `pwrite` and then calls `sync_file_range`, which on Linux neither flushes the
//! device's cache nor the file's metadata: after a power cut the database may be corrupt and acknowledged records gone
//! (sled issues 1351 and 1452; measured: 498 of 500 simulated cuts). The remedy is to define the libc symbol
//! `sync_file_range` ourselves, as an `fdatasync` of the whole file. The static linker binds sled's call to it, so that
//! sled's own ordering (it reuses segments only after such a call) is fenced as well, which an `fdatasync` of ours
//! after each flush would not do. `SledStore::open` proves at each start that the remedy is in place.
//!
//! One of the two modules with unsafe code; it must define a C symbol.
#![allow(unsafe_code, reason = "defines the C symbol that sled calls; see the module's words")]

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::{StoreError, file};

static BARRIERS: AtomicU64 = AtomicU64::new(0);

/// How often sled has asked for a barrier, in this process.
pub fn barriers() -> u64 {
    BARRIERS.load(Ordering::Relaxed)
}

/// The barrier that sled calls, made a real one.
// SAFETY: the symbol is libc's, with libc's signature; nobody else in this process relies on `sync_file_range` doing
// less than `fdatasync` does. It replaces no Rust symbol.
#[unsafe(no_mangle)]
pub extern "C" fn sync_file_range(
    descriptor: libc::c_int,
    _offset: libc::off64_t,
    _length: libc::off64_t,
    _flags: libc::c_uint,
) -> libc::c_int {
    BARRIERS.fetch_add(1, Ordering::Relaxed);
    #[cfg(test)]
    observer::tell(descriptor);
    // SAFETY: fdatasync takes any number as descriptor and reports a bad one with an error code.
    unsafe { libc::fdatasync(descriptor) }
}

/// Removes an index snapshot that sled was writing when it was killed: sled takes it for a finished one and calls the
/// database corrupt (sled issues 1527 and 1533). It holds nothing that is not in the log of the database.
pub(super) fn remove_half_made_index(directory: &Path) -> Result<(), StoreError> {
    let entries = std::fs::read_dir(directory)
        .map_err(|source| file("reading the directory", directory, source))?;
    for entry in entries {
        let path = entry.map_err(|source| file("reading the directory", directory, source))?.path();
        let name =
            path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            std::fs::remove_file(&path)
                .map_err(|source| file("removing the half-made file", &path, source))?;
        }
    }
    Ok(())
}

/// Lets the crash simulator see what is in a file whenever a barrier is asked for.
#[cfg(test)]
pub(super) mod observer {
    use std::path::PathBuf;
    use std::sync::{Mutex, PoisonError};

    type Observer = Box<dyn FnMut(PathBuf) + Send>;
    static OBSERVER: Mutex<Option<Observer>> = Mutex::new(None);

    pub(crate) fn set(observer: Option<Observer>) {
        *OBSERVER.lock().unwrap_or_else(PoisonError::into_inner) = observer;
    }

    pub(super) fn tell(descriptor: i32) {
        if let Some(observer) = &mut *OBSERVER.lock().unwrap_or_else(PoisonError::into_inner)
            && let Ok(path) = std::fs::read_link(format!("/proc/self/fd/{descriptor}"))
        {
            observer(path);
        }
    }
}
