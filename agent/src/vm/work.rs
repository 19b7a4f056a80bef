//! Stepper: carrying out one order, call by call. Time and answers come in, the next call goes out.
//!
//! ```text
//!  start    look ─▶ restore or read ─▶ create, stopped ─▶ let run ─▶ check …  (there already ─▶ mark; in vain ─▶ destroy)
//!  stop     save or shut down ⇄ look ─▶ destroy ─▶ look …  (libvirt does not answer ─▶ kill)
//!  migrate  look ─▶ migrate ∥ abort                (gone already: the target has the word)
//!           (again) look ─▶ job ⇄ wait ─▶ look      (one that an agent before this one began goes on without it)
//!  adopt    mark
//!  resume   look ─▶ resume                         (only what self-fence suspended, at the same generation)
//! ```

use model::command::GuestNote;
use model::handling::DomainSource;
use model::node::SeenDomain;
use model::sabotage::{Rule, off};
use model::vm::Presence;

use crate::hypervisor::call::Call;
use crate::hypervisor::mark::{Mark, insert};
use crate::hypervisor::{HypervisorError, Result as Called};
use crate::vm::driver::Seen;
use crate::vm::order::{Kind, Order};

/// A guest that boots misses the button: it is pressed again this often.
const PRESS_AGAIN_MS: u64 = 5_000;
/// How long after SIGKILL a process may still be there: the kernel has to write back what it holds.
const KILL_LIMIT_MS: u64 = 10_000;
/// RGManager asked a status program every five seconds after a start.
const CHECK_AGAIN_MS: u64 = 5_000;
/// How long a guest that has left may be about to be gone, with no job any more.
const LEAVING_MS: u64 = 1_000;
/// How often it is looked whether a migration goes on that nobody here waits for.
const FOLLOW_PERIOD_MS: u64 = 200;
/// Events may be lost with a connection; between them it is looked at this often.
const LOOK_PERIOD_MS: u64 = 1_000;

/// What an order came to.
pub(super) type Outcome = Result<(), String>;

/// What a step leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Make this call.
    Call(Call),
    /// Wait for an event, or until this moment.
    Wait(u64),
    /// It is over.
    End(Outcome),
    /// Nothing: a call is under way.
    Nothing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Begin,
    StartLook,
    Restoring,
    RestoreLook,
    Reading,
    Create,
    LetRun,
    Mark,
    Checking,
    CheckLook { why: String },
    CheckWait,
    Saving { end: u64 },
    Pressed { end: u64 },
    PressLook { end: u64, press: u64 },
    PressWait { end: u64, press: u64 },
    Destroying,
    Killing { why: String },
    GoneLook { deadline: u64, why: Option<String> },
    GoneWait { deadline: u64, why: Option<String> },
    MigrateLook,
    Migrating { called_off: bool },
    Rejoin,
    RejoinLook,
    Rejoined { called_off: bool, doing: Following },
    ResumeLook,
    Resuming,
}

/// What is done about a migration that goes on without the agent that began it, or whose answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Following {
    Waiting,
    Asking,
    Looking,
    Aborting,
}

/// One order being carried out.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) order: Order,
    again: bool,
    /// libvirt gave no answer to a call that brings the guest to life: it may still come.
    lost: bool,
    stage: Stage,
    cut_short: bool,
    /// When it began.
    begun: u64,
    /// Why it will have failed when what it began has been cleared away.
    in_vain: Option<String>,
    /// Something that the cluster should hear of, beside the outcome.
    note: Option<(GuestNote, String)>,
    /// Why the migration is called off, if not by order.
    late: Option<String>,
    /// Until when what leaves may still be gone by itself.
    leaves_until: Option<u64>,
}

impl Work {
    /// `again`: an agent before this one began it and did not live to see its end.
    pub(super) fn new(order: Order, again: bool) -> Self {
        Self {
            order,
            again,
            lost: false,
            stage: Stage::Begin,
            cut_short: false,
            begun: 0,
            in_vain: None,
            note: None,
            late: None,
            leaves_until: None,
        }
    }

