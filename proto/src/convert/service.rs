//! Services: their specs from outside and back, and what is asked of them.

use std::collections::BTreeMap;

use model::command::{Operation, ServiceAsk};
use model::id::{FailoverDomainName, MemberName, ServiceName};
use model::recovery::{RecoveryPolicy, RestartLimit};
use model::service::{
    MAX_MEMBERS, MemberKind, MemberSpec, MemberWeight, Script, ScriptProgram, ServicePolicy,
    ServiceSpec, StatusCheck, Tolerance,
};
use uuid::Uuid;

use crate::convert::control::{depend, freeze_span, migration_mode, node, vm, why};
use crate::convert::view::write_dependency;
use crate::convert::{ConvertError, name};
use crate::v1;

/// The defaults of a start and a stop where an agent's own are not known.
const ACTION_TIMEOUT_MS: u64 = 60_000;
/// An action that takes longer than a day will not end.
const TIMEOUTS_MS: std::ops::RangeInclusive<u64> = 1_000..=86_400_000;
/// More than once a second is a load and no check.
const INTERVALS_MS: std::ops::RangeInclusive<u64> = 1_000..=86_400_000;
/// An agent's documentation has a few dozen parameters at the most.
const MAX_PARAMETERS: usize = 200;
/// All parameters of a service: they go into one log entry.
const MAX_PARAMETER_BYTES: usize = 50_000;
const MAX_CHECKS: usize = 10;
/// A path that is longer is no path.
const MAX_PATH: usize = 1_000;

/// Reads a service's name.
pub fn service(text: &str) -> Result<ServiceName, ConvertError> {
    name("service", ServiceName::new(text))
}

fn member_name(text: &str) -> Result<MemberName, ConvertError> {
    name("member", MemberName::new(text))
}

/// Reads a service's spec; `fresh` is the id of one that is new.
pub fn spec(message: v1::ServiceSpec, fresh: Uuid) -> Result<ServiceSpec, ConvertError> {
    if message.members.len() > MAX_MEMBERS {
        return Err(ConvertError::new("members", format!("more than {MAX_MEMBERS}")));
    }
    let members =
        message.members.into_iter().map(member).collect::<Result<Vec<MemberSpec>, _>>()?;
    let bytes: usize = members
        .iter()
        .filter_map(|member| match &member.kind {
            MemberKind::Script(script) => Some(script),
            MemberKind::Vm(_) => None,
        })
        .flat_map(|script| script.parameters.iter())
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if bytes > MAX_PARAMETER_BYTES {
        let reason = format!("{bytes} bytes in all, and {MAX_PARAMETER_BYTES} are the most");
        return Err(ConvertError::new("parameters", reason));
    }
    Ok(ServiceSpec {
        name: service(&message.name)?,
        id: fresh,
        members,
        policy: message.policy.map(policy).transpose()?.unwrap_or_default(),
    })
}

fn policy(message: v1::ServicePolicy) -> Result<ServicePolicy, ConvertError> {
    let recovery = match message.recovery.as_str() {
        "" => RecoveryPolicy::default(),
        text => RecoveryPolicy::parse(text).ok_or_else(|| {
            let reason = format!("{text:?} is none of restart, relocate, disable, restart-disable");
            ConvertError::new("recovery", reason)
        })?,
    };
    let domain = message.failover_domain.as_deref().map(FailoverDomainName::new).transpose();
    Ok(ServicePolicy {
        recovery,
        restart_limit: RestartLimit {
            max_restarts: message.max_restarts,
            expire_ms: message.restart_expire_ms,
        },
        failover_domain: name("failover_domain", domain)?,
        migrate_together: message.migrate_together,
        autostart: message.autostart.unwrap_or(true),
        depend: depend(message.depend)?,
        exclusive: message.exclusive,
        start_priority: message.start_priority,
    })
}

