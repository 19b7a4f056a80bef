//! The one task that touches one VM, and that speaks for it: orders and events in, reports out, in order.
//!
//! ```text
//!  order list ─▶ request_queue::judge ─▶ ledger (synced) ─▶ work (a task of its own) ─▶ ledger ─▶ reports
//!  event      ─▶ look ─────────────────────────────────────────────────────────────────────────▶ reports
//! ```
//! While work is under way events are kept for its end: they belong to it.

mod work;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::node::SeenDomain;
use model::vm::{Presence, StopCause};
use proto::v1;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};
use uuid::Uuid;

use crate::hypervisor::{HypervisorHandle, JobStats};
use crate::vm::ledger::Ledger;
use crate::vm::order::{Kind, Order};
use crate::vm::request_queue::{Verdict, judge};

/// One look at a domain; libvirt answers in milliseconds, or it hangs.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// A question that could not be answered is asked again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What a driver is told.
#[derive(Debug)]
pub enum Message {
    /// All orders outstanding for this VM.
    Orders(Vec<Order>),
    /// Something happened to the domain.
    Changed,
    /// It ended.
    Stopped(StopCause),
    /// A session began with this inventory: `None` where the domain was not in it.
    Registered(Option<SeenDomain>),
}

/// How far migrations are, by VM, with the order they belong to.
pub type Jobs = Arc<Mutex<BTreeMap<Uuid, (u64, JobStats)>>>;

/// What all drivers share.
#[derive(Clone)]
pub struct Tools {
    /// The hypervisor.
    pub hypervisor: HypervisorHandle,
    /// The ledger.
    pub ledger: Ledger,
    /// Where reports go.
    pub reports: mpsc::UnboundedSender<v1::Report>,
    /// Where migrations tell how far they are.
    pub jobs: Jobs,
    /// How many orders are being carried out: as long as there are any, a guest may come to life here.
    pub working: Arc<AtomicUsize>,
}

/// What the work under way may be told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Control {
    /// End a graceful stop, or a migration.
    cut_short: bool,
    /// Rises with each event of the domain.
    events: u64,
}

struct Work {
    order: Order,
    control: watch::Sender<Control>,
    task: JoinHandle<Result<(), String>>,
}

struct Driver {
    uuid: Uuid,
    tools: Tools,
    known: Option<SeenDomain>,
    cause: Option<StopCause>,
    work: Option<Work>,
    outstanding: Vec<Order>,
    unanswered: bool,
    /// When it was first found gone without a word on why.
    missed_since: Option<Instant>,
}

/// Starts a VM's driver.
pub fn spawn(uuid: Uuid, tools: Tools) -> mpsc::UnboundedSender<Message> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let driver = Driver {
        uuid,
        tools,
        known: None,
        cause: None,
        work: None,
        outstanding: Vec::new(),
        unanswered: false,
        missed_since: None,
    };
    tokio::spawn(driver.run(receiver));
    sender
}

