//! The trace: one JSON object a line, facts of the simulated world and committed decisions only, in their order.

use model::ClusterState;
use model::cluster::Outcome;
use model::command::{Command, Decision, Operation};
use model::node::{NodeRecord, NodeState};
use model::vm::{Verb, VmState};
use serde_json::{Map, Value, json};

use super::world::World;

/// What happened, line by line.
#[derive(Debug, Default)]
pub struct Trace {
    lines: Option<Vec<Line>>,
    /// More than the format knows: calls, registrations.
    verbose: bool,
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Virtual milliseconds.
    pub at: u64,
    /// What.
    pub event: &'static str,
    /// About whom and what.
    pub arguments: Vec<Value>,
    /// More fields, of the last line.
    pub more: Map<String, Value>,
}

impl Line {
    /// As JSON, the keys in the format's order.
    pub fn json(&self) -> String {
        let mut text = format!(
            "{{\"t\": {}, \"ev\": {}, \"args\": {}",
            json!(self.at as f64 / 1_000.0),
            json!(self.event),
            Value::from(self.arguments.clone())
        );
        for (key, value) in &self.more {
            text.push_str(&format!(", {}: {value}", json!(key)));
        }
        text.push('}');
        text
    }
}

impl Trace {
    /// One that is kept.
    pub fn kept() -> Self {
        Self { lines: Some(Vec::new()), verbose: false }
    }

    /// One that is kept, with what only whoever looks for a fault wants to see.
    pub fn verbose() -> Self {
        Self { lines: Some(Vec::new()), verbose: true }
    }

    /// Whether anybody will read it.
    pub fn is_kept(&self) -> bool {
        self.lines.is_some()
    }

    /// Notes what the format does not know.
    pub fn detail(&mut self, at: u64, event: &'static str, detail: impl FnOnce() -> String) {
        if self.verbose {
            self.note(at, event, &[&detail()]);
        }
    }

    /// Notes a line, where the trace is kept.
    pub fn note(&mut self, at: u64, event: &'static str, arguments: &[&str]) {
        if let Some(lines) = &mut self.lines {
            let arguments = arguments.iter().map(|text| json!(text)).collect();
            lines.push(Line { at, event, arguments, more: Map::new() });
        }
    }

    /// Notes a line with a number.
    pub fn note_number(&mut self, at: u64, event: &'static str, number: usize) {
        if let Some(lines) = &mut self.lines {
            lines.push(Line { at, event, arguments: vec![json!(number)], more: Map::new() });
        }
    }

    /// Notes the last line.
    pub fn end(&mut self, at: u64, more: Map<String, Value>) {
        if let Some(lines) = &mut self.lines {
            lines.push(Line { at, event: "end", arguments: Vec::new(), more });
        }
    }

    /// All lines.
    pub fn lines(&self) -> &[Line] {
        self.lines.as_deref().unwrap_or_default()
    }
}

impl World {
    /// The committed decisions that a judge has to know.
    pub(super) fn trace_commit(
        &mut self,
        command: &Command,
        outcome: &Outcome,
        before: &ClusterState,
        after: &ClusterState,
    ) {
        let now = self.now;
        if outcome.is_err() {
            return;
        }
        for new in after.vms.values() {
            let old = before.vms.get(&new.spec.name).map(|it| it.state);
            let alarm = match new.state {
                state if Some(state) == old => continue,
                VmState::Lost => "lost",
                VmState::Failed => "stop-failed",
                _ => continue,
            };
            self.trace.note(now, "alarm", &[alarm, new.spec.name.as_str()]);
        }
        match &command.operation {
            // The first that came to nothing; those that follow are the same alarm.
            Operation::FenceFailed { node, .. }
                if !before.nodes.get(node).is_some_and(|node| has_failed(node)) =>
            {
                self.trace.note(now, "alarm", &["stuck-fence", &after.node_name(*node)]);
            }
            Operation::FenceAsked { node, .. } => {
                self.trace.note(now, "fence-asked", &[&after.node_name(*node)]);
            }
            // A second proof of one death, as of the fence after the lease, is no news.
            Operation::NodeDead { node, .. }
                if !before
                    .nodes
                    .get(node)
                    .is_some_and(|node| matches!(node.state, NodeState::Dead(_))) =>
            {
                self.trace.note(now, "fenced", &[&after.node_name(*node)]);
            }
            Operation::Register(registration) => {
                // A boot proves the end of what ran there before, where anything did.
                let known = before.node_named(&registration.name);
                if known.is_some_and(|node| {
                    node.boot_id != registration.boot_id
                        && !matches!(node.state, NodeState::Dead(_))
                        && before.vms.values().any(|vm| vm.owner == Some(node.id))
                }) {
                    self.trace.note(now, "fenced", &[registration.name.as_str()]);
                }
            }
            Operation::Decide { vm, decision: Decision::Start { node, .. }, .. } => {
                let record = before.vms.get(vm);
                let died = record
                    .and_then(|record| record.failure.as_ref())
                    .filter(|failure| failure.node_died);
                // On the node itself, which has booted anew, it has no new owner.
                if let Some(failure) = died.filter(|failure| failure.node != *node) {
                    let from = before.node_name(failure.node);
                    let to = before.node_name(*node);
                    self.trace.note(now, "recover", &[vm.as_str(), &from, &to]);
                }
            }
            Operation::Decide { vm, decision: Decision::Stop { node, .. }, .. } => {
                let record = before.vms.get(vm);
                let verb = record.and_then(|it| it.open_operation()).map(|it| &it.verb);
                if let Some(Verb::Relocate { to: Some(to) }) = verb {
                    let (from, to) = (before.node_name(*node), before.node_name(*to));
                    self.trace.note(now, "move", &[vm.as_str(), &from, &to, "cold"]);
                }
            }
            Operation::Decide { vm, decision: Decision::Conflict, .. } => {
                self.trace.note(now, "alarm", &["conflict", vm.as_str()]);
            }
            Operation::MassLoss { nodes } if before.mass_loss.is_none() => {
                let names: Vec<_> = nodes.iter().map(|node| after.node_name(*node)).collect();
                self.trace.note(now, "alarm", &["mass-loss", &names.join(",")]);
            }
            _ => {}
        }
    }
}

/// A fence of it came to nothing since it was lost.
fn has_failed(node: &NodeRecord) -> bool {
    node.fence_attempts.as_ref().is_some_and(|attempts| attempts.failed > 0)
}
