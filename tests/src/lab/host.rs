//! One hypervisor host: boot, power cut, network cut, and what runs on it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use uuid::Uuid;

use crate::lab::process::{Process, only_child};
use crate::lab::trouble::{self, Frozen};
use crate::lab::{plug, run};

const INIT: &str = include_str!("host-init.sh");
/// Two cores and a libvirtd for each host: a boot takes about a second, and more when all boot at once.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

struct Power {
    shell: Child,
    init: i32,
}

/// A program that runs whenever the host is up.
struct Service {
    command: Vec<String>,
    log: PathBuf,
    process: Option<Process>,
}

#[derive(Default)]
struct State {
    power: Option<Power>,
    services: BTreeMap<String, Service>,
}

/// A lab host.
pub struct Host {
    /// `node1` and so on; also its host name.
    pub name: String,
    /// In the lab's network.
    pub address: String,
    number: usize,
    directory: PathBuf,
    state: Mutex<State>,
    boots: AtomicU64,
}

impl Host {
    pub(crate) fn new(lab: &Path, number: usize) -> Result<Self> {
        let name = format!("node{number}");
        let directory = lab.join(&name);
        for place in [
            "etc/libvirt",
            "var/lib/libvirt",
            "var/log/libvirt",
            "var/cache/libvirt",
            "var/lib/berth",
        ] {
            fs::create_dir_all(directory.join(place))?;
        }
        let host = Self {
            address: format!("10.77.0.{}", 10 + number),
            name,
            number,
            directory,
            state: Mutex::default(),
            boots: AtomicU64::new(0),
        };
        host.configure()?;
        Ok(host)
    }

