//! Putting VMs under management, changing, showing and forgetting them.

use std::io::Read;
use std::path::Path;

use model::domain_xml::{self, ParsedDomain};
use proto::v1::submit_request::Operation;
use proto::v1::{self, AddVm, VmPolicy};
use serde::Serialize;

use crate::args::{Conflict, Isolation, Migration, Policy, Recovery, Vm as Command};
use crate::cmd::{Context, handling, status};
use crate::exit::{Failure, Kind};
use crate::render::{self, Vm, note, owner, time};

pub(super) async fn run(cx: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Add { file, policy } => add(cx, &file, &policy).await,
        Command::Edit { vm, file, policy } => edit(cx, &vm, file.as_deref(), &policy).await,
        Command::Forget { vm } => {
            cx.cluster.submit(Operation::ForgetVm(vm.clone())).await?;
            say(cx, &vm, "forgotten; nothing was stopped");
            Ok(())
        }
        Command::Show { vm, xml } => show(cx, &vm, xml).await,
        Command::List => {
            let vms = status::get(cx, false).await?.vms;
            if cx.json {
                render::json(&vms.iter().map(Vm::from).collect::<Vec<_>>());
            } else {
                render::line(&status::vms(&vms));
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

/// Read and checked here, so that what is not a domain is refused before anything is sent.
fn read(file: &Path) -> Result<(String, ParsedDomain), Failure> {
    let place = file.display();
    let input = |error: std::io::Error| {
        Failure::new(Kind::Input, format!("{place} cannot be read: {error}"))
    };
    let xml = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(input)?;
        text
    } else {
        std::fs::read_to_string(file).map_err(input)?
    };
    let domain = domain_xml::parse(&xml).map_err(|error| {
        Failure::new(Kind::Input, format!("{place} is not a valid domain: {error}"))
    })?;
    Ok((xml, domain))
}

async fn add(cx: &Context, file: &Path, policy: &Policy) -> Result<(), Failure> {
    let (xml, domain) = read(file)?;
    let policy = apply(policy, defaults())?;
    cx.cluster.submit(Operation::AddVm(AddVm { xml, policy: Some(policy) })).await?;
    say(cx, domain.name.as_str(), "added; it is disabled until it is enabled");
    Ok(())
}

async fn edit(
    cx: &Context,
    name: &str,
    file: Option<&Path>,
    policy: &Policy,
) -> Result<(), Failure> {
    let vm = cx.cluster.vm(name, true).await?;
    let xml = match file {
        Some(file) => {
            let (xml, domain) = read(file)?;
            if domain.name.as_str() != name {
                let text = format!("{} is the domain {}, not {name}", file.display(), domain.name);
                return Err(Failure::new(Kind::Input, text));
            }
            xml
        }
        None => vm.xml.clone(),
    };
    let policy = apply(policy, vm.policy.unwrap_or_else(defaults))?;
    cx.cluster.submit(Operation::EditVm(AddVm { xml, policy: Some(policy) })).await?;
    say(cx, name, "edited; a changed domain XML holds from its next start");
    Ok(())
}

fn defaults() -> VmPolicy {
    VmPolicy {
        recovery: "restart".into(),
        max_restarts: 0,
        restart_expire_ms: 0,
        failover_domain: None,
        migration: "live".into(),
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
    })
}

async fn show(cx: &Context, name: &str, xml: bool) -> Result<(), Failure> {
    let vm = cx.cluster.vm(name, xml).await?;
    if xml {
        render::line(&vm.xml);
    } else if cx.json {
        render::json(&Vm::from(&vm));
    } else {
        render::line(&text(&vm));
    }
    Ok(())
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
        ("failover domain", policy.failover_domain.unwrap_or_default()),
        ("migration", policy.migration),
        ("stop time-out", format!("{} s", policy.stop_timeout_ms / 1_000)),
        ("note", note(vm.reason.as_ref())),
    ];
    let handling = policy.handling.as_ref().map(handling::rows).unwrap_or_default();
    rows.into_iter()
        .chain(handling)
        .map(|(key, value)| format!("{key:<16} {value}").trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

fn depend(depend: &[v1::Dependency]) -> String {
    let parts: Vec<_> = depend.iter().map(|it| format!("{} ({})", it.on, it.mode)).collect();
    parts.join(", ")
}

fn frozen(vm: &v1::Vm) -> String {
    let Some(freeze) = &vm.frozen else { return "no".into() };
    let until = freeze.until_ms.map(|until| format!(" until {}", time(until))).unwrap_or_default();
    format!("by {} since {}{until}: {}", freeze.by, time(freeze.since_ms), freeze.why)
}

#[derive(Serialize)]
struct Checked {
    file: String,
    ok: bool,
    name: Option<String>,
    uuid: Option<String>,
    memory_mib: Option<u64>,
    vcpus: Option<u32>,
    disks: Vec<String>,
    error: Option<String>,
}

fn check(cx: &Context, files: &[std::path::PathBuf]) -> Result<(), Failure> {
    let mut refused = 0;
    for file in files {
        let checked = read(file);
        refused += usize::from(checked.is_err());
        let file = file.display().to_string();
        let checked = match checked {
            Ok((_, domain)) => Checked {
                file,
                ok: true,
                name: Some(domain.name.to_string()),
                uuid: domain.uuid.map(|uuid| uuid.to_string()),
                memory_mib: Some(domain.memory_mib),
                vcpus: Some(domain.vcpus),
                disks: domain.disks.into_iter().map(|disk| disk.source).collect(),
                error: None,
            },
            Err(error) => Checked {
                file,
                ok: false,
                name: None,
                uuid: None,
                memory_mib: None,
                vcpus: None,
                disks: Vec::new(),
                error: Some(error.message),
            },
        };
        if cx.json {
            render::json_line(&checked);
            continue;
        }
        render::line(&match (&checked.error, &checked.name) {
            (Some(error), _) => format!("refused: {error}"),
            (None, name) => format!(
                "ok {}: {}, {} MiB, {} processors, {} disks",
                checked.file,
                name.as_deref().unwrap_or_default(),
                checked.memory_mib.unwrap_or_default(),
                checked.vcpus.unwrap_or_default(),
                checked.disks.len()
            ),
        });
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
        let handling = after.handling.clone();
        assert_eq!(
            after,
            VmPolicy { recovery: "restart-disable".into(), handling, ..before.clone() }
        );
        let none = Policy { failover_domain: Some(String::new()), ..Policy::default() };
        assert_eq!(apply(&none, before).unwrap().failover_domain, None);
    }

    #[test]
    fn a_file_that_is_not_a_domain_is_refused_with_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bad.xml");
        std::fs::write(
            &path,
            "<domain type='kvm'>\n<name>v</name>\n<memory>many</memory></domain>",
        )
        .unwrap();
        let failure = read(&path).unwrap_err();
        assert_eq!(failure.kind.code(), 9);
        assert!(failure.message.contains("line 3: <memory> many"), "{}", failure.message);
        let missing = read(&directory.path().join("none.xml")).unwrap_err();
        assert!(missing.message.contains("cannot be read"), "{}", missing.message);
    }
}
