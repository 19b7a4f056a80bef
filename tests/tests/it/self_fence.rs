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
