//! RGManager's cluster.conf as a file for `apply`.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::cmd::Context;
use crate::exit::{Failure, Kind};
use crate::import::{Places, Word, import, open};
use crate::render;

/// Where what the cluster.conf speaks of is found.
pub(super) struct Where<'p> {
    pub(super) root: &'p Path,
    pub(super) libvirt: &'p Path,
}

pub(super) fn run(
    cx: &Context,
    path: &Path,
    below: Where<'_>,
    output: Option<&Path>,
) -> Result<(), Failure> {
    let input = |why: String| Failure::new(Kind::Input, format!("{}: {why}", path.display()));
    let text = open(path).map_err(input)?;
    // What is found there is named in the file, which may lie in another directory.
    let root = std::path::absolute(below.root).map_err(|error| input(error.to_string()))?;
    let libvirt = root.join(below.libvirt.strip_prefix("/").unwrap_or(below.libvirt));
    let imported = import(&text, Places { root: &root, libvirt: &libvirt }).map_err(input)?;
    if cx.json {
        render::json(&imported.report);
    } else {
        for line in &imported.report {
            render::line(&line.text());
        }
        let count = |word: Word| imported.report.iter().filter(|line| line.word == word).count();
        render::line(&format!(
            "{} map, {} differ, {} cannot; nothing was started or stopped",
            count(Word::Maps),
            count(Word::Differs),
            count(Word::Cannot)
        ));
    }
    let Some(output) = output else { return Ok(()) };
    write(output, &imported.file).map_err(|error| {
        Failure::new(Kind::Input, format!("{} cannot be written: {error}", output.display()))
    })?;
    if !cx.json {
        render::line(&format!("{0} is written; next: berthctl diff -f {0}", output.display()));
    }
    Ok(())
}

/// Readable for its owner only: it holds the passwords of fence devices. One that is there is not written over.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let directory = path.parent().filter(|it| !it.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(directory.unwrap_or(Path::new(".")))?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    Ok(())
}
