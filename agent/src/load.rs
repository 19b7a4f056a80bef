//! What guests use, by their QEMU processes: processor time between two looks, and the memory that they hold.
//!
//! From /proc and not from libvirt: it costs libvirt nothing, and goes on when that hangs. What is measured decides
//! nothing but where VMs weigh more (`model::plan::Load`); it is told with heartbeats and kept by the leader in memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use model::liveness::Measured;
use procfs::process::{Process, Stat};
use proto::v1::GuestLoad;
use tokio::time::MissedTickBehavior;
use tracing::debug;
use uuid::Uuid;

use crate::agent::lock;
use crate::clock::Reading;
use crate::hypervisor::libvirt::qemu_processes;

/// How often it is measured: a twelfth of the time after which the leader takes it for old, so that heartbeats may be lost.
const PERIOD: Duration = Duration::from_secs(10);
/// The processor time that is told is an average over about so long: a VM must not weigh more for one busy moment.
const MEMORY_MS: u64 = 60_000;

/// What was measured and goes with the next heartbeat.
pub type Loads = Arc<Mutex<Vec<GuestLoad>>>;

/// Measures for as long as the agent lives.
pub async fn measure(loads: Loads) {
    let mut gauge = Gauge::default();
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // A read that hangs in the kernel ends the measuring, and holds up nothing else.
        let looked = tokio::task::spawn_blocking(uses).await;
        match looked.map_err(io::Error::other).flatten() {
            Ok(uses) => {
                let told = |(uuid, it): (Uuid, Measured)| GuestLoad {
                    uuid: uuid.to_string(),
                    cpu_milli: it.cpu_milli,
                    memory_mib: it.memory_mib,
                };
                let measured = gauge.take(Reading::now(), uses);
                *lock(&loads) = measured.into_iter().map(told).collect();
            }
            Err(error) => debug!(%error, "guests cannot be measured now"),
        }
    }
}

/// What a guest's QEMU has used since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct GuestUse {
    uuid: Uuid,
    /// Its number and its start time, by which a number that came again is known.
    process: (i32, u64),
    cpu_ms: u64,
    memory_mib: u64,
}

fn uses() -> io::Result<Vec<GuestUse>> {
    // One that ends meanwhile has nothing to be read.
    let uses = qemu_processes()?.into_iter().filter_map(|(uuid, pid)| {
        let stat = Process::new(pid).and_then(|process| process.stat()).ok()?;
        Some(GuestUse::of(uuid, &stat, procfs::ticks_per_second(), procfs::page_size()))
    });
    Ok(uses.collect())
}

impl GuestUse {
    fn of(uuid: Uuid, stat: &Stat, ticks_per_second: u64, page_bytes: u64) -> Self {
        Self {
            uuid,
            process: (stat.pid, stat.starttime),
            cpu_ms: (stat.utime + stat.stime).saturating_mul(1_000) / ticks_per_second.max(1),
            memory_mib: stat.rss.saturating_mul(page_bytes) / (1 << 20),
        }
    }
}

/// One QEMU process at the last look.
#[derive(Debug, Clone, Copy)]
struct Last {
    process: (i32, u64),
    cpu_ms: u64,
    at: Reading,
    /// The average so far, in thousandths of a processor; none before the second look.
    cpu_milli: Option<u64>,
}

/// From what was used in all to what is used now.
#[derive(Debug, Default)]
struct Gauge {
    last: BTreeMap<Uuid, Last>,
}

impl Gauge {
    /// One look. A guest is told of from its second look on; one that is gone is forgotten.
    fn take(&mut self, now: Reading, uses: Vec<GuestUse>) -> Vec<(Uuid, Measured)> {
        let mut last = BTreeMap::new();
        let mut measured = Vec::new();
        for GuestUse { uuid, process, cpu_ms, memory_mib } in uses {
            // A restarted guest is another process, whose time begins at nothing.
            let before = self.last.get(&uuid).filter(|it| it.process == process).copied();
            let cpu_milli = before.and_then(|before| average(before, now, cpu_ms));
            if let Some(cpu_milli) = cpu_milli {
                measured.push((uuid, Measured { cpu_milli, memory_mib }));
            }
            last.insert(uuid, Last { process, cpu_ms, at: now, cpu_milli });
        }
        self.last = last;
        measured
    }
}

