//! Stepper: all that is done with the scripts of one service. One call at a time, so that a check never tells of a
//! moment before the start or stop that it is taken for.
//!
//! ```text
//!  by precedence:  self-fence: stop what is bound, in reverse, and ask it   (no lease)
//!                  the order: ledger first, then the call       (a start needs the lease)
//!                  the probe: ask every script once
//!                  checks that are due, the deepest first
//! ```
//! An order that was begun by an agent that died is not begun again when it is a start: the script itself says how it is.
//! What that agent left under way is ended before the first of these; a start that was ended so has failed.

use std::collections::BTreeMap;

use model::sabotage::{Rule, off};
use proto::v1;
use proto::v1::report::Report as Kind;
use tracing::{info, warn};
use uuid::Uuid;

use crate::script::call::{Action, Outcome, ScriptCall};
use crate::script::ledger::{Bound, ServiceEntry};
use crate::script::order::{Kind as Asked, Named, ScriptOrder, Watched};
use crate::script::orphan::Orphan;
use crate::script::verdict::{self, Status};
use crate::vm::ledger::{Done, Ledger, LedgerError};

/// Between two probes of scripts that could not be said to be down.
const PROBE_AGAIN_MS: u64 = 5_000;
/// Between two attempts of self-fence to stop a script.
const STOP_AGAIN_MS: u64 = 500;
/// How long a script may take to say how it is when nothing else is set.
const STATUS_TIMEOUT_MS: u64 = 20_000;

/// What a step works with.
pub struct Scene<'a> {
    /// Milliseconds, on the clock that goes on while the host sleeps.
    pub now: u64,
    /// The lease holds.
    pub lease: bool,
    /// The memory on disk.
    pub ledger: &'a mut Ledger,
    /// Runs to be made.
    pub calls: &'a mut Vec<ScriptCall>,
    /// Runs to be ended.
    pub kills: &'a mut Vec<u64>,
    /// What the cluster is to hear.
    pub reports: &'a mut Vec<v1::Report>,
    /// The next call's number.
    pub next_call: &'a mut u64,
}

#[derive(Debug)]
struct Running {
    call: u64,
    named: Named,
    action: Action,
    what: What,
}

#[derive(Debug)]
enum What {
    /// The order of this number; something of the script was started here before it.
    Order { id: u64, bound: bool },
    /// A start of this number was begun by an agent before this one.
    Reattach(u64),
    /// The probe of this number.
    Probe(u64),
    /// The check of this number.
    Check { index: usize, started_by: u64 },
    /// Self-fence.
    SelfFence,
    /// Whether it is down after a stop that said so: of the order of this number, or of self-fence. Many a stop only tells a daemon
    /// to end.
    Stopped(Option<u64>),
}

#[derive(Debug)]
struct Watch {
    watched: Watched,
    /// When each check is due.
    due: Vec<u64>,
    /// What the cluster believes.
    well: bool,
}

#[derive(Debug)]
struct Probe {
    order: ScriptOrder,
    scripts: Vec<Named>,
    asked: usize,
    seen: Vec<String>,
    not_before: u64,
}

/// The driver of one service's scripts.
#[derive(Debug)]
pub struct ServiceDriver {
    id: Uuid,
    name: String,
    order: Option<ScriptOrder>,
    probe: Option<Probe>,
    watches: BTreeMap<String, Watch>,
    running: Option<Running>,
    isolated: bool,
    fence_again: u64,
    /// Runs of an agent before this one that are being ended.
    orphans: usize,
    /// The member whose start was among them.
    broken_start: Option<String>,
}

impl ServiceDriver {
    /// Of that service.
    pub fn new(id: Uuid, name: &str) -> Self {
        Self {
            id,
            name: name.to_owned(),
            order: None,
            probe: None,
            watches: BTreeMap::new(),
            running: None,
            isolated: false,
            fence_again: 0,
            orphans: 0,
            broken_start: None,
        }
    }

    /// A run of an agent before this one is being ended: nothing is done before it is gone.
    pub fn wait_for(&mut self, orphan: &Orphan) {
        if self.name.is_empty() {
            self.name = orphan.service_name.clone();
        }
        self.orphans += 1;
        if orphan.starts {
            self.broken_start = Some(orphan.member.clone());
        }
    }