fn member(message: v1::MemberSpec) -> Result<MemberSpec, ConvertError> {
    use v1::member_spec::Kind;
    let kind = match message.kind {
        Some(Kind::Vm(name)) => MemberKind::Vm(vm(&name)?),
        Some(Kind::Script(it)) => MemberKind::Script(script(it)?),
        None => {
            let reason = format!("{:?} is neither a VM nor a script", message.name);
            return Err(ConvertError::new("member", reason));
        }
    };
    let name = match (&kind, message.name.as_str()) {
        (MemberKind::Vm(vm), "") => vm.to_string(),
        (_, name) => name.to_owned(),
    };
    let weight = match message.weight.as_str() {
        "" => MemberWeight::default(),
        text => MemberWeight::parse(text).ok_or_else(|| {
            let reason = format!("{text:?} is none of critical, independent, non-critical");
            ConvertError::new("weight", reason)
        })?,
    };
    Ok(MemberSpec {
        name: member_name(&name)?,
        kind,
        under: message.under.as_deref().map(member_name).transpose()?,
        weight,
        restart_limit: RestartLimit {
            max_restarts: message.max_restarts,
            expire_ms: message.restart_expire_ms,
        },
        tolerance: Tolerance {
            max_failures: message.max_failures,
            expire_ms: message.failure_expire_ms,
        },
    })
}

/// Reads a script. What is run is checked here, once, for server and agent alike: a path or a unit's name, and never
/// anything that a shell would read.
pub fn script(message: v1::Script) -> Result<Script, ConvertError> {
    use v1::script::Program;
    let program = match message.program {
        Some(Program::Ocf(text)) if text.starts_with('/') => ScriptProgram::Ocf(path(text)?),
        Some(Program::Ocf(text)) => ScriptProgram::Ocf(ocf_name(text)?),
        Some(Program::Lsb(text)) => ScriptProgram::Lsb(path(text)?),
        Some(Program::Systemd(text)) => ScriptProgram::Systemd(unit(text)?),
        None => return Err(ConvertError::new("script", "it names no program")),
    };
    if !message.parameters.is_empty() && !matches!(program, ScriptProgram::Ocf(_)) {
        return Err(ConvertError::new("parameters", "only an OCF agent takes parameters"));
    }
    if message.parameters.len() > MAX_PARAMETERS {
        return Err(ConvertError::new("parameters", format!("more than {MAX_PARAMETERS}")));
    }
    for (key, value) in &message.parameters {
        let plain = !key.is_empty()
            && key.chars().all(|it| it.is_ascii_alphanumeric() || it == '_' || it == '-');
        if !plain || value.contains('\0') {
            let reason = format!("{key:?} or its value cannot be an environment variable");
            return Err(ConvertError::new("parameters", reason));
        }
    }
    if message.checks.len() > MAX_CHECKS {
        return Err(ConvertError::new("checks", format!("more than {MAX_CHECKS}")));
    }
    Ok(Script {
        program,
        parameters: message.parameters.into_iter().collect::<BTreeMap<_, _>>(),
        start_timeout_ms: timeout("start_timeout", message.start_timeout_ms, ACTION_TIMEOUT_MS)?,
        stop_timeout_ms: timeout("stop_timeout", message.stop_timeout_ms, ACTION_TIMEOUT_MS)?,
        checks: message.checks.into_iter().map(check).collect::<Result<_, _>>()?,
    })
}

fn check(message: v1::StatusCheck) -> Result<StatusCheck, ConvertError> {
    let usual = StatusCheck::default();
    let interval_ms = match message.interval_ms {
        0 => usual.interval_ms,
        given if INTERVALS_MS.contains(&given) => given,
        given => {
            let reason = format!("{given} ms is not between 1 s and a day");
            return Err(ConvertError::new("interval", reason));
        }
    };
    Ok(StatusCheck {
        depth: message.depth,
        interval_ms,
        timeout_ms: timeout("timeout", message.timeout_ms, usual.timeout_ms)?,
    })
}

fn timeout(field: &'static str, given: u64, usual: u64) -> Result<u64, ConvertError> {
    match given {
        0 => Ok(usual),
        given if TIMEOUTS_MS.contains(&given) => Ok(given),
        given => Err(ConvertError::new(field, format!("{given} ms is not between 1 s and a day"))),
    }
}

fn path(text: String) -> Result<String, ConvertError> {
    let climbs = text.split('/').any(|part| part == "..");
    if !text.starts_with('/') || climbs || text.len() > MAX_PATH || text.contains(char::is_control)
    {
        let reason = format!("{text:?} is not an absolute path without ..");
        return Err(ConvertError::new("program", reason));
    }
    Ok(text)
}

