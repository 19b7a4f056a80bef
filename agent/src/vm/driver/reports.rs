//! Reports: what the cluster is told of the domain and of the ends of orders.

use model::node::SeenDomain;
use proto::convert::agent as convert;
use proto::v1;

use super::{Driver, Scene};
use crate::vm::order::Order;

impl Driver {
    pub(super) fn send_seen(&mut self, scene: &mut Scene<'_>, seen: SeenDomain) {
        let report = v1::report::Report::Seen(convert::seen(self.uuid, &seen));
        scene.reports.push(v1::Report { report: Some(report) });
        self.known = Some(seen);
        self.told_defined = None;
        self.tell_anew = false;
    }

    /// A domain that is defined and not active can be adopted: the cluster knows of it, though nothing runs.
    pub(super) fn tell_definition(&mut self, scene: &mut Scene<'_>) {
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
    pub(super) fn send_absent(&mut self, scene: &mut Scene<'_>, floor: u64) {
        self.known = None;
        // With this word its definition is forgotten, too.
        self.told_defined = None;
        self.missed_since = None;
        self.tell_anew = false;
        let report = convert::absent(self.uuid, floor, self.cause);
        scene.reports.push(v1::Report { report: Some(v1::report::Report::Absent(report)) });
    }

    pub(super) fn send_done(&self, scene: &mut Scene<'_>, order: &Order, error: Option<String>) {
        let done = v1::OrderDone { uuid: self.uuid.to_string(), order: order.id, error };
        scene.reports.push(v1::Report { report: Some(v1::report::Report::OrderDone(done)) });
    }
}
