//! RGManager's behaviours around VMs that somebody else moves, starts and defines (reference section 5), on real hosts.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::cluster::{Cluster, Fencing, find, find_node};
use tests::lab::guest::Guest;
use tests::lab::{Options, enter_test};

/// Long enough for a cluster that acts at once, had it acted.
const NOTHING_FOR: Duration = Duration::from_secs(4);

#[test]
fn nothing_is_doubled_by_what_others_start_move_and_define_behind_its_back() -> Result<()> {
    if !enter_test(
        "tracking::nothing_is_doubled_by_what_others_start_move_and_define_behind_its_back",
    )? {
        return Ok(());
    }
    // node3 is a host of libvirt that knows nothing of Berth.
    let cluster =
        Cluster::start_with_outsiders(&Options { hosts: 3, replicas: 1 }, 2, Fencing::Agent)?;
    let guest = Guest::make(&cluster.lab.directory().join("shared"), "g", false)?;
    adding_and_forgetting_touch_nothing(&cluster, &guest)?;
    a_domain_is_transient_and_goes_with_its_stop(&cluster, &guest)?;
    two_copies_are_a_conflict_until_an_operator_says_which_is_kept(&cluster, &guest)?;
    what_migrates_out_of_the_cluster_is_lost_and_not_restarted(&cluster, &guest)?;
    let count = guest.count()?.map(|count| count.strangers);
    ensure!(count == Some(0), "two guests wrote to one disk: {count:?}");
    Ok(())
}

fn adding_and_forgetting_touch_nothing(cluster: &Cluster, guest: &Guest) -> Result<()> {
    let xml = guest.write_xml()?.display().to_string();
    let unmanaged = |cluster: &Cluster| {
        cluster.wait("node1 to show it", |status| {
            let unmanaged = find_node(status, "node1").and_then(|it| it["unmanaged"].as_array());
            unmanaged.is_some_and(|all| all.iter().any(|domain| domain["name"] == "g"))
        })
    };
    cluster.lab.host(1)?.virsh(&["create", &xml])?;
    let process = cluster.qemu(1, guest)?;
    unmanaged(cluster)?;
    for _ in 0..2 {
        cluster.add(guest)?;
        let vm = cluster.vm("g")?;
        ensure!(vm["state"] == "disabled" && vm["seen"]["node1"] == "running", "{vm}");
        std::thread::sleep(NOTHING_FOR / 4);
        ensure!(cluster.qemu(1, guest)? == process, "adding stops nothing");
        cluster.ctl(&["enable", "g"])?;
        cluster.wait_vm("g", "started", Some("node1"))?;
        ensure!(cluster.qemu(1, guest)? == process, "it is tracked where it runs");
        // Its node may still be marking the domain as the cluster's.
        cluster.wait("g to be forgotten", |_| cluster.ctl(&["vm", "forget", "g"]).is_ok())?;
        unmanaged(cluster)?;
        ensure!(cluster.qemu(1, guest)? == process, "forgetting stops nothing");
    }
    cluster.add(guest)?;
    cluster.ctl(&["enable", "g"])?;
    ensure!(cluster.vm("g")?["restarts"] == 0 && cluster.where_runs(guest.uuid)? == ["node1"]);
    // And what ran nowhere runs nowhere after it was added.
    let idle = cluster.add_guest("idle")?;
    std::thread::sleep(NOTHING_FOR / 4);
    ensure!(
        cluster.where_runs(idle.uuid)?.is_empty() && cluster.vm("idle")?["state"] == "disabled"
    );
    Ok(())
}

/// What libvirt has forgotten, nobody starts a second time by `virsh start`.
fn a_domain_is_transient_and_goes_with_its_stop(cluster: &Cluster, guest: &Guest) -> Result<()> {
    cluster.ctl(&["disable", "g"])?;
    for number in [1, 2] {
        let host = cluster.lab.host(number)?;
        let domains = host.virsh(&["list", "--all", "--name"])?;
        ensure!(!domains.lines().any(|name| name == "g"), "{} knows it: {domains}", host.name);
        ensure!(host.virsh(&["start", "g"]).is_err());
    }
    cluster.ctl(&["enable", "g", "--on", "node1"])?;
    let persistent = cluster.lab.host(1)?.virsh(&["dominfo", "g"])?;
    ensure!(persistent.lines().any(|it| it.starts_with("Persistent:") && it.ends_with("no")));
    cluster.wait_counting(guest)?;
    Ok(())
}

