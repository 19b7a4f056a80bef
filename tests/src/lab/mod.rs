//! The lab: hypervisor hosts on one machine, each with its own libvirtd and real QEMU in software emulation.
//!
//! ```text
//!  the lab's own PID, network and mount namespace ────────────────────────────────────────────
//!   br0 10.77.0.1 ──┬── netns replica1 10.77.0.101 …            (a process each)
//!                   ├── netns node1    10.77.0.11   mount, UTS and PID namespace: libvirtd, QEMUs, agent
//!                   └── netns node2    10.77.0.12   …
//!   DIR/shared       the shared storage      DIR/control.sock   power switch, for fence agents and people
//! ```
//! Nothing touches the machine's own network or libvirt, labs can run side by side, and the end of the lab's first
//! process ends everything in it. Needs root.

pub mod control;
pub mod guest;
pub mod host;
pub mod process;
pub mod trouble;
pub mod watchdog;

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

pub use host::Host;
pub use process::Process;
use uuid::Uuid;

/// Set inside a lab's namespaces.
const INSIDE: &str = "BERTH_LAB";

/// Runs the rest of this program inside a lab's namespaces: returns there, and does not return here.
pub fn enter() -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let error = entering(std::env::args_os().skip(1))?.exec();
    Err(error).context("unshare (util-linux) cannot be run")
}

/// Runs one test function inside a lab's namespaces. `name` is its full name; returns true inside, where the test is
/// to be carried out, and false outside, after it passed there.
pub fn enter_test(name: &str) -> Result<bool> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(true);
    }
    let arguments = ["--exact", name, "--nocapture", "--test-threads=1"].map(Into::into);
    let status =
        entering(arguments.into_iter())?.status().context("unshare (util-linux) cannot be run")?;
    ensure!(status.success(), "the test failed inside its lab: {status}");
    Ok(false)
}

fn entering(arguments: impl Iterator<Item = std::ffi::OsString>) -> Result<Command> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the lab makes network, mount and PID namespaces, which needs root; run it with sudo"
    );
    let mut command = Command::new("unshare");
    command
        .args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--propagation",
            "private",
            "--mount-proc",
            "--",
        ])
        .arg(std::env::current_exe()?)
        .args(arguments)
        .env(INSIDE, "1");
    Ok(command)
}

/// Runs a command and wants it to succeed.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| {
        format!(
            "{program} cannot be run; deploy/install-dependencies.sh installs what the lab needs"
        )
    })?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}: {}", arguments.join(" "), output.status, complaint.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a lab is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Hypervisor hosts, at most 80.
    pub hosts: usize,
    /// Places for replicas, at most 80.
    pub replicas: usize,
}

/// A lab that is up.
pub struct Lab {
    directory: TempDir,
    hosts: BTreeMap<String, Arc<Host>>,
    replicas: usize,
    _control: control::Control,
}

impl Lab {
    /// Makes the network and boots all hosts. To be called inside the namespaces.
    pub fn start(options: &Options) -> Result<Self> {
        ensure!(
            std::env::var_os(INSIDE).is_some(),
            "a lab starts inside its namespaces; call lab::enter first"
        );
        ensure!(
            (0..=80).contains(&options.hosts) && (1..=80).contains(&options.replicas),
            "too many hosts or replicas"
        );
        let directory = tempfile::Builder::new().prefix("berth-lab-").tempdir()?;
        std::fs::create_dir_all(directory.path().join("shared"))?;
        network(directory.path(), options)?;
        let mut hosts = BTreeMap::new();
        for number in 1..=options.hosts {
            let host = Arc::new(Host::new(directory.path(), number)?);
            hosts.insert(host.name.clone(), host);
        }
        let booted: Vec<Result<()>> = std::thread::scope(|scope| {
            let boots: Vec<_> =
                hosts.values().map(|host| scope.spawn(|| host.power_on())).collect();
            boots
                .into_iter()
                .map(|boot| boot.join().unwrap_or_else(|_| bail!("a boot panicked")))
                .collect()
        });
        booted.into_iter().collect::<Result<Vec<_>>>()?;
        for host in hosts.values() {
            watchdog::watch(host.clone())?;
        }
        let control =
            control::Control::listen(&directory.path().join("control.sock"), hosts.clone())?;
        Ok(Self { directory, hosts, replicas: options.replicas, _control: control })
    }

