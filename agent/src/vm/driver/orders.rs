//! Orders: which of those outstanding is carried out now, the work on it step by step, and its end.

use model::sabotage::{Rule, off};
use model::vm::StopCause;
use tracing::{info, warn};

use super::{Driver, Purpose, SAMPLE_PERIOD_MS, Scene, Unsettled};
use crate::hypervisor::call::Call;
use crate::vm::ledger::Suspension;
use crate::vm::order::{Kind, Order};
use crate::vm::request_queue::{Verdict, judge};
use crate::vm::work::{Next, Outcome, Work};

impl Driver {
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
            match judge(&order, &scene.ledger.memory(self.uuid), running, scene.lease) {
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

    pub(super) fn abort(&mut self, scene: &mut Scene<'_>) {
        if self.work.as_mut().is_some_and(Work::call_off) {
            self.call(scene, Call::AbortJob, Purpose::Abort);
        }
    }

    pub(super) fn follow(&mut self, scene: &mut Scene<'_>, next: Next) {
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
}
