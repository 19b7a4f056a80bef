//! Putting VMs under management, changing, showing and forgetting them.

use std::path::{Path, PathBuf};

use model::domain_xml::KeepsFrom;
use proto::v1::submit_request::Operation;
use proto::v1::{self, AddVm, VmPolicy};
use serde::Serialize;
use uuid::Uuid;

use crate::args::{Conflict, Isolation, Migratable, Migration, Policy, Recovery, Vm as Command};
use crate::cmd::{Context, handling, placing, status};
use crate::domain_file::{self, DomainFile};
use crate::exit::{Failure, Kind};
use crate::render::{self, Vm, note, owner, ties, time};

pub(super) async fn run(cx: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Add { files, policy } => add(cx, &files, &policy).await,
        Command::Edit { vm, file, policy } => edit(cx, &vm, file.as_deref(), &policy).await,
        Command::Forget { vm } => {
            cx.cluster.submit(Operation::ForgetVm(vm.clone())).await?;
            say(cx, &vm, "forgotten; nothing was stopped");
            Ok(())
        }
        Command::Claim { vm, reason } => {
            let claim = v1::ClaimVm { vm: vm.clone(), reason };
            cx.cluster.submit(Operation::Claim(claim)).await?;
            say(cx, &vm, "claimed; it is not started meanwhile");
            Ok(())
        }
        Command::Unclaim { vm } => {
            cx.cluster.submit(Operation::Unclaim(vm.clone())).await?;
            say(cx, &vm, "no longer claimed");
            Ok(())
        }
        Command::Show { vm, xml, read } => show(cx, &vm, xml, read.stale).await,
        Command::List(read) => {
            let vms = status::get(cx, read.stale).await?.vms;
            if cx.json {
                render::json(&vms.iter().map(Vm::from).collect::<Vec<_>>());
            } else {
                render::line(&status::vms(&vms));
                status::say_stale(read.stale);
            }
            Ok(())
        }
        Command::Check { files } => check(cx, &files),
    }
}

fn say(cx: &Context, vm: &str, what: &str) {
    if cx.json {
        render::json(&serde_json::json!({ "vm": vm, "done": what }));
    } else {
        render::line(&format!("{vm}: {what}"));
    }
}

/// The files are checked together, then added one by one: each VM is added or refused for itself.
async fn add(cx: &Context, files: &[PathBuf], policy: &Policy) -> Result<(), Failure> {
    let policy = apply(policy, defaults())?;
    for DomainFile { xml, domain, .. } in domain_file::read_all(files)? {
        cx.cluster.submit(Operation::AddVm(AddVm { xml, policy: Some(policy.clone()) })).await?;
        say(cx, domain.name.as_str(), "added; it is disabled until it is enabled");
    }
    Ok(())
}

/// How often a VM is read anew because it changed while it was edited.
const LOOKS: usize = 10;

async fn edit(
    cx: &Context,
    name: &str,
    file: Option<&Path>,
    policy: &Policy,
) -> Result<(), Failure> {
    // What is not named by a flag is written back as it was read: never over what somebody else changed meanwhile.
    let mut looks = LOOKS;
    loop {
        looks -= 1;
        match edit_once(cx, name, file, policy).await {
            Err(failure) if looks > 0 && failure.rejection.as_deref() == Some("superseded") => {}
            Err(failure) => return Err(failure),
            Ok(()) => break,
        }
    }
    say(cx, name, "edited; a changed domain XML holds from its next start");
    Ok(())
}

