//! The fleet as a whole: placement rules, maintenance and drains, the pause; and how a VM is placed.

use std::time::Duration;

use proto::v1::submit_request::Operation;
use proto::v1::{self, PauseCluster, SetMaintenance, VmPlacing};

use crate::args::placing::{Pause, Placing, Rule};
use crate::cmd::{Context, node, status};
use crate::exit::{Failure, Kind};
use crate::render::{self, PlacementRule, table};

/// Between two looks at a node that is being emptied.
const LOOK: Duration = Duration::from_millis(500);
/// How long nothing may move any more before a drain is called stuck.
const STUCK: Duration = Duration::from_secs(5);

pub(super) async fn rule(cx: &Context, command: Rule) -> Result<(), Failure> {
    let (name, word, operation) = match command {
        Rule::List => {
            let status = status::get(cx, false).await?;
            if cx.json {
                let rules = status.placement_rules.iter();
                render::json(&rules.map(PlacementRule::from).collect::<Vec<_>>());
            } else {
                let rows = status.placement_rules.iter().map(|rule| row(&status, rule));
                render::line(&table(["RULE", "KIND", "VMS"], rows));
            }
            return Ok(());
        }
        Rule::Set { name, together, apart } => {
            let (kind, vms) = match together.is_empty() {
                false => ("together", together),
                true => ("apart", apart),
            };
            let rule = v1::PlacementRule { name: name.clone(), kind: kind.into(), vms };
            (name, "set", Operation::PutPlacementRule(rule))
        }
        Rule::Remove { name } => (name.clone(), "removed", Operation::RemovePlacementRule(name)),
    };
    cx.cluster.submit(operation).await?;
    if cx.json {
        render::json(&serde_json::json!({ "placement_rule": name, "done": word }));
    } else {
        render::line(&format!("{name}: {word}"));
    }
    Ok(())
}

fn row(status: &v1::Status, rule: &v1::PlacementRule) -> [String; 3] {
    let managed = |name: &String| status.vms.iter().any(|vm| vm.name == *name);
    let vms = rule.vms.iter().map(|vm| match managed(vm) {
        true => vm.clone(),
        false => format!("{vm} (not managed)"),
    });
    [rule.name.clone(), rule.kind.clone(), vms.collect::<Vec<_>>().join(", ")]
}

pub(super) async fn pause(cx: &Context, pause: Pause) -> Result<(), Failure> {
    let mode = if pause.ignore { "ignore" } else { "freeze" };
    let asked = PauseCluster { mode: mode.into(), why: pause.why };
    cx.cluster.submit(Operation::PauseCluster(asked)).await?;
    say(cx, "paused", "the cluster is paused; `berthctl unpause` goes on");
    Ok(())
}

pub(super) async fn unpause(cx: &Context) -> Result<(), Failure> {
    cx.cluster.submit(Operation::UnpauseCluster(true)).await?;
    say(cx, "unpaused", "the cluster goes on");
    Ok(())
}

fn say(cx: &Context, word: &str, text: &str) {
    if cx.json {
        render::json(&serde_json::json!({ "cluster": word }));
    } else {
        render::line(text);
    }
}

/// Empties a node, or takes it back; an emptying is waited for.
pub(super) async fn maintenance(
    cx: &Context,
    name: String,
    on: bool,
    until_boot: bool,
) -> Result<(), Failure> {
    let asked = SetMaintenance { node: name.clone(), on, until_boot };
    cx.cluster.submit(Operation::SetMaintenance(asked)).await?;
    if !on {
        node::say(cx, &name, "is taken back; the VMs that were drained from it come home");
        return Ok(());
    }
    if cx.no_wait {
        node::say(cx, &name, "is being emptied");
        return Ok(());
    }
    emptied(cx, &name).await?;
    let text = match until_boot {
        true => "is empty, and is kept so until it has booted anew",
        false => "is empty, and is kept so until `berthctl node maintenance` takes it back",
    };
    node::say(cx, &name, text);
    Ok(())
}

/// Until no VM of the cluster is on the node, or those that are cannot leave.
async fn emptied(cx: &Context, name: &str) -> Result<(), Failure> {
    let deadline = cx.cluster.deadline();
    let mut moved = tokio::time::Instant::now();
    let mut left = usize::MAX;
    loop {
        let status = status::get(cx, false).await?;
        let there: Vec<_> = status.vms.iter().filter(|vm| on_node(vm, name)).collect();
        if there.is_empty() {
            return Ok(());
        }
        let now = tokio::time::Instant::now();
        let stays = |vm: &&v1::Vm| vm.reason.as_ref().is_some_and(|reason| reason.stuck);
        if there.len() != left || !there.iter().all(stays) {
            (left, moved) = (there.len(), now);
        }
        let reasons = there.iter().map(|vm| {
            let why = vm.reason.as_ref().map(|reason| reason.text.as_str()).unwrap_or_default();
            format!("{}: {why}", vm.name)
        });
        if now >= moved + STUCK {
            let text = format!(
                "{} VMs cannot leave {name} now: {}",
                there.len(),
                reasons.collect::<Vec<_>>().join("; ")
            );
            return Err(Failure::new(Kind::CannotNow, text));
        }
        if now >= deadline {
            let text = format!("{name} is not empty yet; it goes on");
            return Err(Failure::new(Kind::Deadline, text));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn on_node(vm: &v1::Vm, name: &str) -> bool {
    vm.desired != "ignored"
        && (vm.owner.as_deref() == Some(name) || vm.seen.iter().any(|seen| seen.node == name))
}

/// How a VM is placed, with what the flags change.
pub(super) fn placing(flags: &Placing, before: Option<VmPlacing>) -> Option<VmPlacing> {
    let before = before.unwrap_or_default();
    Some(VmPlacing {
        start_retries: flags.start_retries.unwrap_or(before.start_retries),
        max_relocations: flags.max_relocations.map_or(before.max_relocations, |limit| limit.0),
        automatic_moves: flags
            .automatic_moves
            .map_or(before.automatic_moves, |it| it.as_str().to_owned()),
    })
}

/// How a VM is placed, for people.
pub(super) fn rows(vm: &v1::Vm) -> Vec<(&'static str, String)> {
    let placing = vm.policy.as_ref().and_then(|policy| policy.placing.clone()).unwrap_or_default();
    let others = placing.max_relocations.map_or("all".to_owned(), |limit| limit.to_string());
    let claim = vm.claim.as_ref().map(|claim| format!("by {}: {}", claim.by, claim.reason));
    vec![
        ("starts", format!("{} retries, {others} other nodes", placing.start_retries)),
        ("automatic moves", placing.automatic_moves),
        ("claimed", claim.unwrap_or_default()),
        ("home", vm.home.clone().unwrap_or_default()),
        ("waits for", vm.waits_for.clone().unwrap_or_default()),
    ]
}
