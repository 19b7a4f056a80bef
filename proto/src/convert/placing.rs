//! Placement rules, the pause, and how a VM is placed, to and from the wire.

use std::collections::BTreeSet;

use model::ClusterState;
use model::command::Operation;
use model::fleet::{PauseMode, PlacementMode, ShutdownPolicy};
use model::id::{PlacementRuleName, VmName};
use model::placement_rule::{PlacementRule, PlacementRuleKind};
use model::recovery::StartLimit;
use model::settings::Settings;
use model::vm::{AutomaticMoves, VmPolicy};

use crate::convert::control::{one_line, vm, word};
use crate::convert::{ConvertError, name};
use crate::v1;

/// More VMs than one node could keep together, and than a fleet has nodes to keep apart on.
const MAX_RULE_VMS: usize = 1_000;
/// A start that failed so often on one node will not succeed there.
const MAX_START_RETRIES: u32 = 100;

/// Reads a placement rule.
pub fn placement_rule(message: v1::PlacementRule) -> Result<PlacementRule, ConvertError> {
    if message.vms.len() > MAX_RULE_VMS {
        return Err(ConvertError::new("vms", format!("more than {MAX_RULE_VMS} VMs in one rule")));
    }
    let kind = PlacementRuleKind::parse(&message.kind).ok_or_else(|| {
        ConvertError::new("kind", format!("{:?} is neither together nor apart", message.kind))
    })?;
    let vms: BTreeSet<VmName> = message.vms.iter().map(|it| vm(it)).collect::<Result<_, _>>()?;
    Ok(PlacementRule { name: placement_rule_name(&message.name)?, kind, vms })
}

/// Reads a placement rule's name.
pub fn placement_rule_name(text: &str) -> Result<PlacementRuleName, ConvertError> {
    name("placement_rule", PlacementRuleName::new(text))
}

/// A placement rule as operators see it.
pub fn write_placement_rule(rule: &PlacementRule) -> v1::PlacementRule {
    v1::PlacementRule {
        name: rule.name.to_string(),
        kind: rule.kind.as_str().into(),
        vms: rule.vms.iter().map(ToString::to_string).collect(),
    }
}

/// Reads a pause.
pub fn pause(message: v1::PauseCluster) -> Result<Operation, ConvertError> {
    let mode = PauseMode::parse(&message.mode).ok_or_else(|| {
        ConvertError::new("mode", format!("{:?} is neither freeze nor ignore", message.mode))
    })?;
    Ok(Operation::PauseCluster { mode, why: one_line("why", message.why)? })
}

/// The pause as operators see it.
pub fn write_pause(state: &ClusterState) -> Option<v1::Pause> {
    state.pause.as_ref().map(|pause| v1::Pause {
        mode: pause.mode.as_str().into(),
        by: pause.by.clone(),
        why: pause.why.clone(),
        at_ms: pause.at.0,
    })
}

/// Reads how a VM is placed.
pub fn placing(message: &v1::VmPlacing) -> Result<(StartLimit, AutomaticMoves), ConvertError> {
    if message.start_retries > MAX_START_RETRIES {
        let reason = format!("{} is above {MAX_START_RETRIES}", message.start_retries);
        return Err(ConvertError::new("start_retries", reason));
    }
    let limit = StartLimit { retries: message.start_retries, relocations: message.max_relocations };
    let moves = word(
        "automatic_moves",
        &message.automatic_moves,
        "live, cold, never",
        AutomaticMoves::parse,
    )?;
    Ok((limit, moves))
}

/// How a VM is placed, for the wire.
pub fn write_placing(policy: &VmPolicy) -> v1::VmPlacing {
    v1::VmPlacing {
        start_retries: policy.start_limit.retries,
        max_relocations: policy.start_limit.relocations,
        automatic_moves: policy.automatic_moves.as_str().into(),
    }
}

/// Reads those of the settings that are about the fleet. A client that does not know of them leaves them as zeros and
/// empty words: the defaults.
pub fn settings(asked: &v1::Settings, settings: Settings) -> Result<Settings, ConvertError> {
    let number = |asked: u64, default: u64| if asked == 0 { default } else { asked };
    let known = asked.moves_at_once > 0;
    Ok(Settings {
        placement: word(
            "placement",
            &asked.placement,
            "count, static, dynamic",
            PlacementMode::parse,
        )?,
        rebalance_on_start: asked.rebalance_on_start,
        auto_rebalance: asked.auto_rebalance,
        rebalance_threshold_percent: number(
            asked.rebalance_threshold_percent,
            settings.rebalance_threshold_percent,
        ),
        rebalance_hold_ms: match known {
            true => asked.rebalance_hold_ms,
            false => settings.rebalance_hold_ms,
        },
        rebalance_margin_percent: number(
            asked.rebalance_margin_percent,
            settings.rebalance_margin_percent,
        ),
        moves_at_once: number(asked.moves_at_once, settings.moves_at_once),
        moves_per_node: number(asked.moves_per_node, settings.moves_per_node),
        shutdown_policy: word(
            "shutdown_policy",
            &asked.shutdown_policy,
            "conditional, freeze, failover, migrate",
            ShutdownPolicy::parse,
        )?,
        ..settings
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read_as_it_was_written_and_a_strange_kind_is_refused() {
        let rule = PlacementRule {
            name: PlacementRuleName::new("r").unwrap(),
            kind: PlacementRuleKind::Apart,
            vms: ["a", "b"].iter().map(|it| VmName::new(it).unwrap()).collect(),
        };
        let message = write_placement_rule(&rule);
        assert_eq!(placement_rule(message.clone()).unwrap(), rule);
        let strange = v1::PlacementRule { kind: "near".into(), ..message };
        assert_eq!(placement_rule(strange).unwrap_err().field, "kind");
    }

    #[test]
    fn settings_of_an_older_client_are_the_defaults() {
        let known = Settings::default();
        assert_eq!(settings(&v1::Settings::default(), known.clone()).unwrap(), known);
    }
}
