//! What a file says that cannot be meant, as names of nodes and VMs that it never introduces: errors of the file, with
//! their line.

use super::file::{Condition, Event, FileError, OnePerNode, Replicas, Scenario, Wait, Word};

/// The first name that nobody introduced, or word that cannot be said of what it is said of.
pub fn check(scenario: &Scenario, text: &str) -> Result<(), FileError> {
    let error = |name: &str, why: String| {
        let place = line_of(text, name).map(|line| format!("line {line}: "));
        Err(FileError::new(format!("{}{why}", place.unwrap_or_default())))
    };
    let replicas = match scenario.cluster.replicas {
        Replicas::Number(number) => number,
        Replicas::Word(OnePerNode::OnePerNode) => scenario.cluster.nodes.len(),
    };
    if replicas == 0 {
        return error("replicas", "a control plane has one replica at least".into());
    }
    for name in nodes(scenario) {
        if !scenario.cluster.nodes.contains_key(name) {
            return error(name, format!("{name} is no node of the cluster"));
        }
    }
    for name in vms(scenario) {
        if !scenario.vms.contains_key(name) {
            return error(name, format!("{name} is no VM of the story"));
        }
    }
    for condition in conditions(scenario) {
        let of_node = matches!(
            condition.is,
            Word::Up | Word::Unknown | Word::BeingFenced | Word::Maintenance
        );
        match (&condition.node, &condition.vm) {
            (Some(_), None) if of_node => {}
            (None, Some(_)) if !of_node => {}
            (Some(name), None) | (None, Some(name)) => {
                let why = format!("{:?} is no word for {name}", condition.is);
                return error(name, why);
            }
            _ => return error("until", "a condition is about one node or one VM".into()),
        }
    }
    Ok(())
}

fn conditions(scenario: &Scenario) -> impl Iterator<Item = &Condition> {
    scenario.timeline.iter().flat_map(|step| match &step.wait {
        Some(Wait::Until(until)) => until.until.as_slice(),
        Some(Wait::Word(_)) | None => &[],
    })
}

fn nodes(scenario: &Scenario) -> Vec<&str> {
    let mut names: Vec<&String> = scenario.vms.values().map(|vm| &vm.node).collect();
    let faults = scenario.vms.values().filter_map(|vm| vm.faults.as_ref());
    names.extend(faults.filter_map(|faults| faults.only_on.as_ref()));
    names.extend(scenario.rules.iter().flat_map(|rule| rule.nodes.keys()));
    if let Some(initial) = &scenario.initial_state {
        names.extend(initial.leader_was.as_ref());
        names.extend(initial.nodes.keys());
        names.extend(initial.vms.values().map(|vm| &vm.node));
        names.extend(initial.vms.values().filter_map(|vm| vm.target.as_ref()));
    }
    names.extend(conditions(scenario).filter_map(|condition| condition.node.as_ref()));
    for event in scenario.timeline.iter().flat_map(|step| &step.events) {
        names.extend(of_event(event).0);
    }
    names.into_iter().map(String::as_str).collect()
}

fn vms(scenario: &Scenario) -> Vec<&str> {
    let mut names: Vec<&String> = scenario.rules.iter().flat_map(|rule| &rule.vms).collect();
    names.extend(scenario.initial_state.iter().flat_map(|initial| initial.vms.keys()));
    names.extend(conditions(scenario).filter_map(|condition| condition.vm.as_ref()));
    for event in scenario.timeline.iter().flat_map(|step| &step.events) {
        names.extend(of_event(event).1);
    }
    names.into_iter().map(String::as_str).collect()
}

/// The node and the VM that an event names.
fn of_event(event: &Event) -> (Option<&String>, Option<&String>) {
    match event {
        Event::Power { node, .. }
        | Event::Network { node, .. }
        | Event::Shutdown { node, .. }
        | Event::Maintenance { node, .. }
        | Event::RestartAgent { node }
        | Event::StopReplica { node, .. }
        | Event::ControlStore { node, .. } => (Some(node), None),
        Event::Move { vm, to, .. } | Event::MovedOutside { vm, to } => (Some(to), Some(vm)),
        Event::Add { vm, node, .. } => (node.as_ref(), Some(vm)),
        Event::Desire { vm, .. }
        | Event::Stop { vm, .. }
        | Event::Remove { vm }
        | Event::Load { vm, .. }
        | Event::Lock { vm, .. } => (None, Some(vm)),
        Event::Pause { .. } | Event::Resume { .. } | Event::Stall { .. } | Event::Wait { .. } => {
            (None, None)
        }
    }
}

/// The first line in which the name stands by itself, counted from 1.
fn line_of(text: &str, name: &str) -> Option<usize> {
    let part = |letter: char| letter.is_alphanumeric() || ":_./-".contains(letter);
    let says = |line: &str| {
        let mut words = line.split(|letter| !part(letter));
        words.any(|word| word == name || word.strip_suffix(':') == Some(name))
    };
    text.lines().position(says).map(|line| line + 1)
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;

    const STORY: &str = "format: ha-scenario/1
name: small
cluster:
  nodes: {node1: {power: 'off'}}
vms:
  vm:1: {node: node1, desired: running}
timeline:
- wait: {until: [{vm: 'vm:1', is: running}, {node: node1, is: up}]}
  events:
  - {do: vm.move, vm: 'vm:1', to: node1, live: true}
";

    #[test]
    fn a_name_that_nobody_introduced_is_an_error_with_its_line() {
        assert!(check(&file::parse(STORY).unwrap(), STORY).is_ok());
        for (from, to, says) in [
            ("vms:\n", "  replicas: 0\nvms:\n", "line 5: a control plane has one replica"),
            ("to: node1", "to: node9", "line 10: node9 is no node"),
            ("vm: 'vm:1', to", "vm: 'vm:7', to", "line 10: vm:7 is no VM"),
            ("vm: 'vm:1', is", "vm: 'vm:8', is", "line 8: vm:8 is no VM"),
            ("{node: node1, is: up}", "{node: node2, is: up}", "line 8: node2 is no node"),
            ("is: running", "is: maintenance", "line 6: Maintenance is no word for vm:1"),
            ("{node: node1, desired", "{node: node3, desired", "line 6: node3 is no node"),
        ] {
            let text = STORY.replace(from, to);
            let error = check(&file::parse(&text).unwrap(), &text).unwrap_err().to_string();
            assert!(error.starts_with(says), "{to}: {error}");
        }
    }
}
