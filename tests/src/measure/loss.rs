//! Hosts, leaders and QEMUs that are lost: from that moment to the proof, and to the QEMU elsewhere.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use uuid::Uuid;

use super::client::{Client, wall_ms};
use crate::cluster::{Cluster, PATIENCE, node_is};
use crate::lab::control::say;
use crate::lab::guest::Guest;

/// Fine enough for hundredths of seconds, and little load beside what is measured.
const POLL: Duration = Duration::from_millis(4);
/// Acknowledged commands before and after a failover, so that the gap is not the begin or the end of the writing.
const SETTLE: Duration = Duration::from_millis(300);

/// What is lost together with a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum With {
    /// Nothing; the fence device answers.
    Nothing,
    /// The fence device is dark: the lease is what is left.
    Dark,
    /// The leader; the fence device answers.
    Leader,
    /// The leader, and the fence device is dark.
    LeaderDark,
}

impl With {
    fn dark(self) -> bool {
        matches!(self, Self::Dark | Self::LeaderDark)
    }

    fn leader(self) -> bool {
        matches!(self, Self::Leader | Self::LeaderDark)
    }
}

/// Moments after the loss, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    /// The proof of death was proposed.
    pub proof: f64,
    /// The first QEMU was there, by the kernel's word.
    pub first: f64,
    /// The last one was.
    pub last: f64,
    /// libvirt had let the vCPUs of the first one run.
    pub first_runs: f64,
    /// Of the last one.
    pub last_runs: f64,
}

/// Cuts the power of the host on which the guests run; they are all on it. Mends everything afterwards.
pub fn lose_host(
    cluster: &mut Cluster,
    client: &Client,
    guests: &[Guest],
    with: With,
) -> Result<Loss> {
    let name = owner(cluster, &guests.first().context("no guest")?.name)?;
    let leader = cluster.leader()?;
    let switch = cluster.lab.control_socket();
    if with.dark() {
        say(&switch, "dark on")?;
    }
    let host = cluster.lab.host_named(&name)?.clone();
    let (begun, begun_ms) = (Instant::now(), wall_ms());
    std::thread::scope(|scope| {
        let cut = scope.spawn(|| host.power_cut());
        let killed = if with.leader() { lose_replica(cluster, leader) } else { Ok(()) };
        cut.join().map_err(|_| anyhow::anyhow!("the power cut panicked"))?.and(killed)
    })?;
    let [first, last, first_runs, last_runs] = wait_elsewhere(cluster, guests, &name, begun)?;
    let mended = if with.leader() { mend_replica(cluster, leader) } else { Ok(()) };
    mended.and_then(|()| if with.dark() { say(&switch, "dark off").map(drop) } else { Ok(()) })?;
    for guest in guests {
        cluster.wait_vm(&guest.name, "started", None)?;
    }
    let proof = (proven_at(client, &name, begun_ms)? - begun_ms) as f64 / 1_000.0;
    host.power_on()?;
    cluster.wait("the host to be back", |status| node_is(status, &name, "online"))?;
    for guest in guests {
        cluster.wait_counting(guest)?;
    }
    Ok(Loss { proof, first, last, first_runs, last_runs })
}

/// When a node's proof of death was proposed, by the machine's clock. A replica that is just back may not know of it yet.
fn proven_at(client: &Client, node: &str, since_ms: u64) -> Result<u64> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let events = client.events_since(since_ms)?;
        let mut dead = events.iter().filter(|event| event.kind == "node-dead");
        if let Some(event) = dead.find(|event| event.node.as_deref() == Some(node)) {
            return Ok(event.at_ms);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("no node-dead of {node} among the events")
}

