//! What operators ask.

use std::collections::BTreeMap;
use std::time::Duration;

use model::command::Operation;
use model::dependency::{DependMode, Dependee, Dependency};
use model::domain_xml;
use model::failover_domain::{Failback, FailoverDomain, Window};
use model::id::{FailoverDomainName, NodeName, ServiceName, VmName};
use model::node::{AfterFence, FenceDevice};
use model::recovery::{FailureTolerance, RecoveryPolicy, RestartLimit};
use model::settings::Settings;
use model::vm::{Migratable, MigrationMode, OnConflict, OnIsolation, VmPolicy, VmSpec};
use uuid::Uuid;

use crate::convert::{ConvertError, fleet, name, placing};
use crate::v1;

/// A guest that takes longer than a day to shut down will not.
const MAX_STOP_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);
/// What is frozen for longer is forgotten, and can be frozen without an end.
const MAX_FREEZE_MS: u64 = 366 * 86_400_000;
/// More than a person keeps in view.
const MAX_DEPENDENCIES: usize = 32;
/// A sentence, not a page.
const MAX_WHY: usize = 500;
/// The time-out of one call of a fence agent: the standard's own default is of this order.
const FENCE_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1_000..=600_000;

/// Reads an operation. `fresh` is the UUID given to a domain that has none; it must be the same when the same request
/// is read again, so that a repeated request stays the same.
pub fn operation(
    operation: v1::submit_request::Operation,
    fresh: Uuid,
) -> Result<Operation, ConvertError> {
    use v1::submit_request::Operation as Asked;
    Ok(match operation {
        Asked::AddVm(add) => Operation::AddVm(Box::new(vm_spec(add, fresh)?)),
        Asked::EditVm(edit) => Operation::EditVm(Box::new(vm_spec(edit, fresh)?)),
        Asked::ForgetVm(name) => Operation::ForgetVm(vm(&name)?),
        Asked::Enable(enable) => Operation::Enable {
            vm: vm(&enable.vm)?,
            on: enable.on.as_deref().map(node).transpose()?,
        },
        Asked::Disable(name) => Operation::Disable(vm(&name)?),
        Asked::Stop(stop) => Operation::Stop { vm: vm(&stop.vm)?, now: stop.now },
        Asked::Restart(name) => Operation::Restart(vm(&name)?),
        Asked::Relocate(relocate) => Operation::Relocate {
            vm: vm(&relocate.vm)?,
            to: relocate.to.as_deref().map(node).transpose()?,
        },
        Asked::Migrate(migrate) => Operation::Migrate {
            vm: vm(&migrate.vm)?,
            to: node(&migrate.to)?,
            mode: migrate.mode.as_deref().map(migration_mode).transpose()?,
        },
        Asked::Cancel(name) => Operation::Cancel(vm(&name)?),
        Asked::PutFailoverDomain(domain) => Operation::PutFailoverDomain(failover_domain(domain)?),
        Asked::RemoveFailoverDomain(name) => {
            Operation::RemoveFailoverDomain(failover_domain_name(&name)?)
        }
        Asked::SetFenceDevices(set) => set_fence_devices(set)?,
        Asked::RemoveNode(name) => Operation::RemoveNode(node(&name)?),
        Asked::ChangeSettings(asked) => Operation::ChangeSettings(settings(&asked)?),
        Asked::ConfirmOff(act) => {
            Operation::ConfirmOff { node: node(&act.node)?, why: why(act.why)? }
        }
        Asked::FenceNode(act) => {
            Operation::FenceNode { node: node(&act.node)?, why: why(act.why)? }
        }
        Asked::Resolve(resolve) => {
            Operation::Resolve { vm: vm(&resolve.vm)?, keep: node(&resolve.keep)? }
        }
        Asked::ReleaseMassLoss(release) => Operation::ReleaseMassLoss {
            nodes: release.nodes.iter().map(|name| node(name)).collect::<Result<_, _>>()?,
        },
        Asked::SetNodePolicy(set) => Operation::SetNodePolicy {
            node: node(&set.node)?,
            vouched: set.vouched,
            after_fence: set.after_fence.as_deref().map(after_fence).transpose()?,
        },
        Asked::Freeze(freeze) => Operation::Freeze {
            vm: vm(&freeze.vm)?,
            why: why(freeze.why)?,
            for_ms: freeze.for_ms.map(freeze_span).transpose()?,
        },
        Asked::Unfreeze(name) => Operation::Unfreeze(vm(&name)?),
        Asked::Lock(text) => Operation::Lock { why: why(text)? },
        Asked::Unlock(_) => Operation::Unlock,
        Asked::Convalesce(name) => Operation::Convalesce(vm(&name)?),
        Asked::AddService(spec) => {
            Operation::AddService(Box::new(super::service::spec(spec, fresh)?))
        }
        Asked::EditService(spec) => {
            Operation::EditService(Box::new(super::service::spec(spec, fresh)?))
        }
        Asked::ForgetService(name) => Operation::ForgetService(super::service::service(&name)?),
        Asked::AskService(ask) => super::service::ask(ask)?,
        Asked::ApplyFleet(apply) => fleet::changes(apply, fresh)?,
        Asked::PutPlacementRule(rule) => {
            Operation::PutPlacementRule(placing::placement_rule(rule)?)
        }
        Asked::RemovePlacementRule(name) => {
            Operation::RemovePlacementRule(placing::placement_rule_name(&name)?)
        }
        Asked::SetMaintenance(set) => Operation::SetMaintenance {
            node: node(&set.node)?,
            on: set.on,
            until_boot: set.until_boot,
        },
        Asked::PauseCluster(pause) => placing::pause(pause)?,
        Asked::UnpauseCluster(_) => Operation::UnpauseCluster,
        Asked::Ignore(name) => Operation::Ignore(vm(&name)?),
        Asked::Claim(claim) => {
            Operation::Claim { vm: vm(&claim.vm)?, reason: one_line("reason", claim.reason)? }
        }
        Asked::Unclaim(name) => Operation::Unclaim(vm(&name)?),
    })
}

