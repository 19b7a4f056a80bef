//! File, environment and flags to one checked configuration.

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use model::id::NodeName;
use proto::channel::TlsFiles;
use serde::Deserialize;

/// Berth's agent on one hypervisor host.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Flags {
    /// The configuration file.
    #[arg(
        long,
        global = true,
        env = "BERTH_AGENT_CONFIG",
        default_value = "/etc/berth/agent.toml"
    )]
    config: PathBuf,
    /// This node's name; the host's name where it is not given.
    #[arg(long, env = "BERTH_NODE")]
    node: Option<String>,
    /// The replicas, as HOST:PORT.
    #[arg(long, env = "BERTH_SERVERS", value_delimiter = ',')]
    servers: Option<Vec<String>>,
    /// libvirt's URI.
    #[arg(long, env = "BERTH_HYPERVISOR_URI")]
    hypervisor_uri: Option<String>,
    /// The URI by which other hosts migrate VMs to this one.
    #[arg(long, env = "BERTH_MIGRATION_URI")]
    migration_uri: Option<String>,
    /// Where the ledger is kept.
    #[arg(long, env = "BERTH_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// Where the lease is kept; must be empty after a reboot.
    #[arg(long, global = true, env = "BERTH_RUN_DIR")]
    run_dir: Option<PathBuf>,
    /// The watchdog to feed.
    #[arg(long, env = "BERTH_WATCHDOG")]
    watchdog: Option<PathBuf>,
    /// Where fence agents are looked for, by which this node can fence others.
    #[arg(long, env = "BERTH_FENCE_AGENTS", value_delimiter = ':')]
    fence_agents: Option<Vec<PathBuf>>,
    /// Migrate VMs also when libvirt does not see that their storage is shared.
    #[arg(long, env = "BERTH_MIGRATE_UNSAFE")]
    migrate_unsafe: bool,
    /// Something else than to be the agent.
    #[command(subcommand)]
    pub command: Option<Task>,
}

