//! A guest that runs: whether it works, asked now and then, and what libvirt says happens in it.

use model::command::GuestNote;
use model::handling::Checks;
use model::vm::StopCause;
use proto::convert::agent as convert;
use proto::v1;
use tracing::{info, warn};

use super::{Driver, Purpose, Scene, Seen};
use crate::hypervisor::call::Call;
use crate::hypervisor::{HypervisorError, Result as Called};

/// How a guest is checked while it runs.
#[derive(Debug)]
pub(super) struct Watching {
    vm: String,
    checks: Checks,
    /// When it is asked next.
    pub(super) next: u64,
    /// The cluster has been told that its checks fail.
    failing: bool,
}

/// What is about to end a guest, for so long: 5 s, in which a loaded host brings QEMU down.
#[derive(Debug)]
pub(super) struct Hint {
    cause: StopCause,
    pub(super) until: u64,
}

impl Hint {
    fn new(cause: StopCause, now: u64) -> Self {
        Self { cause, until: now + 5_000 }
    }
}

impl Driver {
    /// The cluster says how it is checked from now on, or that it is not.
    pub(crate) fn watch(&mut self, scene: &mut Scene<'_>, watch: Option<(String, Checks)>) {
        let Some((vm, checks)) = watch else {
            self.watch = None;
            return;
        };
        match &mut self.watch {
            Some(watching) if watching.checks == checks => {}
            Some(watching) => {
                watching.next = watching.next.min(scene.now + checks.interval_ms);
                watching.checks = checks;
            }
            None => {
                let next = scene.now + checks.interval_ms;
                // What an agent before this one told of it is not known: the first answer is told, whatever it is.
                self.watch = Some(Watching { vm, checks, next, failing: true });
            }
        }
    }

    pub(super) fn check_when_due(&mut self, scene: &mut Scene<'_>) {
        let Some(watch) = &mut self.watch else { return };
        if watch.next > scene.now {
            return;
        }
        watch.next = scene.now + watch.checks.interval_ms;
        // While it is being stopped, moved or cut off its checks say nothing.
        let call = Call::Check { vm: watch.vm.clone(), checks: watch.checks.clone() };
        let free = self.work.is_none() && self.isolation.is_none() && scene.lease;
        if free && !self.calling(|it| *it == Purpose::Check) {
            self.call(scene, call, Purpose::Check);
        }
    }

    pub(super) fn checked(&mut self, scene: &mut Scene<'_>, answer: Called<Seen>) {
        let Some(watch) = &mut self.watch else { return };
        let error = match answer {
            Ok(_) => None,
            Err(HypervisorError::Refused(why)) => Some(why),
            // A libvirt that does not answer says nothing of the guest.
            Err(error) => return info!(uuid = %self.uuid, %error, "it cannot be checked now"),
        };
        if self.work.is_some() || self.isolation.is_some() {
            return;
        }
        let before = std::mem::replace(&mut watch.failing, error.is_some());
        if error.is_none() && !before {
            return;
        }
        if let Some(error) = &error {
            warn!(vm = watch.vm, error, "a check has failed");
        }
        let checked = v1::Checked { uuid: self.uuid.to_string(), error };
        scene.reports.push(v1::Report { report: Some(v1::report::Report::Checked(checked)) });
    }

    /// Something happened in the guest.
    pub(crate) fn noted(&mut self, scene: &mut Scene<'_>, note: GuestNote, text: String) {
        if note == GuestNote::Panicked {
            self.hint = Some(Hint::new(StopCause::Panicked, scene.now));
        }
        let noted = convert::noted(self.uuid, note, text);
        scene.reports.push(v1::Report { report: Some(v1::report::Report::Noted(noted)) });
    }

    /// It is about to end, for a cause that its end itself will not tell.
    pub(crate) fn ending(&mut self, now: u64, cause: StopCause) {
        // What a watchdog or a panic brings about is seen as a shutdown by the host's hand a moment later.
        let from_within = |hint: &Hint| {
            matches!(hint.cause, StopCause::Watchdog | StopCause::Panicked) && now < hint.until
        };
        if !self.hint.as_ref().is_some_and(from_within) {
            self.hint = Some(Hint::new(cause, now));
        }
    }

    /// What was said to be about to end it not long ago, where the word on the end itself was lost.
    pub(super) fn hinted(&mut self, now: u64) -> Option<StopCause> {
        self.hint.take().filter(|hint| now < hint.until).map(|hint| hint.cause)
    }

    /// The cause of an end, with what was said just before it.
    pub(super) fn refined(&mut self, cause: StopCause) -> StopCause {
        match (cause, self.hint.take().map(|hint| hint.cause)) {
            // QEMU that powers a guest off for its watchdog just exits, which libvirt calls a failure of QEMU.
            (
                StopCause::GuestShutdown | StopCause::Destroyed | StopCause::Failed,
                Some(StopCause::Watchdog),
            ) => StopCause::Watchdog,
            (StopCause::GuestShutdown, Some(StopCause::Terminated)) => StopCause::Terminated,
            (StopCause::Crashed | StopCause::Destroyed, Some(StopCause::Panicked)) => {
                StopCause::Panicked
            }
            (cause, _) => cause,
        }
    }
}