pub(super) fn freeze_span(milliseconds: u64) -> Result<u64, ConvertError> {
    if milliseconds == 0 || milliseconds > MAX_FREEZE_MS {
        return Err(ConvertError::new("for_ms", "it has to be above 0 and at most a year"));
    }
    Ok(milliseconds)
}

/// Why an operator does it: one line for the record.
pub(super) fn why(text: String) -> Result<String, ConvertError> {
    one_line("why", text)
}

/// One line for the record.
pub(super) fn one_line(field: &'static str, text: String) -> Result<String, ConvertError> {
    let text = text.trim();
    if text.is_empty() || text.len() > MAX_WHY || text.contains(char::is_control) {
        let reason = format!("it has to be one line of 1 to {MAX_WHY} bytes");
        return Err(ConvertError::new(field, reason));
    }
    Ok(text.to_owned())
}

fn after_fence(text: &str) -> Result<AfterFence, ConvertError> {
    if text == "stay-off" {
        return Ok(AfterFence::StayOff);
    }
    let per_hour = text.strip_prefix("power-on/").and_then(|number| number.parse().ok());
    per_hour.map(|per_hour| AfterFence::PowerOn { per_hour }).ok_or_else(|| {
        let reason = format!("{text:?} is neither stay-off nor power-on/N, N times an hour");
        ConvertError::new("after_fence", reason)
    })
}

/// What holds for the whole cluster, from the wire; it is checked where it is applied.
pub fn settings(asked: &v1::Settings) -> Result<Settings, ConvertError> {
    let settings = Settings {
        heartbeat_ms: asked.heartbeat_ms,
        suspect_after_ms: asked.suspect_after_ms,
        lost_after_ms: asked.lost_after_ms,
        lease_ttl_ms: asked.lease_ttl_ms,
        answer_timeout_ms: asked.answer_timeout_ms,
        self_fence_ms: asked.self_fence_ms,
        drift_percent: asked.drift_percent,
        conflict_grace_ms: asked.conflict_grace_ms,
        fence_retry_ms: asked.fence_retry_ms,
        isolation_hold_ms: asked.isolation_hold_ms,
        mass_loss_percent: asked.mass_loss_percent,
        fence_probe_ms: asked.fence_probe_ms,
        election_max_ms: asked.election_max_ms,
        ..Settings::default()
    };
    placing::settings(asked, settings)
}