async fn edit_once(
    cx: &Context,
    name: &str,
    file: Option<&Path>,
    policy: &Policy,
) -> Result<(), Failure> {
    let vm = cx.cluster.vm(name, true).await?;
    let xml = match file {
        Some(file) => {
            let DomainFile { xml, domain, .. } = domain_file::read(file)?;
            if domain.name.as_str() != name {
                let text = format!("{} is the domain {}, not {name}", file.display(), domain.name);
                return Err(Failure::new(Kind::Input, text));
            }
            match (domain.uuid, Uuid::parse_str(&vm.uuid)) {
                // It was filled in when the VM was added, and stays what it was.
                (None, Ok(uuid)) => domain.xml_with_uuid(&xml, uuid),
                _ => xml,
            }
        }
        None => vm.xml.clone(),
    };
    let policy = apply(policy, vm.policy.unwrap_or_else(defaults))?;
    let edit = Operation::EditVm(AddVm { xml, policy: Some(policy) });
    cx.cluster.submit_if(edit, Some(vm.revision)).await.map(|_| ())
}

fn defaults() -> VmPolicy {
    VmPolicy {
        recovery: "restart".into(),
        max_restarts: 0,
        restart_expire_ms: 0,
        failover_domain: None,
        migration: "live".into(),
        migratable: "auto".into(),
        stop_timeout_ms: 120_000,
        on_isolation: "suspend".into(),
        on_conflict: "wait".into(),
        autostart: Some(true),
        ..VmPolicy::default()
    }
}

fn apply(flags: &Policy, policy: VmPolicy) -> Result<VmPolicy, Failure> {
    let milliseconds = |span: std::time::Duration| span.as_millis() as u64;
    let before = policy.handling.unwrap_or_default();
    Ok(VmPolicy {
        recovery: match flags.recovery {
            Some(Recovery::Restart) => "restart".into(),
            Some(Recovery::Relocate) => "relocate".into(),
            Some(Recovery::Disable) => "disable".into(),
            Some(Recovery::RestartDisable) => "restart-disable".into(),
            None => policy.recovery,
        },
        max_restarts: flags.max_restarts.unwrap_or(policy.max_restarts),
        restart_expire_ms: flags.restart_expire_time.map_or(policy.restart_expire_ms, milliseconds),
        failover_domain: match flags.failover_domain.as_deref() {
            Some("") => None,
            Some(domain) => Some(domain.to_owned()),
            None => policy.failover_domain,
        },
        migration: match flags.migration {
            Some(Migration::Live) => "live".into(),
            Some(Migration::Pause) => "pause".into(),
            None => policy.migration,
        },
        migratable: match flags.migratable {
            Some(Migratable::Auto) => "auto".into(),
            Some(Migratable::Yes) => "yes".into(),
            Some(Migratable::No) => "no".into(),
            None => policy.migratable,
        },
        stop_timeout_ms: flags.stop_timeout.map_or(policy.stop_timeout_ms, milliseconds),
        on_isolation: match flags.on_isolation {
            Some(Isolation::Suspend) => "suspend".into(),
            Some(Isolation::Destroy) => "destroy".into(),
            Some(Isolation::Continue) => "continue".into(),
            None => policy.on_isolation,
        },
        on_conflict: match flags.on_conflict {
            Some(Conflict::Wait) => "wait".into(),
            Some(Conflict::KeepOwner) => "keep-owner".into(),
            None => policy.on_conflict,
        },
        handling: Some(handling::apply(&flags.handling, before)?),
        autostart: flags.autostart.or(policy.autostart),
        exclusive: flags.exclusive.unwrap_or(policy.exclusive),
        depend: match &flags.depend {
            Some(depend) => depend
                .iter()
                .filter(|it| !it.on.is_empty())
                .map(|it| v1::Dependency { on: it.on.clone(), mode: it.mode.clone() })
                .collect(),
            None => policy.depend,
        },
        start_priority: flags.start_priority.unwrap_or(policy.start_priority),
        max_failures: flags.max_failures.unwrap_or(policy.max_failures),
        failure_expire_ms: flags.failure_expire_time.map_or(policy.failure_expire_ms, milliseconds),
        placing: placing::placing(&flags.placing, policy.placing),
    })
}

async fn show(cx: &Context, name: &str, xml: bool, stale: bool) -> Result<(), Failure> {
    let vm = cx.cluster.vm_of(name, xml, stale).await?;
    if xml {
        render::line(&vm.xml);
    } else if cx.json {
        render::json(&Vm::from(&vm));
    } else {
        render::line(&text(&vm));
        status::say_stale(stale);
    }
    Ok(())
}

