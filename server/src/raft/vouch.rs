//! A replica that begins asks the others whether it has been rolled back, before it takes part.
//!
//! ```text
//!  begins ──enough others vouch for it──▶ takes part
//!    │                                        │
//!    └──── one says that it was further ──────┴──▶ stops
//! ```
//! Enough is what makes a quorum with it, so that this costs no availability: without them it could do nothing anyway.
//! Those that answer later are heard too. What no reachable replica knows of cannot be found; the more of them there are,
//! the less that is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proto::channel::{TlsFiles, endpoint};
use proto::v1::raft_peer_client::RaftPeerClient;
use proto::v1::{self, PeerTarget, VouchRequest};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::{Code, Request};
use tracing::{info, warn};

use super::Replica;
use super::identity::Identity;
use super::recall::Recall;
use super::witness::{Claim, Reach};

const ASK_LIMIT: Duration = Duration::from_millis(500);
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// A snapshot that is being installed moves the end of the log in more than one step.
const SETTLE: Duration = Duration::from_secs(2);
/// Then the operator is told that it waits, and for whom.
const TELL_AFTER: Duration = Duration::from_secs(10);

/// How far this replica has come, exactly, as the log store notes it.
#[derive(Debug, Default)]
pub(super) struct Position {
    term: AtomicU64,
    end: AtomicU64,
}

impl Position {
    /// Where a replica begins.
    pub(super) fn at(reach: Reach) -> Self {
        Self { term: AtomicU64::new(reach.term), end: AtomicU64::new(reach.end) }
    }

    /// A vote was saved.
    pub(super) fn voted(&self, term: u64) {
        self.term.store(term, Ordering::SeqCst);
    }

    /// The log ends before this index now.
    pub(super) fn ends_before(&self, end: u64) {
        self.end.store(end, Ordering::SeqCst);
    }

    /// The log reaches at least so far.
    pub(super) fn reaches(&self, end: u64) {
        self.end.fetch_max(end, Ordering::SeqCst);
    }

    fn reach(&self) -> Reach {
        Reach { term: self.term.load(Ordering::SeqCst), end: self.end.load(Ordering::SeqCst) }
    }

    /// Somebody heard this replica acknowledge more, in its own term or a later one.
    fn is_short_of(&self, known: Reach) -> bool {
        self.reach() < known
    }
}

/// Whether this replica takes part, and why it must stop.
#[derive(Clone)]
pub(super) struct Standing {
    taking_part: watch::Sender<bool>,
    stop: watch::Sender<Option<String>>,
    position: Arc<Position>,
    id: u64,
}

impl Standing {
    /// Before anybody was asked.
    pub(super) fn new(id: u64, position: Arc<Position>) -> Self {
        let (taking_part, stop) = (watch::Sender::new(false), watch::Sender::new(None));
        Self { taking_part, stop, position, id }
    }

    /// Whether enough others vouched for it.
    pub(super) fn takes_part(&self) -> bool {
        *self.taking_part.borrow()
    }

    /// Told when it must stop, with the reason.
    pub(super) fn stop(&self) -> watch::Receiver<Option<String>> {
        self.stop.subscribe()
    }

    fn must_stop(&self, witness: &str, reason: &str) {
        let id = self.id;
        let text = format!(
            "the data directory of replica {id} has been rolled back: {witness} says that {reason}; a replica that forgot what it acknowledged would lose it for all, so bring it back from its peers with `berthctl replica rebuild {id}`, on its host"
        );
        self.stop.send_if_modified(|old| old.is_none() && old.replace(text).is_none());
    }

    /// A peer's request names what that peer heard this replica acknowledge.
    pub(super) fn is_reminded(&self, known: &v1::PeerReach) {
        let known = Reach { term: known.term, end: known.end };
        if !self.position.is_short_of(known) || self.stop.borrow().is_some() {
            return;
        }
        let standing = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(SETTLE).await;
            if standing.position.is_short_of(known) {
                let own = standing.position.reach();
                let reason = format!(
                    "it had come to term {} and the end of the log before entry {}, and is at term {} and entry {}",
                    known.term, known.end, own.term, own.end
                );
                standing.must_stop("a peer", &reason);
            }
        });
    }
}

