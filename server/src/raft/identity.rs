//! Who this replica is: its id, its data directory's instance id, and the cluster it belongs to.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use proto::rebuilt::Rebuilt;
use serde::{Deserialize, Serialize};
use tracing::warn;
use uuid::Uuid;

use super::log_store::{decode, encode};
use crate::store::{MetaKey, Store};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    id: u64,
    instance: Uuid,
    cluster: Option<Uuid>,
    /// The replica that it was rebuilt in place of, whose id is still in the configuration, perhaps.
    formerly: Option<u64>,
}

/// This replica's identity; the cluster is learned once and never changes.
#[derive(Clone)]
pub(super) struct Identity {
    store: Arc<dyn Store>,
    stored: Arc<Mutex<Stored>>,
}

/// A message that is for somebody else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Misdirected {
    /// Another replica.
    #[error("this is replica {here}, not replica {asked}")]
    Replica {
        /// Here.
        here: u64,
        /// As asked.
        asked: u64,
    },
    /// The same id with another data directory.
    #[error(
        "replica {id} has another data directory now; bring it back under a new id with `berthctl replica rebuild`, on its host"
    )]
    Instance {
        /// Whose.
        id: u64,
    },
    /// Another cluster.
    #[error("this replica belongs to cluster {here}, not to {asked}")]
    Cluster {
        /// Here.
        here: Uuid,
        /// As asked.
        asked: Uuid,
    },
    /// The cluster could not be noted.
    #[error("the cluster's id could not be stored: {0}")]
    Store(String),
}

impl Identity {
    /// Reads the identity of a data directory, or makes a new one. A directory of another replica is refused.
    ///
    /// A new one that `berthctl replica rebuild` has prepared says under which id it begins, in place of which other.
    pub(super) fn open(store: Arc<dyn Store>, directory: &Path, id: u64) -> io::Result<Self> {
        let stored = match store.get(MetaKey::Identity)? {
            Some(bytes) => decode::<Stored>(&bytes)?,
            None => {
                let rebuilt = Rebuilt::read(directory)?.filter(|rebuilt| rebuilt.old == id);
                let made = Stored {
                    id: rebuilt.map_or(id, |rebuilt| rebuilt.new),
                    instance: Uuid::new_v4(),
                    cluster: None,
                    formerly: rebuilt.map(|rebuilt| rebuilt.old),
                };
                store.put(MetaKey::Identity, &encode(&made)?)?;
                store.sync()?;
                made
            }
        };
        if stored.formerly == Some(id) {
            warn!(
                configured = id,
                id = stored.id,
                "this replica was rebuilt under a new id; set that in its configuration"
            );
        } else if stored.id != id {
            return Err(io::Error::other(format!(
                "the data directory belongs to replica {}, and this one is configured as replica {id}; give each replica a directory of its own",
                stored.id
            )));
        }
        Ok(Self { store, stored: Arc::new(Mutex::new(stored)) })
    }

    fn read(&self) -> Stored {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The replica's id.
    pub(super) fn id(&self) -> u64 {
        self.read().id
    }

    /// The data directory's id.
    pub(super) fn instance(&self) -> Uuid {
        self.read().instance
    }

    /// The cluster, once known.
    pub(super) fn cluster(&self) -> Option<Uuid> {
        self.read().cluster
    }

    /// Checks that a message is for this replica; the first one that is tells the cluster.
    pub(super) fn check(
        &self,
        replica: u64,
        instance: Uuid,
        cluster: Uuid,
    ) -> Result<(), Misdirected> {
        let stored = self.read();
        if stored.id != replica {
            return Err(Misdirected::Replica { here: stored.id, asked: replica });
        }
        if stored.instance != instance {
            return Err(Misdirected::Instance { id: stored.id });
        }
        match stored.cluster {
            Some(here) if here == cluster => Ok(()),
            Some(here) => Err(Misdirected::Cluster { here, asked: cluster }),
            None => self.join(cluster).map_err(|error| Misdirected::Store(error.to_string())),
        }
    }

    /// Notes the cluster, durably. Refused when another one is known.
    pub(super) fn join(&self, cluster: Uuid) -> io::Result<()> {
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        match stored.cluster {
            Some(known) if known == cluster => Ok(()),
            Some(known) => {
                Err(io::Error::other(format!("this replica belongs to cluster {known} already")))
            }
            None => {
                let joined = Stored { cluster: Some(cluster), ..stored.clone() };
                self.store.put(MetaKey::Identity, &encode(&joined)?)?;
                self.store.sync()?;
                *stored = joined;
                Ok(())
            }
        }
    }
}
