//! Stepper: all that this node does with one VM, and the one that speaks for it. Orders, events and answers of the
//! hypervisor come in; calls and reports go out, in order.
//!
//! ```text
//!  order list ─▶ request_queue::judge ─▶ ledger (synced) ─▶ work, call by call ─▶ ledger ─▶ reports
//!  event      ─▶ look ──────────────────────────────────────────────────────────────────▶ reports
//!  lease over ─▶ isolation: look ─▶ suspend or destroy ─▶ look ─▶ safe                  (libvirt hangs ─▶ kill)
//! ```
//! While work is under way events are kept for its end: they belong to it.

use std::collections::BTreeMap;

use model::node::SeenDomain;
use model::sabotage::{Rule, off};
use model::vm::{OnIsolation, Presence, StopCause};
use proto::convert::agent as convert;
use proto::v1;
use tracing::{info, warn};
use uuid::Uuid;

use crate::hypervisor::call::{Answer, Call};
use crate::hypervisor::{HypervisorError, JobStats, Result as Called};
use crate::vm::driver::watch::{Hint, Watching};
use crate::vm::isolation::{Isolation, IsolationStep, is_silence};
use crate::vm::ledger::{IsolationTerms, Ledger, Suspension};
use crate::vm::order::{Kind, Order};
use crate::vm::request_queue::{Verdict, judge};
use crate::vm::work::{Next, Outcome, Work};

/// A question that could not be answered is asked again after this.
const LOOK_AGAIN_MS: u64 = 1_000;
/// libvirt has taken up what it was asked before, and shows the domain, when it has been answering for so long.
pub(crate) const SETTLE_MS: u64 = 5_000;
/// While a migration runs it is asked this often how far it is.
const SAMPLE_PERIOD_MS: u64 = 200;

/// What a driver works with at one step.
pub(crate) struct Scene<'s> {
    /// Now, in the agent's elapsed milliseconds.
    pub(crate) now: u64,
    /// The node holds its lease.
    pub(crate) lease: bool,
    /// The ledger.
    pub(crate) ledger: &'s mut Ledger,
    /// Calls to be made.
    pub(crate) calls: &'s mut Vec<VmCall>,
    /// What the cluster is to hear.
    pub(crate) reports: &'s mut Vec<v1::Report>,
    /// The number of the next call.
    pub(crate) next_call: &'s mut u64,
}

/// A call to be made, and the number its answer comes back with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmCall {
    /// Which VM.
    pub uuid: Uuid,
    /// By which its answer is known.
    pub id: u64,
    /// What.
    pub call: Call,
}

/// What a call gave, as the cluster is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// Done.
    Done,
    /// What is seen: `None` for a sure "not here".
    Domain(Option<SeenDomain>),
    /// How far a migration is.
    Job(Option<JobStats>),
    /// A domain XML.
    Xml(String),
    /// Whether there was something to restore.
    Restored(bool),
}

/// Why a call was made.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Purpose {
    /// Something may have changed.
    Look,
    /// A look from before work began: it says nothing any more.
    Outdated,
    /// Work ended: how it is now, told before the end of a start and after any other.
    LookAfter(Option<(Order, Option<String>)>),
    /// The cluster asks.
    Probe(Order),
    /// A step of the work.
    Work,
    /// How far a migration is.
    Sample,
    /// A migration is called off.
    Abort,
    /// Its guest is to run on at the target.
    PostCopy,
    /// Whether its guest works.
    Check,
    /// A step of isolation, by its number.
    Isolation(u32),
}

/// How far it is known what became of a call that outlived its agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unsettled {
    /// libvirt has not answered yet.
    Unseen,
    /// libvirt answers; what it was asked before it takes up until then.
    Until(u64),
}

