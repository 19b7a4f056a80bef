//! A VM as it is printed, with all that belongs to it.

use std::collections::BTreeMap;

use proto::v1;
use serde::Serialize;

use super::{Measured, Operation, Reason, note, reason, time};

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
struct Progress {
    elapsed_ms: u64,
    total_bytes: u64,
    processed_bytes: u64,
    remaining_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Claim {
    reason: String,
    by: String,
    since: String,
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

/// The owner as `clustat` shows it: the last one in parentheses where there is none.
pub fn owner(vm: &v1::Vm) -> String {
    match (&vm.owner, &vm.last_owner) {
        (Some(owner), _) if vm.owner_silent => format!("{owner}?"),
        (Some(owner), _) => owner.clone(),
        (None, Some(last)) => format!("({last})"),
        (None, None) => "-".into(),
    }
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
}
