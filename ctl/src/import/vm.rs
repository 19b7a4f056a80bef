//! `<vm>`: each attribute of `vm.sh`.

use std::collections::BTreeMap;
use std::path::Path;

use model::domain_xml;
use model::handling::{MigrationOptions, OptionError};
use proto::convert::handling::{migration, write_migration};
use proto::v1;

use super::cluster::unique;
use super::xml::Element;
use super::{Import, flag, number, required, span_ms};

type Resources = BTreeMap<(String, String), Element>;

impl Import<'_> {
    /// The element with what its `ref` and the defaults of its type add to it.
    pub(super) fn whole(
        &mut self,
        element: &Element,
        resources: &Resources,
    ) -> Result<Element, String> {
        let mut whole = element.clone();
        if let Some(name) = element.get("ref") {
            let known =
                resources.get(&(element.name.clone(), name.to_owned())).ok_or_else(|| {
                    format!(
                        "line {}: there is no <{}> {name} among the resources",
                        element.line, element.name
                    )
                })?;
            self.used.insert((element.name.clone(), name.to_owned()));
            whole.attributes.retain(|(key, _)| key != "ref");
            add(&mut whole, known);
        }
        if let Some(defaults) = self.defaults.get(&element.name) {
            add(&mut whole, defaults);
        }
        Ok(whole)
    }

    pub(super) fn vm(
        &mut self,
        element: &Element,
        resources: &Resources,
        seen: &mut BTreeMap<String, usize>,
    ) -> Result<(), String> {
        let element = &self.whole(element, resources)?;
        let name = required(element, "name")?.to_owned();
        unique(seen, &name, element, "VM")?;
        proto::convert::control::vm(&name)
            .map_err(|error| format!("line {}: VM {name:?}: {error}", element.line))?;
        self.maps(element, format!("VM {name}"));
        let mut policy = proto::file::vm_policy();
        for (key, value) in &element.attributes {
            if !value.is_empty() {
                self.vm_attribute(element, &name, key, value, &mut policy)?;
            }
        }
        for action in element.all("action") {
            self.vm_action(action, &name, &mut policy)?;
        }
        for child in element.children.iter().filter(|child| child.name != "action") {
            self.cannot(
                child,
                format!(
                    "VM {name}: a <{}> below a VM; make it a service that holds both",
                    child.name
                ),
            );
        }
        if policy.max_failures > 0 && policy.failure_expire_ms == 0 {
            self.differs(element, format!("VM {name}: __max_failures alone counted for nothing with RGManager; here so many failures are let pass, whenever they come"));
        }
        let mut handling = policy.handling.take().unwrap_or_else(proto::file::vm_handling);
        let xml = self.domain_xml(element, &name, &mut handling)?;
        policy.handling = Some(handling);
        proto::convert::control::policy(policy.clone())
            .map_err(|error| format!("line {}: VM {name}: {error}", element.line))?;
        self.fleet.vms.push(v1::FleetVm { name, xml, policy: Some(policy) });
        Ok(())
    }

    fn vm_attribute(
        &mut self,
        element: &Element,
        name: &str,
        key: &str,
        value: &str,
        policy: &mut v1::VmPolicy,
    ) -> Result<(), String> {
        let handling = policy.handling.get_or_insert_with(proto::file::vm_handling);
        match key {
            "name" => {}
            "domain" if self.fleet.failover_domains.iter().any(|domain| domain.name == value) => {
                policy.failover_domain = Some(value.to_owned());
            }
            "domain" => self.differs(element, format!("VM {name}: there is no failover domain {value}; it runs anywhere, as with RGManager")),
            "autostart" => policy.autostart = Some(flag(element, key)?),
            "exclusive" => policy.exclusive = exclusive(element)?,
            "recovery" => policy.recovery = value.to_ascii_lowercase(),
            "migrate" if value == "live" => policy.migration = "live".into(),
            "migrate" => policy.migration = "pause".into(),
            "migration_mapping" => {
                for (member, _) in value.split(',').filter_map(|pair| pair.trim().split_once(':')) {
                    if !self.nodes.contains_key(member.trim()) {
                        self.differs(element, format!("VM {name}: migration_mapping: {member} is no node of this cluster; it is kept all the same"));
                    }
                }
                self.migration(element, name, handling, value.split(','), |options, pair| {
                    options.add_mapping(pair)
                })?;
            }
            "migrate_options" => {
                let options = virsh_options(value);
                self.say_what_differs(element, name, &options);
                let words = options.iter().map(String::as_str);
                self.migration(element, name, handling, words, |options, word| options.add_virsh(word))?;
            }
            "tunnelled" => {
                let tunnelled = flag(element, key)?;
                self.migration(element, name, handling, ["tunnelled"].into_iter(), |options, _| {
                    options.tunnelled = tunnelled;
                    Ok(())
                })?;
            }
            // Where the domain XML is comes last, when all else is known.
            "xmlfile" | "path" => {}
            "snapshot" => {
                handling.save_dir = value.to_owned();
                self.differs(element, format!("VM {name}: snapshot: a save is restored only where it was made; say save_shared where all nodes see {value}"));
            }
            "depend" => policy.depend.push(self.depends(element, format!("VM {name}"), value)?),
            "depend_mode" if element.get("depend").is_some() => {}
            "depend_mode" => self.differs(element, format!("VM {name}: depend_mode without depend is left out")),
            "max_restarts" => policy.max_restarts = number(element, key)?.unwrap_or_default(),
            "restart_expire_time" => policy.restart_expire_ms = span_ms(element, key)?.unwrap_or_default(),
            "status_program" => handling.status_shell = value.to_owned(),
            "no_kill" => handling.no_kill = flag(element, key)?,
            "__max_failures" => policy.max_failures = number(element, key)?.unwrap_or_default(),
            "__failure_expire_time" => policy.failure_expire_ms = span_ms(element, key)?.unwrap_or_default(),
            "__enforce_timeouts" if flag(element, key)? => {}
            "__enforce_timeouts" => self.differs(element, format!("VM {name}: time-outs are always enforced")),
            "__independent_subtree" | "__max_restarts" | "__restart_expire_time" => {
                self.differs(element, format!("VM {name}: {key} counts inside a service only"));
            }
            "use_virsh" if flag(element, key)? => {}
            "use_virsh" => self.cannot(element, format!("VM {name}: use_virsh=0 means xm; Berth speaks to libvirt only")),
            "hypervisor" if matches!(value, "auto" | "qemu") => {}
            "hypervisor" => self.cannot(element, format!("VM {name}: hypervisor {value}: Berth speaks to QEMU through libvirt")),
            "hypervisor_uri" | "migration_uri" if matches!(value, "auto" | "qemu:///system") => {}
            "hypervisor_uri" | "migration_uri" if value.starts_with("xen") => {
                self.cannot(element, format!("VM {name}: {key} {value}: Berth speaks to QEMU through libvirt"));
            }
            "hypervisor_uri" => self.differs(element, format!("VM {name}: hypervisor_uri {value} belongs into each agent's configuration")),
            "migration_uri" => self.differs(element, format!("VM {name}: migration_uri {value} belongs into each agent's configuration, or into the VM's migration routes")),
            "priority" => policy.start_priority = number(element, key)?.unwrap_or_default(),
            _ => self.differs(element, format!("VM {name}: the attribute {key} is not one of vm.sh and left out")),
        }
        Ok(())
    }

    fn vm_action(
        &mut self,
        action: &Element,
        name: &str,
        policy: &mut v1::VmPolicy,
    ) -> Result<(), String> {
        let handling = policy.handling.get_or_insert_with(proto::file::vm_handling);
        let given = (span_ms(action, "timeout")?, span_ms(action, "interval")?);
        if given.0 == Some(0) || given.1 == Some(0) {
            // A stop without time would be a kill here.
            self.differs(
                action,
                format!("VM {name}: a time of 0 is left out, and the usual one taken"),
            );
        }
        let some = |span: Option<u64>| span.filter(|span| *span > 0);
        let (timeout, interval) = (some(given.0), some(given.1));
        let depth = action.get("depth").unwrap_or("*");
        match required(action, "name")? {
            "start" => handling.start_timeout_ms = timeout.unwrap_or(handling.start_timeout_ms),
            "stop" => policy.stop_timeout_ms = timeout.unwrap_or(policy.stop_timeout_ms),
            "status" | "monitor" if matches!(depth, "10" | "*") => {
                handling.check_interval_ms = interval.unwrap_or(handling.check_interval_ms);
                handling.check_timeout_ms = timeout.unwrap_or(handling.check_timeout_ms);
                if depth == "*" {
                    self.differs(action, format!("VM {name}: whether its QEMU lives is told by events; interval and time-out are those of its status program"));
                }
            }
            "status" | "monitor" => self.differs(
                action,
                format!(
                    "VM {name}: whether its QEMU lives is told by events, and needs no interval"
                ),
            ),
            "migrate" => {
                let given = handling.migration.clone().unwrap_or_default();
                let mut options: MigrationOptions =
                    migration(given).map_err(|error| format!("line {}: {error}", action.line))?;
                options.timeout_ms = timeout.unwrap_or(options.timeout_ms);
                handling.migration = Some(write_migration(&options));
            }
            other => self.differs(action, format!("VM {name}: the action {other} has no settings")),
        }
        Ok(())
    }

    /// A dependency, which is looked at again when all is known.
    pub(super) fn depends(
        &mut self,
        element: &Element,
        of: String,
        on: &str,
    ) -> Result<v1::Dependency, String> {
        let dependency = dependency(element, on)?;
        self.depends.push((element.line, of, dependency.on.clone()));
        Ok(dependency)
    }

    /// Adds each of these to the VM's migration options. One that cannot be taken is said, and the others are.
    fn migration<'t>(
        &mut self,
        element: &Element,
        name: &str,
        handling: &mut v1::VmHandling,
        texts: impl Iterator<Item = &'t str>,
        add: impl Fn(&mut MigrationOptions, &str) -> Result<(), OptionError>,
    ) -> Result<(), String> {
        let given = handling.migration.clone().unwrap_or_default();
        let mut options =
            migration(given).map_err(|error| format!("line {}: {error}", element.line))?;
        for text in texts {
            let before = options.clone();
            if let Err(error) = add(&mut options, text) {
                self.cannot(element, format!("VM {name}: {text:?} is left out: {error}"));
                options = before;
            }
        }
        handling.migration = Some(write_migration(&options));
        Ok(())
    }

    /// Options that are taken and are not quite virsh's.
    fn say_what_differs(&mut self, element: &Element, name: &str, options: &[String]) {
        for option in options {
            let word = option.split([' ', '=']).next().unwrap_or_default();
            let how = match word {
                "--timeout" => {
                    "virsh suspends the guest then, so that the migration ends; here the migration is called off, and the guest runs on where it was"
                }
                "--live" => "it is left out: the mode is `migrate`, live or pause",
                "--p2p" | "--persistent" | "--undefinesource" | "--verbose" => {
                    "it is left out: migrations go from agent to agent, and a domain stays defined where it runs"
                }
                _ => continue,
            };
            self.differs(element, format!("VM {name}: migrate_options {option}: {how}"));
        }
    }

    /// Its domain XML, where it can be read here; the file then names it. A place where there is none is not taken over: no
    /// start would find it.
    fn domain_xml(
        &mut self,
        element: &Element,
        name: &str,
        handling: &mut v1::VmHandling,
    ) -> Result<String, String> {
        let root = self.places.root;
        let below = |path: &str| root.join(path.trim_start_matches('/'));
        let set = |attribute: &str| element.get(attribute).filter(|value| !value.is_empty());
        let directories: Vec<&str> =
            set("path").unwrap_or_default().split(':').filter(|it| !it.is_empty()).collect();
        for path in directories.iter().copied().chain(set("xmlfile")) {
            if !path.starts_with('/') {
                let line = element.line;
                return Err(format!("line {line}: VM {name}: {path:?} is not an absolute path"));
            }
        }
        if let Some(file) = set("xmlfile") {
            if let Some(xml) = self.look(element, name, &below(file), "read at each start") {
                handling.xml_file = file.to_owned();
                if !directories.is_empty() {
                    self.differs(
                        element,
                        format!("VM {name}: path is left out, for the xmlfile counts before it"),
                    );
                }
                return Ok(xml);
            }
            self.differs(
                element,
                format!(
                    "VM {name}: xmlfile {file} is left out, for it cannot be used here; {}",
                    take_later(name, &format!("--xml-file {file}"))
                ),
            );
        }
        if !directories.is_empty() {
            for directory in &directories {
                for file in [name.to_owned(), format!("{name}.xml")] {
                    let path = below(directory).join(file);
                    if let Some(xml) = self.look(element, name, &path, "read at each start") {
                        handling.xml_path = directories.iter().map(|it| (*it).to_owned()).collect();
                        return Ok(xml);
                    }
                }
            }
            let path = directories.join(":");
            self.differs(
                element,
                format!(
                    "VM {name}: path {path} is left out, for it leads to no domain XML here; {}",
                    take_later(name, &format!("--xml-path {path}"))
                ),
            );
        }
        let path = self.places.libvirt.join(format!("{name}.xml"));
        if let Some(xml) = self.look(element, name, &path, "libvirt's, taken into the log") {
            return Ok(xml);
        }
        self.cannot(element, format!("VM {name}: no domain XML is to be found here; `berthctl adopt {name}` takes it from the host that has it, before this file is applied; or name its file here, as xml_file of the VM"));
        Ok(String::new())
    }

    /// The domain XML in that file, if it is the VM's; what is wrong with it is said.
    fn look(&mut self, element: &Element, name: &str, path: &Path, how: &str) -> Option<String> {
        let place = path.display();
        let found = read(path).and_then(|xml| {
            let Some(xml) = xml else { return Ok(None) };
            let domain = domain_xml::parse(&xml).map_err(|error| error.to_string())?;
            match domain.name.as_str() == name {
                true => Ok(Some((xml, domain.uuid))),
                false => Err(format!("it is of the domain {}", domain.name)),
            }
        });
        match found {
            Ok(Some((xml, uuid))) => {
                let other = uuid.and_then(|uuid| self.uuids.insert(uuid, name.to_owned()));
                if let (Some(uuid), Some(other)) = (uuid, other) {
                    self.cannot(element, format!("VM {name} has the UUID {uuid} of VM {other}: one of them needs another, or `apply` refuses both"));
                }
                self.maps(element, format!("VM {name}: domain XML {place} ({how})"));
                self.xml_files.insert(name.to_owned(), path.to_owned());
                Some(xml)
            }
            Ok(None) => None,
            Err(why) => {
                self.cannot(element, format!("VM {name}: {place}: {why}"));
                None
            }
        }
    }
}

