//! A domain XML that lies in a file on storage its nodes share (RGManager's `xmlfile` and `path`). Blocks.
//!
//! RGManager never compared what it found with the VM it was to start, so that a copied file with another name in it
//! started another VM; here both name and UUID have to fit.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use model::domain_xml::{self, MAX_XML_BYTES};
use model::handling::DomainSource;
use uuid::Uuid;

/// The domain XML of this VM. An XML without a UUID gets the VM's.
pub fn read(source: &DomainSource, vm: &str, uuid: Uuid) -> Result<String, String> {
    let (path, xml) = match source {
        DomainSource::Stored => return Err("its domain XML lies in no file".into()),
        DomainSource::File(file) => {
            let path = PathBuf::from(file);
            let xml = text(&path)?.ok_or_else(|| format!("{file} is not there"))?;
            (path, xml)
        }
        DomainSource::Search(directories) => search(directories, vm)?,
    };
    let place = path.display();
    let domain = domain_xml::parse(&xml)
        .map_err(|error| format!("{place} is not a valid domain: {error}"))?;
    if domain.name.as_str() != vm {
        return Err(format!("{place} is the domain {}, not {vm}", domain.name));
    }
    match domain.uuid {
        None => Ok(domain.xml_with_uuid(&xml, uuid)),
        Some(found) if found == uuid => Ok(xml),
        Some(found) => Err(format!("{place} has the UUID {found}, and {vm} is {uuid}")),
    }
}

/// The first of NAME and NAME.xml in these directories.
fn search(directories: &[String], vm: &str) -> Result<(PathBuf, String), String> {
    for directory in directories {
        for name in [vm.to_owned(), format!("{vm}.xml")] {
            let path = Path::new(directory).join(name);
            if let Some(xml) = text(&path)? {
                return Ok((path, xml));
            }
        }
    }
    Err(format!("neither {vm} nor {vm}.xml is in {}", directories.join(", ")))
}

/// `None` where there is no such file.
fn text(path: &Path) -> Result<Option<String>, String> {
    let place = path.display();
    let unreadable = |error: std::io::Error| format!("{place} cannot be read: {error}");
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(unreadable(error)),
    };
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Ok(None);
    }
    let mut xml = String::new();
    // One byte more than is taken, so that the parser sees that it is too long.
    file.take(MAX_XML_BYTES as u64 + 1).read_to_string(&mut xml).map_err(unreadable)?;
    Ok(Some(xml))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xml(name: &str, uuid: Option<Uuid>) -> String {
        let uuid = uuid.map(|uuid| format!("<uuid>{uuid}</uuid>")).unwrap_or_default();
        format!("<domain type='kvm'><name>{name}</name>{uuid}<memory>1024</memory></domain>")
    }

    #[test]
    fn name_and_uuid_of_a_file_have_to_be_the_vms() {
        let directory = tempfile::tempdir().unwrap();
        let (uuid, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let path = directory.path().join("v.xml");
        let source = DomainSource::File(path.display().to_string());
        let with = |text: &str| {
            std::fs::write(&path, text).unwrap();
            read(&source, "v", uuid)
        };
        assert_eq!(with(&xml("v", Some(uuid))).unwrap(), xml("v", Some(uuid)));
        assert!(with(&xml("v", None)).unwrap().contains(&uuid.to_string()));
        for (text, said) in [
            (xml("w", Some(uuid)), "is the domain w, not v"),
            (xml("v", Some(other)), "has the UUID 00000000-0000-0000-0000-000000000002"),
            ("<domain>".to_owned(), "is not a valid domain"),
            (" ".repeat(MAX_XML_BYTES + 100), "more than the"),
        ] {
            let error = with(&text).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(read(&source, "v", uuid).unwrap_err().contains("is not there"));
    }

    #[test]
    fn the_first_hit_of_the_search_path_is_taken_and_directories_are_no_hits() {
        let directory = tempfile::tempdir().unwrap();
        let uuid = Uuid::from_u128(1);
        let of = |name: &str| directory.path().join(name).display().to_string();
        for name in ["a/v", "b"] {
            std::fs::create_dir_all(of(name)).unwrap();
        }
        let source = DomainSource::Search(vec![of("missing"), of("a"), of("b")]);
        let error = read(&source, "v", uuid).unwrap_err();
        assert!(error.contains("neither v nor v.xml is in"), "{error}");
        std::fs::write(of("b/v.xml"), xml("v", Some(uuid))).unwrap();
        assert!(read(&source, "v", uuid).is_ok());
        std::fs::write(of("a/v.xml"), xml("w", Some(uuid))).unwrap();
        assert!(read(&source, "v", uuid).unwrap_err().contains("a/v.xml is the domain w"));
    }
}