/// `provider:type`, as the OCF standard has it; `ocf:provider:type` is taken too.
fn ocf_name(text: String) -> Result<String, ConvertError> {
    let short = text.strip_prefix("ocf:").unwrap_or(&text);
    let plain = |part: &str| {
        let fits = |it: char| it.is_ascii_alphanumeric() || matches!(it, '-' | '_' | '.' | '+');
        !part.is_empty() && !part.starts_with('.') && part.chars().all(fits)
    };
    match short.split_once(':') {
        Some((provider, kind)) if plain(provider) && plain(kind) => Ok(short.to_owned()),
        _ => {
            let reason = format!(
                "{text:?} is neither an absolute path nor provider:type, such as heartbeat:IPaddr2"
            );
            Err(ConvertError::new("program", reason))
        }
    }
}

fn unit(text: String) -> Result<String, ConvertError> {
    let fits =
        |it: char| it.is_ascii_alphanumeric() || matches!(it, '-' | '_' | '.' | '@' | ':' | '\\');
    if text.is_empty() || text.len() > 255 || text.starts_with('-') || !text.chars().all(fits) {
        let reason = format!("{text:?} is not a unit's name, such as httpd.service");
        return Err(ConvertError::new("program", reason));
    }
    Ok(text)
}

/// Reads what is asked of a service.
pub fn ask(message: v1::AskService) -> Result<Operation, ConvertError> {
    use v1::ask_service::Ask;
    let asked = message.ask.ok_or_else(|| ConvertError::new("ask", "it is not given"))?;
    let ask = match asked {
        Ask::Enable(it) => ServiceAsk::Enable { on: it.on.as_deref().map(node).transpose()? },
        Ask::Disable(_) => ServiceAsk::Disable,
        Ask::Stop(_) => ServiceAsk::Stop,
        Ask::Restart(_) => ServiceAsk::Restart,
        Ask::Relocate(it) => ServiceAsk::Relocate { to: it.to.as_deref().map(node).transpose()? },
        Ask::Migrate(it) => ServiceAsk::Migrate {
            to: node(&it.to)?,
            mode: it.mode.as_deref().map(migration_mode).transpose()?,
        },
        Ask::Cancel(_) => ServiceAsk::Cancel,
        Ask::Freeze(it) => ServiceAsk::Freeze {
            why: why(it.why)?,
            for_ms: it.for_ms.map(freeze_span).transpose()?,
        },
        Ask::Unfreeze(_) => ServiceAsk::Unfreeze,
        Ask::Convalesce(_) => ServiceAsk::Convalesce,
    };
    Ok(Operation::AskService { service: service(&message.service)?, ask })
}

/// A spec as it goes over the wire.
pub fn write_spec(spec: &ServiceSpec) -> v1::ServiceSpec {
    v1::ServiceSpec {
        name: spec.name.to_string(),
        members: spec.members.iter().map(write_member).collect(),
        policy: Some(write_policy(&spec.policy)),
    }
}

/// How a service is treated, as it goes over the wire.
pub fn write_policy(policy: &ServicePolicy) -> v1::ServicePolicy {
    v1::ServicePolicy {
        recovery: policy.recovery.as_str().into(),
        max_restarts: policy.restart_limit.max_restarts,
        restart_expire_ms: policy.restart_limit.expire_ms,
        failover_domain: policy.failover_domain.as_ref().map(ToString::to_string),
        migrate_together: policy.migrate_together,
        autostart: Some(policy.autostart),
        depend: policy.depend.iter().map(write_dependency).collect(),
        exclusive: policy.exclusive,
        start_priority: policy.start_priority,
    }
}

