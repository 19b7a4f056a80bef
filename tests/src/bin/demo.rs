//! `make demo` and `make lab`: the story of Berth, on real libvirt and QEMU.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use tests::cluster::{Cluster, Fencing, PATIENCE};
use tests::lab::guest::Guest;
use tests::lab::{self, Options};

/// Shows Berth at work in a lab of three replicas and three hosts.
#[derive(Parser)]
struct Arguments {
    /// Leave the cluster up to play with, until Ctrl-C.
    #[arg(long)]
    stay: bool,
    /// Hypervisor hosts.
    #[arg(long, default_value_t = 3)]
    hosts: usize,
    /// Replicas.
    #[arg(long, default_value_t = 3)]
    replicas: usize,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // The lab's outer half only waits; its own process number is how others find the way in.
    lab::enter()?;
    let begun = Instant::now();
    chapter(&format!(
        "Booting {} hosts with a libvirtd each, and {} replicas",
        arguments.hosts, arguments.replicas
    ));
    let options = Options { hosts: arguments.hosts, replicas: arguments.replicas };
    let mut cluster = Cluster::start(&options, Fencing::Agent)?;
    took("the cluster is up", begun);
    if arguments.stay { stay(&cluster) } else { story(&mut cluster) }
}

fn chapter(text: &str) {
    println!("\n\x1b[1m▶ {text}\x1b[0m");
}

fn took(what: &str, begun: Instant) {
    println!("  \x1b[32m✔\x1b[0m {what} — {:.2} s", begun.elapsed().as_secs_f64());
}

fn show(cluster: &Cluster, arguments: &[&str]) -> Result<()> {
    println!("  \x1b[36m$ berthctl {}\x1b[0m", arguments.join(" "));
    let text = cluster.ctl(arguments)?;
    for line in text.lines() {
        println!("    {line}");
    }
    Ok(())
}

/// With its own standard error, so that its progress bar is seen.
fn show_live(cluster: &Cluster, arguments: &[&str]) -> Result<()> {
    println!("  \x1b[36m$ berthctl {}\x1b[0m", arguments.join(" "));
    std::io::stdout().flush()?;
    let status = cluster.ctl_command(arguments)?.status()?;
    ensure!(status.success(), "berthctl {} failed: {status}", arguments.join(" "));
    Ok(())
}

