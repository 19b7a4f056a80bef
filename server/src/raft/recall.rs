//! What a data directory says when it is opened: its parts are checked against each other before Raft begins.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound::{Excluded, Included};
use std::path::Path;

use openraft::EntryPayload;

use super::log_store::decode;
use super::witness::Reach;
use super::{LogEntry, LogId, Replica, StoredMembership, Vote};
use crate::store::{MetaKey, Store, StoreError};

/// Entries read at a time.
const CHUNK: u64 = 256;

/// What the disk knows of itself and of the others.
#[derive(Debug, Clone, Default)]
pub(super) struct Recall {
    /// How far this replica has come.
    pub(super) reach: Reach,
    /// All members, as of the last membership in the log or the snapshot.
    pub(super) members: BTreeMap<u64, Replica>,
    /// Those that count for quorums.
    pub(super) voters: BTreeSet<u64>,
}

/// Reads vote, log and snapshot, and refuses what does not fit together: a snapshot that ends before the log begins, a
/// log that goes back in terms or has no vote.
pub(super) fn recall(
    directory: &Path,
    store: &dyn Store,
    snapshot: (Option<LogId>, &StoredMembership),
) -> Result<Recall, StoreError> {
    let damaged = |what: &str, reason: String| StoreError::Damaged {
        what: what.to_owned(),
        path: directory.to_owned(),
        reason,
    };
    let vote: Option<Vote> = read(store, MetaKey::Vote, &damaged)?;
    let purged: Option<LogId> = read(store, MetaKey::Purged, &damaged)?;
    let (applied, membership) = snapshot;
    if applied < purged {
        return Err(damaged(
            "the newest snapshot",
            format!("it ends at {applied:?}, and the log begins after {purged:?}"),
        ));
    }
    let mut membership = membership.clone();
    let mut last = purged;
    let mut next = purged.map_or(0, |log_id| log_id.index + 1);
    loop {
        let chunk = store.read((Included(next), Excluded(next + CHUNK)))?;
        if chunk.is_empty() {
            break;
        }
        for bytes in chunk {
            let entry: LogEntry = decode(&bytes)
                .map_err(|error| damaged(&format!("log entry {next}"), error.to_string()))?;
            if entry.log_id.index != next || Some(entry.log_id) < last {
                let reason =
                    format!("at {next}, after {last:?}, there is entry {:?}", entry.log_id);
                return Err(damaged("the log", reason));
            }
            if let EntryPayload::Membership(newer) = &entry.payload
                && membership.log_id() < &Some(entry.log_id)
            {
                membership = StoredMembership::new(Some(entry.log_id), newer.clone());
            }
            last = Some(entry.log_id);
            next += 1;
        }
    }
    let there: Option<LogEntry> = store
        .last()?
        .map(|bytes| decode(&bytes))
        .transpose()
        .map_err(|error| damaged("the last log entry", error.to_string()))?;
    if there.is_some_and(|entry| entry.log_id.index >= next) {
        return Err(damaged("the log", format!("entry {next} is missing")));
    }
    let term = vote.map_or(0, |vote| vote.leader_id.term);
    let last_term = last.map_or(0, |last| last.committed_leader_id().term);
    if last_term > term {
        let reason = format!("it is of term {term}, and the log of term {last_term}");
        return Err(damaged("the vote", reason));
    }
    let end = last.max(applied).map_or(0, |log_id| log_id.index + 1);
    Ok(Recall {
        reach: Reach { term, end },
        members: membership.membership().nodes().map(|(id, it)| (*id, it.clone())).collect(),
        voters: membership.membership().voter_ids().collect(),
    })
}

fn read<T: serde::de::DeserializeOwned>(
    store: &dyn Store,
    key: MetaKey,
    damaged: &impl Fn(&str, String) -> StoreError,
) -> Result<Option<T>, StoreError> {
    let value = store.get(key)?.map(|bytes| decode(&bytes)).transpose();
    value.map_err(|error: io::Error| damaged(&format!("{key:?}"), error.to_string()))
}
