//! What a story needs, and what of it Berth has.

use std::collections::BTreeSet;

use super::file::{
    Desired, Event, Head, LoadKind, PauseMode, PlacementMode, RuleKind, Scenario, ShutdownPolicy,
};

/// Features beyond the core that can be played.
const HAVE: &[&str] = &[
    "rule.node-affinity",
    "rule.node-affinity.strict",
    "rule.node-priority",
    "rule.together",
    "rule.apart",
    "failback-off",
    "fault-injection",
    "restart-policy",
    "relocate-policy",
    "stop-with-timeout",
    "not-live-movable",
    "maintenance",
    "shutdown.conditional",
    "shutdown.freeze",
    "shutdown.failover",
    "shutdown.migrate",
    "desired.ignored",
    "placement.static",
    "placement.dynamic",
    "rebalance.on-start",
    "rebalance.auto",
    "seeded-state",
    "pause.freeze",
    "pause.ignore",
    "vm-lock",
    "moved-outside",
    "store-fault",
    "control-stall",
];

/// The features that are missing, sorted. One that no format knows yet is missing like any other.
pub fn missing(scenario: &Scenario) -> Vec<String> {
    let mut needs: BTreeSet<String> = scenario.requires.iter().cloned().collect();
    needs.extend(implied(scenario).into_iter().map(str::to_owned));
    lacking(needs)
}

/// What a file says itself that it needs and Berth lacks: such a file may have words that are not known either.
pub fn missing_by_name(head: &Head) -> Vec<String> {
    lacking(head.requires.iter().cloned().collect())
}

fn lacking(mut needs: BTreeSet<String>) -> Vec<String> {
    needs.retain(|name| !HAVE.contains(&name.as_str()));
    needs.into_iter().collect()
}

/// What follows from what is told, said or not.
fn implied(scenario: &Scenario) -> BTreeSet<&'static str> {
    let mut needs = BTreeSet::new();
    for rule in &scenario.rules {
        match rule.kind {
            RuleKind::NodeAffinity if rule.strict => needs.insert("rule.node-affinity.strict"),
            RuleKind::NodeAffinity => needs.insert("rule.node-affinity"),
            RuleKind::Apart => needs.insert("rule.apart"),
            RuleKind::Together => needs.insert("rule.together"),
        };
        let first = rule.nodes.values().next();
        if rule.nodes.values().any(|priority| Some(priority) != first) {
            needs.insert("rule.node-priority");
        }
    }
    match scenario.cluster.placement {
        PlacementMode::Count => {}
        PlacementMode::Static => drop(needs.insert("placement.static")),
        PlacementMode::Dynamic => drop(needs.insert("placement.dynamic")),
    }
    if scenario.cluster.rebalance_on_start {
        needs.insert("rebalance.on-start");
    }
    if scenario.cluster.auto_rebalance {
        needs.insert("rebalance.auto");
    }
    if scenario.initial_state.is_some() {
        needs.insert("seeded-state");
    }
    for vm in scenario.vms.values() {
        if vm.desired == Desired::Ignored {
            needs.insert("desired.ignored");
        }
        if !vm.live || vm.auto_moves.is_some() {
            needs.insert("not-live-movable");
        }
    }
    let events = scenario.timeline.iter().flat_map(|step| &step.events);
    for event in events {
        needs.extend(of_event(event, scenario.cluster.shutdown_policy));
    }
    needs
}

fn of_event(event: &Event, policy: ShutdownPolicy) -> Option<&'static str> {
    match event {
        Event::Shutdown { .. } => Some(match policy {
            ShutdownPolicy::Conditional => "shutdown.conditional",
            ShutdownPolicy::Freeze => "shutdown.freeze",
            ShutdownPolicy::Failover => "shutdown.failover",
            ShutdownPolicy::Migrate => "shutdown.migrate",
        }),
        Event::Desire { state: Desired::Ignored, .. } => Some("desired.ignored"),
        Event::Add { desired: Some(Desired::Ignored), .. } => Some("desired.ignored"),
        Event::Load { kind: LoadKind::Load, .. } => Some("placement.dynamic"),
        Event::Load { kind: LoadKind::Size, .. } => Some("placement.static"),
        Event::Lock { .. } => Some("vm-lock"),
        Event::Maintenance { .. } => Some("maintenance"),
        Event::Pause { mode: PauseMode::Freeze } => Some("pause.freeze"),
        Event::Pause { mode: PauseMode::Ignore } => Some("pause.ignore"),
        Event::Resume { .. } => Some("pause.freeze"),
        Event::ControlStore { .. } => Some("store-fault"),
        Event::Stall { .. } => Some("control-stall"),
        Event::MovedOutside { .. } => Some("moved-outside"),
        Event::Stop { .. } => Some("stop-with-timeout"),
        Event::Power { .. }
        | Event::Network { .. }
        | Event::Desire { .. }
        | Event::Move { .. }
        | Event::Add { .. }
        | Event::Remove { .. }
        | Event::RestartAgent { .. }
        | Event::StopReplica { .. }
        | Event::Wait { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::file;

    #[test]
    fn what_is_lacking_is_named_though_other_words_are_not_known_either() {
        let text = "format: ha-scenario/1
name: later
requires: [vm-lock, teleport, backup.hooks]
cluster: {nodes: {node1: {power: 'off'}}}
hooks: [one]
";
        assert!(file::parse(text).is_err());
        let head = file::head(text).unwrap();
        assert_eq!(missing_by_name(&head), ["backup.hooks", "teleport"]);
        assert_eq!(file::name(text).as_deref(), Some("later"));
    }
}
