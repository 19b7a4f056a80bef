//! How a VM is treated on its host: where its domain XML comes from, how it is saved, checked and migrated, and what
//! follows when its guest ends by itself. RGManager's `vm` attributes, typed (`docs/from-rgmanager.md` has the table).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::NodeName;

mod check;
mod options;

pub use check::HandlingError;
pub use options::OptionError;

/// RGManager's `vm.sh`: a start may take so long, its status program included.
pub const START_TIMEOUT_MS: u64 = 300_000;
/// RGManager's `vm.sh`: status depth 10 every minute, within 20 s.
const CHECK_INTERVAL_MS: u64 = 60_000;
const CHECK_TIMEOUT_MS: u64 = 20_000;

/// How a VM is treated on its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handling {
    /// Where its domain XML is read at a start.
    pub source: DomainSource,
    /// Where its memory is saved when it is stopped (RGManager's `snapshot`).
    pub save: Option<SavePlace>,
    /// How long a start may take until its checks succeed, in milliseconds.
    pub start_timeout_ms: u64,
    /// A stop only ever asks the guest; one that does not shut down in time makes the VM failed.
    pub no_kill: bool,
    /// How it is known that its guest works.
    pub checks: Checks,
    /// How it is migrated.
    pub migration: MigrationOptions,
    /// What follows when its guest ends by itself.
    pub guest: GuestPolicy,
}

impl Default for Handling {
    fn default() -> Self {
        Self {
            source: DomainSource::default(),
            save: None,
            start_timeout_ms: START_TIMEOUT_MS,
            no_kill: false,
            checks: Checks::default(),
            migration: MigrationOptions::default(),
            guest: GuestPolicy::default(),
        }
    }
}

/// Where a VM's domain XML is read at a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum DomainSource {
    /// In the log, as it was given.
    #[default]
    Stored,
    /// In this file on storage that all its nodes share (RGManager's `xmlfile`).
    File(String),
    /// In the first of these directories that holds NAME or NAME.xml (RGManager's `path`).
    Search(Vec<String>),
}

/// Where a VM's memory is saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavePlace {
    /// An absolute path.
    pub directory: String,
    /// All nodes see the same directory there; else what is saved can be restored on its own node only.
    pub shared: bool,
}

/// How it is known that a guest works, beyond its QEMU being there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checks {
    /// A program on its host that succeeds while it works (RGManager's `status_program`).
    pub program: Option<StatusProgram>,
    /// Its guest agent answers.
    pub guest_agent: bool,
    /// Milliseconds between two checks.
    pub interval_ms: u64,
    /// Milliseconds that one check may take; then its whole process group is killed and it has failed.
    pub timeout_ms: u64,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            program: None,
            guest_agent: false,
            interval_ms: CHECK_INTERVAL_MS,
            timeout_ms: CHECK_TIMEOUT_MS,
        }
    }
}

impl Checks {
    /// There is something to check.
    pub fn any(&self) -> bool {
        self.program.is_some() || self.guest_agent
    }
}

/// A status program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatusProgram {
    /// A program by its absolute path, and its arguments.
    Command(Vec<String>),
    /// A line for the shell, as RGManager gave it to `bash -c`. Nothing is put into it.
    Shell(String),
}

/// How a VM is migrated; what libvirt's flags say, typed. All off by default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct MigrationOptions {
    /// Also when libvirt does not take its storage for shared (`--unsafe`).
    pub allow_unsafe: bool,
    /// Through the connection of the two libvirtds (`--tunnelled`).
    pub tunnelled: bool,
    /// Encrypted by QEMU itself (`--tls`).
    pub tls: bool,
    /// The guest is slowed down until its memory can be copied (`--auto-converge`).
    pub auto_converge: bool,
    /// After the first pass over its memory it runs on at the target (`--postcopy --postcopy-after-precopy`). From then on
    /// it is never resumed at the source.
    pub post_copy: bool,
    /// Its memory is compressed (`--compressed`).
    pub compressed: bool,
    /// An I/O error meanwhile calls it off (`--abort-on-error`).
    pub abort_on_error: bool,
    /// Connections at once; 0 = one, not in parallel (`--parallel-connections`).
    pub parallel: u32,
    /// MiB a second at most; 0 = as much as there is (`--bandwidth`).
    pub bandwidth_mib_s: u64,
    /// Milliseconds that the guest may stand still at the end; 0 = the hypervisor's default (`migrate-setmaxdowntime`).
    pub max_downtime_ms: u64,
    /// Milliseconds after which it is called off; 0 = never (`--timeout`).
    pub timeout_ms: u64,
    /// For the nodes named here, where migration traffic to them goes: a host, or a URI. Others use their own address.
    pub routes: BTreeMap<NodeName, String>,
}

/// What follows when a guest ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum GuestEnd {
    /// It is a failure: the recovery policy says what is done. RGManager knew only this.
    #[default]
    Recover,
    /// It is down for now, as after `stop`.
    Stop,
    /// It is down and stays so.
    Disable,
}

/// What follows when a guest is paused by an error of its storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum OnIoError {
    /// It is resumed again and again, which succeeds when its storage is back.
    #[default]
    Resume,
    /// It is a failure: it is destroyed, and the recovery policy says what is done.
    Restart,
    /// It is left alone; only the alarm tells.
    Leave,
}

