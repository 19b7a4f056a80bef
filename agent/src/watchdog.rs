//! The device that cuts this host's power when it is not fed, and when it is fed.
//!
//! It stays armed when the agent ends: whether the host may live is decided by the lease, not by this process. It is
//! disarmed only by an orderly stop while nothing runs here.

mod device;
mod linux;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use self::device::CharacterDevice;
use self::linux::{Found, LinuxWatchdog};

/// The byte after which closing the device disarms it (Linux watchdog API, "magic close").
const MAGIC_CLOSE: u8 = b'V';
/// Any other byte feeds it.
const FOOD: u8 = b'1';

/// Something to be fed.
pub trait Watchdog: Send {
    /// Puts off the bite by its time-out.
    fn feed(&mut self) -> io::Result<()>;
    /// Takes it out of service; to be dropped right after. Refused by one that cannot be: it bites when it is hungry.
    fn disarm(&mut self) -> io::Result<()>;
    /// How long it waits for food, in milliseconds, as the device itself says. What it is fed by.
    fn timeout_ms(&self) -> u64;
    /// How long the host may live on at most after this process fed it last, in milliseconds, however the process ends.
    /// What a proof by lease has to wait for.
    fn bites_within_ms(&self) -> u64;
}

/// Opens and thereby arms it: a device of the Linux watchdog API, or a pipe to a watchdog outside this host.
///
/// Refused is what could let the host live for longer than `timeout_ms` without food, or be stopped by this process's
/// death. The end of a process that holds one puts off the bite once (a device), and so may arming (a pipe): an agent
/// that finds the lease it inherited run out, and guests that may run, lets the watchdog be, or one that ends and is
/// started again for ever keeps its host alive.
pub fn arm(path: &Path, timeout_ms: u64) -> io::Result<Box<dyn Watchdog>> {
    let kind = path.metadata()?.file_type();
    if kind.is_fifo() {
        Ok(Box::new(PipeWatchdog::arm(path, timeout_ms)?))
    } else if kind.is_char_device() {
        let found = Found::at(path)?;
        linux::whole_seconds(timeout_ms)?;
        Ok(Box::new(LinuxWatchdog::arm(CharacterDevice::open(path)?, &found, timeout_ms)?))
    } else {
        Err(unsupported(
            "it is neither a watchdog device nor a pipe to a watchdog outside this host",
        ))
    }
}

fn unsupported(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, reason.into())
}

/// A pipe to a watchdog that stands outside this host and knows its own time-out.
pub struct PipeWatchdog {
    file: File,
    timeout_ms: u64,
}

impl PipeWatchdog {
    /// Opens and thereby arms it. `timeout_ms` is what the watchdog is known to wait.
    pub fn arm(path: &Path, timeout_ms: u64) -> io::Result<Self> {
        // Never waits: a device that does not take its food at once is as good as none, and is reported so.
        let file = OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(path)?;
        let mut watchdog = Self { file, timeout_ms };
        watchdog.feed()?;
        Ok(watchdog)
    }
}

impl Watchdog for PipeWatchdog {
    fn feed(&mut self) -> io::Result<()> {
        self.file.write_all(&[FOOD])
    }

    fn disarm(&mut self) -> io::Result<()> {
        self.file.write_all(&[MAGIC_CLOSE])
    }

    fn timeout_ms(&self) -> u64 {
        self.timeout_ms
    }

    fn bites_within_ms(&self) -> u64 {
        self.timeout_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &Path, timeout_ms: u64) -> String {
        match arm(path, timeout_ms) {
            Ok(_) => panic!("{} was armed", path.display()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_pipe_is_fed_and_disarmed_by_bytes_and_keeps_its_own_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Nobody is at the other end.
        assert!(arm(&path, 700).is_err());
        let mut end =
            OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(&path).unwrap();
        let mut watchdog = arm(&path, 700).unwrap();
        assert_eq!((watchdog.timeout_ms(), watchdog.bites_within_ms()), (700, 700));
        watchdog.feed().unwrap();
        watchdog.disarm().unwrap();
        drop(watchdog);
        let mut bytes = String::new();
        io::Read::read_to_string(&mut end, &mut bytes).unwrap();
        assert_eq!(bytes, "11V");
    }

    #[test]
    fn what_is_no_watchdog_is_not_armed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(refusal(file.path(), 2_000).contains("neither a watchdog device nor a pipe"));
        // A real device, and a real ioctl that it does not know.
        assert!(refusal(Path::new("/dev/null"), 2_000).contains("not a watchdog"));
        assert!(refusal(Path::new("/dev/null"), 999).contains("whole seconds"));
    }
}