    /// One of them is gone.
    pub fn orphan_gone(&mut self, scene: &mut Scene<'_>) {
        self.orphans = self.orphans.saturating_sub(1);
        self.consider(scene);
    }

    /// Nothing is to be done for it, and nothing of it is bound.
    pub fn is_idle(&self, ledger: &Ledger) -> bool {
        self.order.is_none()
            && self.probe.is_none()
            && self.watches.is_empty()
            && self.running.is_none()
            && self.orphans == 0
            && is_unbound(ledger, self.id)
    }

    /// No script that the lease binds may be running.
    pub fn is_safe(&self, ledger: &Ledger) -> bool {
        // A ledger that was lost does not know of a start that still goes on.
        is_unbound(ledger, self.id) && (self.orphans == 0 || self.broken_start.is_none())
    }

    /// The next moment at which it wants a tick.
    pub fn wake_at(&self) -> Option<u64> {
        if self.running.is_some() || self.orphans > 0 {
            // Its end is the next thing.
            return None;
        }
        if self.isolated {
            return (self.fence_again > 0).then_some(self.fence_again);
        }
        let due = self.watches.values().flat_map(|watch| watch.due.iter().copied());
        let probe = self.probe.as_ref().map(|probe| probe.not_before);
        due.chain(probe).min()
    }

    /// A session begins: orders of the one before are not this one's.
    pub fn registered(&mut self) {
        (self.order, self.probe) = (None, None);
    }

    /// All that the cluster wants of it now.
    pub fn orders(
        &mut self,
        scene: &mut Scene<'_>,
        orders: Vec<ScriptOrder>,
        watched: Vec<Watched>,
    ) {
        self.order = None;
        let mut probe = None;
        for order in orders {
            self.name = order.name.clone();
            match &order.kind {
                Asked::Probe(scripts) => probe = Some((scripts.clone(), order)),
                Asked::Start(_) | Asked::Stop(_) => self.order = Some(order),
            }
        }
        self.probe = match (self.probe.take(), probe) {
            // The same one goes on where it is.
            (Some(old), Some((_, order))) if old.order == order => Some(old),
            (_, Some((mut scripts, order))) => {
                // What the lease binds here may be another script than the cluster means now: it is asked for too.
                let bound = scene.ledger.service(self.id).map(|it| it.bound.clone());
                for Bound { member, script } in bound.unwrap_or_default() {
                    let same = |it: &Named| {
                        it.script.program == script.program
                            && it.script.parameters == script.parameters
                    };
                    if !scripts.iter().any(same) {
                        scripts.push(Named { member, script });
                    }
                }
                let (asked, seen) = (0, Vec::new());
                Some(Probe { order, scripts, asked, seen, not_before: scene.now })
            }
            (_, None) => None,
        };
        self.watch(scene, watched);
        self.consider(scene);
    }

    fn watch(&mut self, scene: &mut Scene<'_>, watched: Vec<Watched>) {
        let bound = |watched: &Watched| Bound {
            member: watched.named.member.clone(),
            script: watched.named.script.clone(),
        };
        if let Some(first) = watched.first() {
            self.name = first.name.clone();
            // A ledger that was lost has to know again what the lease binds.
            let all = watched.iter().map(bound).collect();
            let noted = scene.ledger.bind_scripts(self.id, &self.name, all);
            self.complain(noted, "scripts that are up could not be noted");
        }
        let mut old = std::mem::take(&mut self.watches);
        for watched in watched {
            let member = watched.named.member.clone();
            let watch = match old.remove(&member) {
                Some(watch) if watch.watched == watched => watch,
                // One that is new here is looked at at once: this is how an agent takes up what runs already.
                _ => {
                    let due = vec![scene.now; watched.named.script.checks.len()];
                    Watch { watched, due, well: true }
                }
            };
            self.watches.insert(member, watch);
        }
    }

