//! Stepper: stopping one guest because the node's lease ran out, and making sure that it stays stopped.
//!
//! ```text
//!  look ─▶ runs ─────▶ suspend or destroy ─▶ look …
//!       ─▶ incoming ─▶ destroy ────────────▶ look …
//!       ─▶ stopped ──▶ no migration ─▶ look: still stopped, or gone: safe ─ a second later, or at an event ─▶ look …
//!                      (somebody may have asked libvirt to let it run, and got no answer ─▶ destroy)
//!  libvirt fails, or half of the time for self-fence is over ─▶ kill ─▶ look …
//!  the hold is over ─▶ destroy, or kill where libvirt does not answer by then
//! ```

use model::sabotage::{Rule, off};
use model::vm::{OnIsolation, Presence};

use crate::hypervisor::call::Call;
use crate::hypervisor::{HypervisorError, Result as Called};
use crate::vm::driver::Seen;

/// A guest that was stopped is looked at again this often: somebody may let it run.
const LOOK_PERIOD_MS: u64 = 1_000;
/// A call that failed is made again after this.
const AGAIN_MS: u64 = 100;

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IsolationStep {
    /// Make this call; its answer comes back with this number.
    Call(u32, Call),
    /// Nothing now.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Calling(Doing),
    Waiting { until: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Looking,
    /// Whether a migration is under way, whose end would let the guest run again.
    Checking,
    Acting,
    Killing,
}

/// The isolation of one VM.
#[derive(Debug)]
pub(super) struct Isolation {
    policy: OnIsolation,
    /// How long libvirt has to stop it, before its QEMU is killed.
    patience_ms: u64,
    /// When libvirt has had its chance.
    kill_at: u64,
    began: u64,
    hold_until: u64,
    /// libvirt was asked to let it run, and nobody knows whether it will: a copy that is stopped may not stay so.
    may_run_yet: bool,
    stage: Stage,
    safe: bool,
    /// It was suspended by Berth when it was looked at last.
    suspended: bool,
    /// Its migration has been called off, if there was one.
    aborted: bool,
    /// There was no migration when that was asked; what is looked at after that stays as it is.
    settled: bool,
    /// Something happened while a call was under way: what that call says may be older.
    look_again: bool,
    /// The number of the call whose answer counts.
    call: u32,
}

impl Isolation {
    /// Its calls are numbered from `calls` on, so that none is taken for one of an isolation before it.
    pub(super) fn new(
        policy: OnIsolation,
        now: u64,
        (self_fence_ms, hold_ms): (u64, u64),
        calls: u32,
    ) -> Self {
        let patience_ms = self_fence_ms / 2;
        Self {
            policy,
            patience_ms,
            kill_at: now + patience_ms,
            began: now,
            hold_until: now + hold_ms,
            may_run_yet: false,
            stage: Stage::Waiting { until: now },
            safe: policy == OnIsolation::Continue,
            suspended: false,
            aborted: false,
            settled: false,
            look_again: false,
            call: calls,
        }
    }

    /// Something else is to be done with the guest from now on. A copy that is kept suspended is so since it was.
    pub(super) fn follow(&mut self, policy: OnIsolation, now: u64) {
        if policy == self.policy {
            return;
        }
        if self.policy == OnIsolation::Continue {
            let hold_ms = self.hold_until - self.began;
            (self.began, self.hold_until) = (now, now + hold_ms);
        }
        self.policy = policy;
        self.safe = policy == OnIsolation::Continue;
        (self.aborted, self.settled, self.look_again) = (false, false, false);
        self.kill_at = now + self.patience_ms;
        self.stage = Stage::Waiting { until: now };
    }

    /// The number of its last call.
    pub(super) fn calls(&self) -> u32 {
        self.call
    }

    /// What is stopped may be let run by a call whose answer was lost.
    pub(super) fn may_run_yet(&mut self) {
        self.may_run_yet = true;
    }

    /// An agent before this one has suspended it, then.
    pub(super) fn kept_since(&mut self, since: u64) {
        let hold_ms = self.hold_until - self.began;
        (self.began, self.hold_until) = (since, since + hold_ms);
    }

    /// The cluster says how long a suspended copy is kept.
    pub(super) fn hold(&mut self, hold_ms: u64) {
        self.hold_until = self.began + hold_ms;
    }

    /// The guest is stopped, or gone, or may run on.
    pub(super) fn is_safe(&self) -> bool {
        self.safe
    }

    pub(super) fn wake_at(&self) -> Option<u64> {
        match self.stage {
            _ if self.policy == OnIsolation::Continue => None,
            Stage::Waiting { until } => Some(until),
            Stage::Calling(Doing::Killing) => None,
            Stage::Calling(Doing::Looking | Doing::Checking) if self.safe => None,
            Stage::Calling(_) => Some(self.kill_at),
        }
    }

    pub(super) fn tick(&mut self, now: u64) -> IsolationStep {
        match self.stage {
            _ if self.policy == OnIsolation::Continue => IsolationStep::Nothing,
            Stage::Waiting { until } if now < until => IsolationStep::Nothing,
            Stage::Waiting { .. } => {
                if self.safe {
                    self.kill_at = now + self.patience_ms;
                }
                self.settled = false;
                self.call(Doing::Looking, Call::Look)
            }
            // libvirt has had its chance; the process is killed beside the call that hangs.
            Stage::Calling(Doing::Looking | Doing::Checking) if self.safe => IsolationStep::Nothing,
            Stage::Calling(Doing::Looking | Doing::Checking | Doing::Acting)
                if self.may_kill(now) =>
            {
                self.call(Doing::Killing, Call::Kill)
            }
            Stage::Calling(_) => IsolationStep::Nothing,
        }
    }

    pub(super) fn look_now(&mut self, now: u64) -> IsolationStep {
        // Something has happened to it: until libvirt has said what, it is not stopped for sure.
        if self.safe && self.policy != OnIsolation::Continue {
            self.safe = false;
            self.kill_at = now + self.patience_ms;
        }
        match self.stage {
            Stage::Waiting { .. } => self.stage = Stage::Waiting { until: now },
            Stage::Calling(_) => self.look_again = true,
        }
        self.tick(now)
    }

    /// Work on it has ended, which may have brought the guest to life after it was looked at, or killed for nothing.
    pub(super) fn doubt(&mut self, now: u64) {
        if self.policy == OnIsolation::Continue {
            return;
        }
        (self.safe, self.settled) = (false, false);
        self.kill_at = now + self.patience_ms;
        match self.stage {
            Stage::Waiting { .. } => self.stage = Stage::Waiting { until: now },
            Stage::Calling(_) => self.look_again = true,
        }
    }

    fn may_kill(&self, now: u64) -> bool {
        now >= self.kill_at && !off(Rule::SelfFenceKills)
    }

    fn call(&mut self, what: Doing, call: Call) -> IsolationStep {
        self.stage = Stage::Calling(what);
        self.call += 1;
        IsolationStep::Call(self.call, call)
    }

    fn wait(&mut self, until: u64) -> IsolationStep {
        self.stage = Stage::Waiting { until };
        IsolationStep::Nothing
    }

    pub(super) fn answered(&mut self, call: u32, answer: &Called<Seen>, now: u64) -> IsolationStep {
        let Stage::Calling(what) = self.stage else { return IsolationStep::Nothing };
        if call != self.call {
            // A call that was given up comes back after all.
            return IsolationStep::Nothing;
        }
        match (what, answer) {
            (Doing::Looking, Ok(Seen::Domain(seen))) => {
                self.seen(seen.as_ref().and_then(|seen| seen.presence), now)
            }
            // No migration to call off is as good as one that was.
            (Doing::Acting, answer) if self.aborted && !answer.as_ref().is_err_and(is_silence) => {
                self.call(Doing::Looking, Call::Look)
            }
            (Doing::Checking, Ok(Seen::Job(Some(_)))) => self.act(Call::AbortJob, now),
            // One that ended between the look and this may have let the guest run again.
            (Doing::Checking, answer) if !answer.as_ref().is_err_and(is_silence) => {
                self.settled = true;
                self.call(Doing::Looking, Call::Look)
            }
            (Doing::Acting, Ok(_)) => self.call(Doing::Looking, Call::Look),
            (Doing::Killing, Ok(_)) if std::mem::take(&mut self.look_again) => self.wait(now),
            (Doing::Killing, Ok(_)) => {
                self.suspended = false;
                // The kernel says that no such process is left; libvirt may take its time to see it.
                self.safe = true;
                self.wait(now + LOOK_PERIOD_MS)
            }
            // A copy whose hold is over does not stay for as long as libvirt is away.
            (Doing::Looking | Doing::Checking, Err(_)) if self.outstays(now) => {
                self.call(Doing::Killing, Call::Kill)
            }
            // What was stopped for sure stays so while libvirt is away: nobody could let it run but through libvirt.
            (Doing::Looking | Doing::Checking, Err(_)) if self.safe => {
                self.wait(now + LOOK_PERIOD_MS)
            }
            // What cannot be asked is not safe, and what cannot be done by libvirt is done without it.
            (Doing::Looking | Doing::Checking | Doing::Acting, _) if self.may_kill(now) => {
                self.safe = false;
                self.call(Doing::Killing, Call::Kill)
            }
            (_, _) => {
                self.safe = false;
                self.wait(now + AGAIN_MS)
            }
        }
    }

    /// Its hold is over, and libvirt has had its chance to destroy it.
    fn outstays(&self, now: u64) -> bool {
        self.suspended && now >= self.hold_until + self.patience_ms && !off(Rule::HoldEnds)
    }

    fn seen(&mut self, presence: Option<Presence>, now: u64) -> IsolationStep {
        self.suspended = presence == Some(Presence::Suspended);
        match presence {
            None => self.rest(now),
            Some(Presence::Incoming) if off(Rule::SelfFenceIncoming) => self.rest(now),
            // libvirt would let it run by itself when the source is done.
            Some(Presence::Incoming) => self.act(Call::Destroy, now),
            Some(Presence::Suspended) if now >= self.hold_until && !off(Rule::HoldEnds) => {
                self.act(Call::Destroy, now)
            }
            Some(Presence::Suspended | Presence::Paused)
                if self.may_run_yet && !off(Rule::LostResumeMayCome) =>
            {
                self.act(Call::Destroy, now)
            }
            Some(
                Presence::Suspended
                | Presence::Paused
                | Presence::Crashed
                | Presence::IoError
                | Presence::WatchdogPaused,
            ) if self.settled => self.rest(now),
            Some(
                Presence::Suspended
                | Presence::Paused
                | Presence::Crashed
                | Presence::IoError
                | Presence::WatchdogPaused,
            ) => self.call(Doing::Checking, Call::Job),
            // A source in handover: it is gone in a moment, or runs again.
            Some(Presence::Leaving) => self.act(Call::AbortJob, now),
            Some(presence @ (Presence::Running | Presence::ShuttingDown)) => match self.policy {
                _ if presence == Presence::Running && std::mem::take(&mut self.may_run_yet) => {
                    self.seen(Some(presence), now)
                }
                OnIsolation::Destroy => self.act(Call::Destroy, now),
                // A guest that is stopped while it is migrated would arrive stopped, or be let run by libvirt when the
                // migration is called off: so that comes first, whoever began it.
                OnIsolation::Suspend | OnIsolation::Continue if !self.aborted => {
                    self.aborted = true;
                    self.act(Call::AbortJob, now)
                }
                OnIsolation::Suspend | OnIsolation::Continue => {
                    self.aborted = false;
                    self.act(Call::Suspend, now)
                }
            },
        }
    }

    fn act(&mut self, call: Call, now: u64) -> IsolationStep {
        self.safe = false;
        self.settled = false;
        if self.may_kill(now) {
            return self.call(Doing::Killing, Call::Kill);
        }
        self.call(Doing::Acting, call)
    }

    fn rest(&mut self, now: u64) -> IsolationStep {
        if std::mem::take(&mut self.look_again) {
            self.settled = false;
            return self.call(Doing::Looking, Call::Look);
        }
        self.safe = true;
        let next = now + LOOK_PERIOD_MS;
        self.wait(match self.suspended {
            true => next.min(self.hold_until.max(now + AGAIN_MS)),
            false => next,
        })
    }
}

/// libvirt gave no answer at all.
pub(super) fn is_silence(error: &HypervisorError) -> bool {
    matches!(error, HypervisorError::Disconnected(_) | HypervisorError::Timeout { .. })
}

#[cfg(test)]
mod tests {
    use model::node::SeenDomain;

    use super::*;
    use crate::hypervisor::HypervisorError;

    fn seen(presence: Presence) -> Called<Seen> {
        Ok(Seen::Domain(Some(SeenDomain::active("v", presence, 1))))
    }

    fn call(step: IsolationStep) -> (u32, Call) {
        match step {
            IsolationStep::Call(number, call) => (number, call),
            IsolationStep::Nothing => panic!("a call was expected"),
        }
    }

    #[test]
    fn a_guest_is_suspended_made_sure_of_and_destroyed_when_the_hold_is_over() {
        let mut isolation = Isolation::new(OnIsolation::Suspend, 0, (1_000, 5_000), 0);
        let (look, what) = call(isolation.tick(0));
        assert_eq!(what, Call::Look);
        let (abort, what) = call(isolation.answered(look, &seen(Presence::Running), 10));
        assert_eq!((what, isolation.is_safe()), (Call::AbortJob, false));
        let nothing = Err(HypervisorError::Refused("no job is active".into()));
        let (look, _) = call(isolation.answered(abort, &nothing, 15));
        let (suspend, what) = call(isolation.answered(look, &seen(Presence::Running), 17));
        assert_eq!((what, isolation.is_safe()), (Call::Suspend, false));
        let (look, _) = call(isolation.answered(suspend, &Ok(Seen::Done), 20));
        let (job, what) = call(isolation.answered(look, &seen(Presence::Suspended), 30));
        assert_eq!((what, isolation.is_safe()), (Call::Job, false));
        let (look, what) = call(isolation.answered(job, &Ok(Seen::Job(None)), 35));
        assert_eq!((what, isolation.is_safe()), (Call::Look, false));
        isolation.answered(look, &seen(Presence::Suspended), 40);
        assert!(isolation.is_safe());
        let (look, _) = call(isolation.tick(5_000));
        let (_, what) = call(isolation.answered(look, &seen(Presence::Suspended), 5_010));
        assert_eq!(what, Call::Destroy);
    }

    #[test]
    fn a_copy_whose_hold_ends_while_libvirt_is_away_is_killed_without_it() {
        for (presence, kills) in [(Presence::Suspended, true), (Presence::Paused, false)] {
            let mut isolation = Isolation::new(OnIsolation::Suspend, 0, (1_000, 5_000), 0);
            let (look, _) = call(isolation.tick(0));
            let (job, _) = call(isolation.answered(look, &seen(presence), 10));
            let (look, _) = call(isolation.answered(job, &Ok(Seen::Job(None)), 20));
            isolation.answered(look, &seen(presence), 30);
            let away = || Err(HypervisorError::Disconnected("it is down".into()));
            let (look, _) = call(isolation.tick(5_000));
            assert_eq!(isolation.answered(look, &away(), 5_010), IsolationStep::Nothing);
            let (look, what) = call(isolation.tick(6_010));
            assert_eq!((what, isolation.is_safe()), (Call::Look, true));
            // One that somebody else paused is nothing that Berth keeps.
            match (isolation.answered(look, &away(), 6_020), kills) {
                (IsolationStep::Call(kill, Call::Kill), true) => {
                    isolation.answered(kill, &Ok(Seen::Done), 6_030);
                    let (look, _) = call(isolation.tick(7_030));
                    let step = isolation.answered(look, &away(), 7_040);
                    assert_eq!(step, IsolationStep::Nothing, "it is dead");
                }
                (IsolationStep::Nothing, false) => {}
                (step, _) => panic!("{presence:?}: {step:?}"),
            }
        }
    }

    #[test]
    fn another_policy_does_not_make_a_hold_begin_anew() {
        let mut isolation = Isolation::new(OnIsolation::Suspend, 0, (1_000, 5_000), 0);
        let (look, _) = call(isolation.tick(0));
        let (job, _) = call(isolation.answered(look, &seen(Presence::Suspended), 10));
        isolation.follow(OnIsolation::Destroy, 4_000);
        assert!(!isolation.is_safe());
        assert_eq!(isolation.answered(job, &Ok(Seen::Job(None)), 4_010), IsolationStep::Nothing);
        let (look, _) = call(isolation.tick(4_010));
        let (job, _) = call(isolation.answered(look, &seen(Presence::Suspended), 4_020));
        let (look, _) = call(isolation.answered(job, &Ok(Seen::Job(None)), 4_030));
        isolation.answered(look, &seen(Presence::Suspended), 4_040);
        assert!(isolation.is_safe());
        let (look, _) = call(isolation.tick(5_040));
        let (_, what) = call(isolation.answered(look, &seen(Presence::Suspended), 5_050));
        assert_eq!(what, Call::Destroy);
        // One that ran on so far has its whole hold before it.
        let mut isolation = Isolation::new(OnIsolation::Continue, 0, (1_000, 5_000), 0);
        isolation.follow(OnIsolation::Suspend, 4_000);
        let (look, _) = call(isolation.tick(5_100));
        let (_, what) = call(isolation.answered(look, &seen(Presence::Suspended), 5_110));
        assert_eq!(what, Call::Job);
    }

    #[test]
    fn a_libvirt_that_hangs_costs_the_qemu_its_life() {
        let mut isolation = Isolation::new(OnIsolation::Suspend, 0, (1_000, 60_000), 0);
        let (look, _) = call(isolation.tick(0));
        assert_eq!(isolation.tick(400), IsolationStep::Nothing);
        assert_eq!(isolation.wake_at(), Some(500));
        let (kill, what) = call(isolation.tick(500));
        assert_eq!(what, Call::Kill);
        // The look comes back late and says nothing any more.
        isolation.answered(look, &seen(Presence::Suspended), 600);
        assert!(!isolation.is_safe());
        isolation.answered(kill, &Ok(Seen::Done), 700);
        assert!(isolation.is_safe());
    }

    #[test]
    fn a_guest_that_somebody_lets_run_again_is_stopped_again() {
        let mut isolation = Isolation::new(OnIsolation::Suspend, 0, (1_000, 60_000), 0);
        let (look, _) = call(isolation.tick(0));
        let (job, _) = call(isolation.answered(look, &seen(Presence::Paused), 10));
        let (look, _) = call(isolation.answered(job, &Ok(Seen::Job(None)), 12));
        isolation.answered(look, &seen(Presence::Paused), 14);
        assert!(isolation.is_safe());
        let (look, _) = call(isolation.look_now(5_000));
        let (_, what) = call(isolation.answered(look, &seen(Presence::Running), 5_010));
        assert_eq!((what, isolation.is_safe()), (Call::AbortJob, false));
    }

    #[test]
    fn a_stopped_guest_is_not_safe_while_a_migration_may_let_it_run_again() {
        let mut isolation = Isolation::new(OnIsolation::Suspend, 0, (1_000, 60_000), 0);
        let (look, _) = call(isolation.tick(0));
        let (job, _) = call(isolation.answered(look, &seen(Presence::Suspended), 10));
        let under_way = Ok(Seen::Job(Some(Default::default())));
        let (_, what) = call(isolation.answered(job, &under_way, 20));
        assert_eq!((what, isolation.is_safe()), (Call::AbortJob, false));
        let (_, what) = call(isolation.tick(500));
        assert_eq!((what, isolation.is_safe()), (Call::Kill, false));
    }

    #[test]
    fn a_migration_that_ends_between_a_look_and_the_next_question_is_not_missed() {
        let mut isolation = Isolation::new(OnIsolation::Suspend, 0, (1_000, 60_000), 0);
        let (look, _) = call(isolation.tick(0));
        let (job, _) = call(isolation.answered(look, &seen(Presence::Suspended), 10));
        // It fails here, libvirt lets the guest run again, and then there is none any more.
        let (look, _) = call(isolation.answered(job, &Ok(Seen::Job(None)), 20));
        let (_, what) = call(isolation.answered(look, &seen(Presence::Running), 30));
        assert_eq!((what, isolation.is_safe()), (Call::AbortJob, false));
    }

    #[test]
    fn an_event_during_a_call_is_looked_into_before_anything_is_called_safe() {
        let mut isolation = Isolation::new(OnIsolation::Suspend, 0, (1_000, 60_000), 0);
        let (look, _) = call(isolation.tick(0));
        let (job, _) = call(isolation.answered(look, &seen(Presence::Paused), 10));
        let (look, _) = call(isolation.answered(job, &Ok(Seen::Job(None)), 12));
        assert_eq!(isolation.look_now(13), IsolationStep::Nothing);
        let (look, what) = call(isolation.answered(look, &seen(Presence::Paused), 14));
        assert_eq!((what, isolation.is_safe()), (Call::Look, false));
        let (_, what) = call(isolation.answered(look, &seen(Presence::Running), 16));
        assert_eq!((what, isolation.is_safe()), (Call::AbortJob, false));
    }

    #[test]
    fn a_start_that_ends_after_the_kill_is_looked_into() {
        let mut isolation = Isolation::new(OnIsolation::Suspend, 0, (1_000, 60_000), 0);
        call(isolation.tick(0));
        let (kill, what) = call(isolation.tick(500));
        assert_eq!(what, Call::Kill);
        // There was nothing to kill yet.
        isolation.answered(kill, &Ok(Seen::Done), 510);
        assert!(isolation.is_safe());
        isolation.doubt(900);
        assert!(!isolation.is_safe());
        let (look, what) = call(isolation.tick(900));
        assert_eq!(what, Call::Look);
        let (_, what) = call(isolation.answered(look, &seen(Presence::Running), 910));
        assert_eq!(what, Call::AbortJob);
    }

    #[test]
    fn an_error_is_not_safe_and_is_tried_again() {
        let mut isolation = Isolation::new(OnIsolation::Destroy, 0, (1_000, 60_000), 0);
        let (look, _) = call(isolation.tick(0));
        let gone = Err(HypervisorError::Disconnected("it is down".into()));
        assert_eq!(isolation.answered(look, &gone, 50), IsolationStep::Nothing);
        assert!(!isolation.is_safe());
        assert_eq!(isolation.wake_at(), Some(150));
    }

    #[test]
    fn a_half_built_target_is_destroyed_before_it_can_come_to_life() {
        let mut isolation = Isolation::new(OnIsolation::Suspend, 0, (1_000, 60_000), 0);
        let (look, _) = call(isolation.tick(0));
        let (_, what) = call(isolation.answered(look, &seen(Presence::Incoming), 10));
        assert_eq!(what, Call::Destroy);
    }
}