/// When the first and the last QEMU of these guests were on other hosts than the lost one, and when their vCPUs ran.
fn wait_elsewhere(
    cluster: &Cluster,
    guests: &[Guest],
    lost: &str,
    begun: Instant,
) -> Result<[f64; 4]> {
    let names: BTreeMap<Uuid, &str> =
        guests.iter().map(|guest| (guest.uuid, guest.name.as_str())).collect();
    let (mut there, mut runs) = (BTreeMap::new(), BTreeMap::new());
    while begun.elapsed() < PATIENCE {
        for (uuid, host, pid) in cluster.lab.qemus()? {
            let Some(name) = names.get(&uuid).filter(|_| host != lost) else { continue };
            let now = begun.elapsed().as_secs_f64();
            there.entry(uuid).or_insert(now);
            if !runs.contains_key(&uuid) && cluster.lab.host_named(&host)?.vcpus_run(name, pid) {
                runs.insert(uuid, now);
            }
        }
        if runs.len() == names.len() {
            let first = |moments: &BTreeMap<Uuid, f64>| {
                moments.values().copied().fold(f64::INFINITY, f64::min)
            };
            let last =
                |moments: &BTreeMap<Uuid, f64>| moments.values().copied().fold(0.0, f64::max);
            return Ok([first(&there), last(&there), first(&runs), last(&runs)]);
        }
        std::thread::sleep(POLL);
    }
    bail!("the guests did not come back: {}", cluster.ctl(&["events"])?)
}

/// Its cable and its process: nothing of it reaches the others any more, no farewell of its sockets either.
fn lose_replica(cluster: &mut Cluster, number: usize) -> Result<()> {
    cluster.lab.replica_link(number, false)?;
    cluster.kill_replica(number)
}

fn mend_replica(cluster: &mut Cluster, number: usize) -> Result<()> {
    cluster.lab.replica_link(number, true)?;
    cluster.start_replica(number)?;
    let replicas = cluster.lab.replicas();
    cluster.wait("all replicas to follow", |status| {
        status["replicas"].as_array().is_some_and(|all| {
            let follows = |role: &serde_json::Value| role == "leader" || role == "follower";
            all.len() == replicas && all.iter().all(|replica| follows(&replica["role"]))
        })
    })?;
    Ok(())
}

/// The leader is lost under writes through every replica: from the last acknowledged before to the first after.
pub fn lose_leader(cluster: &mut Cluster, client: &Client) -> Result<f64> {
    let leader = cluster.leader()?;
    let writers = client.writers();
    std::thread::sleep(SETTLE);
    let lost = Instant::now();
    lose_replica(cluster, leader)?;
    let gone = Instant::now();
    std::thread::sleep(Duration::from_secs(3) + SETTLE);
    let acknowledged = client.stop(writers)?;
    mend_replica(cluster, leader)?;
    // One that was under way may still have come through while the cable was being pulled.
    let before = acknowledged.iter().rfind(|at| **at <= gone).context("nothing before")?;
    let after = acknowledged.iter().find(|at| **at > gone).context("nothing after")?;
    ensure!(lost.duration_since(*before.min(&lost)) < SETTLE, "nothing was written just before");
    Ok(after.duration_since(*before).as_secs_f64())
}

/// A QEMU is killed: until the guest has another one whose vCPUs run.
pub fn kill_qemu(cluster: &Cluster, guest: &Guest) -> Result<f64> {
    let host = owner(cluster, &guest.name)?;
    let old = cluster.lab.host_named(&host)?.qemus()?[&guest.uuid];
    let begun = Instant::now();
    kill(Pid::from_raw(old), Signal::SIGKILL)?;
    let back = loop {
        let mut qemus = cluster.lab.qemus()?.into_iter();
        let new = qemus.find(|(uuid, _, pid)| *uuid == guest.uuid && *pid != old);
        if let Some((_, host, pid)) = new
            && cluster.lab.host_named(&host)?.vcpus_run(&guest.name, pid)
        {
            break begun.elapsed().as_secs_f64();
        }
        ensure!(begun.elapsed() < PATIENCE, "{} did not come back", guest.name);
        std::thread::sleep(POLL);
    };
    cluster.wait_vm(&guest.name, "started", None)?;
    cluster.wait_counting(guest)?;
    Ok(back)
}

/// Where a VM is.
pub fn owner(cluster: &Cluster, vm: &str) -> Result<String> {
    let found = cluster.vm(vm)?["owner"].as_str().map(str::to_owned);
    found.with_context(|| format!("{vm} has no owner"))
}
