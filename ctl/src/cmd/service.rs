//! Services: put under management, changed, shown, forgotten, and asked to start, stop and move.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use proto::v1::ask_service::Ask;
use proto::v1::submit_request::Operation;
use proto::v1::{self, AskEnable, AskFreeze, AskMigrate, AskRelocate, AskService};
use tonic::Response;

use crate::args::{Command as Any, Service as Command};
use crate::cmd::vm::depend;
use crate::cmd::{Context, status};
use crate::exit::{Failure, Kind};
use crate::render::{self, Service, note, table, time};
use crate::service_file::{self, ServiceFile};
use crate::wait::wait_service;

/// The name behind `service:`, if that is what is meant.
pub(super) fn named(text: &str) -> Option<&str> {
    text.strip_prefix("service:")
}

pub(super) async fn run(cx: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Add { file } => {
            let spec = read(&file)?;
            let name = spec.name.clone();
            cx.cluster.submit(Operation::AddService(spec)).await?;
            say(cx, &name, "added; it is disabled until it is enabled");
            Ok(())
        }
        Command::Edit { file, if_definition } => {
            let spec = read(&file)?;
            let name = spec.name.clone();
            edit(cx, spec, if_definition).await?;
            say(cx, &name, "edited; nothing was stopped");
            Ok(())
        }
        Command::Forget { service } => {
            let name = named(&service).unwrap_or(&service).to_owned();
            cx.cluster.submit(Operation::ForgetService(name.clone())).await?;
            say(cx, &name, "forgotten; nothing was stopped");
            Ok(())
        }
        Command::Show { service, read } => {
            let name = named(&service).unwrap_or(&service);
            let service = get_of(cx, name, read.stale).await?;
            if cx.json {
                render::json(&Service::from(&service));
            } else {
                render::line(&text(&service));
                status::say_stale(read.stale);
            }
            Ok(())
        }
        Command::List(read) => {
            let services = status::get(cx, read.stale).await?.services;
            if cx.json {
                render::json(&services.iter().map(Service::from).collect::<Vec<_>>());
            } else {
                render::line(&list(&services));
                status::say_stale(read.stale);
            }
            Ok(())
        }
    }
}

/// How often a definition is looked at anew because its service changed state meanwhile.
const LOOKS: usize = 10;

/// The file replaces all of the definition: one that somebody else changed since it was shown is not replaced unseen.
async fn edit(cx: &Context, spec: v1::ServiceSpec, known: Option<u64>) -> Result<(), Failure> {
    let Some(known) = known else {
        return cx.cluster.submit(Operation::EditService(spec)).await.map(|_| ());
    };
    let mut last = None;
    for _ in 0..LOOKS {
        let service = get(cx, &spec.name).await?;
        may_replace(&spec.name, known, service.spec_revision)?;
        let operation = Operation::EditService(spec.clone());
        match cx.cluster.submit_if(operation, Some(service.revision)).await {
            Ok(_) => return Ok(()),
            // Its state changed between the two, or its definition.
            Err(failure) if failure.rejection.as_deref() == Some("superseded") => {
                last = Some(failure);
            }
            Err(failure) => return Err(failure),
        }
    }
    Err(last.unwrap_or_else(|| Failure::internal("nothing was tried")))
}

fn may_replace(name: &str, known: u64, now: u64) -> Result<(), Failure> {
    if known == now {
        return Ok(());
    }
    let text = format!(
        "the definition of service {name} was changed at revision {now}, and the file is based on that of {known}; look at `berthctl service show {name}` and try again"
    );
    Err(Failure::new(Kind::Refused, text))
}

fn say(cx: &Context, service: &str, done: &str) {
    if cx.json {
        render::json(&serde_json::json!({ "service": service, "done": done }));
    } else {
        render::line(&format!("service:{service}: {done}"));
    }
}

fn read(file: &Path) -> Result<v1::ServiceSpec, Failure> {
    let place = file.display();
    let input = |error: String| Failure::new(Kind::Input, format!("{place}: {error}"));
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let text = text.map_err(|error| input(error.to_string()))?;
    service_file::read(&text).and_then(ServiceFile::spec).map_err(input)
}

/// The service as it is now.
pub(super) async fn get(cx: &Context, name: &str) -> Result<v1::Service, Failure> {
    get_of(cx, name, false).await
}

/// The same; where it is `stale`, as the replica that is asked has it.
async fn get_of(cx: &Context, name: &str, stale: bool) -> Result<v1::Service, Failure> {
    let message = v1::GetServiceRequest { service: name.to_owned(), stale };
    cx.cluster
        .ask(|mut client| {
            let message = message.clone();
            async move { client.get_service(message).await.map(Response::into_inner) }
        })
        .await
}