    /// It may bring a guest to life at any moment.
    pub(super) fn may_bring_to_life(&self) -> bool {
        matches!(
            self.stage,
            Stage::StartLook
                | Stage::Restoring
                | Stage::RestoreLook
                | Stage::Reading
                | Stage::Create
                | Stage::LetRun
                | Stage::ResumeLook
                | Stage::Resuming
        )
    }

    /// What it has created is being let run.
    pub(super) fn lets_run(&self) -> bool {
        self.stage == Stage::LetRun
    }

    /// What the cluster should hear of beside the outcome; once.
    pub(super) fn take_note(&mut self) -> Option<(GuestNote, String)> {
        self.note.take()
    }

    /// A migration has taken longer than it may; it is called off, once.
    pub(super) fn is_late(&mut self, now: u64) -> bool {
        let Kind::Migrate { migration, .. } = &self.order.kind else { return false };
        let limit = migration.options.timeout_ms;
        if limit == 0 || now < self.begun + limit || self.late.is_some() || !self.migrating() {
            return false;
        }
        self.late = Some(format!("it did not end within {} s", limit.div_ceil(1_000)));
        true
    }

    /// Its migration ends by post-copy.
    pub(super) fn wants_post_copy(&self) -> bool {
        let Kind::Migrate { migration, .. } = &self.order.kind else { return false };
        migration.options.post_copy && migration.live && self.migrating()
    }

    /// It has ended, and may still bring a guest to life.
    pub(super) fn was_lost(&self) -> bool {
        self.lost
    }

    /// A migration is under way.
    pub(super) fn migrating(&self) -> bool {
        matches!(self.stage, Stage::Migrating { .. } | Stage::Rejoined { .. })
    }

    /// A migration under way is to end.
    pub(super) fn is_called_off(&self) -> bool {
        matches!(self.stage, Stage::Migrating { called_off: true })
    }

    /// Whether a migration is still to be called off; it is, from now on.
    pub(super) fn call_off(&mut self) -> bool {
        match &mut self.stage {
            Stage::Migrating { called_off } | Stage::Rejoined { called_off, .. } => {
                !std::mem::replace(called_off, true)
            }
            _ => false,
        }
    }

    pub(super) fn begin(&mut self, now: u64) -> Next {
        self.begun = now;
        match self.order.kind.clone() {
            Kind::Start(_) => self.call(Stage::StartLook, Call::Look),
            Kind::Stop { graceful_ms: None, .. } => self.call(Stage::Destroying, Call::Destroy),
            Kind::Stop { graceful_ms: Some(limit), memory_file: Some(file), .. } => {
                let call = Call::Save { file, limit_ms: limit };
                self.call(Stage::Saving { end: now + limit }, call)
            }
            Kind::Stop { graceful_ms: Some(limit), memory_file: None, .. } => {
                self.call(Stage::Pressed { end: now + limit }, Call::Shutdown)
            }
            Kind::Migrate { .. } => self.call(Stage::MigrateLook, Call::Look),
            Kind::Adopt => self.call(Stage::Mark, Call::Mark(self.mark())),
            Kind::Resume => self.call(Stage::ResumeLook, Call::Look),
            Kind::Probe => Next::End(Ok(())),
        }
    }

    fn call(&mut self, stage: Stage, call: Call) -> Next {
        self.stage = stage;
        Next::Call(call)
    }

    fn mark(&self) -> Mark {
        Mark { cluster: self.order.cluster, generation: self.order.generation }
    }

