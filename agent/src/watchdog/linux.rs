//! A device of the Linux watchdog API: hardware, or the kernel's softdog.
//!
//! ```text
//!  open ─▶ running ──fits──▶ armed ──feed──▶ armed ──'V', close──▶ stopped
//!             │                └──close, crash──▶ runs on, fed once more by the kernel ──time-out──▶ bites
//!             └──does not fit──▶ refused: stopped if it was found stopped, else left to bite
//! ```
//!
//! Opening it starts it, so that a refusal has to stop it again, or the host would die of a wrong configuration. One that
//! ran already was armed by an agent before this one, for guests that may run still: that one is not stopped.

use std::ffi::c_int;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use tracing::{info, warn};

use super::{FOOD, MAGIC_CLOSE, Watchdog, unsupported};

/// `WDIOF_MAGICCLOSE`: closing it does not stop it, but after 'V'.
const OPTION_MAGIC_CLOSE: u32 = 0x0100;
/// `WDIOF_ALARMONLY`: it tells somebody, and cuts no power.
const OPTION_ALARM_ONLY: u32 = 0x0400;
/// `/dev/watchdog`: an older name of the first device, whose entry in sysfs says nothing.
const OLD_NAME: (u64, u64) = (10, 130);

/// What the device says of itself.
#[derive(Debug, Clone)]
pub(super) struct Support {
    pub(super) options: u32,
    pub(super) identity: String,
}

/// The calls of the API.
pub(super) trait Device: Send {
    /// `WDIOC_GETSUPPORT`.
    fn support(&self) -> io::Result<Support>;
    /// `WDIOC_SETTIMEOUT`, which feeds it as well.
    fn set_timeout_s(&self, timeout_s: c_int) -> io::Result<()>;
    /// `WDIOC_GETTIMEOUT`.
    fn timeout_s(&self) -> io::Result<c_int>;
    /// Any byte feeds it.
    fn write(&mut self, byte: u8) -> io::Result<()>;
}

/// What the kernel says of the device before it is opened; `None` where the kernel does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Once started it cannot be stopped.
    nowayout: Option<bool>,
    /// It runs.
    active: Option<bool>,
}

impl Found {
    /// Of the device with this path.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let number = path.metadata()?.rdev();
        let folder = match (major(number), minor(number)) {
            OLD_NAME => PathBuf::from("/sys/class/watchdog/watchdog0"),
            (major, minor) => PathBuf::from(format!("/sys/dev/char/{major}:{minor}")),
        };
        Ok(Self::read(&folder))
    }

    fn read(folder: &Path) -> Self {
        let word = |name, yes: &str, no: &str| {
            let text = std::fs::read_to_string(folder.join(name)).ok()?;
            [(yes, true), (no, false)]
                .into_iter()
                .find_map(|(word, answer)| (text.trim() == word).then_some(answer))
        };
        Self { nowayout: word("nowayout", "1", "0"), active: word("state", "active", "inactive") }
    }
}

/// The API counts whole seconds: those of a time-out, rounded down.
pub(super) fn whole_seconds(timeout_ms: u64) -> io::Result<c_int> {
    match c_int::try_from(timeout_ms / 1_000) {
        Ok(seconds) if seconds > 0 => Ok(seconds),
        _ => Err(unsupported(format!(
            "watchdog devices count whole seconds, and {timeout_ms} ms cannot be set; set watchdog.timeout_ms to 1000 \
             or more"
        ))),
    }
}

/// An armed device.
pub(super) struct LinuxWatchdog<D> {
    device: D,
    timeout_ms: u64,
    nowayout: Option<bool>,
}