impl Driver {
    async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) {
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => self.take(message).await,
                    None => return,
                },
                ended = work_end(&mut self.work) => self.ended(ended).await,
                () = tokio::time::sleep(LOOK_AGAIN), if self.unanswered => self.look(false).await,
            }
        }
    }

    async fn take(&mut self, message: Message) {
        match message {
            Message::Orders(orders) => {
                self.outstanding = orders;
                self.consider().await;
            }
            Message::Registered(seen) => {
                self.known = seen;
                // Orders of the session before are not this one's.
                self.outstanding.clear();
            }
            Message::Changed => self.event(None).await,
            Message::Stopped(cause) => self.event(Some(cause)).await,
        }
    }

    async fn event(&mut self, cause: Option<StopCause>) {
        self.cause = cause.or(self.cause);
        match &self.work {
            Some(work) => work.control.send_modify(|control| control.events += 1),
            None => self.look(false).await,
        }
    }

    /// Goes through the outstanding orders, the oldest first.
    async fn consider(&mut self) {
        let mut orders = self.outstanding.clone();
        orders.sort_by_key(|order| order.id);
        for order in orders {
            let noted = self.tools.ledger.entry(self.uuid);
            match judge(&order, noted.as_ref(), self.work.as_ref().map(|work| &work.order)) {
                Verdict::Run => self.begin(order),
                Verdict::AnswerAgain(error) => self.send_done(&order, error),
                Verdict::Look => self.answer_probe(&order).await,
                Verdict::Hasten => {
                    info!(vm = order.vm, order = order.id, "the stop is hastened");
                    if let Err(error) =
                        self.tools.ledger.begin(self.uuid, order.id, order.generation)
                    {
                        warn!(
                            vm = order.vm,
                            error = &error as &dyn std::error::Error,
                            "an order cannot be noted"
                        );
                    } else if let Some(work) = &mut self.work {
                        // The newer order takes the older one's place: its end is the end of both.
                        work.order = order;
                        work.control.send_modify(|control| control.cut_short = true);
                    }
                }
                Verdict::CallOff => {
                    if let Some(work) = &mut self.work {
                        work.order = order;
                        work.control.send_modify(|control| control.cut_short = true);
                    }
                }
                Verdict::Stale => {
                    warn!(
                        vm = order.vm,
                        order = order.id,
                        "an order that was ruled out is refused"
                    );
                    self.send_done(
                        &order,
                        Some("this node has promised not to do it any more".into()),
                    );
                }
                Verdict::UnderWay | Verdict::Wait => {}
            }
        }
    }

    fn begin(&mut self, order: Order) {
        let noted = self.tools.ledger.begin(self.uuid, order.id, order.generation);
        if let Err(error) = noted {
            warn!(
                vm = order.vm,
                error = &error as &dyn std::error::Error,
                "an order cannot be noted, so it is not done"
            );
            return self.send_done(&order, Some(error.to_string()));
        }
        info!(
            vm = order.vm,
            order = order.id,
            generation = order.generation,
            what = name(&order.kind),
            "begun"
        );
        self.tools.working.fetch_add(1, Ordering::SeqCst);
        let (control, controlled) = watch::channel(Control::default());
        let task = tokio::spawn(work::carry_out(self.tools.clone(), order.clone(), controlled));
        self.work = Some(Work { order, control, task });
    }

    async fn ended(&mut self, result: Result<(), String>) {
        let Some(Work { order, .. }) = self.work.take() else { return };
        self.tools.working.fetch_sub(1, Ordering::SeqCst);
        // Its end is told here; the list that still names it is an old one.
        self.outstanding.retain(|outstanding| outstanding.id != order.id);
        let error = result.err();
        if error.is_none() && matches!(order.kind, Kind::Migrate { .. }) {
            // libvirt's event may come a moment after its answer.
            self.cause.get_or_insert(StopCause::MigratedAway);
        }
        match &error {
            None => info!(vm = order.vm, order = order.id, what = name(&order.kind), "done"),
            Some(error) => {
                warn!(vm = order.vm, order = order.id, what = name(&order.kind), error, "failed")
            }
        }
        if let Err(error) = self.tools.ledger.finish(self.uuid, order.id, error.clone()) {
            // It will be looked at again by whoever is asked next; what was done stays done.
            warn!(
                vm = order.vm,
                error = &error as &dyn std::error::Error,
                "the end of an order cannot be noted"
            );
        }
        let started = matches!(order.kind, Kind::Start { .. }) && error.is_none();
        if started {
            // The domain first, so that the cluster knows where it is when it hears that it is started.
            self.look(true).await;
            self.send_done(&order, error);
        } else {
            self.send_done(&order, error);
            self.look(true).await;
        }
        self.consider().await;
    }

    /// What is seen now; told when it is news. Nothing is told when libvirt does not answer: silence is not absence.
    async fn look(&mut self, after_work: bool) {
        let uuid = self.uuid;
        match self
            .tools
            .hypervisor
            .call("look at a domain", LOOK_LIMIT, move |it| it.look(uuid))
            .await
        {
            Ok(Some(seen)) => {
                self.unanswered = false;
                self.missed_since = None;
                self.cause = None;
                if self.known.as_ref() != Some(&seen) {
                    self.send_seen(seen);
                }
            }
            Ok(None) if after_work || self.known.is_some() => {
                // Why it went decides whether it may be started again, and that is told by an event which may come after
                // this look. It is waited for; a domain whose end nobody saw is told without.
                let missed = *self.missed_since.get_or_insert_with(Instant::now);
                self.unanswered =
                    !after_work && self.cause.is_none() && missed.elapsed() < LOOK_AGAIN;
                if !self.unanswered {
                    let floor = self.tools.ledger.entry(uuid).map_or(0, |entry| entry.floor);
                    self.send_absent(floor);
                }
            }
            Ok(None) => self.unanswered = false,
            Err(error) => {
                if !self.unanswered {
                    warn!(%uuid, %error, "it cannot be told whether the domain is here");
                }
                self.unanswered = true;
            }
        }
    }

    /// A probe's answer "absent" is a promise, kept on disk before it is given.
    async fn answer_probe(&mut self, order: &Order) {
        let uuid = self.uuid;
        let seen = self
            .tools
            .hypervisor
            .call("look at a domain", LOOK_LIMIT, move |it| it.look(uuid))
            .await;
        match seen {
            Ok(Some(seen)) => self.send_seen(seen),
            Ok(None) => match self.tools.ledger.promise(uuid, order.id) {
                Ok(()) => {
                    let floor = self.tools.ledger.entry(uuid).map_or(order.id, |entry| entry.floor);
                    self.send_absent(floor);
                }
                Err(error) => warn!(
                    error = &error as &dyn std::error::Error,
                    "a promise cannot be noted, so it is not given"
                ),
            },
            // The leader asks again.
            Err(error) => {
                warn!(vm = order.vm, %error, "it cannot be told whether the domain is here")
            }
        }
    }

    fn send(&self, report: v1::report::Report) {
        // The session's queue lives as long as the process.
        let _ = self.tools.reports.send(v1::Report { report: Some(report) });
    }

    fn send_seen(&mut self, seen: SeenDomain) {
        self.send(v1::report::Report::Seen(wire(self.uuid, &seen)));
        self.known = Some(seen);
    }

    /// With the cause, which is kept until the domain is seen again: a probe's answer must not know less than the word
    /// before it.
    fn send_absent(&mut self, floor: u64) {
        self.known = None;
        self.missed_since = None;
        let cause = match self.cause {
            None => v1::StopCause::Unspecified,
            Some(StopCause::GuestShutdown) => v1::StopCause::GuestShutdown,
            Some(StopCause::Destroyed) => v1::StopCause::Destroyed,
            Some(StopCause::Crashed) => v1::StopCause::GuestCrashed,
            Some(StopCause::MigratedAway) => v1::StopCause::MigratedAway,
            Some(StopCause::Saved) => v1::StopCause::Saved,
            Some(StopCause::Failed) => v1::StopCause::Failed,
            Some(StopCause::Unknown) => v1::StopCause::Unknown,
        };
        self.send(v1::report::Report::Absent(v1::Absent {
            uuid: self.uuid.to_string(),
            floor,
            cause: cause.into(),
        }));
    }

    fn send_done(&self, order: &Order, error: Option<String>) {
        self.send(v1::report::Report::OrderDone(v1::OrderDone {
            uuid: self.uuid.to_string(),
            order: order.id,
            error,
        }));
    }
}

