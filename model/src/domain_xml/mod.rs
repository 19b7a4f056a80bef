//! What a libvirt domain XML says: name, UUID, memory, processors, disks and what ties it to its host, read with limits.
//!
//! Source: libvirt's domain format (formatdomain). The text itself is kept as it was given; only a missing UUID is
//! filled in ([`ParsedDomain::xml_with_uuid`]). libvirt validates the rest at the start.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::id::VmName;

mod element;
mod host_tie;

use element::{Element, error_at};
pub use host_tie::{HostTie, KeepsFrom};

/// The largest domain XML taken: well above real ones, and below what one log entry may hold (stack: no value above
/// 100 KiB in the store).
pub const MAX_XML_BYTES: usize = 64 * 1024;
/// What libvirt's QEMU driver runs. Others are refused: that a VM is gone is known by its QEMU process.
const TYPES: &[&str] = &["kvm", "qemu"];

/// A disk or other block source of a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// What it is, in one comparable text: `file:/a/b`, `block:/dev/x`, `rbd:pool/image`, `volume:pool/name`.
    pub source: String,
    /// Marked `<readonly/>`, or a CD-ROM.
    pub readonly: bool,
    /// Marked `<shareable/>`.
    pub shareable: bool,
}

/// A domain XML that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedDomain {
    /// `<name>`.
    pub name: VmName,
    /// `<uuid>`, where there is one.
    pub uuid: Option<Uuid>,
    /// `<memory>`, or the sum of its NUMA cells and memory devices where there are such; rounded up.
    pub memory_mib: u64,
    /// `<vcpu>`; 1 where there is none, as in libvirt.
    pub vcpus: u32,
    /// `<devices><disk>` with a source.
    pub disks: Vec<Disk>,
    /// What ties it to its host.
    pub host_ties: Vec<HostTie>,
    /// The byte just after `</name>`.
    after_name: usize,
}

/// Why a text is not a valid domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct DomainXmlError {
    /// From 1.
    pub line: usize,
    /// A sentence without its stop.
    pub reason: String,
}

impl ParsedDomain {
    /// The text with `uuid` in it, for one that had none; libvirt would else make up another at each start.
    pub fn xml_with_uuid(&self, xml: &str, uuid: Uuid) -> String {
        let (head, tail) = xml.split_at(self.after_name);
        let mut text = String::with_capacity(xml.len() + 64);
        // Writing to a String cannot fail.
        let _ = write!(text, "{head}\n  <uuid>{uuid}</uuid>{tail}");
        text
    }
}

/// Reads a domain XML.
pub fn parse(xml: &str) -> Result<ParsedDomain, DomainXmlError> {
    if xml.len() > MAX_XML_BYTES {
        return Err(DomainXmlError {
            line: 1,
            reason: format!(
                "the domain XML has {} bytes, more than the {MAX_XML_BYTES} that are taken",
                xml.len()
            ),
        });
    }
    // A byte order mark is no text of the document.
    let bytes = xml.strip_prefix('\u{feff}').unwrap_or(xml);
    let skipped = xml.len() - bytes.len();
    let facts = Facts { xml: bytes };
    let domain = element::read(bytes)?;
    facts.check_root(&domain)?;
    let name = facts.one(&domain, "name")?;
    let name = name.ok_or_else(|| facts.error(&domain, "<domain> has no <name>"))?;
    // libvirt takes the name as it stands, so nothing is trimmed here.
    if name.text.trim().is_empty() && !name.text.is_empty() {
        return Err(facts.error(name, "<name> is nothing but white space"));
    }
    Ok(ParsedDomain {
        name: VmName::new(&name.text).map_err(|error| facts.error(name, error.to_string()))?,
        uuid: facts.uuid(&domain)?,
        memory_mib: facts.memory_mib(&domain)?,
        vcpus: facts.vcpus(&domain)?,
        disks: domain.all("devices").flat_map(|all| all.all("disk")).filter_map(disk).collect(),
        host_ties: host_tie::of_domain(&domain),
        after_name: skipped + name.span.end,
    })
}

/// A text that facts are read from.
struct Facts<'x> {
    xml: &'x str,
}

