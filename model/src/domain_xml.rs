//! What a libvirt domain XML says: name, UUID, memory, processors and disks, read with limits.
//!
//! Source: libvirt's domain format (formatdomain). The text itself is kept as it was given; only a missing UUID is
//! filled in ([`ParsedDomain::xml_with_uuid`]). libvirt validates the rest at the start.

use std::fmt::Write as _;

use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::id::VmName;

/// The largest domain XML taken: well above real ones, and below what one log entry may hold (stack: no value above
/// 100 KiB in the store).
pub const MAX_XML_BYTES: usize = 64 * 1024;
/// Deeper than any element of libvirt's format.
const MAX_DEPTH: usize = 64;

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
    /// `<memory>`, rounded up.
    pub memory_mib: u64,
    /// `<vcpu>`; 1 where there is none, as in libvirt.
    pub vcpus: u32,
    /// `<devices><disk>` with a source.
    pub disks: Vec<Disk>,
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
    let mut walk =
        Walk { xml, reader: Reader::from_str(xml), path: Vec::new(), found: Found::default() };
    walk.run()?;
    walk.finish()
}

#[derive(Default)]
struct Found {
    root: bool,
    name: Option<String>,
    after_name: usize,
    uuid: Option<Uuid>,
    memory_mib: Option<u64>,
    vcpus: Option<u32>,
    disks: Vec<Disk>,
    disk: Option<OpenDisk>,
    unit: Option<String>,
    text: String,
}

#[derive(Default)]
struct OpenDisk {
    source: Option<String>,
    readonly: bool,
    shareable: bool,
}

struct Walk<'x> {
    xml: &'x str,
    reader: Reader<&'x [u8]>,
    path: Vec<String>,
    found: Found,
}

impl<'x> Walk<'x> {
    fn error_at(&self, position: u64, reason: impl Into<String>) -> DomainXmlError {
        let end = (position as usize).min(self.xml.len());
        let line = 1 + self.xml.as_bytes()[..end].iter().filter(|byte| **byte == b'\n').count();
        DomainXmlError { line, reason: reason.into() }
    }

    fn error(&self, reason: impl Into<String>) -> DomainXmlError {
        self.error_at(self.reader.buffer_position(), reason)
    }

    fn run(&mut self) -> Result<(), DomainXmlError> {
        loop {
            let event = match self.reader.read_event() {
                Ok(event) => event,
                Err(error) => {
                    return Err(self.error_at(self.reader.error_position(), error.to_string()));
                }
            };
            match event {
                Event::Start(tag) => self.open(&tag)?,
                Event::Empty(tag) => {
                    self.open(&tag)?;
                    self.close()?;
                }
                Event::End(_) => self.close()?,
                Event::Text(text) => {
                    if self.path.is_empty() && !text.trim().is_empty() {
                        return Err(self.error("there is text outside the <domain> element"));
                    }
                    self.found.text.push_str(&text.xml10_content());
                }
                Event::CData(text) => self.found.text.push_str(&text.xml10_content()),
                Event::GeneralRef(reference) => self.reference(&reference)?,
                Event::DocType(_) => {
                    return Err(self.error(
                        "a document type declaration is not taken: it could define entities",
                    ));
                }
                Event::Eof if self.path.is_empty() => return Ok(()),
                Event::Eof => {
                    let open = self.path.last().cloned().unwrap_or_default();
                    return Err(self.error(format!("the text ends inside <{open}>")));
                }
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            }
        }
    }

    fn reference(
        &mut self,
        reference: &quick_xml::events::BytesRef<'_>,
    ) -> Result<(), DomainXmlError> {
        match reference.resolve_char_ref() {
            Ok(Some(character)) => self.found.text.push(character),
            Ok(None) => match quick_xml::escape::resolve_predefined_entity(reference) {
                Some(text) => self.found.text.push_str(text),
                None => {
                    return Err(self.error(format!("the entity &{};  is not known", &**reference)));
                }
            },
            Err(error) => return Err(self.error(error.to_string())),
        }
        Ok(())
    }

