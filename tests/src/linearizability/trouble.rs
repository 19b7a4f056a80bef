//! What befalls replicas: kill -9, SIGSTOP, a cable that is pulled, and words that do not get through between two of them
//! while clients still reach both.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use fastrand::Rng;
use nix::sys::signal::Signal;

use crate::cluster::Cluster;
use crate::lab;

/// So short that whoever was killed, or stopped, is back before the others stand for election.
const BLINK_MS: std::ops::Range<u64> = 0..60;
/// Up to more than three elections and the servers' own time-outs for reads.
const LASTS_MS: std::ops::Range<u64> = 60..2_500;
/// Between two troubles; often too short for a new leader.
const PAUSE_MS: std::ops::Range<u64> = 0..1_200;

/// One trouble. Replicas are numbered from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// kill -9, and started again at the end.
    Kill(usize),
    /// All at once.
    KillAll,
    /// SIGSTOP, and SIGCONT at the end: time passes and it does not know.
    Stop(usize),
    /// Cut off from everybody.
    Unplug(usize),
    /// Cut off from the other replicas, and not from clients.
    Isolate(usize),
    /// Two of them cannot speak to each other.
    Part(usize, usize),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(replica) => write!(f, "kill {replica}"),
            Self::KillAll => write!(f, "kill all"),
            Self::Stop(replica) => write!(f, "stop {replica}"),
            Self::Unplug(replica) => write!(f, "unplug {replica}"),
            Self::Isolate(replica) => write!(f, "isolate {replica}"),
            Self::Part(one, other) => write!(f, "part {one} {other}"),
        }
    }
}

impl Trouble {
    /// One or two that can be had together.
    fn pick(random: &mut Rng, replicas: usize) -> Vec<Self> {
        let mut victims: Vec<usize> = (1..=replicas).collect();
        random.shuffle(&mut victims);
        let (one, other) = (victims[0], victims[1]);
        match random.u8(0..12) {
            0 => return vec![Self::KillAll],
            1 | 2 => return vec![Self::Part(one, other)],
            _ => {}
        }
        let count = if random.u8(0..4) == 0 { 2 } else { 1 };
        let of_one = |victim| match random.u8(0..4) {
            0 => Self::Kill(victim),
            1 => Self::Stop(victim),
            2 => Self::Unplug(victim),
            _ => Self::Isolate(victim),
        };
        victims.into_iter().take(count).map(of_one).collect()
    }

    /// Begins it.
    pub fn begin(&self, cluster: &mut Cluster) -> Result<()> {
        match self {
            Self::Kill(replica) => cluster.kill_replica(*replica),
            Self::KillAll => {
                (1..=cluster.lab.replicas()).try_for_each(|replica| cluster.kill_replica(replica))
            }
            Self::Stop(replica) => cluster.replica(*replica)?.signal(Signal::SIGSTOP),
            Self::Unplug(replica) => cluster.lab.replica_link(*replica, false),
            Self::Isolate(_) | Self::Part(..) => self.block(cluster, "add"),
        }
    }

    /// Ends it.
    pub fn end(&self, cluster: &mut Cluster) -> Result<()> {
        match self {
            Self::Kill(replica) => cluster.start_replica(*replica),
            Self::KillAll => {
                (1..=cluster.lab.replicas()).try_for_each(|replica| cluster.start_replica(replica))
            }
            Self::Stop(replica) => cluster.replica(*replica)?.signal(Signal::SIGCONT),
            Self::Unplug(replica) => cluster.lab.replica_link(*replica, true),
            Self::Isolate(_) | Self::Part(..) => self.block(cluster, "del"),
        }
    }

    /// Who sends nothing to another is not answered by it either: no connection comes about or goes on.
    fn block(&self, cluster: &Cluster, word: &str) -> Result<()> {
        let all = 1..=cluster.lab.replicas();
        let (from, others): (usize, Vec<usize>) = match self {
            Self::Isolate(from) => (*from, all.filter(|other| other != from).collect()),
            Self::Part(from, to) => (*from, vec![*to]),
            _ => return Ok(()),
        };
        let namespace = format!("replica{from}");
        others.into_iter().try_for_each(|other| {
            let address = format!("{}/32", cluster.lab.replica_address(other));
            let words = ["-n", &namespace, "route", word, "blackhole", &address];
            lab::run("ip", &words).map(drop)
        })
    }
}

/// Makes trouble until a moment, and ends all of it; says what there was.
pub fn make(cluster: &mut Cluster, random: &mut Rng, until: Instant) -> Result<Vec<Trouble>> {
    let mut all = Vec::new();
    while Instant::now() < until {
        all_run(cluster)?;
        let troubles = Trouble::pick(random, cluster.lab.replicas());
        let span = if random.bool() { BLINK_MS } else { LASTS_MS };
        let lasts = Duration::from_millis(random.u64(span));
        let pause = Duration::from_millis(random.u64(PAUSE_MS));
        troubles.iter().try_for_each(|trouble| trouble.begin(cluster))?;
        std::thread::sleep(lasts);
        troubles.iter().try_for_each(|trouble| trouble.end(cluster))?;
        all.extend(troubles);
        std::thread::sleep(pause);
    }
    all_run(cluster)?;
    Ok(all)
}

/// Whoever ended, and not by our hand, has lost more than a connection.
fn all_run(cluster: &Cluster) -> Result<()> {
    for number in 1..=cluster.lab.replicas() {
        let replica = cluster.replica(number)?;
        if !replica.is_running() {
            let log = std::fs::read_to_string(&replica.log).unwrap_or_default();
            let last: Vec<_> = log.lines().rev().take(5).collect();
            ensure!(false, "replica {number} ended by itself: {last:?}");
        }
    }
    Ok(())
}
