//! A host that goes down in good order: its agent says so, and it goes when nothing of the cluster's is left there.

use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::cluster::{Cluster, Fencing, PATIENCE, find, node_is};
use tests::lab::guest::Guest;
use tests::lab::{Options, binary, enter_test};

/// Long enough for a cluster that would start them elsewhere, had it done so: a host is lost after three seconds.
const NOTHING_FOR: Duration = Duration::from_secs(6);

/// What the unit's ExecStop runs on a host that goes down; systemd's part, which the lab has not, is a flag here.
fn announce(cluster: &Cluster, number: usize, reboot: bool) -> Result<Output> {
    let program = binary("berth-agent")?.display().to_string();
    let mut command = vec![program.as_str(), "announce-shutdown", "--config", "/nonexistent"];
    command.extend(["--timeout", "90", "--unheard", "30"]);
    command.extend(reboot.then_some("--reboot"));
    cluster.lab.host(number)?.exec(&command)
}

/// The rest of a shutdown: the agent is told to end, and the power goes.
fn go_down(cluster: &Cluster, number: usize) -> Result<()> {
    let host = cluster.lab.host(number)?;
    host.with_service("agent", |agent| agent.signal(Signal::SIGTERM))?;
    let begun = Instant::now();
    while host.with_service("agent", |agent| Ok(agent.is_running()))? {
        ensure!(begun.elapsed() < PATIENCE, "the agent does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    ensure!(host.qemus()?.is_empty(), "{} goes down with guests on it", host.name);
    host.power_cut()?;
    cluster.wait("the node to be off", |status| node_is(status, &host.name, "off"))?;
    Ok(())
}

fn come_back(cluster: &Cluster, number: usize) -> Result<()> {
    let host = cluster.lab.host(number)?;
    host.power_on()?;
    cluster.wait("the node to be back", |status| node_is(status, &host.name, "online"))?;
    Ok(())
}

fn all_started_on(cluster: &Cluster, guests: &[Guest], node: &str) -> Result<()> {
    for guest in guests {
        cluster.wait_vm(&guest.name, "started", Some(node))?;
        cluster.wait_counting(guest)?;
        ensure!(cluster.where_runs(guest.uuid)? == [node], "{} is not on {node} only", guest.name);
    }
    Ok(())
}

fn events(cluster: &Cluster) -> Result<Vec<String>> {
    let text = cluster.ctl(&["events", "--json"])?;
    let kind = |line: &str| {
        let event: Value = serde_json::from_str(line)?;
        Ok(event["kind"].as_str().context("an event without a kind")?.to_owned())
    };
    text.lines().map(kind).collect()
}

#[test]
fn a_host_that_goes_down_in_good_order_is_emptied_first_and_never_fenced() -> Result<()> {
    if !enter_test(
        "shutdown::a_host_that_goes_down_in_good_order_is_emptied_first_and_never_fenced",
    )? {
        return Ok(());
    }
    let cluster = Cluster::start(&Options { hosts: 2, replicas: 3 }, Fencing::Both)?;
    let guests = [cluster.add_guest("g1")?, cluster.add_guest("g2")?];
    for guest in &guests {
        // These guests do not hear the power button.
        cluster.ctl(&["vm", "edit", &guest.name, "--stop-timeout", "2s"])?;
        cluster.ctl(&["enable", &guest.name, "--on", "node1"])?;
    }
    all_started_on(&cluster, &guests, "node1")?;

    // It stays off: they stop there and start elsewhere.
    let output = announce(&cluster, 1, false)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{}: {said}", String::from_utf8_lossy(&output.stderr));
    ensure!(said.contains("still here: vm:g1") && said.contains("vm:g2"), "{said}");
    ensure!(said.trim_end().ends_with("the host may go down"), "{said}");
    go_down(&cluster, 1)?;
    all_started_on(&cluster, &guests, "node2")?;
    come_back(&cluster, 1)?;

    // It boots again: they wait for it.
    ensure!(announce(&cluster, 2, true)?.status.success());
    go_down(&cluster, 2)?;
    std::thread::sleep(NOTHING_FOR);
    for guest in &guests {
        ensure!(cluster.where_runs(guest.uuid)?.is_empty(), "{} did not wait", guest.name);
        let vm = cluster.vm(&guest.name)?;
        ensure!(vm["reason"]["code"] == "waits-for-host", "{vm}");
    }
    come_back(&cluster, 2)?;
    all_started_on(&cluster, &guests, "node2")?;

    // They are moved while they run, where that is the policy, and come home with it.
    cluster.ctl(&["settings", "set", "shutdown_policy=migrate"])?;
    let before = cluster.lab.host(2)?.qemus()?.len();
    ensure!(before == guests.len());
    ensure!(announce(&cluster, 2, false)?.status.success());
    all_started_on(&cluster, &guests, "node1")?;
    go_down(&cluster, 2)?;
    come_back(&cluster, 2)?;
    all_started_on(&cluster, &guests, "node2")?;
    for guest in &guests {
        let vm = find(&cluster.status()?, &guest.name).cloned().context("it is gone")?;
        ensure!(vm["restarts"] == 0, "{vm}");
        let count = guest.count()?.context("the guest never counted")?;
        ensure!(count.strangers == 0, "two guests wrote to the disk of {}", guest.name);
    }

    let events = events(&cluster)?;
    let times = |kind: &str| events.iter().filter(|it| *it == kind).count();
    ensure!(times("node-shuts-down") == 3 && times("node-off") == 3, "{events:?}");
    ensure!(times("vm-migrated") == 4, "{events:?}");
    ensure!(times("node-fencing") + times("node-lost") + times("vm-failed") == 0, "{events:?}");
    Ok(())
}

#[test]
fn an_empty_host_goes_down_without_a_quorum_and_one_with_guests_is_bitten() -> Result<()> {
    if !enter_test(
        "shutdown::an_empty_host_goes_down_without_a_quorum_and_one_with_guests_is_bitten",
    )? {
        return Ok(());
    }
    let mut cluster = Cluster::start(&Options { hosts: 2, replicas: 1 }, Fencing::Watchdog)?;
    let guest = cluster.add_guest("g")?;
    cluster.ctl(&["enable", "g", "--on", "node1"])?;
    cluster.wait_counting(&guest)?;
    // The site is shut down, the replicas first.
    cluster.kill_replica(1)?;
    for number in [1, 2] {
        let host = cluster.lab.host(number)?;
        host.with_service("agent", |agent| agent.signal(Signal::SIGTERM))?;
    }
    let begun = Instant::now();
    let until = |what: &str, done: &dyn Fn() -> Result<bool>| -> Result<()> {
        while !done()? {
            ensure!(begun.elapsed() < PATIENCE, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    };
    let (full, empty) = (cluster.lab.host(1)?, cluster.lab.host(2)?);
    until("the empty host's agent does not end", &|| {
        empty.with_service("agent", |agent| Ok(!agent.is_running()))
    })?;
    until("the watchdog does not bite", &|| Ok(!full.is_on()))?;
    // The other one's would have bitten by now.
    std::thread::sleep(NOTHING_FOR);
    ensure!(empty.is_on(), "its watchdog was left armed");
    Ok(())
}
