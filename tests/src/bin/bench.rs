//! `make bench`: figures of this machine, measured in the lab. Each is printed run by run, with its median; a comparison
//! is made in turn, in one run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::v1::control_client::ControlClient;
use proto::v1::submit_request::Operation;
use proto::v1::{FailoverDomain, SubmitRequest};
use tests::cluster::{Cluster, Fencing, PATIENCE};
use tests::lab::guest::Guest;
use tests::lab::{self, Options};
use uuid::Uuid;

const RUNS: usize = 5;
/// Fine enough for tenths of seconds.
const POLL: Duration = Duration::from_millis(2);
const LOAD: Duration = Duration::from_secs(5);

fn main() -> Result<()> {
    lab::enter()?;
    let mut cluster = Cluster::start(&Options { hosts: 3, replicas: 3 }, Fencing::Agent)?;
    let guest = cluster.add_guest("g")?;
    cluster.ctl(&["enable", "g"])?;
    cluster.wait_counting(&guest)?;
    memory(&cluster)?;
    commits(&cluster)?;
    migrations(&cluster, &guest)?;
    killed_qemus(&cluster, &guest)?;
    lost_hosts(&cluster, &guest)?;
    lost_leaders(&mut cluster)
}

fn print(what: &str, mut seconds: Vec<f64>) {
    let runs: Vec<_> = seconds.iter().map(|it| format!("{it:.2}")).collect();
    seconds.sort_by(f64::total_cmp);
    println!("{what}: {} s, median {:.2} s", runs.join(", "), seconds[seconds.len() / 2]);
}

fn owner(cluster: &Cluster) -> Result<String> {
    Ok(cluster.vm("g")?["owner"].as_str().context("no owner")?.to_owned())
}

fn other(cluster: &Cluster, than: &str) -> Result<String> {
    cluster
        .lab
        .hosts()
        .map(|host| host.name.clone())
        .find(|name| name != than)
        .context("one host only")
}

/// Waits for a QEMU of the guest other than the old one, by the kernel's word.
fn new_qemu(cluster: &Cluster, guest: &Guest, old: i32) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        for host in cluster.lab.hosts().filter(|host| host.is_on()) {
            if host.qemus()?.get(&guest.uuid).is_some_and(|process| *process != old) {
                return Ok(());
            }
        }
        std::thread::sleep(POLL);
    }
    anyhow::bail!("the guest did not come back")
}

fn memory(cluster: &Cluster) -> Result<()> {
    for number in 1..=cluster.lab.replicas() {
        println!(
            "memory of replica {number}: {} MiB resident",
            cluster.replica(number)?.memory_kib()? / 1024
        );
    }
    let agent = cluster.lab.host(1)?.with_service("agent", |agent| agent.memory_kib())?;
    println!("memory of an agent: {} MiB resident", agent / 1024);
    Ok(())
}