/// One VM on this node.
#[derive(Debug)]
pub(crate) struct Driver {
    uuid: Uuid,
    known: Option<SeenDomain>,
    /// It is not active, and libvirt has a definition of it; and what the cluster was told of that.
    defined: Option<SeenDomain>,
    told_defined: Option<SeenDomain>,
    cause: Option<StopCause>,
    /// The first call that was begun after the cause was told: what an earlier one finds is from before the end.
    cause_before: u64,
    /// What self-fence asked of a libvirt that gave no answer may be done until then, though the lease is back.
    stop_may_come: Option<u64>,
    /// Its agent has just begun: what it finds suspended has been so since the agent before it did that.
    inherits_hold: bool,
    work: Option<Work>,
    outstanding: Vec<Order>,
    calls: BTreeMap<u64, Purpose>,
    /// A look is to follow the one under way.
    look_again: bool,
    /// When to look without being told, if ever.
    look_at: Option<u64>,
    work_at: Option<u64>,
    sample_at: Option<u64>,
    /// When it was first found gone without a word on why.
    missed_since: Option<u64>,
    /// When its guest was first seen to have crashed, until that is told.
    crashed_since: Option<u64>,
    unanswered: bool,
    /// What is seen next is told, whether it is news or not.
    tell_anew: bool,
    /// An agent before this one began to bring it to life, and libvirt may still be about to.
    unsettled: Option<Unsettled>,
    isolation: Option<Isolation>,
    /// The ledger was new when this was first met: an agent before this one may have asked for it to run.
    of_new_ledger: bool,
    /// The numbers that the calls of earlier isolations had.
    isolation_calls: u32,
    /// What a watchdog or a panic did to the guest a moment ago, until it is seen to run after that: libvirt says of the end itself
    /// only that it shut down or crashed.
    hint: Option<Hint>,
    /// How it is checked while it runs.
    watch: Option<Watching>,
    /// The order whose copying, and whose post-copy, the cluster has been told of.
    told_copying: Option<u64>,
    post_copy: Option<u64>,
    /// How far a migration is, with the order it belongs to.
    pub(crate) job: Option<(u64, JobStats)>,
}

impl Driver {
    /// `unknown_until`: the ledger is new, so that before this moment nobody can say what libvirt was asked before.
    pub(crate) fn new(uuid: Uuid, ledger: &Ledger, unknown_until: Option<u64>) -> Self {
        let bringing =
            ledger.entry(uuid).is_some_and(|entry| entry.bringing) && !off(Rule::LostStartMayCome);
        let unsettled = match bringing {
            true => Some(Unsettled::Unseen),
            false => unknown_until.map(Unsettled::Until),
        };
        Self {
            uuid,
            tell_anew: false,
            unsettled,
            known: None,
            defined: None,
            told_defined: None,
            cause: None,
            cause_before: 0,
            stop_may_come: None,
            inherits_hold: true,
            work: None,
            outstanding: Vec::new(),
            calls: BTreeMap::new(),
            look_again: false,
            look_at: None,
            work_at: None,
            sample_at: None,
            missed_since: None,
            crashed_since: None,
            unanswered: false,
            isolation: None,
            of_new_ledger: false,
            isolation_calls: 0,
            hint: None,
            watch: None,
            told_copying: None,
            post_copy: None,
            job: None,
        }
    }

    /// Nobody remembers what was asked of libvirt for it.
    pub(crate) fn forgotten(mut self, forgotten: bool) -> Self {
        self.of_new_ledger = forgotten;
        self
    }

    /// What an agent before this one noted of a hold may go on: none of this agent's heartbeats was answered yet.
    pub(crate) fn inheriting(mut self, inherits: bool) -> Self {
        self.inherits_hold = inherits;
        self
    }

    /// A name for it where libvirt has none yet.
    pub(crate) fn name(&self) -> String {
        match &self.work {
            Some(work) => work.order.vm.clone(),
            None => self.uuid.to_string(),
        }
    }

    fn call(&mut self, scene: &mut Scene<'_>, call: Call, purpose: Purpose) {
        let id = *scene.next_call;
        *scene.next_call += 1;
        self.calls.insert(id, purpose);
        scene.calls.push(VmCall { uuid: self.uuid, id, call });
    }

    fn calling(&self, which: impl Fn(&Purpose) -> bool) -> bool {
        self.calls.values().any(which)
    }

    // ---- what comes in -------------------------------------------------------------------------------------------

    /// All orders outstanding for this VM.
    pub(crate) fn orders(&mut self, scene: &mut Scene<'_>, orders: Vec<Order>) {
        self.outstanding = orders;
        self.consider(scene);
    }

    /// It was in libvirt's list, before there was a session.
    pub(crate) fn listed(&mut self, scene: &mut Scene<'_>, seen: &SeenDomain) {
        if self.known.is_none() {
            self.known = Some(seen.clone());
            if self.is_nameless() {
                self.unanswered = true;
                self.look(scene);
            }
        }
    }

    /// libvirt has said of it that it is here.
    pub(crate) fn is_known(&self) -> bool {
        self.known.is_some()
    }

    /// A process is all that is known of it: whose it is, libvirt has not said yet.
    fn is_nameless(&self) -> bool {
        self.known.as_ref().is_some_and(|seen| seen.memory_mib == 0 && seen.generation.is_none())
    }

    /// What a control plane before this one has migrated is called off: this one has nobody but its two ends to tell it where
    /// the guest may come to.
    pub(crate) fn of_new_epoch(&mut self, scene: &mut Scene<'_>) {
        if let Some(entry) = scene.ledger.entry(self.uuid).filter(|entry| entry.generation > 0) {
            let (uuid, generation) = (self.uuid.to_string(), entry.generation);
            let started = v1::report::Report::StartedHere(v1::StartedHere { uuid, generation });
            scene.reports.push(v1::Report { report: Some(started) });
        }
        if self.work.as_ref().is_some_and(Work::migrating) {
            self.abort(scene);
        }
    }