fn story(cluster: &mut Cluster) -> Result<()> {
    chapter("Three virtual machines come under management, and are enabled");
    let mut guests = Vec::new();
    for name in ["web", "mail", "files"] {
        guests.push(cluster.add_guest(name)?);
        let begun = Instant::now();
        cluster.ctl(&["enable", name])?;
        took(&format!("{name} is started"), begun);
    }
    for guest in &guests {
        cluster.wait_counting(guest)?;
    }
    show(cluster, &["status"])?;

    chapter("web moves to another host while it runs");
    let from = owner(cluster, "web")?;
    let to = cluster
        .lab
        .hosts()
        .map(|host| host.name.clone())
        .find(|name| *name != from)
        .context("one host only")?;
    let begun = Instant::now();
    show_live(cluster, &["migrate", "web", "--to", &to])?;
    took(&format!("web went from {from} to {to}, and its counter goes on"), begun);
    cluster.wait_counting(&guests[0])?;
    one_place(cluster, &guests)?;

    chapter("The leader is killed");
    let leader = cluster.leader()?;
    let begun = Instant::now();
    cluster.kill_replica(leader)?;
    let next = cluster.leader()?;
    took(&format!("replica {leader} is dead, replica {next} leads; no guest noticed"), begun);
    cluster.start_replica(leader)?;
    one_place(cluster, &guests)?;

    chapter("A QEMU is killed");
    let place = owner(cluster, "mail")?;
    let begun = Instant::now();
    let old = cluster.lab.host_named(&place)?.qemus()?[&guests[1].uuid];
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(old), Signal::SIGKILL)?;
    new_qemu(cluster, &guests[1], Some(old))?;
    took(&format!("mail is back on {}", owner(cluster, "mail")?), begun);
    cluster.wait_vm("mail", "started", None)?;

    chapter("A host loses its power, with web on it");
    let lost = owner(cluster, "web")?;
    let victims: Vec<Guest> = guests
        .iter()
        .filter(|guest| owner(cluster, &guest.name).is_ok_and(|place| place == lost))
        .cloned()
        .collect();
    let begun = Instant::now();
    cluster.lab.host_named(&lost)?.power_cut()?;
    for guest in &victims {
        new_qemu(cluster, guest, None)?;
        took(&format!("{} runs again", guest.name), begun);
    }
    for guest in &victims {
        cluster.wait_vm(&guest.name, "started", None)?;
        cluster.wait_counting(guest)?;
        took(&format!("{} counts again on {}", guest.name, owner(cluster, &guest.name)?), begun);
    }
    one_place(cluster, &guests)?;
    show(cluster, &["status"])?;
    show(cluster, &["events", "--node", &lost])?;

    chapter("The host comes back");
    let begun = Instant::now();
    cluster.lab.host_named(&lost)?.power_on()?;
    cluster.wait("the host to be online", |status| {
        status["nodes"]
            .as_array()
            .is_some_and(|nodes| nodes.iter().all(|node| node["state"] == "online"))
    })?;
    took(&format!("{lost} is online"), begun);

    chapter("All is shut down in good order");
    for guest in &guests {
        let begun = Instant::now();
        cluster.ctl(&["disable", &guest.name])?;
        took(&format!("{} is down", guest.name), begun);
        let count = guest.count()?.context("it never counted")?;
        ensure!(count.strangers == 0, "{} found strange writes on its disk", guest.name);
        ensure!(cluster.where_runs(guest.uuid)?.is_empty(), "{} still runs", guest.name);
    }
    println!("\n\x1b[1;32mNo machine ran twice, and none stayed down.\x1b[0m");
    Ok(())
}

fn owner(cluster: &Cluster, vm: &str) -> Result<String> {
    cluster.vm(vm)?["owner"]
        .as_str()
        .map(str::to_owned)
        .with_context(|| format!("{vm} has no owner"))
}

fn one_place(cluster: &Cluster, guests: &[Guest]) -> Result<()> {
    for guest in guests {
        let places = cluster.where_runs(guest.uuid)?;
        ensure!(places.len() == 1, "{} runs on {places:?}", guest.name);
    }
    Ok(())
}

/// Waits until the kernel shows a QEMU of this guest other than the old one.
fn new_qemu(cluster: &Cluster, guest: &Guest, old: Option<i32>) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        for host in cluster.lab.hosts().filter(|host| host.is_on()) {
            if host.qemus()?.get(&guest.uuid).is_some_and(|process| Some(*process) != old) {
                return Ok(());
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    anyhow::bail!("{} did not come back", guest.name)
}

fn stay(cluster: &Cluster) -> Result<()> {
    for name in ["web", "mail", "files"] {
        cluster.add_guest(name)?;
        cluster.ctl(&["enable", name])?;
    }
    show(cluster, &["status"])?;
    let program = lab::binary("berthctl")?;
    let servers: Vec<_> =
        (1..=cluster.lab.replicas()).map(|number| cluster.replica_endpoint(number)).collect();
    println!("\nThe lab is up. From another terminal, as root:");
    // The lab's first process is the only one whose command line begins with a path: the others run it through something.
    println!(
        "  lab() {{ nsenter --target $(pgrep -nf '^/.*/demo --stay') --mount --net --pid -- \"$@\"; }}"
    );
    println!("  export BERTH_SERVERS={}", servers.join(","));
    println!("  lab {} status", program.display());
    println!("  lab ip netns list                      # the hosts and replicas");
    println!("Logs and disks are in {}. Ctrl-C ends it all.", cluster.lab.directory().display());
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    signals.wait()?;
    Ok(())
}
