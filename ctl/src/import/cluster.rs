//! Nodes, fencing, failover domains, and the attributes of `<rm>`.

use std::collections::BTreeMap;

use proto::v1;

use super::xml::Element;
use super::{Import, Word, flag, number, required};
use crate::fleet::file::{FenceEntry, NodeEntry};

/// How often an hour a fenced node is switched on again: cman's fencing rebooted it each time.
const POWER_ON: &str = "power-on/3";
const CALL_TIMEOUT_MS: u64 = 20_000;
/// The element, and what is noted of those that are used.
const FENCE_DEVICE: &str = "fencedevice";

impl Import<'_> {
    pub(super) fn cluster(&mut self, root: &Element) -> Result<(), String> {
        let nodes: Vec<&Element> = root.below("clusternodes", "clusternode").collect();
        let mut names = BTreeMap::new();
        for node in &nodes {
            let name = required(node, "name")?;
            unique(&mut names, name, node, "node")?;
            proto::convert::control::node(name)
                .map_err(|error| format!("line {}: node {name:?}: {error}", node.line))?;
        }
        let devices = self.fence_devices(root)?;
        for node in &nodes {
            self.node(node, &devices)?;
        }
        for (name, device) in &devices {
            if !self.used.contains(&(FENCE_DEVICE.to_owned(), name.clone())) {
                self.differs(
                    device,
                    format!("fence device {name} is of no node's fencing and left out"),
                );
            }
        }
        for child in &root.children {
            match child.name.as_str() {
                "clusternodes" | "fencedevices" | "rm" => {}
                "cman" | "totem" | "quorumd" | "dlm" | "fence_daemon" | "group" | "logging" | "uidgid" => self
                    .differs(
                        child,
                        format!("<{}> is left out: replicas, leases and fencing of Berth are set in their own configuration", child.name),
                    ),
                _ => self.cannot(child, format!("<{}> is not known here", child.name)),
            }
        }
        let mut rms = root.all("rm");
        let (first, second) = (rms.next(), rms.next());
        if let Some(second) = second {
            return Err(format!("line {}: a second <rm>; only one can be meant", second.line));
        }
        match first {
            Some(rm) => self.rm(rm, &names),
            None => {
                self.cannot(root, "there is no <rm>: nothing to run");
                Ok(())
            }
        }
    }

    fn fence_devices(&mut self, root: &Element) -> Result<BTreeMap<String, Element>, String> {
        let mut devices = BTreeMap::new();
        let mut names = BTreeMap::new();
        for device in root.below("fencedevices", FENCE_DEVICE) {
            let name = required(device, "name")?;
            unique(&mut names, name, device, "fence device")?;
            devices.insert(name.to_owned(), device.clone());
        }
        Ok(devices)
    }

    fn node(&mut self, node: &Element, devices: &BTreeMap<String, Element>) -> Result<(), String> {
        let name = required(node, "name")?.to_owned();
        let mut entries: Vec<FenceEntry> = Vec::new();
        let (mut off, mut on) = (false, false);
        for (level, method) in (1u32..).zip(node.below("fence", "method")) {
            for device in method.all("device") {
                let known = required(device, "name")?;
                self.used.insert((FENCE_DEVICE.to_owned(), known.to_owned()));
                let Some(known) = devices.get(known) else {
                    return Err(format!("line {}: there is no fence device {known}", device.line));
                };
                match device.get("action").or(device.get("option")) {
                    Some("off") => off = true,
                    Some("on") => on = true,
                    _ => {}
                }
                if let Some(entry) = self.fence_entry(device, known, level)? {
                    // Two power supplies are switched off both, and then on: one device each is enough.
                    let twin = entries.iter().any(|other| {
                        other.level == level
                            && other.agent == entry.agent
                            && other.options == entry.options
                    });
                    if !twin {
                        let text = format!("node {name}: {} at level {level}", entry.agent);
                        self.maps(device, text);
                        entries.push(entry);
                    }
                }
            }
        }
        for child in &node.children {
            if !matches!(child.name.as_str(), "fence" | "unfence") {
                self.differs(child, format!("node {name}: <{}> is left out: where an agent finds the replicas is set in its own configuration", child.name));
            }
        }
        for unfence in node.all("unfence") {
            self.cannot(unfence, format!("node {name}: Berth does not unfence; storage fencing has to be undone by the host at its boot"));
        }
        if entries.is_empty() {
            self.cannot(node, format!("node {name} has no fence device: without one, or a watchdog, nothing proves its death and its VMs stay where they were"));
        }
        if node.get("votes").is_some_and(|votes| votes != "1") {
            self.differs(
                node,
                format!("node {name}: votes are those of Berth's replicas, one each"),
            );
        }
        // Off and on again is how two power supplies are rebooted.
        let after_fence = if off && !on { "stay-off" } else { POWER_ON };
        let entry = NodeEntry {
            fence_devices: (!entries.is_empty()).then_some(entries),
            vouched: None,
            after_fence: Some(after_fence.to_owned()),
        };
        self.nodes.insert(name, entry);
        Ok(())
    }

    fn fence_entry(
        &mut self,
        device: &Element,
        known: &Element,
        level: u32,
    ) -> Result<Option<FenceEntry>, String> {
        let agent = required(known, "agent")?;
        if let Some(why) = model::node::proves_nothing(agent) {
            self.cannot(
                device,
                format!("{agent} proves no death: {why}; give the node a device that switches its power off, or a watchdog, or say `berthctl node confirm-off`"),
            );
            return Ok(None);
        }
        let mut options = BTreeMap::new();
        for (key, value) in known.attributes.iter().chain(&device.attributes) {
            match key.as_str() {
                "name" | "agent" => {}
                "delay" => self.differs(device, format!("{agent}: the delay of {value} is left out: it let one of two nodes win that fence each other, and here the leader alone fences")),
                "action" | "option" => {
                    self.differs(device, format!("{agent}: the action {value:?} is left out, Berth asks for off and status"));
                }
                _ => {
                    options.insert(key.clone(), Some(value.clone()));
                }
            }
        }
        let given = options.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
        let checked = v1::FenceDevice {
            agent: agent.to_owned(),
            options: given.collect(),
            timeout_ms: CALL_TIMEOUT_MS,
            level,
            kept: Vec::new(),
        };
        proto::convert::control::fence_device(checked)
            .map_err(|error| format!("line {}: {agent}: {error}", known.line))?;
        Ok(Some(FenceEntry {
            agent: agent.to_owned(),
            options,
            timeout_ms: CALL_TIMEOUT_MS,
            level,
        }))
    }

    fn rm(&mut self, rm: &Element, nodes: &BTreeMap<String, usize>) -> Result<(), String> {
        for (key, value) in &rm.attributes {
            let text = match key.as_str() {
                "log_level" | "log_facility" => continue,
                "disabled" if flag(rm, "disabled")? => {
                    "rm disabled=1: Berth runs what is enabled; enable nothing until you want it".to_owned()
                }
                "disabled" => continue,
                "central_processing" if value != "0" => {
                    "central_processing: Berth's leader decides everything, by the rules of the distributed mode".into()
                }
                "central_processing" => continue,
                "status_poll_interval" | "status_child_max" | "statusmax" | "transition_throttling" => {
                    format!("{key} is left out: libvirt's events tell what happens, and nothing is polled together")
                }
                _ => format!("the attribute {key} of <rm> is not known and left out"),
            };
            self.differs(rm, text);
        }
        for defaults in rm.all("resource-defaults").flat_map(|it| it.children.iter()) {
            if let Some(earlier) = self.defaults.insert(defaults.name.clone(), defaults.clone()) {
                return Err(format!(
                    "line {}: defaults of {} for the second time, after line {}",
                    defaults.line, defaults.name, earlier.line
                ));
            }
            self.maps(
                defaults,
                format!("defaults of each <{}> are written to each", defaults.name),
            );
        }
        for events in rm.all("events") {
            self.cannot(events, "event scripts are S-Lang for RGManager; Berth runs hooks, which cannot decide anything");
        }
        let mut seen = BTreeMap::new();
        for domain in rm.below("failoverdomains", "failoverdomain") {
            self.failover_domain(domain, nodes, &mut seen)?;
        }
        let resources = resources(rm)?;
        let (mut vms, mut services) = (BTreeMap::new(), BTreeMap::new());
        for child in &rm.children {
            match child.name.as_str() {
                "failoverdomains" | "resources" | "events" | "resource-defaults" => {}
                "vm" => self.vm(child, &resources, &mut vms)?,
                "service" => self.service(child, &resources, &mut services, &mut vms)?,
                other => self.cannot(child, format!("<{other}> at this place is not known")),
            }
        }
        if !self.fleet.vms.is_empty() || !self.fleet.services.is_empty() {
            self.differs(rm, "nothing starts because it is applied: `berthctl enable` what shall run and does not; autostart says what starts by itself after the whole cluster was down");
        }
        for (line, of, on) in std::mem::take(&mut self.depends) {
            let known = match on.split_once(':') {
                Some(("vm", name)) => self.fleet.vms.iter().any(|vm| vm.name == name),
                Some((_, name)) => self.fleet.services.iter().any(|service| service.name == name),
                None => false,
            };
            if !known {
                self.say(Word::Cannot, line, format!("{of} depends on {on}, which is not in the file: RGManager took that for met, here {of} does not start before it is there; define it, or take the dependency out"));
            }
        }
        for ((kind, name), resource) in &resources {
            if !self.used.contains(&(kind.clone(), name.clone())) {
                self.differs(
                    resource,
                    format!("<{kind}> {name} among the resources is used by nothing and left out"),
                );
            }
        }
        Ok(())
    }

    fn failover_domain(
        &mut self,
        domain: &Element,
        nodes: &BTreeMap<String, usize>,
        seen: &mut BTreeMap<String, usize>,
    ) -> Result<(), String> {
        let name = required(domain, "name")?.to_owned();
        unique(seen, &name, domain, "failover domain")?;
        let ordered = flag(domain, "ordered")?;
        let mut members = BTreeMap::new();
        let mut lines = BTreeMap::new();
        for member in domain.all("failoverdomainnode") {
            let node = required(member, "name")?;
            unique(&mut lines, node, member, &format!("member of failover domain {name}:"))?;
            if !nodes.contains_key(node) {
                self.differs(
                    member,
                    format!(
                        "failover domain {name}: {node} is no node of this cluster and left out"
                    ),
                );
                continue;
            }
            let priority =
                number(member, "priority")?.filter(|priority| (1..=100).contains(priority));
            if priority.is_none() && ordered {
                self.differs(member, format!("failover domain {name}: {node} has no priority from 1 to 100 and comes first, as with RGManager's distributed mode"));
            }
            members.insert(node.to_owned(), priority.unwrap_or(0));
        }
        if members.is_empty() {
            self.cannot(domain, format!("failover domain {name} has no member and is left out"));
            return Ok(());
        }
        // One without a priority sorts before 1, and 1 is the first that Berth has: the others make room.
        if members.values().any(|priority| *priority == 0) {
            let room = ordered && members.values().any(|priority| *priority > 0);
            for priority in members.values_mut() {
                *priority = if room { (*priority + 1).min(100) } else { 1 };
            }
        }
        let (restricted, nofailback) = (flag(domain, "restricted")?, flag(domain, "nofailback")?);
        let words: Vec<_> =
            [("ordered", ordered), ("restricted", restricted), ("nofailback", nofailback)]
                .into_iter()
                .filter(|(_, set)| *set)
                .map(|(word, _)| format!(", {word}"))
                .collect();
        self.maps(
            domain,
            format!(
                "failover domain {name}: {} node{}{}",
                members.len(),
                if members.len() == 1 { "" } else { "s" },
                words.concat()
            ),
        );
        let made = v1::FailoverDomain {
            name,
            nodes: members.into_iter().collect(),
            ordered,
            restricted,
            nofailback,
            ..proto::file::failover_domain()
        };
        proto::convert::control::failover_domain(made.clone()).map_err(|error| {
            format!("line {}: failover domain {}: {error}", domain.line, made.name)
        })?;
        self.fleet.failover_domains.push(made);
        Ok(())
    }
}

