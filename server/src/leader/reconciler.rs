//! Wake, plan from the whole state, propose, publish. Takes no hint of what changed.

use std::sync::Arc;
use std::time::Duration;

use fence::FenceAgents;
use futures::stream::{self, StreamExt};
use model::command::{Command, Operation};
use model::id::RequestId;
use model::order;
use proto::convert::view::LeaderView;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::clock;
use crate::hooks::Hooks;
use crate::leader::fencer::{Fencer, Means};
use crate::leader::lead::{self, Look};
use crate::leader::{LeaderHandle, OrderBook};
use crate::raft::{ProposeError, RaftHandle};

/// How often time alone is looked at. A tenth of `suspect_after` would do; a plan costs microseconds.
const PERIOD: Duration = Duration::from_millis(100);
/// Proposals under way at once: they share fsyncs, and this is more than one fsync can take with it.
const PROPOSALS_AT_ONCE: usize = 256;

/// Leads whenever this replica is the leader, until the process ends.
pub async fn run(raft: RaftHandle, handle: LeaderHandle, agents: FenceAgents, mut hooks: Hooks) {
    let mut leadership = raft.leadership();
    loop {
        let term = *leadership.borrow_and_update();
        if let Some(term) = term {
            info!(term, "leading");
            hooks.begin(term, &raft.state());
            let mut reconciler = Reconciler {
                raft: raft.clone(),
                handle: handle.clone(),
                fencer: Fencer::new(
                    raft.clone(),
                    Means { agents: agents.clone(), desk: handle.fences() },
                    term,
                ),
                hooks: &mut hooks,
                term,
            };
            reconciler.lead(&mut leadership).await;
            hooks.end();
            handle.shared.view.send_replace(None);
            handle.shared.book.send_replace(None);
            info!(term, "no longer leading");
        } else if leadership.changed().await.is_err() {
            return;
        }
    }
}

struct Reconciler<'h> {
    raft: RaftHandle,
    handle: LeaderHandle,
    fencer: Fencer,
    hooks: &'h mut Hooks,
    term: u64,
}

impl Reconciler<'_> {
    async fn lead(&mut self, leadership: &mut watch::Receiver<Option<u64>>) {
        let (now, carried) = (self.handle.elapsed_ms(), self.handle.carried());
        let leaderless_ms = self.raft.since_another_led().as_millis() as u64;
        self.handle.detector().begin(now, &carried, now.saturating_sub(leaderless_ms));
        self.compare_elections();
        let mut applied = self.raft.applied();
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if *leadership.borrow() != Some(self.term) {
                return;
            }
            applied.mark_unchanged();
            let operations = self.look();
            let wanted = operations.len();
            if self.propose(operations).await == 0 && wanted > 0 {
                // Refused, all of it: the state has moved on, or the plan and the law disagree. Each refusal is a log entry,
                // so the next try is not at once.
                ticks.tick().await;
                continue;
            }
            tokio::select! {
                changed = leadership.changed() => if changed.is_err() { return },
                changed = applied.changed() => if changed.is_err() { return },
                () = self.handle.shared.wake.notified() => {}
                _ = ticks.tick() => {}
            }
        }
    }

    /// Longer elections than the settings speak of may cost guests a pause; they break no law.
    fn compare_elections(&self) {
        let own_ms = self.raft.timing().election_max_ms;
        let known_ms = self.raft.state().settings.election_max_ms;
        if own_ms > known_ms {
            warn!(
                own_ms,
                known_ms,
                "this replica's elections take longer than the setting election_max_ms says: guests may pause at a change of leader; raise the setting, or shorten raft.election_max_ms in this replica's configuration"
            );
        }
    }

    /// One plan, published; what it wants proposed is returned.
    fn look(&mut self) -> Vec<Operation> {
        let state = self.raft.state();
        let now = self.handle.elapsed_ms();
        let wall = clock::now();
        let Look { liveness, plan } = lead::look(&mut self.handle.detector(), &state, now, wall);
        self.fencer.look(&state, &liveness, now, wall);
        self.hooks.look(&state);
        let operations = plan.operations.clone();
        self.handle.shared.view.send_if_modified(|view| {
            let new = LeaderView { liveness, plan };
            let changed = view.as_ref().is_none_or(|view| view.plan != new.plan);
            *view = Some(Arc::new(new));
            changed
        });
        if let Some(cluster) = state.cluster {
            let orders = order::outstanding(&state);
            let scripts = model::service::order::work(&state);
            let watches = order::watches(&state);
            let (term, epoch) = (self.term, state.epoch);
            let book = OrderBook { term, epoch, cluster, orders, watches, scripts };
            self.handle.shared.book.send_if_modified(|old| {
                let changed = old.as_deref() != Some(&book);
                *old = Some(Arc::new(book));
                changed
            });
        }
        self.forget_old_progress(&state);
        operations
    }

    fn forget_old_progress(&self, state: &model::ClusterState) {
        self.handle.shared.progress.send_if_modified(|progress| {
            let before = progress.len();
            progress.retain(|uuid, _| {
                state.vm_with_uuid(uuid).is_some_and(|record| record.migration_target().is_some())
            });
            progress.len() != before
        });
    }

    /// How many were accepted.
    async fn propose(&self, operations: Vec<Operation>) -> usize {
        stream::iter(operations)
            .map(|operation| propose(&self.raft, self.term, operation))
            .buffer_unordered(PROPOSALS_AT_ONCE)
            .filter(|accepted| std::future::ready(*accepted))
            .count()
            .await
    }
}

/// Proposes as the leader of `term`. A refusal means that the state has moved on, and the next plan will see it.
pub(super) async fn propose(raft: &RaftHandle, term: u64, operation: Operation) -> bool {
    let subject = operation.subject();
    let command = Command {
        request: RequestId(Uuid::new_v4()),
        at: clock::now(),
        by: "leader".into(),
        operation,
    };
    let applied = match raft.propose_in_term(term, command).await {
        Ok(applied) => applied,
        Err(ProposeError::NotLeader { .. }) => {
            debug!(subject, term, "a decision was not proposed: no longer the leader");
            return false;
        }
        Err(error) => {
            warn!(
                subject,
                error = &error as &dyn std::error::Error,
                "a decision could not be proposed"
            );
            return false;
        }
    };
    if let Err(rejection) = &applied.outcome {
        debug!(subject, %rejection, "a decision was refused");
    }
    applied.outcome.is_ok()
}
