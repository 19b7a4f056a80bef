//! What ties a domain to the host it runs on: what keeps it from migrating, and what a start elsewhere would not find.
//!
//! Source: libvirt's formatdomain, and what `virDomainMigrate` of its QEMU driver refuses. What only the running QEMU or
//! the host's file systems can tell is left to libvirt's own check when the migration begins.

use serde::{Deserialize, Serialize};

use super::element::Element;

/// One thing that ties a domain to its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostTie {
    /// The thing, for sentences: "the host's PCI device 0000:06:12.5".
    pub what: String,
    /// What it keeps the domain from.
    pub keeps_from: KeepsFrom,
}

/// What a tie keeps a domain from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeepsFrom {
    /// It cannot be migrated while it has this.
    Migrating,
    /// It migrates, and takes this along; but when it is started elsewhere this is missing, or another one.
    FindingItElsewhere,
}

impl KeepsFrom {
    /// The word on the wire and for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Migrating => "migrating",
            Self::FindingItElsewhere => "finding-it-elsewhere",
        }
    }
}

/// Names that a kernel gives to disks in the order in which it finds them: on another host, another disk.
const KERNEL_DISKS: &[&str] = &["/dev/sd", "/dev/hd", "/dev/vd", "/dev/xvd", "/dev/nvme"];

/// Drives that people put discs into.
const DRIVES: &[&str] = &["/dev/sr", "/dev/scd", "/dev/cdrom", "/dev/dvd"];

/// All ties of a domain, in the order in which they stand.
pub(super) fn of_domain(domain: &Element) -> Vec<HostTie> {
    let devices = domain.all("devices").flat_map(|devices| &devices.children);
    let mut ties: Vec<HostTie> = devices.filter_map(of_device).collect();
    ties.extend(unstable_clock(domain));
    ties.extend(domain.child("launchSecurity").map(|security| {
        let kind = security.attribute("type").unwrap_or("of no type");
        migrating(format!("its memory, which is encrypted for this host (launchSecurity {kind})"))
    }));
    ties.extend(firmware_variables(domain));
    if domain.children.iter().any(|child| is_of_qemu(domain, child, "commandline")) {
        ties.push(elsewhere("arguments of its own for QEMU, which Berth does not read".to_owned()));
    }
    ties
}

/// The namespace of what libvirt hands to QEMU unread. The prefix is the author's choice, `qemu` only by habit.
const QEMU_NAMESPACE: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

/// Whether a child of the domain is that element of QEMU's namespace.
fn is_of_qemu(domain: &Element, child: &Element, name: &str) -> bool {
    let (declared, local) = match child.name.split_once(':') {
        Some((prefix, local)) => (format!("xmlns:{prefix}"), local),
        None => ("xmlns".to_owned(), child.name.as_str()),
    };
    // The innermost declaration counts.
    let namespace = child.attribute(&declared).or(domain.attribute(&declared));
    local == name && namespace == Some(QEMU_NAMESPACE)
}

fn migrating(what: String) -> HostTie {
    HostTie { what, keeps_from: KeepsFrom::Migrating }
}

fn elsewhere(what: String) -> HostTie {
    HostTie { what, keeps_from: KeepsFrom::FindingItElsewhere }
}

fn of_device(device: &Element) -> Option<HostTie> {
    match device.name.as_str() {
        "hostdev" => host_device(device),
        "disk" => disk(device),
        "filesystem" => {
            let source = device.child("source");
            let place = source.and_then(|it| it.attribute("dir").or(it.attribute("socket")));
            Some(migrating(format!("the host's file system {}", place.unwrap_or("it is given"))))
        }
        "interface" => interface(device),
        "tpm" => trusted_platform(device.child("backend")?),
        "shmem" => {
            let name = device.attribute("name").unwrap_or_default();
            let legacy = device.of_child("model", "type").is_none_or(|model| model == "ivshmem");
            let tied = legacy || !device.has("role", "master");
            tied.then(|| migrating(format!("memory shared with others on its host ({name})")))
        }
        "input" if device.has("type", "passthrough") => {
            let place = device.of_child("source", "evdev").unwrap_or_default();
            Some(migrating(format!("the host's input device {place}")))
        }
        "smartcard" => {
            let mode = device.attribute("mode").filter(|mode| mode.starts_with("host"))?;
            Some(migrating(format!("a smart card of its host ({mode})")))
        }
        "memory" => match device.attribute("model")? {
            "sgx-epc" => Some(migrating("memory in the processor's enclave (sgx-epc)".into())),
            "nvdimm" | "virtio-pmem" => {
                let path = device.child("source")?.child("path")?.text.trim();
                Some(elsewhere(format!("persistent memory in {path}")))
            }
            _ => None,
        },
        "serial" | "parallel" | "console" | "channel" if device.has("type", "dev") => {
            let path = device.of_child("source", "path").unwrap_or_default();
            Some(elsewhere(format!("the host's device {path}")))
        }
        _ => None,
    }
}

/// A device that QEMU unplugs for the migration, as the transient half of a network team.
fn is_unplugged(device: &Element) -> bool {
    device.child("teaming").is_some_and(|teaming| teaming.has("type", "transient"))
}