/// How a place of domain XML is given once it is there.
fn take_later(name: &str, option: &str) -> String {
    format!(
        "the definition is kept in the control plane. When every node sees it there: berthctl vm edit {name} {option}"
    )
}

/// A file's text, or nothing where there is none.
fn read(path: &Path) -> Result<Option<String>, String> {
    let kind = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("it cannot be read: {error}")),
    };
    // Opening a pipe would wait for its writer.
    if !kind.is_file() {
        return Err("it is no regular file".into());
    }
    let file = std::fs::File::open(path).map_err(|error| format!("it cannot be read: {error}"))?;
    super::text(file, domain_xml::MAX_XML_BYTES).map(Some)
}

/// virsh's options, each with its value.
fn virsh_options(text: &str) -> Vec<String> {
    let mut options: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match options.last_mut() {
            Some(option) if !word.starts_with('-') => {
                option.push(' ');
                option.push_str(word);
            }
            _ => options.push(word.to_owned()),
        }
    }
    options
}

/// What is not said at the one is said at the other.
fn add(element: &mut Element, other: &Element) {
    for (key, value) in &other.attributes {
        if element.get(key).is_none() {
            element.attributes.push((key.clone(), value.clone()));
        }
    }
    for child in &other.children {
        let said = element.children.iter().any(|known| {
            known.name == child.name
                && known.get("name") == child.get("name")
                && known.get("depth") == child.get("depth")
        });
        if !said {
            element.children.push(child.clone());
        }
    }
}

/// `depend` and `depend_mode`, of a VM and of a service alike.
fn dependency(element: &Element, on: &str) -> Result<v1::Dependency, String> {
    let mode = match element.get("depend_mode") {
        None | Some("" | "hard") => "hard",
        Some("soft") => "soft",
        Some(other) => {
            let line = element.line;
            return Err(format!("line {line}: depend_mode={other:?} is neither hard nor soft"));
        }
    };
    let on = if on.contains(':') { on.to_owned() } else { format!("service:{on}") };
    Ok(v1::Dependency { on, mode: mode.into() })
}

/// `exclusive`, of a VM and of a service alike: yes, or a number.
pub(super) fn exclusive(element: &Element) -> Result<u32, String> {
    match number(element, "exclusive") {
        Ok(number) => Ok(number.unwrap_or_default()),
        Err(_) => Ok(u32::from(flag(element, "exclusive")?)),
    }
}
