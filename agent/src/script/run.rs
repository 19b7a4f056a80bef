//! Runs scripts, each in a process group of its own. One that takes too long is asked to end (SIGTERM), and then killed
//! (SIGKILL), with its whole group: a `sleep` in an init script must not outlive its time.
//!
//! Daemons that a start leaves behind leave the group as daemons do, and live on. Output is read as it comes, and the
//! last of it kept.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, warn};

use crate::agent::lock;
use crate::script::call::{Action, Outcome, ScriptCall};
use crate::script::command::{Programs, command};
use crate::script::orphan::{RunNotes, TOKEN};

/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
/// What is kept of a script's output: its last words say what is wrong.
const OUTPUT_KEPT: usize = 800;
/// After the script itself has ended, a daemon that it left behind may hold its output open.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Runs under way, by their numbers.
#[derive(Debug, Clone)]
pub struct Runner {
    programs: Arc<Programs>,
    notes: RunNotes,
    cancels: Arc<Mutex<BTreeMap<u64, Arc<Notify>>>>,
}

impl Runner {
    /// With programs at these places; runs are noted there, for the agent after this one.
    pub fn new(programs: Programs, notes: RunNotes) -> Self {
        Self { programs: Arc::new(programs), notes, cancels: Arc::default() }
    }

    /// Ends a run, if it is still under way.
    pub fn cancel(&self, id: u64) {
        if let Some(cancel) = lock(&self.cancels).get(&id) {
            cancel.notify_one();
        }
    }

    /// Notes a run, so that it can be cancelled from now on.
    pub fn prepare(&self, id: u64) -> Arc<Notify> {
        let cancel = Arc::new(Notify::new());
        lock(&self.cancels).insert(id, cancel.clone());
        cancel
    }

    /// Makes a run, until it has ended for sure.
    pub async fn run(&self, call: &ScriptCall, cancel: Arc<Notify>) -> Outcome {
        let outcome = self.process(call, &cancel).await;
        lock(&self.cancels).remove(&call.id);
        debug!(service = call.service_name, member = call.member, action = ?call.action, ?outcome, "a script was run");
        outcome
    }

    async fn process(&self, call: &ScriptCall, cancel: &Notify) -> Outcome {
        let mut line = command(&self.programs, call);
        let mut noted = match self.notes.begin(call) {
            Ok(noted) => Some(noted),
            // What nobody would end after this agent's death is not begun.
            Err(error) if call.action == Action::Start => {
                return Outcome::NotRun(format!("it could not be noted: {error}"));
            }
            // A stop and a question bring nothing to life.
            Err(error) => {
                warn!(%error, member = call.member, "a script is run without a note of it");
                None
            }
        };
        if let Some(noted) = &noted {
            line.environment.insert(TOKEN.to_owned(), noted.token());
        }
        let mut child = match Command::new(&line.program)
            .args(&line.arguments)
            .env_clear()
            .envs(&line.environment)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
        {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Outcome::Missing(line.program.display().to_string());
            }
            Err(error) => return Outcome::NotRun(error.to_string()),
        };
        // A child that was not awaited yet keeps its number: the group is surely its own.
        let group = child.id().map(|id| Pid::from_raw(id as i32));
        if let (Some(noted), Some(group)) = (&mut noted, group) {
            noted.began(group.as_raw());
        }
        let kept = Arc::new(Mutex::new(Vec::new()));
        let words = tokio::spawn({
            let (out, err) = (child.stdout.take(), child.stderr.take());
            let kept = kept.clone();
            async move {
                tokio::join!(read(out, &kept), read(err, &kept));
            }
        });
        let deadline = Instant::now() + Duration::from_millis(call.timeout_ms);
        let ended = tokio::select! {
            ended = timeout_at(deadline, child.wait()) => ended.ok(),
            () = cancel.notified() => {
                end(&mut child, group).await;
                return Outcome::Cancelled;
            }
        };
        let Some(ended) = ended else {
            end(&mut child, group).await;
            return Outcome::TimedOut { output: text(&kept) };
        };
        // What the script left behind may hold its output open for ever.
        let _ = timeout(LAST_WORDS, words).await;
        match ended {
            Ok(status) => of_status(status, text(&kept)),
            Err(error) => Outcome::NotRun(format!("it could not be awaited: {error}")),
        }
    }
}

fn of_status(status: ExitStatus, output: String) -> Outcome {
    match (status.code(), status.signal()) {
        (Some(code), _) => Outcome::Exited { code, output },
        (None, signal) => Outcome::Killed { signal: signal.unwrap_or_default() },
    }
}

/// Ends the whole group. Returns when the script itself has ended and the rest was killed.
async fn end(child: &mut Child, group: Option<Pid>) {
    let Some(group) = group else { return };
    // A group that is gone needs no signal.
    let _ = killpg(group, Signal::SIGTERM);
    let _ = timeout(GRACE, child.wait()).await;
    let _ = killpg(group, Signal::SIGKILL);
    let _ = child.wait().await;
}

