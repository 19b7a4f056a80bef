//! What becomes of guests and hosts when a lease runs out, on real libvirt and real QEMU.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tests::cluster::{Cluster, Fencing, find, find_node, node_is};
use tests::lab::{Options, enter_test};

fn cluster(fencing: Fencing) -> Result<Cluster> {
    Cluster::start(&Options { hosts: 2, replicas: 3 }, fencing)
}

/// The guest is on node1 and counts.
fn begun(cluster: &Cluster) -> Result<tests::lab::guest::Guest> {
    let guest = cluster.add_guest("g")?;
    cluster.ctl(&["enable", "g", "--on", "node1"])?;
    cluster.wait_counting(&guest)?;
    Ok(guest)
}

fn wait_for(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds()? {
        ensure!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[test]
fn a_node_that_is_cut_off_suspends_its_guests_and_resumes_them_when_it_is_back() -> Result<()> {
    if !enter_test(
        "self_fence::a_node_that_is_cut_off_suspends_its_guests_and_resumes_them_when_it_is_back",
    )? {
        return Ok(());
    }
    let cluster = cluster(Fencing::Agent)?;
    // Nothing proves its death, so nothing is started elsewhere.
    cluster.ctl(&["node", "fence", "node1", "--clear"])?;
    let guest = begun(&cluster)?;
    let host = cluster.lab.host(1)?;
    let process = host.qemus()?[&guest.uuid];
    host.link(false)?;
    wait_for("the guest to be suspended", || {
        Ok(host.virsh(&["domstate", "g"])?.contains("paused"))
    })?;
    cluster.wait("node1 to be lost", |status| node_is(status, "node1", "lost"))?;
    host.link(true)?;
    cluster.wait_vm("g", "started", Some("node1"))?;
    cluster.wait("it to run again", |status| {
        find(status, "g").is_some_and(|vm| vm["seen"]["node1"] == "running")
    })?;
    ensure!(host.qemus()?[&guest.uuid] == process, "it is the same guest");
    cluster.wait_counting(&guest)?;
    Ok(())
}

#[test]
fn a_guest_that_is_destroyed_on_isolation_starts_elsewhere_by_the_lease_alone() -> Result<()> {
    if !enter_test(
        "self_fence::a_guest_that_is_destroyed_on_isolation_starts_elsewhere_by_the_lease_alone",
    )? {
        return Ok(());
    }
    let cluster = cluster(Fencing::Watchdog)?;
    let guest = cluster.add_guest("g")?;
    cluster.ctl(&["vm", "edit", "g", "--on-isolation", "destroy"])?;
    cluster.ctl(&["enable", "g", "--on", "node1"])?;
    cluster.wait_counting(&guest)?;
    cluster.lab.host(1)?.link(false)?;
    cluster.wait_vm("g", "started", Some("node2"))?;
    ensure!(cluster.lab.host(1)?.is_on(), "its guests were gone for sure: the watchdog was fed");
    let status = cluster.status()?;
    let proof = &find_node(&status, "node1").context("no node1")?["proof_of_death"];
    ensure!(proof.as_str().is_some_and(|proof| proof.contains("lease")), "{proof}");
    cluster.wait_counting(&guest)?;
    Ok(())
}

#[test]
fn a_libvirtd_that_hangs_costs_the_guests_of_a_node_that_is_cut_off_their_qemu() -> Result<()> {
    if !enter_test(
        "self_fence::a_libvirtd_that_hangs_costs_the_guests_of_a_node_that_is_cut_off_their_qemu",
    )? {
        return Ok(());
    }
    let cluster = cluster(Fencing::Watchdog)?;
    let guest = begun(&cluster)?;
    let host = cluster.lab.host(1)?;
    host.signal_libvirtd(Signal::SIGSTOP)?;
    host.link(false)?;
    wait_for("the QEMU to be killed", || Ok(!host.qemus()?.contains_key(&guest.uuid)))?;
    ensure!(host.is_on(), "the agent was in time");
    cluster.wait_vm("g", "started", Some("node2"))?;
    cluster.wait_counting(&guest)?;
    Ok(())
}

/// How long the suspended copy is kept: a start elsewhere is tried more than once meanwhile.
const HOLD_MS: u64 = 15_000;

#[test]
fn a_start_elsewhere_waits_for_the_image_lock_of_the_suspended_copy_until_its_hold_is_over()
-> Result<()> {
    let name = "self_fence::a_start_elsewhere_waits_for_the_image_lock_of_the_suspended_copy_until_its_hold_is_over";
    if !enter_test(name)? {
        return Ok(());
    }
    let cluster = cluster(Fencing::Watchdog)?;
    cluster.ctl(&["settings", "set", &format!("isolation_hold_ms={HOLD_MS}")])?;
    let host = cluster.lab.host(1)?;
    // The hold is told with a session.
    let session = |status: &serde_json::Value| {
        find_node(status, "node1").and_then(|node| node["session"].as_u64())
    };
    let first = session(&cluster.status()?);
    host.with_service("agent", |agent| agent.kill())?;
    host.restart_service("agent")?;
    cluster.wait("the agent to register again", |status| session(status) > first)?;

    let guest = begun(&cluster)?;
    host.link(false)?;
    wait_for("the guest to be suspended", || {
        Ok(host.virsh(&["domstate", "g"])?.contains("paused"))
    })?;
    let suspended = Instant::now();
    let locked = |text: &str| text.contains("lock");
    wait_for("a start that meets the lock", || {
        Ok(cluster.told("g", "vm-start-failed")?.iter().any(|text| locked(text)))
    })?;
    // It is the real lock of a real QEMU: the copy that has it is there, and stands still.
    let counted = guest.count()?;
    ensure!(cluster.where_runs(guest.uuid)?.contains(&"node1".to_owned()), "no copy, no lock");
    cluster.wait("it to wait, and to say for what", |status| {
        find(status, "g").is_some_and(|vm| {
            vm["owner"].is_null() && vm["reason"]["text"].as_str().is_some_and(locked)
        })
    })?;
    let said = cluster.ctl(&["explain", "g"])?;
    ensure!(locked(&said), "{said}");
    ensure!(suspended.elapsed() < Duration::from_millis(HOLD_MS), "it was said in time");

    cluster.wait_vm("g", "started", Some("node2"))?;
    ensure!(suspended.elapsed() > Duration::from_millis(HOLD_MS * 9 / 10), "sooner than the hold");
    ensure!(host.is_on(), "a suspended guest is stopped for sure: the watchdog was fed");
    ensure!(cluster.where_runs(guest.uuid)? == ["node2"], "the copy was not destroyed");
    ensure!(counted.is_none_or(|count| count.strangers == 0), "{counted:?}");
    cluster.wait_counting(&guest)?;
    Ok(())
}