    /// The lease has run out: what is bound is stopped, and nothing is started.
    pub fn isolate(&mut self, scene: &mut Scene<'_>) {
        if !self.isolated && !is_unbound(scene.ledger, self.id) {
            warn!(service = self.name, "the lease has run out: its scripts are stopped");
        }
        self.isolated = true;
        if let Some(running) = &self.running
            && running.action != Action::Stop
        {
            // It may take its whole time; what it has begun is stopped.
            scene.kills.push(running.call);
        }
        self.consider(scene);
    }

    /// Whether it is isolated already.
    pub fn is_isolated(&self) -> bool {
        self.isolated
    }

    /// The lease is back. What was stopped is found so by its next check, which is due now.
    pub fn end_isolation(&mut self, scene: &mut Scene<'_>) {
        if !std::mem::take(&mut self.isolated) {
            return;
        }
        for watch in self.watches.values_mut() {
            watch.due.fill(scene.now);
        }
        self.consider(scene);
    }

    /// Does the next thing, if nothing is under way.
    pub fn consider(&mut self, scene: &mut Scene<'_>) {
        if self.running.is_some() || self.orphans > 0 {
            return;
        }
        if !scene.lease && !off(Rule::SelfFence) && self.isolated {
            return self.fence(scene);
        }
        if self.carry_out(scene) || self.ask(scene) {
            return;
        }
        self.check(scene);
    }

    fn fence(&mut self, scene: &mut Scene<'_>) {
        if self.fence_again > scene.now {
            return;
        }
        self.fence_again = 0;
        let bound = scene.ledger.service(self.id).and_then(|entry| entry.bound.last().cloned());
        if let Some(Bound { member, script }) = bound {
            let timeout_ms = script.stop_timeout_ms;
            let named = Named { member, script };
            self.call(scene, named, Action::Stop, timeout_ms, What::SelfFence);
        }
    }

    fn ask_after_stop(&mut self, scene: &mut Scene<'_>, named: Named, order: Option<u64>) {
        let status = Action::Status { depth: 0 };
        self.call(scene, named, status, STATUS_TIMEOUT_MS, What::Stopped(order));
    }

    /// Whether a call is under way for the order.
    fn carry_out(&mut self, scene: &mut Scene<'_>) -> bool {
        let Some(order) = self.order.clone() else { return false };
        let entry = scene.ledger.service_or_new(self.id);
        let (named, action) = match order.kind {
            Asked::Start(named) => (named, Action::Start),
            Asked::Stop(named) => (named, Action::Stop),
            Asked::Probe(_) => return false,
        };
        match standing(&entry, order.id) {
            Standing::Done(done) => {
                self.order = None;
                self.report_done(scene, done);
                return false;
            }
            Standing::Stale => {
                warn!(
                    service = self.name,
                    order = order.id,
                    "an order that was ruled out is refused"
                );
                self.order = None;
                return false;
            }
            Standing::Begun
                if action == Action::Start && self.broken_start.as_ref() == Some(&named.member) =>
            {
                self.broken_start = None;
                let error = "the agent ended while it started, and what went on of that was killed";
                self.finish(scene, order.id, Some(error.to_owned()), None);
                return false;
            }
            Standing::Begun if action == Action::Start => {
                let depth = 0;
                let status = Action::Status { depth };
                self.call(scene, named, status, STATUS_TIMEOUT_MS, What::Reattach(order.id));
                return true;
            }
            Standing::Begun | Standing::New => {}
        }
        if action == Action::Start && !scene.lease && !off(Rule::NoStartWithoutLease) {
            return false;
        }
        let bound = scene.ledger.binds(self.id, &named.member, &named.script);
        let starts = (action == Action::Start)
            .then(|| Bound { member: named.member.clone(), script: named.script.clone() });
        if let Err(error) = scene.ledger.begin_script(self.id, &self.name, order.id, starts) {
            warn!(%error, "an order could not be noted and is not carried out");
            return false;
        }
        self.broken_start = None;
        let timeout_ms = match action {
            Action::Start => named.script.start_timeout_ms,
            Action::Stop | Action::Status { .. } => named.script.stop_timeout_ms,
        };
        self.call(scene, named, action, timeout_ms, What::Order { id: order.id, bound });
        true
    }

