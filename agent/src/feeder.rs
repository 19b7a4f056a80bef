//! Feeds the watchdog a third of its time-out apart, while the lease holds or every guest that it binds is stopped.
//!
//! Beside the core's task: a disk that hangs under the ledger must not cost a host whose lease holds.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::agent::lock;
use crate::clock::Reading;
use crate::config::WatchdogConfig;
use crate::lease::Lease;
use crate::lease_file::LeaseFile;
use crate::watchdog::{self, Watchdog};
use model::sabotage::{Rule, off};

/// What the core said last.
#[derive(Debug, Clone, Copy)]
pub struct FeedState {
    /// The lease.
    pub lease: Lease,
    /// Every guest that the lease binds is stopped for sure.
    pub safe: bool,
    /// When that was so.
    pub at: Reading,
}

/// "Stopped for sure" is as old as this at the most: several of the core's steps.
const SAFE_FOR_MS: u64 = 1_000;

impl FeedState {
    /// Before the core has said anything.
    pub fn new(lease: Lease) -> Self {
        Self { lease, safe: false, at: Reading::default() }
    }

    fn may_feed(&self, now: Reading) -> bool {
        self.lease.holds(now)
            || (self.safe && now.since(self.at) < SAFE_FOR_MS)
            || off(Rule::WatchdogStarves)
    }
}

/// The task that feeds.
pub struct Feeder {
    bites_within_ms: u64,
    end: oneshot::Sender<()>,
    task: JoinHandle<Box<dyn Watchdog>>,
}

impl Feeder {
    /// How long the host may live on after it was fed last, however this process ends: what a proof by lease waits for.
    pub fn timeout_ms(&self) -> u64 {
        self.bites_within_ms
    }

    async fn end(self) -> Option<Box<dyn Watchdog>> {
        let _ = self.end.send(());
        self.task.await.ok()
    }

    /// Ends, and leaves the watchdog armed.
    pub async fn stop(self) {
        self.end().await;
    }

    /// Ends, and takes the watchdog out of service.
    pub async fn disarm(self) {
        let Some(mut watchdog) = self.end().await else { return };
        match watchdog.disarm() {
            Ok(()) => info!("the watchdog is disarmed"),
            Err(error) => warn!(%error, "the watchdog cannot be disarmed"),
        }
    }
}

/// Arms the watchdog and feeds it from now on.
pub fn start(
    config: &WatchdogConfig,
    state: Arc<Mutex<FeedState>>,
    file: LeaseFile,
) -> anyhow::Result<Feeder> {
    let mut watchdog = watchdog::arm(&config.path, config.timeout_ms)
        .with_context(|| format!("the watchdog {} cannot be armed", config.path.display()))?;
    let (timeout_ms, bites_within_ms) = (watchdog.timeout_ms(), watchdog.bites_within_ms());
    info!(path = %config.path.display(), timeout_ms, "the watchdog is armed");
    let mut feeds = tokio::time::interval(Duration::from_millis(timeout_ms / 3));
    let (end, mut ended) = oneshot::channel();
    let task = tokio::spawn(async move {
        let mut hungry = false;
        loop {
            tokio::select! {
                _ = feeds.tick() => {}
                _ = &mut ended => return watchdog,
            }
            let state = *lock(&state);
            file.write(state.lease);
            let may_feed = state.may_feed(Reading::now());
            if may_feed {
                if let Err(error) = watchdog.feed() {
                    warn!(%error, "the watchdog does not take its food");
                }
            } else if !hungry {
                warn!(
                    "the lease has run out and guests may run here: the watchdog is left to bite"
                );
            }
            hungry = !may_feed;
        }
    });
    Ok(Feeder { bites_within_ms, end, task })
}