impl Facts<'_> {
    fn error(&self, element: &Element, reason: impl Into<String>) -> DomainXmlError {
        error_at(self.xml, element.span.end, reason)
    }

    fn check_root(&self, domain: &Element) -> Result<(), DomainXmlError> {
        let refused = |reason: String| Err(error_at(self.xml, domain.span.start, reason));
        match (domain.name.as_str(), domain.attribute("type")) {
            ("domain", Some(kind)) if TYPES.contains(&kind) => Ok(()),
            ("domain", Some(kind)) => refused(format!(
                "the domain's type is {kind:?}; Berth runs those of QEMU: {}",
                TYPES.join(", ")
            )),
            ("domain", None) => {
                refused("<domain> has no type attribute, such as type='kvm'".into())
            }
            // What virsh dumps of a snapshot, a checkpoint or a state file has the domain inside.
            (name @ ("domainsnapshot" | "domaincheckpoint" | "domstatus"), _) => {
                refused(format!("the outermost element is <{name}>; take the <domain> out of it"))
            }
            (name, _) => refused(format!("the outermost element is <{name}>, not <domain>")),
        }
    }

    fn one<'a>(
        &self,
        domain: &'a Element,
        name: &'a str,
    ) -> Result<Option<&'a Element>, DomainXmlError> {
        let mut all = domain.all(name);
        let first = all.next();
        match all.next() {
            Some(second) => Err(self.error(second, format!("<{name}> stands twice"))),
            None => Ok(first),
        }
    }

    fn uuid(&self, domain: &Element) -> Result<Option<Uuid>, DomainXmlError> {
        let Some(element) = self.one(domain, "uuid")? else { return Ok(None) };
        let text = element.text.trim();
        let uuid = Uuid::parse_str(text)
            .map_err(|error| self.error(element, format!("<uuid> {text}: {error}")))?;
        if uuid.is_nil() {
            return Err(self.error(element, "<uuid> is all zeroes, which names no domain"));
        }
        Ok(Some(uuid))
    }

    fn vcpus(&self, domain: &Element) -> Result<u32, DomainXmlError> {
        let Some(element) = self.one(domain, "vcpu")? else { return Ok(1) };
        let text = element.text.trim();
        // libvirt: an empty one is one.
        if text.is_empty() {
            return Ok(1);
        }
        text.parse().ok().filter(|count| *count > 0).ok_or_else(|| {
            self.error(element, format!("<vcpu> {text}: not a number of processors"))
        })
    }

    /// As libvirt has it: what NUMA cells say takes the place of `<memory>`, and memory devices come on top of them.
    fn memory_mib(&self, domain: &Element) -> Result<u64, DomainXmlError> {
        let memory = self.one(domain, "memory")?;
        let given = match memory {
            Some(memory) => Some(self.bytes(memory, memory.text.trim(), "memory")?),
            None => None,
        };
        let mut cells = 0u128;
        let numa = domain.all("cpu").flat_map(|cpu| cpu.all("numa"));
        for cell in numa.flat_map(|numa| numa.all("cell")) {
            if let Some(text) = cell.attribute("memory") {
                cells += self.bytes(cell, text, "cell")?;
            }
        }
        let mut plugged = 0u128;
        let devices = domain.all("devices").flat_map(|devices| devices.all("memory"));
        for device in devices.filter(|_| cells > 0) {
            let target = device.child("target");
            for size in target.into_iter().flat_map(|target| target.all("size")) {
                plugged += self.bytes(size, size.text.trim(), "size")?;
            }
        }
        let bytes = match (cells, given) {
            (0, Some(given)) => given,
            (0, None) => return Err(self.error(domain, "<domain> has no <memory>")),
            (cells, _) => cells + plugged,
        };
        let mib = bytes.div_ceil(1 << 20);
        let place = memory.unwrap_or(domain);
        u64::try_from(mib)
            .ok()
            .filter(|mib| (1..=u64::from(u32::MAX)).contains(mib))
            .ok_or_else(|| self.error(place, format!("a memory of {bytes} bytes is out of range")))
    }

    /// The units are those of libvirt's "scaled integers": K and KiB are 1024, KB is 1000; the default is KiB.
    fn bytes(&self, element: &Element, amount: &str, what: &str) -> Result<u128, DomainXmlError> {
        let unit = element.attribute("unit").unwrap_or("KiB");
        let scale: u128 = match unit.to_ascii_lowercase().as_str() {
            "b" | "byte" | "bytes" => 1,
            "kb" => 1_000,
            "k" | "kib" => 1 << 10,
            "mb" => 1_000_000,
            "m" | "mib" => 1 << 20,
            "gb" => 1_000_000_000,
            "g" | "gib" => 1 << 30,
            "tb" => 1_000_000_000_000,
            "t" | "tib" => 1 << 40,
            "pb" => 1_000_000_000_000_000,
            "p" | "pib" => 1 << 50,
            "eb" => 1_000_000_000_000_000_000,
            "e" | "eib" => 1 << 60,
            _ => {
                return Err(self.error(element, format!("<{what}> has the unknown unit {unit}")));
            }
        };
        let amount: u64 = amount
            .parse()
            .map_err(|_| self.error(element, format!("<{what}> {amount}: not a whole number")))?;
        Ok(u128::from(amount) * scale)
    }
}

/// A disk with a source; an empty drive is none.
fn disk(device: &Element) -> Option<Disk> {
    let source = device.child("source")?;
    let text = ["file", "dev", "dir"]
        .into_iter()
        .zip(["file", "block", "dir"])
        .find_map(|(key, word)| source.attribute(key).map(|value| format!("{word}:{value}")));
    let text = text.or_else(|| {
        let (pool, volume) = source.attribute("pool").zip(source.attribute("volume"))?;
        Some(format!("volume:{pool}/{volume}"))
    });
    let text = text.or_else(|| {
        let name = source.attribute("name").unwrap_or_default();
        source.attribute("protocol").map(|protocol| format!("{protocol}:{name}"))
    })?;
    Some(Disk {
        source: text,
        readonly: device.has("device", "cdrom") || device.child("readonly").is_some(),
        shareable: device.child("shareable").is_some(),
    })
}

#[cfg(test)]
mod tests;
