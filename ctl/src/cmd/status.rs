//! What `clustat` showed, and more.

use proto::v1;
use tonic::Response;

use crate::cmd::{Context, service};
use crate::exit::{Failure, Kind};
use crate::render::{self, Status, note, owner, table, time, vm_note};

/// Said of what was asked for without the leader.
const STALE: &str = "this replica's own state, which may be old";

/// What was shown may be old; lists and single things have no head line to say so in.
pub(super) fn say_stale(stale: bool) {
    if stale {
        render::line(&format!("({STALE})"));
    }
}

pub(super) async fn get(cx: &Context, stale: bool) -> Result<v1::Status, Failure> {
    cx.cluster
        .ask(|mut client| async move {
            client.get_status(v1::GetStatusRequest { stale }).await.map(Response::into_inner)
        })
        .await
}

pub(super) async fn run(cx: &Context, stale: bool, check: bool) -> Result<(), Failure> {
    let status = get(cx, stale).await?;
    if cx.json {
        render::json(&Status::from(&status));
    } else {
        render::line(&text(&status));
    }
    if check { verdict(&status) } else { Ok(()) }
}

fn text(status: &v1::Status) -> String {
    let answering = status.replicas.iter().filter(|replica| replica.role != "unreachable").count();
    let leader =
        status.leader.map_or("no leader".to_owned(), |leader| format!("replica {leader} leads"));
    let head = format!(
        "Cluster {} (epoch {}), revision {}; {leader} in term {}, {answering} of {} replicas answer",
        status.cluster,
        status.epoch,
        status.revision,
        status.term,
        status.replicas.len()
    );
    let stale = if status.stale { format!(" ({STALE})") } else { String::new() };
    let mut notes = String::new();
    if let Some(lock) = &status.lock {
        notes.push_str(&format!(
            "\n\nLOCKED by {} since {}: {}; nothing is started until `berthctl unlock`",
            lock.by,
            time(lock.since_ms),
            lock.why
        ));
    }
    if let Some(pause) = &status.pause {
        notes.push_str(&format!(
            "\n\nPAUSED ({}) by {}: {}; nothing is done by itself until `berthctl unpause`",
            pause.mode, pause.by, pause.why
        ));
    }
    if let Some(alarm) = &status.mass_loss {
        notes.push_str(&format!(
            "\n\nALARM: {alarm}; `berthctl node release {}` if they are lost indeed",
            status.mass_loss_nodes.join(" ")
        ));
    }
    for node in &status.nodes {
        for dark in &node.dark_fence {
            let name = &node.name;
            notes.push_str(&format!("\n\nALARM: a fence device of {name} does not answer: {dark}"));
        }
    }
    for (node, name) in suspended_strangers(status) {
        notes.push_str(&format!(
            "\n\nALARM: {name} is suspended on {node}, which had lost its lease, and the cluster does not know it; `berthctl adopt {name}` takes it up and lets it run on"
        ));
    }
    let belt = second_belt(status);
    if !belt.is_empty() {
        notes.push_str(&format!("\n\n{}", belt.join("\n")));
    }
    let services = match status.services.as_slice() {
        [] => String::new(),
        services => format!("\n\n{}", service::list(services)),
    };
    let (nodes, vms) = (nodes(&status.nodes), vms(&status.vms));
    format!("{head}{stale}\n\n{nodes}\n\n{vms}{services}{notes}")
}

/// The table of nodes.
pub(super) fn nodes(nodes: &[v1::Node]) -> String {
    let rows = nodes.iter().map(|node| {
        [
            node.name.clone(),
            state(node),
            node.vms.len().to_string(),
            format!("{}/{}", node.used_memory_mib, node.memory_mib),
            format!("{}/{}", node.used_vcpus, node.cpus),
            note(node.reason.as_ref()),
        ]
    });
    table(["NODE", "STATE", "VMS", "MEMORY MiB", "CPUS", "NOTE"], rows)
}

/// With what an operator or its host has in mind for it.
fn state(node: &v1::Node) -> String {
    match (node.maintenance, &node.shutdown) {
        (_, Some(_)) if node.state == "online" => "online, shutting down".into(),
        (true, _) => format!("{}, maintenance", node.state),
        _ => node.state.clone(),
    }
}

/// The table of VMs.
pub(super) fn vms(vms: &[v1::Vm]) -> String {
    let rows = vms.iter().map(|vm| {
        [
            vm.name.clone(),
            owner(vm),
            vm.state.clone(),
            time(vm.state_since_ms),
            vm.restart_count.to_string(),
            vm_note(vm),
        ]
    });
    table(["VM", "OWNER (LAST)", "STATE", "SINCE", "RESTARTS", "NOTE"], rows)
}