    /// Where everything of the lab is.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The power switch's socket.
    pub fn control_socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    /// A host, by number from 1.
    pub fn host(&self, number: usize) -> Result<&Arc<Host>> {
        self.hosts
            .get(&format!("node{number}"))
            .with_context(|| format!("there is no node{number}"))
    }

    /// A host, by name.
    pub fn host_named(&self, name: &str) -> Result<&Arc<Host>> {
        self.hosts.get(name).with_context(|| format!("there is no {name}"))
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.hosts.values()
    }

    /// From now on each host's service manager starts agents and libvirtd again that ended, as systemd does.
    pub fn start_service_managers(&self) {
        for host in self.hosts.values().map(Arc::downgrade) {
            std::thread::spawn(move || {
                while let Some(host) = host.upgrade() {
                    if let Err(error) = host.revive() {
                        eprintln!("lab: the service manager of {}: {error:#}", host.name);
                    }
                    drop(host);
                    std::thread::sleep(trouble::RESTART_AFTER);
                }
            });
        }
    }

    /// All QEMUs: by domain UUID the host and the process number in the lab.
    pub fn qemus(&self) -> Result<Vec<(Uuid, String, i32)>> {
        trouble::qemus(self.hosts.values().map(|host| &**host))
    }

    /// How many places for replicas there are.
    pub fn replicas(&self) -> usize {
        self.replicas
    }

    /// A replica's address.
    pub fn replica_address(&self, number: usize) -> String {
        format!("10.77.0.{}", 100 + number)
    }

    /// Starts a program in a replica's network namespace.
    pub fn replica_spawn(&self, number: usize, command: &[String], log: &Path) -> Result<Process> {
        let mut words =
            vec!["ip".into(), "netns".into(), "exec".into(), format!("replica{number}")];
        words.extend_from_slice(command);
        Process::spawn(&words, log, false)
    }

    /// Cuts a replica off from everybody, or joins it again.
    pub fn replica_link(&self, number: usize, up: bool) -> Result<()> {
        run("ip", &["link", "set", &format!("br-replica{number}"), if up { "up" } else { "down" }])
            .map(drop)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in self.hosts.values() {
            // The end of the PID namespace takes the rest; the directory can only go when nothing is mounted from it.
            if let Err(error) = host.power_cut() {
                eprintln!("lab: {} could not be powered off: {error:#}", host.name);
            }
        }
    }
}

fn network(directory: &Path, options: &Options) -> Result<()> {
    run("ip", &["link", "set", "lo", "up"])?;
    run("ip", &["link", "add", "br0", "type", "bridge"])?;
    run("ip", &["addr", "add", "10.77.0.1/24", "dev", "br0"])?;
    run("ip", &["link", "set", "br0", "up"])?;
    std::fs::create_dir_all("/run/netns")?;
    run("mount", &["-t", "tmpfs", "tmpfs", "/run/netns"])?;
    // Names are resolved alike everywhere, by libvirt's migration for one.
    let mut names = String::from("127.0.0.1 localhost\n");
    for number in 1..=options.hosts {
        names.push_str(&format!("10.77.0.{} node{number}\n", 10 + number));
    }
    let file = directory.join("hosts");
    std::fs::write(&file, names)?;
    run("mount", &["--bind", &file.display().to_string(), "/etc/hosts"])?;
    for number in 1..=options.replicas {
        plug(&format!("replica{number}"), &format!("10.77.0.{}", 100 + number), 100 + number)?;
    }
    Ok(())
}

/// A network namespace with one cable to the bridge. The hardware address is fixed, so that a host that comes back is
/// found at once.
pub(crate) fn plug(name: &str, address: &str, number: usize) -> Result<()> {
    let outside = format!("br-{name}");
    run("ip", &["netns", "add", name])?;
    run("ip", &["link", "add", &outside, "type", "veth", "peer", "name", "eth0", "netns", name])?;
    run("ip", &["link", "set", &outside, "master", "br0", "up"])?;
    let hardware = format!("02:00:0a:4d:00:{number:02x}");
    run("ip", &["-n", name, "link", "set", "eth0", "address", &hardware])?;
    run("ip", &["-n", name, "addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
    run("ip", &["-n", name, "link", "set", "lo", "up"])?;
    run("ip", &["-n", name, "link", "set", "eth0", "up"])?;
    Ok(())
}

/// A program of this workspace, built beside this one.
pub fn binary(name: &str) -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    // A test's own program is one folder further down.
    here.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not built; run `cargo build --workspace` first"))
}