/// The operation, to be refused if the VM's record is no longer at the revision that is expected, if one is.
pub fn guarded(
    operation: Operation,
    expected_revision: Option<u64>,
) -> Result<Operation, ConvertError> {
    let Some(changed) = expected_revision else { return Ok(operation) };
    if operation.vm().is_none() && operation.service().is_none() {
        let reason = "only a VM or service has a revision that can be expected; leave it out";
        return Err(ConvertError::new("expected_revision", reason));
    }
    Ok(Operation::IfUnchanged { changed, operation: Box::new(operation) })
}

/// Reads a VM's name.
pub fn vm(text: &str) -> Result<VmName, ConvertError> {
    name("vm", VmName::new(text))
}

/// Reads a node's name.
pub fn node(text: &str) -> Result<NodeName, ConvertError> {
    name("node", NodeName::new(text))
}

fn failover_domain_name(text: &str) -> Result<FailoverDomainName, ConvertError> {
    name("failover_domain", FailoverDomainName::new(text))
}

pub(super) fn migration_mode(text: &str) -> Result<MigrationMode, ConvertError> {
    match text {
        "live" => Ok(MigrationMode::Live),
        "pause" => Ok(MigrationMode::Pause),
        other => {
            Err(ConvertError::new("migration", format!("{other:?} is neither live nor pause")))
        }
    }
}

fn vm_spec(add: v1::AddVm, fresh: Uuid) -> Result<VmSpec, ConvertError> {
    let domain =
        domain_xml::parse(&add.xml).map_err(|error| ConvertError::new("xml", error.to_string()))?;
    let (uuid, xml) = match domain.uuid {
        Some(uuid) => (uuid, add.xml),
        None => (fresh, domain.xml_with_uuid(&add.xml, fresh)),
    };
    Ok(VmSpec {
        name: domain.name,
        uuid,
        xml: xml.into(),
        memory_mib: domain.memory_mib,
        vcpus: domain.vcpus,
        disks: domain.disks,
        host_ties: domain.host_ties,
        policy: add.policy.map(policy).transpose()?.unwrap_or_default(),
    })
}

/// Reads how a VM is treated.
pub fn policy(policy: v1::VmPolicy) -> Result<VmPolicy, ConvertError> {
    let recovery = RecoveryPolicy::parse(&policy.recovery).ok_or_else(|| {
        let reason =
            format!("{:?} is none of restart, relocate, disable, restart-disable", policy.recovery);
        ConvertError::new("recovery", reason)
    })?;
    if Duration::from_millis(policy.stop_timeout_ms) > MAX_STOP_TIMEOUT {
        return Err(ConvertError::new("stop_timeout", "it is longer than a day"));
    }
    let placing = policy.placing.as_ref().map(placing::placing).transpose()?;
    let (start_limit, automatic_moves) = placing.unwrap_or_default();
    Ok(VmPolicy {
        start_limit,
        automatic_moves,
        recovery,
        restart_limit: RestartLimit {
            max_restarts: policy.max_restarts,
            expire_ms: policy.restart_expire_ms,
        },
        failover_domain: policy.failover_domain.as_deref().map(failover_domain_name).transpose()?,
        migration: migration_mode(&policy.migration)?,
        migratable: word("migratable", &policy.migratable, "auto, yes, no", Migratable::parse)?,
        stop_timeout_ms: policy.stop_timeout_ms,
        on_isolation: word(
            "on_isolation",
            &policy.on_isolation,
            "suspend, destroy, continue",
            OnIsolation::parse,
        )?,
        on_conflict: word(
            "on_conflict",
            &policy.on_conflict,
            "wait, keep-owner",
            OnConflict::parse,
        )?,
        handling: policy.handling.map(super::handling::read).transpose()?.unwrap_or_default(),
        autostart: policy.autostart.unwrap_or(true),
        exclusive: policy.exclusive,
        depend: depend(policy.depend)?,
        start_priority: policy.start_priority,
        failure_tolerance: FailureTolerance {
            max_failures: policy.max_failures,
            expire_ms: policy.failure_expire_ms,
        },
    })
}

