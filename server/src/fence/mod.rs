//! Fence devices through the fence-agents programs, by their standard interface: `key=value` lines on standard input,
//! the verdict as exit code (FenceAgentAPI of the ClusterLabs fence-agents project).
//!
//! "Off" that exits with 0 proves nothing by itself: the device is asked for the status afterwards, and only its "off"
//! is proof. A device that says off for a host that was off already is proof as well.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use model::node::FenceDevice;
use model::sabotage::{Rule, off};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;
use tracing::debug;

/// `status`: the plug is off.
const STATUS_OFF: i32 = 2;
/// How much of an agent's complaint is kept.
const COMPLAINT_CHARACTERS: usize = 300;

/// Why a node could not be proven off.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// There is nothing to ask.
    #[error("no fence device is set")]
    NoDevice,
    /// No device said off; what each said.
    #[error("{0}")]
    NotOff(String),
}

/// Why one call of a fence agent gave no answer.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("{agent} is not installed in {directories}")]
    NotInstalled { agent: String, directories: String },
    #[error("{agent} could not be run")]
    Run {
        agent: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{agent} {action} did not end within {limit_ms} ms")]
    Timeout { agent: String, action: &'static str, limit_ms: u64 },
}

/// What a fence device says of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerState {
    /// It has power.
    On,
    /// It has none.
    Off,
}

impl PowerState {
    /// The word operators read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
    }
}

/// Whether a device's two answers are proof of death: only its word "off", given after it was asked to switch off.
pub fn is_proof(off_done: bool, status: Option<PowerState>) -> bool {
    status == Some(PowerState::Off) || (off_done && off(Rule::FenceAskedAfterwards))
}

/// Where fence agents are found.
#[derive(Debug, Clone)]
pub struct FenceAgents {
    directories: Vec<PathBuf>,
}

impl FenceAgents {
    /// Fence agents are looked for in these directories, in this order.
    pub fn new(directories: Vec<PathBuf>) -> Self {
        Self { directories }
    }

    /// Asks the devices in turn, until one says off. Returns its agent's name.
    pub async fn prove_off(&self, devices: &[FenceDevice]) -> Result<String, FenceError> {
        if devices.is_empty() {
            return Err(FenceError::NoDevice);
        }
        let mut complaints = Vec::new();
        for device in devices {
            match self.device_off(device).await {
                Ok(()) => return Ok(device.agent.clone()),
                Err(complaint) => complaints.push(complaint),
            }
        }
        Err(FenceError::NotOff(complaints.join("; ")))
    }

    /// Asks a device whether the host has power.
    pub async fn status(&self, device: &FenceDevice) -> Result<PowerState, FenceError> {
        let answer = self.call(device, "status").await;
        let answer = answer.map_err(|error| FenceError::NotOff(chain(&error)))?;
        match answer.code {
            Some(0) => Ok(PowerState::On),
            Some(STATUS_OFF) => Ok(PowerState::Off),
            _ => Err(FenceError::NotOff(format!(
                "{} status ended with {}: {}",
                device.agent,
                answer.code_text(),
                answer.complaint
            ))),
        }
    }

    async fn device_off(&self, device: &FenceDevice) -> Result<(), String> {
        let switched = self.call(device, "off").await;
        let status = self.call(device, "status").await.map_err(|error| chain(&error))?;
        let power = (status.code == Some(STATUS_OFF)).then_some(PowerState::Off);
        if is_proof(switched.as_ref().is_ok_and(|answer| answer.code == Some(0)), power) {
            return Ok(());
        }
        let off = match switched {
            Ok(answer) => format!("off ended with {}: {}", answer.code_text(), answer.complaint),
            Err(error) => chain(&error),
        };
        let status = format!("status ended with {}: {}", status.code_text(), status.complaint);
        Err(format!("{}: {off}, {status}", device.agent))
    }

