//! Runs that outlive their agent. A start that an agent left under way would go on behind the back of the next one: that
//! one finds the script down, says so, the service is started elsewhere, and then the start comes to its end here.
//!
//! So each run is noted before it begins, in a directory that is empty after a boot, and what an agent before this one
//! left under way is ended before anything else is done with its service.
//!
//! ```text
//!  note: token ──▶ process with the token in its environment ──▶ note: its number and start time ──▶ … ──▶ no note
//!                                                                  agent dies │
//!               the leader of that group still runs ──▶ SIGTERM, SIGKILL ──▶ all of the group is gone ──▶ no note
//! ```
//! A script that has ended by itself leaves only what it wanted to leave: a daemon is not touched. A number that the kernel
//! has given to another process is known by its start time.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getsid};
use procfs::ProcResult;
use procfs::process::{self, Stat, all_processes};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};
use uuid::Uuid;

use crate::script::call::{Action, ScriptCall};

/// The variable in a run's environment by which it is known though its number was not noted any more.
pub const TOKEN: &str = "BERTH_RUN";
/// Between SIGTERM and SIGKILL, as for a run that takes too long.
const GRACE: Duration = Duration::from_secs(2);
/// Between two looks at a group that was told to end.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Between two complaints about a group that does not end: it hangs in the kernel.
const COMPLAIN_AGAIN: Duration = Duration::from_secs(10);

/// A process that no other can be taken for while the host is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Process {
    pid: i32,
    /// In clock ticks since the boot.
    started: u64,
}

impl From<&Stat> for Process {
    fn from(stat: &Stat) -> Self {
        Self { pid: stat.pid, started: stat.starttime }
    }
}

/// A run, as it is noted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    boot_id: String,
    token: Uuid,
    service: Uuid,
    service_name: String,
    member: String,
    starts: bool,
    /// The session that the run begins in: daemons leave it.
    session: i32,
    /// The leader of its group; none where the agent died before it could say.
    leader: Option<Process>,
}

/// Where runs under way are noted.
#[derive(Debug, Clone)]
pub struct RunNotes {
    directory: PathBuf,
    boot_id: String,
}

/// A run that is noted until this is dropped.
#[derive(Debug)]
pub struct Noted {
    path: PathBuf,
    note: Note,
}

/// A run that an agent before this one left under way, or that has ended since.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// The service's id.
    pub service: Uuid,
    /// The service's name.
    pub service_name: String,
    /// The member's name.
    pub member: String,
    /// It was run to start the member.
    pub starts: bool,
    path: PathBuf,
    leader: Process,
}

impl RunNotes {
    /// In a directory below this one, which is made where it is missing.
    pub fn open(run: &Path, boot_id: &str) -> anyhow::Result<Self> {
        let directory = run.join("scripts");
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self { directory, boot_id: boot_id.to_owned() })
    }

    /// Notes a run that is about to begin.
    pub fn begin(&self, call: &ScriptCall) -> io::Result<Noted> {
        let token = Uuid::new_v4();
        let note = Note {
            boot_id: self.boot_id.clone(),
            token,
            service: call.service,
            service_name: call.service_name.clone(),
            member: call.member.clone(),
            starts: call.action == Action::Start,
            session: getsid(None)?.as_raw(),
            leader: None,
        };
        let noted = Noted { path: self.directory.join(token.to_string()), note };
        noted.write()?;
        Ok(noted)
    }

    /// What agents before this one left under way on this boot. Notes of what has ended are taken away.
    pub fn orphans(&self) -> anyhow::Result<Vec<Orphan>> {
        let reading = || format!("cannot read {}", self.directory.display());
        let processes = processes().context("cannot read /proc")?;
        let mut orphans = Vec::new();
        for file in fs::read_dir(&self.directory).with_context(reading)? {
            let path = file.with_context(reading)?.path();
            match self.leader(&path, &processes) {
                Some((note, leader)) => orphans.push(Orphan {
                    service: note.service,
                    service_name: note.service_name,
                    member: note.member,
                    starts: note.starts,
                    path,
                    leader,
                }),
                None => forget(&path),
            }
        }
        Ok(orphans)
    }

    /// The note, and the leader of its group if that still runs.
    fn leader(&self, path: &Path, processes: &[Stat]) -> Option<(Note, Process)> {
        // Half a note is one whose run has not begun: it is renamed into its place when it is whole.
        let note: Note = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
        if note.boot_id != self.boot_id {
            return None;
        }
        let leader = processes.iter().find(|it| match note.leader {
            Some(leader) => Process::from(*it) == leader,
            None => {
                it.pid == it.pgrp && it.session == note.session && has_token(it.pid, note.token)
            }
        })?;
        Some((note, leader.into()))
    }
}

