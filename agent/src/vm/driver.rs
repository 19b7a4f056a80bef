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
use model::vm::{Presence, StopCause};
use proto::v1;
use tracing::{info, warn};
use uuid::Uuid;

use crate::hypervisor::call::{Answer, Call};
use crate::hypervisor::{HypervisorError, JobStats, Result as Called};
use crate::vm::driver::watch::{Hint, Watching};
use crate::vm::isolation::{Isolation, is_silence};
use crate::vm::ledger::Ledger;
use crate::vm::order::Order;
use crate::vm::work::Work;

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

    /// It runs: no call of an agent before this one can let it run any more.
    fn has_come(&mut self, scene: &mut Scene<'_>) {
        self.of_new_ledger = false;
        if let Err(error) = scene.ledger.note_come(self.uuid) {
            let error = &error as &dyn std::error::Error;
            warn!(uuid = %self.uuid, error, "that it runs cannot be noted");
        }
    }
}

mod looks;
mod migration;
mod orders;
mod reports;
mod self_fence;
mod watch;

#[cfg(test)]
mod tests;
