//! Follower to leader: any replica takes any request.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use futures::Stream;
use proto::channel::{TlsFiles, endpoint};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tracing::warn;

use crate::raft::RaftHandle;

/// Marks a request that was passed on once: it is not passed on again, so that two replicas that each take the other
/// for the leader do not play ball with it.
const FORWARDED: &str = "berth-forwarded";

/// Where a request is to be served.
pub enum Route {
    /// Here: this replica leads.
    Here,
    /// There.
    Leader(Box<Leader>),
}

/// Another replica, for as long as it leads. One whose host lost its power closes no connection: what was passed on to it
/// would wait for time-outs long after the others have elected.
pub struct Leader {
    raft: RaftHandle,
    id: u64,
    /// The connection to it.
    pub channel: Channel,
}

impl Leader {
    /// Its answer, or UNAVAILABLE as soon as it is known to lead no more: whether it did what was asked is unknown then.
    pub async fn answer<T>(
        &self,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        tokio::select! {
            answer = call => answer,
            () = self.raft.no_longer_led_by(self.id) => Err(leader_lost()),
        }
    }

    /// Its stream, for as long as it leads.
    pub fn stream<T: Send + 'static>(
        self,
        stream: Streaming<T>,
    ) -> impl Stream<Item = Result<T, Status>> + Send {
        futures::stream::unfold(Some((self, stream)), |open| async {
            let (leader, mut stream) = open?;
            let item = tokio::select! {
                item = stream.message() => item.transpose()?,
                () = leader.raft.no_longer_led_by(leader.id) => Err(leader_lost()),
            };
            let open = item.is_ok().then_some((leader, stream));
            Some((item, open))
        })
    }
}

fn leader_lost() -> Status {
    Status::unavailable("the leader was lost on the way; the same request may be sent again")
}

/// Finds the leader and keeps one connection to each replica it has been.
#[derive(Clone)]
pub struct Router {
    raft: RaftHandle,
    tls: Option<TlsFiles>,
    channels: Arc<Mutex<BTreeMap<String, Channel>>>,
}

impl Router {
    /// A router for this replica.
    pub fn new(raft: RaftHandle, tls: Option<TlsFiles>) -> Self {
        Self { raft, tls, channels: Arc::default() }
    }

    /// Where this request is to be served; UNAVAILABLE while no leader is known.
    pub fn route<T>(&self, request: &Request<T>) -> Result<Route, Status> {
        if self.raft.leadership().borrow().is_some() {
            return Ok(Route::Here);
        }
        let no_leader =
            || Status::unavailable("the control plane has no leader now; try again in a moment");
        if request.metadata().contains_key(FORWARDED) {
            return Err(no_leader());
        }
        let (id, address) = self.raft.leader().ok_or_else(no_leader)?;
        if id == self.raft.id() {
            // Elected, and its first entry is not applied yet.
            return Err(no_leader());
        }
        let channel = self.channel(&address).ok_or_else(no_leader)?;
        Ok(Route::Leader(Box::new(Leader { raft: self.raft.clone(), id, channel })))
    }

    /// The connection to a replica.
    pub fn channel(&self, address: &str) -> Option<Channel> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Some(channel.clone());
        }
        match endpoint(address, self.tls.as_ref()) {
            Ok(endpoint) => {
                let channel = endpoint.connect_lazy();
                channels.insert(address.to_owned(), channel.clone());
                Some(channel)
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                warn!(address, error, "a replica's address is of no use");
                None
            }
        }
    }
}

/// The request as it is passed on: marked, with its time-out kept.
pub fn forwarded<T>(request: Request<T>) -> Request<T> {
    let (mut metadata, extensions, message) = request.into_parts();
    metadata.insert(FORWARDED, MetadataValue::from_static("1"));
    Request::from_parts(metadata, extensions, message)
}