    /// A session began with this inventory: `None` where the domain was not in it.
    pub(crate) fn registered(&mut self, scene: &mut Scene<'_>, seen: Option<SeenDomain>) {
        self.known = seen;
        self.told_defined = None;
        // The inventory was taken before the cluster was known, whose mark it may bear; and what was told while it was on
        // its way is newer than it. So it is looked and told anew, whatever that comes to.
        self.tell_anew = true;
        if self.work.is_none() {
            self.look(scene);
        }
        // Orders of the session before are not this one's.
        self.outstanding.clear();
    }

    /// Something happened to the domain, with the cause of its end if it ended.
    pub(crate) fn event(&mut self, scene: &mut Scene<'_>, cause: Option<StopCause>) {
        let cause = cause.map(|cause| self.refined(cause));
        if cause.is_some() {
            self.cause_before = *scene.next_call;
        }
        // Of one end libvirt may tell twice; the second time what was said before it is used up.
        let known = self.cause.filter(|known| {
            matches!(known, StopCause::Watchdog | StopCause::Panicked | StopCause::Terminated)
        });
        self.cause = known.or(cause).or(self.cause);
        if self.isolation.is_some() {
            self.isolation_step(scene, Isolation::look_now);
        }
        match &mut self.work {
            Some(work) => {
                let next = work.look_again(scene.now);
                self.follow(scene, next);
            }
            None => self.look(scene),
        }
    }

    /// Time has passed, or the lease is there again.
    pub(crate) fn tick(&mut self, scene: &mut Scene<'_>) {
        if self.look_at.is_some_and(|at| at <= scene.now) {
            self.look_at = None;
            if self.work.is_none() {
                self.look(scene);
            }
        }
        if self.work_at.is_some_and(|at| at <= scene.now) {
            self.work_at = None;
            if let Some(work) = &mut self.work {
                let next = work.look_again(scene.now);
                self.follow(scene, next);
            }
        }
        if self.sample_at.is_some_and(|at| at <= scene.now) {
            self.sample_at = None;
            if self.work.as_ref().is_some_and(Work::migrating) {
                self.call(scene, Call::Job, Purpose::Sample);
            }
        }
        if self.work.as_mut().is_some_and(|work| work.is_late(scene.now)) {
            self.abort(scene);
        }
        self.check_when_due(scene);
        if self.isolation.is_some() {
            self.isolation_step(scene, Isolation::tick);
        }
    }

    /// It may be about to come to life: not here yet, and not "not here".
    pub(crate) fn may_come(&self) -> bool {
        self.unsettled.is_some() || self.work.as_ref().is_some_and(Work::may_bring_to_life)
    }

    /// An answered look that did not find it: whether that is the end of waiting for what libvirt was asked before.
    fn settle(&mut self, now: u64) -> bool {
        match self.unsettled {
            None => return true,
            Some(Unsettled::Unseen) => self.unsettled = Some(Unsettled::Until(now + SETTLE_MS)),
            Some(Unsettled::Until(until)) if now < until => {}
            Some(Unsettled::Until(_)) => {
                self.unsettled = None;
                return true;
            }
        }
        let next = match self.unsettled {
            Some(Unsettled::Until(until)) => until,
            Some(Unsettled::Unseen) | None => now,
        };
        self.look_at = Some(next);
        false
    }

    /// The next moment at which it wants a tick.
    pub(crate) fn wake_at(&self) -> Option<u64> {
        let isolation = self.isolation.as_ref().and_then(Isolation::wake_at);
        let check = self.watch.as_ref().map(|watch| watch.next);
        [self.look_at, self.work_at, self.sample_at, isolation, check].into_iter().flatten().min()
    }