impl Noted {
    /// What has to be in the run's environment.
    pub fn token(&self) -> String {
        self.note.token.to_string()
    }

    /// The run has begun, as this process, which was not awaited yet.
    pub fn began(&mut self, pid: i32) {
        let stat = process::Process::new(pid).and_then(|process| process.stat());
        self.note.leader = stat.as_ref().ok().map(Process::from);
        if let Err(error) = self.write() {
            // The token says it as well, as long as the script keeps its environment.
            warn!(%error, pid, "a script that runs could not be noted by its number");
        }
    }

    fn write(&self) -> io::Result<()> {
        let temporary = self.path.with_extension("tmp");
        let text = serde_json::to_string(&self.note).map_err(io::Error::other)?;
        fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, &self.path))
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        forget(&self.path);
    }
}

impl Orphan {
    /// For stories that end no process.
    #[cfg(any(test, feature = "sabotage"))]
    pub fn told(service: Uuid, member: &str, starts: bool) -> Self {
        let leader = Process { pid: 0, started: 0 };
        let (service_name, member) = ("web".into(), member.into());
        Self { service, service_name, member, starts, path: PathBuf::new(), leader }
    }

    /// Ends its whole group, and returns when nothing of it runs any more.
    pub async fn end(&self) {
        let Self { service_name, member, leader, .. } = self;
        warn!(
            service = service_name,
            member, leader.pid, "an agent before this one left it under way: it is ended"
        );
        let group = leader.pid;
        let began = Instant::now();
        let mut complain_at = began + COMPLAIN_AGAIN;
        // While one that was seen in the group is still in it, the number belongs to this group and to no other.
        let mut known = BTreeSet::from([*leader]);
        let mut told = None;
        loop {
            let members: Vec<Process> = match processes() {
                Ok(all) => all.iter().filter(|it| it.pgrp == group).map(Process::from).collect(),
                Err(error) => {
                    warn!(%error, "cannot read /proc");
                    sleep(COMPLAIN_AGAIN).await;
                    continue;
                }
            };
            if !members.iter().any(|it| known.contains(it)) {
                break;
            }
            known.extend(members);
            let signal = match began.elapsed() < GRACE {
                true => Signal::SIGTERM,
                false => Signal::SIGKILL,
            };
            if signal == Signal::SIGKILL || told.is_none() {
                // One that is gone needs no signal.
                let _ = killpg(Pid::from_raw(group), signal);
                told = Some(signal);
            }
            if complain_at <= Instant::now() {
                complain_at += COMPLAIN_AGAIN;
                warn!(service = service_name, member, group, "it was killed and does not end");
            }
            sleep(LOOK_AGAIN).await;
        }
        info!(service = service_name, member, "what an agent before this one left has ended");
        forget(&self.path);
    }
}

fn forget(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(%error, path = %path.display(), "the note of a run that has ended cannot be removed");
        }
        _ => {}
    }
}

/// All processes that run; one that has ended and waits to be awaited runs no more.
fn processes() -> ProcResult<Vec<Stat>> {
    // One that ends while it is looked at has nothing to be read.
    let stats = all_processes()?.filter_map(|process| process.ok()?.stat().ok());
    Ok(stats.filter(|it| !matches!(it.state, 'Z' | 'X')).collect())
}

