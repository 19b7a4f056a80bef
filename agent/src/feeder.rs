//! Feeds the watchdog a third of its time-out apart, while the lease holds or every guest that it binds is stopped.
//!
//! Beside the core's task: a disk that hangs under the ledger must not cost a host whose lease holds.

use std::time::Duration;

use anyhow::Context;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::clock::Reading;
use crate::config::WatchdogConfig;
use crate::lease::Lease;
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

/// The task that arms and feeds.
pub struct Feeder {
    end: oneshot::Sender<()>,
    task: JoinHandle<Option<Box<dyn Watchdog>>>,
}

impl Feeder {
    async fn end(self) -> Option<Box<dyn Watchdog>> {
        let _ = self.end.send(());
        self.task.await.ok().flatten()
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

/// Told once the watchdog is armed: for how many milliseconds the host may live on after it was fed last, however this
/// process ends. That is what a proof by lease waits for.
pub type Armed = oneshot::Receiver<anyhow::Result<u64>>;

/// Arms the watchdog as soon as it may be fed, and feeds it from then on.
///
/// To arm is to feed: a watchdog that an agent before this one has left to bite must not be held off by an agent that
/// starts again and again.
pub fn start(config: WatchdogConfig, mut state: watch::Receiver<FeedState>) -> (Feeder, Armed) {
    let (end, mut ended) = oneshot::channel();
    let (told, armed) = oneshot::channel();
    let task = tokio::spawn(async move {
        tokio::select! {
            allowed = state.wait_for(|state| state.may_feed(Reading::now())) => allowed.ok().map(drop)?,
            _ = &mut ended => return None,
        }
        let watchdog = watchdog::arm(&config.path, config.timeout_ms)
            .with_context(|| format!("the watchdog {} cannot be armed", config.path.display()));
        let mut watchdog = match watchdog {
            Ok(watchdog) => watchdog,
            Err(error) => {
                let _ = told.send(Err(error));
                return None;
            }
        };
        let timeout_ms = watchdog.timeout_ms();
        info!(path = %config.path.display(), timeout_ms, "the watchdog is armed");
        let _ = told.send(Ok(watchdog.bites_within_ms()));
        let mut feeds = tokio::time::interval(Duration::from_millis(timeout_ms / 3));
        let mut hungry = false;
        loop {
            tokio::select! {
                _ = feeds.tick() => {}
                _ = &mut ended => return Some(watchdog),
            }
            let state = *state.borrow();
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
    (Feeder { end, task }, armed)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    #[tokio::test]
    async fn a_watchdog_is_armed_only_when_it_may_be_fed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut options = std::fs::OpenOptions::new();
        options.read(true).custom_flags(nix::libc::O_NONBLOCK);
        let mut end = options.open(&path).unwrap();
        let (feed, state) = watch::channel(FeedState::new(Lease::default()));
        let (feeder, mut armed) = start(WatchdogConfig { path, timeout_ms: 700 }, state);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(armed.try_recv().is_err());
        assert_eq!(end.read(&mut [0]).unwrap(), 0, "nobody has opened it");
        let at = Reading::now();
        feed.send_replace(FeedState { lease: Lease::default(), safe: true, at });
        assert_eq!(armed.await.unwrap().unwrap(), 700);
        feeder.disarm().await;
        let mut bytes = String::new();
        end.read_to_string(&mut bytes).unwrap();
        assert!(bytes.starts_with('1') && bytes.ends_with('V'), "{bytes}");
    }
}