    /// The answer to one of its calls.
    pub(crate) fn answered(&mut self, scene: &mut Scene<'_>, id: u64, answer: Called<Answer>) {
        let Some(purpose) = self.calls.remove(&id) else { return };
        let answer = match answer {
            Err(HypervisorError::Disconnected(_) | HypervisorError::Timeout { .. })
                if off(Rule::SilenceIsNotAbsence) && purpose != Purpose::Work =>
            {
                Ok(Answer::Seen(None))
            }
            answer => answer,
        };
        let ledger = &*scene.ledger;
        let answer: Called<Seen> = answer.map(|answer| match answer {
            Answer::Seen(facts) => {
                let (here, defined): (Option<_>, Option<_>) = match facts {
                    Some(facts) if facts.seen.presence.is_none() => (None, Some(facts.seen)),
                    facts => (facts, None),
                };
                self.defined = defined;
                Seen::Domain(here.map(|facts| ledger.as_ours(facts)))
            }
            Answer::Job(stats) => Seen::Job(stats),
            Answer::Done => Seen::Done,
            Answer::Xml(xml) => Seen::Xml(xml),
            Answer::Restored(restored) => Seen::Restored(restored),
        });
        if let Ok(Seen::Domain(Some(seen))) = &answer
            && seen.presence == Some(Presence::Running)
            && self.work.is_none()
        {
            self.has_come(scene);
        }
        if matches!(purpose, Purpose::Isolation(_)) && answer.as_ref().is_err_and(is_silence) {
            self.stop_may_come = Some(scene.now + SETTLE_MS);
        }
        match purpose {
            Purpose::Look => {
                self.looked(scene, id, answer, None);
                self.tell_definition(scene);
                if std::mem::take(&mut self.look_again) {
                    self.look(scene);
                }
            }
            Purpose::Outdated => {}
            Purpose::LookAfter(done) => {
                self.looked(scene, id, answer, Some(done));
                self.tell_definition(scene);
            }
            Purpose::Probe(order) => {
                self.probed(scene, &order, answer);
                self.tell_definition(scene);
            }
            Purpose::Work => {
                let Some(work) = &mut self.work else { return };
                let runs = work.lets_run() && answer.is_ok();
                let next = work.answered(answer, scene.now, scene.lease);
                if runs {
                    // Whoever stops it from here on is not Berth.
                    self.forget_suspended(scene);
                }
                self.follow(scene, next);
            }
            Purpose::Sample => {
                if let Ok(Seen::Job(Some(stats))) = answer {
                    self.sampled(scene, stats);
                }
                self.sample_at = Some(scene.now + SAMPLE_PERIOD_MS);
            }
            Purpose::PostCopy => self.post_copy_answered(scene, answer),
            Purpose::Check => self.checked(scene, answer),
            Purpose::Abort => {
                if let Err(error) = answer {
                    info!(uuid = %self.uuid, %error, "the migration could not be called off; its end decides");
                }
            }
            Purpose::Isolation(number) if self.isolation.is_some() => {
                self.isolation_step(scene, |it, now| it.answered(number, &answer, now));
            }
            // What it was asked for is over, and it may have taken effect after that.
            Purpose::Isolation(_) => {
                self.look(scene);
                self.consider(scene);
            }
        }
    }

    // ---- orders --------------------------------------------------------------------------------------------------

    /// Goes through the outstanding orders, the oldest first.
    pub(crate) fn consider(&mut self, scene: &mut Scene<'_>) {
        // How it is after the last work comes first: the next order is judged knowing it. And what self-fence has asked
        // for may still take effect though the lease is back.
        let waiting = |it: &Purpose| matches!(it, Purpose::LookAfter(_) | Purpose::Isolation(_));
        if self.work.is_none() && (self.calling(waiting) || self.unsettled.is_some()) {
            match self.unsettled {
                Some(Unsettled::Unseen) => self.look(scene),
                Some(Unsettled::Until(until)) => {
                    self.look_at = Some(self.look_at.map_or(until, |at| at.min(until)));
                }
                None => {}
            }
            return;
        }
        let mut orders = self.outstanding.clone();
        orders.sort_by_key(|order| order.id);
        for order in orders {
            let running = self.work.as_ref().map(|work| &work.order);
            let noted = (scene.ledger.entry(self.uuid), scene.ledger.memory_from());
            match judge(&order, noted, running, scene.lease) {
                Verdict::Run => self.begin(scene, order, false),
                Verdict::RunAgain => self.begin(scene, order, true),
                Verdict::AnswerAgain(error) => self.send_done(scene, &order, error),
                Verdict::Look => {
                    let asked =
                        |it: &Purpose| matches!(it, Purpose::Probe(other) if other.id >= order.id);
                    if !self.calling(asked) {
                        self.call(scene, Call::Look, Purpose::Probe(order));
                    }
                }
                Verdict::Hasten => self.hasten(scene, order),
                Verdict::CallOff => {
                    if let Some(work) = &mut self.work {
                        work.order = order;
                    }
                    self.abort(scene);
                }
                Verdict::Stale => {
                    warn!(
                        vm = order.vm,
                        order = order.id,
                        "an order that was ruled out is refused"
                    );
                    let why = "this node has promised not to do it any more".to_owned();
                    self.send_done(scene, &order, Some(why));
                }
                Verdict::UnderWay | Verdict::Wait | Verdict::NoLease => {}
            }
        }
    }