    /// Whether a call is under way for the probe.
    fn ask(&mut self, scene: &mut Scene<'_>) -> bool {
        let Some(probe) = self.probe.as_mut().filter(|probe| probe.not_before <= scene.now) else {
            return false;
        };
        if let Some(named) = probe.scripts.get(probe.asked).cloned() {
            let what = What::Probe(probe.order.id);
            let status = Action::Status { depth: 0 };
            self.call(scene, named, status, STATUS_TIMEOUT_MS, what);
            return true;
        }
        let (floor, seen) = (probe.order.id, std::mem::take(&mut probe.seen));
        probe.asked = 0;
        probe.not_before = scene.now + PROBE_AGAIN_MS;
        let service_id = self.id.to_string();
        if !seen.is_empty() {
            let seen = v1::ScriptsSeen { service_id, members: seen };
            scene.reports.push(v1::Report { report: Some(Kind::ScriptsSeen(seen)) });
            return false;
        }
        self.probe = None;
        // First it is promised, then it is said.
        let promised = scene
            .ledger
            .promise_scripts(self.id, floor)
            .and_then(|()| scene.ledger.unbind_scripts(self.id, None));
        if self.complain(promised, "what was asked could not be noted") {
            let absent = v1::Absent { uuid: service_id, floor, cause: 0 };
            scene.reports.push(v1::Report { report: Some(Kind::Absent(absent)) });
        }
        false
    }

    fn check(&mut self, scene: &mut Scene<'_>) {
        let now = scene.now;
        let due = self.watches.values().find_map(|watch| {
            let checks = watch.watched.named.script.checks.iter().enumerate();
            let due = checks.filter(|(index, _)| watch.due[*index] <= now);
            let (index, check) = due.max_by_key(|(_, check)| check.depth)?;
            Some((watch.watched.clone(), index, *check))
        });
        if let Some((watched, index, check)) = due {
            let what = What::Check { index, started_by: watched.started_by };
            let status = Action::Status { depth: check.depth };
            self.call(scene, watched.named, status, check.timeout_ms, what);
        }
    }

    fn call(
        &mut self,
        scene: &mut Scene<'_>,
        named: Named,
        action: Action,
        timeout_ms: u64,
        what: What,
    ) {
        let id = *scene.next_call;
        *scene.next_call += 1;
        scene.calls.push(ScriptCall {
            service: self.id,
            id,
            service_name: self.name.clone(),
            member: named.member.clone(),
            script: named.script.clone(),
            action,
            timeout_ms,
        });
        self.running = Some(Running { call: id, named, action, what });
    }

    /// A call came back.
    pub fn answered(&mut self, scene: &mut Scene<'_>, call: u64, outcome: &Outcome) {
        let Some(running) = self.running.take_if(|running| running.call == call) else { return };
        let Running { named, action, what, .. } = running;
        let program = &named.script.program;
        let bound_now = scene.ledger.binds(self.id, &named.member, &named.script);
        match what {
            What::Order { id, bound } => {
                let error = verdict::failure(program, action, outcome, bound);
                // There was nothing to run: what was not here before it is not here now.
                let gone = !bound && verdict::is_not_here(program, outcome);
                if action == Action::Stop && error.is_none() && !gone {
                    self.ask_after_stop(scene, named, Some(id));
                } else {
                    self.finish(scene, id, error, gone.then_some(named.member.as_str()));
                }
            }
            What::Stopped(order) => {
                // A stop that said so a moment ago may have taken its own program away.
                let down = verdict::status(program, outcome, false) == Status::Down;
                let stopped = down.then_some(named.member.as_str());
                match (order, stopped) {
                    (Some(order), stopped) => self.finish(scene, order, None, stopped),
                    (None, Some(member)) => {
                        let noted = scene.ledger.unbind_scripts(self.id, Some(member));
                        self.complain(noted, "a script that was stopped could not be noted");
                    }
                    (None, None) => {
                        let member = &named.member;
                        warn!(service = self.name, member, "it is not down yet after its stop");
                        self.fence_again = scene.now + STOP_AGAIN_MS;
                    }
                }
            }
            What::Reattach(order) => {
                let error = match verdict::status(program, outcome, bound_now) {
                    Status::Running => None,
                    Status::Down => Some("the agent ended while it started, and it is down".into()),
                    Status::Failing(why) => {
                        Some(format!("the agent ended while it started, and {why}"))
                    }
                };
                info!(
                    service = self.name,
                    member = named.member,
                    ?error,
                    "taken up after a restart"
                );
                self.finish(scene, order, error, None);
            }
            What::Probe(order) => {
                let down = verdict::status(program, outcome, bound_now) == Status::Down;
                if let Some(probe) = self.probe.as_mut().filter(|it| it.order.id == order) {
                    probe.asked += 1;
                    if !down {
                        probe.seen.push(named.member);
                    }
                }
            }
            What::Check { index, started_by } => {
                self.checked(scene, &named, index, started_by, outcome);
            }
            What::SelfFence => match verdict::failure(program, action, outcome, true) {
                None => self.ask_after_stop(scene, named, None),
                Some(why) => {
                    let member = &named.member;
                    warn!(service = self.name, member, why, "self-fence could not stop a script");
                    self.fence_again = scene.now + STOP_AGAIN_MS;
                }
            },
        }
        self.consider(scene);
    }

