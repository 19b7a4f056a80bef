//! A service as it is written in YAML: for `berthctl service add`, and under `services:` of the declarative file.
//!
//! ```yaml
//! name: web
//! policy: {recovery: relocate, failover_domain: web}
//! members:                       # start in this order, stop in reverse, on one node
//! - {name: address, ocf: "heartbeat:IPaddr2", parameters: {ip: 10.0.0.80}, checks: [{interval_ms: 10000}]}
//! - vm: web1
//! - {name: log, lsb: /etc/init.d/weblog, weight: non-critical, under: web1}
//! ```

use std::collections::BTreeMap;

use proto::v1::member_spec::Kind;
use proto::v1::script::Program;
use proto::v1::{self};
use serde::{Deserialize, Serialize};

/// A service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceFile {
    /// Its name; under `services:` of the declarative file the key is its name.
    #[serde(default)]
    pub name: String,
    /// How it is treated.
    #[serde(default)]
    pub policy: PolicyFile,
    /// In the order of their start.
    pub members: Vec<MemberFile>,
}

/// How a service is treated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyFile {
    /// restart, relocate, disable, restart-disable.
    pub recovery: String,
    /// 0 = no limit.
    pub max_restarts: u32,
    /// 0 = never forgotten.
    pub restart_expire_ms: u64,
    /// Where it may run.
    pub failover_domain: Option<String>,
    /// Its VMs may be migrated, all together.
    pub migrate_together: bool,
    /// Started again by itself after the whole cluster was down, or was restored from a backup.
    pub autostart: bool,
    /// What has to be started before it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub depend: Vec<DependFile>,
    /// Alone on its node among VMs and services: 0 = no, else its priority; 1 takes the node of 2 where no other is free.
    pub exclusive: u32,
    /// 1 is started before 2, among VMs and services; 0 = after all that have a number.
    pub start_priority: u32,
}

/// A dependency.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DependFile {
    /// vm:NAME or service:NAME.
    pub on: String,
    /// hard, soft; empty = hard.
    #[serde(default)]
    pub mode: String,
}

impl Default for PolicyFile {
    fn default() -> Self {
        Self {
            recovery: "restart".into(),
            max_restarts: 0,
            restart_expire_ms: 0,
            failover_domain: None,
            migrate_together: false,
            autostart: true,
            depend: Vec::new(),
            exclusive: 0,
            start_priority: 0,
        }
    }
}

/// A member: one of `vm`, `ocf`, `lsb` and `systemd`, and how it is treated.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemberFile {
    /// Unique in the service; of a VM its own where it is left out.
    pub name: String,
    /// A VM under management.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
    /// An OCF agent: a path or provider:type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ocf: Option<String>,
    /// An init script: a path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsb: Option<String>,
    /// A systemd unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub systemd: Option<String>,
    /// An OCF agent's parameters.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
    /// The earlier member that it hangs below.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub under: Option<String>,
    /// critical, independent, non-critical.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub weight: String,
    /// Restarts alone; 0 = no limit.
    pub max_restarts: u32,
    /// 0 = never forgotten.
    pub restart_expire_ms: u64,
    /// Failed checks that are let pass within the window.
    pub max_failures: u32,
    /// The window.
    pub failure_expire_ms: u64,
    /// 0 = 60 s.
    pub start_timeout_ms: u64,
    /// 0 = 60 s.
    pub stop_timeout_ms: u64,
    /// How a script is checked; without any it is not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckFile>,
}

/// A check.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckFile {
    /// How deep it looks.
    pub depth: u32,
    /// 0 = 30 s.
    pub interval_ms: u64,
    /// 0 = 20 s.
    pub timeout_ms: u64,
}

