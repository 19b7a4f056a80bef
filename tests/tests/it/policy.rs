//! RGManager's policies on real hosts: freeze, lock, dependencies, failback by migration.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::cluster::{Cluster, Fencing, find, node_is};
use tests::lab::{Options, enter_test};

/// Long enough for a cluster that acts at once, had it acted.
const NOTHING_FOR: Duration = Duration::from_secs(5);

fn refused(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let output = cluster.ctl_output(arguments)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(3), "{arguments:?}: {}: {said}", output.status);
    Ok(said)
}

#[test]
fn a_vm_is_frozen_and_thawed_locked_out_and_goes_back_to_its_better_node_by_migration() -> Result<()>
{
    if !enter_test(
        "policy::a_vm_is_frozen_and_thawed_locked_out_and_goes_back_to_its_better_node_by_migration",
    )? {
        return Ok(());
    }
    let cluster = Cluster::start(&Options { hosts: 2, replicas: 3 }, Fencing::Agent)?;
    let guest = cluster.add_guest("g")?;
    cluster.add_guest("app")?;
    let domain = ["failover-domain", "set", "d", "--node", "node1:1", "--node", "node2:2"];
    cluster.ctl(&[&domain[..], &["--ordered", "--failback-delay", "2s"]].concat())?;
    cluster.ctl(&["vm", "edit", "g", "--failover-domain", "d"])?;
    cluster.ctl(&["vm", "edit", "app", "--depend", "vm:g"])?;
    ensure!(
        refused(&cluster, &["vm", "edit", "g", "--depend", "app"])?.contains("wait for itself")
    );

    cluster.ctl(&["enable", "app", "--no-wait"])?;
    cluster.wait("app to wait for g", |status| {
        find(status, "app").is_some_and(|vm| vm["reason"]["code"] == "depends-on")
    })?;
    cluster.ctl(&["enable", "g"])?;
    cluster.wait_vm("g", "started", Some("node1"))?;
    cluster.wait("app to follow", |status| {
        find(status, "app").is_some_and(|vm| vm["state"] == "started")
    })?;
    cluster.wait_counting(&guest)?;

    // Frozen, it may die and nothing is done; unfrozen, it is looked for and started again.
    cluster.ctl(&["freeze", "g", "--reason", "a new disk", "--for", "1h"])?;
    kill(Pid::from_raw(cluster.lab.host(1)?.qemus()?[&guest.uuid]), Signal::SIGKILL)?;
    cluster.wait("the death to be known", |status| {
        find(status, "g").is_some_and(|vm| vm["state"] == "recovering")
    })?;
    std::thread::sleep(NOTHING_FOR);
    ensure!(cluster.where_runs(guest.uuid)?.is_empty(), "a frozen VM is not started");
    ensure!(refused(&cluster, &["disable", "g"])?.contains("a new disk"));
    ensure!(cluster.ctl(&["vm", "show", "g"])?.contains("a new disk"));
    cluster.ctl(&["unfreeze", "g"])?;
    cluster.wait_vm("g", "started", Some("node1"))?;
    cluster.wait_counting(&guest)?;

    // Locked, nothing starts.
    cluster.ctl(&["lock", "--reason", "the storage moves"])?;
    cluster.ctl(&["stop", "app"])?;
    ensure!(refused(&cluster, &["enable", "app"])?.contains("the storage moves"));
    ensure!(cluster.ctl(&["status"])?.contains("LOCKED"));
    cluster.ctl(&["unlock"])?;
    cluster.ctl(&["enable", "app"])?;

    // Its host dies and comes back: it goes back while it runs.
    cluster.lab.host(1)?.power_cut()?;
    cluster.wait_vm("g", "started", Some("node2"))?;
    cluster.wait_counting(&guest)?;
    let process = cluster.lab.host(2)?.qemus()?[&guest.uuid];
    ensure!(process > 0);
    cluster.lab.host(1)?.power_on()?;
    cluster.wait("node1 to be back", |status| node_is(status, "node1", "online"))?;
    cluster.wait_vm("g", "started", Some("node1"))?;
    ensure!(cluster.where_runs(guest.uuid)? == ["node1"]);
    let events = cluster.ctl(&["events", "--vm", "g", "--json"])?;
    ensure!(events.contains("\"vm-moved\"") && events.contains("\"vm-migrated\""), "{events}");
    cluster.wait_counting(&guest)?;
    let count = guest.count()?.context("the guest never counted")?;
    ensure!(count.strangers == 0, "two guests wrote to one disk");
    Ok(())
}