    /// The answer to its last call.
    pub(super) fn answered(&mut self, answer: Called<Seen>, now: u64, lease: bool) -> Next {
        let seen = match &answer {
            Ok(Seen::Domain(seen)) => Some(seen.clone()),
            _ => None,
        };
        match self.stage.clone() {
            Stage::Rejoin => self.rejoin(answer, now),
            Stage::RejoinLook => match answer.map_err(text) {
                Ok(_) => {
                    self.again = false;
                    self.migrate(seen.flatten(), lease)
                }
                Err(error) => Next::End(Err(error)),
            },
            Stage::Rejoined { called_off, doing } => self.followed(called_off, doing, answer, now),
            Stage::Begin | Stage::PressWait { .. } | Stage::GoneWait { .. } | Stage::CheckWait => {
                Next::Nothing
            }
            Stage::StartLook => match answer.map_err(text) {
                Ok(_) => self.start(seen.flatten(), lease),
                Err(error) => Next::End(Err(error)),
            },
            Stage::Restoring => match answer {
                Ok(Seen::Restored(true)) => self.let_run(lease),
                Ok(_) => self.read(),
                Err(error) if gave_no_answer(&error) => {
                    self.lost = true;
                    Next::End(Err(text(error)))
                }
                Err(error) => {
                    self.note = Some((GuestNote::BootsAnew, text(error)));
                    self.call(Stage::RestoreLook, Call::Look)
                }
            },
            Stage::RestoreLook => match answer.map_err(text) {
                Ok(Seen::Domain(None)) => self.read(),
                Ok(_) => Next::End(Err("it is half restored".into())),
                Err(error) => Next::End(Err(error)),
            },
            Stage::Reading => match answer.map_err(text) {
                Ok(Seen::Xml(xml)) => self.create(&xml),
                Ok(_) => Next::Nothing,
                Err(error) => Next::End(Err(error)),
            },
            Stage::Create => match answer {
                Ok(_) => self.let_run(lease),
                Err(error) => {
                    self.lost = gave_no_answer(&error);
                    Next::End(Err(text(error)))
                }
            },
            Stage::LetRun => match answer {
                Ok(_) => self.check(),
                Err(error) if gave_no_answer(&error) => {
                    self.lost = true;
                    Next::End(Err(text(error)))
                }
                Err(error) => {
                    self.in_vain = Some(text(error));
                    self.call(Stage::Destroying, Call::Destroy)
                }
            },
            Stage::Mark => match answer {
                Ok(_) => self.check(),
                Err(error) => {
                    self.lost = gave_no_answer(&error);
                    Next::End(Err(text(error)))
                }
            },
            Stage::Checking => match answer {
                Ok(_) => Next::End(Ok(())),
                Err(error) => self.call(Stage::CheckLook { why: text(error) }, Call::Look),
            },
            Stage::CheckLook { why } => self.check_failed(seen, why, now),
            Stage::Saving { end } => match answer {
                Ok(_) | Err(HypervisorError::NoDomain) => self.make_sure(now, None),
                Err(_) if self.cut_short => self.call(Stage::Destroying, Call::Destroy),
                // It runs on then, and is asked to shut down.
                Err(_) => self.call(Stage::Pressed { end: end.max(now) }, Call::Shutdown),
            },
            Stage::Resuming => {
                self.lost = answer.as_ref().is_err_and(gave_no_answer);
                Next::End(answer.map(|_| ()).map_err(text))
            }
            Stage::Pressed { end } => {
                let press = now + PRESS_AGAIN_MS;
                self.call(Stage::PressLook { end, press }, Call::Look)
            }
            Stage::PressLook { end, press } => {
                if seen == Some(None) {
                    return Next::End(Ok(()));
                }
                let (limit, ask_only) = match self.order.kind {
                    Kind::Stop { graceful_ms, ask_only, .. } => (graceful_ms, ask_only),
                    _ => (None, false),
                };
                if now >= end && ask_only && !self.cut_short {
                    let seconds = limit.unwrap_or_default().div_ceil(1_000);
                    return Next::End(Err(format!(
                        "the guest did not shut down within {seconds} s, and it is never destroyed (no-kill)"
                    )));
                }
                if now >= end || self.cut_short {
                    return self.call(Stage::Destroying, Call::Destroy);
                }
                self.stage = Stage::PressWait { end, press };
                Next::Wait(end.min(press).min(now + LOOK_PERIOD_MS))
            }
            Stage::Destroying => match answer {
                Ok(_) | Err(HypervisorError::NoDomain) => self.make_sure(now, None),
                Err(error) => {
                    let why = text(error);
                    self.call(Stage::Killing { why }, Call::Kill)
                }
            },
            Stage::Killing { why } => match answer {
                Ok(_) => self.make_sure(now, Some(why)),
                Err(error) => Next::End(Err(format!("{why}; and {error}"))),
            },
            Stage::GoneLook { deadline, why } => {
                if seen == Some(None) {
                    return Next::End(self.in_vain.take().map_or(Ok(()), Err));
                }
                if now >= deadline {
                    let still = "its QEMU is still there after it was destroyed".to_owned();
                    return Next::End(Err(why.unwrap_or(still)));
                }
                self.stage = Stage::GoneWait { deadline, why };
                Next::Wait(deadline.min(now + LOOK_PERIOD_MS))
            }
            Stage::MigrateLook => match answer.map_err(text) {
                Ok(_) => self.migrate(seen.flatten(), lease),
                Err(error) => Next::End(Err(error)),
            },
            Stage::Migrating { called_off } => Next::End(match answer {
                Ok(_) => Ok(()),
                // libvirt carries it on between its two ends, whoever lost the word on it.
                Err(error) if gave_no_answer(&error) => return self.follow_on(called_off, now),
                Err(error) if self.late.is_some() => {
                    Err(format!("{}: {error}", self.late.take().unwrap_or_default()))
                }
                Err(error) if called_off => Err(format!("cancelled: {error}")),
                Err(error) => Err(text(error)),
            }),
            Stage::ResumeLook => match answer.map_err(text) {
                Ok(_) => self.resume(seen.flatten(), lease),
                Err(error) => Next::End(Err(error)),
            },
        }
    }