fn host_device(device: &Element) -> Option<HostTie> {
    if device.has("mode", "capabilities") {
        let kind = device.attribute("type").unwrap_or_default();
        return Some(migrating(format!("a capability of its host ({kind})")));
    }
    let source = device.child("source");
    match device.attribute("type").unwrap_or_default() {
        "pci" if is_unplugged(device) => None,
        "pci" => {
            let address = source.and_then(|source| source.child("address"));
            Some(migrating(format!("the host's PCI device {}", pci_address(address))))
        }
        // QEMU lets it go; the guest finds it at the target only where there is one like it.
        "usb" => Some(elsewhere(format!("the host's USB device {}", usb_address(source)))),
        "mdev" => {
            let address = source.and_then(|source| source.of_child("address", "uuid"));
            Some(migrating(format!("the host's mediated device {}", address.unwrap_or_default())))
        }
        // iSCSI is reached from every host, but the device is opened through this one.
        kind => Some(migrating(format!("a {kind} device of its host"))),
    }
}

/// `0000:06:12.5`, as lspci writes it.
fn pci_address(address: Option<&Element>) -> String {
    let part = |name: &str| {
        let text = address.and_then(|address| address.attribute(name)).unwrap_or("0");
        match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => text.parse(),
        }
        .unwrap_or_default()
    };
    format!(
        "{:04x}:{:02x}:{:02x}.{:x}",
        part("domain"),
        part("bus"),
        part("slot"),
        part("function")
    )
}

fn usb_address(source: Option<&Element>) -> String {
    let Some(source) = source else { return String::new() };
    match (source.of_child("vendor", "id"), source.of_child("product", "id")) {
        (Some(vendor), Some(product)) => {
            let digits = |id: &str| id.trim_start_matches("0x").to_owned();
            format!("{}:{}", digits(vendor), digits(product))
        }
        _ => {
            let part = |name| source.of_child("address", name).unwrap_or("?").to_owned();
            format!("at bus {} device {}", part("bus"), part("device"))
        }
    }
}

fn disk(device: &Element) -> Option<HostTie> {
    let source = device.child("source")?;
    if device.child("transient").is_some() {
        return Some(migrating("a disk whose changes are thrown away (transient)".into()));
    }
    if device.has("type", "nvme") {
        return Some(migrating(format!(
            "the host's NVMe disk {}",
            pci_address(source.child("address"))
        )));
    }
    let writes = device.child("readonly").is_none() && !device.has("device", "cdrom");
    if let Some(path) = source.attribute("dir").filter(|_| device.has("type", "dir") && writes) {
        return Some(migrating(format!("the host's directory {path} as a disk that it writes to")));
    }
    let path = source.attribute("dev")?;
    let is_one_of = |prefixes: &[&str]| prefixes.iter().any(|prefix| path.starts_with(prefix));
    if is_one_of(DRIVES) {
        return Some(elsewhere(format!("the host's drive {path}")));
    }
    if !is_one_of(KERNEL_DISKS) {
        return None;
    }
    Some(match writes {
        true => migrating(format!(
            "the local disk {path}, a name that another host gives to another disk (those in /dev/disk and /dev/mapper are the same everywhere)"
        )),
        false => elsewhere(format!("the local disk {path}")),
    })
}

fn interface(device: &Element) -> Option<HostTie> {
    match device.attribute("type")? {
        "hostdev" if is_unplugged(device) => None,
        "hostdev" => {
            let address = device.child("source").and_then(|source| source.child("address"));
            Some(migrating(format!("the host's network device {}", pci_address(address))))
        }
        "vdpa" => {
            let path = device.of_child("source", "dev").unwrap_or_default();
            Some(migrating(format!("the host's vDPA device {path}")))
        }
        _ => None,
    }
}

/// A TPM that swtpm emulates migrates with its state; the state of another host's start is a new one.
fn trusted_platform(backend: &Element) -> Option<HostTie> {
    match backend.attribute("type")? {
        "passthrough" => {
            let path = backend.of_child("device", "path").unwrap_or("/dev/tpm0");
            Some(migrating(format!("the host's TPM {path}")))
        }
        "emulator" => Some(elsewhere(
            "the TPM's state, which swtpm keeps on the host unless /var/lib/libvirt/swtpm is shared"
                .into(),
        )),
        _ => None,
    }
}

/// QEMU migrates no guest with an invariant time-stamp counter unless its frequency is set.
fn unstable_clock(domain: &Element) -> Option<HostTie> {
    let asked = domain.child("cpu")?.all("feature").any(|feature| {
        feature.has("name", "invtsc")
            && !matches!(feature.attribute("policy"), Some("disable" | "forbid" | "optional"))
    });
    let mut timers = domain.all("clock").flat_map(|clock| clock.all("timer"));
    let set =
        timers.any(|timer| timer.has("name", "tsc") && timer.attribute("frequency").is_some());
    (asked && !set).then(|| {
        migrating(
            "the CPU feature invtsc without a frequency (<timer name='tsc' frequency=…>)".into(),
        )
    })
}

fn firmware_variables(domain: &Element) -> Option<HostTie> {
    let os = domain.child("os")?;
    let efi = os.has("firmware", "efi")
        || os.child("loader").is_some_and(|loader| loader.has("type", "pflash"));
    let nvram = os.child("nvram");
    if !efi && nvram.is_none() {
        return None;
    }
    // Over the network it is the same one everywhere.
    if nvram.is_some_and(|nvram| nvram.has("type", "network")) {
        return None;
    }
    let place = nvram.map(|nvram| nvram.text.trim()).filter(|path| !path.is_empty());
    Some(elsewhere(format!(
        "the firmware's variables in {}",
        place.unwrap_or("/var/lib/libvirt/qemu/nvram")
    )))
}
