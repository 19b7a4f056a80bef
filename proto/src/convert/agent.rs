//! What agents say, and the orders they are given.

use std::collections::BTreeMap;

use model::command::{GuestNote, Registration, Report};
use model::handling::Checks;
use model::id::{Generation, MemberName, NodeName, OrderId, SessionId};
use model::liveness::Measured;
use model::node::{Capacity, HostFeatures, SeenDomain};
use model::order::{Order, OrderKind, Watch};
use model::service::MAX_MEMBERS;
use model::service::order::{ScriptOrder, ScriptOrderKind, WatchedScript};
use model::vm::{MigrationMode, MigrationPhase, OnIsolation, Presence, StopCause};
use uuid::Uuid;

use crate::convert::{ConvertError, name, uuid};
use crate::v1;

/// The most domains one host may report: far above real hosts, and below what one log entry may hold.
const MAX_DOMAINS: usize = 500;
/// Debian has about a hundred fence agents.
const MAX_AGENTS: usize = 300;
const MAX_AGENT_NAME: usize = 60;
/// Ten thousand processors.
const MAX_CPU_MILLI: u64 = 10_000_000;
/// A hundred tebibytes.
const MAX_MEMORY_MIB: u64 = 100 << 20;
/// Bytes. libvirt's names and messages have no limit of their own; this one keeps entries small.
const MAX_TEXT: usize = 1_000;

/// Reads a registration.
pub fn registration(message: v1::RegisterRequest) -> Result<Registration, ConvertError> {
    if message.inventory.len() > MAX_DOMAINS {
        return Err(ConvertError::new(
            "inventory",
            format!("more than {MAX_DOMAINS} domains on one host"),
        ));
    }
    let inventory: Result<BTreeMap<_, _>, _> =
        message.inventory.into_iter().map(seen_domain).collect();
    Ok(Registration {
        name: name("node", NodeName::new(&message.node))?,
        hardware: uuid("hardware", &message.hardware)?,
        boot_id: text("boot_id", message.boot_id)?,
        replaces: message.replaces.map(SessionId),
        capacity: Capacity { memory_mib: message.memory_mib, cpus: message.cpus },
        migration_uri: text("migration_uri", message.migration_uri)?,
        watchdog_timeout_ms: message.watchdog_timeout_ms,
        pausable: message.pausable,
        lock_manager: message.lock_manager.map(|name| text("lock_manager", name)).transpose()?,
        agent_version: text("agent_version", message.agent_version)?,
        features: HostFeatures {
            // Names of programs that are there; what is no such name is of no use, and what is too much is left out.
            fence_agents: message
                .fence_agents
                .into_iter()
                .filter(|name| name.starts_with("fence_") && name.len() <= MAX_AGENT_NAME)
                .take(MAX_AGENTS)
                .collect(),
            libvirt_guests: message.libvirt_guests,
        },
        inventory: inventory?,
    })
}

fn text(field: &'static str, text: String) -> Result<String, ConvertError> {
    match text.len() {
        0 => Err(ConvertError::new(field, "it is empty")),
        length if length > MAX_TEXT => {
            Err(ConvertError::new(field, format!("it is longer than {MAX_TEXT} bytes")))
        }
        _ => Ok(text),
    }
}

fn seen_domain(message: v1::SeenDomain) -> Result<(Uuid, SeenDomain), ConvertError> {
    let presence = match message.presence() {
        v1::Presence::Unspecified => return Err(ConvertError::new("presence", "it is not given")),
        v1::Presence::Inactive => None,
        v1::Presence::Running => Some(Presence::Running),
        v1::Presence::Paused => Some(Presence::Paused),
        v1::Presence::Incoming => Some(Presence::Incoming),
        v1::Presence::ShuttingDown => Some(Presence::ShuttingDown),
        v1::Presence::Crashed => Some(Presence::Crashed),
        v1::Presence::Suspended => Some(Presence::Suspended),
        v1::Presence::Leaving => Some(Presence::Leaving),
        v1::Presence::IoError => Some(Presence::IoError),
        v1::Presence::WatchdogPaused => Some(Presence::WatchdogPaused),
    };
    let domain = SeenDomain {
        name: text("name", message.name)?,
        presence,
        memory_mib: message.memory_mib,
        generation: message.generation,
        autostart: message.autostart,
    };
    Ok((uuid("uuid", &message.uuid)?, domain))
}