/// What a command asks of a service, if it names one.
pub(super) fn asked(command: &Any) -> Result<Option<(String, Ask)>, Failure> {
    let (name, ask) = match command {
        Any::Enable { vm, on } => (vm, Ask::Enable(AskEnable { on: on.clone() })),
        Any::Disable { vm } => (vm, Ask::Disable(true)),
        Any::Stop { vm, now: true } if named(vm).is_some() => {
            let text = format!(
                "--now is for VMs: the members of {vm} stop in reverse order, each within its own stop time-out; nothing was asked"
            );
            return Err(Failure::new(Kind::Input, text));
        }
        Any::Stop { vm, .. } => (vm, Ask::Stop(true)),
        Any::Restart { vm } => (vm, Ask::Restart(true)),
        Any::Relocate { vm, to } => (vm, Ask::Relocate(AskRelocate { to: to.clone() })),
        Any::Migrate { vm, to, live, pause } => {
            let mode = match (live, pause) {
                (true, _) => Some("live".to_owned()),
                (_, true) => Some("pause".to_owned()),
                _ => None,
            };
            (vm, Ask::Migrate(AskMigrate { to: to.clone(), mode }))
        }
        Any::Cancel { vm } => (vm, Ask::Cancel(true)),
        Any::Freeze { vm, reason, span } => {
            let for_ms = span.map(|span: Duration| span.as_millis() as u64);
            (vm, Ask::Freeze(AskFreeze { why: reason.clone(), for_ms }))
        }
        Any::Unfreeze { vm } => (vm, Ask::Unfreeze(true)),
        Any::Convalesce { vm } => (vm, Ask::Convalesce(true)),
        _ => return Ok(None),
    };
    Ok(named(name).map(|name| (name.to_owned(), ask)))
}

/// Asks, and waits for its end where it has one.
pub(super) async fn ask(cx: &Context, service: String, ask: Ask) -> Result<(), Failure> {
    let at_once = match &ask {
        Ask::Cancel(_) => Some("cancelled"),
        Ask::Freeze(_) => Some("frozen; nothing is done to it"),
        Ask::Unfreeze(_) => Some("unfrozen; its scripts are checked first"),
        _ => None,
    };
    let wish = match &ask {
        Ask::Enable(enable) => enable.on.clone(),
        _ => None,
    };
    let begun = Instant::now();
    let message = AskService { service: service.clone(), ask: Some(ask) };
    let (request_id, _) = cx.cluster.submit(Operation::AskService(message)).await?;
    if let Some(word) = at_once.or(cx.no_wait.then_some("accepted")) {
        say(cx, &service, word);
        return Ok(());
    }
    let last = wait_service(&cx.cluster, &request_id, &service, cx.json).await?;
    if let Some(note) = elsewhere(&format!("service:{service}"), wish, last.owner.as_deref()) {
        eprintln!("berthctl: {note}");
    }
    if cx.json {
        render::json(&Service::from(&last));
        return Ok(());
    }
    let place = last.owner.as_deref().map(|owner| format!(" on {owner}")).unwrap_or_default();
    let spent = begun.elapsed().as_secs_f64();
    render::line(&format!("service:{service} is {}{place} ({spent:.1} s)", state(&last)));
    Ok(())
}

/// What is said where it does not run where an operator wanted it started: what ran already is tracked where it runs.
pub(super) fn elsewhere(what: &str, wish: Option<String>, owner: Option<&str>) -> Option<String> {
    let wish = wish.filter(|wish| owner.is_some_and(|owner| owner != wish))?;
    let owner = owner.unwrap_or_default();
    Some(format!(
        "{what} is on {owner} and not on {wish}: it ran there already, or {wish} could not take it; `berthctl migrate` or `relocate` moves it"
    ))
}

/// Why it is as it is.
pub(super) async fn explain(cx: &Context, name: &str) -> Result<(), Failure> {
    let service = get(cx, name).await?;
    if cx.json {
        render::json(&Service::from(&service));
        return Ok(());
    }
    let why = match &service.reason {
        Some(reason) => reason.text.clone(),
        None => "the leader has not planned yet".into(),
    };
    render::line(&format!(
        "service:{name} is {}, and wanted {}: {why}",
        state(&service),
        service.desired
    ));
    if !service.may_run.is_empty() {
        render::line(&format!("Its scripts may be running on {}.", service.may_run.join(", ")));
    }
    if let Some(failure) = &service.failure {
        render::line(&format!("Its last failure: {failure}."));
    }
    render::line(&format!("\n{}", members(&service)));
    Ok(())
}

