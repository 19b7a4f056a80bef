//! The mark in a domain's metadata that names its cluster and generation: by it a domain is known as Berth's, adopted
//! or not.

use quick_xml::events::Event;
use quick_xml::reader::Reader;
use uuid::Uuid;

/// Our namespace in `<metadata>`.
pub const NAMESPACE: &str = "https://berth.example/domain/1";
/// The prefix libvirt writes it with.
pub const PREFIX: &str = "berth";

/// Whose a domain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The cluster's UUID.
    pub cluster: Uuid,
    /// The ownership it was started or adopted under.
    pub generation: u64,
}

impl Mark {
    /// The element as `virDomainSetMetadata` takes it.
    pub fn element(&self) -> String {
        format!("<owner cluster=\"{}\" generation=\"{}\"/>", self.cluster, self.generation)
    }

    fn qualified(&self) -> String {
        format!(
            "<{PREFIX}:owner xmlns:{PREFIX}=\"{NAMESPACE}\" cluster=\"{}\" generation=\"{}\"/>",
            self.cluster, self.generation
        )
    }
}

/// Reads a mark as `virDomainGetMetadata` gives it; `None` for an element that is none.
pub fn read(element: &str) -> Option<Mark> {
    let mut reader = Reader::from_str(element);
    loop {
        let tag = match reader.read_event().ok()? {
            Event::Start(tag) | Event::Empty(tag) => tag,
            Event::Eof => return None,
            _ => continue,
        };
        let attribute = |name: &str| {
            let found = tag.attributes().flatten().find(|it| it.key.0 == name)?;
            Some(found.value.into_owned())
        };
        let cluster = Uuid::parse_str(attribute("cluster")?.as_ref()).ok()?;
        let generation = attribute("generation")?.parse().ok()?;
        return Some(Mark { cluster, generation });
    }
}

/// The mark in a domain XML, as [`insert`] puts it there.
pub fn in_domain(xml: &str) -> Option<Mark> {
    let begin = xml.find(&format!("<{PREFIX}:owner"))?;
    read(&xml[begin..])
}

/// Why a mark could not be put into a domain XML.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the domain XML cannot be read: {0}")]
pub struct MarkError(String);

/// The domain XML with the mark in it, and everything else as it was, byte for byte. A mark that is there is replaced.
pub fn insert(xml: &str, mark: &Mark) -> Result<String, MarkError> {
    let mut reader = Reader::from_str(xml);
    let mut path: Vec<String> = Vec::new();
    // Where the new mark goes, and what it takes the place of.
    let mut place: Option<(usize, usize, String)> = None;
    let mut old: Option<(usize, usize)> = None;
    let mut opened_mark = 0;
    loop {
        let before = reader.buffer_position() as usize;
        let event = reader.read_event().map_err(|error| MarkError(error.to_string()))?;
        let after = reader.buffer_position() as usize;
        match event {
            Event::Start(tag) => {
                path.push(tag.name().0.to_owned());
                match parts(&path).as_slice() {
                    ["domain", "metadata"] => place = Some((after, after, mark.qualified())),
                    ["domain", "metadata", "berth:owner"] => opened_mark = before,
                    _ => {}
                }
            }
            Event::Empty(tag) => {
                path.push(tag.name().0.to_owned());
                match parts(&path).as_slice() {
                    ["domain", "metadata"] => {
                        place = Some((
                            before,
                            after,
                            format!("<metadata>{}</metadata>", mark.qualified()),
                        ));
                    }
                    ["domain", "metadata", "berth:owner"] => old = Some((before, after)),
                    _ => {}
                }
                path.pop();
            }
            Event::End(_) => {
                match parts(&path).as_slice() {
                    ["domain", "metadata", "berth:owner"] => old = Some((opened_mark, after)),
                    ["domain", "name"] if place.is_none() => {
                        place = Some((
                            after,
                            after,
                            format!("<metadata>{}</metadata>", mark.qualified()),
                        ));
                    }
                    _ => {}
                }
                path.pop();
            }
            Event::Eof => break,
            _ => {}
        }
    }
    match (old, place) {
        (Some((start, end)), _) => {
            Ok(format!("{}{}{}", &xml[..start], mark.qualified(), &xml[end..]))
        }
        (None, Some((start, end, text))) => Ok(format!("{}{text}{}", &xml[..start], &xml[end..])),
        (None, None) => Err(MarkError("it has no <name>".into())),
    }
}

fn parts(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark { cluster: Uuid::nil(), generation: 7 };

    #[test]
    fn the_mark_is_added_and_nothing_else_is_touched() {
        let mark = MARK.qualified();
        for (before, after) in [
            (
                "<domain><name>v</name>\n</domain>",
                format!("<domain><name>v</name><metadata>{mark}</metadata>\n</domain>"),
            ),
            (
                "<domain><name>v</name><metadata/></domain>",
                format!("<domain><name>v</name><metadata>{mark}</metadata></domain>"),
            ),
            (
                "<domain><name>v</name><metadata><x:y xmlns:x='z'/></metadata></domain>",
                format!(
                    "<domain><name>v</name><metadata>{mark}<x:y xmlns:x='z'/></metadata></domain>"
                ),
            ),
            (
                "<domain><metadata> <k/></metadata><name>v</name></domain>",
                format!("<domain><metadata>{mark} <k/></metadata><name>v</name></domain>"),
            ),
        ] {
            assert_eq!(insert(before, &MARK).unwrap(), after);
        }
    }

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        assert_eq!(read(&MARK.element()), Some(MARK));
        assert_eq!(read(&MARK.qualified()), Some(MARK));
        assert_eq!(read("<owner cluster='x' generation='7'/>"), None);
        assert_eq!(read(""), None);
    }

    #[test]
    fn an_older_mark_is_replaced() {
        let once =
            insert("<domain><name>v</name></domain>", &Mark { generation: 3, ..MARK }).unwrap();
        let twice = insert(&once, &MARK).unwrap();
        assert!(
            twice.contains("generation=\"7\"") && !twice.contains("generation=\"3\""),
            "{twice}"
        );
    }
}
