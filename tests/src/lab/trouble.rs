//! What befalls a host beside the loss of its power and its cable: processes that stop, slow links, lost links.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use uuid::Uuid;

use crate::lab::{Host, run};

/// A service manager's pause, as the units in `deploy/systemd` have it.
pub const RESTART_AFTER: Duration = Duration::from_secs(1);
/// The kernel lets a process have the first 15 bytes of its name.
const QEMU: &str = "qemu-system-x86";

/// All processes of a host that were stopped.
#[derive(Debug)]
pub struct Frozen(Vec<i32>);

impl Frozen {
    /// Those that are still there: stopped, and not dead.
    pub fn alive(&self) -> Vec<i32> {
        self.0
            .iter()
            .copied()
            .filter(|pid| PathBuf::from(format!("/proc/{pid}")).exists())
            .collect()
    }

    pub(super) fn thaw(self) {
        for pid in self.0 {
            let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
        }
    }
}

impl Host {
    /// Stops every process of the host, as a hypervisor stops a guest; time goes on.
    pub fn freeze(&self) -> Result<Frozen> {
        let namespace = pid_namespace(self.init()?)?;
        let mut stopped = Vec::new();
        // What was started while the others were being stopped is found by the second look.
        for _ in 0..2 {
            for pid in processes()? {
                if !stopped.contains(&pid) && pid_namespace(pid).is_ok_and(|it| it == namespace) {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
                    stopped.push(pid);
                }
            }
        }
        ensure!(!stopped.is_empty(), "nothing runs on {}", self.name);
        Ok(Frozen(stopped))
    }

    /// What migrations may send, in kbit/s; nothing else is slowed. QEMU listens on 49152 and above.
    pub fn slow_migrations(&self, kbit: u32) -> Result<()> {
        let rate = format!("{kbit}kbit");
        let tc = |words: &[&str]| {
            let mut all = vec!["netns", "exec", &self.name, "tc"];
            all.extend_from_slice(words);
            run("ip", &all).map(drop)
        };
        self.free_migrations();
        let device = ["dev", "eth0"];
        tc(&[&["qdisc", "add"], &device[..], &["root", "handle", "1:", "htb", "default", "10"]]
            .concat())?;
        let class = |id, rate| {
            [&["class", "add"], &device[..], &["parent", "1:", "classid", id, "htb", "rate", rate]]
                .concat()
        };
        tc(&class("1:10", "10gbit"))?;
        tc(&class("1:30", &rate))?;
        let ports = ["match", "ip", "dport", "49152", "0xff00"];
        tc(&[
            &["filter", "add"],
            &device[..],
            &["parent", "1:", "protocol", "ip", "u32"],
            &ports,
            &["flowid", "1:30"],
        ]
        .concat())
    }

    /// Migrations are as quick as they can.
    pub fn free_migrations(&self) {
        // None there: as wanted.
        let _ =
            run("ip", &["netns", "exec", &self.name, "tc", "qdisc", "del", "dev", "eth0", "root"]);
    }

    /// Cuts the link between two hosts, or joins it; both still reach all others.
    pub fn link_to(&self, other: &Host, up: bool) -> Result<()> {
        let word = if up { "del" } else { "add" };
        for (one, other) in [(self, other), (other, self)] {
            let address = format!("{}/32", other.address);
            let done = run("ip", &["-n", &one.name, "route", word, "blackhole", &address]);
            // With a host goes its end of the link.
            if done.is_err() && one.is_on() {
                return done.map(drop);
            }
        }
        Ok(())
    }

    /// Joins this host's end of a link that was cut, where there is one.
    pub fn forget_cut(&self, other: &Host) {
        let address = format!("{}/32", other.address);
        // None there: as wanted.
        let _ = run("ip", &["-n", &self.name, "route", "del", "blackhole", &address]);
    }
}

impl Host {
    /// Whether libvirt has let the vCPUs of this QEMU run, by its own note of the domain.
    pub fn vcpus_run(&self, domain: &str, pid: i32) -> bool {
        let note = self.run_directory().join(format!("libvirt/qemu/{domain}.xml"));
        let Ok(note) = fs::read_to_string(note) else { return false };
        let Some(inside) = pid_inside(pid) else { return false };
        let head = note.find("<domstatus").and_then(|at| note[at..].split_once('>'));
        head.is_some_and(|(head, _)| {
            head.contains("state='running'") && head.contains(&format!("pid='{inside}'"))
        })
    }
}

/// A process's number in its own namespace.
fn pid_inside(pid: i32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_whitespace().next_back().map(str::to_owned)
}

fn processes() -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(found)
}

fn pid_namespace(pid: i32) -> std::io::Result<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/pid"))
}

fn named(pid: i32, name: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_end() == name)
}

/// Whether a program runs in the namespace of a host's first process.
pub(super) fn runs_in(init: i32, name: &str) -> Result<bool> {
    let namespace = pid_namespace(init)?;
    let here = |pid: &i32| named(*pid, name) && pid_namespace(*pid).is_ok_and(|it| it == namespace);
    Ok(processes()?.iter().any(here))
}

/// All QEMUs of these hosts, in one look at the kernel's list.
pub(super) fn qemus<'h>(hosts: impl Iterator<Item = &'h Host>) -> Result<Vec<(Uuid, String, i32)>> {
    let mut names = BTreeMap::new();
    for host in hosts {
        // One that loses its power while it is looked at has none.
        if let Ok(namespace) = host.init().and_then(|init| Ok(pid_namespace(init)?)) {
            names.insert(namespace, host.name.clone());
        }
    }
    let mut found = Vec::new();
    for pid in processes()? {
        if !named(pid, QEMU) {
            continue;
        }
        let Some(name) = pid_namespace(pid).ok().and_then(|it| names.get(&it).cloned()) else {
            continue;
        };
        if let Some(uuid) = uuid_of(pid) {
            found.push((uuid, name, pid));
        }
    }
    Ok(found)
}

/// The domain that a QEMU runs, by its command line.
pub(super) fn uuid_of(pid: i32) -> Option<Uuid> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    words.find(|word| word == "-uuid")?;
    Uuid::parse_str(&words.next()?).ok()
}
