//! A program and all that it started, ended together.

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Child;
use tracing::warn;

/// The process group of a child that was started as its leader (`Command::process_group(0)`); killed when this is dropped.
#[derive(Debug)]
pub struct ProcessGroup(Option<Pid>);

impl ProcessGroup {
    /// The group that this child leads. To be asked before the child is awaited: later its number may be another's.
    pub fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        let Some(pid) = self.0 else { return };
        // The id is not given to another process while a member lives. With none left it might be, in theory, but ids
        // come in rising order and this follows the end at once.
        match kill_process_group(pid, Signal::KILL) {
            // All have ended, as they should.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => warn!(%error, ?pid, "what a program left behind could not be killed"),
        }
    }
}
