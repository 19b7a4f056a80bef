//! What a story was to come to, held against its trace.

use super::file::Scenario;
use crate::sim::trace::Line;

/// What does not hold, with the lines that show it.
pub fn broken(scenario: &Scenario, trace: &[Line]) -> Vec<String> {
    let Some(expect) = &scenario.expect else { return Vec::new() };
    let mut broken = Vec::new();
    let end = trace.last();
    for (vm, expected) in &expect.vms {
        let found = end.and_then(|line| line.more.get("vms")).and_then(|vms| vms.get(vm));
        let text = |key: &str| found.and_then(|vm| vm.get(key)).and_then(|it| it.as_str());
        let node_right = expected.node.is_none() || expected.node.as_deref() == text("node");
        if text("state") != Some(expected.state.as_str()) || !node_right {
            broken.push(format!("{vm} is to be {expected:?}, and the end says {found:?}"));
        }
    }
    let fenced = |node: &String| {
        trace.iter().find(|line| line.event == "fenced" && line.arguments == [node.as_str()])
    };
    for node in expect.fenced.iter().filter(|node| fenced(node).is_none()) {
        broken.push(format!("{node} was to be fenced, and was not"));
    }
    for node in &expect.not_fenced {
        if let Some(line) = fenced(node) {
            broken.push(format!("{node} was not to be fenced: {}", line.json()));
        }
    }
    let mut rest = trace.iter();
    for wanted in &expect.trace {
        if !rest.any(|line| matches(line, wanted)) {
            broken.push(format!("no line {wanted:?} comes where it was to come"));
            break;
        }
    }
    for unwanted in &expect.never {
        if let Some(line) = trace.iter().find(|line| matches(line, unwanted)) {
            broken.push(format!("there was never to be a line {unwanted:?}: {}", line.json()));
        }
    }
    broken
}

/// The event, and as many of its arguments as are given; `*` is any.
fn matches(line: &Line, wanted: &[String]) -> bool {
    let Some((event, arguments)) = wanted.split_first() else { return false };
    line.event == event
        && arguments.len() <= line.arguments.len()
        && arguments
            .iter()
            .zip(&line.arguments)
            .all(|(wanted, found)| wanted == "*" || found.as_str() == Some(wanted))
}
