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
mod fencer;
mod reconciler;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::id::{ClusterId, Epoch, NodeId};
use model::order::Order;
use proto::convert::view::LeaderView;
use proto::v1::MigrationProgress;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use uuid::Uuid;

pub use failure_detector::{FailureDetector, SessionOver};
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
}

/// The door between the leader's task and the gRPC services. Cheap to clone.
#[derive(Clone)]
pub struct LeaderHandle {
    shared: Arc<Shared>,
}

struct Shared {
    began: Instant,
    detector: Mutex<FailureDetector>,
    view: watch::Sender<Option<Arc<LeaderView>>>,
    book: watch::Sender<Option<Arc<OrderBook>>>,
    progress: watch::Sender<BTreeMap<Uuid, MigrationProgress>>,
    wake: Notify,
}

impl Default for LeaderHandle {
    fn default() -> Self {
        Self {
            shared: Arc::new(Shared {
                began: Instant::now(),
                detector: Mutex::new(FailureDetector::default()),
                view: watch::Sender::new(None),
                book: watch::Sender::new(None),
                progress: watch::Sender::new(BTreeMap::new()),
                wake: Notify::new(),
            }),
        }
    }
}

impl LeaderHandle {
    /// Milliseconds since this process began: the leader's own elapsed time.
    pub fn elapsed_ms(&self) -> u64 {
        self.shared.began.elapsed().as_millis() as u64
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