    fn finish(
        &mut self,
        scene: &mut Scene<'_>,
        order: u64,
        error: Option<String>,
        stopped: Option<&str>,
    ) {
        self.order.take_if(|it| it.id == order);
        let noted = scene.ledger.finish_script(self.id, order, error.clone(), stopped);
        if self.complain(noted, "what an order came to could not be noted") {
            self.report_done(scene, Done { order, error });
        }
    }

    fn report_done(&self, scene: &mut Scene<'_>, done: Done) {
        let (uuid, Done { order, error }) = (self.id.to_string(), done);
        let done = v1::OrderDone { uuid, order, error };
        scene.reports.push(v1::Report { report: Some(Kind::OrderDone(done)) });
    }

    fn checked(
        &mut self,
        scene: &mut Scene<'_>,
        named: &Named,
        index: usize,
        started_by: u64,
        outcome: &Outcome,
    ) {
        let Some(watch) =
            self.watches.get_mut(&named.member).filter(|it| it.watched.started_by == started_by)
        else {
            return;
        };
        let checks = &watch.watched.named.script.checks;
        let Some(done) = checks.get(index) else { return };
        // The deeper check says what the shallower ones would; all are counted from its end.
        for (check, due) in checks.iter().zip(&mut watch.due) {
            if check.depth <= done.depth {
                *due = scene.now + check.interval_ms;
            }
        }
        if *outcome == Outcome::Cancelled {
            return;
        }
        // What is watched was started here.
        let error = match verdict::status(&named.script.program, outcome, true) {
            Status::Running => None,
            Status::Down => Some("it is down".to_owned()),
            Status::Failing(why) => Some(why),
        };
        // Every failure counts; that it is well is news only after one.
        if error.is_none() && watch.well {
            return;
        }
        watch.well = error.is_none();
        let status = v1::ScriptStatus {
            service_id: self.id.to_string(),
            member: named.member.clone(),
            started_by,
            error,
        };
        scene.reports.push(v1::Report { report: Some(Kind::ScriptStatus(status)) });
    }

    fn complain(&self, noted: Result<(), LedgerError>, what: &str) -> bool {
        if let Err(error) = &noted {
            let error = error as &dyn std::error::Error;
            warn!(service = self.name, error, "{what}");
        }
        noted.is_ok()
    }
}

enum Standing {
    New,
    Begun,
    Done(Done),
    Stale,
}

/// How the ledger stands to an order.
fn standing(entry: &ServiceEntry, order: u64) -> Standing {
    if let Some(done) = entry.done.as_ref().filter(|done| done.order == order)
        && !off(Rule::LedgerOnce)
    {
        return Standing::Done(done.clone());
    }
    let floor = if off(Rule::LedgerFloor) { 0 } else { entry.floor };
    match entry.begun == Some(order) {
        // It was ruled out since.
        _ if order < floor => Standing::Stale,
        true => Standing::Begun,
        false if order > floor => Standing::New,
        false => Standing::Stale,
    }
}

fn is_unbound(ledger: &Ledger, id: Uuid) -> bool {
    ledger.service(id).is_none_or(|entry| entry.bound.is_empty())
}
