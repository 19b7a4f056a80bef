//! Whether a guest works: its status program and its guest agent are asked. Blocks, within its own limit.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use model::handling::{Checks, StatusProgram};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use uuid::Uuid;

use crate::hypervisor::{HypervisorError, Result as Called};

/// How often it is looked whether a program has ended.
const POLL: Duration = Duration::from_millis(20);
/// What of a program's complaint is kept.
const COMPLAINT: u64 = 400;
/// A program that has ended may have left a child behind that holds its output open; that is not waited for.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Where its programs are looked for: nothing of the agent's own environment goes to it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Asks both. `Refused` is their word that the guest does not work; any other error says that they could not be asked.
pub fn run(
    checks: &Checks,
    vm: &str,
    uuid: Uuid,
    ping: &dyn Fn(Duration) -> Called<()>,
) -> Called<()> {
    let limit = Duration::from_millis(checks.timeout_ms);
    if let Some(program) = &checks.program {
        status_program(program, vm, uuid, limit).map_err(HypervisorError::Refused)?;
    }
    match checks.guest_agent {
        false => Ok(()),
        true => ping(limit).map_err(|error| match error {
            HypervisorError::Refused(why) => {
                HypervisorError::Refused(format!("its guest agent does not answer: {why}"))
            }
            error => error,
        }),
    }
}

fn status_program(
    program: &StatusProgram,
    vm: &str,
    uuid: Uuid,
    limit: Duration,
) -> Result<(), String> {
    let mut command = match program {
        StatusProgram::Command(words) => {
            let mut words = words.iter();
            let mut command = Command::new(words.next().map_or("", String::as_str));
            command.args(words);
            command
        }
        StatusProgram::Shell(line) => {
            // RGManager's was bash; scripts were written for it.
            let bash = "/bin/bash";
            let mut command = Command::new(if Path::new(bash).exists() { bash } else { "/bin/sh" });
            command.args(["-c", line]);
            command
        }
    };
    command
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C")
        .env("BERTH_VM", vm)
        .env("BERTH_UUID", uuid.to_string())
        // By this name RGManager's agent had it.
        .env("OCF_RESKEY_name", vm)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child =
        command.spawn().map_err(|error| format!("its status program does not start: {error}"))?;
    let words = last_words(&mut child);
    match wait(&mut child, limit) {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => {
            let said = words.recv_timeout(LAST_WORDS).unwrap_or_default();
            let said = said.lines().next_back().map(str::trim).unwrap_or_default().to_owned();
            let said = if said.is_empty() { said } else { format!(": {said}") };
            Err(format!("its status program failed ({status}){said}"))
        }
        Ok(None) => {
            end_group(&mut child);
            Err(format!("its status program did not end within {} ms", limit.as_millis()))
        }
        Err(error) => {
            end_group(&mut child);
            Err(format!("its status program cannot be waited for: {error}"))
        }
    }
}

fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        let left = limit.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Ok(None);
        }
        std::thread::sleep(POLL.min(left));
    }
}

/// The program and all that it started, but for what left its process group.
fn end_group(child: &mut Child) {
    if let Ok(group) = i32::try_from(child.id()) {
        // A group that is gone already is as it should be.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let _ = child.wait();
}

/// Reads on until the end, so that the program is never held up by a full pipe; keeps the end of it.
fn last_words(child: &mut Child) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    if let Some(mut stderr) = child.stderr.take() {
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            let mut buffer = [0; 1024];
            while let Ok(length @ 1..) = stderr.read(&mut buffer) {
                kept.extend_from_slice(&buffer[..length]);
                let excess = kept.len().saturating_sub(COMPLAINT as usize);
                kept.drain(..excess);
            }
            // Nobody waits for the words of one that succeeded.
            let _ = sender.send(String::from_utf8_lossy(&kept).into_owned());
        });
    }
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(line: &str, timeout_ms: u64) -> Called<()> {
        let program = Some(StatusProgram::Shell(line.into()));
        let checks = Checks { program, timeout_ms, ..Checks::default() };
        run(&checks, "v", Uuid::from_u128(1), &|_| Ok(()))
    }

    fn refused(line: &str, timeout_ms: u64) -> String {
        match shell(line, timeout_ms) {
            Err(HypervisorError::Refused(why)) => why,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_status_program_knows_the_vm_and_its_last_words_are_kept() {
        shell("test $BERTH_VM = v && test $OCF_RESKEY_name = v && test -z \"$HOME\"", 20_000)
            .unwrap();
        let why = refused("echo one >&2; echo no ping >&2; exit 3", 20_000);
        assert!(why.contains("exit status: 3") && why.ends_with(": no ping"), "{why}");
        let checks = Checks {
            program: Some(StatusProgram::Command(vec!["/nonexistent".into()])),
            ..Checks::default()
        };
        let error = run(&checks, "v", Uuid::nil(), &|_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("does not start"), "{error}");
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_all_that_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("child");
        let line = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let why = refused(&line, 500);
        assert!(why.contains("did not end within 500 ms"), "{why}");
        let child: i32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        // The kernel may take a moment; a zombie counts as gone.
        let begun = Instant::now();
        let runs = || {
            std::fs::read_to_string(format!("/proc/{child}/stat"))
                .is_ok_and(|stat| !stat.contains(") Z"))
        };
        while runs() && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(POLL);
        }
        assert!(!runs(), "process {child} runs on");
    }

    #[test]
    fn a_libvirt_that_does_not_answer_says_nothing_of_the_guest_agent() {
        let checks = Checks { guest_agent: true, ..Checks::default() };
        let gone = |_| Err(HypervisorError::Disconnected("x".into()));
        let answer = run(&checks, "v", Uuid::nil(), &gone);
        assert!(matches!(answer, Err(HypervisorError::Disconnected(_))), "{answer:?}");
        let deaf = |_| Err(HypervisorError::Refused("not connected".into()));
        let answer = run(&checks, "v", Uuid::nil(), &deaf);
        assert!(matches!(answer, Err(HypervisorError::Refused(_))), "{answer:?}");
    }
}