/// A domain as it goes over the wire.
pub fn seen(uuid: Uuid, seen: &SeenDomain) -> v1::SeenDomain {
    let presence = match seen.presence {
        None => v1::Presence::Inactive,
        Some(Presence::Running) => v1::Presence::Running,
        Some(Presence::Paused) => v1::Presence::Paused,
        Some(Presence::Incoming) => v1::Presence::Incoming,
        Some(Presence::ShuttingDown) => v1::Presence::ShuttingDown,
        Some(Presence::Crashed) => v1::Presence::Crashed,
        Some(Presence::Suspended) => v1::Presence::Suspended,
        Some(Presence::Leaving) => v1::Presence::Leaving,
        Some(Presence::IoError) => v1::Presence::IoError,
        Some(Presence::WatchdogPaused) => v1::Presence::WatchdogPaused,
    };
    v1::SeenDomain {
        uuid: uuid.to_string(),
        name: cut(seen.name.clone()),
        presence: presence.into(),
        memory_mib: seen.memory_mib,
        generation: seen.generation,
        autostart: seen.autostart,
    }
}

/// A sure "not here" as it goes over the wire.
pub fn absent(uuid: Uuid, floor: u64, cause: Option<StopCause>) -> v1::Absent {
    let cause = match cause {
        None => v1::StopCause::Unspecified,
        Some(StopCause::GuestShutdown) => v1::StopCause::GuestShutdown,
        Some(StopCause::Destroyed) => v1::StopCause::Destroyed,
        Some(StopCause::Crashed) => v1::StopCause::GuestCrashed,
        Some(StopCause::MigratedAway) => v1::StopCause::MigratedAway,
        Some(StopCause::Saved) => v1::StopCause::Saved,
        Some(StopCause::Failed) => v1::StopCause::Failed,
        Some(StopCause::Unknown) => v1::StopCause::Unknown,
        Some(StopCause::Panicked) => v1::StopCause::Panicked,
        Some(StopCause::Watchdog) => v1::StopCause::Watchdog,
        Some(StopCause::Terminated) => v1::StopCause::Terminated,
    };
    v1::Absent { uuid: uuid.to_string(), floor, cause: cause.into() }
}

/// No longer than the control plane takes, and cut between two characters: libvirt's messages can be pages long, and the
/// beginning says what is wrong.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
}

/// The report with no text that is too long: for its sender, so that none is ever refused for that.
pub fn bounded(mut message: v1::Report) -> v1::Report {
    use v1::report::Report as Kind;
    let shorten = |text: &mut String| *text = cut(std::mem::take(text));
    match &mut message.report {
        Some(Kind::Seen(seen)) => shorten(&mut seen.name),
        Some(Kind::OrderDone(done)) => done.error.iter_mut().for_each(shorten),
        Some(Kind::Checked(checked)) => checked.error.iter_mut().for_each(shorten),
        Some(Kind::Noted(noted)) => shorten(&mut noted.text),
        Some(Kind::ScriptStatus(status)) => status.error.iter_mut().for_each(shorten),
        Some(
            Kind::Absent(_) | Kind::Migration(_) | Kind::ScriptsSeen(_) | Kind::StartedHere(_),
        )
        | None => {}
    }
    message
}