    async fn call(&self, device: &FenceDevice, action: &'static str) -> Result<Answer, CallError> {
        let agent = || device.agent.clone();
        let program = self
            .directories
            .iter()
            .map(|directory| directory.join(&device.agent))
            .find(|path| path.is_file());
        let program = program.ok_or_else(|| CallError::NotInstalled {
            agent: agent(),
            directories: self
                .directories
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(":"),
        })?;
        let run = |source| CallError::Run { agent: agent(), source };
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(run)?;
        let mut lines = format!("action={action}\n");
        for (key, value) in &device.options {
            lines.push_str(&format!("{key}={value}\n"));
        }
        if let Some(mut stdin) = child.stdin.take() {
            // An agent that ends without reading its input has given its answer by its exit code.
            if let Err(error) = stdin.write_all(lines.as_bytes()).await {
                debug!(agent = device.agent, action, %error, "the fence agent did not read its input");
            }
        }
        let limit = Duration::from_millis(device.timeout_ms);
        match timeout(limit, child.wait_with_output()).await {
            Err(_) => {
                Err(CallError::Timeout { agent: agent(), action, limit_ms: device.timeout_ms })
            }
            Ok(Err(error)) => Err(run(error)),
            Ok(Ok(output)) => {
                let text = String::from_utf8_lossy(&output.stderr);
                let complaint =
                    text.trim().replace('\n', ", ").chars().take(COMPLAINT_CHARACTERS).collect();
                Ok(Answer { code: output.status.code(), complaint })
            }
        }
    }
}

struct Answer {
    code: Option<i32>,
    complaint: String,
}

impl Answer {
    fn code_text(&self) -> String {
        self.code.map_or_else(|| "a signal".into(), |code| code.to_string())
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A fence agent that notes its actions and answers `status` with `code`.
    fn agents(script: &str) -> (tempfile::TempDir, FenceAgents, FenceDevice) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fence_test");
        std::fs::write(&path, format!("#!/bin/sh\nread action\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let agents = FenceAgents::new(vec![directory.path().to_owned()]);
        let device = FenceDevice {
            agent: "fence_test".into(),
            options: BTreeMap::new(),
            timeout_ms: 5_000,
            level: 0,
        };
        (directory, agents, device)
    }

    #[tokio::test]
    async fn only_a_device_that_says_off_is_proof() {
        let (_directory, fence, device) = agents("[ $action = action=status ] && exit 2; exit 0");
        assert_eq!(fence.prove_off(&[device]).await.unwrap(), "fence_test");
        let (_directory, fence, device) = agents("exit 0");
        let error = fence.prove_off(&[device]).await.unwrap_err().to_string();
        assert!(error.contains("status ended with 0"), "{error}");
    }

    #[tokio::test]
    async fn an_off_that_fails_is_proof_all_the_same_when_the_host_is_off() {
        let (_directory, fence, device) = agents("[ $action = action=status ] && exit 2; exit 1");
        assert!(fence.prove_off(&[device]).await.is_ok());
    }

    #[tokio::test]
    async fn the_next_device_is_asked_when_the_first_is_dark() {
        let (_directory, fence, device) = agents("[ $action = action=status ] && exit 2; exit 0");
        let dark = FenceDevice { agent: "fence_dark".into(), ..device.clone() };
        assert_eq!(fence.prove_off(&[dark.clone(), device]).await.unwrap(), "fence_test");
        let error = fence.prove_off(&[dark]).await.unwrap_err().to_string();
        assert!(error.contains("fence_dark is not installed"), "{error}");
    }

    #[tokio::test]
    async fn an_agent_that_hangs_is_given_up() {
        let (_directory, fence, device) = agents("exec sleep 60");
        let device = FenceDevice { timeout_ms: 50, ..device };
        let error = fence.prove_off(&[device]).await.unwrap_err().to_string();
        assert!(error.contains("did not end within 50 ms"), "{error}");
    }
}
