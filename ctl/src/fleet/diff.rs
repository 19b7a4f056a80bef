//! From what is to what is wanted: the changes, in an order in which each can be made, with words for people.

use proto::v1::submit_request::Operation;
use proto::v1::{self, AddVm, SetFenceDevices, SetNodePolicy, SubmitRequest};
use serde::Serialize;
use serde_json::Value;

use crate::fleet::file::is_secret;

/// What is done to one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// It is new.
    Add,
    /// It changes.
    Change,
    /// It is no longer the cluster's. Nothing is stopped.
    Forget,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// What is done.
    pub verb: Verb,
    /// To what: `vm web`.
    pub object: String,
    /// Field by field, where it changes.
    pub fields: Vec<String>,
    /// How.
    #[serde(skip)]
    pub operations: Vec<Operation>,
}

impl Change {
    /// As people read it.
    pub fn text(&self) -> String {
        let sign = match self.verb {
            Verb::Add => '+',
            Verb::Change => '~',
            Verb::Forget => '-',
        };
        let mut text = format!("{sign} {}", self.object);
        if self.verb == Verb::Forget {
            text.push_str(" (forgotten; what runs of it runs on)");
        }
        for field in &self.fields {
            text.push_str("\n    ");
            text.push_str(field);
        }
        text
    }
}

/// The request that makes all the changes.
pub fn request(based_on: u64, changes: &[Change]) -> Operation {
    let change = |operation: &Operation| SubmitRequest {
        operation: Some(operation.clone()),
        ..SubmitRequest::default()
    };
    let operations = changes.iter().flat_map(|change| &change.operations);
    Operation::ApplyFleet(v1::ApplyFleet { based_on, changes: operations.map(change).collect() })
}

/// All changes. What others refer to comes first, and goes last.
pub fn changes(now: &v1::Fleet, wanted: &v1::Fleet) -> Vec<Change> {
    let mut changes = Vec::new();
    if let Some(settings) = wanted.settings.clone().filter(|_| now.settings != wanted.settings) {
        changes.push(Change {
            verb: Verb::Change,
            object: "settings".into(),
            fields: fields(&now.settings, &wanted.settings),
            operations: vec![Operation::ChangeSettings(settings)],
        });
    }
    changes.extend(objects(
        "failover-domain",
        (&now.failover_domains, &wanted.failover_domains),
        |domain| &domain.name,
        |domain, _| Operation::PutFailoverDomain(domain.clone()),
    ));
    changes.extend(wanted.nodes.iter().filter_map(|node| node_change(now, node)));
    changes.extend(gone(
        "placement-rule",
        (&now.placement_rules, &wanted.placement_rules),
        |rule| &rule.name,
        Operation::RemovePlacementRule,
    ));
    // A service lets go of its members before they can go, and takes them up when they are there.
    changes.extend(gone(
        "service",
        (&now.services, &wanted.services),
        |service| &service.name,
        Operation::ForgetService,
    ));
    changes.extend(gone("vm", (&now.vms, &wanted.vms), |vm| &vm.name, Operation::ForgetVm));
    changes.extend(objects(
        "vm",
        (&now.vms, &wanted.vms),
        |vm| &vm.name,
        |vm, known| {
            let add = AddVm { xml: vm.xml.clone(), policy: vm.policy.clone() };
            if known { Operation::EditVm(add) } else { Operation::AddVm(add) }
        },
    ));
    changes.extend(objects(
        "placement-rule",
        (&now.placement_rules, &wanted.placement_rules),
        |rule| &rule.name,
        |rule, _| Operation::PutPlacementRule(rule.clone()),
    ));
    changes.extend(objects(
        "service",
        (&now.services, &wanted.services),
        |service| &service.name,
        |service, known| match known {
            true => Operation::EditService(service.clone()),
            false => Operation::AddService(service.clone()),
        },
    ));
    changes.extend(gone(
        "failover-domain",
        (&now.failover_domains, &wanted.failover_domains),
        |domain| &domain.name,
        Operation::RemoveFailoverDomain,
    ));
    changes
}

fn objects<T: PartialEq + Serialize>(
    kind: &str,
    (now, wanted): (&[T], &[T]),
    name: fn(&T) -> &String,
    operation: impl Fn(&T, bool) -> Operation,
) -> Vec<Change> {
    let change = |object: &T| {
        let known = now.iter().find(|other| name(other) == name(object));
        if known == Some(object) {
            return None;
        }
        Some(Change {
            verb: if known.is_some() { Verb::Change } else { Verb::Add },
            object: format!("{kind} {}", name(object)),
            fields: known.map(|known| fields(known, object)).unwrap_or_default(),
            operations: vec![operation(object, known.is_some())],
        })
    };
    wanted.iter().filter_map(change).collect()
}