/// Reads a report.
pub fn report(message: v1::Report) -> Result<Report, ConvertError> {
    use v1::report::Report as Kind;
    match message.report.ok_or_else(|| ConvertError::new("report", "it is empty"))? {
        Kind::Seen(seen) => {
            let (uuid, domain) = seen_domain(seen)?;
            Ok(Report::Seen { uuid, domain })
        }
        Kind::Absent(absent) => {
            let cause = match absent.cause() {
                v1::StopCause::Unspecified => None,
                v1::StopCause::GuestShutdown => Some(StopCause::GuestShutdown),
                v1::StopCause::Destroyed => Some(StopCause::Destroyed),
                v1::StopCause::GuestCrashed => Some(StopCause::Crashed),
                v1::StopCause::MigratedAway => Some(StopCause::MigratedAway),
                v1::StopCause::Saved => Some(StopCause::Saved),
                v1::StopCause::Failed => Some(StopCause::Failed),
                v1::StopCause::Unknown => Some(StopCause::Unknown),
                v1::StopCause::Panicked => Some(StopCause::Panicked),
                v1::StopCause::Watchdog => Some(StopCause::Watchdog),
                v1::StopCause::Terminated => Some(StopCause::Terminated),
            };
            Ok(Report::Absent { uuid: uuid("uuid", &absent.uuid)?, floor: absent.floor, cause })
        }
        Kind::OrderDone(done) => Ok(Report::OrderDone {
            uuid: uuid("uuid", &done.uuid)?,
            order: OrderId(done.order),
            // libvirt's messages can be pages long; the beginning says what is wrong.
            error: done.error.map(cut),
        }),
        Kind::StartedHere(started) => Ok(Report::StartedHere {
            uuid: uuid("uuid", &started.uuid)?,
            generation: Generation(started.generation),
        }),
        Kind::Checked(checked) => Ok(Report::Checked {
            uuid: uuid("uuid", &checked.uuid)?,
            error: checked.error.map(cut),
        }),
        Kind::Noted(noted) => {
            let note = match noted.note() {
                v1::GuestNote::Unspecified => {
                    return Err(ConvertError::new("note", "it is not given"));
                }
                v1::GuestNote::Rebooted => GuestNote::Rebooted,
                v1::GuestNote::GuestPanicked => GuestNote::Panicked,
                v1::GuestNote::WatchdogBit => GuestNote::Watchdog,
                v1::GuestNote::StorageFailed => GuestNote::IoError,
                v1::GuestNote::BootsAnew => GuestNote::BootsAnew,
            };
            let text = cut(noted.text);
            Ok(Report::Noted { uuid: uuid("uuid", &noted.uuid)?, note, text })
        }
        Kind::Migration(step) => Ok(Report::Migration {
            uuid: uuid("uuid", &step.uuid)?,
            order: OrderId(step.order),
            phase: match step.post_copy {
                true => MigrationPhase::PostCopy,
                false => MigrationPhase::Copying,
            },
        }),
        Kind::ScriptStatus(status) => Ok(Report::ScriptStatus {
            service: uuid("service_id", &status.service_id)?,
            member: name("member", MemberName::new(&status.member))?,
            started_by: OrderId(status.started_by),
            error: status.error.map(cut),
        }),
        Kind::ScriptsSeen(seen) => {
            if seen.members.len() > MAX_MEMBERS {
                return Err(ConvertError::new("members", format!("more than {MAX_MEMBERS}")));
            }
            let member = |text: &String| name("member", MemberName::new(text));
            Ok(Report::ScriptsSeen {
                service: uuid("service_id", &seen.service_id)?,
                members: seen.members.iter().map(member).collect::<Result<_, _>>()?,
            })
        }
    }
}

/// Writes an order about scripts.
pub fn script_order(order: &ScriptOrder) -> v1::ScriptOrder {
    use v1::script_order::Kind;
    let named = |member: &MemberName, script| v1::NamedScript {
        member: member.to_string(),
        script: Some(super::service::write_script(script)),
    };
    v1::ScriptOrder {
        id: order.id.0,
        session: order.session.0,
        generation: order.generation.0,
        service: order.service.to_string(),
        service_id: order.service_id.to_string(),
        kind: Some(match &order.kind {
            ScriptOrderKind::Start { member, script } => Kind::Start(named(member, script)),
            ScriptOrderKind::Stop { member, script } => Kind::Stop(named(member, script)),
            ScriptOrderKind::Probe { scripts } => Kind::Probe(v1::ScriptProbe {
                scripts: scripts.iter().map(|(member, script)| named(member, script)).collect(),
            }),
        }),
    }
}

/// Writes what is to be checked.
pub fn watched_script(watched: &WatchedScript) -> v1::WatchedScript {
    v1::WatchedScript {
        service: watched.service.to_string(),
        service_id: watched.service_id.to_string(),
        member: watched.member.to_string(),
        started_by: watched.started_by.0,
        script: Some(super::service::write_script(&watched.script)),
    }
}

/// Reads what a guest uses; what makes no sense is left out, for it decides nothing but a weight.
pub fn guest_load(message: &v1::GuestLoad) -> Option<(Uuid, Measured)> {
    let uuid = uuid("uuid", &message.uuid).ok()?;
    let sane = message.cpu_milli <= MAX_CPU_MILLI && message.memory_mib <= MAX_MEMORY_MIB;
    sane.then_some((
        uuid,
        Measured { cpu_milli: message.cpu_milli, memory_mib: message.memory_mib },
    ))
}

/// What happened in a guest, as it goes over the wire.
pub fn noted(uuid: Uuid, note: GuestNote, text: String) -> v1::Noted {
    let note = match note {
        GuestNote::Rebooted => v1::GuestNote::Rebooted,
        GuestNote::Panicked => v1::GuestNote::GuestPanicked,
        GuestNote::Watchdog => v1::GuestNote::WatchdogBit,
        GuestNote::IoError => v1::GuestNote::StorageFailed,
        GuestNote::BootsAnew => v1::GuestNote::BootsAnew,
    };
    v1::Noted { uuid: uuid.to_string(), note: note.into(), text }
}

