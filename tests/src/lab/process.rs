//! A program running in the lab, with its log.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a started program may take to be there.
const SPAWN_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

/// A running program.
pub struct Process {
    child: Mutex<Child>,
    pid: Pid,
    /// Its standard output and error.
    pub log: PathBuf,
}

impl Process {
    /// Starts a program. `forks` says that the command forks and stays, as `nsenter --pid` does: its child is meant.
    pub fn spawn(words: &[String], log: &Path, forks: bool) -> Result<Self> {
        let out = OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().with_context(|| format!("{} cannot be run", words[0]))?;
        let own = child.id() as i32;
        let pid = if forks { only_child(own)? } else { own };
        Ok(Self { child: Mutex::new(child), pid: Pid::from_raw(pid), log: log.to_owned() })
    }

    /// Its number, as seen in the lab.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if signal == Signal::SIGCONT
            && let Ok(child) = self.child.lock()
        {
            // nsenter stops itself when its child is stopped; one that has ended needs no word.
            let _ = kill(Pid::from_raw(child.id() as i32), signal);
        }
        kill(self.pid, signal)
            .with_context(|| format!("process {} could not be sent {signal}", self.pid))
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&self) -> Result<()> {
        // One that has ended is as good as killed.
        let _ = self.signal(Signal::SIGKILL);
        self.wait()
    }

    /// Asks it to end and waits until it has.
    pub fn terminate(&self) -> Result<()> {
        let _ = self.signal(Signal::SIGTERM);
        self.wait()
    }

    fn wait(&self) -> Result<()> {
        let mut child = self.child.lock().map_err(|_| anyhow::anyhow!("a lock was poisoned"))?;
        child.wait()?;
        Ok(())
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        self.child.lock().is_ok_and(|mut child| matches!(child.try_wait(), Ok(None)))
    }

    /// Resident memory, in KiB.
    pub fn memory_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line =
            status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.signal(Signal::SIGKILL);
        let Ok(child) = self.child.get_mut() else { return };
        // nsenter has to take the dead one before it ends: as an orphan it would be nobody's, and keep the kernel from
        // letting its host's process namespace go.
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGCONT);
        let begun = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            if begun.elapsed() > SPAWN_LIMIT {
                let _ = child.kill();
                let _ = child.wait();
                return;
            }
            std::thread::sleep(POLL);
        }
    }
}

/// The child of a process that forks once; waited for, for there is no event that tells of it.
pub(crate) fn only_child(parent: i32) -> Result<i32> {
    let begun = Instant::now();
    let path = format!("/proc/{parent}/task/{parent}/children");
    while begun.elapsed() < SPAWN_LIMIT {
        let text =
            std::fs::read_to_string(&path).context("the process ended at once; see its log")?;
        if let Some(child) = text.split_whitespace().next() {
            return Ok(child.parse()?);
        }
        std::thread::sleep(POLL);
    }
    bail!("process {parent} did not start another one")
}
