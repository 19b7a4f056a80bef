//! The file: YAML, whose objects are the wire's own messages, so that every field can be written; a service is as
//! `berthctl service add` reads it.
//!
//! ```yaml
//! format: berth-fleet/1
//! based_on: 1234          # refused when the cluster was configured since; leave it out for a file you keep
//! failover_domains:
//!   web: {nodes: {node1: 1, node2: 2}, ordered: true}
//! nodes:
//!   node1:
//!     fence_devices:
//!     - {agent: fence_ipmilan, options: {ip: 10.0.0.1, username: berth, password: ~}}   # ~ keeps the value
//! vms:
//!   v:
//!     xml_file: v.xml
//!     policy: {recovery: relocate, failover_domain: web}
//! ```
//! A section that is missing is left alone; one that is there is complete: what it does not name is forgotten. What is
//! not said of an object is the default.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use model::domain_xml;
use proto::convert::fleet::{canonical, is_plain_option};
use proto::v1;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::service_file::ServiceFile;

/// What the file begins with.
pub const FORMAT: &str = "berth-fleet/1";
/// More than ten thousand VMs of 64 KiB would have; a mistaken path to a disk image ends here.
const MAX_FILE_BYTES: u64 = 1024 * 1024 * 1024;
/// As `berthctl node fence` has it.
const CALL_TIMEOUT_MS: u64 = 20_000;

/// The file as it is read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetFile {
    /// [`FORMAT`].
    pub format: String,
    /// The configuration it was made from.
    #[serde(default)]
    pub based_on: Option<u64>,
    /// What holds for the whole cluster.
    #[serde(default)]
    pub settings: Option<v1::Settings>,
    /// By name.
    #[serde(default)]
    pub failover_domains: Option<BTreeMap<String, v1::FailoverDomain>>,
    /// By name. Nodes come and go by their agents: one that is not named is left alone.
    #[serde(default)]
    pub nodes: Option<BTreeMap<String, NodeEntry>>,
    /// By name.
    #[serde(default)]
    pub vms: Option<BTreeMap<String, VmEntry>>,
    /// By name.
    #[serde(default)]
    pub placement_rules: Option<BTreeMap<String, v1::PlacementRule>>,
    /// By name.
    #[serde(default)]
    pub services: Option<BTreeMap<String, ServiceFile>>,
}

/// What is said of a node; what is not said is left alone.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeEntry {
    /// How it is fenced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fence_devices: Option<Vec<FenceEntry>>,
    /// Its clock is never paused, though it is a virtual machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vouched: Option<bool>,
    /// `stay-off` or `power-on/N`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_fence: Option<String>,
}

/// A fence device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FenceEntry {
    /// The program's name.
    pub agent: String,
    /// Its options; one without a value keeps what it has.
    #[serde(default)]
    pub options: BTreeMap<String, Option<String>>,
    /// How long one call may take.
    #[serde(default = "call_timeout")]
    pub timeout_ms: u64,
    /// Devices of one level must all say off.
    #[serde(default)]
    pub level: u32,
}

fn call_timeout() -> u64 {
    CALL_TIMEOUT_MS
}

/// A VM: its domain XML, in the file or beside it, and how it is treated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmEntry {
    /// The domain XML.
    #[serde(default)]
    pub xml: Option<String>,
    /// The file it is in, from the directory of this file.
    #[serde(default)]
    pub xml_file: Option<PathBuf>,
    /// How it is treated.
    #[serde(default = "proto::file::vm_policy")]
    pub policy: v1::VmPolicy,
}

/// Reads a file.
pub fn read(text: &str) -> Result<FleetFile, String> {
    let file: FleetFile = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    if file.format != FORMAT {
        return Err(format!(
            "its format is {:?}, and this berthctl knows {FORMAT:?} only",
            file.format
        ));
    }
    Ok(file)
}

