//! The device that cuts this host's power when it is not fed, and when it is fed.
//!
//! It stays armed when the agent ends: whether the host may live is decided by the lease, not by this process. It is
//! disarmed only by an orderly stop while nothing runs here.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// The byte after which closing the device disarms it (Linux watchdog API, "magic close").
const MAGIC_CLOSE: u8 = b'V';

/// Something to be fed.
pub trait Watchdog: Send {
    /// Puts off the bite by its time-out.
    fn feed(&mut self) -> io::Result<()>;
    /// Takes it out of service; to be dropped right after.
    fn disarm(&mut self) -> io::Result<()>;
    /// When it bites, as it says itself.
    fn timeout_ms(&self) -> u64;
}

/// Opens and thereby arms it.
pub fn arm(path: &Path, timeout_ms: u64) -> io::Result<Box<dyn Watchdog>> {
    Ok(Box::new(PipeWatchdog::arm(path, timeout_ms)?))
}

/// A pipe to a watchdog that stands outside this host and knows its own time-out.
///
/// A watchdog device of the host is refused as yet: its time-out has to be set and read back before a lease may rest on
/// it, and one that is longer than it was said to be would let a host live on after its death was proven.
pub struct PipeWatchdog {
    file: File,
    timeout_ms: u64,
}

impl PipeWatchdog {
    /// Opens and thereby arms it.
    pub fn arm(path: &Path, timeout_ms: u64) -> io::Result<Self> {
        if !path.metadata()?.file_type().is_fifo() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "it is not a pipe to a watchdog outside this host",
            ));
        }
        // Never waits: a device that does not take its food at once is as good as none, and is reported so.
        let file = OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
        let mut watchdog = Self { file, timeout_ms };
        watchdog.feed()?;
        Ok(watchdog)
    }
}

impl Watchdog for PipeWatchdog {
    fn feed(&mut self) -> io::Result<()> {
        self.file.write_all(b"1")
    }

    fn disarm(&mut self) -> io::Result<()> {
        self.file.write_all(&[MAGIC_CLOSE])
    }

    fn timeout_ms(&self) -> u64 {
        self.timeout_ms
    }
}
