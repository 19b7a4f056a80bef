//! Hooks of real replicas, on loopback.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests::cluster::PATIENCE;

use super::processes::{Server, XML, command_with, ctl, free_address, said};

/// A replica whose hook writes what it is told to a file of its own.
struct Replica {
    folder: PathBuf,
    server: Option<Server>,
}

impl Replica {
    fn start(directory: &Path, number: u64) -> Result<Self> {
        let folder = directory.join(number.to_string());
        std::fs::create_dir(&folder)?;
        let (hook, told) = (folder.join("hook"), folder.join("told"));
        let body = format!("#!/bin/sh\n{{ cat; echo; }} >> {}\nexit 3\n", told.display());
        std::fs::write(&hook, body)?;
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755))?;
        let config = format!(
            "[[hooks]]\nprogram = '{}'\nevents = ['vm-added', 'vm-forgotten']\n",
            hook.display()
        );
        std::fs::write(folder.join("server.toml"), config)?;
        let address = free_address()?;
        let log = std::fs::File::create(folder.join("log"))?;
        let child =
            command_with(&folder.join("server.toml"), number, &address, &folder.join("data"))?
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()?;
        Ok(Self { folder, server: Some(Server { child, address }) })
    }

    fn address(&self) -> Result<&str> {
        Ok(&self.server.as_ref().context("the replica was killed")?.address)
    }

    /// The events that its hook was told, in order.
    fn told(&self) -> Result<Vec<String>> {
        let text = std::fs::read_to_string(self.folder.join("told")).unwrap_or_default();
        let event = |line: &str| {
            let event: Value = serde_json::from_str(line)?;
            ensure!(event["cluster"].is_string() && event["severity"] == "info", "{line}");
            let word = |key: &str| event[key].as_str().unwrap_or("-").to_owned();
            Ok(format!("{} {}", word("kind"), word("vm")))
        };
        text.lines().map(event).collect()
    }
}

/// Waits until the hooks of these replicas together were told so many events.
fn wait_told(replicas: &[Replica], count: usize) -> Result<Vec<Vec<String>>> {
    let begun = Instant::now();
    loop {
        let told: Vec<_> = replicas.iter().map(Replica::told).collect::<Result<_>>()?;
        if told.iter().map(Vec::len).sum::<usize>() >= count {
            return Ok(told);
        }
        ensure!(begun.elapsed() < PATIENCE, "waited in vain for {count} events: {told:?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn ask(replicas: &[Replica], arguments: &[&str]) -> Result<String> {
    let addresses: Vec<_> = replicas.iter().filter_map(|it| it.address().ok()).collect();
    let output = ctl(&addresses.join(","), arguments)?;
    if !output.status.success() {
        bail!("berthctl {arguments:?}: {}", said(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn the_leader_alone_runs_hooks_in_order_and_their_failure_changes_nothing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut replicas: Vec<_> =
        (1..=3).map(|number| Replica::start(directory.path(), number)).collect::<Result<_>>()?;
    let members: Vec<_> = replicas
        .iter()
        .zip(1..)
        .map(|(replica, number)| Ok(format!("{number}={}", replica.address()?)))
        .collect::<Result<_>>()?;
    let mut init = vec!["replica", "init"];
    init.extend(members.iter().map(String::as_str));
    ask(&replicas, &init)?;
    let file = directory.path().join("v.xml");
    std::fs::write(&file, XML)?;
    let file = file.display().to_string();
    // The hook fails each time, and all is done all the same.
    for _ in 0..2 {
        ask(&replicas, &["vm", "add", &file])?;
        ask(&replicas, &["vm", "forget", "v"])?;
    }
    let both = ["vm-added v", "vm-forgotten v"];
    let told = wait_told(&replicas, 4)?;
    let leader = told.iter().position(|told| !told.is_empty()).context("nobody was told")?;
    ensure!(told[leader] == [both, both].concat(), "{told:?}");
    // The next leader does not tell what was told before.
    let status: Value = serde_json::from_str(&ask(&replicas, &["status", "--json"])?)?;
    ensure!(status["leader"] == leader as u64 + 1, "the hook of another than the leader was run");
    replicas[leader].server = None;
    ask(&replicas, &["vm", "add", &file])?;
    let told = wait_told(&replicas, 5)?;
    let heir = (0..3).find(|it| *it != leader && !told[*it].is_empty()).context("nobody")?;
    ensure!(told[heir] == ["vm-added v"] && told[leader].len() == 4, "{told:?}");
    let log = std::fs::read_to_string(replicas[leader].folder.join("log"))?;
    let failures = log.lines().filter(|line| line.contains("a hook failed")).count();
    ensure!(failures == 4, "{failures} failures were logged: {log}");
    Ok(())
}