fn commits(cluster: &Cluster) -> Result<()> {
    let address = format!("http://{}", cluster.replica_endpoint(cluster.leader()?));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    for clients in [1u64, 64] {
        let done = Arc::new(AtomicU64::new(0));
        runtime.block_on(async {
            let channel = tonic::transport::Endpoint::from_shared(address.clone())?
                .tcp_nodelay(true)
                .connect()
                .await?;
            let load = (0..clients).map(|client| {
                let (mut control, done) = (ControlClient::new(channel.clone()), done.clone());
                tokio::spawn(async move {
                    let end = Instant::now() + LOAD;
                    while Instant::now() < end {
                        control.submit(domain(client)).await?;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok::<_, tonic::Status>(())
                })
            });
            for task in load.collect::<Vec<_>>() {
                task.await??;
            }
            Ok::<_, anyhow::Error>(())
        })?;
        let rate = done.load(Ordering::Relaxed) as f64 / LOAD.as_secs_f64();
        println!("durable commands on three replicas, {clients} clients: {rate:.0} a second");
    }
    Ok(())
}

fn domain(client: u64) -> SubmitRequest {
    let domain = FailoverDomain {
        name: format!("bench{client}"),
        nodes: [("node1".to_owned(), 1)].into(),
        ..FailoverDomain::default()
    };
    SubmitRequest {
        request_id: Uuid::new_v4().to_string(),
        operator: "bench".into(),
        expected_revision: None,
        operation: Some(Operation::PutFailoverDomain(domain)),
    }
}

fn migrations(cluster: &Cluster, guest: &Guest) -> Result<()> {
    let (mut berth, mut virsh) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let (from, to) = (owner(cluster)?, other(cluster, &owner(cluster)?)?);
        let begun = Instant::now();
        cluster.ctl(&["migrate", "g", "--to", &to])?;
        berth.push(begun.elapsed().as_secs_f64());
        cluster.wait_counting(guest)?;
        let uri = cluster.lab.host_named(&from)?.migration_uri();
        let begun = Instant::now();
        cluster
            .lab
            .host_named(&to)?
            .virsh(&["migrate", "--live", "--p2p", "--unsafe", "g", &uri])?;
        virsh.push(begun.elapsed().as_secs_f64());
        cluster.wait_vm("g", "started", Some(&from))?;
        cluster.wait_counting(guest)?;
    }
    print("berthctl migrate", berth);
    print("virsh migrate --live --p2p", virsh);
    Ok(())
}

fn killed_qemus(cluster: &Cluster, guest: &Guest) -> Result<()> {
    let mut seconds = Vec::new();
    // Three a minute cost no wait; the fourth would measure the brake on crash loops.
    for round in 0..RUNS {
        if round % 3 == 0 {
            // Enabled anew, the count begins anew.
            cluster.ctl(&["disable", "g"])?;
            cluster.ctl(&["enable", "g"])?;
            cluster.wait_counting(guest)?;
        }
        let old = cluster.lab.host_named(&owner(cluster)?)?.qemus()?[&guest.uuid];
        let begun = Instant::now();
        kill(Pid::from_raw(old), Signal::SIGKILL)?;
        new_qemu(cluster, guest, old)?;
        seconds.push(begun.elapsed().as_secs_f64());
        cluster.wait_vm("g", "started", None)?;
        cluster.wait_counting(guest)?;
    }
    print("QEMU killed to QEMU running", seconds);
    Ok(())
}

fn lost_hosts(cluster: &Cluster, guest: &Guest) -> Result<()> {
    let mut seconds = Vec::new();
    for _ in 0..RUNS {
        let lost = owner(cluster)?;
        let old = cluster.lab.host_named(&lost)?.qemus()?[&guest.uuid];
        let begun = Instant::now();
        cluster.lab.host_named(&lost)?.power_cut()?;
        new_qemu(cluster, guest, old)?;
        seconds.push(begun.elapsed().as_secs_f64());
        cluster.wait_vm("g", "started", None)?;
        cluster.wait_counting(guest)?;
        cluster.lab.host_named(&lost)?.power_on()?;
        cluster.wait("the host to be back", |status| {
            tests::cluster::node_is(status, &lost, "online")
        })?;
    }
    print("host power cut to QEMU running elsewhere", seconds);
    let count = guest.count()?.context("it never counted")?;
    ensure!(count.strangers == 0, "{} strange writes were found on its disk", count.strangers);
    println!("strange writes on the guest's disk: {}", count.strangers);
    Ok(())
}

fn lost_leaders(cluster: &mut Cluster) -> Result<()> {
    let mut seconds = Vec::new();
    for _ in 0..RUNS {
        let leader = cluster.leader()?;
        let begun = Instant::now();
        cluster.kill_replica(leader)?;
        cluster.ctl(&["failover-domain", "set", "after", "--node", "node1"])?;
        seconds.push(begun.elapsed().as_secs_f64());
        cluster.start_replica(leader)?;
        cluster.wait("all replicas to follow", |status| {
            status["replicas"].as_array().is_some_and(|all| {
                all.len() == 3
                    && all
                        .iter()
                        .all(|replica| replica["role"] == "leader" || replica["role"] == "follower")
            })
        })?;
    }
    print("leader killed to next command committed", seconds);
    Ok(())
}