/// What the file wants, with what it does not speak of as it is now. `directory` is where its domain XML files are.
pub fn wanted(file: FleetFile, now: &v1::Fleet, directory: &Path) -> Result<v1::Fleet, String> {
    let mut fleet = now.clone();
    if let Some(based_on) = file.based_on {
        fleet.configuration = based_on;
    }
    if let Some(settings) = file.settings {
        fleet.settings = Some(settings);
    }
    if let Some(domains) = file.failover_domains {
        fleet.failover_domains = domains
            .into_iter()
            .map(|(name, domain)| {
                Ok(v1::FailoverDomain { name: key(name, &domain.name)?, ..domain })
            })
            .collect::<Result<_, String>>()?;
    }
    for (name, entry) in file.nodes.into_iter().flatten() {
        let node = fleet.nodes.iter_mut().find(|node| node.name == name).ok_or_else(|| {
            format!("no node is named {name}; nodes come with their agents: start its agent first")
        })?;
        if let Some(devices) = entry.fence_devices {
            node.fence_devices = devices.into_iter().map(device).collect();
        }
        node.vouched = entry.vouched.unwrap_or(node.vouched);
        node.after_fence = entry.after_fence.unwrap_or(std::mem::take(&mut node.after_fence));
    }
    if let Some(vms) = file.vms {
        fleet.vms = vms
            .into_iter()
            .map(|(name, entry)| vm(name, entry, now, directory))
            .collect::<Result<_, String>>()?;
    }
    if let Some(services) = file.services {
        fleet.services = services
            .into_iter()
            .map(|(name, file)| {
                let name = key(name, &file.name)?;
                let spec = file.spec().map_err(|error| format!("service {name}: {error}"))?;
                Ok(v1::ServiceSpec { name, ..spec })
            })
            .collect::<Result<_, String>>()?;
    }
    if let Some(rules) = file.placement_rules {
        fleet.placement_rules = rules
            .into_iter()
            .map(|(name, rule)| Ok(v1::PlacementRule { name: key(name, &rule.name)?, ..rule }))
            .collect::<Result<_, String>>()?;
    }
    canonical(fleet)
}

/// An object's name stands before it, and needs not stand in it.
fn key(name: String, inside: &str) -> Result<String, String> {
    match inside {
        "" => Ok(name),
        inside if inside == name => Ok(name),
        inside => Err(format!("the object {name:?} calls itself {inside:?}")),
    }
}

fn device(entry: FenceEntry) -> v1::FenceDevice {
    let (given, kept): (Vec<_>, Vec<_>) =
        entry.options.into_iter().partition(|(_, value)| value.is_some());
    v1::FenceDevice {
        agent: entry.agent,
        options: given.into_iter().filter_map(|(key, value)| Some((key, value?))).collect(),
        timeout_ms: entry.timeout_ms,
        level: entry.level,
        kept: kept.into_iter().map(|(key, _)| key).collect(),
    }
}

fn vm(
    name: String,
    entry: VmEntry,
    now: &v1::Fleet,
    directory: &Path,
) -> Result<v1::FleetVm, String> {
    let known = now.vms.iter().find(|vm| vm.name == name);
    let xml = match (entry.xml, entry.xml_file, known) {
        (Some(xml), None, _) => xml,
        (None, Some(path), _) => {
            read_xml(&directory.join(path)).map_err(|why| format!("VM {name}: {why}"))?
        }
        (None, None, Some(known)) => known.xml.clone(),
        (None, None, None) => {
            return Err(format!(
                "VM {name} has neither `xml` nor `xml_file`, and the cluster does not know it; `berthctl adopt {name}` takes it from the host that has it"
            ));
        }
        (Some(_), Some(_), _) => return Err(format!("VM {name} has both `xml` and `xml_file`")),
    };
    let domain = domain_xml::parse(&xml)
        .map_err(|error| format!("VM {name} is not a valid domain: {error}"))?;
    if domain.name.as_str() != name {
        return Err(format!("the domain XML of VM {name} is of the domain {}", domain.name));
    }
    // Without a UUID it is the one that it has; a new VM gets one.
    let known = known.and_then(|vm| domain_xml::parse(&vm.xml).ok()).and_then(|known| known.uuid);
    let xml = match (domain.uuid, known) {
        (None, Some(uuid)) => domain.xml_with_uuid(&xml, uuid),
        _ => xml,
    };
    Ok(v1::FleetVm { name, xml, policy: Some(entry.policy) })
}

