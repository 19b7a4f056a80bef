//! The calls of the Linux watchdog API (`linux/watchdog.h`, `Documentation/watchdog/watchdog-api.rst`); decides nothing.
//!
//! With unsafe code, for ioctls with a pointer.
#![expect(unsafe_code, reason = "the watchdog API is ioctls, which no safe crate wraps")]

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use super::linux::{Device, Support};

/// `struct watchdog_info`.
#[repr(C)]
#[derive(Default)]
struct RawSupport {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

mod calls {
    use super::{RawSupport, c_int};

    nix::ioctl_read!(get_support, b'W', 0, RawSupport);
    nix::ioctl_readwrite!(set_timeout, b'W', 6, c_int);
    nix::ioctl_read!(get_timeout, b'W', 7, c_int);
}

/// An open watchdog device, which runs from being opened.
pub(super) struct CharacterDevice(File);

impl CharacterDevice {
    /// Opens it; "busy" when another process has it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(OpenOptions::new().write(true).open(path)?))
    }
}

impl Device for CharacterDevice {
    fn support(&self) -> io::Result<Support> {
        let mut raw = RawSupport::default();
        // SAFETY: the descriptor is open while `self` is, and the kernel writes one `struct watchdog_info`, which `raw`
        // has the layout of.
        unsafe { calls::get_support(self.0.as_raw_fd(), &raw mut raw) }?;
        let length = raw.identity.iter().position(|byte| *byte == 0).unwrap_or(raw.identity.len());
        let identity = String::from_utf8_lossy(&raw.identity[..length]).trim().to_owned();
        Ok(Support { options: raw.options, identity })
    }

    fn set_timeout_s(&self, mut timeout_s: c_int) -> io::Result<()> {
        // SAFETY: the descriptor is open while `self` is, and the kernel reads and writes one int.
        unsafe { calls::set_timeout(self.0.as_raw_fd(), &raw mut timeout_s) }?;
        Ok(())
    }

    fn timeout_s(&self) -> io::Result<c_int> {
        let mut timeout_s = 0;
        // SAFETY: the descriptor is open while `self` is, and the kernel writes one int.
        unsafe { calls::get_timeout(self.0.as_raw_fd(), &raw mut timeout_s) }?;
        Ok(timeout_s)
    }

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.0.write_all(&[byte])
    }
}