fn write_member(spec: &MemberSpec) -> v1::MemberSpec {
    use v1::member_spec::Kind;
    v1::MemberSpec {
        name: spec.name.to_string(),
        kind: Some(match &spec.kind {
            MemberKind::Vm(vm) => Kind::Vm(vm.to_string()),
            MemberKind::Script(script) => Kind::Script(write_script(script)),
        }),
        under: spec.under.as_ref().map(ToString::to_string),
        weight: spec.weight.as_str().into(),
        max_restarts: spec.restart_limit.max_restarts,
        restart_expire_ms: spec.restart_limit.expire_ms,
        max_failures: spec.tolerance.max_failures,
        failure_expire_ms: spec.tolerance.expire_ms,
    }
}

/// A script as it goes over the wire.
pub fn write_script(script: &Script) -> v1::Script {
    use v1::script::Program;
    v1::Script {
        program: Some(match &script.program {
            ScriptProgram::Ocf(text) => Program::Ocf(text.clone()),
            ScriptProgram::Lsb(text) => Program::Lsb(text.clone()),
            ScriptProgram::Systemd(text) => Program::Systemd(text.clone()),
        }),
        parameters: script.parameters.clone().into_iter().collect(),
        start_timeout_ms: script.start_timeout_ms,
        stop_timeout_ms: script.stop_timeout_ms,
        checks: script
            .checks
            .iter()
            .map(|check| v1::StatusCheck {
                depth: check.depth,
                interval_ms: check.interval_ms,
                timeout_ms: check.timeout_ms,
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script_of(program: v1::script::Program) -> v1::Script {
        v1::Script { program: Some(program), ..v1::Script::default() }
    }

    #[test]
    fn a_program_is_a_plain_path_an_agents_name_or_a_unit() {
        use v1::script::Program::{Lsb, Ocf, Systemd};
        for good in [
            Ocf("heartbeat:IPaddr2".into()),
            Ocf("ocf:heartbeat:IPaddr2".into()),
            Ocf("/usr/share/cluster/ip.sh".into()),
            Lsb("/etc/init.d/httpd".into()),
            Systemd("getty@tty1.service".into()),
        ] {
            script(script_of(good)).unwrap();
        }
        for bad in [
            Ocf("IPaddr2".into()),
            Ocf("../x:y".into()),
            Lsb("httpd".into()),
            Lsb("/etc/../bin/sh".into()),
            Lsb("/etc/init.d/x\ny".into()),
            Systemd("-H".into()),
            Systemd("a b".into()),
            Systemd(String::new()),
        ] {
            let text = format!("{bad:?}");
            assert_eq!(script(script_of(bad)).unwrap_err().field, "program", "{text}");
        }
    }

    #[test]
    fn parameters_are_environment_variables_of_ocf_agents() {
        let with = |key: &str, value: &str| v1::Script {
            parameters: [(key.to_owned(), value.to_owned())].into(),
            ..script_of(v1::script::Program::Ocf("a:b".into()))
        };
        script(with("ip", "10.0.0.1; rm -rf /")).unwrap();
        assert!(script(with("a=b", "x")).is_err());
        assert!(script(with("a", "x\0y")).is_err());
        let lsb = v1::Script {
            parameters: [("a".to_owned(), "b".to_owned())].into(),
            ..script_of(v1::script::Program::Lsb("/x".into()))
        };
        assert_eq!(script(lsb).unwrap_err().field, "parameters");
    }

    #[test]
    fn a_spec_goes_out_and_comes_in_unharmed() {
        let message = v1::ServiceSpec {
            name: "web".into(),
            members: vec![
                v1::MemberSpec {
                    kind: Some(v1::member_spec::Kind::Vm("v1".into())),
                    ..v1::MemberSpec::default()
                },
                v1::MemberSpec {
                    name: "ip".into(),
                    kind: Some(v1::member_spec::Kind::Script(v1::Script {
                        checks: vec![v1::StatusCheck::default()],
                        ..script_of(v1::script::Program::Ocf("a:b".into()))
                    })),
                    under: Some("v1".into()),
                    weight: "non-critical".into(),
                    max_restarts: 2,
                    restart_expire_ms: 3,
                    max_failures: 4,
                    failure_expire_ms: 5,
                },
            ],
            policy: None,
        };
        let read = spec(message, Uuid::from_u128(9)).unwrap();
        assert_eq!(read.members[0].name.as_str(), "v1");
        assert_eq!(spec(write_spec(&read), Uuid::from_u128(9)).unwrap(), read);
    }
}
