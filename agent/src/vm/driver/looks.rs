//! Looks: whether the domain is here, what is news in that, and when "not here" may be said.

use model::node::SeenDomain;
use model::vm::Presence;
use tracing::warn;

use super::{Driver, Purpose, SETTLE_MS, Scene, Seen, Unsettled};
use crate::hypervisor::Result as Called;
use crate::hypervisor::call::Call;
use crate::vm::ledger::Suspension;
use crate::vm::order::Order;

/// A question that could not be answered is asked again after this.
const LOOK_AGAIN_MS: u64 = 1_000;

impl Driver {
    pub(super) fn look(&mut self, scene: &mut Scene<'_>) {
        let busy = |it: &Purpose| matches!(it, Purpose::Look | Purpose::LookAfter(_));
        if self.calling(busy) {
            self.look_again = true;
        } else {
            self.call(scene, Call::Look, Purpose::Look);
        }
    }

    /// An answered look that did not find it: whether that is the end of waiting for what libvirt was asked before.
    pub(super) fn settle(&mut self, now: u64) -> bool {
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

    /// What is seen now; told when it is news. Nothing is told when libvirt does not answer: silence is not absence.
    pub(super) fn looked(
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
                        let floor = scene.ledger.floor(self.uuid);
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
                    let floor = scene.ledger.floor(self.uuid);
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
    pub(super) fn probed(&mut self, scene: &mut Scene<'_>, order: &Order, answer: Called<Seen>) {
        // What has been begun since knows better.
        if self.may_come() || self.work.is_some() {
            return;
        }
        match answer {
            Ok(Seen::Domain(Some(seen))) => self.send_seen(scene, seen),
            Ok(_) => match scene.ledger.promise(self.uuid, order.id) {
                Ok(()) => {
                    let floor = scene.ledger.floor(self.uuid);
                    self.send_absent(scene, floor);
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
}