async fn read(stream: Option<impl AsyncRead + Unpin>, kept: &Mutex<Vec<u8>>) {
    let Some(mut stream) = stream else { return };
    let mut buffer = [0; 4_096];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let mut kept = lock(kept);
        kept.extend_from_slice(&buffer[..length]);
        let excess = kept.len().saturating_sub(OUTPUT_KEPT);
        kept.drain(..excess);
    }
}

fn text(kept: &Mutex<Vec<u8>>) -> String {
    let text = String::from_utf8_lossy(&lock(kept)).into_owned();
    let plain = |it: char| if it.is_control() && it != '\n' { ' ' } else { it };
    text.trim().chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use model::service::{Script, ScriptProgram};
    use uuid::Uuid;

    use super::*;

    fn call(directory: &Path, body: &str, timeout_ms: u64) -> ScriptCall {
        let path = directory.join("script");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        ScriptCall {
            service: Uuid::nil(),
            id: 1,
            service_name: "web".into(),
            member: "m".into(),
            script: Script {
                program: ScriptProgram::Ocf(path.display().to_string()),
                parameters: [("ip".to_owned(), "10.0.0.1; exit 9".to_owned())].into(),
                start_timeout_ms: timeout_ms,
                stop_timeout_ms: timeout_ms,
                checks: Vec::new(),
            },
            action: Action::Status { depth: 10 },
            timeout_ms,
        }
    }

    async fn run(call: &ScriptCall) -> Outcome {
        let directory = tempfile::tempdir().unwrap();
        let notes = RunNotes::open(directory.path(), "this boot").unwrap();
        let runner = Runner::new(Programs::default(), notes.clone());
        let cancel = runner.prepare(call.id);
        let outcome = runner.run(call, cancel).await;
        assert!(notes.orphans().unwrap().is_empty());
        outcome
    }

    fn is_alive(pid: i32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim().starts_with('Z'))
    }

    #[tokio::test]
    async fn a_script_gets_its_action_and_parameters_and_nothing_of_the_agents_environment() {
        let directory = tempfile::tempdir().unwrap();
        let body = "echo \"$1 $OCF_RESKEY_ip $OCF_CHECK_LEVEL ${CARGO_MANIFEST_DIR-none}\"; exit 7";
        let outcome = run(&call(directory.path(), body, 10_000)).await;
        let output = "monitor 10.0.0.1; exit 9 10 none".to_owned();
        assert_eq!(outcome, Outcome::Exited { code: 7, output });
    }

    #[tokio::test]
    async fn a_hung_script_is_killed_with_its_whole_process_group() {
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids");
        // Both refuse to end by themselves.
        let body = format!(
            "trap '' TERM\nsh -c 'trap \"\" TERM; echo $$ >> {0}; while :; do sleep 1; done' &\necho $$ >> {0}\necho hanging\nwhile :; do sleep 1; done",
            pids.display()
        );
        let outcome = run(&call(directory.path(), &body, 1_000)).await;
        assert_eq!(outcome, Outcome::TimedOut { output: "hanging".into() });
        let pids = std::fs::read_to_string(pids).unwrap();
        let pids: Vec<i32> = pids.lines().map(|pid| pid.parse().unwrap()).collect();
        assert_eq!(pids.len(), 2);
        // The kernel ends the child of a killed parent in its own time.
        for _ in 0..100 {
            if !pids.iter().any(|pid| is_alive(*pid)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{pids:?} are still there");
    }

    #[tokio::test]
    async fn what_a_start_leaves_behind_does_not_hold_it_up_and_a_missing_program_is_said_so() {
        let directory = tempfile::tempdir().unwrap();
        let began = Instant::now();
        let body = "setsid sleep 5 & echo started";
        let outcome = run(&call(directory.path(), body, 10_000)).await;
        assert_eq!(outcome, Outcome::Exited { code: 0, output: "started".into() });
        assert!(began.elapsed() < Duration::from_secs(4));
        let mut missing = call(directory.path(), "", 1_000);
        missing.script.program = ScriptProgram::Lsb("/nowhere/x".into());
        assert_eq!(run(&missing).await, Outcome::Missing("/nowhere/x".into()));
    }

    #[tokio::test]
    async fn a_start_that_cannot_be_noted_is_not_begun_and_a_question_is_asked_all_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let notes = RunNotes::open(directory.path(), "this boot").unwrap();
        std::fs::remove_dir(directory.path().join("scripts")).unwrap();
        let runner = Runner::new(Programs::default(), notes);
        let mut call = call(directory.path(), "exit 0", 10_000);
        let outcome = runner.run(&call, Arc::default()).await;
        assert_eq!(outcome, Outcome::Exited { code: 0, output: String::new() });
        call.action = Action::Start;
        let outcome = runner.run(&call, Arc::default()).await;
        assert!(matches!(outcome, Outcome::NotRun(_)), "{outcome:?}");
    }

    #[tokio::test]
    async fn output_is_bounded_and_its_end_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let body = "i=0; while [ $i -lt 2000 ]; do echo 'all is not well here'; i=$((i+1)); done; echo last; exit 1";
        let outcome = run(&call(directory.path(), body, 20_000)).await;
        let Outcome::Exited { code: 1, output } = outcome else { panic!("{outcome:?}") };
        assert!(output.len() <= OUTPUT_KEPT && output.ends_with("last"), "{}", output.len());
    }
}
