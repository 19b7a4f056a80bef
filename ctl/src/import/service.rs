//! `<service>`: its resources as members, in the order in which RGManager starts them.

use std::collections::BTreeMap;

use proto::v1::member_spec::Kind;
use proto::v1::script::Program;
use proto::v1::{MemberSpec, Script, ServicePolicy, ServiceSpec, StatusCheck};

use super::cluster::{primary, unique};
use super::vm::{dependency, exclusive};
use super::xml::Element;
use super::{Import, flag, number, required, span_ms};

/// Where RGManager's agents are on each host (package resource-agents).
const AGENTS: &str = "/usr/share/cluster";
/// `service.sh` starts what hangs directly below it in this order; what is not here comes after, as in the file.
const START_ORDER: [&str; 10] =
    ["lvm", "fs", "clusterfs", "netfs", "nfsexport", "nfsclient", "ip", "smb", "samba", "script"];

type Resources = BTreeMap<(String, String), Element>;

struct Building<'b> {
    service: &'b str,
    members: Vec<MemberSpec>,
    names: BTreeMap<String, usize>,
}

impl Import<'_> {
    pub(super) fn service(
        &mut self,
        element: &Element,
        resources: &Resources,
        seen: &mut BTreeMap<String, usize>,
        vms: &mut BTreeMap<String, usize>,
    ) -> Result<(), String> {
        let element = &self.whole(element, resources)?;
        let name = required(element, "name")?.to_owned();
        unique(seen, &name, element, "service")?;
        self.maps(element, format!("service {name}"));
        let mut policy = ServicePolicy { recovery: "restart".into(), ..ServicePolicy::default() };
        for (key, value) in element.attributes.iter().filter(|(_, value)| !value.is_empty()) {
            match key.as_str() {
                "name" => {}
                "domain" if self.fleet.failover_domains.iter().any(|domain| domain.name == *value) => {
                    policy.failover_domain = Some(value.clone());
                }
                "domain" => self.differs(element, format!("service {name}: there is no failover domain {value}; it runs anywhere, as with RGManager")),
                "recovery" => policy.recovery = value.clone(),
                "max_restarts" => policy.max_restarts = number(element, key)?.unwrap_or_default(),
                "restart_expire_time" => policy.restart_expire_ms = span_ms(element, key)?.unwrap_or_default(),
                "exclusive" => policy.exclusive = exclusive(element)?,
                "autostart" => policy.autostart = Some(flag(element, key)?),
                "depend" => policy.depend.push(dependency(element, value)?),
                "depend_mode" if element.get("depend").is_some() => {}
                "depend_mode" => self.differs(element, format!("service {name}: depend_mode without depend is left out")),
                "priority" => policy.start_priority = number(element, key)?.unwrap_or_default(),
                "__enforce_timeouts" => {}
                "nfslock" | "nfs_client_cache" => self.cannot(element, format!("service {name}: {key}: run it as a script of the service")),
                _ => self.differs(element, format!("service {name}: {key}={value} has no place at a service yet and is left out")),
            }
        }
        let mut building = Building { service: &name, members: Vec::new(), names: BTreeMap::new() };
        let mut children: Vec<&Element> =
            element.children.iter().filter(|it| it.name != "action").collect();
        let rank = |child: &&Element| {
            START_ORDER.iter().position(|kind| *kind == child.name).unwrap_or(START_ORDER.len())
        };
        children.sort_by_key(rank);
        if children.iter().any(|child| child.name == "ip")
            && children.iter().any(|child| matches!(child.name.as_str(), "smb" | "samba"))
        {
            self.differs(element, format!("service {name}: members stop in the reverse order of their start; RGManager stopped ip before smb"));
        }
        for child in children {
            self.member(child, None, resources, &mut building, vms)?;
        }
        let members = building.members;
        if members.is_empty() {
            self.cannot(element, format!("service {name} has no members and is left out"));
            return Ok(());
        }
        self.fleet.services.push(ServiceSpec { name, members, policy: Some(policy) });
        Ok(())
    }

    fn member(
        &mut self,
        element: &Element,
        under: Option<&str>,
        resources: &Resources,
        building: &mut Building<'_>,
        vms: &mut BTreeMap<String, usize>,
    ) -> Result<(), String> {
        let line = element.line;
        let element = &Element { line, ..self.whole(element, resources)? };
        let name = required(element, primary(&element.name))?;
        let service = building.service;
        let (member, kind) = if element.name == "vm" {
            let alone =
                Element { children: element.all("action").cloned().collect(), ..element.clone() };
            self.vm(&alone, resources, vms)?;
            (name.to_owned(), Kind::Vm(name.to_owned()))
        } else {
            let script = self.script(element, service)?;
            (format!("{}-{}", element.name, name.replace('/', "_")), Kind::Script(script))
        };
        unique(&mut building.names, &member, element, &format!("member of service {service}:"))?;
        let weight = match element.get("__independent_subtree") {
            None | Some("" | "0" | "no" | "off") => "critical",
            Some("1" | "yes" | "on") => "independent",
            Some("2" | "non-critical") => "non-critical",
            Some(other) => {
                return Err(format!(
                    "line {line}: __independent_subtree={other:?} is none of 0, 1 and 2"
                ));
            }
        };
        building.members.push(MemberSpec {
            name: member.clone(),
            kind: Some(kind),
            under: under.map(Into::into),
            weight: weight.into(),
            max_restarts: number(element, "__max_restarts")?.unwrap_or_default(),
            restart_expire_ms: span_ms(element, "__restart_expire_time")?.unwrap_or_default(),
            max_failures: number(element, "__max_failures")?.unwrap_or_default(),
            failure_expire_ms: span_ms(element, "__failure_expire_time")?.unwrap_or_default(),
        });
        for child in element.children.iter().filter(|child| child.name != "action") {
            self.member(child, Some(&member), resources, building, vms)?;
        }
        Ok(())
    }

    fn script(&mut self, element: &Element, service: &str) -> Result<Script, String> {
        let kind = element.name.as_str();
        let name = required(element, primary(kind))?;
        let mut script = Script::default();
        if kind == "script" {
            let file = required(element, "file")?;
            script.program = Some(Program::Lsb(file.to_owned()));
            self.maps(element, format!("service {service}: script {name} runs {file}"));
        } else {
            let agent = match kind {
                "SAPInstance" | "SAPDatabase" => format!("{AGENTS}/{kind}"),
                _ => format!("{AGENTS}/{kind}.sh"),
            };
            script.parameters = element
                .attributes
                .iter()
                .filter(|(key, _)| !key.starts_with("__"))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            self.maps(
                element,
                format!(
                    "service {service}: {kind} {name} runs {agent}, which each node has to have"
                ),
            );
            if matches!(kind, "nfsexport" | "nfsclient" | "nfsserver") {
                self.differs(element, format!("service {service}: {kind} {name}: RGManager handed it values of what it hangs below (device, path, fsid); write them into its parameters"));
            }
            script.program = Some(Program::Ocf(agent));
        }
        if element.get("__enforce_timeouts").is_some() && !flag(element, "__enforce_timeouts")? {
            self.differs(
                element,
                format!("service {service}: {kind} {name}: time-outs are always enforced"),
            );
        }
        for action in element.all("action") {
            let (timeout, interval) = (span_ms(action, "timeout")?, span_ms(action, "interval")?);
            match required(action, "name")? {
                "start" => script.start_timeout_ms = timeout.unwrap_or_default(),
                "stop" => script.stop_timeout_ms = timeout.unwrap_or_default(),
                "status" | "monitor" => {
                    let depth = match action.get("depth") {
                        None | Some("*" | "") => 0,
                        Some(_) => number(action, "depth")?.unwrap_or_default(),
                    };
                    script.checks.push(StatusCheck {
                        depth,
                        interval_ms: interval.unwrap_or_default(),
                        timeout_ms: timeout.unwrap_or_default(),
                    });
                }
                other => self.differs(
                    action,
                    format!("service {service}: the action {other} has no settings"),
                ),
            }
        }
        Ok(script)
    }
}
