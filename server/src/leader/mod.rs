//! What only the leader does: it listens, plans, proposes, hands out orders and fences.
//!
//! ```text
//!  heartbeats ─▶ failure_detector ─┐
//!  applied state ──────────────────┼─▶ reconciler: plan ─▶ propose (fenced by the term) ─▶ applied state …
//!  time ───────────────────────────┘        │
//!                                           ├─▶ order book ─▶ streams to agents
//!                                           └─▶ fencer ─▶ fence agents ─▶ propose the result
//! ```
//! It decides nothing: decisions are `model::plan`'s.

mod failure_detector;
pub mod fence_desk;
pub mod fencer;
pub mod lead;
mod reconciler;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::id::{ClusterId, Epoch, NodeId, SessionId};
use model::order::{Order, Watch};
use model::service::order::ScriptWork;
use proto::convert::view::LeaderView;
use proto::v1::MigrationProgress;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::clock::ElapsedClock;
use fence_desk::FenceDesk;

pub use failure_detector::{Carried, FailureDetector, SessionOver};
pub use reconciler::run;

/// All orders outstanding, as the leader of a term last read them off the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderBook {
    /// The leader's term.
    pub term: u64,
    /// The control plane's epoch.
    pub epoch: Epoch,
    /// Whose orders they are.
    pub cluster: ClusterId,
    /// By node.
    pub orders: BTreeMap<NodeId, Vec<Order>>,
    /// What concerns scripts, by node.
    pub scripts: BTreeMap<NodeId, ScriptWork>,
    /// What they are to keep an eye on, by node.
    pub watches: BTreeMap<NodeId, Vec<Watch>>,
}

/// The door between the leader's task and the gRPC services. Cheap to clone.
#[derive(Clone)]
pub struct LeaderHandle {
    shared: Arc<Shared>,
}

struct Shared {
    elapsed: Mutex<ElapsedClock>,
    carried: Mutex<Carried>,
    /// A higher epoch than this control plane's that an agent has met.
    superseded: watch::Sender<Option<u64>>,
    detector: Mutex<FailureDetector>,
    view: watch::Sender<Option<Arc<LeaderView>>>,
    book: watch::Sender<Option<Arc<OrderBook>>>,
    progress: watch::Sender<BTreeMap<Uuid, MigrationProgress>>,
    fences: FenceDesk,
    wake: Notify,
}

impl Default for LeaderHandle {
    fn default() -> Self {
        Self {
            shared: Arc::new(Shared {
                elapsed: Mutex::new(ElapsedClock::start()),
                carried: Mutex::new(Carried::new()),
                superseded: watch::Sender::new(None),
                detector: Mutex::new(FailureDetector::default()),
                view: watch::Sender::new(None),
                book: watch::Sender::new(None),
                progress: watch::Sender::new(BTreeMap::new()),
                fences: FenceDesk::default(),
                wake: Notify::new(),
            }),
        }
    }
}

impl LeaderHandle {
    /// Milliseconds since this process began: the leader's own elapsed time, the smaller of two clocks'.
    pub fn elapsed_ms(&self) -> u64 {
        self.shared.elapsed.lock().unwrap_or_else(PoisonError::into_inner).elapsed_ms()
    }

    /// A heartbeat came by that this replica passes on to the leader.
    pub fn carry(&self, node: NodeId, session: SessionId) {
        let now = self.elapsed_ms();
        self.carried_mut().insert(node, (session, now));
    }

    /// What this replica passed on.
    pub fn carried(&self) -> Carried {
        self.carried_mut().clone()
    }

    fn carried_mut(&self) -> MutexGuard<'_, Carried> {
        self.shared.carried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An agent has met this epoch; where it is higher than ours, this control plane was replaced by a restored one.
    pub fn meets_epoch(&self, met: u64, ours: Epoch) -> bool {
        let superseded = lead::is_superseded(ours, met);
        if superseded {
            self.shared.superseded.send_replace(Some(met));
        }
        superseded
    }

    /// The higher epoch that was met, if one was.
    pub fn superseded(&self) -> watch::Receiver<Option<u64>> {
        self.shared.superseded.subscribe()
    }

    /// When this replica last heard of a node, be it as leader or on a heartbeat's way there, in milliseconds.
    pub fn last_heard_ms(&self, node: NodeId) -> Option<u64> {
        let now = self.elapsed_ms();
        let carried = self.carried_mut().get(&node).map(|(_, heard)| now.saturating_sub(*heard));
        let contact = self.detector().last_contact_ms(node, now);
        carried.into_iter().chain(contact).min()
    }

    /// Where fences through agents are handed out.
    pub fn fences(&self) -> FenceDesk {
        self.shared.fences.clone()
    }

    /// The failure detector; held for a few instructions only.
    pub fn detector(&self) -> MutexGuard<'_, FailureDetector> {
        // A poisoned lock means a panic elsewhere; what it guards is valid after every statement.
        self.shared.detector.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the leader hears and plans; `None` while this replica does not lead.
    pub fn view(&self) -> watch::Receiver<Option<Arc<LeaderView>>> {
        self.shared.view.subscribe()
    }

    /// The order book; `None` while this replica does not lead.
    pub fn book(&self) -> watch::Receiver<Option<Arc<OrderBook>>> {
        self.shared.book.subscribe()
    }

    /// How far migrations are, by VM; kept in memory only.
    pub fn progress(&self) -> watch::Receiver<BTreeMap<Uuid, MigrationProgress>> {
        self.shared.progress.subscribe()
    }

    /// Notes how far migrations are.
    pub fn note_progress(&self, jobs: impl IntoIterator<Item = (Uuid, MigrationProgress)>) {
        let mut jobs = jobs.into_iter().peekable();
        if jobs.peek().is_some() {
            self.shared.progress.send_modify(|progress| progress.extend(jobs));
        }
    }

    /// Makes the leader plan again soon. A hint: it plans from the whole state, and does so without hints too.
    pub fn wake(&self) {
        self.shared.wake.notify_one();
    }
}
