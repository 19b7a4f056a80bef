//! The law on real libvirt and QEMU while things break: a table of deaths during migrations, and faults by chance.
//!
//! The judge is the guests' own disks: each guest counts there, notices a count that it did not write, and goes on from
//! what is there. Nobody takes a step by hand: what restarts agents, libvirtd and replicas stands for their service
//! managers, and the power that comes back for the end of an outage.

pub mod crash_table;
pub mod random;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::Value;
use uuid::Uuid;

use crate::cluster::{Cluster, find};
use crate::lab::guest::Guest;

const POLL: Duration = Duration::from_millis(100);
/// After the last fault: longer than any retry and back-off of Berth's, on a machine that is busy.
const SETTLES_WITHIN: Duration = Duration::from_secs(150);

/// No disk has had two writers, and no count has gone back.
pub struct Judge {
    guests: Vec<Guest>,
    counters: BTreeMap<Uuid, u32>,
}

impl Judge {
    /// Over these guests.
    pub fn new(guests: &[Guest]) -> Self {
        Self { guests: guests.to_vec(), counters: BTreeMap::new() }
    }

    /// To be asked again and again.
    pub fn look(&mut self) -> Result<()> {
        for guest in &self.guests {
            let Some(count) = guest.count()? else { continue };
            let before = self.counters.insert(guest.uuid, count.counter).unwrap_or(0);
            ensure!(count.strangers == 0, "{} has had two writers: {count:?}", guest.name);
            ensure!(count.counter >= before, "{} went back from {before}: {count:?}", guest.name);
        }
        Ok(())
    }

    /// Watches for a while.
    pub fn watch(&mut self, span: Duration) -> Result<()> {
        let end = Instant::now() + span;
        loop {
            self.look()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(POLL));
        }
    }

    /// Watches until every guest is started, runs in one place by the kernel's word, may run nowhere else, and counts.
    pub fn wait_settled(&mut self, cluster: &Cluster) -> Result<()> {
        let end = Instant::now() + SETTLES_WITHIN;
        let before = self.counters.clone();
        loop {
            self.watch(POLL)?;
            let unsettled = self.unsettled(cluster, &before);
            match unsettled {
                None => return Ok(()),
                Some(why) if Instant::now() > end => {
                    let events = cluster.ctl(&["events"])?;
                    bail!("{why}\n{}\n{events}", cluster.ctl(&["status"])?)
                }
                Some(_) => {}
            }
        }
    }

    fn unsettled(&self, cluster: &Cluster, before: &BTreeMap<Uuid, u32>) -> Option<String> {
        let status = match cluster.status() {
            Ok(status) => status,
            Err(error) => return Some(format!("{error:#}")),
        };
        self.guests.iter().find_map(|guest| {
            let vm = find(&status, &guest.name)?;
            let running = cluster.where_runs(guest.uuid).ok()?;
            let counted = self.counters.get(&guest.uuid) > before.get(&guest.uuid);
            let settled = vm["state"] == "started"
                && running.len() == 1
                && vm["owner"] == running[0].as_str()
                && vm["may_run"] == Value::from(running.clone())
                && vm["progress"].is_null();
            (!settled || !counted).then(|| {
                format!(
                    "{} is not settled: runs on {running:?}, counts: {counted}; {vm}",
                    guest.name
                )
            })
        })
    }
}