pub(super) fn depend(asked: Vec<v1::Dependency>) -> Result<Vec<Dependency>, ConvertError> {
    if asked.len() > MAX_DEPENDENCIES {
        let reason = format!("{} are more than {MAX_DEPENDENCIES}", asked.len());
        return Err(ConvertError::new("depend", reason));
    }
    let mut depend: Vec<Dependency> = Vec::new();
    for dependency in asked {
        let on = dependee(&dependency.on)?;
        if depend.iter().any(|earlier| earlier.on == on) {
            return Err(ConvertError::new("depend", format!("{on} is named twice")));
        }
        let mode = word("depend_mode", &dependency.mode, "hard, soft", DependMode::parse)?;
        depend.push(Dependency { on, mode });
    }
    Ok(depend)
}

/// `service:NAME`, `vm:NAME`, or a VM's bare name.
fn dependee(text: &str) -> Result<Dependee, ConvertError> {
    if let Some(name) = text.strip_prefix("service:") {
        return Ok(Dependee::Service(self::name("depend", ServiceName::new(name))?));
    }
    Ok(Dependee::Vm(vm(text.strip_prefix("vm:").unwrap_or(text))?))
}

/// One of a few words; what is not said is the default.
pub(super) fn word<T: Default>(
    field: &'static str,
    text: &str,
    words: &str,
    parse: fn(&str) -> Option<T>,
) -> Result<T, ConvertError> {
    if text.is_empty() {
        return Ok(T::default());
    }
    parse(text).ok_or_else(|| ConvertError::new(field, format!("{text:?} is none of {words}")))
}

/// Reads a failover domain.
pub fn failover_domain(domain: v1::FailoverDomain) -> Result<FailoverDomain, ConvertError> {
    let mut nodes = BTreeMap::new();
    for (text, priority) in domain.nodes {
        let priority = u8::try_from(priority).map_err(|_| {
            ConvertError::new("priority", format!("{priority} is not between 1 and 100"))
        })?;
        nodes.insert(node(&text)?, priority);
    }
    Ok(FailoverDomain {
        name: failover_domain_name(&domain.name)?,
        nodes,
        ordered: domain.ordered,
        restricted: domain.restricted,
        nofailback: domain.nofailback,
        failback: failback(domain.failback.unwrap_or_default())?,
    })
}

fn failback(asked: v1::Failback) -> Result<Failback, ConvertError> {
    let minute = |minute: u32| {
        let reason = || format!("minute {minute} is not one of a day");
        u16::try_from(minute).map_err(|_| ConvertError::new("window", reason()))
    };
    let window = |window: v1::Window| -> Result<Window, ConvertError> {
        Ok(Window { from: minute(window.from)?, to: minute(window.to)? })
    };
    Ok(Failback {
        delay_ms: asked.delay_ms,
        at_once: asked.at_once,
        per_hour: asked.per_hour,
        window: asked.window.map(window).transpose()?,
        relocate: asked.relocate,
    })
}

fn set_fence_devices(set: v1::SetFenceDevices) -> Result<Operation, ConvertError> {
    let node = node(&set.node)?;
    let mut devices: Vec<FenceDevice> =
        set.devices.into_iter().map(fence_device).collect::<Result<_, _>>()?;
    if !set.add {
        return Ok(Operation::SetFenceDevices { node, devices });
    }
    match (devices.pop(), devices.is_empty()) {
        (Some(device), true) => Ok(Operation::AddFenceDevice { node, device }),
        _ => Err(ConvertError::new("devices", "one is added at a time")),
    }
}

/// A fence device as it goes over the wire, with its secrets.
pub fn fence_device_message(device: &FenceDevice) -> v1::FenceDevice {
    v1::FenceDevice {
        agent: device.agent.clone(),
        options: device.options.clone().into_iter().collect(),
        timeout_ms: device.timeout_ms,
        level: u32::from(device.level),
        kept: Vec::new(),
    }
}