    /// The domain may have changed, or the wait is over.
    pub(super) fn look_again(&mut self, now: u64) -> Next {
        match self.stage.clone() {
            Stage::PressWait { end, press } if now >= press && now < end && !self.cut_short => {
                self.call(Stage::Pressed { end }, Call::Shutdown)
            }
            Stage::PressWait { end, press } => {
                self.call(Stage::PressLook { end, press }, Call::Look)
            }
            Stage::GoneWait { deadline, why } => {
                self.call(Stage::GoneLook { deadline, why }, Call::Look)
            }
            Stage::CheckWait => self.check(),
            Stage::Rejoined { called_off, doing: Following::Waiting } => {
                let doing = Following::Asking;
                self.call(Stage::Rejoined { called_off, doing }, Call::Job)
            }
            _ => Next::Nothing,
        }
    }

    /// A graceful stop is to end now.
    pub(super) fn hasten(&mut self, now: u64) -> Next {
        self.cut_short = true;
        self.look_again(now)
    }

    fn make_sure(&mut self, now: u64, why: Option<String>) -> Next {
        self.call(Stage::GoneLook { deadline: now + KILL_LIMIT_MS, why }, Call::Look)
    }

    fn start(&mut self, seen: Option<SeenDomain>, lease: bool) -> Next {
        let generation = seen.as_ref().and_then(|seen| seen.generation);
        match seen.and_then(|seen| seen.presence) {
            // Begun by an agent before this one, or by somebody else: it runs, and that was asked.
            Some(
                Presence::Running
                | Presence::Paused
                | Presence::ShuttingDown
                | Presence::IoError
                | Presence::WatchdogPaused,
            ) => self.call(Stage::Mark, Call::Mark(self.mark())),
            // Created by an agent before this one, which did not live to let it run.
            Some(Presence::Suspended)
                if self.again && generation == Some(self.order.generation) =>
            {
                self.let_run(lease)
            }
            Some(presence) => {
                Next::End(Err(format!("a domain with its UUID is {} here", presence.as_str())))
            }
            None if !lease && !off(Rule::NoStartWithoutLease) => {
                Next::End(Err("this node's lease ran out before it was started".into()))
            }
            // It may have run and be gone since, to another host perhaps: an order is done once.
            None if self.again && !off(Rule::LedgerOnce) => Next::End(Err(
                "an agent before this one began to start it, and it is not here now".into(),
            )),
            None => {
                let Kind::Start(start) = &self.order.kind else { return Next::Nothing };
                match start.memory_file.clone() {
                    Some(file) => {
                        let mark = self.mark();
                        self.call(Stage::Restoring, Call::Restore { file, mark })
                    }
                    None => self.read(),
                }
            }
        }
    }

