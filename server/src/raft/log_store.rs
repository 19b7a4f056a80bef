//! openraft's log trait over our store: translates, and commits in groups.
//!
//! One thread syncs: it drains all callbacks that wait, flushes once, and completes them all. A vote is on stable
//! storage before `save_vote` returns; vote and entries go through one database, so that they are never reordered.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{OptionalSend, RaftTypeConfig};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};

use super::vouch::Position;
use super::{LogEntry, LogId, TypeConfig, Vote};
use crate::store::{MetaKey, Store, StoreError};

enum Waiter {
    Library(IOFlushed<TypeConfig>),
    Own(oneshot::Sender<Result<(), String>>),
}

impl Waiter {
    fn complete(self, result: &Result<(), StoreError>) {
        match self {
            Self::Library(callback) => {
                callback.io_completed(
                    result.as_ref().copied().map_err(|error| io::Error::other(chain(error))),
                );
            }
            // Whoever no longer waits does not need to know.
            Self::Own(sender) => {
                let _ = sender.send(result.as_ref().copied().map_err(|error| chain(error)));
            }
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// The log, shared by the library's writer and its readers.
#[derive(Clone)]
pub(super) struct LogStore {
    store: Arc<dyn Store>,
    position: Arc<Position>,
    waiters: mpsc::UnboundedSender<Waiter>,
}

impl LogStore {
    /// The log over an open store, with its sync thread; the thread ends with the last clone.
    pub(super) fn new(store: Arc<dyn Store>, position: Arc<Position>) -> io::Result<Self> {
        let (waiters, queue) = mpsc::unbounded_channel();
        let synced = store.clone();
        std::thread::Builder::new()
            .name("log-sync".into())
            .spawn(move || sync_loop(&*synced, queue))?;
        Ok(Self { store, position, waiters })
    }

    async fn synced(&self) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        let stopped = || io::Error::other("the sync thread has stopped");
        self.waiters.send(Waiter::Own(sender)).map_err(|_| stopped())?;
        receiver.await.map_err(|_| stopped())?.map_err(io::Error::other)
    }

    fn get<T: DeserializeOwned>(&self, key: MetaKey) -> io::Result<Option<T>> {
        self.store.get(key)?.map(|bytes| decode(&bytes)).transpose()
    }

    fn put(&self, key: MetaKey, value: &impl Serialize) -> io::Result<()> {
        Ok(self.store.put(key, &encode(value)?)?)
    }
}

fn sync_loop(store: &dyn Store, mut queue: mpsc::UnboundedReceiver<Waiter>) {
    let mut batch = Vec::new();
    while let Some(first) = queue.blocking_recv() {
        batch.push(first);
        while let Ok(next) = queue.try_recv() {
            batch.push(next);
        }
        let result = store.sync();
        for waiter in batch.drain(..) {
            waiter.complete(&result);
        }
    }
}

/// postcard, with its errors as I/O errors: the library stops the core on them.
pub(super) fn encode(value: &impl Serialize) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(io::Error::other)
}

/// The reverse of [`encode`].
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    postcard::from_bytes(bytes).map_err(io::Error::other)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, io::Error> {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        self.store.read(range)?.iter().map(|bytes| decode(bytes)).collect()
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.get(MetaKey::Vote)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let last_purged_log_id: Option<LogId> = self.get(MetaKey::Purged)?;
        let last: Option<LogEntry> = self.store.last()?.map(|bytes| decode(&bytes)).transpose()?;
        let last_log_id = last.map(|entry| entry.log_id).or(last_purged_log_id);
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.put(MetaKey::Vote, vote)?;
        self.position.voted(vote.leader_id.term);
        self.synced().await
    }

    /// Not synced: it only spares work at the next start.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.put(MetaKey::Committed, &committed)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.get::<Option<LogId>>(MetaKey::Committed)?.flatten())
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = <TypeConfig as RaftTypeConfig>::Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut encoded = Vec::new();
        for entry in entries {
            encoded.push((entry.log_id.index, encode(&entry)?));
        }
        let end = encoded.last().map_or(0, |(index, _)| index + 1);
        self.store.append(encoded)?;
        self.position.reaches(end);
        self.waiters
            .send(Waiter::Library(callback))
            .map_err(|_| io::Error::other("the sync thread has stopped"))
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let start = last_log_id.map_or(Bound::Unbounded, |log_id| Bound::Excluded(log_id.index));
        self.store.remove((start, Bound::Unbounded))?;
        self.position.ends_before(last_log_id.map_or(0, |log_id| log_id.index + 1));
        self.synced().await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        // The mark first: a log that begins after its mark is whole, one that begins before is merely long.
        self.put(MetaKey::Purged, &log_id)?;
        self.store.remove((Bound::Unbounded, Bound::Included(log_id.index)))?;
        self.position.reaches(log_id.index + 1);
        self.synced().await
    }
}
