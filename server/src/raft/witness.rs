//! What this replica heard the others acknowledge, so that one whose data directory was rolled back is found out.
//!
//! A copy of a data directory that is put back, or a snapshot of the machine under it, is whole and in itself without a
//! fault: only others can know that it has come further. Raft may lose a committed entry, or elect two leaders in a term,
//! when a replica forgets a vote or an entry it acknowledged; so each remembers of each other how far that has come:
//!
//! - **its reach**: the highest term in which it granted this one a vote or took its entries, and in that term the end of
//!   the log that it acknowledged. Within a term a replica's log never ends before that again, and its vote never goes
//!   back to an earlier term: whoever claims less has been rolled back.
//! - **its start**: how often its directory had been opened, and the run that followed. A start that was met before with
//!   another run is a copy.
//!
//! It is kept in `DIR/peers`, over restarts of this replica. A start is on stable storage before it is vouched for; a reach
//! is with the kernel at once, and outlives this process.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tracing::warn;
use uuid::Uuid;

use crate::store::{StoreError, Twin};

/// Instances remembered: those of all replicas there ever were but in odd clusters, and few enough for the file.
const MOST_KNOWN: usize = 48;

/// How far a replica has come: later terms first, then more of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub(super) struct Reach {
    /// Of its vote.
    pub(super) term: u64,
    /// The index after the last entry of its log.
    pub(super) end: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    starts: u64,
    run: Uuid,
    reach: Reach,
}

/// What a replica says of itself when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    /// Its data directory.
    pub(super) instance: Uuid,
    /// How often that has been opened.
    pub(super) starts: u64,
    /// This run of it.
    pub(super) run: Uuid,
    /// How far its disk says it has come.
    pub(super) reach: Reach,
}

/// Why a replica is not what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum RolledBack {
    /// It has forgotten a vote or entries.
    #[error(
        "it had come to term {} and the end of the log before entry {}, and now says term {} and entry {}",
        known.term, known.end, claimed.term, claimed.end
    )]
    Reach {
        /// As it was heard.
        known: Reach,
        /// As it claims.
        claimed: Reach,
    },
    /// Its start was another one's.
    #[error(
        "its start {claimed} is not new: start {known} of that data directory is known already"
    )]
    Start {
        /// The highest that is known.
        known: u64,
        /// As it claims.
        claimed: u64,
    },
}

impl Known {
    fn judge(&self, claim: &Claim) -> Result<(), RolledBack> {
        if claim.reach < self.reach {
            return Err(RolledBack::Reach { known: self.reach, claimed: claim.reach });
        }
        let same_run = claim.starts == self.starts && claim.run == self.run;
        if claim.starts <= self.starts && !same_run {
            return Err(RolledBack::Start { known: self.starts, claimed: claim.starts });
        }
        Ok(())
    }
}

/// The memory of others.
pub(super) struct Witness {
    file: Twin,
    known: Mutex<BTreeMap<Uuid, Known>>,
}

impl Witness {
    /// Opens or makes `DIR/peers`.
    pub(super) fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join("peers");
        let (file, value) = Twin::open(&path)?;
        let known = value.map(|value| postcard::from_bytes(&value)).transpose();
        let known = known.map_err(|error| StoreError::Damaged {
            what: "the file peers".into(),
            path,
            reason: error.to_string(),
        })?;
        Ok(Self { file, known: Mutex::new(known.unwrap_or_default()) })
    }

    /// How far that replica is known to have come.
    pub(super) fn reach(&self, instance: Uuid) -> Option<Reach> {
        self.lock().get(&instance).map(|known| known.reach)
    }

    /// It has acknowledged this.
    pub(super) fn acknowledged(&self, instance: Uuid, reach: Reach) {
        let mut all = self.lock();
        let known = all.entry(instance).or_default();
        if reach <= known.reach {
            return;
        }
        known.reach = reach;
        if let Err(error) = self.write(&mut all) {
            // It costs a second account of somebody else; this replica's own disk fails by its own log.
            warn!(
                error = &error as &dyn std::error::Error,
                "what a peer acknowledged was not noted"
            );
        }
    }

    /// Whether this one may go on; where it may, its start is remembered for good before this returns.
    pub(super) fn vouch(&self, claim: &Claim) -> Result<Result<(), RolledBack>, StoreError> {
        let mut all = self.lock();
        let known = all.entry(claim.instance).or_default();
        if let Err(found) = known.judge(claim) {
            return Ok(Err(found));
        }
        // Of the end it claims some may not be anybody's: the leader of its very term may have it dropped.
        let voted = Reach { term: claim.reach.term, end: 0 };
        let new = Known { starts: claim.starts, run: claim.run, reach: known.reach.max(voted) };
        if *known != new {
            *known = new;
            self.write(&mut all)?;
            self.file.sync()?;
        }
        Ok(Ok(()))
    }

    fn write(&self, all: &mut BTreeMap<Uuid, Known>) -> Result<(), StoreError> {
        while all.len() > MOST_KNOWN {
            let Some(oldest) = all.iter().min_by_key(|(_, known)| known.reach) else { break };
            let oldest = *oldest.0;
            all.remove(&oldest);
        }
        // Numbers always encode.
        self.file.write(&postcard::to_stdvec(all).unwrap_or_default())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Uuid, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSTANCE: Uuid = Uuid::from_u128(7);

    fn claim(starts: u64, run: u128, term: u64, end: u64) -> Claim {
        let reach = Reach { term, end };
        Claim { instance: INSTANCE, starts, run: Uuid::from_u128(run), reach }
    }

    #[test]
    fn whoever_claims_less_than_was_heard_has_been_rolled_back() {
        let directory = tempfile::tempdir().unwrap();
        let witness = Witness::open(directory.path()).unwrap();
        let ask = |claim: Claim| witness.vouch(&claim).unwrap();
        assert_eq!(ask(claim(1, 1, 1, 10)), Ok(()));
        witness.acknowledged(INSTANCE, Reach { term: 3, end: 40 });
        witness.acknowledged(INSTANCE, Reach { term: 2, end: 90 });
        for (claimed, fine, what) in [
            (claim(1, 1, 3, 40), true, "the same run, as far as it was"),
            (claim(2, 2, 3, 41), true, "its next start"),
            (claim(2, 2, 3, 41), true, "asked again"),
            (claim(2, 3, 3, 41), false, "another run of the same start"),
            (claim(1, 9, 3, 41), false, "an earlier start"),
            (claim(3, 4, 3, 39), false, "entries of its term are gone"),
            (claim(3, 4, 2, 99), false, "its vote is gone"),
            (claim(3, 4, 4, 12), true, "another leader had it drop entries"),
            (
                claim(4, 5, 4, 9),
                true,
                "and some more in the same term, which it had not acknowledged",
            ),
        ] {
            assert_eq!(ask(claimed).is_ok(), fine, "{what}");
        }
    }

    #[test]
    fn what_was_heard_outlives_the_process_and_one_of_many_is_forgotten_last() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Witness::open(directory.path()).unwrap();
        open().acknowledged(INSTANCE, Reach { term: 9, end: 40 });
        for other in 100..300 {
            open().acknowledged(Uuid::from_u128(other), Reach { term: 1, end: other as u64 });
        }
        assert_eq!(open().reach(INSTANCE), Some(Reach { term: 9, end: 40 }));
        let refused = open().vouch(&claim(5, 5, 9, 39)).unwrap();
        assert!(matches!(refused, Err(RolledBack::Reach { .. })));
    }
}
