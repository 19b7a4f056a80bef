//! The elements of a domain XML as a small tree, read with limits. Names are kept as they are written, prefix and all:
//! what is not understood is left alone.

use std::ops::Range;

use quick_xml::XmlVersion;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::reader::Reader;

use super::DomainXmlError;

/// Deeper than any element of libvirt's format.
const MAX_DEPTH: usize = 64;

/// An element with all that is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) name: String,
    attributes: Vec<(String, String)>,
    pub(super) children: Vec<Element>,
    /// Its own text, references resolved.
    pub(super) text: String,
    /// The bytes from the `<` of its start to the `>` of its end.
    pub(super) span: Range<usize>,
}

impl Element {
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn has(&self, name: &str, value: &str) -> bool {
        self.attribute(name) == Some(value)
    }

    /// All children of that name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The first child of that name.
    pub(super) fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// An attribute of the first child of that name.
    pub(super) fn of_child(&self, child: &str, attribute: &str) -> Option<&str> {
        self.child(child)?.attribute(attribute)
    }
}

/// The error of a place in the text.
pub(super) fn error_at(xml: &str, position: usize, reason: impl Into<String>) -> DomainXmlError {
    let before = &xml.as_bytes()[..position.min(xml.len())];
    let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
    DomainXmlError { line, reason: reason.into() }
}

/// Reads the one outermost element.
pub(super) fn read(xml: &str) -> Result<Element, DomainXmlError> {
    let mut walk =
        Walk { xml, reader: Reader::from_str(xml), open: Vec::new(), root: None, began: 0 };
    walk.run()?;
    let end = xml.len();
    walk.root.ok_or_else(|| error_at(xml, end, "there is no <domain> element"))
}

struct Walk<'x> {
    xml: &'x str,
    reader: Reader<&'x [u8]>,
    open: Vec<Element>,
    root: Option<Element>,
    /// Where the event that is looked at began.
    began: usize,
}

impl Walk<'_> {
    fn error(&self, reason: impl Into<String>) -> DomainXmlError {
        error_at(self.xml, self.reader.buffer_position() as usize, reason)
    }

    fn run(&mut self) -> Result<(), DomainXmlError> {
        loop {
            self.began = self.reader.buffer_position() as usize;
            let event = match self.reader.read_event() {
                Ok(event) => event,
                Err(error) => {
                    let position = self.reader.error_position() as usize;
                    return Err(error_at(self.xml, position, error.to_string()));
                }
            };
            match event {
                Event::Start(tag) => self.open(&tag)?,
                Event::Empty(tag) => {
                    self.open(&tag)?;
                    self.close();
                }
                Event::End(_) => self.close(),
                Event::Text(text) => self.text(&text.xml10_content())?,
                Event::CData(text) => self.text(&text.xml10_content())?,
                Event::GeneralRef(reference) => self.reference(&reference)?,
                Event::DocType(_) => {
                    return Err(self.error(
                        "a document type declaration is not taken: it could define entities",
                    ));
                }
                Event::Eof => return self.end(),
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            }
        }
    }

    fn end(&self) -> Result<(), DomainXmlError> {
        match self.open.last() {
            None => Ok(()),
            Some(open) => Err(self.error(format!("the text ends inside <{}>", open.name))),
        }
    }

    fn text(&mut self, text: &str) -> Result<(), DomainXmlError> {
        match self.open.last_mut() {
            Some(element) => element.text.push_str(text),
            None if text.trim().is_empty() => {}
            None => return Err(self.error("there is text outside the <domain> element")),
        }
        Ok(())
    }

    fn reference(&mut self, reference: &BytesRef<'_>) -> Result<(), DomainXmlError> {
        let character = match reference.resolve_char_ref() {
            Ok(character) => character,
            Err(error) => return Err(self.error(error.to_string())),
        };
        match (character, quick_xml::escape::resolve_predefined_entity(reference)) {
            (Some(character), _) => self.text(character.encode_utf8(&mut [0; 4])),
            (None, Some(text)) => self.text(text),
            (None, None) => Err(self.error(format!("the entity &{}; is not known", &**reference))),
        }
    }

    fn open(&mut self, tag: &BytesStart<'_>) -> Result<(), DomainXmlError> {
        let name = tag.name().0.to_owned();
        if self.open.is_empty() && self.root.is_some() {
            return Err(self.error(format!("a second element <{name}> follows the <domain>")));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(self.error(format!("elements are nested more than {MAX_DEPTH} deep")));
        }
        let mut attributes = Vec::new();
        for attribute in tag.attributes() {
            let attribute = attribute.map_err(|error| self.error(error.to_string()))?;
            let value = attribute
                .normalized_value(XmlVersion::Implicit1_0)
                .map_err(|error| self.error(error.to_string()))?;
            attributes.push((attribute.key.0.to_owned(), value.into_owned()));
        }
        self.open.push(Element {
            name,
            attributes,
            children: Vec::new(),
            text: String::new(),
            span: self.began..self.reader.buffer_position() as usize,
        });
        Ok(())
    }

    /// The reader refuses an end without its start, so there is always one open.
    fn close(&mut self) {
        let Some(mut element) = self.open.pop() else { return };
        element.span.end = self.reader.buffer_position() as usize;
        match self.open.last_mut() {
            Some(parent) => parent.children.push(element),
            None => self.root = Some(element),
        }
    }
}
