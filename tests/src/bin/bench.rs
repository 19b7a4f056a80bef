//! `make bench`: figures of this machine, measured in the lab. Each is printed run by run, with its median and the goal
//! that the design has for it; a comparison is made in turn, in one run. First with default settings, then with those for
//! a quiet network (docs/tuning.md), each in a lab of its own.
//!
//! `bench default` or `bench quiet` measures one of the two.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests::cluster::{Cluster, Fencing, Tuning, find};
use tests::lab::guest::Guest;
use tests::lab::{self, Options};
use tests::measure::client::Client;
use tests::measure::loss::{With, kill_qemu, lose_host, lose_leader};
use tests::measure::{RUNS, Table, migration};

const LOAD: Duration = Duration::from_secs(3);
/// Guests on the host that is lost with many.
const MANY: usize = 10;

/// The design's goals, in seconds.
struct Goals {
    lost_host: f64,
    lost_host_dark: f64,
    leader_and_host: f64,
    leader_and_host_dark: f64,
    leader: f64,
}

fn main() -> Result<()> {
    let which = std::env::args().nth(1);
    let tuning = match which.as_deref() {
        None => {
            for which in ["default", "quiet"] {
                let status = Command::new(std::env::current_exe()?).arg(which).status()?;
                ensure!(status.success(), "the benchmark with {which} settings failed: {status}");
            }
            return Ok(());
        }
        Some("default") => Tuning::Default,
        Some("quiet") => Tuning::Quiet,
        Some(other) => bail!("{other:?} is neither default nor quiet"),
    };
    lab::enter()?;
    let mut cluster =
        Cluster::start_tuned(&Options { hosts: 3, replicas: 3 }, Fencing::Both, tuning)?;
    let guest = cluster.add_guest("g")?;
    cluster.ctl(&["enable", "g"])?;
    cluster.wait_counting(&guest)?;
    let client = Client::new(&cluster)?;
    let mut table = Table::default();
    let (heading, goals) = match tuning {
        Tuning::Default => {
            memory(&cluster)?;
            commits(&cluster, &client)?;
            migrations(&cluster, &mut table)?;
            killed_qemus(&cluster, &guest, &mut table)?;
            let goals = Goals {
                lost_host: 4.0,
                lost_host_dark: 6.0,
                leader_and_host: 5.0,
                leader_and_host_dark: 7.0,
                leader: 1.3,
            };
            ("Default settings", goals)
        }
        Tuning::Quiet => {
            let goals = Goals {
                lost_host: 1.5,
                lost_host_dark: 6.0,
                leader_and_host: 5.0,
                leader_and_host_dark: 7.0,
                leader: 0.5,
            };
            ("Settings for a quiet network", goals)
        }
    };
    let guests = [guest];
    for (with, words, goal) in [
        (With::Nothing, "host lost, fence device", goals.lost_host),
        (With::Dark, "host lost, fence device dark", goals.lost_host_dark),
        (With::Leader, "leader and host lost, fence device", goals.leader_and_host),
        (With::LeaderDark, "leader and host lost, fence device dark", goals.leader_and_host_dark),
    ] {
        let mut losses = Vec::new();
        for _ in 0..RUNS {
            losses.push(lose_host(&mut cluster, &client, &guests, with)?);
        }
        let proofs = losses.iter().map(|loss| loss.proof).collect();
        table.add(&format!("{words}: until the proof of death"), None, proofs);
        let back = losses.iter().map(|loss| loss.last).collect();
        table.add(&format!("{words}: until QEMU is elsewhere"), Some(goal), back);
        let runs = losses.iter().map(|loss| loss.last_runs).collect();
        table.add(&format!("{words}: until its vCPUs run"), None, runs);
    }
    let leaders = (0..RUNS).map(|_| lose_leader(&mut cluster, &client)).collect::<Result<_>>()?;
    table.add("leader lost: last write before to first after", Some(goals.leader), leaders);
    let many = lose_many(&mut cluster, &client, &goals, &mut table)?;
    for guest in guests.iter().chain(&many) {
        let count = guest.count()?.context("it never counted")?;
        ensure!(count.strangers == 0, "{}: {} strange writes", guest.name, count.strangers);
    }
    println!("strange writes on the guests' disks: 0");
    table.print(heading);
    Ok(())
}

