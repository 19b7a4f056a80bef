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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tracing::warn;

use crate::store::{StoreError, file};

static BARRIERS: AtomicU64 = AtomicU64::new(0);
static FAILED: AtomicBool = AtomicBool::new(false);

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
    let result = unsafe { libc::fdatasync(descriptor) };
    if result != 0 {
        note_failure();
    }
    result
}

/// A sync failed. The kernel reports each failure once, and takes pages that it could not write for clean: a second sync
/// that succeeds would prove nothing, and sled may have swallowed the first one's error in a thread of its own.
pub(super) fn note_failure() {
    FAILED.store(true, Ordering::SeqCst);
}

/// Whether a sync has failed in this process.
pub(super) fn has_failed() -> bool {
    FAILED.load(Ordering::SeqCst)
}

const NOTE: &str = "SYNC-FAILED";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Tells the next process of a failed sync: what it reads may be the kernel's memory and not the disk, until a boot.
pub(super) fn leave_note(directory: &Path) {
    let boot = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
    if let Err(error) = std::fs::write(directory.join(NOTE), boot) {
        // On a disk that takes nothing any more; the operator has the error that stops this process.
        warn!(%error, "the failed sync could not be noted in the data directory");
    }
}

/// Refuses a directory in which a sync failed since the host booted.
pub(super) fn refuse_after_failure(directory: &Path) -> Result<(), StoreError> {
    let path = directory.join(NOTE);
    let Ok(boot) = std::fs::read_to_string(&path) else { return Ok(()) };
    if boot == std::fs::read_to_string(BOOT_ID).unwrap_or_default() {
        return Err(StoreError::SyncHadFailed { path: directory.to_owned() });
    }
    std::fs::remove_file(&path).map_err(|source| file("removing", &path, source))
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
