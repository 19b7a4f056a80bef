//! One run of a hook's program: what it is given, how it ends, what is logged of it.
//!
//! It has a process group of its own that ends with it: at its end, at its time-out, or with this process. A program that
//! is to leave something running hands it to the service manager (`systemd-run`) or takes it out of the group (`setsid`).

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use fence::ProcessGroup;
use model::event::Event;
use model::id::ClusterId;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::Hook;

/// What is kept of a program's output for the log: its last words say what is wrong.
const OUTPUT_KEPT_BYTES: usize = 800;
/// Something that left the group may hold the output open.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// For programs that name others without their place.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The event as one JSON document: the one that `berthctl events --json` prints, and the cluster.
#[derive(Serialize)]
struct Document<'e> {
    cluster: Option<String>,
    revision: u64,
    sequence: u32,
    at: String,
    kind: &'static str,
    severity: &'static str,
    vm: Option<&'e str>,
    service: Option<&'e str>,
    node: Option<&'e str>,
    text: &'e str,
}

impl<'e> Document<'e> {
    fn of(cluster: Option<ClusterId>, event: &'e Event) -> Self {
        let at = i64::try_from(event.at.0).ok();
        let at = at.and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
        Self {
            cluster: cluster.map(|cluster| cluster.0.to_string()),
            revision: event.revision,
            sequence: event.sequence,
            at: at.map_or_else(|| event.at.0.to_string(), |at| format!("{at:.3}")),
            kind: event.kind.as_str(),
            severity: event.kind.severity().as_str(),
            vm: event.vm.as_ref().map(|vm| vm.as_str()),
            service: event.service.as_ref().map(|service| service.as_str()),
            node: event.node.as_ref().map(|node| node.as_str()),
            text: &event.text,
        }
    }

    /// The same as environment variables. What the event has not is not set.
    fn environment(&self) -> Vec<(&'static str, String)> {
        let set = [
            ("BERTH_CLUSTER", self.cluster.clone()),
            ("BERTH_EVENT_REVISION", Some(self.revision.to_string())),
            ("BERTH_EVENT_SEQUENCE", Some(self.sequence.to_string())),
            ("BERTH_EVENT_AT", Some(self.at.clone())),
            ("BERTH_EVENT_KIND", Some(self.kind.into())),
            ("BERTH_EVENT_SEVERITY", Some(self.severity.into())),
            ("BERTH_EVENT_VM", self.vm.map(Into::into)),
            ("BERTH_EVENT_SERVICE", self.service.map(Into::into)),
            ("BERTH_EVENT_NODE", self.node.map(Into::into)),
            ("BERTH_EVENT_TEXT", Some(self.text.into())),
        ];
        // The text may quote a guest's or a program's words: one line, and no byte that ends a variable.
        let plain = |value: String| value.replace(char::is_control, " ");
        set.into_iter().filter_map(|(name, value)| Some((name, plain(value?)))).collect()
    }
}

/// Runs the program for an event and logs how it ended. Its end is of no influence.
pub(super) async fn run(hook: &Hook, cluster: Option<ClusterId>, event: &Event) {
    let (name, kind, revision) = (hook.name(), event.kind.as_str(), event.revision);
    let mut output = Vec::new();
    let ended = timeout(hook.timeout, converse(hook, cluster, event, &mut output)).await;
    let output = text(&output);
    match ended {
        Ok(Ok(status)) if status.success() => {
            debug!(hook = name, kind, revision, output, "a hook was run");
        }
        Ok(Ok(status)) => {
            warn!(hook = name, kind, revision, %status, output, "a hook failed");
        }
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            warn!(hook = name, kind, revision, error, "a hook could not be run");
        }
        Err(_) => {
            let limit_ms = hook.timeout.as_millis() as u64;
            warn!(
                hook = name,
                kind, revision, limit_ms, output, "a hook took too long and was killed"
            );
        }
    }
}

async fn converse(
    hook: &Hook,
    cluster: Option<ClusterId>,
    event: &Event,
    output: &mut Vec<u8>,
) -> io::Result<ExitStatus> {
    let document = Document::of(cluster, event);
    let input = serde_json::to_vec(&document)?;
    let mut child = Command::new(&hook.program)
        .env_clear()
        .env("PATH", PATH)
        .envs(document.environment())
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    // Dropped, and the group killed, on each way out of here, the caller's time-out included.
    let group = ProcessGroup::of(&child);
    let (stdin, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let end = end(&mut child, group, stdin, &input);
    let listen = listen(out, err, output);
    tokio::pin!(end, listen);
    tokio::select! {
        status = &mut end => {
            // Its last words may still be in the pipe.
            let _ = timeout(LAST_WORDS, listen).await;
            status
        }
        // It closed its output and works on.
        () = &mut listen => end.await,
    }
}

async fn end(
    child: &mut Child,
    group: ProcessGroup,
    stdin: Option<ChildStdin>,
    input: &[u8],
) -> io::Result<ExitStatus> {
    let tell = async {
        if let Some(mut stdin) = stdin {
            // A program that does not read its input may have read its environment.
            let _ = stdin.write_all(input).await;
        }
    };
    tokio::pin!(tell);
    let mut told = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            () = &mut tell, if !told => told = true,
        }
    };
    drop(group);
    status
}

async fn listen(
    out: Option<impl AsyncRead + Unpin>,
    err: Option<impl AsyncRead + Unpin>,
    kept: &mut Vec<u8>,
) {
    let (Some(mut out), Some(mut err)) = (out, err) else { return };
    let (mut first, mut second) = ([0; 4_096], [0; 4_096]);
    let (mut out_open, mut err_open) = (true, true);
    while out_open || err_open {
        let said = tokio::select! {
            read = out.read(&mut first), if out_open => match read {
                Ok(length @ 1..) => &first[..length],
                _ => { out_open = false; continue }
            },
            read = err.read(&mut second), if err_open => match read {
                Ok(length @ 1..) => &second[..length],
                _ => { err_open = false; continue }
            },
        };
        kept.extend_from_slice(said);
        let excess = kept.len().saturating_sub(OUTPUT_KEPT_BYTES);
        kept.drain(..excess);
    }
}

fn text(kept: &[u8]) -> String {
    let plain = |it: char| if it.is_control() { ' ' } else { it };
    String::from_utf8_lossy(kept).trim().chars().map(plain).collect()
}