    fn begin(&mut self, scene: &mut Scene<'_>, order: Order, again: bool) {
        if let Err(error) = scene.ledger.begin(&order) {
            warn!(
                vm = order.vm,
                error = &error as &dyn std::error::Error,
                "an order cannot be noted, so it is not done"
            );
            return self.send_done(scene, &order, Some(error.to_string()));
        }
        info!(
            vm = order.vm,
            order = order.id,
            generation = order.generation,
            what = order.kind.as_str(),
            "begun"
        );
        // Without a lease it goes by what it is told now.
        let told = self.policy_without_lease(scene.ledger);
        if let Some(isolation) = &mut self.isolation {
            isolation.follow(told, scene.now);
        }
        // What a look that is under way finds may be from before this.
        self.calls
            .values_mut()
            .filter(|it| **it == Purpose::Look)
            .for_each(|it| *it = Purpose::Outdated);
        let mut work = Work::new(order, again);
        let next = work.begin(scene.now);
        self.work = Some(work);
        self.follow(scene, next);
    }

    fn hasten(&mut self, scene: &mut Scene<'_>, order: Order) {
        info!(vm = order.vm, order = order.id, "the stop is hastened");
        if let Err(error) = scene.ledger.begin(&order) {
            let error = &error as &dyn std::error::Error;
            return warn!(vm = order.vm, error, "an order cannot be noted");
        }
        if let Some(work) = &mut self.work {
            // The newer order takes the older one's place: its end is the end of both.
            work.order = order;
            let next = work.hasten(scene.now);
            self.follow(scene, next);
        }
    }

    fn abort(&mut self, scene: &mut Scene<'_>) {
        if self.work.as_mut().is_some_and(Work::call_off) {
            self.call(scene, Call::AbortJob, Purpose::Abort);
        }
    }

    fn follow(&mut self, scene: &mut Scene<'_>, next: Next) {
        match next {
            Next::Call(call) => {
                if matches!(call, Call::Create { .. } | Call::Restore { .. })
                    && let Some(work) = &self.work
                {
                    // It comes to life stopped, and may do so when nobody waits for it any more: it is known as Berth's
                    // then. One that cannot be noted looks as if somebody had paused it.
                    self.note_suspended(scene, Suspension::created(work.order.generation));
                }
                if matches!(call, Call::Migrate(_)) {
                    self.sample_at = Some(scene.now + SAMPLE_PERIOD_MS);
                }
                self.call(scene, call, Purpose::Work);
            }
            Next::Wait(until) => self.work_at = Some(until),
            Next::End(outcome) => self.ended(scene, outcome),
            Next::Nothing => {}
        }
        if let Some((note, text)) = self.work.as_mut().and_then(Work::take_note) {
            self.noted(scene, note, text);
        }
    }

    fn ended(&mut self, scene: &mut Scene<'_>, outcome: Outcome) {
        let Some(mut work) = self.work.take() else { return };
        let lost = work.was_lost() && !off(Rule::LostStartMayCome);
        if let Some(isolation) = &mut self.isolation {
            isolation.doubt(scene.now);
            if lost {
                isolation.may_run_yet();
            }
        }
        if let Some((note, text)) = work.take_note() {
            self.noted(scene, note, text);
        }
        if lost {
            self.unsettled = Some(Unsettled::Unseen);
        }
        let order = work.order;
        (self.work_at, self.sample_at, self.job) = (None, None, None);
        // Its end is told here; the list that still names it is an old one.
        self.outstanding.retain(|outstanding| outstanding.id != order.id);
        let error = outcome.err();
        if error.is_none() && matches!(order.kind, Kind::Migrate { .. }) {
            // libvirt's event may come a moment after its answer.
            self.cause.get_or_insert(StopCause::MigratedAway);
        }
        match &error {
            None => info!(vm = order.vm, order = order.id, what = order.kind.as_str(), "done"),
            Some(error) => {
                warn!(vm = order.vm, order = order.id, what = order.kind.as_str(), error, "failed");
            }
        }
        if order.kind == Kind::Resume && error.is_none() {
            self.forget_suspended(scene);
        }
        let marked = self.known.as_ref().and_then(|seen| seen.generation);
        if order.kind == Kind::Adopt
            && error.is_none()
            && scene.ledger.is_suspended(self.uuid, marked)
            && let Some(noted) = scene.ledger.suspension(self.uuid)
        {
            // The same copy has another mark now.
            let generation = Some(order.generation);
            self.note_suspended(scene, Suspension { generation, ..noted });
        }
        if let Err(error) = scene.ledger.finish(self.uuid, order.id, error.clone(), lost) {
            // It will be looked at again by whoever is asked next; what was done stays done.
            let error = &error as &dyn std::error::Error;
            warn!(vm = order.vm, error, "the end of an order cannot be noted");
        }
        let done = match (&order.kind, &error) {
            // The domain first, so that the cluster knows where it is when it hears that it is started, and how it
            // ended when it hears that it is stopped: a guest that left by a migration is not down.
            (Kind::Start(_) | Kind::Resume | Kind::Stop { .. }, None) => Some((order, error)),
            _ => {
                self.send_done(scene, &order, error);
                None
            }
        };
        self.call(scene, Call::Look, Purpose::LookAfter(done));
    }