fn two_copies_are_a_conflict_until_an_operator_says_which_is_kept(
    cluster: &Cluster,
    guest: &Guest,
) -> Result<()> {
    let process = cluster.qemu(1, guest)?;
    // The second copy has another disk, or QEMU's own lock would keep it down.
    let twin = Guest::make(&cluster.lab.directory().join("shared"), "twin", false)?;
    let path = cluster.lab.directory().join("shared/second.xml");
    let (disk, other) = (guest.disk.display().to_string(), twin.disk.display().to_string());
    std::fs::write(&path, guest.xml().replace(&disk, &other))?;
    cluster.lab.host(2)?.virsh(&["create", &path.display().to_string()])?;
    let conflict = cluster.wait("the conflict", |status| {
        find(status, "g").is_some_and(|vm| vm["state"] == "conflict")
    })?;
    let vm = find(&conflict, "g").cloned().unwrap_or_default();
    let may_run: BTreeSet<_> =
        vm["may_run"].as_array().into_iter().flatten().filter_map(|it| it.as_str()).collect();
    ensure!(may_run == ["node1", "node2"].into(), "{vm}");
    ensure!(cluster.refused(&["status", "--check"], 1)?.contains("g is conflict"));
    let alarm = cluster.told("g", "vm-conflict")?;
    ensure!(
        alarm.len() == 1 && alarm[0].contains("node1") && alarm[0].contains("node2"),
        "{alarm:?}"
    );
    std::thread::sleep(NOTHING_FOR / 2);
    ensure!(cluster.where_runs(guest.uuid)? == ["node1", "node2"], "nothing is done by itself");
    ensure!(cluster.refused(&["migrate", "g", "--to", "node2"], 3)?.contains("started"));
    cluster.ctl(&["resolve", "g", "--keep", "node1"])?;
    cluster.wait_vm("g", "started", Some("node1"))?;
    ensure!(cluster.where_runs(guest.uuid)? == ["node1"] && cluster.qemu(1, guest)? == process);
    ensure!(cluster.told("g", "vm-conflict-ended")?.len() == 1);
    cluster.ctl(&["status", "--check"])?;
    cluster.wait_counting(guest)?;
    Ok(())
}

fn what_migrates_out_of_the_cluster_is_lost_and_not_restarted(
    cluster: &Cluster,
    guest: &Guest,
) -> Result<()> {
    let outside = cluster.lab.host(3)?;
    let migrate = |from: usize, to: usize| -> Result<()> {
        let uri = cluster.lab.host(to)?.migration_uri();
        let words = ["migrate", "--live", "--p2p", "--unsafe", "g", &uri];
        cluster.lab.host(from)?.virsh(&words).map(drop)
    };
    migrate(1, 3)?;
    cluster.wait_vm("g", "lost", None)?;
    std::thread::sleep(NOTHING_FOR);
    let vm = cluster.vm("g")?;
    ensure!(vm["state"] == "lost" && vm["restarts"] == 0 && vm["owner"].is_null(), "{vm}");
    ensure!(cluster.where_runs(guest.uuid)? == [outside.name.clone()], "it runs on out there");
    ensure!(cluster.told("g", "vm-lost")?.len() == 1);
    ensure!(cluster.refused(&["status", "--check"], 1)?.contains("g is lost"));
    let said = cluster.ctl(&["explain", "g"])?;
    ensure!(said.contains("migration"), "{said}");
    cluster.wait_counting(guest)?;
    // It comes back to another node than it left, and is tracked there.
    migrate(3, 2)?;
    cluster.wait_vm("g", "started", Some("node2"))?;
    ensure!(cluster.where_runs(guest.uuid)? == ["node2"] && cluster.vm("g")?["restarts"] == 0);
    cluster.wait_counting(guest)?;
    cluster.ctl(&["status", "--check"])?;
    Ok(())
}