/// Reads how a VM is checked.
pub fn checks(message: v1::Checks) -> Result<Checks, ConvertError> {
    Ok(Checks {
        program: super::handling::program(message.command, message.shell)?,
        guest_agent: message.guest_agent,
        interval_ms: message.interval_ms,
        timeout_ms: message.timeout_ms,
    })
}

fn write_checks(checks: &Checks) -> v1::Checks {
    let (command, shell) = super::handling::write_program(checks.program.as_ref());
    v1::Checks {
        command,
        shell,
        guest_agent: checks.guest_agent,
        interval_ms: checks.interval_ms,
        timeout_ms: checks.timeout_ms,
    }
}

/// Writes what an agent is to keep an eye on.
pub fn watch(watch: &Watch) -> v1::Watch {
    v1::Watch {
        vm: watch.vm.to_string(),
        uuid: watch.uuid.to_string(),
        checks: Some(write_checks(&watch.checks)),
    }
}

/// Writes an order.
pub fn order(order: &Order) -> v1::Order {
    use v1::order::Kind;
    let kind = match &order.kind {
        OrderKind::Start { xml, source, memory_file, checks, timeout_ms } => {
            let (xml_file, xml_path) = super::handling::write_source(source);
            Kind::Start(v1::StartOrder {
                xml: xml.to_string(),
                xml_file,
                xml_path,
                memory_file: memory_file.clone(),
                checks: Some(write_checks(checks)),
                timeout_ms: *timeout_ms,
            })
        }
        OrderKind::Stop { graceful_ms, memory_file, ask_only } => Kind::Stop(v1::StopOrder {
            graceful_ms: *graceful_ms,
            memory_file: memory_file.clone(),
            ask_only: *ask_only,
        }),
        OrderKind::Migrate { to, route, mode, options, cancelled } => {
            Kind::Migrate(v1::MigrateOrder {
                to: to.clone(),
                uri: route.connection.clone(),
                data_uri: route.data.clone(),
                live: *mode == MigrationMode::Live,
                options: Some(super::handling::write_migration(options)),
                cancelled: *cancelled,
            })
        }
        OrderKind::Adopt => Kind::Adopt(v1::AdoptOrder {}),
        OrderKind::Probe => Kind::Probe(v1::ProbeOrder {}),
        OrderKind::Resume => Kind::Resume(v1::ResumeOrder {}),
    };
    let on_isolation = match order.on_isolation {
        OnIsolation::Suspend => v1::OnIsolation::Suspend,
        OnIsolation::Destroy => v1::OnIsolation::Destroy,
        OnIsolation::Continue => v1::OnIsolation::Continue,
    };
    v1::Order {
        id: order.id.0,
        session: order.session.0,
        generation: order.generation.0,
        vm: order.vm.to_string(),
        uuid: order.uuid.to_string(),
        on_isolation: on_isolation.into(),
        kind: Some(kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_with_a_wrong_uuid_or_without_content_is_refused_with_the_field() {
        let absent = v1::Absent { uuid: "12".into(), floor: 1, cause: 0 };
        let message = v1::Report { report: Some(v1::report::Report::Absent(absent)) };
        assert_eq!(report(message).unwrap_err().field, "uuid");
        assert_eq!(report(v1::Report { report: None }).unwrap_err().field, "report");
    }

    #[test]
    fn a_text_is_cut_between_two_characters_by_its_sender_and_by_its_reader() {
        // Two bytes each, and one byte before them.
        let long = format!("x{}", "é".repeat(2_000));
        let uuid = Uuid::nil().to_string();
        let seen = v1::SeenDomain {
            uuid: uuid.clone(),
            name: long.clone(),
            presence: v1::Presence::Running.into(),
            ..Default::default()
        };
        let message = bounded(v1::Report { report: Some(v1::report::Report::Seen(seen)) });
        let Report::Seen { domain, .. } = report(message).unwrap() else { panic!() };
        assert_eq!(domain.name.len(), MAX_TEXT - 1);
        let done = v1::OrderDone { uuid, order: 1, error: Some(long.clone()) };
        let message = v1::Report { report: Some(v1::report::Report::OrderDone(done)) };
        for message in [message.clone(), bounded(message)] {
            let Report::OrderDone { error, .. } = report(message).unwrap() else { panic!() };
            assert!(long.starts_with(&error.clone().unwrap()));
            assert_eq!(error.unwrap().len(), MAX_TEXT - 1);
        }
    }

    #[test]
    fn a_domain_without_a_presence_is_refused() {
        let seen = v1::SeenDomain {
            uuid: Uuid::nil().to_string(),
            name: "v".into(),
            presence: 0,
            memory_mib: 1,
            generation: None,
            autostart: false,
        };
        assert_eq!(seen_domain(seen).unwrap_err().field, "presence");
    }
}
