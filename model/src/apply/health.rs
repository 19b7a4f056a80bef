//! Guests that are there and do not work: noted from what is seen and from checks, and what follows when one has ended.

use uuid::Uuid;

use crate::ailment::{Ailment, AilmentKind};
use crate::cluster::{ClusterState, Context};
use crate::command::GuestNote;
use crate::event::EventKind;
use crate::handling::{GuestEnd, OnReboot};
use crate::id::{NodeId, VmName};
use crate::rejection::Rejection;
use crate::vm::{Desired, OperationPhase, Presence, Verb, VmState};

impl ClusterState {
    /// What a sighting says of the guest's health, where it is the owner's.
    pub(super) fn note_health(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        node: NodeId,
        presence: Presence,
    ) -> Result<(), Rejection> {
        let record = self.vm(vm)?;
        if record.owner != Some(node) || record.state != VmState::Started {
            return Ok(());
        }
        let known = record.ailment.as_ref().map(|ailment| ailment.kind);
        match (AilmentKind::of(presence), known) {
            (Some(kind), known) if known != Some(kind) => {
                self.ails(cx, vm, node, kind, kind.why().to_owned())
            }
            // What checks say is taken back by checks.
            (None, Some(AilmentKind::Check | AilmentKind::Rebooted)) => Ok(()),
            (None, Some(_)) if presence == Presence::Running => self.is_well(cx, vm, node),
            _ => Ok(()),
        }
    }

    fn ails(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        node: NodeId,
        kind: AilmentKind,
        why: String,
    ) -> Result<(), Rejection> {
        let place = self.node_name(node);
        let event = match kind {
            AilmentKind::IoError => EventKind::VmIoError,
            AilmentKind::Crashed => EventKind::VmGuestCrashed,
            AilmentKind::Watchdog => EventKind::VmWatchdog,
            AilmentKind::Check => EventKind::VmStatusFailed,
            AilmentKind::Rebooted => EventKind::VmRebooted,
        };
        self.emit(cx, event, Some(vm), Some(node), format!("{vm} on {place}: {why}"));
        self.vm_mut(cx, vm)?.ailment = Some(Ailment { kind, why, node, at: cx.at });
        Ok(())
    }

    fn is_well(&mut self, cx: &mut Context, vm: &VmName, node: NodeId) -> Result<(), Rejection> {
        let text = format!("{vm} is well again on {}", self.node_name(node));
        self.emit(cx, EventKind::VmHealthy, Some(vm), Some(node), text);
        let record = self.vm_mut(cx, vm)?;
        record.ailment = None;
        Ok(())
    }

    /// A check of a guest came to this, and the one before to something else; or it failed once more.
    pub(super) fn checked(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        uuid: Uuid,
        error: Option<&str>,
    ) -> Result<(), Rejection> {
        let Some(vm) = self.vm_by_uuid.get(&uuid).cloned() else { return Ok(()) };
        let record = self.vm(&vm)?;
        if record.owner != Some(node) || record.state != VmState::Started {
            return Ok(());
        }
        match error {
            Some(error) => self.status_failed(cx, node, uuid, error),
            None if record.ailment.as_ref().is_some_and(|it| it.kind == AilmentKind::Check) => {
                self.is_well(cx, &vm, node)
            }
            None => Ok(()),
        }
    }

    /// Something happened in a guest that changes nothing in its place: for people and programs to know.
    pub(super) fn noted(
        &mut self,
        cx: &mut Context,
        node: NodeId,
        uuid: Uuid,
        note: GuestNote,
        text: &str,
    ) -> Result<(), Rejection> {
        let Some(vm) = self.vm_by_uuid.get(&uuid).cloned() else { return Ok(()) };
        let place = self.node_name(node);
        let (kind, what) = match note {
            GuestNote::Rebooted => (EventKind::VmRebooted, "the guest rebooted"),
            GuestNote::Panicked => (EventKind::VmGuestPanicked, "the guest panicked"),
            GuestNote::Watchdog => (EventKind::VmWatchdogBit, "the guest's watchdog bit"),
            GuestNote::BootsAnew => {
                (EventKind::VmMemoryLost, "it boots anew, for its saved memory cannot be restored")
            }
            GuestNote::IoError => (EventKind::VmStorageError, "the guest's storage failed"),
        };
        let more = if text.is_empty() { String::new() } else { format!(": {text}") };
        self.emit(cx, kind, Some(&vm), Some(node), format!("{vm} on {place}: {what}{more}"));
        let record = self.vm(&vm)?;
        let ends = note == GuestNote::Rebooted
            && matches!(record.spec.policy.handling.guest.on_reboot, OnReboot::End(_))
            && record.owner == Some(node)
            && record.state == VmState::Started
            && record.ailment.is_none();
        if ends {
            let (kind, why) = (AilmentKind::Rebooted, AilmentKind::Rebooted.why().to_owned());
            self.vm_mut(cx, &vm)?.ailment = Some(Ailment { kind, why, node, at: cx.at });
        }
        Ok(())
    }

    /// A guest that was stopped because it ailed, or that ended by itself, is down: its policy says what follows.
    pub(super) fn guest_ended(
        &mut self,
        cx: &mut Context,
        vm: &VmName,
        node: NodeId,
        why: String,
        end: GuestEnd,
    ) -> Result<(), Rejection> {
        let place = self.node_name(node);
        let record = self.vm_mut(cx, vm)?;
        record.ailment = None;
        let (desired, kind) = match end {
            GuestEnd::Recover => {
                record.fail(cx, why.clone(), node, false);
                record.last_owner = Some(node);
                record.owner = None;
                record.set_state(cx, VmState::Recovering);
                let text = format!("{vm} failed on {place}: {why}");
                self.emit(cx, EventKind::VmFailed, Some(vm), Some(node), text);
                return Ok(());
            }
            GuestEnd::Stop => (Desired::Stopped, EventKind::VmStopped),
            GuestEnd::Disable => (Desired::Disabled, EventKind::VmDisabled),
        };
        record.desired = desired;
        let text = format!("{vm} ended on {place}: {why}; by its policy it stays down");
        self.emit(cx, kind, Some(vm), Some(node), text);
        self.settled(cx, vm)?;
        if self.vm(vm)?.open_operation().is_some() {
            self.end_operation(cx, vm, OperationPhase::Failed(why))?;
        }
        Ok(())
    }

    /// What follows when a stop that was ordered because the guest ailed has ended; `None` when it was ordered for
    /// another reason.
    pub(super) fn after_ailment(
        &self,
        vm: &VmName,
    ) -> Result<Option<(String, GuestEnd)>, Rejection> {
        let record = self.vm(vm)?;
        let asked = record.open_operation().is_some_and(|operation| {
            !matches!(operation.verb, Verb::Enable { .. } | Verb::Migrate { .. })
        });
        if record.desired != Desired::Enabled || asked {
            return Ok(None);
        }
        let policy = record.spec.policy.handling.guest;
        Ok(record
            .ailment
            .as_ref()
            .map(|ailment| (ailment.why.clone(), policy.after_ailment(ailment.kind))))
    }
}