impl<D: Device> LinuxWatchdog<D> {
    /// Sets the time-out of an open device and reads it back. Does not feed it when it has that time-out already.
    pub(super) fn arm(mut device: D, found: &Found, timeout_ms: u64) -> io::Result<Self> {
        let asked_s = whole_seconds(timeout_ms)?;
        let support = device.support().map_err(|error| {
            io::Error::new(error.kind(), format!("it is not a watchdog ({error})"))
        })?;
        match fit(&device, &support, found, asked_s) {
            Ok(timeout_s) => {
                let timeout_ms = u64::from(timeout_s) * 1_000;
                let identity = support.identity;
                info!(identity, timeout_ms, nowayout = found.nowayout, "a watchdog device runs");
                if found.nowayout == Some(true) {
                    warn!(
                        identity,
                        "this watchdog cannot be disarmed (nowayout): stopping the agent restarts the host"
                    );
                }
                Ok(Self { device, timeout_ms, nowayout: found.nowayout })
            }
            Err(reason) => {
                let left = give_back(&mut device, found);
                Err(unsupported(format!("the watchdog {:?} {reason}{left}", support.identity)))
            }
        }
    }
}

/// The time-out that the device has taken, or why a lease may not rest on it.
fn fit(
    device: &impl Device,
    support: &Support,
    found: &Found,
    asked_s: c_int,
) -> Result<u32, String> {
    if support.options & OPTION_ALARM_ONLY != 0 {
        return Err("raises an alarm only, and cuts no power; use another device".into());
    }
    if support.options & OPTION_MAGIC_CLOSE == 0 && found.nowayout != Some(true) {
        return Err("is stopped when the agent ends, however it ends; load its driver with nowayout=1, or use another \
                    device"
            .into());
    }
    // Setting it feeds it, which an agent that comes after a dead one has no leave to do yet. And one that was armed
    // already keeps a shorter time-out: that is what the control plane knows until this agent registers.
    let runs = found.active != Some(false);
    let set = match device.timeout_s() {
        Ok(before) if before == asked_s || (runs && (1..asked_s).contains(&before)) => Ok(()),
        _ => device.set_timeout_s(asked_s),
    };
    let timeout_s = device
        .timeout_s()
        .map_err(|error| format!("does not say when it bites ({error}); use another device"))?;
    match u32::try_from(timeout_s) {
        Ok(seconds) if seconds > 0 && timeout_s <= asked_s => Ok(seconds),
        Ok(seconds) if seconds > 0 => {
            let refused = set.err().map_or_else(String::new, |error| format!(" ({error})"));
            Err(format!(
                "bites after {seconds} s and not within the {asked_s} s asked for{refused}; set watchdog.timeout_ms to \
                 {} or more, or use another device",
                u64::from(seconds) * 1_000
            ))
        }
        _ => Err(format!("says that it bites after {timeout_s} s; use another device")),
    }
}

/// Leaves a refused device as it was found. Returns what is left of it, in words.
fn give_back(device: &mut impl Device, found: &Found) -> String {
    match (found.active, found.nowayout) {
        (Some(false), Some(true)) => {
            "; opening it started it and it cannot be stopped (nowayout): it will cut this host's power".into()
        }
        (Some(false), _) => match device.write(MAGIC_CLOSE) {
            Ok(()) => String::new(),
            Err(error) => format!("; opening it started it and it cannot be stopped ({error})"),
        },
        // Armed for guests that may run still, or it cannot be told: rather a host that dies than a VM that runs twice.
        (Some(true) | None, _) => {
            "; it may have been armed before and is left so: it will cut this host's power unless it is fed".into()
        }
    }
}

impl<D: Device> Watchdog for LinuxWatchdog<D> {
    fn feed(&mut self) -> io::Result<()> {
        // Understood by every driver, which the keep-alive ioctl is not.
        self.device.write(FOOD)
    }

    fn disarm(&mut self) -> io::Result<()> {
        if self.nowayout == Some(true) {
            return Err(unsupported(format!(
                "it cannot be disarmed (nowayout), and cuts this host's power within {} ms unless the agent is started \
                 again",
                self.bites_within_ms()
            )));
        }
        self.device.write(MAGIC_CLOSE)
    }

    fn timeout_ms(&self) -> u64 {
        self.timeout_ms
    }

    /// Twice its time-out: the kernel feeds it once more when a process that did not disarm it ends.
    fn bites_within_ms(&self) -> u64 {
        self.timeout_ms * 2
    }
}

#[cfg(test)]
mod tests;