/// The attribute by which RGManager tells resources of a type apart.
pub(super) fn primary(kind: &str) -> &'static str {
    match kind {
        "ip" => "address",
        _ => "name",
    }
}

/// `<resources>`, by type and primary attribute.
fn resources(rm: &Element) -> Result<BTreeMap<(String, String), Element>, String> {
    let mut found: BTreeMap<(String, String), Element> = BTreeMap::new();
    for resource in rm.all("resources").flat_map(|it| it.children.iter()) {
        let name = required(resource, primary(&resource.name))?;
        let key = (resource.name.clone(), name.to_owned());
        if let Some(earlier) = found.insert(key, resource.clone()) {
            return Err(format!(
                "line {}: <{}> {name} for the second time, after line {}; which one is meant?",
                resource.line, resource.name, earlier.line
            ));
        }
    }
    Ok(found)
}

/// Two of one name are ambiguous.
pub(super) fn unique(
    seen: &mut BTreeMap<String, usize>,
    name: &str,
    element: &Element,
    what: &str,
) -> Result<(), String> {
    match seen.insert(name.to_owned(), element.line) {
        None => Ok(()),
        Some(earlier) => Err(format!(
            "line {}: {what} {name} for the second time, after line {earlier}; which one is meant?",
            element.line
        )),
    }
}
