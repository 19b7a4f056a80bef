//! openraft's state machine over `ClusterState`: translates and calls `apply`; decides nothing.
//!
//! The state lives in memory. Readers get an `Arc` of what is applied; a snapshot is built from such a clone, outside
//! any lock, so that nothing waits for it.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use futures::{Stream, StreamExt};
use model::ClusterState;
use openraft::storage::{
    EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta,
};
use openraft::{EntryPayload, OptionalSend};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::log_store::{decode, encode};
use super::{Answer, LogId, Replica, StoredMembership, TypeConfig};
use crate::store::snapshot::SnapshotFiles;

type Clid = openraft::type_config::alias::CommittedLeaderIdOf<TypeConfig>;
type Meta = SnapshotMeta<Clid, u64, Replica>;
type SnapshotOf = Snapshot<Clid, u64, Replica, Vec<u8>>;

/// What is applied here, for readers.
#[derive(Clone)]
pub(super) struct Published {
    state: Arc<RwLock<Arc<ClusterState>>>,
    applied: watch::Sender<u64>,
}

impl Published {
    /// The newest state.
    pub(super) fn state(&self) -> Arc<ClusterState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Told after each change of it.
    pub(super) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    fn publish(&self, state: &ClusterState, index: u64) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state.clone());
        self.applied.send_replace(index);
    }
}

/// What a snapshot holds.
#[derive(Clone, Serialize, Deserialize)]
struct Image {
    last_applied: Option<LogId>,
    membership: StoredMembership,
    state: ClusterState,
}

/// The state machine.
pub(super) struct StateMachine {
    image: Image,
    files: SnapshotFiles,
    published: Published,
}

impl StateMachine {
    /// Rebuilt from the newest snapshot; the library applies the rest of the log.
    pub(super) fn open(files: SnapshotFiles) -> io::Result<Self> {
        let image = match files.newest()? {
            Some(bytes) => decode(&bytes)?,
            None => Image {
                last_applied: None,
                membership: StoredMembership::default(),
                state: ClusterState::default(),
            },
        };
        let applied = image.last_applied.map_or(0, |log_id| log_id.index);
        let published = Published {
            state: Arc::new(RwLock::new(Arc::new(image.state.clone()))),
            applied: watch::Sender::new(applied),
        };
        Ok(Self { image, files, published })
    }

    /// Where the snapshot that it was rebuilt from ends, and who the members were then.
    pub(super) fn begins_at(&self) -> (Option<LogId>, &StoredMembership) {
        (self.image.last_applied, &self.image.membership)
    }

    /// The door for readers.
    pub(super) fn published(&self) -> Published {
        self.published.clone()
    }

    fn publish(&self) {
        self.published
            .publish(&self.image.state, self.image.last_applied.map_or(0, |log_id| log_id.index));
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.image.last_applied, self.image.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        // Answers are given after the new state is published, so that who is answered finds it.
        let mut answers = Vec::new();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let answer = match &entry.payload {
                EntryPayload::Blank => Answer(None),
                EntryPayload::Normal(command) => {
                    Answer(Some(self.image.state.apply(entry.log_id.index, &command.0)))
                }
                EntryPayload::Membership(membership) => {
                    self.image.membership =
                        StoredMembership::new(Some(entry.log_id), membership.clone());
                    Answer(None)
                }
            };
            self.image.last_applied = Some(entry.log_id);
            answers.extend(responder.map(|responder| (responder, answer)));
        }
        self.publish();
        for (responder, answer) in answers {
            responder.send(answer);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        Builder { image: self.image.clone(), files: self.files.clone() }
    }

    async fn install_snapshot(&mut self, meta: &Meta, snapshot: Vec<u8>) -> Result<(), io::Error> {
        let image: Image = decode(&snapshot)?;
        if image.last_applied != meta.last_log_id {
            return Err(io::Error::other(
                "a snapshot arrived that is not the one that was announced",
            ));
        }
        write(self.files.clone(), image.last_applied, snapshot).await?;
        self.image = image;
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf>, io::Error> {
        let files = self.files.clone();
        let bytes = tokio::task::spawn_blocking(move || files.newest())
            .await
            .map_err(io::Error::other)??;
        let Some(bytes) = bytes else { return Ok(None) };
        let image: Image = decode(&bytes)?;
        Ok(Some(Snapshot { meta: meta(&image), snapshot: bytes }))
    }
}

/// Serialises and writes a snapshot beside the running state machine.
pub(super) struct Builder {
    image: Image,
    files: SnapshotFiles,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> Result<SnapshotOf, io::Error> {
        let image = self.image.clone();
        let meta = meta(&image);
        let last_applied = image.last_applied;
        let bytes = tokio::task::spawn_blocking(move || encode(&image))
            .await
            .map_err(io::Error::other)??;
        write(self.files.clone(), last_applied, bytes.clone()).await?;
        Ok(Snapshot { meta, snapshot: bytes })
    }
}

async fn write(
    files: SnapshotFiles,
    last_applied: Option<LogId>,
    bytes: Vec<u8>,
) -> io::Result<()> {
    let (index, term) =
        last_applied.map_or((0, 0), |log_id| (log_id.index, log_id.committed_leader_id().term));
    let written = tokio::task::spawn_blocking(move || files.write(index, term, &bytes)).await;
    Ok(written.map_err(io::Error::other)??)
}

fn meta(image: &Image) -> Meta {
    Meta { last_log_id: image.last_applied, last_membership: image.membership.clone() }
}
