//! A broken replica comes back from its peers: its data is put aside, its server begins anew under a new id, and takes
//! the broken one's place.
//!
//! The id is new because the old one has acknowledged votes and entries that are forgotten now. Each step can be taken
//! again: a command that was interrupted goes on where it was.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::rebuilt::Rebuilt;
use tokio::time::Instant;

use super::{add, list, remove};
use crate::cmd::Context;
use crate::exit::{Failure, Kind};

/// Between two attempts to reach the new server, which the service manager starts when it will.
const AGAIN: Duration = Duration::from_millis(500);

pub(super) async fn run(
    cx: &Context,
    old: u64,
    directory: &Path,
    address: Option<String>,
) -> Result<(), Failure> {
    let members = list(cx).await?.replicas;
    let unknown = || {
        let text = format!("there is no replica {old}; `berthctl replica list` lists them");
        Failure::new(Kind::NotFound, text)
    };
    let broken = members.iter().find(|replica| replica.id == old).ok_or_else(unknown)?;
    let address = address.unwrap_or_else(|| broken.address.clone());
    let fresh = members.iter().map(|replica| replica.id).max().unwrap_or(old) + 1;
    let begun = Rebuilt::read(directory).map_err(|error| unusable(directory, &error))?;
    let new = match begun.filter(|begun| begun.old == old) {
        Some(begun) => begun.new,
        None if broken.role != "unreachable" => {
            let text = format!(
                "replica {old} answers as {}, so it is not broken; stop its server first if it is to be rebuilt all the same",
                broken.role
            );
            return Err(Failure::new(Kind::Refused, text));
        }
        None => {
            let aside = put_aside(directory).map_err(|error| unusable(directory, &error))?;
            Rebuilt { new: fresh, old }
                .write(directory)
                .map_err(|error| unusable(directory, &error))?;
            if let Some(aside) = aside {
                eprintln!(
                    "what was left of replica {old} is kept in {}; remove it when nobody wants to look into it",
                    aside.display()
                );
            }
            fresh
        }
    };
    if members.iter().all(|replica| replica.id != new || !replica.voter) {
        join(cx, new, &address).await?;
    }
    remove(cx, old).await?;
    eprintln!(
        "replica {new} has taken the place of replica {old}; set `id = {new}` in its configuration"
    );
    Ok(())
}

/// As soon as the new server is there.
async fn join(cx: &Context, new: u64, address: &str) -> Result<(), Failure> {
    let mut told = false;
    loop {
        match add(cx, (new, address.to_owned())).await {
            Ok(()) => return Ok(()),
            Err(failure)
                if failure.kind == Kind::Unreachable
                    && Instant::now() + AGAIN < cx.cluster.deadline() =>
            {
                if !std::mem::replace(&mut told, true) {
                    eprintln!(
                        "waiting for berth-server at {address} to start as replica {new} ({failure}); `systemctl restart berth-server` hastens it"
                    );
                }
                tokio::time::sleep(AGAIN).await;
            }
            Err(failure) => return Err(failure),
        }
    }
}

fn unusable(directory: &Path, error: &io::Error) -> Failure {
    let text = format!(
        "the data directory {} cannot be made ready: {error}; this command is to be run on the host of the broken replica, and --data-dir names its directory",
        directory.display()
    );
    Failure::new(Kind::Input, text)
}

/// Moves all that is in the directory into a folder of its own there: the directory may be a mount, and its owner and
/// mode are right. Refused while a server has it open.
fn put_aside(directory: &Path) -> io::Result<Option<PathBuf>> {
    fs::create_dir_all(directory)?;
    if let Ok(database) = File::open(directory.join("db/db")) {
        match database.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other("a berth-server has it open; stop that first"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    let names = fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()?;
    let left: Vec<_> = names
        .into_iter()
        .filter(|name| {
            let name = name.to_string_lossy();
            !name.starts_with("broken-") && name != "lost+found"
        })
        .collect();
    if left.is_empty() {
        return Ok(None);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
    let aside = directory.join(format!("broken-{now}"));
    fs::create_dir(&aside)?;
    for name in left {
        fs::rename(directory.join(&name), aside.join(&name))?;
    }
    Ok(Some(aside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_put_aside_once_and_never_under_a_running_server() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(put_aside(&path.join("new")).unwrap(), None);
        fs::remove_dir(path.join("new")).unwrap();
        fs::create_dir(path.join("db")).unwrap();
        fs::write(path.join("db/db"), b"rest").unwrap();
        let server = File::open(path.join("db/db")).unwrap();
        server.lock().unwrap();
        assert!(put_aside(path).unwrap_err().to_string().contains("stop that first"));
        drop(server);
        let aside = put_aside(path).unwrap().unwrap();
        assert_eq!(fs::read(aside.join("db/db")).unwrap(), b"rest");
        assert_eq!(put_aside(path).unwrap(), None);
    }
}
