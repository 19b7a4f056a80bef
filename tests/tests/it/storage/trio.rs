//! Replicas on loopback, each with a data directory, a log and, between it and the disk, a shim.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests::lab::binary;

pub(super) const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

pub(super) struct Trio {
    directory: tempfile::TempDir,
    addresses: BTreeMap<u64, String>,
    running: BTreeMap<u64, Child>,
}

impl Drop for Trio {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Trio {
    /// So many replicas that listen and are no cluster yet.
    pub(super) fn listening(ids: impl IntoIterator<Item = u64>) -> Result<Self> {
        let mut trio = Self {
            directory: tempfile::tempdir()?,
            addresses: BTreeMap::new(),
            running: BTreeMap::new(),
        };
        // All at once, so that no two are given the same port.
        let ids: Vec<u64> = ids.into_iter().collect();
        let listeners: Vec<_> =
            ids.iter().map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
        for (id, listener) in ids.iter().zip(&listeners) {
            trio.addresses.insert(*id, listener.local_addr()?.to_string());
            std::fs::create_dir(trio.shim(*id))?;
        }
        drop(listeners);
        for id in ids {
            trio.start(id)?;
        }
        Ok(trio)
    }

    /// A cluster.
    pub(super) fn start_cluster(size: u64) -> Result<Self> {
        let trio = Self::listening(1..=size)?;
        let members = trio.members();
        let mut words = vec!["replica", "init"];
        words.extend(members.iter().map(String::as_str));
        trio.ctl(&words)?;
        Ok(trio)
    }

    /// As `berthctl` takes them.
    pub(super) fn members(&self) -> Vec<String> {
        self.addresses.iter().map(|(id, address)| format!("{id}={address}")).collect()
    }

    pub(super) fn endpoints(&self) -> Vec<String> {
        self.addresses.values().cloned().collect()
    }

    pub(super) fn data(&self, id: u64) -> PathBuf {
        self.directory.path().join(format!("data{id}"))
    }

    pub(super) fn folder(&self) -> &Path {
        self.directory.path()
    }

    fn shim(&self, id: u64) -> PathBuf {
        self.directory.path().join(format!("shim{id}"))
    }

    /// From now on no barrier of this replica returns, or none works; or all is well again.
    pub(super) fn barriers(&self, id: u64, word: &str, on: bool) -> Result<()> {
        let path = self.shim(id).join(word);
        match on {
            true => drop(File::create(path)?),
            false => std::fs::remove_file(path)?,
        }
        Ok(())
    }

    pub(super) fn start(&mut self, id: u64) -> Result<()> {
        let data = self.data(id);
        let child = self.command(id, &data)?.spawn()?;
        self.running.insert(id, child);
        Ok(())
    }

    /// A server of that id on any directory, its words in a file.
    pub(super) fn command(&self, id: u64, data: &Path) -> Result<Command> {
        let log = File::options().create(true).append(true).open(self.log(id))?;
        let mut command = Command::new(binary("berth-server")?);
        command
            .args(["--config", "/nonexistent", "--id", &id.to_string(), "--listen"])
            .args([&self.addresses[&id], "--data-dir"])
            .arg(data)
            .env("LD_PRELOAD", library()?)
            .env("BERTH_SHIM", self.shim(id))
            .stdout(Stdio::null())
            .stderr(log);
        Ok(command)
    }

    fn log(&self, id: u64) -> PathBuf {
        self.directory.path().join(format!("log{id}"))
    }

    /// What a replica said so far.
    pub(super) fn said(&self, id: u64) -> Result<String> {
        Ok(std::fs::read_to_string(self.log(id))?)
    }

    pub(super) fn kill(&mut self, id: u64) -> Result<()> {
        let mut child = self.running.remove(&id).context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    pub(super) fn pid(&self, id: u64) -> Result<nix::unistd::Pid> {
        let child = self.running.get(&id).context("it does not run")?;
        Ok(nix::unistd::Pid::from_raw(child.id() as i32))
    }

    /// Waits until a replica has ended by itself.
    pub(super) fn ended(&mut self, id: u64) -> Result<ExitStatus> {
        let mut child = self.running.remove(&id).context("it does not run")?;
        ended(&mut child).inspect_err(|_| {
            let _ = child.kill();
        })
    }

    pub(super) fn ctl_output(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new(binary("berthctl")?);
        command.args(words).env("BERTH_SERVERS", self.endpoints().join(","));
        Ok(command.output()?)
    }

    pub(super) fn ctl(&self, words: &[&str]) -> Result<String> {
        let output = self.ctl_output(words)?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "berthctl {words:?}: {}: {text}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Who leads.
    pub(super) fn leader(&self) -> Result<u64> {
        let status: Value = serde_json::from_str(&self.ctl(&["status", "--json"])?)?;
        status["leader"].as_u64().context("no leader")
    }

    /// The names of all VMs, by the leader, or as one replica has them.
    pub(super) fn vms(&self, replica: Option<u64>) -> Result<BTreeSet<String>> {
        let mut command = Command::new(binary("berthctl")?);
        let servers = match replica {
            Some(id) => self.addresses[&id].clone(),
            None => self.endpoints().join(","),
        };
        command.args(["status", "--json"]).env("BERTH_SERVERS", servers);
        if replica.is_some() {
            command.args(["--stale", "--timeout", "2s"]);
        }
        let output = command.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let status: Value = serde_json::from_slice(&output.stdout)?;
        let all = status["vms"].as_array().context("no VMs")?;
        Ok(all.iter().filter_map(|vm| vm["name"].as_str().map(Into::into)).collect())
    }

    /// Puts a VM under management; whether that was acknowledged within so many seconds.
    pub(super) fn add_vm(&self, name: &str, seconds: u64) -> Result<bool> {
        let file = self.directory.path().join("vm.xml");
        std::fs::write(
            &file,
            format!("<domain type='qemu'><name>{name}</name><memory>16384</memory></domain>"),
        )?;
        let (file, limit) = (file.display().to_string(), format!("{seconds}s"));
        Ok(self.ctl_output(&["vm", "add", &file, "--timeout", &limit])?.status.success())
    }
}

/// Waits until a process has ended.
fn ended(child: &mut Child) -> Result<ExitStatus> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(POLL);
    }
    bail!("it did not end")
}

/// Waits for what no event tells of.
pub(super) fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !holds()? {
        ensure!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// All of a directory.
pub(super) fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The shim, built once for this process.
fn library() -> Result<&'static Path> {
    static BUILT: OnceLock<std::result::Result<(tempfile::TempDir, PathBuf), String>> =
        OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    match built {
        Ok((_, path)) => Ok(path),
        Err(error) => bail!("the shim could not be built: {error}"),
    }
}

fn build() -> Result<(tempfile::TempDir, PathBuf)> {
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("shim.c");
    std::fs::write(&source, include_str!("shim.c"))?;
    let path = folder.path().join("shim.so");
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&path)
        .arg(&source)
        .arg("-ldl")
        .output()
        .context("cc cannot be run; deploy/install-dependencies.sh installs it")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok((folder, path))
}