    /// It runs: no call of an agent before this one can let it run any more.
    fn has_come(&mut self, scene: &mut Scene<'_>) {
        self.of_new_ledger = false;
        if let Err(error) = scene.ledger.note_come(self.uuid) {
            let error = &error as &dyn std::error::Error;
            warn!(uuid = %self.uuid, error, "that it runs cannot be noted");
        }
    }

    fn note_suspended(&self, scene: &mut Scene<'_>, noted: Suspension) -> bool {
        let noted = scene.ledger.note_suspended(self.uuid, noted);
        if let Err(error) = &noted {
            let error = error as &dyn std::error::Error;
            warn!(uuid = %self.uuid, error, "a suspension cannot be noted");
        }
        noted.is_ok()
    }

    fn forget_suspended(&self, scene: &mut Scene<'_>) {
        if let Err(error) = scene.ledger.forget_suspended(self.uuid) {
            let error = &error as &dyn std::error::Error;
            warn!(uuid = %self.uuid, error, "the end of a suspension cannot be noted");
        }
    }

    // ---- looks ---------------------------------------------------------------------------------------------------

    fn look(&mut self, scene: &mut Scene<'_>) {
        let busy = |it: &Purpose| matches!(it, Purpose::Look | Purpose::LookAfter(_));
        if self.calling(busy) {
            self.look_again = true;
        } else {
            self.call(scene, Call::Look, Purpose::Look);
        }
    }

    /// What is seen now; told when it is news. Nothing is told when libvirt does not answer: silence is not absence.
    fn looked(
        &mut self,
        scene: &mut Scene<'_>,
        id: u64,
        answer: Called<Seen>,
        after: Option<Option<(Order, Option<String>)>>,
    ) {
        let after_work = after.is_some();
        match answer {
            Ok(Seen::Domain(Some(seen))) => {
                self.unsettled = None;
                self.unanswered = false;
                self.missed_since = None;
                self.cause.take_if(|_| id >= self.cause_before);
                // A look may come between the two: what happened, and the end of QEMU that follows from it.
                let running = seen.presence == Some(Presence::Running);
                self.hint.take_if(|hint| running && scene.now >= hint.until);
                self.settle_suspended(scene, &seen);
                if self.is_passing(&seen, scene.now) {
                    self.look_at = Some(scene.now + LOOK_AGAIN_MS);
                } else if self.known.as_ref() != Some(&seen) || self.tell_anew {
                    self.send_seen(scene, seen);
                }
            }
            Ok(_) if self.unsettled.is_some() => {
                if self.settle(scene.now) {
                    self.gone_for_now(scene);
                    if self.known.is_some() || self.tell_anew {
                        let floor = scene.ledger.entry(self.uuid).map_or(0, |entry| entry.floor);
                        self.send_absent(scene, floor);
                    }
                    self.consider(scene);
                }
            }
            Ok(_)
                if after_work
                    || self.known.is_some()
                    || (self.tell_anew && self.work.is_none()) =>
            {
                // Why it went decides whether it may be started again, and that is told by an event which may come after
                // this look. It is waited for; a domain whose end nobody saw is told without.
                let missed = *self.missed_since.get_or_insert(scene.now);
                self.unanswered = !after_work
                    && self.cause.is_none()
                    && scene.now.saturating_sub(missed) < LOOK_AGAIN_MS;
                if !self.unanswered {
                    if !after_work {
                        self.cause = self.cause.or_else(|| self.hinted(scene.now));
                    }
                    self.gone_for_now(scene);
                    let floor = scene.ledger.entry(self.uuid).map_or(0, |entry| entry.floor);
                    self.send_absent(scene, floor);
                }
            }
            Ok(_) => self.unanswered = false,
            Err(error) => {
                if !self.unanswered {
                    warn!(uuid = %self.uuid, %error, "it cannot be told whether the domain is here");
                }
                self.unanswered = true;
            }
        }
        if self.unanswered {
            self.look_at = Some(scene.now + LOOK_AGAIN_MS);
        }
        if let Some(done) = after {
            if let Some((order, error)) = done {
                self.send_done(scene, &order, error);
            }
            if std::mem::take(&mut self.look_again) {
                self.look(scene);
            }
            self.consider(scene);
        }
    }