    fn attribute(
        &self,
        tag: &BytesStart<'_>,
        name: &str,
    ) -> Result<Option<String>, DomainXmlError> {
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(|error| self.error(error.to_string()))?;
            if attribute.key.0 == name {
                let value = attribute
                    .normalized_value(XmlVersion::Implicit1_0)
                    .map_err(|error| self.error(error.to_string()))?;
                return Ok(Some(value.into_owned()));
            }
        }
        Ok(None)
    }

    fn open(&mut self, tag: &BytesStart<'_>) -> Result<(), DomainXmlError> {
        let name = tag.name().0.to_owned();
        if self.path.is_empty() {
            if self.found.root {
                return Err(self.error(format!("a second element <{name}> follows the <domain>")));
            }
            if name != "domain" {
                return Err(self.error(format!("the outermost element is <{name}>, not <domain>")));
            }
            if self.attribute(tag, "type")?.is_none() {
                return Err(self.error("<domain> has no type attribute, such as type='kvm'"));
            }
            self.found.root = true;
        }
        if self.path.len() >= MAX_DEPTH {
            return Err(self.error(format!("elements are nested more than {MAX_DEPTH} deep")));
        }
        self.path.push(name);
        self.found.text.clear();
        self.element(tag)
    }

    fn element(&mut self, tag: &BytesStart<'_>) -> Result<(), DomainXmlError> {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        match path.as_slice() {
            ["domain", "memory"] => self.found.unit = self.attribute(tag, "unit")?,
            ["domain", "devices", "disk"] => {
                let readonly = self.attribute(tag, "device")?.as_deref() == Some("cdrom");
                self.found.disk = Some(OpenDisk { readonly, ..OpenDisk::default() });
            }
            ["domain", "devices", "disk", "source"] => {
                let source = self.disk_source(tag)?;
                if let Some(disk) = &mut self.found.disk {
                    disk.source = source;
                }
            }
            ["domain", "devices", "disk", flag @ ("readonly" | "shareable")] => {
                let readonly = *flag == "readonly";
                if let Some(disk) = &mut self.found.disk {
                    disk.readonly |= readonly;
                    disk.shareable |= !readonly;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn disk_source(&self, tag: &BytesStart<'_>) -> Result<Option<String>, DomainXmlError> {
        for (attribute, word) in [("file", "file"), ("dev", "block"), ("dir", "dir")] {
            if let Some(value) = self.attribute(tag, attribute)? {
                return Ok(Some(format!("{word}:{value}")));
            }
        }
        if let (Some(pool), Some(volume)) =
            (self.attribute(tag, "pool")?, self.attribute(tag, "volume")?)
        {
            return Ok(Some(format!("volume:{pool}/{volume}")));
        }
        let protocol = self.attribute(tag, "protocol")?;
        let name = self.attribute(tag, "name")?;
        Ok(protocol.map(|protocol| format!("{protocol}:{}", name.unwrap_or_default())))
    }

    fn close(&mut self) -> Result<(), DomainXmlError> {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let text = self.found.text.trim().to_owned();
        match path.as_slice() {
            ["domain", "name"] => {
                self.once(self.found.name.is_some(), "name")?;
                // libvirt takes the name as it stands, so nothing is trimmed here.
                self.found.name = Some(std::mem::take(&mut self.found.text));
                self.found.after_name = self.reader.buffer_position() as usize;
            }
            ["domain", "uuid"] => {
                self.once(self.found.uuid.is_some(), "uuid")?;
                let uuid = Uuid::parse_str(&text)
                    .map_err(|error| self.error(format!("<uuid> {text}: {error}")))?;
                self.found.uuid = Some(uuid);
            }
            ["domain", "memory"] => {
                self.once(self.found.memory_mib.is_some(), "memory")?;
                self.found.memory_mib = Some(self.memory(&text)?);
            }
            ["domain", "vcpu"] => {
                let vcpus = text.parse().ok().filter(|count| *count > 0);
                self.found.vcpus = Some(vcpus.ok_or_else(|| {
                    self.error(format!("<vcpu> {text}: not a number of processors"))
                })?);
            }
            ["domain", "devices", "disk"] => {
                if let Some(OpenDisk { source: Some(source), readonly, shareable }) =
                    self.found.disk.take()
                {
                    self.found.disks.push(Disk { source, readonly, shareable });
                }
            }
            _ => {}
        }
        self.path.pop();
        self.found.text.clear();
        Ok(())
    }

    fn once(&self, had: bool, element: &str) -> Result<(), DomainXmlError> {
        if had { Err(self.error(format!("<{element}> stands twice"))) } else { Ok(()) }
    }

    /// The units are those of libvirt's "scaled integers": K and KiB are 1024, KB is 1000; the default is KiB.
    fn memory(&self, text: &str) -> Result<u64, DomainXmlError> {
        let unit = self.found.unit.as_deref().unwrap_or("KiB");
        let bytes: u128 = match unit.to_ascii_lowercase().as_str() {
            "b" | "byte" | "bytes" => 1,
            "kb" => 1_000,
            "k" | "kib" => 1 << 10,
            "mb" => 1_000_000,
            "m" | "mib" => 1 << 20,
            "gb" => 1_000_000_000,
            "g" | "gib" => 1 << 30,
            "tb" => 1_000_000_000_000,
            "t" | "tib" => 1 << 40,
            _ => return Err(self.error(format!("<memory> has the unknown unit {unit}"))),
        };
        let amount: u64 =
            text.parse().map_err(|_| self.error(format!("<memory> {text}: not a whole number")))?;
        let mib = (u128::from(amount) * bytes).div_ceil(1 << 20);
        if amount == 0 || mib > u128::from(u32::MAX) {
            return Err(self.error(format!("<memory> {text} {unit} is out of range")));
        }
        Ok(mib as u64)
    }

    fn finish(self) -> Result<ParsedDomain, DomainXmlError> {
        if !self.found.root {
            return Err(self.error("there is no <domain> element"));
        }
        let name =
            self.found.name.as_deref().ok_or_else(|| self.error("<domain> has no <name>"))?;
        let name = VmName::new(name).map_err(|error| self.error(error.to_string()))?;
        let memory_mib =
            self.found.memory_mib.ok_or_else(|| self.error("<domain> has no <memory>"))?;
        Ok(ParsedDomain {
            name,
            uuid: self.found.uuid,
            memory_mib,
            vcpus: self.found.vcpus.unwrap_or(1),
            disks: self.found.disks,
            after_name: self.found.after_name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "<domain type='qemu'>\n <name>a &amp; b</name>\n <memory unit='MB'>64</memory>\n</domain>\n";

    #[test]
    fn a_small_domain_is_read_with_libvirts_defaults() {
        let domain = parse(SMALL).unwrap();
        assert_eq!(domain.name.as_str(), "a & b");
        assert_eq!((domain.memory_mib, domain.vcpus, domain.uuid), (62, 1, None));
    }

    #[test]
    fn a_missing_uuid_is_filled_in_and_the_rest_is_left_alone() {
        let uuid = Uuid::from_u128(7);
        let filled = parse(SMALL).unwrap().xml_with_uuid(SMALL, uuid);
        assert_eq!(parse(&filled).unwrap().uuid, Some(uuid));
        assert_eq!(filled.replace(&format!("\n  <uuid>{uuid}</uuid>"), ""), SMALL);
    }

    #[test]
    fn disks_are_named_by_their_source() {
        let xml = "<domain type='kvm'><name>v</name><memory>1048576</memory><vcpu placement='static'>4</vcpu><devices>
            <disk type='file' device='disk'><source file='/a.img'/><target dev='vda'/></disk>
            <disk type='network'><source protocol='rbd' name='pool/x'><host name='h'/></source><shareable/></disk>
            <disk type='file' device='cdrom'><source file='/b.iso'/></disk>
            <disk type='file' device='cdrom'><target dev='hda'/></disk></devices></domain>";
        let domain = parse(xml).unwrap();
        assert_eq!((domain.memory_mib, domain.vcpus), (1024, 4));
        let disks: Vec<_> = domain
            .disks
            .iter()
            .map(|disk| (disk.source.as_str(), disk.readonly, disk.shareable))
            .collect();
        assert_eq!(
            disks,
            [
                ("file:/a.img", false, false),
                ("rbd:pool/x", false, true),
                ("file:/b.iso", true, false)
            ]
        );
    }

    #[test]
    fn what_is_not_a_domain_is_refused_with_the_line_and_the_reason() {
        for (xml, line, reason) in [
            ("", 1, "no <domain>"),
            ("hello", 1, "outside the <domain>"),
            ("<network/>", 1, "<network>, not <domain>"),
            ("<domain>\n</domain>", 1, "no type attribute"),
            ("<domain type='kvm'>\n<name>v</name>\n</domain>", 3, "no <memory>"),
            ("<domain type='kvm'>\n<memory>1</memory></domain>", 2, "no <name>"),
            ("<domain type='kvm'>\n<name>v</nam>", 2, "</nam>"),
            ("<domain type='kvm'>\n\n<name>v", 3, "ends inside <name>"),
            ("<domain type='kvm'>\n<name>v</name>\n<name>w</name>", 3, "stands twice"),
            (
                "<domain type='kvm'>\n<name>a/b</name><memory>1</memory></domain>",
                2,
                "may not contain '/'",
            ),
            (
                "<domain type='kvm'><name>v</name>\n<memory unit='parsec'>1</memory></domain>",
                2,
                "unit parsec",
            ),
            (
                "<domain type='kvm'><name>v</name>\n<memory>many</memory></domain>",
                2,
                "not a whole number",
            ),
            ("<domain type='kvm'>\n<uuid>12</uuid></domain>", 2, "<uuid> 12"),
            ("<!DOCTYPE d [<!ENTITY x 'y'>]>\n<domain type='kvm'/>", 1, "document type"),
            ("<domain type='kvm'>\n<name>&x;</name></domain>", 2, "entity &x;"),
        ] {
            let error = parse(xml).unwrap_err();
            assert!(error.reason.contains(reason), "{xml:?}: {error}");
            assert_eq!(error.line, line, "{xml:?}: {error}");
        }
    }

    #[test]
    fn a_huge_text_is_refused_before_it_is_read() {
        let xml = format!(
            "<domain type='kvm'><name>v</name><!--{}--></domain>",
            "x".repeat(MAX_XML_BYTES)
        );
        assert!(parse(&xml).unwrap_err().reason.contains("more than"));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[<>/&;='\"a-z \n]{0,200}") {
            let _ = parse(&format!("<domain type='kvm'>{text}</domain>"));
            let _ = parse(&text);
        }
    }
}