fn migration(policy: &VmPolicy) -> String {
    match policy.migratable.as_str() {
        "" | "auto" => policy.migration.clone(),
        "no" => "never".into(),
        _ => format!("{}, whatever its domain XML holds", policy.migration),
    }
}

fn text(vm: &v1::Vm) -> String {
    let policy = vm.policy.clone().unwrap_or_default();
    let seen: Vec<_> =
        vm.seen.iter().map(|seen| format!("{} on {}", seen.presence, seen.node)).collect();
    let disk = |disk: &v1::Disk| {
        let flags = [(disk.readonly, " (read-only)"), (disk.shareable, " (shareable)")];
        flags
            .iter()
            .filter(|(set, _)| *set)
            .fold(disk.source.clone(), |text, (_, flag)| text + flag)
    };
    let rows = [
        ("name", vm.name.clone()),
        ("uuid", vm.uuid.clone()),
        ("state", format!("{} since {}", vm.state, time(vm.state_since_ms))),
        ("wanted", vm.desired.clone()),
        ("owner", owner(vm)),
        ("seen", seen.join(", ")),
        ("may run on", vm.may_run.join(", ")),
        ("generation", vm.generation.to_string()),
        ("memory", format!("{} MiB", vm.memory_mib)),
        ("processors", vm.vcpus.to_string()),
        ("its guest uses", render::measured(vm.measured.as_ref())),
        ("disks", vm.disks.iter().map(disk).collect::<Vec<_>>().join(", ")),
        (
            "recovery",
            format!(
                "{}, max-restarts {} in {} s",
                policy.recovery,
                policy.max_restarts,
                policy.restart_expire_ms / 1_000
            ),
        ),
        ("restarts", vm.restart_count.to_string()),
        (
            "failed checks",
            format!(
                "{} let pass, of {} in {} s",
                vm.status_failures,
                policy.max_failures,
                policy.failure_expire_ms / 1_000
            ),
        ),
        ("autostart", policy.autostart.unwrap_or(true).to_string()),
        ("exclusive", policy.exclusive.to_string()),
        ("depends on", depend(&policy.depend)),
        ("start priority", policy.start_priority.to_string()),
        ("frozen", frozen(vm)),
        ("failover domain", policy.failover_domain.clone().unwrap_or_default()),
        ("migration", migration(&policy)),
        ("cannot migrate", ties(vm, "migrating").join(", ")),
        ("left behind", ties(vm, "finding-it-elsewhere").join(", ")),
        ("stop time-out", format!("{} s", policy.stop_timeout_ms / 1_000)),
        ("last migration", last_migration(vm)),
        ("ailment", ailment(vm)),
        ("saved memory", saved(vm)),
        ("note", note(vm.reason.as_ref())),
    ];
    let handling = policy.handling.as_ref().map(handling::rows).unwrap_or_default();
    rows.into_iter()
        .chain(placing::rows(vm))
        .chain(handling)
        .map(|(key, value)| format!("{key:<16} {value}").trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

fn last_migration(vm: &v1::Vm) -> String {
    let Some(it) = &vm.last_migration else { return String::new() };
    format!("{} to {}, {}: {} since {}", it.from, it.to, it.mode, it.phase, time(it.since_ms))
}

fn ailment(vm: &v1::Vm) -> String {
    let Some(it) = &vm.ailment else { return String::new() };
    format!("{} on {} since {}: {}", it.kind, it.node, time(it.since_ms), it.why)
}

fn saved(vm: &v1::Vm) -> String {
    let Some(it) = &vm.saved else { return String::new() };
    let who = if it.shared { "seen by all nodes" } else { "seen by that node only" };
    format!("{}, written on {} at {}, {who}", it.file, it.node, time(it.at_ms))
}

pub(super) fn depend(depend: &[v1::Dependency]) -> String {
    let parts: Vec<_> = depend.iter().map(|it| format!("{} ({})", it.on, it.mode)).collect();
    parts.join(", ")
}

fn frozen(vm: &v1::Vm) -> String {
    let Some(freeze) = &vm.frozen else { return "no".into() };
    let until = freeze.until_ms.map(|until| format!(" until {}", time(until))).unwrap_or_default();
    format!("by {} since {}{until}: {}", freeze.by, time(freeze.since_ms), freeze.why)
}

/// What a file holds, or why it is refused.
#[derive(Serialize)]
struct Checked {
    file: String,
    ok: bool,
    name: Option<String>,
    uuid: Option<String>,
    memory_mib: Option<u64>,
    vcpus: Option<u32>,
    disks: Vec<String>,
    /// What keeps it from migrating.
    cannot_migrate: Vec<String>,
    /// What a start on another host would not find.
    left_behind: Vec<String>,
    error: Option<String>,
}

impl Checked {
    fn new(path: &Path, read: Result<DomainFile, Failure>) -> Self {
        let (domain, error) = match read {
            Ok(file) => (Some(file.domain), None),
            Err(error) => (None, Some(error.message)),
        };
        let ties = |keeps_from: KeepsFrom| {
            let all = domain.iter().flat_map(|domain| &domain.host_ties);
            all.filter(|tie| tie.keeps_from == keeps_from).map(|tie| tie.what.clone()).collect()
        };
        Self {
            file: path.display().to_string(),
            ok: error.is_none(),
            cannot_migrate: ties(KeepsFrom::Migrating),
            left_behind: ties(KeepsFrom::FindingItElsewhere),
            name: domain.as_ref().map(|domain| domain.name.to_string()),
            uuid: domain.as_ref().and_then(|domain| domain.uuid).map(|uuid| uuid.to_string()),
            memory_mib: domain.as_ref().map(|domain| domain.memory_mib),
            vcpus: domain.as_ref().map(|domain| domain.vcpus),
            disks: domain
                .map(|domain| domain.disks.into_iter().map(|disk| disk.source).collect())
                .unwrap_or_default(),
            error,
        }
    }

    fn line(&self) -> String {
        if let Some(error) = &self.error {
            return format!("refused: {error}");
        }
        let mut line = format!(
            "ok {}: {}, {} MiB, {} processors, {} disks",
            self.file,
            self.name.as_deref().unwrap_or_default(),
            self.memory_mib.unwrap_or_default(),
            self.vcpus.unwrap_or_default(),
            self.disks.len()
        );
        for (what, things) in
            [("cannot migrate", &self.cannot_migrate), ("left behind", &self.left_behind)]
        {
            if !things.is_empty() {
                line.push_str(&format!("; {what}: {}", things.join(", ")));
            }
        }
        // One line a file, whatever a name or a path holds.
        line.replace(['\n', '\r'], " ")
    }
}

fn check(cx: &Context, files: &[PathBuf]) -> Result<(), Failure> {
    let mut refused = 0;
    for path in files {
        let checked = Checked::new(path, domain_file::read(path));
        refused += usize::from(!checked.ok);
        match cx.json {
            true => render::json_line(&checked),
            false => render::line(&checked.line()),
        }
    }
    match refused {
        0 => Ok(()),
        refused => Err(Failure::new(
            Kind::Input,
            format!("{refused} of {} files are not valid domains", files.len()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_change_only_what_they_name() {
        let before = VmPolicy { failover_domain: Some("d".into()), max_restarts: 3, ..defaults() };
        let flags = Policy { recovery: Some(Recovery::RestartDisable), ..Policy::default() };
        let after = apply(&flags, before.clone()).unwrap();
        let (handling, placing) = (after.handling.clone(), after.placing.clone());
        assert_eq!(
            after,
            VmPolicy { recovery: "restart-disable".into(), handling, placing, ..before.clone() }
        );
        let none = Policy { failover_domain: Some(String::new()), ..Policy::default() };
        assert_eq!(apply(&none, before).unwrap().failover_domain, None);
    }
}