    /// A guest that panicked is shown as crashed for the moment in which libvirt ends its QEMU, as its definition says. Only one that
    /// libvirt keeps so is told as crashed: of the other the end is told, with its cause.
    fn is_passing(&mut self, seen: &SeenDomain, now: u64) -> bool {
        let told = |known: &SeenDomain| known.presence == Some(Presence::Crashed);
        if seen.presence != Some(Presence::Crashed) || self.known.as_ref().is_none_or(told) {
            self.crashed_since = None;
            return false;
        }
        now < *self.crashed_since.get_or_insert(now) + LOOK_AGAIN_MS
    }

    /// What Berth stopped here is gone; what it asked libvirt to create may still come, stopped.
    fn gone_for_now(&self, scene: &mut Scene<'_>) {
        match scene.ledger.entry(self.uuid).filter(|entry| entry.bringing) {
            None => self.forget_suspended(scene),
            Some(entry) => {
                let generation = entry.generation;
                self.note_suspended(scene, Suspension::created(generation));
            }
        }
    }

    /// One that runs again, by whomever, is no longer self-fence's.
    fn settle_suspended(&mut self, scene: &mut Scene<'_>, seen: &SeenDomain) {
        let about_to_stop = self.calling(|purpose| matches!(purpose, Purpose::Isolation(_)));
        if !scene.lease
            || self.isolation.is_some()
            || about_to_stop
            || seen.presence != Some(Presence::Running)
        {
            return;
        }
        match self.stop_may_come.filter(|until| scene.now < *until) {
            Some(until) if scene.ledger.is_suspended(self.uuid, seen.generation) => {
                self.look_at = Some(self.look_at.map_or(until, |at| at.min(until)));
            }
            _ => self.forget_suspended(scene),
        }
    }

    /// A probe's answer "absent" is a promise, kept on disk before it is given.
    fn probed(&mut self, scene: &mut Scene<'_>, order: &Order, answer: Called<Seen>) {
        // What has been begun since knows better.
        if self.may_come() || self.work.is_some() {
            return;
        }
        match answer {
            Ok(Seen::Domain(Some(seen))) => self.send_seen(scene, seen),
            Ok(_) => match scene.ledger.promise(self.uuid, order.id) {
                Ok(()) => {
                    let noted = scene.ledger.entry(self.uuid).map(|entry| entry.floor);
                    self.send_absent(scene, noted.unwrap_or(order.id));
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    warn!(vm = order.vm, error, "a promise cannot be noted, so it is not given");
                }
            },
            // The leader asks again.
            Err(error) => {
                warn!(vm = order.vm, %error, "it cannot be told whether the domain is here");
            }
        }
    }

    // ---- isolation -----------------------------------------------------------------------------------------------

    /// The lease binds it: an order has brought it to life here or taken it over, or it bears the cluster's mark.
    fn is_bound(&self, ledger: &Ledger) -> bool {
        let marked = self.known.as_ref().is_some_and(|seen| seen.generation.is_some());
        ledger.entry(self.uuid).is_some_and(|entry| entry.bound)
            || (marked && !off(Rule::MarkBinds))
            || self.work.is_some()
    }

    /// The lease has run out: migrations are called off, and its guest is stopped (design section 3, self-fence).
    pub(crate) fn isolate(&mut self, scene: &mut Scene<'_>, terms: IsolationTerms) {
        if self.isolation.is_some() || !self.is_bound(scene.ledger) || off(Rule::SelfFence) {
            return;
        }
        let policy = self.policy_without_lease(scene.ledger);
        self.abort(scene);
        let calls = self.isolation_calls;
        let mut isolation =
            Isolation::new(policy, scene.now, (terms.self_fence_ms, terms.hold_ms), calls);
        if let Some(noted) = scene.ledger.suspension(self.uuid) {
            match noted.since_ms.filter(|_| self.inherits_hold) {
                Some(since_ms) => isolation.kept_since(since_ms),
                // It has had its lease since, or is created with stopped vCPUs and kept so from now on.
                None => {
                    let since_ms = Some(scene.now);
                    self.note_suspended(scene, Suspension { since_ms, ..noted });
                }
            }
        }
        self.inherits_hold = false;
        let asked = scene.ledger.entry(self.uuid).is_some_and(|entry| entry.bringing);
        if self.work.is_none() && (asked || self.of_new_ledger) {
            isolation.may_run_yet();
        }
        self.isolation = Some(isolation);
        self.isolation_step(scene, Isolation::tick);
    }

    /// What the ledger says of an earlier stay is not this one's: a guest that has come since, as by a migration, and was not
    /// adopted yet is suspended like one that the ledger does not know.
    fn policy_without_lease(&self, ledger: &Ledger) -> OnIsolation {
        let Some(entry) = ledger.entry(self.uuid) else { return OnIsolation::default() };
        let of_this_stay = match &self.known {
            Some(seen) => seen.generation == Some(entry.generation),
            None => entry.bringing,
        };
        match of_this_stay {
            true => entry.on_isolation,
            false => OnIsolation::default(),
        }
    }

