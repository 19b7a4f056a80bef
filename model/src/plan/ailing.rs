//! A guest that is there and does not work: helped, stopped to be recovered, or left, as its policy says.

use crate::ailment::AilmentKind;
use crate::command::Decision;
use crate::handling::OnIoError;
use crate::plan::Reason;
use crate::plan::vm::Planner;
use crate::vm::VmState;

impl Planner<'_> {
    pub(super) fn ailing(&mut self, wanted: bool) -> Option<Reason> {
        let record = self.record;
        let ailment = record.ailment.as_ref()?;
        let node = record.owner?;
        // What the operator asked comes first; a silent owner is another matter.
        if !wanted
            || record.state != VmState::Started
            || record.open_operation().is_some()
            || !self.has_session(node)
        {
            return None;
        }
        let policy = record.spec.policy.handling.guest;
        if policy.stops(ailment.kind) {
            // A guest whose processors stand still hears no button.
            let graceful = matches!(ailment.kind, AilmentKind::Check | AilmentKind::Rebooted);
            let graceful_ms = graceful.then_some(record.spec.policy.stop_timeout_ms);
            return Some(
                self.decide(Decision::Stop { node, graceful_ms }, "it stops, to be recovered"),
            );
        }
        if ailment.kind == AilmentKind::Rebooted {
            // Its policy was another when it did.
            return None;
        }
        let waiting_for = match policy.on_io_error {
            OnIoError::Resume if self.may_evict(node) => {
                return Some(self.decide(Decision::Resume { node }, "it is resumed"));
            }
            OnIoError::Resume => "it is resumed again in a while",
            OnIoError::Restart | OnIoError::Leave => {
                "its policy leaves it; `berthctl restart` boots it anew"
            }
        };
        let waiting_for = waiting_for.to_owned();
        Some(Reason::Ailing { why: ailment.why.clone(), waiting_for })
    }
}
