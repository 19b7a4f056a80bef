//! Hooks: the operator's programs, run by the leader when something happened.
//!
//! ```text
//!  committed events ─▶ look ─▶ one queue per hook ─▶ one program at a time per hook ─▶ the log
//!                               full: dropped, counted     a few at a time in all
//! ```
//! They are advice to the outside and nothing waits for them: how a program ends changes nothing here. A leader runs a hook
//! once for an event that was committed after it began to lead. What a leader had not begun when it ended is not
//! made up for by the next one, and what an old leader still applied may be told by both.

pub mod config;
mod program;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use model::ClusterState;
use model::event::Event;
use model::id::ClusterId;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::task::JoinHandle;
use tracing::{info, warn};

pub use config::{Hook, HookError};

/// What waits for one hook at the most. A host of a hundred VMs that dies makes a few hundred events.
const QUEUE: usize = 1_000;
/// Programs at once, over all hooks: a replica may be a small machine.
const AT_ONCE: usize = 4;
/// No term of Raft's: this replica does not lead.
const NOT_LEADING: u64 = 0;

/// An event's place in the order of all.
type Place = (u64, u32);

/// All hooks of this replica. Their programs end when this is dropped.
pub struct Hooks {
    lines: Vec<Line>,
    /// The term that this replica leads in, or [`NOT_LEADING`].
    term: Arc<AtomicU64>,
    /// The last event that was looked at, over all terms of this process: none is run twice.
    told: Place,
}

/// One hook and what waits for it.
struct Line {
    hook: Arc<Hook>,
    queue: mpsc::Sender<Call>,
    /// Events that found the queue full and were not yet spoken of.
    dropped: u64,
    worker: JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

/// One event on its way to one program.
struct Call {
    term: u64,
    cluster: Option<ClusterId>,
    event: Arc<Event>,
}

impl Hooks {
    /// Ready to be told of leadership and events. To be called within the runtime.
    pub fn new(hooks: Vec<Hook>) -> Self {
        Self::with(hooks, QUEUE, AT_ONCE)
    }

    fn with(hooks: Vec<Hook>, queue: usize, at_once: usize) -> Self {
        let term = Arc::new(AtomicU64::new(NOT_LEADING));
        let slots = Arc::new(Semaphore::new(at_once));
        let lines = hooks
            .into_iter()
            .map(|hook| {
                let hook = Arc::new(hook);
                let (queue, calls) = mpsc::channel(queue);
                let worker = tokio::spawn(work(hook.clone(), calls, term.clone(), slots.clone()));
                Line { hook, queue, dropped: 0, worker }
            })
            .collect();
        Self { lines, term, told: (0, 0) }
    }

    /// This replica leads from now on; what happened before is not its to tell.
    pub(crate) fn begin(&mut self, term: u64, state: &ClusterState) {
        self.told = self.told.max(last(state));
        self.term.store(term, Ordering::SeqCst);
    }

    /// It no longer leads: what waits is not run.
    pub(crate) fn end(&mut self) {
        self.term.store(NOT_LEADING, Ordering::SeqCst);
    }

    /// Takes up what happened since the last look. Waits for nothing.
    pub(crate) fn look(&mut self, state: &ClusterState) {
        if self.lines.is_empty() {
            return;
        }
        let told = self.told;
        let mut new: Vec<_> =
            state.events.iter().rev().take_while(|event| place(event) > told).collect();
        new.reverse();
        let term = self.term.load(Ordering::SeqCst);
        for event in new {
            self.told = place(event);
            for line in self.lines.iter_mut().filter(|line| line.hook.wants(event.kind)) {
                line.put(Call { term, cluster: state.cluster, event: event.clone() });
            }
        }
    }
}

impl Line {
    fn put(&mut self, call: Call) {
        match self.queue.try_send(call) {
            Ok(()) if self.dropped > 0 => {
                let (hook, events) = (self.hook.name(), std::mem::take(&mut self.dropped));
                warn!(hook, events, "events were dropped, for the hook did not keep up");
            }
            Ok(()) => {}
            Err(TrySendError::Full(call)) => {
                if self.dropped == 0 {
                    let (hook, revision) = (self.hook.name(), call.event.revision);
                    warn!(
                        hook,
                        revision,
                        "the hook does not keep up: events are dropped from here on, and will be counted"
                    );
                }
                self.dropped += 1;
            }
            // The worker ends with the process only.
            Err(TrySendError::Closed(_)) => {}
        }
    }
}

/// Runs one hook's program for each event, in order.
async fn work(
    hook: Arc<Hook>,
    mut calls: mpsc::Receiver<Call>,
    leading: Arc<AtomicU64>,
    slots: Arc<Semaphore>,
) {
    let mut late = 0u64;
    while let Some(call) = calls.recv().await {
        // Closed never: the semaphore lives as long as its holders.
        let Ok(slot) = slots.acquire().await else { return };
        if leading.load(Ordering::SeqCst) != call.term {
            late += 1;
        } else {
            program::run(&hook, call.cluster, &call.event).await;
        }
        drop(slot);
        if late > 0 && calls.is_empty() {
            let (hook, events) = (hook.name(), std::mem::take(&mut late));
            info!(hook, events, "events were not told: this replica no longer leads in their term");
        }
    }
}

fn place(event: &Event) -> Place {
    (event.revision, event.sequence)
}

fn last(state: &ClusterState) -> Place {
    state.events.back().map_or((0, 0), |event| place(event))
}

#[cfg(test)]
mod tests;