/// The state with RGManager's flags.
pub(super) fn state(service: &v1::Service) -> String {
    let frozen = if service.frozen.is_some() { " [Z]" } else { "" };
    let partial = if service.partial { " [P]" } else { "" };
    format!("{}{frozen}{partial}", service.state)
}

fn owner(service: &v1::Service) -> String {
    match (&service.owner, &service.last_owner) {
        (Some(owner), _) if service.owner_silent => format!("{owner}?"),
        (Some(owner), _) => owner.clone(),
        (None, Some(last)) => format!("({last})"),
        (None, None) => "-".into(),
    }
}

/// The table of services, with their members below each.
pub(super) fn list(services: &[v1::Service]) -> String {
    let rows = services.iter().flat_map(|service| {
        let name = service.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default();
        let head = [
            name,
            owner(service),
            state(service),
            time(service.state_since_ms),
            service.restart_count.to_string(),
            note(service.reason.as_ref()),
        ];
        let members = service.members.iter().map(|member| {
            let off = if member.off { " (stays down)" } else { "" };
            [
                format!("  {}", member.name),
                member.kind.clone(),
                format!("{}{off}", member.state),
                String::new(),
                String::new(),
                member.failure.clone().unwrap_or_default(),
            ]
        });
        std::iter::once(head).chain(members).collect::<Vec<_>>()
    });
    table(["SERVICE", "OWNER (LAST)", "STATE", "SINCE", "RESTARTS", "NOTE"], rows)
}

fn members(service: &v1::Service) -> String {
    let rows = service.members.iter().map(|member| {
        let off = if member.off { " (stays down)" } else { "" };
        [
            member.name.clone(),
            member.kind.clone(),
            format!("{}{off}", member.state),
            member.failure.clone().unwrap_or_default(),
        ]
    });
    table(["MEMBER", "KIND", "STATE", "LAST FAILURE"], rows)
}

fn text(service: &v1::Service) -> String {
    let spec = service.spec.clone().unwrap_or_default();
    let policy = spec.policy.clone().unwrap_or_default();
    let rows = [
        ("name", spec.name.clone()),
        ("id", service.id.clone()),
        ("state", format!("{} since {}", state(service), time(service.state_since_ms))),
        ("wanted", service.desired.clone()),
        ("owner", owner(service)),
        ("scripts may run", service.may_run.join(", ")),
        (
            "recovery",
            format!(
                "{}, max-restarts {} in {} s",
                policy.recovery,
                policy.max_restarts,
                policy.restart_expire_ms / 1_000
            ),
        ),
        ("restarts", service.restart_count.to_string()),
        ("failover domain", policy.failover_domain.unwrap_or_default()),
        ("migrate together", if policy.migrate_together { "yes" } else { "no" }.into()),
        ("autostart", if policy.autostart.unwrap_or(true) { "yes" } else { "no" }.into()),
        ("exclusive", policy.exclusive.to_string()),
        ("depends on", depend(&policy.depend)),
        ("start priority", policy.start_priority.to_string()),
        ("frozen", service.frozen.clone().unwrap_or_default()),
        ("definition of", format!("revision {}", service.spec_revision)),
        ("note", note(service.reason.as_ref())),
    ];
    let head = rows
        .into_iter()
        .map(|(key, value)| format!("{key:<16} {value}").trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n");
    format!("{head}\n\n{}", members(service))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_not_stopped_at_once_and_it_is_said() {
        let stop = |vm: &str, now| asked(&Any::Stop { vm: vm.into(), now });
        assert!(stop("service:web", true).unwrap_err().message.contains("--now is for VMs"));
        assert!(matches!(stop("service:web", false), Ok(Some((_, Ask::Stop(true))))));
        assert!(matches!(stop("web", true), Ok(None)));
    }

    #[test]
    fn a_definition_that_somebody_else_changed_is_not_replaced_unseen() {
        assert!(may_replace("web", 7, 7).is_ok());
        let refused = may_replace("web", 7, 9).unwrap_err();
        assert_eq!(refused.kind.code(), 3);
        assert!(refused.message.contains("changed at revision 9"), "{refused}");
    }

    #[test]
    fn it_is_said_when_it_runs_elsewhere_than_it_was_wanted() {
        let note = |wish: Option<&str>, owner| elsewhere("v", wish.map(Into::into), owner);
        assert!(note(Some("n2"), Some("n1")).unwrap().starts_with("v is on n1 and not on n2"));
        assert_eq!(note(Some("n1"), Some("n1")), None);
        assert_eq!(note(None, Some("n1")), None);
        assert_eq!(note(Some("n1"), None), None);
    }
}