/// What else this program does.
#[derive(Debug, Clone, Subcommand)]
pub enum Task {
    /// Have the running agent tell the control plane that this host goes down, and wait until nothing of the cluster's is left here.
    ///
    /// What becomes of its VMs is the setting shutdown_policy. Ends with 0 when the host may go down, with 1 when the time is over
    /// and it may as well. An agent that starts again takes the announcement back.
    AnnounceShutdown {
        /// The host boots again at once: VMs may wait for it.
        #[arg(long, conflicts_with = "from_systemd")]
        reboot: bool,
        /// Have systemd's jobs say whether the host goes down at all, and whether it boots again.
        #[arg(long)]
        from_systemd: bool,
        /// How long to wait in all, in seconds.
        #[arg(long, value_name = "SECONDS", env = "BERTH_SHUTDOWN_TIMEOUT", default_value_t = 600)]
        timeout: u64,
        /// How long to wait for a control plane that does not answer, in seconds.
        #[arg(long, value_name = "SECONDS", env = "BERTH_SHUTDOWN_UNHEARD", default_value_t = 60)]
        unheard: u64,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    node: Option<String>,
    servers: Option<Vec<String>>,
    hypervisor_uri: Option<String>,
    migration_uri: Option<String>,
    state_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    reserved_memory_mib: Option<u64>,
    fence_agents: Option<Vec<PathBuf>>,
    #[serde(default)]
    migrate_unsafe: bool,
    watchdog: Option<FileWatchdog>,
    tls: Option<FileTls>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileWatchdog {
    path: PathBuf,
    timeout_ms: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTls {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

/// A watchdog to be fed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchdogConfig {
    /// The device, or a pipe that behaves like one.
    pub path: PathBuf,
    /// When it bites, in milliseconds.
    pub timeout_ms: u64,
}

/// What holds for this process.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node's name.
    pub node: NodeName,
    /// The replicas.
    pub servers: Vec<String>,
    /// libvirt's URI.
    pub hypervisor_uri: String,
    /// How other hosts migrate to this one.
    pub migration_uri: String,
    /// Where the ledger is kept.
    pub state_dir: PathBuf,
    /// Where the lease is kept.
    pub run_dir: PathBuf,
    /// Memory that guests may not have.
    pub reserved_memory_mib: u64,
    /// Storage is shared in a way that libvirt cannot see, and its refusal to migrate (`VIR_MIGRATE_UNSAFE`) is waived.
    pub migrate_unsafe: bool,
    /// Where fence agents are looked for.
    pub fence_agents: Vec<PathBuf>,
    /// The watchdog.
    pub watchdog: Option<WatchdogConfig>,
    /// Mutual TLS.
    pub tls: Option<TlsFiles>,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration file {} could not be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("the configuration file {} is not valid", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: toml::de::Error,
    },
    /// A value that cannot be.
    #[error("{what}: {reason}")]
    Value {
        /// Which.
        what: &'static str,
        /// Why not, and what would be right.
        reason: String,
    },
}

/// Empty after a reboot.
const RUN_DIR: &str = "/run/berth";
/// Where distributions put fence agents.
const FENCE_AGENT_DIRECTORIES: [&str; 3] = ["/usr/sbin", "/usr/bin", "/sbin"];
/// The host's own share where nothing else is said: enough for libvirtd, the agent and a shell.
const RESERVED_MEMORY_MIB: u64 = 512;
/// The default time-out of a watchdog (design section 5), and the shortest that can be fed three times in.
const WATCHDOG_TIMEOUT_MS: u64 = 2_000;
const SHORTEST_WATCHDOG_MS: u64 = 300;

/// Where the running agent's lease and socket are.
pub fn run_dir(flags: &Flags) -> Result<PathBuf, ConfigError> {
    let configured = read(&flags.config)?.run_dir;
    Ok(flags.run_dir.clone().or(configured).unwrap_or_else(|| RUN_DIR.into()))
}

/// Reads flags and file. A missing file is an error only when the flags do not say enough.
pub fn load(flags: Flags) -> Result<Config, ConfigError> {
    let file = read(&flags.config)?;
    let value = |what, reason: String| ConfigError::Value { what, reason };
    let node = match flags.node.or(file.node) {
        Some(name) => name,
        None => nix::unistd::gethostname()
            .map_err(|error| value("node", format!("the host's name could not be had: {error}")))?
            .to_string_lossy()
            .into_owned(),
    };
    let node = NodeName::new(&node).map_err(|error| value("node", error.to_string()))?;
    let servers = flags.servers.or(file.servers).unwrap_or_default();
    if servers.is_empty() {
        return Err(value("servers", "none is given; name the replicas as HOST:PORT".into()));
    }
    let configured = file
        .watchdog
        .map(|watchdog| WatchdogConfig { path: watchdog.path, timeout_ms: watchdog.timeout_ms });
    let watchdog = match (flags.watchdog, configured) {
        (Some(path), Some(configured)) => Some(WatchdogConfig { path, ..configured }),
        (Some(path), None) => Some(WatchdogConfig { path, timeout_ms: WATCHDOG_TIMEOUT_MS }),
        (None, configured) => configured,
    };
    if let Some(watchdog) =
        watchdog.as_ref().filter(|watchdog| watchdog.timeout_ms < SHORTEST_WATCHDOG_MS)
    {
        let reason = format!(
            "{} ms is too short; {SHORTEST_WATCHDOG_MS} ms is the least",
            watchdog.timeout_ms
        );
        return Err(value("watchdog.timeout_ms", reason));
    }
    Ok(Config {
        migration_uri: flags
            .migration_uri
            .or(file.migration_uri)
            .unwrap_or_else(|| format!("qemu+tls://{node}/system")),
        node,
        servers,
        hypervisor_uri: flags
            .hypervisor_uri
            .or(file.hypervisor_uri)
            .unwrap_or_else(|| "qemu:///system".into()),
        state_dir: flags
            .state_dir
            .or(file.state_dir)
            .unwrap_or_else(|| "/var/lib/berth/agent".into()),
        run_dir: flags.run_dir.or(file.run_dir).unwrap_or_else(|| RUN_DIR.into()),
        reserved_memory_mib: file.reserved_memory_mib.unwrap_or(RESERVED_MEMORY_MIB),
        migrate_unsafe: flags.migrate_unsafe || file.migrate_unsafe,
        fence_agents: flags
            .fence_agents
            .or(file.fence_agents)
            .unwrap_or_else(|| FENCE_AGENT_DIRECTORIES.map(PathBuf::from).to_vec()),
        watchdog,
        tls: file.tls.map(|tls| TlsFiles {
            ca: tls.ca,
            certificate: tls.certificate,
            key: tls.key,
        }),
    })
}

fn read(path: &Path) -> Result<File, ConfigError> {
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(File::default()),
        Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_with(text: &str) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        std::fs::write(&path, text).unwrap();
        load(
            Flags::try_parse_from(["berth-agent", "--config", &path.display().to_string()])
                .unwrap(),
        )
    }

    #[test]
    fn a_small_file_is_enough() {
        let config = load_with("node = 'n1'\nservers = ['a:1', 'b:1']").unwrap();
        assert_eq!(config.migration_uri, "qemu+tls://n1/system");
        assert_eq!(config.watchdog, None);
    }

    #[test]
    fn what_is_wrong_is_refused_with_the_reason() {
        for (text, reason) in [
            ("node = 'n1'", "servers: none is given"),
            ("node = 'n 1'\nservers = ['a:1']", "may not contain ' '"),
            (
                "node = 'n1'\nservers = ['a:1']\nwatchdog = { path = '/w', timeout_ms = 10 }",
                "10 ms is too short",
            ),
            ("nodes = 'n1'", "not valid"),
        ] {
            let error = load_with(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