    fn configure(&self) -> Result<()> {
        let libvirtd = format!(
            "listen_tls = 0\nlisten_tcp = 1\nlisten_addr = \"{}\"\nauth_tcp = \"none\"\nauth_unix_rw = \"none\"\nkeepalive_interval = 1\nkeepalive_count = 3\nhost_uuid = \"{}\"\n",
            self.address,
            Uuid::from_u128(0xbe57_0000_0000_4000_8000_0000_0000_0000 + self.number as u128)
        );
        // As docs/failure-modes.md has it: a migration's other host that lost its power is noticed in four seconds, not thirty.
        let qemu = "keepalive_interval = 1\nkeepalive_count = 3\nuser = \"root\"\ngroup = \"root\"\ndynamic_ownership = 0\nremember_owner = 0\nsecurity_driver = \"none\"\nstdio_handler = \"file\"\ncgroup_controllers = []\nnamespaces = []\n";
        fs::write(self.directory.join("etc/libvirt/libvirtd.conf"), libvirtd)?;
        fs::write(self.directory.join("etc/libvirt/qemu.conf"), qemu)?;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How other hosts migrate to it.
    pub fn migration_uri(&self) -> String {
        format!("qemu+tcp://{}/system", self.address)
    }

    /// Where its agent keeps its ledger: a disk that outlives the power.
    pub fn state_directory(&self) -> PathBuf {
        self.directory.join("var/lib/berth")
    }

    /// Its /run, as it is seen from outside.
    pub(super) fn run_directory(&self) -> PathBuf {
        self.directory.join("run")
    }

    /// Its watchdog's pipe, as it is seen from outside; inside it is /run/berth-watchdog.
    pub(crate) fn watchdog_pipe(&self) -> PathBuf {
        self.directory.join("run/berth-watchdog")
    }

    /// Whether its power is on.
    pub fn is_on(&self) -> bool {
        self.state().power.is_some()
    }

    /// How often it was booted.
    pub(super) fn boots(&self) -> u64 {
        self.boots.load(Ordering::SeqCst)
    }

    /// Boots: a new boot id, an empty /run, libvirtd, and the services that are set.
    pub fn power_on(&self) -> Result<()> {
        let mut state = self.state();
        if state.power.is_some() {
            return Ok(());
        }
        self.boots.fetch_add(1, Ordering::SeqCst);
        plug(&self.name, &self.address, 10 + self.number)?;
        let pipe = self.watchdog_pipe();
        // The watchdog's device stays; all else of /run is new at each boot.
        fs::create_dir_all(self.directory.join("run"))?;
        for entry in fs::read_dir(self.directory.join("run"))? {
            let path = entry?.path();
            if path != pipe {
                if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
            }
        }
        fs::write(self.directory.join("boot_id"), format!("{}\n", Uuid::new_v4()))?;
        let log = fs::File::create(self.directory.join("init.log"))?;
        let shell = Command::new("ip")
            .args([
                "netns",
                "exec",
                &self.name,
                "unshare",
                "--mount",
                "--uts",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--",
            ])
            .args(["sh", "-c", INIT, "host-init"])
            .arg(&self.directory)
            .args([&self.name, &self.address])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let init = only_child(shell.id() as i32)?;
        state.power = Some(Power { shell, init });
        self.wait_for_libvirt(init)?;
        let names: Vec<String> = state.services.keys().cloned().collect();
        for name in names {
            self.start_service(&mut state, &name)?;
        }
        Ok(())
    }

    /// Waits until its libvirtd answers.
    pub fn wait_for_libvirtd(&self) -> Result<()> {
        self.wait_for_libvirt(self.init()?)
    }

    fn wait_for_libvirt(&self, init: i32) -> Result<()> {
        let begun = Instant::now();
        let socket = format!("/proc/{init}/root/run/libvirt/libvirt-sock");
        while begun.elapsed() < BOOT_LIMIT && Path::new(&format!("/proc/{init}")).exists() {
            if Path::new(&socket).exists() && self.virsh_in(init, &["version"])?.status.success() {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        let log = |name: &str| fs::read_to_string(self.directory.join(name)).unwrap_or_default();
        bail!("{} did not boot: {}{}", self.name, log("init.log"), log("libvirtd.log"))
    }

    /// Cuts its power: the cable first, so that nothing of the dying reaches the others, then all of it at once.
    pub fn power_cut(&self) -> Result<()> {
        let mut state = self.state();
        let Some(mut power) = state.power.take() else { return Ok(()) };
        run("ip", &["link", "set", &format!("br-{}", self.name), "down"])?;
        kill(Pid::from_raw(power.init), Signal::SIGKILL)?;
        // nsenter stands still with its child: it has to run on to take the dead one, without which the kernel does not let
        // the namespace go.
        while power.shell.try_wait()?.is_none() {
            for process in state.services.values().filter_map(|it| it.process.as_ref()) {
                let _ = process.signal(Signal::SIGCONT);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        for service in state.services.values_mut() {
            service.process = None;
        }
        // With the network namespace go the sockets of the dead, which would else go on resending their farewells.
        run("ip", &["link", "delete", &format!("br-{}", self.name)])?;
        run("ip", &["netns", "delete", &self.name])?;
        Ok(())
    }

    /// Pulls or plugs its cable.
    pub fn link(&self, up: bool) -> Result<()> {
        run("ip", &["link", "set", &format!("br-{}", self.name), if up { "up" } else { "down" }])
            .map(drop)
    }

    pub(super) fn init(&self) -> Result<i32> {
        self.state()
            .power
            .as_ref()
            .map(|power| power.init)
            .with_context(|| format!("{} is off", self.name))
    }

    fn inside(init: i32, command: &[String]) -> Vec<String> {
        let target = init.to_string();
        let mut words: Vec<String> =
            ["nsenter", "--target", &target, "--mount", "--uts", "--net", "--pid", "--"]
                .into_iter()
                .map(Into::into)
                .collect();
        words.extend_from_slice(command);
        words
    }

    /// Runs a command on the host and waits for it.
    pub fn exec(&self, command: &[&str]) -> Result<Output> {
        self.exec_in(self.init()?, command)
    }

    fn exec_in(&self, init: i32, command: &[&str]) -> Result<Output> {
        let command: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
        let words = Self::inside(init, &command);
        Ok(Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).output()?)
    }

    fn virsh_in(&self, init: i32, arguments: &[&str]) -> Result<Output> {
        let mut command = vec!["virsh", "--quiet", "--connect", "qemu:///system"];
        command.extend_from_slice(arguments);
        self.exec_in(init, &command)
    }

    /// Runs virsh on the host and wants it to succeed.
    pub fn virsh(&self, arguments: &[&str]) -> Result<String> {
        let output = self.virsh_in(self.init()?, arguments)?;
        if !output.status.success() {
            bail!(
                "virsh {} on {}: {}",
                arguments.join(" "),
                self.name,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Sets a program that runs whenever the host is up, and starts it.
    pub fn set_service(&self, name: &str, command: Vec<String>, log: &Path) -> Result<()> {
        let mut state = self.state();
        state
            .services
            .insert(name.to_owned(), Service { command, log: log.to_owned(), process: None });
        if state.power.is_some() { self.start_service(&mut state, name) } else { Ok(()) }
    }

    /// Starts a service again that was killed.
    pub fn restart_service(&self, name: &str) -> Result<()> {
        self.start_service(&mut self.state(), name)
    }

    /// What the host's service manager does: services that ended are started again, libvirtd too.
    pub(super) fn revive(&self) -> Result<()> {
        let mut state = self.state();
        let Some(init) = state.power.as_ref().map(|power| power.init) else { return Ok(()) };
        let ended = |service: &Service| {
            service.process.as_ref().is_some_and(|process| !process.is_running())
        };
        let names: Vec<String> = state
            .services
            .iter()
            .filter(|(_, service)| ended(service))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            self.start_service(&mut state, &name)?;
        }
        if !trouble::runs_in(init, "libvirtd")? {
            self.exec_in(init, &["rm", "-f", "/run/libvirtd.pid"])?;
            self.exec_in(init, &["libvirtd", "--listen", "--daemon"])?;
        }
        Ok(())
    }

    fn start_service(&self, state: &mut State, name: &str) -> Result<()> {
        let init = state.power.as_ref().context("the host is off")?.init;
        let service = state
            .services
            .get_mut(name)
            .with_context(|| format!("{} has no service {name}", self.name))?;
        service.process = None;
        service.process =
            Some(Process::spawn(&Self::inside(init, &service.command), &service.log, true)?);
        Ok(())
    }

    /// What was stopped runs on. One that has died meanwhile is none of our business.
    pub fn thaw(&self, frozen: Frozen) {
        frozen.thaw();
        for process in self.state().services.values().filter_map(|it| it.process.as_ref()) {
            let _ = process.signal(Signal::SIGCONT);
        }
    }

    /// Does something with a service's process.
    pub fn with_service<T>(
        &self,
        name: &str,
        act: impl FnOnce(&Process) -> Result<T>,
    ) -> Result<T> {
        let state = self.state();
        let service = state.services.get(name).and_then(|service| service.process.as_ref());
        act(service.with_context(|| format!("{name} does not run on {}", self.name))?)
    }

    /// The QEMUs on the host, by domain UUID, with their process numbers in the lab.
    pub fn qemus(&self) -> Result<BTreeMap<Uuid, i32>> {
        self.init()?;
        let found = trouble::qemus(std::iter::once(self))?;
        Ok(found.into_iter().map(|(uuid, _, process)| (uuid, process)).collect())
    }

    /// Kills libvirtd; guests run on.
    pub fn kill_libvirtd(&self) -> Result<()> {
        self.signal_libvirtd(Signal::SIGKILL)
    }

    /// Sends libvirtd a signal; guests run on.
    pub fn signal_libvirtd(&self, signal: Signal) -> Result<()> {
        let number = format!("-{}", signal as i32);
        let output = self.exec(&["pkill", &number, "-x", "libvirtd"])?;
        if output.status.success() { Ok(()) } else { bail!("no libvirtd ran on {}", self.name) }
    }

    /// Starts libvirtd again.
    pub fn start_libvirtd(&self) -> Result<()> {
        let init = self.init()?;
        self.exec(&["rm", "-f", "/run/libvirtd.pid"])?;
        let output = self.exec(&["libvirtd", "--listen", "--daemon"])?;
        if !output.status.success() {
            bail!(
                "libvirtd did not start on {}: {}",
                self.name,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        self.wait_for_libvirt(init)
    }
}
