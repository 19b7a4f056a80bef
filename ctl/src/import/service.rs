//! `<service>`: its resources as members, in the order in which RGManager starts them.

use std::collections::BTreeMap;

use proto::v1::member_spec::Kind;
use proto::v1::script::Program;
use proto::v1::{MemberSpec, Script, ServicePolicy, ServiceSpec, StatusCheck};
use uuid::Uuid;

use super::agents::{self, Fate};
use super::cluster::{primary, unique};
use super::vm::exclusive;
use super::xml::Element;
use super::{Import, flag, number, required, span_ms};

/// Where RGManager's agents are on each host (package resource-agents).
const AGENTS: &str = "/usr/share/cluster";
/// `service.sh` starts what hangs directly below it in this order; what is not here comes after, as in the file.
const START_ORDER: [&str; 10] =
    ["lvm", "fs", "clusterfs", "netfs", "nfsexport", "nfsclient", "ip", "smb", "samba", "script"];

/// Berth's own limit of a start and a stop, and that of a status that had none.
const DEFAULT_S: u64 = 60;
/// What had no limit with RGManager has this one: something that hangs has to end.
const NO_LIMIT_S: u64 = 300;

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
                "recovery" => policy.recovery = value.to_ascii_lowercase(),
                "max_restarts" => policy.max_restarts = number(element, key)?.unwrap_or_default(),
                "restart_expire_time" => policy.restart_expire_ms = span_ms(element, key)?.unwrap_or_default(),
                "exclusive" => policy.exclusive = exclusive(element)?,
                "autostart" => policy.autostart = Some(flag(element, key)?),
                "depend" => policy.depend.push(self.depends(element, format!("service {name}"), value)?),
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
        let spec = ServiceSpec { name, members, policy: Some(policy) };
        proto::convert::service::spec(spec.clone(), Uuid::nil())
            .map_err(|error| format!("line {}: service {}: {error}", element.line, spec.name))?;
        self.fleet.services.push(spec);
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
            let Some(script) = self.script(element, service)? else {
                // What hangs below what is left out stays, one step higher.
                for child in element.children.iter().filter(|child| child.name != "action") {
                    self.member(child, under, resources, building, vms)?;
                }
                return Ok(());
            };
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

    /// A script, or nothing where its agent cannot serve here; the report says which.
    fn script(&mut self, element: &Element, service: &str) -> Result<Option<Script>, String> {
        let kind = element.name.as_str();
        let name = required(element, primary(kind))?;
        let what = format!("service {service}: {kind} {name}");
        let mut script = Script::default();
        let times = if kind == "script" {
            let file = required(element, "file")?;
            if let Some(why) = agents::keeps_out(file.rsplit('/').next().unwrap_or(file)) {
                self.cannot(element, format!("{what} ({file}) is left out: {why}"));
                return Ok(None);
            }
            script.program = Some(Program::Lsb(file.to_owned()));
            self.maps(element, format!("{what} runs {file}"));
            agents::SCRIPT
        } else {
            let agent = match kind {
                "SAPInstance" | "SAPDatabase" => format!("{AGENTS}/{kind}"),
                _ => format!("{AGENTS}/{kind}.sh"),
            };
            let times = match agents::fate(kind) {
                Fate::Kept { times, successor } => {
                    self.maps(element, format!("{what} runs {agent}, which each node has to have; without it, {successor} takes its place"));
                    times
                }
                Fate::Refused { why, instead } => {
                    self.cannot(element, format!("{what} is left out: {why}; {instead}"));
                    return Ok(None);
                }
                Fate::Unknown => {
                    self.differs(element, format!("{what} runs {agent}, whose metadata is not known here: {DEFAULT_S} s for a start and a stop, and a status each 30 s. See that its status exits with 7 where it is down: after any other code nothing starts elsewhere"));
                    agents::Times { start_s: DEFAULT_S, stop_s: DEFAULT_S, checks: &[(0, 30, 20)] }
                }
            };
            script.parameters = element
                .attributes
                .iter()
                .filter(|(key, _)| !key.starts_with("__"))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            script.program = Some(Program::Ocf(agent));
            times
        };
        if kind != "script" && flag(element, "self_fence")? {
            self.differs(element, format!("{what}: with self_fence the agent reboots the whole host, all its VMs with it, when a stop fails; without it the service is failed"));
        }
        let enforced = flag(element, "__enforce_timeouts")?;
        if !enforced && element.get("__enforce_timeouts").is_some() {
            self.differs(element, format!("{what}: time-outs are always enforced"));
        }
        self.limits(element, &what, &times, enforced, &mut script);
        for action in element.all("action") {
            self.action(action, &what, &mut script)?;
        }
        Ok(Some(script))
    }

    /// The agent's own times. RGManager enforced them only where it was told to, and a stop that is cut short leaves a
    /// failed service: one is not made shorter than Berth's own limit.
    fn limits(
        &mut self,
        element: &Element,
        what: &str,
        times: &agents::Times,
        enforced: bool,
        script: &mut Script,
    ) {
        let given_by_hand = |word: &str| {
            let mut actions = element.all("action").filter(|it| it.get("name") == Some(word));
            actions.any(|it| it.get("timeout").is_some())
        };
        let (mut unlimited, mut longer) = (Vec::new(), Vec::new());
        let mut limit = |word: &str, given: u64| {
            let taken = match given {
                0 if word == "status" => DEFAULT_S,
                0 => NO_LIMIT_S,
                given if enforced => given,
                given => given.max(DEFAULT_S),
            };
            match given {
                _ if given_by_hand(word) => {}
                0 => unlimited.push(format!("{taken} s for a {word}")),
                given if given < taken => longer.push(format!("{taken} s for a {word}")),
                _ => {}
            }
            taken * 1_000
        };
        script.start_timeout_ms = limit("start", times.start_s);
        script.stop_timeout_ms = limit("stop", times.stop_s);
        for (depth, interval_s, timeout_s) in times.checks {
            let timeout_s = if *timeout_s == 0 { limit("status", 0) / 1_000 } else { *timeout_s };
            script.checks.push(StatusCheck {
                depth: *depth,
                interval_ms: interval_s * 1_000,
                timeout_ms: timeout_s * 1_000,
            });
        }
        if !unlimited.is_empty() {
            let limits = unlimited.join(", ");
            self.differs(
                element,
                format!("{what}: it had no limit of time, and has here: {limits}"),
            );
        }
        if !longer.is_empty() {
            let limits = longer.join(", ");
            self.differs(element, format!("{what}: {limits}, more than its metadata says, for RGManager did not enforce that"));
        }
    }

    /// `<action>`: what it says takes the place of the agent's own.
    fn action(&mut self, action: &Element, what: &str, script: &mut Script) -> Result<(), String> {
        let interval = span_ms(action, "interval")?;
        let timeout = match span_ms(action, "timeout")? {
            Some(0) => {
                self.differs(
                    action,
                    format!("{what}: a time-out of 0, which is none, is {NO_LIMIT_S} s here"),
                );
                Some(NO_LIMIT_S * 1_000)
            }
            given => given,
        };
        match required(action, "name")? {
            "start" => script.start_timeout_ms = timeout.unwrap_or(script.start_timeout_ms),
            "stop" => script.stop_timeout_ms = timeout.unwrap_or(script.stop_timeout_ms),
            "status" | "monitor" => {
                let depth = match action.get("depth") {
                    Some("*") => None,
                    None | Some("") => Some(0),
                    Some(_) => Some(number(action, "depth")?.unwrap_or_default()),
                };
                if let Some(depth) = depth
                    && !script.checks.iter().any(|check| check.depth == depth)
                {
                    self.differs(action, format!("{what}: the agent has no status of depth {depth}; it is asked so all the same"));
                    script.checks.push(StatusCheck { depth, ..StatusCheck::default() });
                }
                if interval == Some(0) {
                    self.differs(action, format!("{what}: an interval of 0 is left out"));
                }
                for check in &mut script.checks {
                    if depth.is_none_or(|depth| depth == check.depth) {
                        check.interval_ms =
                            interval.filter(|it| *it > 0).unwrap_or(check.interval_ms);
                        check.timeout_ms = timeout.unwrap_or(check.timeout_ms);
                    }
                }
            }
            other => self.differs(action, format!("{what}: the action {other} has no settings")),
        }
        Ok(())
    }
}