/// Reads a file.
pub fn read(text: &str) -> Result<ServiceFile, String> {
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

impl ServiceFile {
    /// For the wire.
    pub fn spec(self) -> Result<v1::ServiceSpec, String> {
        let policy = v1::ServicePolicy {
            recovery: self.policy.recovery,
            max_restarts: self.policy.max_restarts,
            restart_expire_ms: self.policy.restart_expire_ms,
            failover_domain: self.policy.failover_domain,
            migrate_together: self.policy.migrate_together,
            autostart: Some(self.policy.autostart),
            depend: self
                .policy
                .depend
                .into_iter()
                .map(|it| v1::Dependency { on: it.on, mode: it.mode })
                .collect(),
            exclusive: self.policy.exclusive,
            start_priority: self.policy.start_priority,
        };
        let members = self.members.into_iter().map(member).collect::<Result<_, String>>()?;
        Ok(v1::ServiceSpec { name: self.name, members, policy: Some(policy) })
    }
}

fn member(file: MemberFile) -> Result<v1::MemberSpec, String> {
    let programs = [
        file.ocf.clone().map(Program::Ocf),
        file.lsb.clone().map(Program::Lsb),
        file.systemd.clone().map(Program::Systemd),
    ];
    let mut programs = programs.into_iter().flatten();
    let label = if file.name.is_empty() { "a member" } else { &file.name };
    let kind = match (file.vm.clone(), programs.next(), programs.next()) {
        (Some(vm), None, _) => {
            let scripted = !file.parameters.is_empty()
                || !file.checks.is_empty()
                || file.start_timeout_ms + file.stop_timeout_ms > 0;
            if scripted {
                return Err(format!(
                    "{label}: parameters, checks and time-outs are a script's; a VM's are set with `berthctl vm edit`"
                ));
            }
            Kind::Vm(vm)
        }
        (None, Some(program), None) => Kind::Script(v1::Script {
            program: Some(program),
            parameters: file.parameters.into_iter().collect(),
            start_timeout_ms: file.start_timeout_ms,
            stop_timeout_ms: file.stop_timeout_ms,
            checks: file
                .checks
                .iter()
                .map(|check| v1::StatusCheck {
                    depth: check.depth,
                    interval_ms: check.interval_ms,
                    timeout_ms: check.timeout_ms,
                })
                .collect(),
        }),
        _ => return Err(format!("{label}: it has to be one of vm, ocf, lsb and systemd")),
    };
    Ok(v1::MemberSpec {
        name: file.name,
        kind: Some(kind),
        under: file.under,
        weight: file.weight,
        max_restarts: file.max_restarts,
        restart_expire_ms: file.restart_expire_ms,
        max_failures: file.max_failures,
        failure_expire_ms: file.failure_expire_ms,
    })
}

impl From<&v1::ServiceSpec> for ServiceFile {
    fn from(spec: &v1::ServiceSpec) -> Self {
        let policy = spec.policy.clone().unwrap_or_default();
        Self {
            name: spec.name.clone(),
            policy: PolicyFile {
                recovery: policy.recovery,
                max_restarts: policy.max_restarts,
                restart_expire_ms: policy.restart_expire_ms,
                failover_domain: policy.failover_domain,
                migrate_together: policy.migrate_together,
                autostart: policy.autostart.unwrap_or(true),
                depend: policy
                    .depend
                    .into_iter()
                    .map(|it| DependFile { on: it.on, mode: it.mode })
                    .collect(),
                exclusive: policy.exclusive,
                start_priority: policy.start_priority,
            },
            members: spec.members.iter().map(MemberFile::from).collect(),
        }
    }
}

impl From<&v1::MemberSpec> for MemberFile {
    fn from(spec: &v1::MemberSpec) -> Self {
        let mut file = Self {
            name: spec.name.clone(),
            under: spec.under.clone(),
            weight: spec.weight.clone(),
            max_restarts: spec.max_restarts,
            restart_expire_ms: spec.restart_expire_ms,
            max_failures: spec.max_failures,
            failure_expire_ms: spec.failure_expire_ms,
            ..Self::default()
        };
        match &spec.kind {
            Some(Kind::Vm(vm)) => file.vm = Some(vm.clone()),
            Some(Kind::Script(script)) => {
                match script.program.clone() {
                    Some(Program::Ocf(text)) => file.ocf = Some(text),
                    Some(Program::Lsb(text)) => file.lsb = Some(text),
                    Some(Program::Systemd(text)) => file.systemd = Some(text),
                    None => {}
                }
                file.parameters = script.parameters.clone().into_iter().collect();
                file.start_timeout_ms = script.start_timeout_ms;
                file.stop_timeout_ms = script.stop_timeout_ms;
                file.checks = script
                    .checks
                    .iter()
                    .map(|check| CheckFile {
                        depth: check.depth,
                        interval_ms: check.interval_ms,
                        timeout_ms: check.timeout_ms,
                    })
                    .collect();
            }
            None => {}
        }
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "
name: web
policy: {recovery: relocate, autostart: false, start_priority: 2, exclusive: 1, depend: [{on: 'vm:db', mode: soft}]}
members:
- {name: address, ocf: 'heartbeat:IPaddr2', parameters: {ip: 10.0.0.80}, checks: [{interval_ms: 10000}]}
- vm: web1
- {name: log, lsb: /etc/init.d/weblog, weight: non-critical, under: web1}
";

    #[test]
    fn a_file_becomes_a_spec_and_back_the_same_file() {
        let file = read(WEB).unwrap();
        let spec = file.clone().spec().unwrap();
        assert_eq!(spec.members.len(), 3);
        assert_eq!(ServiceFile::from(&spec), file);
        proto::convert::service::spec(spec, uuid::Uuid::nil()).unwrap();
    }

    #[test]
    fn what_is_wrong_is_refused_with_the_member() {
        for (text, reason) in [
            ("name: a\nmembers: [{name: m}]", "m: it has to be one of"),
            ("name: a\nmembers: [{vm: v, lsb: /x}]", "a member: it has to be one of"),
            ("name: a\nmembers: [{vm: v, start_timeout_ms: 5}]", "are a script's"),
            ("name: a\nmembers: [{vm: v, colour: red}]", "colour"),
            ("name: a", "members"),
        ] {
            let error = read(text).and_then(ServiceFile::spec).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