/// The average with what was used since; none where no time has passed.
fn average(before: Last, now: Reading, cpu_ms: u64) -> Option<u64> {
    let passed = now.since(before.at);
    let lately = cpu_ms.saturating_sub(before.cpu_ms).saturating_mul(1_000).checked_div(passed)?;
    let Some(known) = before.cpu_milli else { return Some(lately) };
    let weight = passed.min(MEMORY_MS);
    Some((known * (MEMORY_MS - weight) + lately * weight) / MEMORY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V: Uuid = Uuid::from_u128(1);
    const W: Uuid = Uuid::from_u128(2);

    fn at(seconds: u64) -> Reading {
        Reading { boot_ms: seconds * 1_000, raw_ms: seconds * 1_000 }
    }

    fn guest(uuid: Uuid, process: i32, cpu_ms: u64) -> GuestUse {
        GuestUse { uuid, process: (process, 7), cpu_ms, memory_mib: 512 }
    }

    fn told(uuid: Uuid, cpu_milli: u64) -> (Uuid, Measured) {
        (uuid, Measured { cpu_milli, memory_mib: 512 })
    }

    #[test]
    fn processor_time_is_told_as_an_average_from_the_second_look_on() {
        let mut gauge = Gauge::default();
        assert_eq!(gauge.take(at(0), vec![guest(V, 10, 90_000)]), []);
        // Half a processor over ten seconds.
        assert_eq!(gauge.take(at(10), vec![guest(V, 10, 95_000)]), [told(V, 500)]);
        // Two whole ones for ten seconds: a sixth of the minute.
        assert_eq!(gauge.take(at(20), vec![guest(V, 10, 115_000)]), [told(V, 750)]);
        // Idle for longer than a minute: nothing of it is left.
        assert_eq!(gauge.take(at(100), vec![guest(V, 10, 115_000)]), [told(V, 0)]);
    }

    #[test]
    fn a_guest_that_is_started_anew_or_goes_is_measured_anew() {
        let mut gauge = Gauge::default();
        gauge.take(at(0), vec![guest(V, 10, 90_000), guest(W, 11, 0)]);
        assert_eq!(
            gauge.take(at(10), vec![guest(V, 12, 10), guest(W, 11, 1_000)]),
            [told(W, 100)],
            "another process is another guest"
        );
        assert_eq!(gauge.take(at(20), vec![guest(V, 12, 1_010)]), [told(V, 100)]);
        assert_eq!(gauge.take(at(30), vec![guest(V, 12, 1_010), guest(W, 11, 9_000)]).len(), 1);
    }

    #[test]
    fn what_a_process_used_is_read_in_milliseconds_and_mebibytes() {
        let mut stat = Process::myself().unwrap().stat().unwrap();
        (stat.pid, stat.starttime, stat.utime, stat.stime, stat.rss) = (41, 7777, 250, 50, 131_072);
        let (process, cpu_ms, memory_mib) = ((41, 7777), 3_000, 512);
        let expected = GuestUse { uuid: V, process, cpu_ms, memory_mib };
        assert_eq!(GuestUse::of(V, &stat, 100, 4_096), expected);
    }

    #[test]
    fn a_clock_that_stands_still_measures_nothing() {
        let mut gauge = Gauge::default();
        gauge.take(at(5), vec![guest(V, 10, 0)]);
        assert_eq!(gauge.take(at(5), vec![guest(V, 10, 10)]), []);
        assert_eq!(gauge.take(at(6), vec![guest(V, 10, 60)]), [told(V, 50)]);
    }
}