/// Asks all others until each has answered; opens the door when enough have vouched.
pub(super) async fn seek(
    standing: Standing,
    identity: Identity,
    recall: Recall,
    claim: Claim,
    tls: Option<TlsFiles>,
) {
    let own = identity.id();
    let quorum = recall.voters.len() / 2 + 1;
    let mut needed = quorum - usize::from(recall.voters.contains(&own)).min(quorum);
    let mut asked = JoinSet::new();
    for (id, peer) in recall.members.into_iter().filter(|(id, _)| *id != own) {
        let counts = recall.voters.contains(&id);
        let (identity, tls) = (identity.clone(), tls.clone());
        asked.spawn(async move {
            let verdict = ask(&identity, id, &peer, claim, tls.as_ref()).await;
            (id, counts, verdict)
        });
    }
    if asked.is_empty() {
        needed = 0;
    }
    let mut tell = std::pin::pin!(tokio::time::sleep(TELL_AFTER));
    loop {
        if needed == 0 && !standing.takes_part() {
            standing.taking_part.send_replace(true);
        }
        let answered = tokio::select! {
            answered = asked.join_next() => answered,
            () = &mut tell, if needed > 0 && !tell.is_elapsed() => {
                warn!(needed, "waiting for other replicas to vouch that this one was not rolled back");
                continue;
            }
        };
        match answered {
            None => return,
            Some(Ok((_, counts, None))) => needed = needed.saturating_sub(usize::from(counts)),
            Some(Ok((id, _, Some(reason)))) => {
                standing.must_stop(&format!("replica {id}"), &reason)
            }
            Some(Err(error)) => warn!(%error, "a replica could not be asked"),
        }
    }
}

/// Until it answers: why this replica was rolled back, or that it was not.
async fn ask(
    identity: &Identity,
    id: u64,
    peer: &Replica,
    claim: Claim,
    tls: Option<&TlsFiles>,
) -> Option<String> {
    let mut client = match endpoint(&peer.address, tls) {
        Ok(endpoint) => RaftPeerClient::new(endpoint.connect_lazy()),
        Err(error) => {
            warn!(id, error = &error as &dyn std::error::Error, "a peer's address is of no use");
            return std::future::pending().await;
        }
    };
    let mut complaint = String::new();
    loop {
        let message = VouchRequest {
            target: Some(PeerTarget {
                cluster: identity.cluster().unwrap_or_default().to_string(),
                replica: id,
                instance: peer.instance.to_string(),
                known: None,
            }),
            replica: identity.id(),
            instance: claim.instance.to_string(),
            starts: claim.starts,
            run: claim.run.to_string(),
            reach: Some(v1::PeerReach { term: claim.reach.term, end: claim.reach.end }),
        };
        let mut request = Request::new(message);
        request.set_timeout(ASK_LIMIT);
        match tokio::time::timeout(ASK_LIMIT, client.vouch(request)).await {
            Ok(Ok(reply)) => return reply.into_inner().rolled_back,
            Ok(Err(status)) if status.code() == Code::FailedPrecondition => {
                if complaint != status.message() {
                    complaint = status.message().to_owned();
                    info!(id, "a peer does not vouch: {complaint}");
                }
            }
            Ok(Err(_)) | Err(_) => {}
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_may_end_earlier_in_a_later_term_and_never_in_the_same() {
        let position = Position::at(Reach { term: 4, end: 30 });
        for (term, end, short) in
            [(4, 30, false), (4, 31, true), (3, 90, false), (5, 0, true), (4, 2, false)]
        {
            assert_eq!(position.is_short_of(Reach { term, end }), short, "{term} {end}");
        }
        position.ends_before(12);
        assert!(position.is_short_of(Reach { term: 4, end: 30 }));
        position.voted(5);
        assert!(!position.is_short_of(Reach { term: 4, end: 30 }));
    }
}