fn memory(cluster: &Cluster) -> Result<()> {
    for number in 1..=cluster.lab.replicas() {
        let memory = cluster.replica(number)?.memory_kib()? / 1024;
        println!("memory of replica {number}: {memory} MiB resident");
    }
    let agent = cluster.lab.host(1)?.with_service("agent", |agent| agent.memory_kib())?;
    println!("memory of an agent: {} MiB resident", agent / 1024);
    Ok(())
}

fn commits(cluster: &Cluster, client: &Client) -> Result<()> {
    for clients in [1, 64] {
        let rate = client.commits(cluster.leader()?, clients, LOAD)?;
        println!("durable commands on three replicas, {clients} clients: {rate:.0} a second");
    }
    Ok(())
}

fn migrations(cluster: &Cluster, table: &mut Table) -> Result<()> {
    let guest = Guest::make_eager(&cluster.lab.directory().join("shared"), "eager")?;
    cluster.add(&guest)?;
    cluster.ctl(&["enable", "eager"])?;
    cluster.wait_counting(&guest)?;
    let (mut live, mut pause, mut virsh) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        live.push(migration::by_berth(cluster, &guest, "--live")?);
        virsh.push(migration::by_virsh(cluster, &guest)?);
        pause.push(migration::by_berth(cluster, &guest, "--pause")?);
    }
    cluster.ctl(&["stop", "eager", "--now"])?;
    cluster.ctl(&["vm", "forget", "eager"])?;
    for (what, all) in [
        ("berthctl migrate --live", live),
        ("berthctl migrate --pause", pause),
        ("virsh migrate --live", virsh),
    ] {
        table.add(what, None, all.iter().map(|it| it.took).collect());
        let pauses = all.iter().map(|it| it.pause).collect();
        table.add(&format!("{what}: the guest stands still"), None, pauses);
    }
    Ok(())
}

fn killed_qemus(cluster: &Cluster, guest: &Guest, table: &mut Table) -> Result<()> {
    let mut seconds = Vec::new();
    // Three a minute cost no wait; the fourth would measure the brake on crash loops.
    for round in 0..RUNS {
        if round % 3 == 0 {
            // Enabled anew, the count begins anew.
            cluster.ctl(&["disable", "g"])?;
            cluster.ctl(&["enable", "g"])?;
            cluster.wait_counting(guest)?;
        }
        seconds.push(kill_qemu(cluster, guest)?);
    }
    table.add("QEMU killed: until QEMU runs", Some(0.5), seconds);
    Ok(())
}

/// A host with ten guests is lost. Returns the guests.
fn lose_many(
    cluster: &mut Cluster,
    client: &Client,
    goals: &Goals,
    table: &mut Table,
) -> Result<Vec<Guest>> {
    let guests: Vec<Guest> =
        (1..=MANY).map(|number| cluster.add_guest(&format!("m{number}"))).collect::<Result<_>>()?;
    let all = |cluster: &Cluster, state: &str| {
        cluster.wait(&format!("all guests to be {state}"), |status: &Value| {
            guests
                .iter()
                .all(|guest| find(status, &guest.name).is_some_and(|vm| vm["state"] == state))
        })
    };
    let mut losses = Vec::new();
    for round in 0..RUNS {
        if round > 0 {
            // Where they are after the last loss, two hosts have them.
            for guest in &guests {
                cluster.ctl(&["stop", &guest.name, "--now", "--no-wait"])?;
            }
            all(cluster, "stopped")?;
        }
        for guest in &guests {
            cluster.ctl(&["enable", &guest.name, "--on", "node1", "--no-wait"])?;
        }
        all(cluster, "started")?;
        losses.push(lose_host(cluster, client, &guests, With::Nothing)?);
    }
    let of = |pick: fn(&tests::measure::loss::Loss) -> f64| losses.iter().map(pick).collect();
    let first = "ten VMs on the lost host: until the first QEMU is elsewhere";
    table.add(first, Some(goals.lost_host), of(|loss| loss.first));
    table.add("… the tenth", None, of(|loss| loss.last));
    table.add("… from the first to the tenth", Some(1.0), of(|loss| loss.last - loss.first));
    table.add("… until the vCPUs of the first run", None, of(|loss| loss.first_runs));
    table.add("… of the tenth", None, of(|loss| loss.last_runs));
    Ok(guests)
}
