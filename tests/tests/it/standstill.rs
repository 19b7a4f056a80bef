//! What stands still and goes on later, on real libvirt and QEMU: agents, libvirtds and whole hosts that are stopped.
//!
//! The lab's watchdog is outside of what stands still, as a real one is.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use tests::cluster::{Cluster, Fencing, find, node_is};
use tests::faults::Judge;
use tests::lab::guest::Guest;
use tests::lab::{Options, enter_test};

/// Longer than a lease and `lost_after`.
const LONG: Duration = Duration::from_secs(5);

fn cluster(fencing: Fencing) -> Result<(Cluster, Guest, Judge)> {
    let cluster = Cluster::start(&Options { hosts: 2, replicas: 3 }, fencing)?;
    let guest = cluster.add_guest("g")?;
    cluster.ctl(&["enable", "g", "--on", "node1"])?;
    cluster.wait_counting(&guest)?;
    let judge = Judge::new(std::slice::from_ref(&guest));
    Ok((cluster, guest, judge))
}

/// The guest has been taken over by node2; node1 boots, and the guest moves back for what comes next.
fn back_to_node1(cluster: &Cluster, guest: &Guest, judge: &mut Judge) -> Result<()> {
    cluster.wait_vm("g", "started", Some("node2"))?;
    ensure!(
        !cluster.lab.host(1)?.is_on(),
        "its power was cut: by the fence device or by the watchdog"
    );
    cluster.wait_counting(guest)?;
    judge.look()?;
    cluster.lab.host(1)?.power_on()?;
    cluster.wait("node1 to be back", |status| node_is(status, "node1", "online"))?;
    judge.wait_settled(cluster)?;
    ensure!(cluster.where_runs(guest.uuid)? == ["node2"], "a host that is back starts nothing");
    cluster.ctl(&["migrate", "g", "--to", "node1"])?;
    judge.wait_settled(cluster)
}

#[test]
fn what_stands_still_runs_nothing_twice_when_a_fence_device_proves_its_death() -> Result<()> {
    if !enter_test(
        "standstill::what_stands_still_runs_nothing_twice_when_a_fence_device_proves_its_death",
    )? {
        return Ok(());
    }
    let (cluster, guest, mut judge) = cluster(Fencing::Agent)?;
    let host = cluster.lab.host(1)?;
    let qemu = host.qemus()?[&guest.uuid];

    // A libvirtd that hangs on a host that is heard costs nobody anything.
    host.signal_libvirtd(Signal::SIGSTOP)?;
    judge.watch(LONG)?;
    ensure!(
        cluster.vm("g")?["state"] == "started" && node_is(&cluster.status()?, "node1", "online")
    );
    host.signal_libvirtd(Signal::SIGCONT)?;
    judge.wait_settled(&cluster)?;
    ensure!(host.qemus()?[&guest.uuid] == qemu, "its guest was not touched");

    // A host that stands still and that nothing proves dead: nothing is started elsewhere, and it goes on as if nothing
    // had been, suspended for a moment by its own agent.
    cluster.ctl(&["node", "fence", "node1", "--clear"])?;
    let frozen = host.freeze()?;
    cluster.wait("node1 to be lost", |status| node_is(status, "node1", "lost"))?;
    judge.watch(LONG)?;
    ensure!(cluster.where_runs(guest.uuid)? == ["node1"]);
    host.thaw(frozen);
    cluster.wait("node1 to be online", |status| node_is(status, "node1", "online"))?;
    cluster.wait("it to run again", |status| {
        find(status, "g").is_some_and(|vm| vm["seen"]["node1"] == "running")
    })?;
    judge.wait_settled(&cluster)?;
    ensure!(host.qemus()?[&guest.uuid] == qemu, "it is the same guest");

    // The same with a fence device: it is switched off, and nothing of it is left to go on.
    let plug = format!("lab={}", cluster.lab.control_socket().display());
    let device = ["--agent", "fence_lab", "--option", "plug=node1", "--option", &plug];
    cluster.ctl(&[&["node", "fence", "node1"], &device[..]].concat())?;
    let frozen = host.freeze()?;
    cluster.wait_vm("g", "started", Some("node2"))?;
    ensure!(frozen.alive().is_empty(), "a host that was fenced does not go on");
    host.thaw(frozen);
    back_to_node1(&cluster, &guest, &mut judge)?;

    // An agent that hangs, and no watchdog that would notice: the fence device does it.
    host.with_service("agent", |agent| agent.signal(Signal::SIGSTOP))?;
    back_to_node1(&cluster, &guest, &mut judge)
}

#[test]
fn what_stands_still_is_bitten_by_its_watchdog_where_there_is_no_fence_device() -> Result<()> {
    if !enter_test(
        "standstill::what_stands_still_is_bitten_by_its_watchdog_where_there_is_no_fence_device",
    )? {
        return Ok(());
    }
    let (cluster, guest, mut judge) = cluster(Fencing::Watchdog)?;
    let host = cluster.lab.host(1)?;
    host.with_service("agent", |agent| agent.signal(Signal::SIGSTOP))?;
    back_to_node1(&cluster, &guest, &mut judge)?;
    let frozen = host.freeze()?;
    cluster.wait_vm("g", "started", Some("node2"))?;
    ensure!(frozen.alive().is_empty(), "the watchdog stands outside of what stands still");
    host.thaw(frozen);
    back_to_node1(&cluster, &guest, &mut judge)
}