/// Reads a fence device, and refuses one that could be anything else.
pub fn fence_device(device: v1::FenceDevice) -> Result<FenceDevice, ConvertError> {
    // The agent's name becomes a program that the leader runs: no path, nothing but the standard's names.
    let plain =
        |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '-');
    if !device.agent.starts_with("fence_") || !device.agent.chars().all(plain) {
        let reason =
            format!("{:?} is not the name of a fence agent, such as fence_ipmilan", device.agent);
        return Err(ConvertError::new("agent", reason));
    }
    if let Some(why) = model::node::proves_nothing(&device.agent) {
        let reason = format!(
            "{} proves no death: {why}; give a device that switches the power off, or a watchdog, or say `berthctl node confirm-off`",
            device.agent
        );
        return Err(ConvertError::new("agent", reason));
    }
    for (key, value) in &device.options {
        if key.is_empty() || !key.chars().all(plain) || value.contains(['\n', '\r', '\0']) {
            return Err(ConvertError::new(
                "options",
                format!("option {key:?} or its value is not one plain line"),
            ));
        }
        if key == "action" {
            return Err(ConvertError::new("options", "the action is Berth's to choose"));
        }
    }
    if let Some(key) = device.kept.first() {
        let reason = format!("the value of {key:?} is to be kept, and nothing says which");
        return Err(ConvertError::new("kept", reason));
    }
    if !FENCE_TIMEOUT_MS.contains(&device.timeout_ms) {
        return Err(ConvertError::new(
            "timeout",
            format!("{} ms is not between 1 s and 600 s", device.timeout_ms),
        ));
    }
    Ok(FenceDevice {
        agent: device.agent,
        options: device.options.into_iter().collect(),
        timeout_ms: device.timeout_ms,
        level: u8::try_from(device.level)
            .map_err(|_| ConvertError::new("level", "it is above 255"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(agent: &str, key: &str, value: &str) -> v1::FenceDevice {
        v1::FenceDevice {
            agent: agent.into(),
            options: [(key.to_owned(), value.to_owned())].into(),
            timeout_ms: 20_000,
            level: 0,
            kept: Vec::new(),
        }
    }

    #[test]
    fn a_fence_agent_is_a_plain_name_and_its_options_are_plain_lines() {
        assert!(fence_device(device("fence_ipmilan", "ip", "10.0.0.1")).is_ok());
        for (agent, key, value) in [
            ("/bin/sh", "ip", "x"),
            ("fence_../../bin/sh", "ip", "x"),
            ("fence_ipmilan", "ip", "x\naction=on"),
            ("fence_ipmilan", "action", "on"),
            ("fence_ipmilan", "", "x"),
            ("fence_scsi", "devices", "/dev/sda"),
            ("fence_dummy", "ip", "x"),
        ] {
            assert!(fence_device(device(agent, key, value)).is_err(), "{agent} {key}={value}");
        }
    }

    #[test]
    fn a_domain_without_a_uuid_gets_the_fresh_one_and_keeps_it_in_its_xml() {
        let xml = "<domain type='qemu'><name>v</name><memory>1024</memory></domain>";
        let fresh = Uuid::from_u128(5);
        let spec = vm_spec(v1::AddVm { xml: xml.into(), policy: None }, fresh).unwrap();
        assert_eq!(spec.uuid, fresh);
        assert!(spec.xml.contains(&fresh.to_string()));
    }

    #[test]
    fn a_dependency_names_a_vm_once() {
        let on = |names: &[&str]| {
            names
                .iter()
                .map(|on| v1::Dependency { on: (*on).into(), mode: String::new() })
                .collect()
        };
        let asked: Vec<v1::Dependency> = on(&["vm:a", "b"]);
        let read = depend(asked).unwrap();
        assert_eq!(read.iter().map(|it| it.on.to_string()).collect::<Vec<_>>(), ["vm:a", "vm:b"]);
        assert!(read.iter().all(|it| it.mode == DependMode::Hard));
        assert!(depend(on(&["vm:a", "a"])).is_err());
        assert!(depend(on(&["vm:"])).is_err());
    }

    #[test]
    fn a_revision_can_be_expected_of_a_vm_only() {
        let disable = Operation::Disable(VmName::new("v").unwrap());
        assert_eq!(guarded(disable.clone(), None).unwrap(), disable);
        let operation = guarded(disable, Some(7)).unwrap();
        assert!(matches!(operation, Operation::IfUnchanged { changed: 7, .. }));
        let other = Operation::RemoveNode(NodeName::new("n").unwrap());
        assert_eq!(guarded(other, Some(7)).unwrap_err().field, "expected_revision");
    }
}
