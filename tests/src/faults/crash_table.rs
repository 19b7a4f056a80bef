//! Deaths during a live migration, one at a time and in pairs.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::Judge;
use crate::cluster::{Cluster, Fencing, find, node_is};
use crate::lab::Options;
use crate::lab::guest::Guest;

/// So slow that a guest of half a megabyte that is not zero takes many seconds.
const SLOW_KBIT: u32 = 400;
/// A service manager's pause before it starts a replica again (`deploy/systemd/berth-server.service`).
const REPLICA_BACK: Duration = Duration::from_secs(2);
/// How long the link between the two hosts is away: longer than a lease, and too short for libvirt's own keep-alive.
const LINK_BACK: Duration = Duration::from_secs(6);
/// With four hosts the loss of two is not yet a mass loss.
const HOSTS: usize = 4;

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    /// The source's agent.
    SourceAgent,
    /// The source's power.
    SourceHost,
    /// The target's agent.
    TargetAgent,
    /// The target's power.
    TargetHost,
    /// The leading replica.
    Leader,
    /// The link between source and target; both still reach everybody else.
    Link,
    /// The source's libvirtd.
    SourceLibvirtd,
    /// The target's libvirtd.
    TargetLibvirtd,
}

impl Victim {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::SourceAgent,
        Self::SourceHost,
        Self::TargetAgent,
        Self::TargetHost,
        Self::Leader,
        Self::Link,
        Self::SourceLibvirtd,
        Self::TargetLibvirtd,
    ];

    /// A host's death is that of all that runs on it.
    fn takes(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::SourceHost, Self::SourceAgent | Self::SourceLibvirtd)
                | (Self::TargetHost, Self::TargetAgent | Self::TargetLibvirtd)
        )
    }
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SourceAgent => "source agent",
            Self::SourceHost => "source host",
            Self::TargetAgent => "target agent",
            Self::TargetHost => "target host",
            Self::Leader => "leader",
            Self::Link => "link between the hosts",
            Self::SourceLibvirtd => "libvirtd on the source",
            Self::TargetLibvirtd => "libvirtd on the target",
        })
    }
}

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// While memory is copied.
    Copying,
    /// So many milliseconds after the brake on the copy is let go: about when the guest is handed over.
    Ending(u64),
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copying => write!(f, "copying"),
            Self::Ending(ms) => write!(f, "{ms} ms after the brake was let go"),
        }
    }
}

/// What a row came to.
#[derive(Debug)]
pub struct Outcome {
    /// In words.
    pub what: String,
    /// From the deaths until one guest ran and might run nowhere else.
    pub took: Duration,
}

/// Every death by itself.
pub fn singles() -> Vec<Vec<Victim>> {
    Victim::ALL.into_iter().map(|victim| vec![victim]).collect()
}

/// Every pair of deaths of which neither is part of the other.
pub fn pairs() -> Vec<Vec<Victim>> {
    let mut pairs = Vec::new();
    for (at, one) in Victim::ALL.into_iter().enumerate() {
        for other in Victim::ALL.into_iter().skip(at + 1) {
            if !one.takes(other) && !other.takes(one) {
                pairs.push(vec![one, other]);
            }
        }
    }
    pairs
}

/// The lab in which the table is made.
pub struct Stage {
    cluster: Cluster,
    guest: Guest,
    judge: Judge,
}

impl Stage {
    /// Boots it.
    pub fn boot() -> Result<Self> {
        let options = Options { hosts: HOSTS, replicas: 3 };
        let cluster = Cluster::start(&options, Fencing::Both)?;
        cluster.lab.start_service_managers();
        let guest = cluster.add_guest("g")?;
        cluster.ctl(&["enable", "g"])?;
        cluster.wait_counting(&guest)?;
        let judge = Judge::new(std::slice::from_ref(&guest));
        Ok(Self { cluster, guest, judge })
    }