/// What could start a guest twice behind the cluster's back, and what is not there to keep it from writing (design
/// section 3, second belt).
fn second_belt(status: &v1::Status) -> Vec<String> {
    let mut lines = Vec::new();
    for node in &status.nodes {
        let name = &node.name;
        if !node.autostart.is_empty() {
            let vms = node.autostart.join(", ");
            lines.push(format!(
                "{name}: its libvirt would start {vms} when it boots; `virsh autostart --disable` there"
            ));
        }
        if node.libvirt_guests {
            lines.push(format!(
                "{name}: libvirt-guests is enabled, which starts and stops guests by itself; `systemctl disable libvirt-guests` there"
            ));
        }
    }
    if !status.unguarded.is_empty() {
        let vms = status.unguarded.join(", ");
        lines.push(format!("on hosts without a lock manager: {vms}"));
    }
    lines
}

/// Domains that Berth has suspended and that are no VMs of the cluster, as after a restore from a backup that is older than
/// they are: nothing else lets them run on. Each with its node.
fn suspended_strangers(status: &v1::Status) -> impl Iterator<Item = (&str, &str)> {
    status.nodes.iter().flat_map(|node| {
        let suspended = node.unmanaged.iter().filter(|it| it.presence == "suspended");
        suspended.map(|domain| (node.name.as_str(), domain.name.as_str()))
    })
}

fn verdict(status: &v1::Status) -> Result<(), Failure> {
    let nodes = status
        .nodes
        .iter()
        .filter(|node| node.state != "online" && !node.maintenance)
        .map(|node| format!("{} is {}", node.name, node.state));
    let bad = |vm: &&v1::Vm| {
        matches!(vm.state.as_str(), "failed" | "conflict" | "lost")
            || (vm.desired == "enabled" && vm.reason.as_ref().is_some_and(|reason| reason.stuck))
    };
    let vms = status.vms.iter().filter(bad).map(|vm| format!("{} is {}", vm.name, vm.state));
    let broken = |service: &&v1::Service| {
        service.state == "failed"
            || service.partial
            || (service.desired == "enabled"
                && service.reason.as_ref().is_some_and(|reason| reason.stuck))
    };
    let services = status.services.iter().filter(broken).map(|service| {
        let name = service.spec.as_ref().map(|spec| spec.name.as_str()).unwrap_or_default();
        format!("service:{name} is {}", service::state(service))
    });
    let dark = status.nodes.iter().filter(|node| !node.dark_fence.is_empty());
    let dark = dark.map(|node| format!("a fence device of {} does not answer", node.name));
    let mass = status.mass_loss.iter().cloned();
    let strangers = suspended_strangers(status).map(|(node, name)| {
        format!("{name}, which the cluster does not know, is suspended on {node}")
    });
    let all: Vec<_> =
        nodes.chain(vms).chain(services).chain(dark).chain(mass).chain(strangers).collect();
    if all.is_empty() { Ok(()) } else { Err(Failure::new(Kind::OperationFailed, all.join("; "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(change: impl Fn(&mut v1::Node)) -> v1::Status {
        let mut node = v1::Node { name: "n1".into(), state: "online".into(), ..Default::default() };
        change(&mut node);
        v1::Status { nodes: vec![node], ..Default::default() }
    }

    #[test]
    fn a_dark_fence_device_is_an_alarm_and_fails_the_check() {
        assert!(verdict(&node(|_| {})).is_ok());
        let dark = node(|node| node.dark_fence = vec!["fence_ipmilan status: no route".into()]);
        assert!(text(&dark).contains("ALARM: a fence device of n1 does not answer: fence_ipmilan"));
        let failure = verdict(&dark).unwrap_err();
        assert_eq!(failure.kind.code(), 1);
        let many = v1::Status { mass_loss: Some("n1, n2 seem lost".into()), ..node(|_| {}) };
        assert!(verdict(&many).is_err());
    }

    #[test]
    fn a_suspended_domain_that_the_cluster_does_not_know_is_an_alarm_and_fails_the_check() {
        for (presence, told) in [("suspended", true), ("running", false)] {
            let domain = |name: &str| v1::UnmanagedDomain {
                name: name.into(),
                presence: presence.into(),
                ..Default::default()
            };
            let status = node(|node| node.unmanaged = vec![domain("web")]);
            assert_eq!(text(&status).contains("`berthctl adopt web`"), told, "{presence}");
            assert_eq!(verdict(&status).is_err(), told, "{presence}");
        }
    }

    #[test]
    fn what_would_start_a_guest_behind_our_back_is_shown() {
        let status = node(|node| {
            node.autostart = vec!["web".into()];
            node.libvirt_guests = true;
        });
        let status = v1::Status { unguarded: vec!["db".into()], ..status };
        let shown = text(&status);
        for part in ["would start web", "libvirt-guests is enabled", "without a lock manager: db"] {
            assert!(shown.contains(part), "{shown}");
        }
        assert!(verdict(&status).is_ok(), "a warning, and no fault");
    }
}