fn read_xml(path: &Path) -> Result<String, String> {
    let large = std::fs::metadata(path).is_ok_and(|it| it.len() > domain_xml::MAX_XML_BYTES as u64);
    if large {
        return Err(format!(
            "{} is larger than the {} bytes of a domain XML",
            path.display(),
            domain_xml::MAX_XML_BYTES
        ));
    }
    std::fs::read_to_string(path)
        .map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

/// The file's text and where it lies.
pub fn open(path: &Path) -> Result<(String, PathBuf), String> {
    let input = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    if path == Path::new("-") {
        return Ok((std::io::read_to_string(std::io::stdin()).map_err(input)?, PathBuf::from(".")));
    }
    if std::fs::metadata(path).map_err(input)?.len() > MAX_FILE_BYTES {
        return Err(format!("{} is larger than {MAX_FILE_BYTES} bytes", path.display()));
    }
    let directory = path.parent().filter(|it| !it.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new(".")).to_owned();
    Ok((std::fs::read_to_string(path).map_err(input)?, directory))
}

/// The file as it is written: in this order, without what is the default anyway.
#[derive(Serialize)]
struct Written {
    format: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    based_on: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failover_domains: Option<Map<String, Value>>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    nodes: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vms: Option<Map<String, Value>>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    placement_rules: Map<String, Value>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    services: Map<String, Value>,
}

/// Writes the file. With `xml_files`, domain XML is beside it in these, by VM name.
pub fn write(
    fleet: &v1::Fleet,
    based_on: Option<u64>,
    xml_files: Option<&BTreeMap<String, PathBuf>>,
) -> Result<String, String> {
    let nodes = fleet.nodes.iter().map(|node| (node.name.clone(), node_entry(node))).collect();
    let written = written(fleet, nodes, based_on, xml_files)?;
    serde_saphyr::to_string(&written).map_err(|error| error.to_string())
}

/// The file of something else's definitions, with these nodes. What it does not speak of it has no section for: an empty
/// one would make `apply` forget all that there is of its kind.
pub fn write_part(
    fleet: &v1::Fleet,
    nodes: BTreeMap<String, NodeEntry>,
    xml_files: &BTreeMap<String, PathBuf>,
) -> Result<String, String> {
    let mut written = written(fleet, nodes, None, Some(xml_files))?;
    written.failover_domains.take_if(|section| section.is_empty());
    written.vms.take_if(|section| section.is_empty());
    serde_saphyr::to_string(&written).map_err(|error| error.to_string())
}

fn written(
    fleet: &v1::Fleet,
    nodes: BTreeMap<String, NodeEntry>,
    based_on: Option<u64>,
    xml_files: Option<&BTreeMap<String, PathBuf>>,
) -> Result<Written, String> {
    let failure = |error: serde_json::Error| error.to_string();
    let mut written = Written {
        format: FORMAT,
        based_on,
        settings: None,
        failover_domains: None,
        nodes: Map::new(),
        vms: None,
        placement_rules: Map::new(),
        services: Map::new(),
    };
    if let Some(settings) = &fleet.settings {
        written.settings = Some(short::<v1::Settings>(settings).map_err(failure)?);
    }
    let failover_domains = written.failover_domains.insert(Map::new());
    for domain in &fleet.failover_domains {
        let value = named(short::<v1::FailoverDomain>(domain).map_err(failure)?);
        failover_domains.insert(domain.name.clone(), value);
    }
    for (name, entry) in nodes {
        written.nodes.insert(name, serde_json::to_value(entry).map_err(failure)?);
    }
    let vms = written.vms.insert(Map::new());
    for vm in &fleet.vms {
        let mut entry = Map::new();
        match xml_files.and_then(|files| files.get(&vm.name)) {
            Some(path) => entry.insert("xml_file".into(), path.display().to_string().into()),
            // Known by nobody yet: whoever adopts it has it.
            None if vm.xml.is_empty() => None,
            None => entry.insert("xml".into(), vm.xml.clone().into()),
        };
        let policy = vm.policy.clone().unwrap_or_else(proto::file::vm_policy);
        let policy = short::<v1::VmPolicy>(&policy).map_err(failure)?;
        if policy.as_object().is_some_and(|policy| !policy.is_empty()) {
            entry.insert("policy".into(), policy);
        }
        vms.insert(vm.name.clone(), Value::Object(entry));
    }
    for rule in &fleet.placement_rules {
        let value = named(serde_json::to_value(rule).map_err(failure)?);
        written.placement_rules.insert(rule.name.clone(), value);
    }
    for spec in &fleet.services {
        let file = ServiceFile::from(spec);
        let mut value = lean(named(serde_json::to_value(&file).map_err(failure)?));
        // Empty is not the default of all that is said of it.
        let policy = Some(short(&file.policy).map_err(failure)?);
        if let Some(fields) = value.as_object_mut() {
            fields.remove("policy");
            let said = policy.filter(|policy| policy.as_object().is_some_and(|it| !it.is_empty()));
            fields.extend(said.map(|policy| ("policy".to_owned(), policy)));
        }
        written.services.insert(spec.name.clone(), value);
    }
    Ok(written)
}

fn node_entry(node: &v1::FleetNode) -> NodeEntry {
    let entry = |device: &v1::FenceDevice| {
        let given = device.options.iter().map(|(key, value)| (key.clone(), Some(value.clone())));
        FenceEntry {
            agent: device.agent.clone(),
            options: given.chain(device.kept.iter().map(|key| (key.clone(), None))).collect(),
            timeout_ms: device.timeout_ms,
            level: device.level,
        }
    };
    NodeEntry {
        fence_devices: Some(node.fence_devices.iter().map(entry).collect()),
        vouched: Some(node.vouched),
        after_fence: Some(node.after_fence.clone()),
    }
}

/// The fields that are not the default. What an empty object is read as is the default.
fn short<T: Serialize + DeserializeOwned>(message: &T) -> Result<Value, serde_json::Error> {
    let default: T = serde_json::from_value(Value::Object(Map::new()))?;
    Ok(differing(serde_json::to_value(message)?, &serde_json::to_value(default)?))
}

fn differing(value: Value, default: &Value) -> Value {
    match (value, default) {
        (Value::Object(fields), Value::Object(defaults)) => fields
            .into_iter()
            .filter(|(key, value)| defaults.get(key) != Some(value))
            .map(|(key, value)| {
                let value = defaults
                    .get(&key)
                    .map(|default| differing(value.clone(), default))
                    .unwrap_or(value);
                (key, value)
            })
            .collect(),
        (value, _) => value,
    }
}

/// Without what is empty, in messages where empty is the default.
fn lean(value: Value) -> Value {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    };
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(key, value)| (key, lean(value)))
            .filter(|(_, value)| !empty(value))
            .collect(),
        Value::Array(items) => items.into_iter().map(lean).collect(),
        other => other,
    }
}

fn named(mut value: Value) -> Value {
    if let Some(fields) = value.as_object_mut() {
        fields.remove("name");
    }
    value
}

/// Whether a path into an object leads to a value that may not be shown.
pub fn is_secret(path: &str) -> bool {
    path.rsplit_once(".options.").is_some_and(|(_, key)| !is_plain_option(key))
}
