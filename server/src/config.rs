//! File, environment and flags to one checked configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Parser;
use proto::channel::TlsFiles;
use serde::Deserialize;

use crate::hooks::config::FileHook;
use crate::hooks::{self, Hook, HookError};
use crate::raft::Timing;

/// Where distributions put fence agents.
const FENCE_AGENT_DIRECTORIES: [&str; 3] = ["/usr/sbin", "/usr/bin", "/sbin"];
/// Agents, operators and replicas all speak to this port.
const DEFAULT_LISTEN: &str = "127.0.0.1:7480";

/// One replica of Berth's control plane.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Flags {
    /// The configuration file.
    #[arg(long, env = "BERTH_SERVER_CONFIG", default_value = "/etc/berth/server.toml")]
    config: PathBuf,
    /// This replica's id; a number that no other replica has or had.
    #[arg(long, env = "BERTH_REPLICA_ID")]
    id: Option<u64>,
    /// Where to listen.
    #[arg(long, env = "BERTH_LISTEN")]
    listen: Option<SocketAddr>,
    /// Where the log, the vote and the snapshots are kept.
    #[arg(long, env = "BERTH_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Where fence agents are looked for.
    #[arg(long, env = "BERTH_FENCE_AGENTS", value_delimiter = ':')]
    fence_agents: Option<Vec<PathBuf>>,
    /// Speak without TLS on a network that is not the loopback: for a lab that nobody else reaches.
    #[arg(long, env = "BERTH_INSECURE")]
    insecure: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    id: Option<u64>,
    listen: Option<SocketAddr>,
    data_dir: Option<PathBuf>,
    fence_agents: Option<Vec<PathBuf>>,
    #[serde(default)]
    insecure: bool,
    tls: Option<FileTls>,
    #[serde(default)]
    raft: FileRaft,
    #[serde(default)]
    hooks: Vec<FileHook>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTls {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRaft {
    heartbeat_ms: Option<u64>,
    election_min_ms: Option<u64>,
    election_max_ms: Option<u64>,
    snapshot_entries: Option<u64>,
}

/// What holds for this process.
#[derive(Debug, Clone)]
pub struct Config {
    /// This replica's id.
    pub id: u64,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where data is kept.
    pub data_dir: PathBuf,
    /// Where fence agents are looked for.
    pub fence_agents: Vec<PathBuf>,
    /// Mutual TLS.
    pub tls: Option<TlsFiles>,
    /// Raft's times.
    pub timing: Timing,
    /// Programs that are run when something happens.
    pub hooks: Vec<Hook>,
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
    /// Something is missing.
    #[error("{0} is not set; give it in the configuration file or as a flag")]
    Missing(&'static str),
    /// A network without TLS.
    #[error(
        "{0} is not a loopback address and no [tls] is configured: anybody there could command the cluster; configure TLS, or say `insecure = true` on a network that nobody else reaches"
    )]
    Insecure(SocketAddr),
    /// Times that do not fit.
    #[error("{0}")]
    Timing(String),
    /// A hook that could not be run.
    #[error("the configuration file {} has a hook that is refused", path.display())]
    Hook {
        /// The file.
        path: PathBuf,
        /// Which hook, and why.
        #[source]
        source: HookError,
    },
}

/// Reads flags and file. A missing file is an error only when the flags do not say enough.
pub fn load(flags: Flags) -> Result<Config, ConfigError> {
    let file = read(&flags.config)?;
    let config = Config {
        id: flags.id.or(file.id).ok_or(ConfigError::Missing("id"))?,
        listen: match flags.listen.or(file.listen) {
            Some(listen) => listen,
            None => DEFAULT_LISTEN.parse().map_err(|_| ConfigError::Missing("listen"))?,
        },
        data_dir: flags.data_dir.or(file.data_dir).ok_or(ConfigError::Missing("data_dir"))?,
        fence_agents: flags
            .fence_agents
            .or(file.fence_agents)
            .unwrap_or_else(|| FENCE_AGENT_DIRECTORIES.iter().map(PathBuf::from).collect()),
        tls: file.tls.map(|tls| TlsFiles {
            ca: tls.ca,
            certificate: tls.certificate,
            key: tls.key,
        }),
        timing: timing(&file.raft)?,
        hooks: file
            .hooks
            .into_iter()
            .map(hooks::config::check)
            .collect::<Result<_, _>>()
            .map_err(|source| ConfigError::Hook { path: flags.config.clone(), source })?,
    };
    if config.tls.is_none()
        && !config.listen.ip().is_loopback()
        && !(flags.insecure || file.insecure)
    {
        return Err(ConfigError::Insecure(config.listen));
    }
    Ok(config)
}

fn read(path: &Path) -> Result<File, ConfigError> {
    match std::fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(File::default()),
        Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
    }
}

