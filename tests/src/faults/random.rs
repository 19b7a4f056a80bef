//! Faults by chance, one after the other and over each other. One seed decides everything but the machine's own timing.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fastrand::Rng;
use nix::sys::signal::Signal;

use super::Judge;
use crate::cluster::{Cluster, Fencing, node_is};
use crate::lab::control::say;
use crate::lab::guest::Guest;
use crate::lab::trouble::Frozen;
use crate::lab::{Host, Options};

const HOSTS: usize = 4;
const REPLICAS: usize = 3;
/// Fast enough to come to an end within a fault or two, slow enough to be hit.
const SLOW_KBIT: u32 = 2_000;
/// Faults last up to longer than a lease and a watchdog together.
const LASTS_MS: std::ops::Range<u64> = 200..7_000;
/// Until the next one; faults overlap.
const PAUSE_MS: std::ops::Range<u64> = 0..4_000;
/// With three of four hosts in trouble the brake on mass losses would wait for a human, as it should.
const HOSTS_AT_ONCE: usize = 2;

/// What is broken. Replicas are numbered from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The power fails, and comes back.
    Power(String),
    /// The cable is pulled.
    Cable(String),
    /// Every process of the host stands still.
    Freeze(String),
    /// The agent is killed.
    AgentKilled(String),
    /// The agent hangs.
    AgentHangs(String),
    /// libvirtd is killed.
    LibvirtdKilled(String),
    /// libvirtd hangs.
    LibvirtdHangs(String),
    /// A replica is killed; 0 is the leader at that moment.
    ReplicaKilled(usize),
    /// A replica is cut off from everybody.
    ReplicaCut(usize),
    /// A replica stands still.
    ReplicaHangs(usize),
    /// A guest's QEMU is killed.
    QemuKilled(usize),
    /// No fence device answers.
    FencesDark,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Power(host) => write!(f, "{host} loses its power"),
            Self::Cable(host) => write!(f, "{host} is cut off"),
            Self::Freeze(host) => write!(f, "{host} stands still"),
            Self::AgentKilled(host) => write!(f, "the agent of {host} is killed"),
            Self::AgentHangs(host) => write!(f, "the agent of {host} hangs"),
            Self::LibvirtdKilled(host) => write!(f, "the libvirtd of {host} is killed"),
            Self::LibvirtdHangs(host) => write!(f, "the libvirtd of {host} hangs"),
            Self::ReplicaKilled(0) => write!(f, "the leader is killed"),
            Self::ReplicaKilled(number) => write!(f, "replica {number} is killed"),
            Self::ReplicaCut(number) => write!(f, "replica {number} is cut off"),
            Self::ReplicaHangs(number) => write!(f, "replica {number} stands still"),
            Self::QemuKilled(guest) => write!(f, "the QEMU of vm{guest} is killed"),
            Self::FencesDark => write!(f, "the fence devices are dark"),
        }
    }
}

/// A fault that is going on, and how it ends.
struct Ongoing {
    fault: Fault,
    ends: Instant,
    frozen: Option<Frozen>,
    replica: Option<usize>,
}

/// What a run came to.
#[derive(Debug)]
pub struct Verdict {
    /// How many migrations were begun.
    pub migrations: usize,
    /// From the end of the last fault until all was well.
    pub settled_after: Duration,
    /// What every guest has counted.
    pub counted: u64,
}

/// So many faults on four hosts, three replicas and so many guests.
pub fn run(seed: u64, faults: usize, guests: usize) -> Result<Verdict> {
    println!("seed {seed}: {faults} faults, {guests} guests");
    Run::boot(seed, guests)?.run(faults)
}

struct Run {
    random: Rng,
    cluster: Cluster,
    guests: Vec<Guest>,
    judge: Judge,
    ongoing: Vec<Ongoing>,
    begun: Instant,
    migrations: usize,
}

impl Run {
    fn boot(seed: u64, guests: usize) -> Result<Self> {
        let options = Options { hosts: HOSTS, replicas: REPLICAS };
        let cluster = Cluster::start(&options, Fencing::Both)?;
        cluster.lab.start_service_managers();
        for host in cluster.lab.hosts() {
            cluster.ctl(&["node", "policy", &host.name, "--after-fence", "power-on/60"])?;
        }
        let guests: Vec<Guest> = (1..=guests)
            .map(|number| cluster.add_guest(&format!("vm{number}")))
            .collect::<Result<_>>()?;
        for guest in &guests {
            cluster.ctl(&["enable", &guest.name, "--no-wait"])?;
        }
        for host in cluster.lab.hosts() {
            host.slow_migrations(SLOW_KBIT)?;
        }
        let mut judge = Judge::new(&guests);
        judge.wait_settled(&cluster)?;
        let (random, begun) = (Rng::with_seed(seed), Instant::now());
        Ok(Self { random, cluster, guests, judge, ongoing: Vec::new(), begun, migrations: 0 })
    }

