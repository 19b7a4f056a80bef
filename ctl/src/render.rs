//! What is printed: JSON for programs, tables for people, both from the same values. Field names are stable.

use std::collections::BTreeMap;
use std::io::Write;

use comfy_table::{ContentArrangement, Table, TableStyle};
use proto::v1;
use serde::Serialize;

/// Prints to standard output; a reader that has gone (`| head`) is no error.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Prints a value for programs.
pub fn json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => line(&text),
        Err(error) => eprintln!("berthctl: the answer cannot be written as JSON: {error}"),
    }
}

/// Prints one value a line, for streams.
pub fn json_line(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => line(&text),
        Err(error) => eprintln!("berthctl: the answer cannot be written as JSON: {error}"),
    }
}

/// A table; nothing is cut off, whatever the width.
pub fn table<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(TableStyle::new())
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(head);
    for row in rows {
        table.add_row(row);
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// A VM.
#[derive(Debug, Serialize)]
pub struct Vm {
    name: String,
    measured: Option<Measured>,
    uuid: String,
    state: String,
    desired: String,
    owner: Option<String>,
    owner_silent: bool,
    last_owner: Option<String>,
    generation: u64,
    memory_mib: u64,
    vcpus: u32,
    restarts: u32,
    state_since: String,
    may_run: Vec<String>,
    seen: BTreeMap<String, String>,
    policy: Policy,
    disks: Vec<Disk>,
    cannot_migrate: Vec<String>,
    left_behind: Vec<String>,
    operation: Option<Operation>,
    reason: Option<Reason>,
    progress: Option<Progress>,
    failure: Option<String>,
    frozen: Option<Freeze>,
    status_failures: u32,
    last_migration: Option<Migration>,
    ailment: Option<Ailment>,
    saved: Option<Saved>,
    placed: bool,
    claim: Option<Claim>,
    home: Option<String>,
    waits_for: Option<String>,
    revision: u64,
}

/// A migration, as the log knows it.
#[derive(Debug, Serialize)]
struct Migration {
    from: String,
    to: String,
    mode: String,
    phase: String,
    open: bool,
    begun: String,
    since: String,
}

/// What is wrong with a guest that runs in name only.
#[derive(Debug, Serialize)]
struct Ailment {
    kind: String,
    why: String,
    node: String,
    since: String,
}

/// The memory of a guest that was stopped.
#[derive(Debug, Serialize)]
struct Saved {
    file: String,
    node: String,
    shared: bool,
    at: String,
}

#[derive(Debug, Serialize)]
struct Freeze {
    by: String,
    why: String,
    since: String,
    until: Option<String>,
}

#[derive(Debug, Serialize)]
struct Policy {
    recovery: String,
    max_restarts: u32,
    restart_expire_ms: u64,
    failover_domain: Option<String>,
    migration: String,
    migratable: String,
    stop_timeout_ms: u64,
    handling: serde_json::Value,
    autostart: bool,
    exclusive: u32,
    depend: Vec<Dependency>,
    start_priority: u32,
    max_failures: u32,
    failure_expire_ms: u64,
}

#[derive(Debug, Serialize)]
struct Dependency {
    on: String,
    mode: String,
}

#[derive(Debug, Serialize)]
struct Disk {
    source: String,
    readonly: bool,
    shareable: bool,
}

#[derive(Debug, Serialize)]
struct Operation {
    request_id: String,
    verb: String,
    phase: String,
    failure: Option<String>,
}

#[derive(Debug, Serialize)]
struct Reason {
    code: String,
    text: String,
    stuck: bool,
}

#[derive(Debug, Serialize)]
struct Progress {
    elapsed_ms: u64,
    total_bytes: u64,
    processed_bytes: u64,
    remaining_bytes: u64,
}

/// How a VM is treated on its host, in the words of the wire.
fn handling(handling: &v1::VmHandling) -> serde_json::Value {
    let options = handling.migration.clone().unwrap_or_default();
    serde_json::json!({
        "xml_file": handling.xml_file,
        "xml_path": handling.xml_path,
        "save_dir": handling.save_dir,
        "save_shared": handling.save_shared,
        "start_timeout_ms": handling.start_timeout_ms,
        "no_kill": handling.no_kill,
        "status_command": handling.status_command,
        "status_program": handling.status_shell,
        "guest_agent": handling.guest_agent,
        "check_interval_ms": handling.check_interval_ms,
        "check_timeout_ms": handling.check_timeout_ms,
        "on_guest_shutdown": handling.on_guest_shutdown,
        "on_guest_crash": handling.on_guest_crash,
        "on_guest_panic": handling.on_guest_panic,
        "on_guest_reboot": handling.on_guest_reboot,
        "on_watchdog": handling.on_watchdog,
        "on_destroy": handling.on_destroy,
        "on_io_error": handling.on_io_error,
        "migration": {
            "allow_unsafe": options.allow_unsafe,
            "tunnelled": options.tunnelled,
            "tls": options.tls,
            "auto_converge": options.auto_converge,
            "post_copy": options.post_copy,
            "compressed": options.compressed,
            "abort_on_error": options.abort_on_error,
            "parallel": options.parallel,
            "bandwidth_mib_s": options.bandwidth_mib_s,
            "max_downtime_ms": options.max_downtime_ms,
            "timeout_ms": options.timeout_ms,
            "routes": options.routes.into_iter().collect::<BTreeMap<_, _>>(),
        },
    })
}

/// What ties a VM to its host, and keeps it from this.
pub fn ties(vm: &v1::Vm, keeps_from: &str) -> Vec<String> {
    let all = vm.host_ties.iter().filter(|tie| tie.keeps_from == keeps_from);
    all.map(|tie| tie.what.clone()).collect()
}

impl From<&v1::Vm> for Vm {
    fn from(vm: &v1::Vm) -> Self {
        let policy = vm.policy.clone().unwrap_or_default();
        Self {
            name: vm.name.clone(),
            uuid: vm.uuid.clone(),
            state: vm.state.clone(),
            desired: vm.desired.clone(),
            owner: vm.owner.clone(),
            owner_silent: vm.owner_silent,
            last_owner: vm.last_owner.clone(),
            generation: vm.generation,
            memory_mib: vm.memory_mib,
            vcpus: vm.vcpus,
            restarts: vm.restart_count,
            state_since: time(vm.state_since_ms),
            may_run: vm.may_run.clone(),
            seen: vm.seen.iter().map(|seen| (seen.node.clone(), seen.presence.clone())).collect(),
            policy: Policy {
                recovery: policy.recovery,
                max_restarts: policy.max_restarts,
                restart_expire_ms: policy.restart_expire_ms,
                failover_domain: policy.failover_domain,
                migration: policy.migration,
                migratable: policy.migratable,
                stop_timeout_ms: policy.stop_timeout_ms,
                handling: handling(&policy.handling.unwrap_or_default()),
                autostart: policy.autostart.unwrap_or(true),
                exclusive: policy.exclusive,
                depend: policy
                    .depend
                    .into_iter()
                    .map(|it| Dependency { on: it.on, mode: it.mode })
                    .collect(),
                start_priority: policy.start_priority,
                max_failures: policy.max_failures,
                failure_expire_ms: policy.failure_expire_ms,
            },
            cannot_migrate: ties(vm, "migrating"),
            left_behind: ties(vm, "finding-it-elsewhere"),
            disks: vm
                .disks
                .iter()
                .map(|disk| Disk {
                    source: disk.source.clone(),
                    readonly: disk.readonly,
                    shareable: disk.shareable,
                })
                .collect(),
            operation: vm.operation.clone().map(|operation| Operation {
                request_id: operation.request_id,
                verb: operation.verb,
                phase: operation.phase,
                failure: operation.failure,
            }),
            reason: vm.reason.as_ref().map(reason),
            progress: vm.progress.as_ref().map(|progress| Progress {
                elapsed_ms: progress.elapsed_ms,
                total_bytes: progress.total_bytes,
                processed_bytes: progress.processed_bytes,
                remaining_bytes: progress.remaining_bytes,
            }),
            failure: vm.failure.clone(),
            frozen: vm.frozen.as_ref().map(|freeze| Freeze {
                by: freeze.by.clone(),
                why: freeze.why.clone(),
                since: time(freeze.since_ms),
                until: freeze.until_ms.map(time),
            }),
            status_failures: vm.status_failures,
            last_migration: vm.last_migration.clone().map(|it| Migration {
                from: it.from,
                to: it.to,
                mode: it.mode,
                phase: it.phase,
                open: it.open,
                begun: time(it.begun_ms),
                since: time(it.since_ms),
            }),
            ailment: vm.ailment.clone().map(|it| Ailment {
                kind: it.kind,
                why: it.why,
                node: it.node,
                since: time(it.since_ms),
            }),
            saved: vm.saved.clone().map(|it| Saved {
                file: it.file,
                node: it.node,
                shared: it.shared,
                at: time(it.at_ms),
            }),
            placed: vm.placed,
            claim: vm.claim.clone().map(|claim| Claim {
                reason: claim.reason,
                by: claim.by,
                since: time(claim.at_ms),
            }),
            home: vm.home.clone(),
            waits_for: vm.waits_for.clone(),
            measured: vm.measured.as_ref().map(Measured::from),
            revision: vm.revision,
        }
    }
}

fn reason(reason: &v1::Reason) -> Reason {
    Reason { code: reason.code.clone(), text: reason.text.clone(), stuck: reason.stuck }
}

/// What guests used lately, as agents measured it.
#[derive(Debug, Serialize)]
struct Measured {
    cpu_milli: u64,
    memory_mib: u64,
}

impl From<&v1::MeasuredLoad> for Measured {
    fn from(load: &v1::MeasuredLoad) -> Self {
        Self { cpu_milli: load.cpu_milli, memory_mib: load.memory_mib }
    }
}

/// The same for people; nothing where nobody measured it.
pub fn measured(load: Option<&v1::MeasuredLoad>) -> String {
    load.map_or_else(String::new, |load| {
        let (whole, rest) = (load.cpu_milli / 1_000, load.cpu_milli % 1_000 / 10);
        format!("{whole}.{rest:02} processors, {} MiB", load.memory_mib)
    })
}

/// A node.
#[derive(Debug, Serialize)]
pub struct Node {
    measured: Option<Measured>,
    id: u64,
    name: String,
    state: String,
    state_since: String,
    memory_mib: u64,
    used_memory_mib: u64,
    cpus: u32,
    used_vcpus: u32,
    vms: Vec<String>,
    hardware: String,
    boot_id: String,
    session: u64,
    migration_uri: String,
    watchdog_timeout_ms: Option<u64>,
    agent_version: String,
    fence_devices: Vec<String>,
    silent_ms: Option<u64>,
    proof_of_death: Option<String>,
    maintenance: bool,
    maintenance_until_boot: bool,
    shutdown: Option<String>,
    after_fence: String,
    fence_history: Vec<FenceAttempt>,
    dark_fence: Vec<String>,
    fence_agents: Vec<String>,
    lease_proof_ms: Option<u64>,
    lock_manager: Option<String>,
    autostart: Vec<String>,
    libvirt_guests: bool,
    reason: Option<Reason>,
    unmanaged: Vec<Unmanaged>,
}

/// How one fence ended, or what took its place.
#[derive(Debug, Serialize)]
pub struct FenceAttempt {
    at: String,
    outcome: String,
    proven: bool,
}

impl From<&v1::FenceAttempt> for FenceAttempt {
    fn from(attempt: &v1::FenceAttempt) -> Self {
        let (outcome, proven) = (attempt.outcome.clone(), attempt.proven);
        Self { at: time(attempt.at_ms), outcome, proven }
    }
}

#[derive(Debug, Serialize)]
struct Unmanaged {
    uuid: String,
    name: String,
    presence: String,
    memory_mib: u64,
}

impl From<&v1::Node> for Node {
    fn from(node: &v1::Node) -> Self {
        let node = node.clone();
        Self {
            measured: node.measured.as_ref().map(Measured::from),
            id: node.id,
            name: node.name,
            state: node.state,
            state_since: time(node.state_since_ms),
            memory_mib: node.memory_mib,
            used_memory_mib: node.used_memory_mib,
            cpus: node.cpus,
            used_vcpus: node.used_vcpus,
            vms: node.vms,
            hardware: node.hardware,
            boot_id: node.boot_id,
            session: node.session,
            migration_uri: node.migration_uri,
            watchdog_timeout_ms: node.watchdog_timeout_ms,
            agent_version: node.agent_version,
            fence_devices: node.fence_devices,
            silent_ms: node.silent_ms,
            proof_of_death: node.proof_of_death,
            maintenance: node.maintenance,
            maintenance_until_boot: node.maintenance_until_boot,
            shutdown: node.shutdown,
            after_fence: node.after_fence,
            fence_history: node.fence_history.iter().map(FenceAttempt::from).collect(),
            dark_fence: node.dark_fence,
            fence_agents: node.fence_agents,
            lease_proof_ms: node.lease_proof_ms,
            lock_manager: node.lock_manager,
            autostart: node.autostart,
            libvirt_guests: node.libvirt_guests,
            reason: node.reason.as_ref().map(reason),
            unmanaged: node
                .unmanaged
                .into_iter()
                .map(|domain| Unmanaged {
                    uuid: domain.uuid,
                    name: domain.name,
                    presence: domain.presence,
                    memory_mib: domain.memory_mib,
                })
                .collect(),
        }
    }
}

/// A service.
#[derive(Debug, Serialize)]
pub struct Service {
    name: String,
    id: String,
    state: String,
    desired: String,
    partial: bool,
    frozen: Option<String>,
    owner: Option<String>,
    owner_silent: bool,
    last_owner: Option<String>,
    restarts: u32,
    state_since: String,
    may_run: Vec<String>,
    members: Vec<Member>,
    spec: crate::service_file::ServiceFile,
    operation: Option<Operation>,
    reason: Option<Reason>,
    failure: Option<String>,
    definition_revision: u64,
    revision: u64,
}

#[derive(Debug, Serialize)]
struct Member {
    name: String,
    kind: String,
    state: String,
    off: bool,
    failure: Option<String>,
}

impl From<&v1::Service> for Service {
    fn from(service: &v1::Service) -> Self {
        let service = service.clone();
        let spec = service.spec.unwrap_or_default();
        Self {
            name: spec.name.clone(),
            id: service.id,
            state: service.state,
            desired: service.desired,
            partial: service.partial,
            frozen: service.frozen,
            owner: service.owner,
            owner_silent: service.owner_silent,
            last_owner: service.last_owner,
            restarts: service.restart_count,
            state_since: time(service.state_since_ms),
            may_run: service.may_run,
            members: service
                .members
                .into_iter()
                .map(|member| Member {
                    name: member.name,
                    kind: member.kind,
                    state: member.state,
                    off: member.off,
                    failure: member.failure,
                })
                .collect(),
            spec: crate::service_file::ServiceFile::from(&spec),
            operation: service.operation.map(|operation| Operation {
                request_id: operation.request_id,
                verb: operation.verb,
                phase: operation.phase,
                failure: operation.failure,
            }),
            reason: service.reason.as_ref().map(reason),
            failure: service.failure,
            definition_revision: service.spec_revision,
            revision: service.revision,
        }
    }
}

/// A replica.
#[derive(Debug, Serialize)]
pub struct Replica {
    id: u64,
    address: String,
    role: String,
    voter: bool,
    matched_index: Option<u64>,
    instance: String,
}

impl From<&v1::Replica> for Replica {
    fn from(replica: &v1::Replica) -> Self {
        Self {
            id: replica.id,
            address: replica.address.clone(),
            role: replica.role.clone(),
            voter: replica.voter,
            matched_index: replica.matched_index,
            instance: replica.instance.clone(),
        }
    }
}

/// A failover domain.
#[derive(Debug, Serialize)]
pub struct FailoverDomain {
    name: String,
    nodes: BTreeMap<String, u32>,
    ordered: bool,
    restricted: bool,
    nofailback: bool,
    failback: Failback,
}

#[derive(Debug, Serialize)]
struct Failback {
    delay_ms: u64,
    at_once: u32,
    per_hour: u32,
    window_minutes: Option<[u32; 2]>,
    relocate: bool,
}

impl From<&v1::FailoverDomain> for FailoverDomain {
    fn from(domain: &v1::FailoverDomain) -> Self {
        Self {
            name: domain.name.clone(),
            nodes: domain.nodes.iter().map(|(node, priority)| (node.clone(), *priority)).collect(),
            ordered: domain.ordered,
            restricted: domain.restricted,
            nofailback: domain.nofailback,
            failback: {
                let failback = domain.failback.unwrap_or_default();
                Failback {
                    delay_ms: failback.delay_ms,
                    at_once: failback.at_once,
                    per_hour: failback.per_hour,
                    window_minutes: failback.window.map(|window| [window.from, window.to]),
                    relocate: failback.relocate,
                }
            },
        }
    }
}

/// A placement rule.
#[derive(Debug, Serialize)]
pub struct PlacementRule {
    name: String,
    kind: String,
    vms: Vec<String>,
}

impl From<&v1::PlacementRule> for PlacementRule {
    fn from(rule: &v1::PlacementRule) -> Self {
        let rule = rule.clone();
        Self { name: rule.name, kind: rule.kind, vms: rule.vms }
    }
}

#[derive(Debug, Serialize)]
struct Pause {
    mode: String,
    by: String,
    why: String,
    since: String,
}

#[derive(Debug, Serialize)]
struct Claim {
    reason: String,
    by: String,
    since: String,
}

/// An event.
#[derive(Debug, Serialize)]
pub struct Event {
    revision: u64,
    sequence: u32,
    at: String,
    kind: String,
    severity: String,
    vm: Option<String>,
    service: Option<String>,
    node: Option<String>,
    text: String,
}

impl From<&v1::Event> for Event {
    fn from(event: &v1::Event) -> Self {
        let event = event.clone();
        Self {
            revision: event.revision,
            sequence: event.sequence,
            at: time(event.at_ms),
            kind: event.kind,
            severity: event.severity,
            vm: event.vm,
            service: event.service,
            node: event.node,
            text: event.text,
        }
    }
}

/// All that `status` shows.
#[derive(Debug, Serialize)]
pub struct Status {
    cluster: String,
    epoch: u64,
    revision: u64,
    leader: Option<u64>,
    term: u64,
    replicas: Vec<Replica>,
    nodes: Vec<Node>,
    vms: Vec<Vm>,
    services: Vec<Service>,
    failover_domains: Vec<FailoverDomain>,
    placement_rules: Vec<PlacementRule>,
    pause: Option<Pause>,
    lock: Option<Lock>,
    mass_loss: Option<String>,
    mass_loss_nodes: Vec<String>,
    unguarded: Vec<String>,
    stale: bool,
}

#[derive(Debug, Serialize)]
struct Lock {
    by: String,
    why: String,
    since: String,
}

impl From<&v1::Status> for Status {
    fn from(status: &v1::Status) -> Self {
        Self {
            cluster: status.cluster.clone(),
            epoch: status.epoch,
            revision: status.revision,
            leader: status.leader,
            term: status.term,
            replicas: status.replicas.iter().map(Replica::from).collect(),
            nodes: status.nodes.iter().map(Node::from).collect(),
            vms: status.vms.iter().map(Vm::from).collect(),
            services: status.services.iter().map(Service::from).collect(),
            failover_domains: status.failover_domains.iter().map(FailoverDomain::from).collect(),
            mass_loss: status.mass_loss.clone(),
            mass_loss_nodes: status.mass_loss_nodes.clone(),
            unguarded: status.unguarded.clone(),
            stale: status.stale,
            lock: status.lock.as_ref().map(|lock| Lock {
                by: lock.by.clone(),
                why: lock.why.clone(),
                since: time(lock.since_ms),
            }),
            placement_rules: status.placement_rules.iter().map(PlacementRule::from).collect(),
            pause: status.pause.clone().map(|pause| Pause {
                mode: pause.mode,
                by: pause.by,
                why: pause.why,
                since: time(pause.at_ms),
            }),
        }
    }
}

/// A moment for people and programs: RFC 3339 in UTC, to the millisecond.
pub fn time(milliseconds: u64) -> String {
    match jiff::Timestamp::from_millisecond(milliseconds as i64) {
        Ok(moment) => format!("{moment:.3}"),
        Err(_) => milliseconds.to_string(),
    }
}

/// The owner as `clustat` shows it: the last one in parentheses where there is none.
pub fn owner(vm: &v1::Vm) -> String {
    match (&vm.owner, &vm.last_owner) {
        (Some(owner), _) if vm.owner_silent => format!("{owner}?"),
        (Some(owner), _) => owner.clone(),
        (None, Some(last)) => format!("({last})"),
        (None, None) => "-".into(),
    }
}

/// What is worth saying beside the state.
pub fn note(reason: Option<&v1::Reason>) -> String {
    reason
        .filter(|reason| reason.code != "as-wanted")
        .map(|reason| reason.text.clone())
        .unwrap_or_default()
}

/// The same of a VM: with the phase of its migration, and what ails its guest, where the reason does not say so.
pub fn vm_note(vm: &v1::Vm) -> String {
    let mut parts = vec![note(vm.reason.as_ref())];
    if let Some(migration) = vm.last_migration.as_ref().filter(|it| it.open) {
        parts.push(format!("migrates to {}: {}", migration.to, migration.phase));
    }
    if let Some(ailment) = vm.ailment.as_ref().filter(|it| !parts[0].contains(&it.why)) {
        parts.push(ailment.why.clone());
    } else if vm.ailment.is_none() && vm.status_failures > 0 {
        parts.push(format!("{} failed checks let pass", vm.status_failures));
    }
    parts.retain(|part| !part.is_empty());
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_has_the_phase_of_a_migration_and_what_ails_a_guest_once() {
        let reason = |text: &str| v1::Reason { code: "x".into(), text: text.into(), stuck: false };
        let migration = |open| v1::VmMigration {
            to: "node2".into(),
            phase: "copying".into(),
            open,
            ..v1::VmMigration::default()
        };
        let ailment = v1::Ailment { why: "no answer".into(), ..v1::Ailment::default() };
        for (vm, expected) in [
            (v1::Vm::default(), ""),
            (v1::Vm { status_failures: 2, ..v1::Vm::default() }, "2 failed checks let pass"),
            (v1::Vm { last_migration: Some(migration(false)), ..v1::Vm::default() }, ""),
            (
                v1::Vm {
                    reason: Some(reason("under way")),
                    last_migration: Some(migration(true)),
                    ..v1::Vm::default()
                },
                "under way; migrates to node2: copying",
            ),
            (v1::Vm { ailment: Some(ailment.clone()), ..v1::Vm::default() }, "no answer"),
            (
                v1::Vm {
                    reason: Some(reason("no answer: it is stopped")),
                    ailment: Some(ailment),
                    ..v1::Vm::default()
                },
                "no answer: it is stopped",
            ),
        ] {
            assert_eq!(vm_note(&vm), expected);
        }
    }

    #[test]
    fn a_table_is_never_cut_and_the_last_owner_is_in_parentheses() {
        let vm = v1::Vm { last_owner: Some("node1".into()), ..v1::Vm::default() };
        let long = "x".repeat(300);
        let text = table(["VM", "OWNER"], [[long.clone(), owner(&vm)]]);
        assert!(text.contains(&long) && text.ends_with("(node1)"), "{text}");
    }

    #[test]
    fn what_guests_use_is_told_where_it_was_measured() {
        let load = v1::MeasuredLoad { cpu_milli: 2_050, memory_mib: 300 };
        assert_eq!(measured(Some(&load)), "2.05 processors, 300 MiB");
        assert_eq!(measured(None), "");
    }

    #[test]
    fn times_are_in_utc_to_the_millisecond() {
        assert_eq!(time(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
    }
}
