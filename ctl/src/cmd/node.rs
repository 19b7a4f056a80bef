//! Nodes.

use proto::v1::submit_request::Operation;
use std::io::IsTerminal;

use proto::v1::{self, FenceDevice, NodeAct, ReleaseMassLoss, SetFenceDevices, SetNodePolicy};

use crate::args::placing::Switch;
use crate::args::{Deed, Node as Command};
use crate::cmd::{Context, placing, status};
use crate::exit::{Failure, Kind};
use crate::render::{self, Node, note, table, time};

pub(super) async fn run(cx: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::List(read) => {
            let nodes = status::get(cx, read.stale).await?.nodes;
            if cx.json {
                render::json(&nodes.iter().map(Node::from).collect::<Vec<_>>());
            } else {
                render::line(&status::nodes(&nodes));
                status::say_stale(read.stale);
            }
            Ok(())
        }
        Command::Show { node, read } => {
            let found = find(cx, &node, read.stale).await?;
            if cx.json {
                render::json(&Node::from(&found));
            } else {
                render::line(&text(&found));
                status::say_stale(read.stale);
            }
            Ok(())
        }
        Command::ConfirmOff(Deed { node, why, confirm: name }) => {
            confirm(&node, name.as_deref(), "take its VMs for dead")?;
            cx.cluster.submit(Operation::ConfirmOff(NodeAct { node: node.clone(), why })).await?;
            say(cx, &node, "is off, by your word");
            Ok(())
        }
        Command::Release { nodes } => {
            let nodes = match nodes.as_slice() {
                [] => shown_and_agreed(&status::get(cx, false).await?.mass_loss_nodes)?,
                _ => nodes,
            };
            let release = ReleaseMassLoss { nodes: nodes.clone() };
            cx.cluster.submit(Operation::ReleaseMassLoss(release)).await?;
            say(cx, &nodes.join(", "), "lost by your word, and fenced now");
            Ok(())
        }
        Command::Policy { node, vouch_clock, no_vouch_clock, after_fence } => {
            let vouched = match (vouch_clock, no_vouch_clock) {
                (true, _) => Some(true),
                (_, true) => Some(false),
                _ => None,
            };
            let policy = SetNodePolicy { node: node.clone(), vouched, after_fence };
            cx.cluster.submit(Operation::SetNodePolicy(policy)).await?;
            say(cx, &node, "its policy was set");
            Ok(())
        }
        Command::Fence { node, agent, options, call_timeout, level, add, clear } => {
            let devices = match agent.filter(|_| !clear) {
                Some(agent) => vec![FenceDevice {
                    agent,
                    options: options.into_iter().collect(),
                    timeout_ms: call_timeout.as_millis() as u64,
                    level: u32::from(level),
                    kept: Vec::new(),
                }],
                None => Vec::new(),
            };
            let word = if devices.is_empty() {
                "its fence devices were removed"
            } else if add {
                "a fence device was added"
            } else {
                "its fence device was set"
            };
            cx.cluster
                .submit(Operation::SetFenceDevices(SetFenceDevices {
                    node: node.clone(),
                    devices,
                    add,
                }))
                .await?;
            say(cx, &node, word);
            Ok(())
        }
        Command::Drain { node, stay } => placing::maintenance(cx, node, true, !stay).await,
        Command::Maintenance { node, switch } => {
            placing::maintenance(cx, node, switch == Switch::On, false).await
        }
        Command::Remove { node } => {
            cx.cluster.submit(Operation::RemoveNode(node.clone())).await?;
            say(cx, &node, "removed");
            Ok(())
        }
    }
}

/// One node.
pub(super) async fn find(cx: &Context, name: &str, stale: bool) -> Result<v1::Node, Failure> {
    let nodes = status::get(cx, stale).await?.nodes;
    let unknown = || {
        let text = format!("no node is named {name}; `berthctl node list` lists them");
        Failure::new(Kind::NotFound, text)
    };
    nodes.into_iter().find(|known| known.name == name).ok_or_else(unknown)
}

/// What cannot be taken back is done only after the node's name was given twice.
pub(super) fn confirm(node: &str, given: Option<&str>, what: &str) -> Result<(), Failure> {
    let again = match given {
        Some(name) => name.to_owned(),
        None if std::io::stdin().is_terminal() => {
            eprint!("This will {what}. The node's name again: ");
            let mut line = String::new();
            std::io::stdin()
                .read_line(&mut line)
                .map_err(|error| Failure::new(Kind::Input, error.to_string()))?;
            line.trim().to_owned()
        }
        None => {
            let text = "nobody can be asked for the node's name again; give it with --confirm";
            return Err(Failure::new(Kind::Input, text));
        }
    };
    if again == node {
        return Ok(());
    }
    Err(Failure::new(Kind::Input, format!("{again:?} is not {node}: nothing was done")))
}

