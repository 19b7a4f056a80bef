//! `<vm>`: each attribute of `vm.sh`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use model::domain_xml;
use model::handling::MigrationOptions;
use proto::convert::handling::{migration, write_migration};
use proto::v1;

use super::cluster::unique;
use super::xml::Element;
use super::{Import, flag, number, required, span_ms};

type Resources = BTreeMap<(String, String), Element>;

impl Import<'_> {
    /// The element with what its `ref` and the defaults of its type add to it.
    pub(super) fn whole(
        &self,
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
        let xml = self.domain_xml(element, &name, policy.handling.as_ref());
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
        let fault = |why: String| format!("line {}: <vm {key}={value:?}>: {why}", element.line);
        let handling = policy.handling.get_or_insert_with(proto::file::vm_handling);
        match key {
            "name" => {}
            "domain" if self.fleet.failover_domains.iter().any(|domain| domain.name == value) => {
                policy.failover_domain = Some(value.to_owned());
            }
            "domain" => self.differs(element, format!("VM {name}: there is no failover domain {value}; it runs anywhere, as with RGManager")),
            "autostart" => policy.autostart = Some(flag(element, key)?),
            "exclusive" => policy.exclusive = exclusive(element)?,
            "recovery" => policy.recovery = value.to_owned(),
            "migrate" if value == "live" => policy.migration = "live".into(),
            "migrate" => policy.migration = "pause".into(),
            "migration_mapping" | "migrate_options" | "tunnelled" => {
                let given = handling.migration.clone().unwrap_or_default();
                let mut options = migration(given).map_err(|error| fault(error.to_string()))?;
                let added = match key {
                    "migration_mapping" => options.add_mapping(value),
                    "migrate_options" => options.add_virsh(value),
                    _ => {
                        options.tunnelled = flag(element, key)?;
                        Ok(())
                    }
                };
                match added {
                    Ok(()) => handling.migration = Some(write_migration(&options)),
                    // The rest of the options stays as it is; what is wrong here can be mended by hand.
                    Err(error) => self.cannot(element, format!("VM {name}: {key}: {error}")),
                }
            }
            "xmlfile" if element.get("path").is_none_or(str::is_empty) => handling.xml_file = value.to_owned(),
            "xmlfile" => self.differs(element, format!("VM {name}: xmlfile counts before path with RGManager; path is taken, for both cannot be")),
            "path" => handling.xml_path = value.split(':').filter(|it| !it.is_empty()).map(Into::into).collect(),
            "snapshot" => {
                handling.save_dir = value.to_owned();
                self.differs(element, format!("VM {name}: snapshot: a save is restored only where it was made; say save_shared where all nodes see {value}"));
            }
            "depend" => policy.depend.push(dependency(element, value)?),
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
            "hypervisor_uri" | "migration_uri" if value == "auto" => {}
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
        let (timeout, interval) = (span_ms(action, "timeout")?, span_ms(action, "interval")?);
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

    /// Its domain XML, where it can be read here; the file then names it.
    fn domain_xml(
        &mut self,
        element: &Element,
        name: &str,
        handling: Option<&v1::VmHandling>,
    ) -> String {
        let below = |path: &str| self.places.root.join(path.trim_start_matches('/'));
        let mut candidates: Vec<PathBuf> = Vec::new();
        for directory in handling.map(|handling| handling.xml_path.as_slice()).unwrap_or_default() {
            candidates.push(below(directory).join(name));
            candidates.push(below(directory).join(format!("{name}.xml")));
        }
        if let Some(file) =
            handling.map(|handling| &handling.xml_file).filter(|file| !file.is_empty())
        {
            candidates.push(below(file));
        }
        let shared = candidates.len();
        candidates.push(self.places.libvirt.join(format!("{name}.xml")));
        for (number, path) in candidates.iter().enumerate() {
            let Ok(xml) = read(path) else { continue };
            match domain_xml::parse(&xml) {
                Ok(domain) if domain.name.as_str() != name => {
                    self.cannot(
                        element,
                        format!("VM {name}: {} is of the domain {}", path.display(), domain.name),
                    );
                }
                Ok(_) => {
                    let place = if number < shared {
                        "read at each start"
                    } else {
                        "libvirt's, taken into the log"
                    };
                    self.maps(
                        element,
                        format!("VM {name}: domain XML {} ({place})", path.display()),
                    );
                    self.xml_files.insert(name.to_owned(), path.clone());
                    return xml;
                }
                Err(error) => {
                    self.cannot(element, format!("VM {name}: {}: {error}", path.display()))
                }
            }
        }
        self.cannot(element, format!("VM {name}: no domain XML is to be found here; `berthctl adopt {name}` takes it from the host that has it, before this file is applied"));
        String::new()
    }
}

fn read(path: &Path) -> Result<String, std::io::Error> {
    if std::fs::metadata(path)?.len() > domain_xml::MAX_XML_BYTES as u64 {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    std::fs::read_to_string(path)
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
pub(super) fn dependency(element: &Element, on: &str) -> Result<v1::Dependency, String> {
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