fn gone<T>(
    kind: &str,
    (now, wanted): (&[T], &[T]),
    name: fn(&T) -> &String,
    operation: fn(String) -> Operation,
) -> Vec<Change> {
    now.iter()
        .filter(|object| !wanted.iter().any(|other| name(other) == name(object)))
        .map(|object| Change {
            verb: Verb::Forget,
            object: format!("{kind} {}", name(object)),
            fields: Vec::new(),
            operations: vec![operation(name(object).clone())],
        })
        .collect()
}

fn node_change(now: &v1::Fleet, node: &v1::FleetNode) -> Option<Change> {
    let known = now.nodes.iter().find(|other| other.name == node.name)?;
    let mut operations = Vec::new();
    if known.fence_devices != node.fence_devices {
        operations.push(Operation::SetFenceDevices(SetFenceDevices {
            node: node.name.clone(),
            devices: node.fence_devices.clone(),
            add: false,
        }));
    }
    if (known.vouched, &known.after_fence) != (node.vouched, &node.after_fence) {
        operations.push(Operation::SetNodePolicy(SetNodePolicy {
            node: node.name.clone(),
            vouched: Some(node.vouched),
            after_fence: Some(node.after_fence.clone()),
        }));
    }
    (!operations.is_empty()).then(|| Change {
        verb: Verb::Change,
        object: format!("node {}", node.name),
        fields: fields(known, node),
        operations,
    })
}

/// The fields that differ, as `policy.recovery: restart -> relocate`.
fn fields(now: &impl Serialize, wanted: &impl Serialize) -> Vec<String> {
    let value = |message: Result<Value, serde_json::Error>| message.unwrap_or_default();
    let mut lines = Vec::new();
    walk("", &value(serde_json::to_value(now)), &value(serde_json::to_value(wanted)), &mut lines);
    lines
}

fn walk(path: &str, now: &Value, wanted: &Value, lines: &mut Vec<String>) {
    let inner = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    if now == wanted {
        return;
    }
    match (now, wanted) {
        (Value::Object(left), Value::Object(right)) => {
            let mut keys: Vec<_> = left.keys().chain(right.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let at = |map: &serde_json::Map<String, Value>| {
                    map.get(key.as_str()).cloned().unwrap_or_default()
                };
                walk(&inner(key), &at(left), &at(right), lines);
            }
        }
        (Value::Array(left), Value::Array(right))
            if left.iter().chain(right).any(|item| item.is_object()) =>
        {
            for number in 0..left.len().max(right.len()) {
                let at = |list: &[Value]| list.get(number).cloned().unwrap_or_default();
                walk(&format!("{path}[{number}]"), &at(left), &at(right), lines);
            }
        }
        (Value::Null, Value::Object(right)) => {
            for (key, value) in right {
                walk(&inner(key), &Value::Null, value, lines);
            }
        }
        (Value::String(left), Value::String(right))
            if left.contains('\n') || right.contains('\n') =>
        {
            text_lines(path, left, right, lines);
        }
        _ if is_secret(path) => lines.push(format!("{path}: (set)")),
        _ => lines.push(format!("{path}: {} -> {}", plain(now), plain(wanted))),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Of a long text the lines that only one side has, between what both begin and end with.
fn text_lines(path: &str, now: &str, wanted: &str, lines: &mut Vec<String>) {
    let (left, right): (Vec<_>, Vec<_>) = (now.lines().collect(), wanted.lines().collect());
    let head = left.iter().zip(&right).take_while(|(a, b)| a == b).count();
    let rest = (&left[head..], &right[head..]);
    let tail = rest.0.iter().rev().zip(rest.1.iter().rev()).take_while(|(a, b)| a == b).count();
    lines.push(format!("{path}:"));
    let taken = |side: &[&str], sign: char, lines: &mut Vec<String>| {
        for line in &side[..side.len() - tail] {
            lines.push(format!("  {sign} {line}"));
        }
    };
    taken(rest.0, '-', lines);
    taken(rest.1, '+', lines);
    if rest.0.len() == tail && rest.1.len() == tail {
        lines.push("  only the ends of its lines differ".into());
    }
}