fn has_token(pid: i32, token: Uuid) -> bool {
    let environment = process::Process::new(pid).and_then(|it| it.environ()).unwrap_or_default();
    let told = environment.get(OsStr::new(TOKEN));
    told.is_some_and(|told| *told == *token.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    use model::service::{Script, ScriptProgram};

    use super::*;

    const BOOT: &str = "this boot";

    fn call(action: Action) -> ScriptCall {
        ScriptCall {
            service: Uuid::from_u128(9),
            id: 1,
            service_name: "web".into(),
            member: "ip".into(),
            script: Script {
                program: ScriptProgram::Lsb("/etc/init.d/x".into()),
                parameters: Default::default(),
                start_timeout_ms: 1_000,
                stop_timeout_ms: 1_000,
                checks: Vec::new(),
            },
            action,
            timeout_ms: 1_000,
        }
    }

    /// A shell in a group of its own that notes its children's numbers and is left by its agent.
    fn left_behind(notes: &RunNotes, body: &str, number_is_noted: bool) -> (Child, PathBuf) {
        let mut noted = notes.begin(&call(Action::Start)).unwrap();
        let child = Command::new("/bin/sh")
            .args(["-c", body])
            .env(TOKEN, noted.token())
            .process_group(0)
            .spawn()
            .unwrap();
        if number_is_noted {
            noted.began(child.id() as i32);
        }
        let path = noted.path.clone();
        // The agent dies: nobody takes the note away.
        std::mem::forget(noted);
        (child, path)
    }

    async fn pids(file: &Path, count: usize) -> Vec<i32> {
        loop {
            let text = fs::read_to_string(file).unwrap_or_default();
            let pids: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
            if pids.len() == count {
                return pids;
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    fn runs(pid: i32) -> bool {
        let stat = process::Process::new(pid).and_then(|process| process.stat());
        stat.is_ok_and(|it| it.state != 'Z')
    }

    #[tokio::test]
    async fn a_run_that_outlives_its_agent_is_ended_with_its_whole_group_and_nothing_else_is() {
        for number_is_noted in [true, false] {
            let directory = tempfile::tempdir().unwrap();
            let notes = RunNotes::open(directory.path(), BOOT).unwrap();
            let file = directory.path().join("pids");
            // A child that refuses to end, and a daemon that left the group as daemons do.
            let body = format!(
                "sh -c 'trap \"\" TERM; echo $$ >> {0}; while :; do sleep 1; done' & \
                 setsid sh -c 'echo $$ >> {0}.daemon; exec sleep 60' & while :; do sleep 1; done",
                file.display()
            );
            let (mut child, _) = left_behind(&notes, &body, number_is_noted);
            let [stubborn] = pids(&file, 1).await[..] else { panic!() };
            let [daemon] = pids(&file.with_extension("daemon"), 1).await[..] else { panic!() };

            let orphans = notes.orphans().unwrap();
            let [orphan] = &orphans[..] else { panic!("{orphans:?}") };
            assert_eq!((orphan.member.as_str(), orphan.starts), ("ip", true));
            assert_eq!(orphan.leader.pid, child.id() as i32);
            orphan.end().await;
            assert!(!runs(child.id() as i32) && !runs(stubborn));
            assert!(runs(daemon), "what the script wanted to leave behind lives on");
            assert!(notes.orphans().unwrap().is_empty());
            assert_eq!(fs::read_dir(directory.path().join("scripts")).unwrap().count(), 0);
            child.wait().unwrap();
            nix::sys::signal::kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
        }
    }

    #[tokio::test]
    async fn a_number_that_another_process_has_now_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let notes = RunNotes::open(directory.path(), BOOT).unwrap();
        let edits: [fn(&mut Note); 2] = [
            |note| note.leader.as_mut().unwrap().started -= 1,
            |note| note.boot_id = "the boot before".into(),
        ];
        for edit in edits {
            let (mut child, path) = left_behind(&notes, "exec sleep 60", true);
            let mut note: Note = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            edit(&mut note);
            fs::write(&path, serde_json::to_string(&note).unwrap()).unwrap();
            assert_eq!(notes.orphans().unwrap(), []);
            assert!(!path.exists());
            assert!(runs(child.id() as i32));
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[tokio::test]
    async fn a_run_that_has_ended_is_noted_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let notes = RunNotes::open(directory.path(), BOOT).unwrap();
        let (mut child, path) = left_behind(&notes, "exit 0", true);
        child.wait().unwrap();
        assert_eq!(notes.orphans().unwrap(), []);
        assert!(!path.exists());
        let noted = notes.begin(&call(Action::Stop)).unwrap();
        let path = noted.path.clone();
        assert!(path.exists());
        drop(noted);
        assert!(!path.exists());
    }
}
