//! What `clustat` showed, and more.

use proto::v1;
use tonic::Response;

use crate::cmd::{Context, service};
use crate::exit::{Failure, Kind};
use crate::render::{self, Status, note, owner, table, time};

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
    let stale = if status.stale { " (this replica's own state, which may be old)" } else { "" };
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
            "\n\nALARM: {alarm}; `berthctl node release` if they are lost indeed"
        ));
    }
    for node in status.nodes.iter().filter(|node| !node.dark_fence.is_empty()) {
        notes.push_str(&format!("\n{}: fence devices do not answer", node.name));
    }
    for node in status.nodes.iter().filter(|node| !node.autostart.is_empty()) {
        let vms = node.autostart.join(", ");
        notes.push_str(&format!("\n{}: its libvirt would start {vms} by itself", node.name));
    }
    if !status.unguarded.is_empty() {
        let count = status.unguarded.len();
        notes.push_str(&format!("\n\n{count} VMs run on hosts without a lock manager"));
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
            note(vm.reason.as_ref()),
        ]
    });
    table(["VM", "OWNER (LAST)", "STATE", "SINCE", "RESTARTS", "NOTE"], rows)
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
    let all: Vec<_> = nodes.chain(vms).chain(services).collect();
    if all.is_empty() { Ok(()) } else { Err(Failure::new(Kind::OperationFailed, all.join("; "))) }
}
