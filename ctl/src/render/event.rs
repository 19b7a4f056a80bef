//! An event as it is printed.

use proto::v1;
use serde::Serialize;

use super::time;

/// An event.
#[derive(Debug, Serialize)]
pub struct Event {
    revision: u64,
    sequence: u32,
    at: String,
    kind: String,
    severity: String,
    vm: Option<String>,
    service: Option<String>,
    node: Option<String>,
    text: String,
}

impl From<&v1::Event> for Event {
    fn from(event: &v1::Event) -> Self {
        let event = event.clone();
        Self {
            revision: event.revision,
            sequence: event.sequence,
            at: time(event.at_ms),
            kind: event.kind,
            severity: event.severity,
            vm: event.vm,
            service: event.service,
            node: event.node,
            text: event.text,
        }
    }
}