    /// The domain XML: in the order, or in a file that is read now.
    fn read(&mut self) -> Next {
        let Kind::Start(start) = self.order.kind.clone() else { return Next::Nothing };
        match start.source {
            DomainSource::Stored => self.create(&start.xml),
            source => {
                let vm = self.order.vm.clone();
                self.call(Stage::Reading, Call::ReadXml { source, vm })
            }
        }
    }

    fn create(&mut self, xml: &str) -> Next {
        match insert(xml, &self.mark()) {
            Ok(xml) => self.call(Stage::Create, Call::Create { xml }),
            Err(error) => Next::End(Err(error.to_string())),
        }
    }

    /// It is there, and its vCPUs are stopped: libvirt may have created it long after it was asked, when nobody waits for
    /// it any more, and what is stopped harms nobody. Without a lease it stays so, like what self-fence suspends, until
    /// the leader says what becomes of it.
    fn let_run(&mut self, lease: bool) -> Next {
        if off(Rule::LostStartMayCome) {
            return self.check();
        }
        if !lease && !off(Rule::NoStartWithoutLease) {
            return Next::End(Ok(()));
        }
        self.call(Stage::LetRun, Call::Resume)
    }

    /// It is there; whether it works, its checks say.
    fn check(&mut self) -> Next {
        match &self.order.kind {
            Kind::Start(start) if start.checks.any() => {
                let (vm, checks) = (self.order.vm.clone(), start.checks.clone());
                self.call(Stage::Checking, Call::Check { vm, checks })
            }
            _ => Next::End(Ok(())),
        }
    }

    /// Asked again until its time is over; what did not come to work is not left behind.
    fn check_failed(&mut self, seen: Option<Option<SeenDomain>>, why: String, now: u64) -> Next {
        let Kind::Start(start) = &self.order.kind else { return Next::Nothing };
        if seen == Some(None) {
            return Next::End(Err(format!("it ended before its checks succeeded: {why}")));
        }
        let deadline = self.begun + start.timeout_ms;
        if now < deadline {
            self.stage = Stage::CheckWait;
            return Next::Wait(deadline.min(now + CHECK_AGAIN_MS));
        }
        let seconds = start.timeout_ms.div_ceil(1_000);
        self.in_vain = Some(format!("its checks did not succeed within {seconds} s: {why}"));
        self.call(Stage::Destroying, Call::Destroy)
    }

    fn migrate(&mut self, seen: Option<SeenDomain>, lease: bool) -> Next {
        let Kind::Migrate { migration, cancelled } = self.order.kind.clone() else {
            return Next::Nothing;
        };
        match seen.and_then(|seen| seen.presence) {
            // Begun by an agent before this one, and over: where it is now, the target says.
            None => Next::End(Ok(())),
            // It may still be under way: libvirt carries it out between its two ends, without any agent.
            Some(_) if self.again => self.call(Stage::Rejoin, Call::Job),
            Some(_) if cancelled => Next::End(Err("cancelled before it began".into())),
            // It would arrive stopped, where nobody knows by whom.
            Some(Presence::Suspended) => {
                Next::End(Err("self-fence has suspended it; it has to be resumed first".into()))
            }
            Some(_) if !lease && !off(Rule::NoStartWithoutLease) => {
                Next::End(Err("this node's lease ran out before it was migrated".into()))
            }
            Some(_) => self.call(Stage::Migrating { called_off: false }, Call::Migrate(*migration)),
        }
    }

