//! Domain XML files: read and checked here, so that what is not a domain is refused before anything is sent.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use model::domain_xml::{self, MAX_XML_BYTES, ParsedDomain};
use uuid::Uuid;

use crate::exit::{Failure, Kind};

/// One file that holds a valid domain.
#[derive(Debug)]
pub struct DomainFile {
    /// As it was given; `-` is standard input.
    pub path: PathBuf,
    /// Its text, byte for byte.
    pub xml: String,
    /// What it says.
    pub domain: ParsedDomain,
}

fn refused(text: String) -> Failure {
    Failure::new(Kind::Input, text)
}

/// Reads one file; no more of it than a domain may have.
pub fn read(path: &Path) -> Result<DomainFile, Failure> {
    let place = path.display();
    let cannot = |error: std::io::Error| refused(format!("{place} cannot be read: {error}"));
    let mut bytes = Vec::new();
    // One more than is taken, so that the parser sees that it is too much.
    let limit = MAX_XML_BYTES as u64 + 1;
    if path == Path::new("-") {
        std::io::stdin().take(limit).read_to_end(&mut bytes).map_err(cannot)?;
    } else {
        let file = std::fs::File::open(path).map_err(cannot)?;
        file.take(limit).read_to_end(&mut bytes).map_err(cannot)?;
    }
    if bytes.len() > MAX_XML_BYTES {
        return Err(refused(format!(
            "{place} is not a valid domain: it has more than the {MAX_XML_BYTES} bytes that are taken"
        )));
    }
    let xml = String::from_utf8(bytes).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        refused(format!(
            "{place} is not a valid domain: line {line}: it is not UTF-8 text; `iconv -t UTF-8` makes it so"
        ))
    })?;
    let domain = domain_xml::parse(&xml)
        .map_err(|error| refused(format!("{place} is not a valid domain: {error}")))?;
    Ok(DomainFile { path: path.to_owned(), xml, domain })
}

/// Reads files that belong together: a name, a UUID or a file that comes twice is refused, with both places.
pub fn read_all(paths: &[PathBuf]) -> Result<Vec<DomainFile>, Failure> {
    let mut files: Vec<DomainFile> = Vec::new();
    let mut names: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut uuids: BTreeMap<Uuid, PathBuf> = BTreeMap::new();
    let mut real: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for path in paths {
        let place = path.display();
        if let Ok(target) = std::fs::canonicalize(path)
            && let Some(first) = real.insert(target, path.clone())
        {
            let first = first.display();
            return Err(refused(format!("{place} is the same file as {first}; name it once")));
        }
        let file = read(path)?;
        if let Some(first) = names.insert(file.domain.name.to_string(), path.clone()) {
            let (name, first) = (&file.domain.name, first.display());
            return Err(refused(format!(
                "{place} and {first} both hold a domain named {name}; give one another name"
            )));
        }
        if let Some(uuid) = file.domain.uuid
            && let Some(first) = uuids.insert(uuid, path.clone())
        {
            let first = first.display();
            return Err(refused(format!(
                "{place} and {first} both hold a domain with UUID {uuid}; give one another, or leave <uuid> out"
            )));
        }
        files.push(file);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn xml(name: &str, uuid: u128) -> String {
        let uuid = Uuid::from_u128(uuid);
        format!(
            "<domain type='kvm'>\n<name>{name}</name><uuid>{uuid}</uuid><memory>1024</memory></domain>"
        )
    }

    #[test]
    fn a_file_that_is_not_a_domain_is_refused_with_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let text = "<domain type='kvm'>\n<name>v</name>\n<memory>many</memory></domain>";
        let failure = read(&write(directory.path(), "bad.xml", text)).unwrap_err();
        assert_eq!(failure.kind.code(), 9);
        assert!(failure.message.contains("line 3: <memory> many"), "{}", failure.message);
        let latin =
            write(directory.path(), "latin.xml", b"<domain type='kvm'>\n<name>v\xe4</name>");
        let failure = read(&latin).unwrap_err();
        assert!(failure.message.contains("line 2: it is not UTF-8"), "{}", failure.message);
        let huge = write(directory.path(), "huge.xml", vec![b' '; MAX_XML_BYTES + 1]);
        assert!(read(&huge).unwrap_err().message.contains("more than"));
        let missing = read(&directory.path().join("none.xml")).unwrap_err();
        assert!(missing.message.contains("cannot be read"), "{}", missing.message);
    }

    #[test]
    fn what_comes_twice_is_refused_with_both_places() {
        let directory = tempfile::tempdir().unwrap();
        let one = write(directory.path(), "one.xml", xml("a", 1));
        let link = directory.path().join("link.xml");
        std::os::unix::fs::symlink(&one, &link).unwrap();
        let same_name = write(directory.path(), "name.xml", xml("a", 2));
        let same_uuid = write(directory.path(), "uuid.xml", xml("b", 1));
        let other = write(directory.path(), "other.xml", xml("c", 3));
        for (second, what) in [
            (link, "the same file"),
            (same_name, "both hold a domain named a"),
            (same_uuid, "UUID 00000000-0000-0000-0000-000000000001"),
        ] {
            let failure = read_all(&[one.clone(), second.clone()]).unwrap_err();
            for text in [what, "one.xml", &*second.file_name().unwrap().to_string_lossy()] {
                assert!(failure.message.contains(text), "{}", failure.message);
            }
        }
        assert_eq!(read_all(&[one, other]).unwrap().len(), 2);
    }
}