/// What follows when a guest reboots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub enum OnReboot {
    /// It is noted, and the guest runs on in the same QEMU.
    #[default]
    RunOn,
    /// It is stopped, and what follows is as after an end.
    End(GuestEnd),
}

/// A policy for each way in which a guest ends by itself, or begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct GuestPolicy {
    /// The guest shut itself down.
    pub on_shutdown: GuestEnd,
    /// It or its QEMU crashed, and its domain ended.
    pub on_crash: GuestEnd,
    /// Its kernel panicked, and its domain ended or is kept as it was.
    pub on_panic: GuestEnd,
    /// It rebooted.
    pub on_reboot: OnReboot,
    /// Its own watchdog device bit.
    pub on_watchdog: GuestEnd,
    /// Somebody destroyed its domain or ended its QEMU by hand.
    pub on_destroy: GuestEnd,
    /// Its storage failed, and it is paused.
    pub on_io_error: OnIoError,
}

impl GuestEnd {
    /// The word operators write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Recover => "recover",
            Self::Stop => "stop",
            Self::Disable => "disable",
        }
    }

    /// Reads the word operators write.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Recover, Self::Stop, Self::Disable].into_iter().find(|it| it.as_str() == text)
    }
}

impl OnReboot {
    /// The word operators write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RunOn => "run-on",
            Self::End(end) => end.as_str(),
        }
    }

    /// Reads the word operators write.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "run-on" => Some(Self::RunOn),
            end => GuestEnd::parse(end).map(Self::End),
        }
    }
}

impl OnIoError {
    /// The word operators write.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resume => "resume",
            Self::Restart => "restart",
            Self::Leave => "leave",
        }
    }

    /// Reads the word operators write.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Resume, Self::Restart, Self::Leave].into_iter().find(|it| it.as_str() == text)
    }
}

/// How a migration reaches its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The target's libvirtd.
    pub connection: String,
    /// Where the guest's memory goes; `None` where the target's libvirt says.
    pub data: Option<String>,
}

impl MigrationOptions {
    /// The route to a node whose libvirtd is reached at `connection`. A node that is not mapped keeps its own address
    /// (RGManager took the first pair of the mapping for it).
    pub fn route(&self, node: &NodeName, connection: &str) -> Route {
        let own = Route { connection: connection.to_owned(), data: None };
        let Some(target) = self.routes.get(node) else { return own };
        if let Some((scheme, _)) = target.split_once("://") {
            return match scheme {
                "tcp" | "rdma" | "unix" => Route { data: Some(target.clone()), ..own },
                _ => Route { connection: target.clone(), data: None },
            };
        }
        // `tcp:HOST` is virsh's older way to write it, and RGManager's.
        let host = target.strip_prefix("tcp:").unwrap_or(target);
        let target = match host.parse::<std::net::Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => host.to_owned(),
        };
        match self.tunnelled {
            // Tunnelled data has no way of its own: the connection takes it.
            true => Route { connection: with_host(connection, &target), data: None },
            false => Route { data: Some(format!("tcp://{target}")), ..own },
        }
    }
}

/// `uri` with another host in it; its user and port stay.
fn with_host(uri: &str, host: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else { return uri.to_owned() };
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority, format!("/{path}")),
        None => (rest, String::new()),
    };
    let (user, address) = match authority.rsplit_once('@') {
        Some((user, address)) => (format!("{user}@"), address),
        None => (String::new(), authority),
    };
    let is_port = |it: &str| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit());
    let port = match address.rsplit_once(':') {
        Some((_, port)) if is_port(port) => format!(":{port}"),
        _ => String::new(),
    };
    format!("{scheme}://{user}{host}{port}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_of_a_migration_mapping_has_its_route_and_the_unmapped_keep_their_own() {
        let node = |name: &str| NodeName::new(name).unwrap();
        let own = "qemu+tls://root@b:16514/system";
        for (name, mapping, tunnelled, connection, data) in [
            ("an unmapped member", ("a", "a-hb"), false, own, None),
            ("a host", ("b", "b-hb"), false, own, Some("tcp://b-hb")),
            ("a host with a port", ("b", "b-hb:49152"), false, own, Some("tcp://b-hb:49152")),
            ("a host, as virsh wrote it", ("b", "tcp:b-hb"), false, own, Some("tcp://b-hb")),
            ("an IPv6 address", ("b", "fd00::2"), false, own, Some("tcp://[fd00::2]")),
            (
                "an IPv6 address, tunnelled",
                ("b", "fd00::2"),
                true,
                "qemu+tls://root@[fd00::2]:16514/system",
                None,
            ),
            ("a data URI", ("b", "rdma://10.0.0.2"), false, own, Some("rdma://10.0.0.2")),
            (
                "a connection URI",
                ("b", "qemu+ssh://b-hb/system"),
                false,
                "qemu+ssh://b-hb/system",
                None,
            ),
            ("a host, tunnelled", ("b", "b-hb"), true, "qemu+tls://root@b-hb:16514/system", None),
        ] {
            let routes = BTreeMap::from([(node(mapping.0), mapping.1.to_owned())]);
            let options = MigrationOptions { tunnelled, routes, ..MigrationOptions::default() };
            let expected = Route { connection: connection.into(), data: data.map(str::to_owned) };
            assert_eq!(options.route(&node("b"), own), expected, "{name}");
        }
    }
}