async fn work_end(work: &mut Option<Work>) -> Result<(), String> {
    match work {
        Some(work) => (&mut work.task).await.unwrap_or_else(|error| Err(error.to_string())),
        None => std::future::pending().await,
    }
}

fn name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Start { .. } => "start",
        Kind::Stop { .. } => "stop",
        Kind::Migrate { .. } => "migrate",
        Kind::Adopt => "adopt",
        Kind::Probe => "probe",
    }
}

/// A domain as it goes over the wire.
pub fn wire(uuid: Uuid, seen: &SeenDomain) -> v1::SeenDomain {
    let presence = match seen.presence {
        None => v1::Presence::Inactive,
        Some(Presence::Running) => v1::Presence::Running,
        Some(Presence::Paused) => v1::Presence::Paused,
        Some(Presence::Incoming) => v1::Presence::Incoming,
        Some(Presence::ShuttingDown) => v1::Presence::ShuttingDown,
        Some(Presence::Crashed) => v1::Presence::Crashed,
    };
    v1::SeenDomain {
        uuid: uuid.to_string(),
        name: seen.name.clone(),
        presence: presence.into(),
        memory_mib: seen.memory_mib,
    }
}

/// The jobs under way; held for a few instructions only.
pub fn jobs(jobs: &Jobs) -> std::sync::MutexGuard<'_, BTreeMap<Uuid, (u64, JobStats)>> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
