//! The control plane is lost and restored from a backup, on real libvirt and QEMU.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::cluster::{Cluster, Fencing, node_is};
use tests::faults::Judge;
use tests::lab::{Options, enter_test};

const HOSTS: usize = 2;
const OLD: [usize; 3] = [1, 2, 3];
const NEW: [usize; 3] = [4, 5, 6];

#[test]
fn a_restored_control_plane_learns_what_runs_where_and_the_old_one_stops() -> Result<()> {
    if !enter_test(
        "restore::a_restored_control_plane_learns_what_runs_where_and_the_old_one_stops",
    )? {
        return Ok(());
    }
    let places = Options { hosts: HOSTS, replicas: OLD.len() + NEW.len() };
    let mut cluster = Cluster::start_with_spares(&places, OLD.len(), Fencing::Agent)?;
    let stays = cluster.add_guest("stays")?;
    let moves = cluster.add_guest("moves")?;
    cluster.ctl(&["enable", "stays", "--on", "node1"])?;
    cluster.ctl(&["enable", "moves", "--on", "node1"])?;
    let backup = cluster.lab.directory().join("backup").display().to_string();
    cluster.ctl(&["backup", &backup])?;
    // What happened since is what the restored one has to learn.
    cluster.ctl(&["migrate", "moves", "--to", "node2"])?;
    let later = cluster.add_guest("later")?;
    cluster.ctl(&["enable", "later", "--on", "node2"])?;
    for guest in [&stays, &moves, &later] {
        cluster.wait_counting(guest)?;
    }
    let places_of = |cluster: &Cluster| -> Result<Vec<i32>> {
        let mut all: Vec<i32> = cluster.lab.qemus()?.into_iter().map(|(_, _, pid)| pid).collect();
        all.sort_unstable();
        Ok(all)
    };
    let qemus = places_of(&cluster)?;
    let mut judge = Judge::new(&[stays.clone(), moves.clone()]);

    // The old one lives on where nobody reaches it.
    for number in OLD {
        cluster.lab.replica_link(number, false)?;
    }
    for number in NEW {
        cluster.start_replica(number)?;
    }
    let servers: Vec<String> = NEW.iter().map(|number| cluster.replica_endpoint(*number)).collect();
    let mut restore = vec!["restore".to_owned(), backup, "--servers".into(), servers[0].clone()];
    for number in NEW {
        let member = format!("{number}={}", cluster.replica_endpoint(number));
        restore.extend(["--replica".into(), member]);
    }
    let words: Vec<&str> = restore.iter().map(String::as_str).collect();
    let said = cluster.ctl(&words)?;
    ensure!(said.contains("is restored as epoch"), "{said}");
    let online = |status: &serde_json::Value| {
        status["epoch"].as_u64() > Some(1)
            && (1..=HOSTS).all(|number| node_is(status, &format!("node{number}"), "online"))
    };
    cluster.wait("the agents to register with the restored one", online)?;
    cluster.wait_vm("stays", "started", Some("node1"))?;
    cluster.wait_vm("moves", "started", Some("node2"))?;
    judge.wait_settled(&cluster)?;
    ensure!(places_of(&cluster)? == qemus, "nothing was started, and nothing was destroyed");

    // The old one is reached again: it stops at the sight of an agent that has met the new epoch.
    for number in OLD {
        cluster.lab.replica_link(number, true)?;
    }
    let mut turn = 0;
    while OLD.iter().any(|number| cluster.replica(*number).is_ok_and(|it| it.is_running())) {
        // Agents stay with a replica that answers; one that is lost sends them round all that they know.
        let number = NEW[turn % NEW.len()];
        turn += 1;
        ensure!(turn < 20, "the old control plane lives on");
        cluster.kill_replica(number)?;
        judge.watch(Duration::from_secs(1))?;
        cluster.start_replica(number)?;
        cluster.wait("the agents to be back", online)?;
    }
    judge.wait_settled(&cluster)?;
    ensure!(places_of(&cluster)? == qemus, "two control planes, and no guest was touched");
    ensure!(later.count()?.is_some_and(|count| count.strangers == 0));
    Ok(())
}
