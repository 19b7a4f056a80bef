//! RGManager's `cluster.conf` as Berth's declarative file, with a word on everything in it: what maps, what differs and
//! what cannot be. Nothing is asked of a cluster, nothing is started or stopped.
//!
//! Source: RGManager reference, sections 1, 2 and 6; cluster.conf(5) of RHEL 6.

mod agents;
mod cluster;
mod service;
mod vm;
mod xml;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use proto::convert::fleet::canonical;
use proto::v1;
use serde::Serialize;
use uuid::Uuid;

use crate::fleet::file::{self, NodeEntry};
use xml::Element;

/// How well a thing came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// It is the same in Berth.
    Maps,
    /// It is something else in Berth, or not needed.
    Differs,
    /// There is no such thing, and something has to be done by hand.
    Cannot,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Of the cluster.conf, from 1.
    pub line: usize,
    /// How well it came over.
    pub word: Word,
    /// What, and how.
    pub text: String,
}

impl Line {
    /// As people read it.
    pub fn text(&self) -> String {
        let word = match self.word {
            Word::Maps => "maps   ",
            Word::Differs => "differs",
            Word::Cannot => "cannot ",
        };
        format!("{word} line {}: {}", self.line, self.text)
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// The declarative file.
    pub file: String,
    /// A word on everything.
    pub report: Vec<Line>,
}

/// Where domain XML is looked for.
pub struct Places<'p> {
    /// What the paths in the cluster.conf are below; `/` on a host of the cluster.
    pub root: &'p Path,
    /// Where libvirt keeps its definitions.
    pub libvirt: &'p Path,
}

/// What is made while the file is read.
struct Import<'p> {
    places: Places<'p>,
    fleet: v1::Fleet,
    nodes: BTreeMap<String, NodeEntry>,
    xml_files: BTreeMap<String, PathBuf>,
    /// Whose each UUID is.
    uuids: BTreeMap<Uuid, String>,
    defaults: BTreeMap<String, Element>,
    /// Resources and fence devices that something refers to, by type and name.
    used: BTreeSet<(String, String)>,
    /// What was said of dependencies: the line, whose it is, and on what.
    depends: Vec<(usize, String, String)>,
    report: Vec<Line>,
}

impl Import<'_> {
    fn say(&mut self, word: Word, line: usize, text: impl Into<String>) {
        self.report.push(Line { line, word, text: text.into() });
    }

    fn maps(&mut self, element: &Element, text: impl Into<String>) {
        self.say(Word::Maps, element.line, text);
    }

    fn differs(&mut self, element: &Element, text: impl Into<String>) {
        self.say(Word::Differs, element.line, text);
    }

    fn cannot(&mut self, element: &Element, text: impl Into<String>) {
        self.say(Word::Cannot, element.line, text);
    }
}

/// The text of a cluster.conf. What has no end, as a device has none, is left where it is too much.
pub fn open(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| format!("it cannot be read: {error}"))?;
    text(file, xml::MAX_BYTES)
}

/// All of it, when it is not more than that.
fn text(file: std::fs::File, most: usize) -> Result<String, String> {
    let mut text = String::new();
    file.take(most as u64 + 1)
        .read_to_string(&mut text)
        .map_err(|error| format!("it cannot be read: {error}"))?;
    match text.len() > most {
        true => Err(format!("it has more than the {most} bytes that are taken")),
        false => Ok(text),
    }
}

/// Reads a cluster.conf.
pub fn import(text: &str, places: Places<'_>) -> Result<Imported, String> {
    let root = xml::parse(text)?;
    if root.name != "cluster" {
        return Err(format!(
            "line {}: the outermost element is <{}>, not <cluster>",
            root.line, root.name
        ));
    }
    let mut import = Import {
        places,
        fleet: v1::Fleet::default(),
        nodes: BTreeMap::new(),
        xml_files: BTreeMap::new(),
        uuids: BTreeMap::new(),
        defaults: BTreeMap::new(),
        used: BTreeSet::new(),
        depends: Vec::new(),
        report: Vec::new(),
    };
    import.cluster(&root)?;
    import.report.sort_by_key(|line| line.line);
    let fleet = canonical(import.fleet)?;
    let file = file::write_part(&fleet, import.nodes, &import.xml_files)?;
    Ok(Imported { file, report: import.report })
}

/// RGManager's yes and no.
fn flag(element: &Element, name: &str) -> Result<bool, String> {
    match element.get(name).map(str::to_ascii_lowercase).as_deref() {
        None | Some("" | "0" | "no" | "false" | "off") => Ok(false),
        Some("1" | "yes" | "true" | "on") => Ok(true),
        Some(other) => Err(format!(
            "line {}: <{} {name}={other:?}> is neither 0 nor 1",
            element.line, element.name
        )),
    }
}

fn number(element: &Element, name: &str) -> Result<Option<u32>, String> {
    let Some(text) = element.get(name).filter(|text| !text.trim().is_empty()) else {
        return Ok(None);
    };
    text.trim().parse().map(Some).map_err(|_| {
        format!("line {}: <{} {name}={text:?}> is not a whole number", element.line, element.name)
    })
}

/// RGManager's spans: `90`, `90s`, `1h30m`, in milliseconds.
fn span_ms(element: &Element, name: &str) -> Result<Option<u64>, String> {
    let Some(text) = element.get(name).filter(|text| !text.trim().is_empty()) else {
        return Ok(None);
    };
    let fault = || {
        let name = format!("<{} {name}={text:?}>", element.name);
        format!("line {}: {name} is not a time such as 90, 90s or 1h30m", element.line)
    };
    let (mut seconds, mut digits) = (0u64, String::new());
    for character in text.trim().chars() {
        if character.is_ascii_digit() {
            digits.push(character);
            continue;
        }
        let unit = match character.to_ascii_lowercase() {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return Err(fault()),
        };
        let value: u64 = std::mem::take(&mut digits).parse().map_err(|_| fault())?;
        seconds =
            value.checked_mul(unit).and_then(|it| it.checked_add(seconds)).ok_or_else(fault)?;
    }
    if !digits.is_empty() {
        let value: u64 = digits.parse().map_err(|_| fault())?;
        seconds = seconds.checked_add(value).ok_or_else(fault)?;
    }
    seconds.checked_mul(1_000).map(Some).ok_or_else(fault)
}

fn required<'e>(element: &'e Element, name: &str) -> Result<&'e str, String> {
    element
        .get(name)
        .filter(|value| !value.is_empty())
        .ok_or_else(|| format!("line {}: <{}> has no {name}", element.line, element.name))
}
