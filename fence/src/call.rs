//! One call of a fence agent: options in on standard input, exit code and complaint out.
//!
//! Agents are scripts that start programs of their own (`fence_ipmilan` runs `ipmitool`). Each call has a process group,
//! and the whole group is killed when the call is over: answered, out of time, or dropped. An "off" that was given up
//! must not reach a host minutes later, when it has been switched on again.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use model::node::FenceDevice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::time::timeout;
use tracing::debug;

use crate::process_group::ProcessGroup;

/// How much of an agent's complaint is kept: the end, which has the error when there is a Python traceback before it.
const COMPLAINT_CHARACTERS: usize = 300;
/// How much of it is held in memory; enough for the above after blank lines and secrets are out.
const COMPLAINT_BYTES: usize = 16 * 1024;
/// Options whose values say where the device is and may be seen in a complaint; all others are hidden.
const SHOWN: [&str; 8] =
    ["ip", "ipaddr", "ipport", "plug", "port", "systems-uri", "systems_uri", "redfish-uri"];
/// Shorter values are switches such as `1`, and hiding them would garble the complaint; passwords are hidden always.
const SHORTEST_HIDDEN_BYTES: usize = 4;

/// Why one call of a fence agent gave no answer, or not the answer that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is no such program.
    #[error("{agent} is not installed in {directories}")]
    NotInstalled {
        /// The fence agent.
        agent: String,
        /// Where it was looked for.
        directories: String,
    },
    /// The system would not run it.
    #[error("{agent} could not be run")]
    Run {
        /// The fence agent.
        agent: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It was given up and killed.
    #[error("{agent} {action} did not end within {limit_ms} ms")]
    Timeout {
        /// The fence agent.
        agent: String,
        /// What it was asked.
        action: &'static str,
        /// The device's time-out, in milliseconds.
        limit_ms: u64,
    },
    /// It ended with an exit code that is no answer.
    #[error("{agent} {action} ended with {code}: {complaint}")]
    Failed {
        /// The fence agent.
        agent: String,
        /// What it was asked.
        action: &'static str,
        /// The exit code, or that there was none.
        code: String,
        /// The end of what it wrote to standard error, secrets hidden.
        complaint: String,
    },
}

/// How a call ended.
pub(super) struct Answer {
    /// The exit code; none when a signal ended it.
    pub(super) code: Option<i32>,
    /// The end of what it wrote to standard error, secrets hidden.
    pub(super) complaint: String,
}

impl Answer {
    pub(super) fn failed(self, device: &FenceDevice, action: &'static str) -> CallError {
        let code = self.code.map_or_else(|| "a signal".into(), |code| code.to_string());
        let complaint =
            if self.complaint.is_empty() { "it gave no reason".into() } else { self.complaint };
        CallError::Failed { agent: device.agent.clone(), action, code, complaint }
    }
}

/// Asks one action of a device, within the device's time-out.
pub(super) async fn call(
    program: &Path,
    device: &FenceDevice,
    action: &'static str,
) -> Result<Answer, CallError> {
    let run = |source| CallError::Run { agent: device.agent.clone(), source };
    let child = Command::new(program)
        // Debian's agents warn of what Python will drop some day, at each call.
        .env("PYTHONWARNINGS", "ignore")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(run)?;
    let mut lines = format!("action={action}\n");
    for (key, value) in &device.options {
        lines.push_str(&format!("{key}={value}\n"));
    }
    let limit = Duration::from_millis(device.timeout_ms);
    match timeout(limit, converse(child, &lines)).await {
        Err(_) => Err(CallError::Timeout {
            agent: device.agent.clone(),
            action,
            limit_ms: device.timeout_ms,
        }),
        Ok(Err(error)) => Err(run(error)),
        Ok(Ok((status, said))) => {
            let complaint = complaint(&String::from_utf8_lossy(&said), device);
            debug!(agent = device.agent, action, code = status.code(), "a fence agent answered");
            Ok(Answer { code: status.code(), complaint })
        }
    }
}

async fn converse(mut child: Child, lines: &str) -> io::Result<(ExitStatus, Vec<u8>)> {
    let group = ProcessGroup::of(&child);
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let end = async {
        let status = child.wait().await;
        // What it left behind may hold standard error open; it ends here, before its words are waited for.
        drop(group);
        status
    };
    let ((), said, status) = tokio::join!(tell(stdin, lines), listen(stderr), end);
    Ok((status?, said))
}

async fn tell(stdin: Option<ChildStdin>, lines: &str) {
    if let Some(mut stdin) = stdin
        && let Err(error) = stdin.write_all(lines.as_bytes()).await
    {
        // An agent that ends without reading its input has given its answer by its exit code.
        debug!(%error, "the fence agent did not read its input");
    }
}

async fn listen(stderr: Option<ChildStderr>) -> Vec<u8> {
    let mut said = Vec::new();
    let Some(mut stderr) = stderr else { return said };
    loop {
        match stderr.read_buf(&mut said).await {
            Ok(0) => return said,
            Ok(_) => {
                let superfluous = said.len().saturating_sub(COMPLAINT_BYTES);
                said.drain(..superfluous);
            }
            Err(error) => {
                debug!(%error, "the fence agent's complaint could not be read to its end");
                return said;
            }
        }
    }
}

/// The end of what was said, in one line, without the values of options that may be secret.
fn complaint(said: &str, device: &FenceDevice) -> String {
    let mut hidden: Vec<&str> = device
        .options
        .iter()
        .filter(|(key, _)| !SHOWN.contains(&key.as_str()))
        .filter(|(key, value)| key.contains("pass") || value.len() >= SHORTEST_HIDDEN_BYTES)
        .map(|(_, value)| value.as_str())
        .filter(|value| !value.is_empty())
        .collect();
    // A value that is part of another one must not break it up before it is found.
    hidden.sort_by_key(|value| std::cmp::Reverse(value.len()));
    let mut text = said.to_owned();
    for value in hidden {
        text = text.replace(value, "***");
    }
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let line = lines.join(", ");
    let superfluous = line.chars().count().saturating_sub(COMPLAINT_CHARACTERS);
    line.chars().skip(superfluous).collect::<String>().trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn device(options: &[(&str, &str)]) -> FenceDevice {
        let options: BTreeMap<String, String> =
            options.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        FenceDevice { agent: "fence_test".into(), options, timeout_ms: 1_000, level: 0 }
    }

    #[test]
    fn a_complaint_shows_where_but_never_a_secret() {
        let device = device(&[
            ("ip", "10.0.0.7"),
            ("lanplus", "1"),
            ("login", "root"),
            ("passwd", "pw1"),
            ("snmp_priv_passwd", "pw1-and-more"),
        ]);
        let said = "Failed: root:pw1@10.0.0.7 pw1-and-more 1\n\n\nPlease use '-h'\n";
        assert_eq!(complaint(said, &device), "Failed: ***:***@10.0.0.7 *** 1, Please use '-h'");
    }

    #[test]
    fn the_end_of_a_long_complaint_is_kept() {
        let said = format!("Traceback\n{}\nKeyError: 'Members'\n", "x".repeat(9_000));
        let text = complaint(&said, &device(&[]));
        assert_eq!(text.chars().count(), COMPLAINT_CHARACTERS);
        assert!(text.ends_with("KeyError: 'Members'"), "{text}");
    }
}