/// The nodes that a release is of: the operator sees their names before their word is taken.
fn shown_and_agreed(lost: &[String]) -> Result<Vec<String>, Failure> {
    if lost.is_empty() {
        return Err(Failure::new(Kind::Refused, "no mass loss is holding anything up"));
    }
    let names = lost.join(" ");
    if !std::io::stdin().is_terminal() {
        let text = format!(
            "nobody can be asked here; look at each, and say `berthctl node release {names}`"
        );
        return Err(Failure::new(Kind::Input, text));
    }
    eprint!(
        "These seem lost: {names}. Is each of them lost indeed, so that it may be fenced? [y/N] "
    );
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .map_err(|error| Failure::new(Kind::Input, error.to_string()))?;
    match line.trim() {
        "y" | "Y" | "yes" => Ok(lost.to_vec()),
        _ => Err(Failure::new(Kind::Input, "nothing was released")),
    }
}

pub(super) fn say(cx: &Context, node: &str, what: &str) {
    if cx.json {
        render::json(&serde_json::json!({ "node": node, "done": what }));
    } else {
        render::line(&format!("{node}: {what}"));
    }
}

fn maintenance(node: &v1::Node) -> String {
    let end = if node.maintenance_until_boot { ", until it has booted anew" } else { "" };
    let by = node.maintenance_by.as_deref().unwrap_or_default();
    if node.maintenance { format!("kept empty by {by}{end}") } else { String::new() }
}

fn history(node: &v1::Node) -> String {
    let last = node.fence_history.iter().rev().take(5);
    let all: Vec<_> =
        last.map(|attempt| format!("{} {}", time(attempt.at_ms), attempt.outcome)).collect();
    all.join("; ")
}

fn text(node: &v1::Node) -> String {
    let watchdog = node
        .watchdog_timeout_ms
        .map_or("none".to_owned(), |timeout| format!("armed, {timeout} ms"));
    let rows = [
        ("name", node.name.clone()),
        ("state", format!("{} since {}", node.state, time(node.state_since_ms))),
        ("note", note(node.reason.as_ref())),
        ("maintenance", maintenance(node)),
        ("shutdown", node.shutdown.clone().unwrap_or_default()),
        ("proof of death", node.proof_of_death.clone().unwrap_or_default()),
        (
            "last heard",
            node.silent_ms.map(|silent_ms| format!("{silent_ms} ms ago")).unwrap_or_default(),
        ),
        ("VMs", node.vms.join(", ")),
        ("memory", format!("{} of {} MiB", node.used_memory_mib, node.memory_mib)),
        ("processors", format!("{} of {}", node.used_vcpus, node.cpus)),
        ("its VMs use", render::measured(node.measured.as_ref())),
        ("fence devices", node.fence_devices.join(", ")),
        ("fence history", history(node)),
        ("after a fence", node.after_fence.clone()),
        ("not answering", node.dark_fence.join("; ")),
        ("watchdog", watchdog),
        (
            "lease",
            node.lease_proof_ms.map_or_else(
                || "proves nothing".to_owned(),
                |silent_ms| format!("proves its death after {silent_ms} ms without an answer"),
            ),
        ),
        ("lock manager", node.lock_manager.clone().unwrap_or_else(|| "none".into())),
        ("autostarted", node.autostart.join(", ")),
        ("libvirt-guests", if node.libvirt_guests { "enabled" } else { "not enabled" }.into()),
        ("can fence by", node.fence_agents.join(", ")),
        ("migration URI", node.migration_uri.clone()),
        ("hardware", node.hardware.clone()),
        ("boot", node.boot_id.clone()),
        ("session", node.session.to_string()),
        ("agent", node.agent_version.clone()),
    ];
    let head: Vec<_> = rows
        .into_iter()
        .map(|(key, value)| format!("{key:<16} {value}").trim_end().to_owned())
        .collect();
    if node.unmanaged.is_empty() {
        return head.join("\n");
    }
    let rows = node.unmanaged.iter().map(|domain| {
        [
            domain.name.clone(),
            domain.presence.clone(),
            domain.memory_mib.to_string(),
            domain.uuid.clone(),
        ]
    });
    format!(
        "{}\n\nOther domains there:\n{}",
        head.join("\n"),
        table(["NAME", "STATE", "MEMORY MiB", "UUID"], rows)
    )
}
