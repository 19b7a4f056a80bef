//! A watchdog for each host that stands outside it: fed through a pipe, it cuts the host's power when it is not.
//!
//! Like Linux's: armed by the first byte, disarmed by the byte `V`.

use std::fs::OpenOptions;
use std::io::Read;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::stat::Mode;

use crate::lab::Host;

/// When it bites (design section 5).
pub const TIMEOUT: Duration = Duration::from_secs(2);

/// Watches over a host for as long as the lab lives.
pub(crate) fn watch(host: Arc<Host>) -> Result<()> {
    let path = host.watchdog_pipe();
    nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600))
        .context("the watchdog's pipe cannot be made")?;
    // Open for writing too, so that it never ends while nobody feeds.
    let mut pipe = OpenOptions::new().read(true).write(true).open(&path)?;
    let (sender, fed) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = [0u8; 64];
        while let Ok(count) = pipe.read(&mut bytes) {
            if sender.send(bytes[..count].last().copied()).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        let mut armed = false;
        // A host that lost its power meanwhile begins with a watchdog that nobody has armed.
        let mut boot = 0;
        loop {
            let food = if armed {
                fed.recv_timeout(TIMEOUT)
            } else {
                fed.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            match food {
                Ok(last) => {
                    armed = last != Some(b'V');
                    boot = host.boots();
                }
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    armed = false;
                    if host.is_on() && host.boots() == boot {
                        eprintln!("lab: the watchdog of {} bites", host.name);
                        if let Err(error) = host.power_cut() {
                            eprintln!("lab: {} could not be powered off: {error:#}", host.name);
                        }
                    }
                }
            }
        }
    });
    Ok(())
}