    fn run(mut self, faults: usize) -> Result<Verdict> {
        for number in 1..=faults {
            self.migrate();
            let fault = self.pick();
            let lasts = Duration::from_millis(self.random.u64(LASTS_MS));
            self.say(&format!("{number:>3}. {fault}, for {:.1} s", lasts.as_secs_f64()));
            self.begin(fault, lasts)?;
            let pause = Duration::from_millis(self.random.u64(PAUSE_MS));
            self.pass(Instant::now() + pause)?;
        }
        while let Some(last) = self.ongoing.iter().map(|ongoing| ongoing.ends).max() {
            self.pass(last)?;
        }
        self.say("the last fault is over");
        let over = Instant::now();
        // What was fenced or bitten while its own fault was long over: power comes back, as it does.
        self.power()?;
        self.cluster.wait("all hosts to be back", |status| {
            (1..=HOSTS).all(|number| node_is(status, &format!("node{number}"), "online"))
        })?;
        self.judge.wait_settled(&self.cluster)?;
        let settled_after = over.elapsed();
        self.say(&format!("all is well after {:.1} s", settled_after.as_secs_f64()));
        let mut counted = 0;
        for guest in &self.guests {
            counted += u64::from(guest.count()?.context("it never counted")?.counter);
        }
        Ok(Verdict { migrations: self.migrations, settled_after, counted })
    }

    fn say(&self, what: &str) {
        println!("{:>7.1} s  {what}", self.begun.elapsed().as_secs_f64());
    }

    /// Time passes: faults that are over end, hosts that were switched off meanwhile get their power back, and the
    /// judge looks.
    fn pass(&mut self, until: Instant) -> Result<()> {
        loop {
            let now = Instant::now();
            let (over, ongoing) =
                std::mem::take(&mut self.ongoing).into_iter().partition(|it| it.ends <= now);
            self.ongoing = ongoing;
            for ongoing in over {
                self.end(ongoing)?;
            }
            self.judge.look()?;
            if now >= until {
                return Ok(());
            }
            std::thread::sleep(super::POLL.min(until.saturating_duration_since(now)));
        }
    }

    /// Hosts that are off and in no fault are switched on, as a watchdog's reset does.
    fn power(&mut self) -> Result<()> {
        for host in self.cluster.lab.hosts().filter(|host| !host.is_on()) {
            power_on(host)?;
        }
        Ok(())
    }

    /// A migration that may be hit. Most are refused while much is broken; that is as it should be.
    fn migrate(&mut self) {
        let guest = self.random.usize(0..self.guests.len());
        let target = format!("node{}", self.random.usize(1..=HOSTS));
        let name = self.guests[guest].name.clone();
        let words = ["migrate", &name, "--to", &target, "--no-wait", "--timeout", "1s"];
        if self.cluster.ctl(&words).is_ok() {
            self.migrations += 1;
            self.say(&format!("     {name} migrates to {target}"));
        }
    }

    fn pick(&mut self) -> Fault {
        let busy = self.busy_hosts();
        let free: Vec<String> = self
            .cluster
            .lab
            .hosts()
            .map(|host| host.name.clone())
            .filter(|name| !busy.contains(name))
            .collect();
        let replica_busy = self.ongoing.iter().any(|it| it.replica.is_some());
        loop {
            let host = free[self.random.usize(0..free.len())].clone();
            let replica = self.random.usize(1..=REPLICAS);
            let fault = match self.random.u8(0..14) {
                0 | 1 => Fault::Power(host),
                2 | 3 => Fault::Cable(host),
                4 => Fault::Freeze(host),
                5 => Fault::AgentKilled(host),
                6 => Fault::AgentHangs(host),
                7 => Fault::LibvirtdKilled(host),
                8 => Fault::LibvirtdHangs(host),
                9 => Fault::ReplicaKilled(0),
                10 => Fault::ReplicaKilled(replica),
                11 if self.random.bool() => Fault::ReplicaCut(replica),
                11 => Fault::ReplicaHangs(replica),
                12 => Fault::QemuKilled(self.random.usize(1..=self.guests.len())),
                _ => Fault::FencesDark,
            };
            let possible = match &fault {
                Fault::ReplicaKilled(_) | Fault::ReplicaCut(_) | Fault::ReplicaHangs(_) => {
                    !replica_busy
                }
                Fault::QemuKilled(_) => true,
                Fault::FencesDark => !self.ongoing.iter().any(|it| it.fault == fault),
                _ => busy.len() < HOSTS_AT_ONCE,
            };
            if possible {
                return fault;
            }
        }
    }

    /// Hosts in a fault, or without power for an earlier one.
    fn busy_hosts(&self) -> BTreeSet<String> {
        let mut busy: BTreeSet<String> =
            self.ongoing.iter().filter_map(|it| it.fault.host()).collect();
        let off = self.cluster.lab.hosts().filter(|host| !host.is_on());
        busy.extend(off.map(|host| host.name.clone()));
        busy
    }