fn timing(file: &FileRaft) -> Result<Timing, ConfigError> {
    let default = Timing::default();
    let timing = Timing {
        heartbeat_ms: file.heartbeat_ms.unwrap_or(default.heartbeat_ms),
        election_min_ms: file.election_min_ms.unwrap_or(default.election_min_ms),
        election_max_ms: file.election_max_ms.unwrap_or(default.election_max_ms),
        snapshot_entries: file.snapshot_entries.unwrap_or(default.snapshot_entries),
    };
    let Timing { heartbeat_ms, election_min_ms, election_max_ms, snapshot_entries } = timing;
    // A follower must miss more than one heartbeat before it stands for election.
    if heartbeat_ms == 0
        || 2 * heartbeat_ms >= election_min_ms
        || election_min_ms >= election_max_ms
    {
        return Err(ConfigError::Timing(format!(
            "raft: 2 × heartbeat {heartbeat_ms} ms < election_min {election_min_ms} ms < election_max {election_max_ms} ms does not hold"
        )));
    }
    if snapshot_entries < 100 {
        return Err(ConfigError::Timing(format!(
            "raft: snapshot_entries is {snapshot_entries}, and must be 100 or more"
        )));
    }
    Ok(timing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_with(text: &str, flags: &[&str]) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("server.toml");
        std::fs::write(&path, text).unwrap();
        let path = path.display().to_string();
        let arguments =
            ["berth-server", "--config", &path].into_iter().chain(flags.iter().copied());
        load(Flags::try_parse_from(arguments).unwrap())
    }

    #[test]
    fn flags_win_over_the_file() {
        let config = load_with("id = 1\ndata_dir = '/a'", &["--id", "2"]).unwrap();
        assert_eq!((config.id, config.data_dir), (2, PathBuf::from("/a")));
    }

    #[test]
    fn a_hook_that_could_not_be_run_is_refused_by_name_with_the_way_out() {
        let hook = |rest: &str| format!("id = 1\ndata_dir = '/a'\n[[hooks]]\n{rest}");
        for (text, reason) in [
            ("program = 'bin/sh'\nevents = ['*']", "bin/sh is not an absolute path"),
            ("program = '/nonexistent'\nevents = ['*']", "/nonexistent cannot be read"),
            ("program = '/etc'\nevents = ['*']", "/etc is not a file"),
            ("program = '/etc/passwd'\nevents = ['*']", "chmod +x"),
            ("program = '/bin/sh'", "names no events"),
            ("program = '/bin/sh'\nevents = []", "names no events"),
            (
                "program = '/bin/sh'\nevents = ['vm-born']",
                "\"vm-born\", which there is not; events are \"*\" for all, cluster-initialised, ",
            ),
            ("program = '/bin/sh'\nevents = ['*', 'vm-born']", "vm-born"),
            ("program = '/bin/sh'\nseverity = 'bad'", "info, warning or alarm"),
            (
                "program = '/bin/sh'\nevents = ['vm-started']\nseverity = 'alarm'",
                "vm-started, which is less",
            ),
            ("program = '/bin/sh'\nevents = ['*']\ntimeout_ms = 0", "1 to 600000 ms"),
            ("program = '/bin/sh'\nevents = ['*']\nuser = 'root'", "unknown field"),
        ] {
            let error = load_with(&hook(text), &[]).unwrap_err();
            let why = std::error::Error::source(&error).unwrap().to_string();
            assert!(why.contains(reason), "{text}: {why}");
        }
        let text = hook(
            "program = '/bin/sh'\nevents = ['node-dead', 'vm-lost']\n[[hooks]]\nprogram = '/bin/ls'\nseverity = 'alarm'\ntimeout_ms = 5",
        );
        let hooks = load_with(&text, &[]).unwrap().hooks;
        use model::event::EventKind::{NodeDead, VmConflict, VmLost, VmStarted};
        let wants = |hook: usize| {
            [NodeDead, VmLost, VmConflict, VmStarted].map(|kind| hooks[hook].wants(kind))
        };
        assert_eq!((wants(0), wants(1)), ([true, true, false, false], [false, true, true, false]));
        assert_eq!(hooks[1].timeout, std::time::Duration::from_millis(5));
    }

    #[test]
    fn what_is_wrong_is_refused_with_the_reason() {
        for (text, reason) in [
            ("data_dir = '/a'", "id is not set"),
            ("id = 1", "data_dir is not set"),
            ("id = 1\ndata_dir = '/a'\nlisten = '10.0.0.1:7480'", "not a loopback"),
            ("id = 1\ndata_dir = '/a'\n[raft]\nheartbeat_ms = 200", "2 × heartbeat 200 ms"),
            ("id = 1\ndata_dir = '/a'\ncolour = 'red'", "not valid"),
        ] {
            let error = load_with(text, &[]).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