    /// One row: a migration, the deaths, and what came of it.
    pub fn row(&mut self, victims: &[Victim], moment: Moment) -> Result<Outcome> {
        self.judge.wait_settled(&self.cluster)?;
        let source = self.cluster.where_runs(self.guest.uuid)?[0].clone();
        let names: Vec<String> = self.cluster.lab.hosts().map(|host| host.name.clone()).collect();
        let at = names.iter().position(|name| *name == source).context("an unknown host")?;
        let target = names[(at + 1) % names.len()].clone();
        let qemu = self.cluster.lab.host_named(&source)?.qemus()?[&self.guest.uuid];
        let leader = self.cluster.leader()?;
        for name in [&source, &target] {
            // One that was killed in the last row has to be back first.
            self.cluster.lab.host_named(name)?.wait_for_libvirtd()?;
        }
        self.cluster.lab.host_named(&source)?.slow_migrations(SLOW_KBIT)?;
        self.cluster.ctl(&["migrate", "g", "--to", &target, "--no-wait"])?;
        self.cluster.wait("memory to be copied", |status| {
            let vm = find(status, "g");
            vm.is_some_and(|vm| vm["progress"]["processed_bytes"].as_u64().unwrap_or(0) > 0)
        })?;
        if let Moment::Ending(ms) = moment {
            self.cluster.lab.host_named(&source)?.free_migrations();
            std::thread::sleep(Duration::from_millis(ms));
        }
        let target_qemus = self.cluster.lab.host_named(&target)?.qemus()?;
        let incoming = target_qemus.get(&self.guest.uuid).copied();
        let begun = Instant::now();
        for victim in victims {
            self.kill(*victim, &source, &target, leader)?;
        }
        // What still goes on may come to its end.
        self.cluster.lab.host_named(&source)?.free_migrations();
        self.come_back(victims, &source, &target, leader)?;
        self.judge.wait_settled(&self.cluster)?;
        let took = begun.elapsed();
        let place = self.cluster.where_runs(self.guest.uuid)?[0].clone();
        let now = self.cluster.lab.host_named(&place)?.qemus()?.get(&self.guest.uuid).copied();
        let what = match (place == source, place == target) {
            (true, _) if now == Some(qemu) => "stayed on the source",
            (true, _) => "started again on the source",
            (_, true) if now == incoming => "came through to the target",
            (_, true) => "started again on the target",
            _ => "started again on another host",
        };
        self.mend(victims, &source, &target)?;
        Ok(Outcome { what: what.to_owned(), took })
    }

    fn kill(&mut self, victim: Victim, source: &str, target: &str, leader: usize) -> Result<()> {
        let cluster = &mut self.cluster;
        let source_host = cluster.lab.host_named(source)?.clone();
        let target_host = cluster.lab.host_named(target)?.clone();
        let kill_agent = |host: &crate::lab::Host| {
            host.with_service("agent", |agent| agent.signal(Signal::SIGKILL))
        };
        match victim {
            Victim::SourceAgent => kill_agent(&source_host),
            Victim::TargetAgent => kill_agent(&target_host),
            Victim::SourceHost => source_host.power_cut(),
            Victim::TargetHost => target_host.power_cut(),
            Victim::Leader => cluster.kill_replica(leader),
            Victim::Link => source_host.link_to(&target_host, false),
            Victim::SourceLibvirtd => source_host.kill_libvirtd(),
            Victim::TargetLibvirtd => target_host.kill_libvirtd(),
        }
    }

    /// What comes back by itself. Agents and libvirtds do by the hosts' service managers; a host stays dark.
    fn come_back(
        &mut self,
        victims: &[Victim],
        source: &str,
        target: &str,
        leader: usize,
    ) -> Result<()> {
        let begun = Instant::now();
        if victims.contains(&Victim::Leader) {
            self.judge.watch(REPLICA_BACK)?;
            self.cluster.start_replica(leader)?;
        }
        if victims.contains(&Victim::Link) {
            self.judge.watch(LINK_BACK.saturating_sub(begun.elapsed()))?;
            let source = self.cluster.lab.host_named(source)?;
            // With a host went its end of the link.
            if !victims.iter().any(|it| matches!(it, Victim::SourceHost | Victim::TargetHost)) {
                source.link_to(self.cluster.lab.host_named(target)?, true)?;
            }
        }
        Ok(())
    }

    /// For the next row: the hosts have power again.
    fn mend(&mut self, victims: &[Victim], source: &str, target: &str) -> Result<()> {
        for name in [source, target] {
            let host = self.cluster.lab.host_named(name)?;
            if !host.is_on() {
                host.power_on()?;
            } else if victims.contains(&Victim::Link) {
                // The end that was left of a link whose other host was lost.
                let others: Vec<_> =
                    self.cluster.lab.hosts().filter(|it| it.name != name).collect();
                for other in others {
                    host.forget_cut(other);
                }
            }
        }
        self.cluster.wait("all hosts to be back", |status| {
            (1..=HOSTS).all(|number| node_is(status, &format!("node{number}"), "online"))
        })?;
        let replicas = self.cluster.lab.replicas();
        ensure!((1..=replicas).all(|number| self.cluster.replica(number).is_ok()));
        self.judge.look()
    }
}
