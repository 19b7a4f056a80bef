//! A small tree of elements with their lines, read with limits.

use std::collections::BTreeSet;

use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

/// A real one has some kilobytes, a thousand VMs half a megabyte.
pub(super) const MAX_BYTES: usize = 8 * 1024 * 1024;
const MAX_DEPTH: usize = 64;
const MAX_ELEMENTS: usize = 200_000;

/// An element.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) name: String,
    /// In the order of the file, without those that were looked at.
    pub(super) attributes: Vec<(String, String)>,
    pub(super) children: Vec<Element>,
    /// From 1.
    pub(super) line: usize,
}

impl Element {
    /// An attribute's value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The children of that name.
    pub(super) fn all<'e>(&'e self, name: &'e str) -> impl Iterator<Item = &'e Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The children of that name below the children of the other.
    pub(super) fn below<'e>(
        &'e self,
        outer: &'e str,
        inner: &'e str,
    ) -> impl Iterator<Item = &'e Element> {
        self.all(outer).flat_map(move |child| child.all(inner))
    }
}

/// Reads a file, or says what is wrong with it and in which line.
pub(super) fn parse(text: &str) -> Result<Element, String> {
    if text.len() > MAX_BYTES {
        return Err(format!(
            "it has {} bytes, more than the {MAX_BYTES} that are taken",
            text.len()
        ));
    }
    let mut reader = Reader::from_str(text);
    let mut lines = Lines { text: text.as_bytes(), at: 0, line: 1 };
    let mut open: Vec<Element> = Vec::new();
    let mut root = None;
    let mut count = 0;
    loop {
        let line = lines.to(reader.buffer_position() as usize);
        let fault = |why: String| format!("line {line}: {why}");
        let event = match reader.read_event() {
            Ok(event) => event,
            Err(error) => {
                let line = lines.to(reader.error_position() as usize);
                return Err(format!("line {line}: {error}"));
            }
        };
        // The element begins where the blank before it ends.
        match event {
            Event::Start(tag) | Event::Empty(tag) if open.len() >= MAX_DEPTH => {
                return Err(fault(format!(
                    "<{}> is nested more than {MAX_DEPTH} deep",
                    tag.name().0
                )));
            }
            Event::Start(tag) => {
                count += 1;
                open.push(element(&tag, line).map_err(fault)?);
            }
            Event::Empty(tag) => {
                count += 1;
                let element = element(&tag, line).map_err(fault)?;
                close(element, &mut open, &mut root).map_err(fault)?;
            }
            Event::End(_) => {
                let Some(element) = open.pop() else {
                    return Err(fault("an element ends that has not begun".into()));
                };
                close(element, &mut open, &mut root).map_err(fault)?;
            }
            Event::DocType(_) => {
                return Err(fault(
                    "a document type declaration is not taken: it could define entities".into(),
                ));
            }
            Event::GeneralRef(reference)
                if quick_xml::escape::resolve_predefined_entity(&reference).is_none()
                    && !matches!(reference.resolve_char_ref(), Ok(Some(_))) =>
            {
                return Err(fault(format!("the entity &{}; is not known", &*reference)));
            }
            Event::Eof => break,
            _ => {}
        }
        if count > MAX_ELEMENTS {
            return Err(fault(format!("there are more than {MAX_ELEMENTS} elements")));
        }
    }
    if let Some(unclosed) = open.last() {
        return Err(format!("line {}: <{}> is not closed", unclosed.line, unclosed.name));
    }
    root.ok_or_else(|| "there is no element in it".into())
}

struct Lines<'t> {
    text: &'t [u8],
    at: usize,
    line: usize,
}

impl Lines<'_> {
    fn to(&mut self, position: usize) -> usize {
        let position = position.clamp(self.at, self.text.len());
        self.line += self.text[self.at..position].iter().filter(|byte| **byte == b'\n').count();
        self.at = position;
        self.line
    }
}

fn element(tag: &BytesStart<'_>, line: usize) -> Result<Element, String> {
    let name = tag.name().0.to_owned();
    let mut attributes = Vec::new();
    let mut seen = BTreeSet::new();
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|error| format!("<{name}>: {error}"))?;
        let key = attribute.key.0.to_owned();
        let value = attribute
            .normalized_value(XmlVersion::Implicit1_0)
            .map_err(|error| format!("<{name} {key}>: {error}"))?
            .into_owned();
        if !seen.insert(key.clone()) {
            return Err(format!("<{name}> has the attribute {key} twice"));
        }
        attributes.push((key, value));
    }
    Ok(Element { name, attributes, children: Vec::new(), line })
}

fn close(element: Element, open: &mut [Element], root: &mut Option<Element>) -> Result<(), String> {
    match open.last_mut() {
        Some(parent) => parent.children.push(element),
        None if root.is_some() => {
            return Err(format!("a second outermost element <{}>", element.name));
        }
        None => *root = Some(element),
    }
    Ok(())
}