    fn begin(&mut self, fault: Fault, lasts: Duration) -> Result<()> {
        let (mut frozen, mut replica) = (None, None);
        let host = match fault.host() {
            Some(name) => Some(self.cluster.lab.host_named(&name)?.clone()),
            None => None,
        };
        let host = |what: &dyn Fn(&Host) -> Result<()>| match &host {
            // One that is just losing its power has nothing to signal.
            Some(host) => {
                what(host).or_else(|error| if host.is_on() { Err(error) } else { Ok(()) })
            }
            None => Ok(()),
        };
        match &fault {
            Fault::Power(_) => host(&|host| host.power_cut())?,
            Fault::Cable(_) => host(&|host| host.link(false))?,
            Fault::Freeze(name) => frozen = self.cluster.lab.host_named(name)?.freeze().ok(),
            Fault::AgentKilled(_) => host(&|host| signal_agent(host, Signal::SIGKILL))?,
            Fault::AgentHangs(_) => host(&|host| signal_agent(host, Signal::SIGSTOP))?,
            // Whether it has just ended by itself is not this fault's business.
            Fault::LibvirtdKilled(_) => host(&|host| host.kill_libvirtd().or(Ok(())))?,
            Fault::LibvirtdHangs(_) => {
                host(&|host| host.signal_libvirtd(Signal::SIGSTOP).or(Ok(())))?;
            }
            Fault::ReplicaKilled(number) => {
                let number =
                    if *number == 0 { self.cluster.leader().unwrap_or(1) } else { *number };
                self.cluster.kill_replica(number)?;
                replica = Some(number);
            }
            Fault::ReplicaCut(number) => {
                self.cluster.lab.replica_link(*number, false)?;
                replica = Some(*number);
            }
            Fault::ReplicaHangs(number) => {
                self.cluster.replica(*number)?.signal(Signal::SIGSTOP)?;
                replica = Some(*number);
            }
            Fault::QemuKilled(guest) => {
                let uuid = self.guests[*guest - 1].uuid;
                let qemus = self.cluster.lab.qemus()?;
                if let Some((_, _, pid)) = qemus.into_iter().find(|(it, ..)| *it == uuid) {
                    let _ =
                        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
            Fault::FencesDark => drop(say(&self.cluster.lab.control_socket(), "dark on")?),
        }
        self.ongoing.push(Ongoing { fault, ends: Instant::now() + lasts, frozen, replica });
        Ok(())
    }

    fn end(&mut self, ongoing: Ongoing) -> Result<()> {
        let Ongoing { fault, frozen, replica, .. } = ongoing;
        self.say(&format!("     over: {fault}"));
        if let Some(name) = fault.host() {
            let host = self.cluster.lab.host_named(&name)?.clone();
            match &fault {
                Fault::Cable(_) if host.is_on() => host
                    .link(true)
                    .or_else(|error| if host.is_on() { Err(error) } else { Ok(()) })?,
                Fault::AgentHangs(_) => drop(signal_agent(&host, Signal::SIGCONT)),
                Fault::LibvirtdHangs(_) => drop(host.signal_libvirtd(Signal::SIGCONT)),
                _ => {}
            }
            if let Some(frozen) = frozen {
                host.thaw(frozen);
            }
            if !host.is_on() {
                power_on(&host)?;
            }
        }
        match (&fault, replica) {
            (Fault::ReplicaKilled(_), Some(number)) => self.cluster.start_replica(number),
            (Fault::ReplicaCut(_), Some(number)) => self.cluster.lab.replica_link(number, true),
            (Fault::ReplicaHangs(_), Some(number)) => {
                self.cluster.replica(number)?.signal(Signal::SIGCONT)
            }
            (Fault::FencesDark, _) => say(&self.cluster.lab.control_socket(), "dark off").map(drop),
            _ => Ok(()),
        }
    }
}

impl Fault {
    fn host(&self) -> Option<String> {
        match self {
            Self::Power(host)
            | Self::Cable(host)
            | Self::Freeze(host)
            | Self::AgentKilled(host)
            | Self::AgentHangs(host)
            | Self::LibvirtdKilled(host)
            | Self::LibvirtdHangs(host) => Some(host.clone()),
            Self::ReplicaKilled(_)
            | Self::ReplicaCut(_)
            | Self::ReplicaHangs(_)
            | Self::QemuKilled(_)
            | Self::FencesDark => None,
        }
    }
}

/// A fence that was asked for earlier may take its power again at once: then there is nothing to slow down.
fn power_on(host: &Host) -> Result<()> {
    host.power_on()?;
    if let Err(error) = host.slow_migrations(SLOW_KBIT) {
        println!("           {} is off again: {error:#}", host.name);
    }
    Ok(())
}

fn signal_agent(host: &Host, signal: Signal) -> Result<()> {
    host.with_service("agent", |agent| agent.signal(signal))
}