    /// The cluster says how long a suspended copy is kept.
    pub(crate) fn hold(&mut self, hold_ms: u64) {
        if let Some(isolation) = &mut self.isolation {
            isolation.hold(hold_ms);
        }
    }

    /// Its hold is over, however it ended: what is noted of its beginning is not the next one's, nor another agent's.
    pub(crate) fn has_its_lease(&mut self, scene: &mut Scene<'_>) {
        self.inherits_hold = false;
        let noted = scene.ledger.suspension(self.uuid);
        if let Some(noted) = noted.filter(|noted| noted.since_ms.is_some()) {
            self.note_suspended(scene, Suspension { since_ms: None, ..noted });
        }
    }

    /// The lease is back: what was stopped waits for the leader's order.
    pub(crate) fn end_isolation(&mut self, scene: &mut Scene<'_>) {
        self.has_its_lease(scene);
        if let Some(isolation) = self.isolation.take() {
            self.isolation_calls = isolation.calls();
            self.look(scene);
        }
    }

    /// Its guest is stopped for sure, or there is none, or it is not the lease's.
    pub(crate) fn is_safe(&self, ledger: &Ledger) -> bool {
        if self.may_come() {
            return false;
        }
        match &self.isolation {
            Some(isolation) => isolation.is_safe(),
            None if self.is_awaited() => off(Rule::SilenceIsNotAbsence),
            None => self.known.is_none() || !self.is_bound(ledger),
        }
    }

    /// Something has happened to a domain that is not known, and libvirt has not said yet what it is: a guest of the
    /// cluster that has arrived by migration, perhaps.
    pub(crate) fn is_awaited(&self) -> bool {
        let asked = |it: &Purpose| matches!(it, Purpose::Look | Purpose::LookAfter(_));
        (self.known.is_none() || self.is_nameless()) && (self.unanswered || self.calling(asked))
    }

    fn isolation_step(
        &mut self,
        scene: &mut Scene<'_>,
        step: impl FnOnce(&mut Isolation, u64) -> IsolationStep,
    ) {
        let Some(mut isolation) = self.isolation.take() else { return };
        let step = step(&mut isolation, scene.now);
        self.isolation = Some(isolation);
        match step {
            IsolationStep::Nothing => {}
            IsolationStep::Call(number, call) => {
                // Noted before it is done: a copy that nobody knows to be ours would never be resumed.
                let noted = Suspension::fenced(scene.now);
                let call = match call {
                    Call::Suspend if !self.note_suspended(scene, noted) => Call::Destroy,
                    call => call,
                };
                self.call(scene, call, Purpose::Isolation(number));
            }
        }
    }

    // ---- reports -------------------------------------------------------------------------------------------------

    fn send_seen(&mut self, scene: &mut Scene<'_>, seen: SeenDomain) {
        let report = v1::report::Report::Seen(convert::seen(self.uuid, &seen));
        scene.reports.push(v1::Report { report: Some(report) });
        self.known = Some(seen);
        self.told_defined = None;
        self.tell_anew = false;
    }

    /// A domain that is defined and not active can be adopted: the cluster knows of it, though nothing runs.
    fn tell_definition(&mut self, scene: &mut Scene<'_>) {
        let open = self.known.is_some() || self.may_come() || self.unanswered || self.tell_anew;
        if open || self.told_defined == self.defined {
            return;
        }
        match &self.defined {
            Some(defined) => {
                let report = v1::report::Report::Seen(convert::seen(self.uuid, defined));
                scene.reports.push(v1::Report { report: Some(report) });
                self.told_defined = Some(defined.clone());
            }
            // It proves nothing of a VM, whose node leaves the set by an answered look after its order.
            None => self.send_absent(scene, 0),
        }
    }

    /// With the cause, which is kept until the domain is seen again: a probe's answer must not know less than the word
    /// before it.
    fn send_absent(&mut self, scene: &mut Scene<'_>, floor: u64) {
        self.known = None;
        // With this word its definition is forgotten, too.
        self.told_defined = None;
        self.missed_since = None;
        self.tell_anew = false;
        let report = convert::absent(self.uuid, floor, self.cause);
        scene.reports.push(v1::Report { report: Some(v1::report::Report::Absent(report)) });
    }

    fn send_done(&self, scene: &mut Scene<'_>, order: &Order, error: Option<String>) {
        let done = v1::OrderDone { uuid: self.uuid.to_string(), order: order.id, error };
        scene.reports.push(v1::Report { report: Some(v1::report::Report::OrderDone(done)) });
    }
}

mod migration;
mod watch;

#[cfg(test)]
mod tests;