    fn rejoin(&mut self, answer: Called<Seen>, now: u64) -> Next {
        match answer {
            Ok(Seen::Job(Some(_))) => {
                let cancelled = matches!(self.order.kind, Kind::Migrate { cancelled: true, .. });
                if !cancelled {
                    return self.follow_on(false, now);
                }
                let doing = Following::Aborting;
                self.call(Stage::Rejoined { called_off: true, doing }, Call::AbortJob)
            }
            // It may go on; with the first answer that is known.
            Err(error) if gave_no_answer(&error) => {
                let cancelled = matches!(self.order.kind, Kind::Migrate { cancelled: true, .. });
                self.follow_on(cancelled, now)
            }
            // It is over, or never began: how the guest is, is looked at after that.
            Ok(_) | Err(_) => self.call(Stage::RejoinLook, Call::Look),
        }
    }

    fn follow_on(&mut self, called_off: bool, now: u64) -> Next {
        self.stage = Stage::Rejoined { called_off, doing: Following::Waiting };
        Next::Wait(now + FOLLOW_PERIOD_MS)
    }

    /// Its outcome is what is left here: its guest, or nothing.
    fn followed(
        &mut self,
        called_off: bool,
        doing: Following,
        answer: Called<Seen>,
        now: u64,
    ) -> Next {
        match (doing, answer) {
            (Following::Waiting, _) => Next::Nothing,
            (_, Err(error)) if gave_no_answer(&error) => self.follow_on(called_off, now),
            (Following::Asking, Ok(Seen::Job(Some(_)))) if called_off => {
                let doing = Following::Aborting;
                self.call(Stage::Rejoined { called_off, doing }, Call::AbortJob)
            }
            (Following::Aborting, _) | (Following::Asking, Ok(Seen::Job(Some(_)))) => {
                self.follow_on(called_off, now)
            }
            (Following::Asking, _) => {
                let doing = Following::Looking;
                self.call(Stage::Rejoined { called_off, doing }, Call::Look)
            }
            (Following::Looking, Ok(Seen::Domain(None))) => Next::End(Ok(())),
            // In its last moment; or its libvirtd died at the end of it and leaves it so, for it cannot know what the target
            // made of it.
            (Following::Looking, Ok(Seen::Domain(Some(seen))))
                if seen.presence == Some(Presence::Leaving)
                    && now < *self.leaves_until.get_or_insert(now + LEAVING_MS) =>
            {
                self.follow_on(called_off, now)
            }
            (Following::Looking, _) if self.late.is_some() => {
                Next::End(Err(self.late.take().unwrap_or_default()))
            }
            (Following::Looking, _) if called_off => Next::End(Err("cancelled".into())),
            (Following::Looking, _) => {
                Next::End(Err("it did not come through, and libvirt's word on why was lost".into()))
            }
        }
    }

    fn resume(&mut self, seen: Option<SeenDomain>, lease: bool) -> Next {
        let Some(seen) = seen else {
            return Next::End(Err("it is not here any more".into()));
        };
        match seen.presence {
            Some(Presence::Running) => Next::End(Ok(())),
            Some(Presence::Suspended) if !lease && !off(Rule::NoStartWithoutLease) => {
                Next::End(Err("this node's lease ran out before it was resumed".into()))
            }
            // Its own storage paused it, and the leader says that it may go on.
            Some(Presence::IoError) if !lease => {
                Next::End(Err("this node's lease ran out before it was resumed".into()))
            }
            Some(Presence::Suspended | Presence::IoError)
                if seen.generation == Some(self.order.generation)
                    || off(Rule::ResumeSameGeneration) =>
            {
                self.call(Stage::Resuming, Call::Resume)
            }
            Some(Presence::Suspended) => Next::End(Err("it is here at another generation".into())),
            Some(Presence::Paused) if off(Rule::ResumeOnlyOwn) => {
                self.call(Stage::Resuming, Call::Resume)
            }
            Some(presence) => Next::End(Err(format!(
                "it is {}, and only what self-fence suspended is resumed",
                presence.as_str()
            ))),
            None => Next::End(Err("it is not active".into())),
        }
    }
}

/// What was asked for may still come.
fn gave_no_answer(error: &HypervisorError) -> bool {
    matches!(error, HypervisorError::Disconnected(_) | HypervisorError::Timeout { .. })
}

fn text(error: HypervisorError) -> String {
    error.to_string()
}
