//! Migrations: how long they take, and how long the guest stands still, by its own count on its disk.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::loss::owner;
use crate::cluster::Cluster;
use crate::lab::guest::Guest;

const POLL: Duration = Duration::from_micros(500);

/// What a migration came to, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Migrated {
    /// Until `berthctl` or virsh said that it was done.
    pub took: f64,
    /// The longest time in which the guest did not count.
    pub pause: f64,
}

/// Migrates a guest to another host by `berthctl`, in this mode.
pub fn by_berth(cluster: &Cluster, guest: &Guest, mode: &str) -> Result<Migrated> {
    let to = other(cluster, &owner(cluster, &guest.name)?)?;
    measured(guest, || cluster.ctl(&["migrate", &guest.name, "--to", &to, mode]).map(drop))
}

/// The same by virsh; Berth follows.
pub fn by_virsh(cluster: &Cluster, guest: &Guest) -> Result<Migrated> {
    let from = owner(cluster, &guest.name)?;
    let to = other(cluster, &from)?;
    let uri = cluster.lab.host_named(&to)?.migration_uri();
    let host = cluster.lab.host_named(&from)?;
    let words = ["migrate", "--live", "--p2p", "--unsafe", &guest.name, &uri];
    let migrated = measured(guest, || host.virsh(&words).map(drop))?;
    cluster.wait_vm(&guest.name, "started", Some(&to))?;
    Ok(migrated)
}

fn other(cluster: &Cluster, than: &str) -> Result<String> {
    let mut names = cluster.lab.hosts().map(|host| host.name.clone());
    names.find(|name| name != than).context("one host only")
}

fn measured(guest: &Guest, migrate: impl FnOnce() -> Result<()>) -> Result<Migrated> {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| longest_pause(guest, &over));
        let begun = Instant::now();
        let migrated = migrate();
        let took = begun.elapsed().as_secs_f64();
        // Its first counts on the other host are part of it.
        std::thread::sleep(Duration::from_millis(300));
        over.store(true, Ordering::Relaxed);
        let pause = watcher.join().map_err(|_| anyhow::anyhow!("the watcher panicked"))??;
        migrated.map(|()| Migrated { took, pause })
    })
}

fn longest_pause(guest: &Guest, over: &AtomicBool) -> Result<f64> {
    let (mut last, mut since, mut longest) = (guest.count()?, Instant::now(), Duration::ZERO);
    while !over.load(Ordering::Relaxed) {
        let now = guest.count()?;
        if now != last {
            longest = longest.max(since.elapsed());
            (last, since) = (now, Instant::now());
        }
        std::thread::sleep(POLL);
    }
    Ok(longest.max(since.elapsed()).as_secs_f64())
}
