//! Fence devices through the fence-agents programs, by their standard interface: `key=value` lines on standard input,
//! the verdict as exit code (FenceAgentAPI of the ClusterLabs fence-agents project).
//!
//! "Off" that exits with 0 proves nothing by itself: the device is asked for the status afterwards, and only its "off"
//! is proof. A device that says off for a host that was off already is proof as well.
//!
//! ```text
//!  off ──0, 1, signal, time-out──▶ status ──2──▶ proof
//!   │                                ├──0──▶ on: no proof
//!   │                                └──else──▶ unknown: no proof
//!   └──2──▶ the agent is broken: no proof
//! ```

#![warn(missing_docs)]

mod call;
mod process_group;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use model::node::FenceDevice;
use model::sabotage::{Rule, off};

use self::call::Answer;
pub use self::call::CallError;
pub use self::process_group::ProcessGroup;

/// `status`: the plug is on; any other action: done.
const DONE: i32 = 0;
/// `status`: the plug is off. No other action ends so; but Python that cannot read its script does, and a shell that
/// finds a syntax error in it, whatever they are asked.
const OFF: i32 = 2;

/// What a fence device says of a host's power. That it says neither is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerState {
    /// The host may run.
    On,
    /// The host has no power.
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

/// What a fence device could not be brought to say.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// There is nothing to ask.
    #[error("no fence device is set")]
    NoDevice,
    /// No device said off; what each said.
    #[error("{0}")]
    NotOff(String),
    /// It was told to switch the host on and says that the host is off.
    #[error("{0}, and its status says that the host is still off")]
    NotOn(String),
    /// It gave no answer.
    #[error(transparent)]
    Call(#[from] CallError),
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

    /// All fence agents that are there, by name.
    pub fn installed(&self) -> BTreeSet<String> {
        let names = self.directories.iter().filter_map(|directory| directory.read_dir().ok());
        names
            .flatten()
            .flatten()
            .filter(|entry| entry.path().is_file())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with("fence_"))
            .collect()
    }

    /// The levels in turn, the lowest first; all devices of a level must say off, as those of two power supplies. Returns
    /// the names of those that did.
    pub async fn prove_death(&self, devices: &[FenceDevice]) -> Result<String, FenceError> {
        let mut levels: BTreeMap<u8, Vec<&FenceDevice>> = BTreeMap::new();
        for device in devices {
            levels.entry(device.level).or_default().push(device);
        }
        let mut complaints = Vec::new();
        for level in levels.values() {
            let asked = level.iter().map(|device| self.prove_off(std::slice::from_ref(*device)));
            let answers: Result<Vec<String>, FenceError> =
                futures::future::join_all(asked).await.into_iter().collect();
            match answers {
                Ok(names) => return Ok(names.join(" and ")),
                Err(error) => complaints.push(error.to_string()),
            }
        }
        match complaints.is_empty() {
            true => Err(FenceError::NoDevice),
            false => Err(FenceError::NotOff(complaints.join("; "))),
        }
    }

    /// What the first device says now; see [`Self::status`].
    pub async fn look(&self, devices: &[FenceDevice]) -> Result<PowerState, FenceError> {
        self.status(devices.first().ok_or(FenceError::NoDevice)?).await
    }

    /// Switches the host on with all devices of the lowest level that can be asked; done when they say that it is on.
    pub async fn revive(&self, devices: &[FenceDevice]) -> Result<(), FenceError> {
        let levels: BTreeSet<u8> = devices.iter().map(|device| device.level).collect();
        let mut last = Err(FenceError::NoDevice);
        for level in levels {
            let of_level = devices.iter().filter(|device| device.level == level);
            let asked = of_level.map(|device| self.power_on(device));
            last = futures::future::join_all(asked).await.into_iter().collect();
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// Asks the devices in turn, until one says off. Returns its agent's name.
    ///
    /// Each device has its time-out twice, for "off" and for the status after it.
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

    /// What the device says now. It changes nothing, and proves nothing: an agent that is broken may end as if the
    /// host were off, which [`Self::prove_off`] finds out.
    pub async fn status(&self, device: &FenceDevice) -> Result<PowerState, FenceError> {
        let answer = self.call(device, "status").await?;
        match answer.code {
            Some(DONE) => Ok(PowerState::On),
            Some(OFF) => Ok(PowerState::Off),
            _ => Err(answer.failed(device, "status").into()),
        }
    }

    /// Switches the host on; done when the device says that it is on, however "on" itself ended.
    pub async fn power_on(&self, device: &FenceDevice) -> Result<(), FenceError> {
        let on = self.call(device, "on").await;
        match self.status(device).await? {
            PowerState::On => Ok(()),
            PowerState::Off => Err(FenceError::NotOn(said(on, device, "on"))),
        }
    }

    async fn device_off(&self, device: &FenceDevice) -> Result<(), String> {
        let switched = self.call(device, "off").await;
        let code = switched.as_ref().ok().and_then(|answer| answer.code);
        let switched = said(switched, device, "off");
        if code == Some(OFF) {
            return Err(format!(
                "{switched}; no working agent ends so, its status is not believed"
            ));
        }
        let status = self.status(device).await;
        if is_proof(code == Some(DONE), status.as_ref().ok().copied()) {
            return Ok(());
        }
        match status {
            Ok(power) => {
                Err(format!("{switched}, and its status says that the host is {}", power.as_str()))
            }
            Err(error) => Err(format!("{switched}, and {}", chain(&error))),
        }
    }

    async fn call(&self, device: &FenceDevice, action: &'static str) -> Result<Answer, CallError> {
        let program = self
            .directories
            .iter()
            .map(|directory| directory.join(&device.agent))
            .find(|path| path.is_file());
        let program = program.ok_or_else(|| CallError::NotInstalled {
            agent: device.agent.clone(),
            directories: self
                .directories
                .iter()
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(":"),
        })?;
        call::call(&program, device, action).await
    }
}

/// What came of an action, in words.
fn said(answer: Result<Answer, CallError>, device: &FenceDevice, action: &'static str) -> String {
    match answer {
        Ok(answer) if answer.code == Some(DONE) => {
            format!("{} {action} ended with 0", device.agent)
        }
        Ok(answer) => chain(&answer.failed(device, action)),
        Err(error) => chain(&error),
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
    use std::io::Write;
    use std::process::Stdio;

    use super::*;

    /// A fence agent with `$action`, such as `action=off`, in its script.
    fn agents(script: &str) -> (tempfile::TempDir, FenceAgents, FenceDevice) {
        let directory = tempfile::tempdir().unwrap();
        // Another process writes it: a file that this one has open for writing may be inherited by an agent that
        // another test starts in the same moment, and cannot be run as long as that has not begun.
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "cat > fence_test && chmod 755 fence_test"])
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let text = format!("#!/bin/sh\nread action\ncd {}\n{script}\n", directory.path().display());
        shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(shell.wait().unwrap().success());
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
        assert!(error.contains("status says that the host is on"), "{error}");
        let (_directory, fence, device) = agents("[ $action = action=status ] && exit 1; exit 0");
        let error = fence.prove_off(&[device]).await.unwrap_err().to_string();
        assert!(error.contains("status ended with 1"), "{error}");
    }

    #[tokio::test]
    async fn an_off_that_fails_is_proof_all_the_same_when_the_host_is_off() {
        let (_directory, fence, device) = agents("[ $action = action=status ] && exit 2; exit 1");
        assert!(fence.prove_off(&[device]).await.is_ok());
    }

    #[tokio::test]
    async fn an_agent_that_is_broken_proves_nothing_though_it_ends_as_if_the_host_were_off() {
        // A shell ends a script with a syntax error with 2, whatever it was asked.
        let (_directory, fence, device) = agents("if then");
        assert_eq!(fence.status(&device).await.unwrap(), PowerState::Off);
        let error = fence.prove_off(&[device]).await.unwrap_err().to_string();
        assert!(error.contains("no working agent ends so"), "{error}");
    }

    #[tokio::test]
    async fn the_status_is_on_off_or_not_known() {
        for (script, state) in [("exit 0", PowerState::On), ("exit 2", PowerState::Off)] {
            let (_directory, fence, device) = agents(script);
            assert_eq!(fence.status(&device).await.unwrap(), state);
        }
        for (script, reason) in [
            ("echo dark >&2; exit 1", "fence_test status ended with 1: dark"),
            ("kill -9 $$", "fence_test status ended with a signal: it gave no reason"),
        ] {
            let (_directory, fence, device) = agents(script);
            assert_eq!(fence.status(&device).await.unwrap_err().to_string(), reason);
        }
    }

    #[tokio::test]
    async fn a_host_is_on_when_the_device_says_so() {
        let power = "[ -e on ] && exit 0; exit 2";
        let script = format!("[ $action = action=on ] && touch on; {power}");
        let (_directory, fence, device) = agents(&script);
        assert_eq!(fence.status(&device).await.unwrap(), PowerState::Off);
        fence.power_on(&device).await.unwrap();
        assert_eq!(fence.status(&device).await.unwrap(), PowerState::On);
        let (_directory, fence, device) = agents("[ $action = action=on ] && exit 0; exit 2");
        let error = fence.power_on(&device).await.unwrap_err().to_string();
        assert!(error.contains("on ended with 0, and its status says that the host is still off"));
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

    #[tokio::test]
    async fn an_agent_that_does_not_read_its_options_is_given_up() {
        let (_directory, fence, device) = agents("exec sleep 60");
        // More than a pipe holds.
        let options = BTreeMap::from([("long".to_owned(), "x".repeat(1 << 20))]);
        let device = FenceDevice { timeout_ms: 50, options, ..device };
        let error = fence.status(&device).await.unwrap_err().to_string();
        assert!(error.contains("did not end within 50 ms"), "{error}");
    }

    /// Makes a pipe for `exec 3>held` in an agent's script; what is returned can be had when a process has opened it.
    fn held(directory: &tempfile::TempDir) -> tokio::task::JoinHandle<std::fs::File> {
        let path = directory.path().join("held");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        tokio::task::spawn_blocking(move || std::fs::File::open(path).unwrap())
    }

    /// Ends when no process has the pipe open any more.
    async fn let_go(mut pipe: std::fs::File) {
        let read = move || std::io::Read::read_to_end(&mut pipe, &mut Vec::new()).unwrap();
        let limit = std::time::Duration::from_secs(15);
        let ended = tokio::time::timeout(limit, tokio::task::spawn_blocking(read)).await;
        ended.expect("what the agent started has not ended").unwrap();
    }

    #[tokio::test]
    async fn all_that_an_agent_started_ends_when_the_call_is_given_up() {
        let (directory, fence, device) = agents("sh -c 'exec 3>held; exec sleep 30' & wait");
        let held = held(&directory);
        let pipe = tokio::select! {
            answer = fence.status(&device) => panic!("{answer:?}"),
            pipe = held => pipe.unwrap(),
        };
        let_go(pipe).await;
    }

    #[tokio::test]
    async fn what_an_agent_leaves_behind_ends_with_it_and_does_not_delay_the_answer() {
        let (directory, fence, device) = agents("exec 3>held; sleep 30 & exit 2");
        let held = held(&directory);
        assert_eq!(fence.status(&device).await.unwrap(), PowerState::Off);
        let_go(held.await.unwrap()).await;
    }

    /// A second device beside that of [`agents`], of a level, whose script is in the same folder.
    fn second(directory: &tempfile::TempDir, name: &str, level: u8, script: &str) -> FenceDevice {
        let mut shell = std::process::Command::new("sh")
            .args(["-c", &format!("cat > {name} && chmod 755 {name}")])
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let text = format!("#!/bin/sh\nread action\n{script}\n");
        shell.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        assert!(shell.wait().unwrap().success());
        let options = BTreeMap::new();
        FenceDevice { agent: name.into(), options, timeout_ms: 5_000, level }
    }

    #[tokio::test]
    async fn all_devices_of_a_level_must_say_off_and_the_next_level_is_asked_when_they_do_not() {
        const OFF: &str = "[ $action = action=status ] && exit 2; exit 0";
        const ON: &str = "exit 0";
        let (directory, fence, first) = agents(OFF);
        let off = |name: &str, level| second(&directory, name, level, OFF);
        let on = |name: &str, level| second(&directory, name, level, ON);
        for (devices, proof) in [
            (vec![first.clone(), off("fence_b", 0)], Some("fence_test and fence_b")),
            (vec![first.clone(), on("fence_c", 0)], None),
            (vec![first.clone(), on("fence_c", 0), off("fence_d", 1)], Some("fence_d")),
            (vec![on("fence_c", 2), off("fence_d", 1)], Some("fence_d")),
            (vec![], None),
        ] {
            let said = fence.prove_death(&devices).await;
            assert_eq!(said.as_deref().ok(), proof, "{devices:?}: {said:?}");
        }
        assert!(fence.installed().contains("fence_d"));
    }
}
