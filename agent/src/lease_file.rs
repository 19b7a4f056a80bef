//! Where the lease outlives the agent: a directory that is empty after a reboot.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::sync::watch;
use tracing::warn;

use crate::feeder::FeedState;
use crate::lease::Lease;

/// The lease of the agent before this one, and of this one for the next.
pub struct LeaseFile {
    path: PathBuf,
}

impl LeaseFile {
    /// In this directory, which is made where it is missing.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self { path: directory.join("lease") })
    }

    /// The lease that is there; none where it cannot be read, which only costs a pause.
    pub fn read(&self) -> Lease {
        let text = std::fs::read_to_string(&self.path).ok();
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// Notes each renewal, for as long as the core says anything.
    pub async fn keep(self, mut state: watch::Receiver<FeedState>) {
        let mut noted = self.read();
        while state.wait_for(|state| state.lease != noted).await.is_ok() {
            noted = state.borrow_and_update().lease;
            self.write(noted);
        }
    }

    /// Notes the lease. Not synced: it does not have to outlive the host.
    pub fn write(&self, lease: Lease) {
        let temporary = self.path.with_extension("tmp");
        let written = serde_json::to_string(&lease)
            .map_err(std::io::Error::other)
            .and_then(|text| std::fs::write(&temporary, text))
            .and_then(|()| std::fs::rename(&temporary, &self.path));
        if let Err(error) = written {
            warn!(%error, "the lease cannot be noted; an agent that restarts begins without one");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Reading;

    #[test]
    fn a_lease_is_found_again_and_a_torn_one_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let file = LeaseFile::open(directory.path()).unwrap();
        let mut lease = Lease::default();
        assert_eq!(file.read(), lease);
        let now = Reading { boot_ms: 10, raw_ms: 9 };
        lease.renew(now, 3_000, now);
        file.write(lease);
        assert_eq!(file.read(), lease);
        std::fs::write(directory.path().join("lease"), "{\"gra").unwrap();
        assert_eq!(file.read(), Lease::default());
    }

    #[tokio::test]
    async fn every_renewal_is_noted_with_or_without_a_watchdog() {
        let directory = tempfile::tempdir().unwrap();
        let reader = LeaseFile::open(directory.path()).unwrap();
        let (feed, state) = watch::channel(FeedState::new(Lease::default()));
        let keeper = tokio::spawn(LeaseFile::open(directory.path()).unwrap().keep(state));
        for moment in [10, 510] {
            let now = Reading { boot_ms: moment, raw_ms: moment };
            let mut lease = Lease::default();
            lease.renew(now, 3_000, now);
            feed.send_replace(FeedState { lease, safe: false, at: now });
            while reader.read() != lease {
                tokio::task::yield_now().await;
            }
        }
        drop(feed);
        keeper.await.unwrap();
    }
}
