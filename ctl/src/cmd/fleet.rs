//! The declarative file: apply, diff, export.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use proto::v1;
use tonic::Response;

use crate::cmd::Context;
use crate::exit::{Failure, Kind};
use crate::fleet::diff::{self, Change};
use crate::fleet::file;
use crate::render;

/// All that operators define.
pub(super) async fn get(cx: &Context) -> Result<v1::Fleet, Failure> {
    cx.cluster
        .ask(|mut client| async move {
            client.get_fleet(v1::GetFleetRequest {}).await.map(Response::into_inner)
        })
        .await
}

fn input(path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::new(Kind::Input, format!("{}: {why}", path.display()))
}

/// The revision the changes are based on, and the changes.
async fn compare(cx: &Context, path: &Path) -> Result<(u64, Vec<Change>), Failure> {
    let (text, directory) = file::open(path).map_err(|why| Failure::new(Kind::Input, why))?;
    let read = file::read(&text).map_err(|why| input(path, why))?;
    let now = get(cx).await?;
    let wanted = file::wanted(read, &now, &directory).map_err(|why| input(path, why))?;
    if wanted.configuration != now.configuration {
        return Err(Failure::new(
            Kind::Refused,
            format!(
                "{} is based on revision {}, and the cluster was configured at revision {} since; export it again, or take `based_on` out to go on from what is there now",
                path.display(),
                wanted.configuration,
                now.configuration
            ),
        ));
    }
    Ok((now.configuration, diff::changes(&now, &wanted)))
}

fn show(cx: &Context, changes: &[Change]) {
    if cx.json {
        render::json(&changes);
    } else if changes.is_empty() {
        render::line("nothing would change");
    } else {
        render::line(&changes.iter().map(Change::text).collect::<Vec<_>>().join("\n"));
    }
}

pub(super) async fn diff(cx: &Context, path: &Path, exit_code: bool) -> Result<(), Failure> {
    let (_, changes) = compare(cx, path).await?;
    show(cx, &changes);
    if exit_code && !changes.is_empty() {
        let text = format!("{} changes would be made", changes.len());
        return Err(Failure::new(Kind::OperationFailed, text));
    }
    Ok(())
}

pub(super) async fn apply(
    cx: &Context,
    path: &Path,
    dry_run: bool,
    yes: bool,
) -> Result<(), Failure> {
    let (based_on, changes) = compare(cx, path).await?;
    if dry_run || changes.is_empty() {
        show(cx, &changes);
        return Ok(());
    }
    if !cx.json {
        show(cx, &changes);
    }
    if !yes {
        confirm(changes.len())?;
    }
    let (_, reply) = cx.cluster.submit(diff::request(based_on, &changes)).await?;
    if cx.json {
        render::json(&serde_json::json!({ "revision": reply.revision, "changes": changes }));
    } else {
        render::line(&format!(
            "{} changes were made at revision {}; nothing was started or stopped",
            changes.len(),
            reply.revision
        ));
    }
    Ok(())
}

pub(super) fn confirm(count: usize) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            Kind::Input,
            "nobody can be asked here; say --yes, or --dry-run to see what would change",
        ));
    }
    eprint!("Make these {count} changes? [y/N] ");
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .map_err(|error| Failure::new(Kind::Input, error.to_string()))?;
    match line.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::new(Kind::Input, "nothing was changed")),
    }
}

pub(super) async fn export(cx: &Context, xml_dir: Option<&Path>) -> Result<(), Failure> {
    let fleet = get(cx).await?;
    let files = xml_dir.map(|directory| write_xml(&fleet, directory)).transpose()?;
    if cx.json {
        render::json(&fleet);
        return Ok(());
    }
    let text = file::write(&fleet, Some(fleet.configuration), files.as_ref())
        .map_err(Failure::internal)?;
    render::line(text.trim_end_matches('\n'));
    Ok(())
}

/// One file for each VM, written whole or not at all.
fn write_xml(fleet: &v1::Fleet, directory: &Path) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let failure = |error: std::io::Error| {
        Failure::new(Kind::Input, format!("{} cannot be written: {error}", directory.display()))
    };
    std::fs::create_dir_all(directory).map_err(failure)?;
    let mut files = BTreeMap::new();
    for vm in &fleet.vms {
        let path = directory.join(format!("{}.xml", vm.name));
        let mut out = tempfile::NamedTempFile::new_in(directory).map_err(failure)?;
        out.write_all(vm.xml.as_bytes()).map_err(failure)?;
        out.persist(&path).map_err(|error| failure(error.error))?;
        files.insert(vm.name.clone(), path);
    }
    Ok(files)
}
