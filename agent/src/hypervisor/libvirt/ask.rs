//! Whether another host's libvirt answers, asked before a migration to it is begun.
//!
//! libvirt's keep-alive begins only once a connection is made. A host that stands still takes a connection in by its kernel
//! and never answers on it, and when it dies then, whoever connects waits without end: libvirtd itself, in a migration whose
//! job cannot be aborted any more. So a process of our own asks first, which can be killed.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use virt::connect::Connect;

use crate::hypervisor::{HypervisorError, Result};

/// The hidden flag by which the agent's program is such a process.
pub const FLAG: &str = "--ask-libvirt";
/// A libvirtd that lives answers in milliseconds. Longer than the keep-alive that `docs/failure-modes.md` asks for.
const LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);

/// In the process of its own: connects, asks, and says why not.
pub fn ask(uri: &str) -> std::result::Result<(), String> {
    let asked = Connect::open(Some(uri)).and_then(|connection| connection.lib_version());
    asked.map(|_| ()).map_err(|error| error.message().to_owned())
}

/// Refused unless that libvirt answers within a few seconds; blocks as long.
pub(super) fn must_answer(uri: &str) -> Result<()> {
    let refused = |why: String| {
        HypervisorError::Refused(format!(
            "the libvirt of the target, {uri}, does not answer: {why}"
        ))
    };
    // The program that runs, though a newer one has been installed over it.
    let child = Command::new("/proc/self/exe")
        .args([FLAG, uri])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = child.map_err(|error| refused(error.to_string()))?;
    let end = Instant::now() + LIMIT;
    let ended = loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < end => std::thread::sleep(POLL),
            ended => break ended,
        }
    };
    match ended {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(_)) => {
            let said = child.wait_with_output().map(|output| output.stdout).unwrap_or_default();
            Err(refused(String::from_utf8_lossy(&said).trim().to_owned()))
        }
        Ok(None) | Err(_) => {
            // Gone already is as good.
            let _ = child.kill();
            let _ = child.wait();
            Err(refused(format!("nothing came back within {} s", LIMIT.as_secs())))
        }
    }
}
