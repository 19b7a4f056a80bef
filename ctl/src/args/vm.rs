//! VMs on the command line: what is done with their definitions, and the policy that they have.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::value::duration;
use super::{Read, handling, placing};

/// VMs.
#[derive(Debug, Subcommand)]
pub enum Vm {
    /// Put VMs under management. Starts nothing.
    Add {
        /// The domain XML of each; - for standard input. Names and UUIDs may come once.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[command(flatten)]
        policy: Policy,
    },
    /// Change a VM. Stops nothing; a changed domain XML holds from its next start.
    Edit {
        /// The VM.
        vm: String,
        /// The new domain XML; without it only the flags change.
        file: Option<PathBuf>,
        #[command(flatten)]
        policy: Policy,
    },
    /// Take a VM out of management. Stops nothing.
    Forget {
        /// The VM.
        vm: String,
    },
    /// Say that an outside job, such as a backup, claims a VM: it is not started meanwhile. The claim ends with the proven death of the
    /// VM's node.
    Claim {
        /// The VM.
        vm: String,
        /// What for.
        #[arg(long)]
        reason: String,
    },
    /// Say that the job is done.
    Unclaim {
        /// The VM.
        vm: String,
    },
    /// Show a VM.
    Show {
        /// The VM.
        vm: String,
        /// Print its domain XML only.
        #[arg(long)]
        xml: bool,
        #[command(flatten)]
        read: Read,
    },
    /// List the VMs.
    List(Read),
    /// Say what domain XML files hold, or why they are refused; asks no cluster.
    Check {
        /// The files.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

/// How a VM is treated; the names are RGManager's.
#[derive(Debug, Args, Default)]
pub struct Policy {
    /// What to do when it fails.
    #[arg(long, value_enum)]
    pub recovery: Option<Recovery>,
    /// Restarts in place before it is moved or disabled; 0 = no limit.
    #[arg(long)]
    pub max_restarts: Option<u32>,
    /// Restarts older than this are forgotten; 0 = never.
    #[arg(long, value_parser = duration)]
    pub restart_expire_time: Option<Duration>,
    /// Where it may run; empty for anywhere.
    #[arg(long)]
    pub failover_domain: Option<String>,
    /// How it is migrated when nothing else is said.
    #[arg(long, value_enum)]
    pub migration: Option<Migration>,
    /// Whether it may be migrated: as its domain XML says, or as you say.
    #[arg(long, value_enum)]
    pub migratable: Option<Migratable>,
    /// How long its guest may take to shut down.
    #[arg(long, value_parser = duration)]
    pub stop_timeout: Option<Duration>,
    /// What its node does with it when it is cut off and its lease runs out; `continue` needs a lock manager.
    #[arg(long, value_enum)]
    pub on_isolation: Option<Isolation>,
    /// What happens when it is seen running twice.
    #[arg(long, value_enum)]
    pub on_conflict: Option<Conflict>,
    /// Started again by itself after the whole cluster was down, or was restored from a backup.
    #[arg(long)]
    pub autostart: Option<bool>,
    /// Alone on its node among the cluster's VMs: 0 = no, else its priority; 1 takes the node of 2 where no other is free.
    #[arg(long)]
    pub exclusive: Option<u32>,
    /// What has to be started before it is, as vm:NAME or service:NAME, with :soft for the start only; empty for nothing.
    #[arg(long, value_delimiter = ',', value_parser = dependency)]
    pub depend: Option<Vec<Depend>>,
    /// VMs with 1 are started before those with 2; 0 = after all that have a number.
    #[arg(long)]
    pub start_priority: Option<u32>,
    /// Failed status checks that are let pass; 0 = none.
    #[arg(long)]
    pub max_failures: Option<u32>,
    /// Failed status checks older than this are forgotten; 0 = never.
    #[arg(long, value_parser = duration)]
    pub failure_expire_time: Option<Duration>,
    /// How it is treated on its host.
    #[command(flatten)]
    pub handling: handling::Handling,
    /// How it is placed.
    #[command(flatten)]
    pub placing: placing::Placing,
}

/// One dependency of the command line; an empty name stands for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Depend {
    /// As vm:NAME.
    pub on: String,
    /// hard or soft.
    pub mode: String,
}

/// What a node does with a VM when its lease runs out.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "kebab-case")]
pub enum Isolation {
    /// Its processors are stopped; it runs on when its node is back and still its owner.
    Suspend,
    /// It is destroyed.
    Destroy,
    /// It runs on.
    Continue,
}

/// What happens to a VM that is seen running twice.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "kebab-case")]
pub enum Conflict {
    /// Nothing, until `berthctl resolve`.
    Wait,
    /// Its owner's copy is kept.
    KeepOwner,
}

/// Recovery policies.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "kebab-case")]
pub enum Recovery {
    /// On the same node, and on another after max-restarts.
    Restart,
    /// On another node.
    Relocate,
    /// Not at all.
    Disable,
    /// On the same node, and not at all after max-restarts.
    RestartDisable,
}

/// Whether a VM may be migrated.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Migratable {
    /// Not while the domain XML holds something of its host.
    Auto,
    /// Whatever the domain XML holds.
    Yes,
    /// Never.
    No,
}

/// Ways to migrate.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Migration {
    /// Running.
    Live,
    /// Paused.
    Pause,
}

/// Domains that are to be taken under management.
#[derive(Debug, Args)]
pub struct Adopt {
    /// Their names.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub names: Vec<String>,
    /// All that are there.
    #[arg(long)]
    pub all: bool,
    /// Only those of this node.
    #[arg(long)]
    pub node: Option<String>,
    /// Say what would be taken and what clashes, and take nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Leave those that run disabled: the cluster knows them and does nothing about them.
    #[arg(long)]
    pub no_enable: bool,
}

fn dependency(text: &str) -> Result<Depend, String> {
    let (on, mode) = match text.rsplit_once(':') {
        Some((on, mode @ ("hard" | "soft"))) if on.contains(':') => (on, mode),
        _ => (text, "hard"),
    };
    match on.split_once(':') {
        Some((kind, _)) if !matches!(kind, "vm" | "service") => {
            Err(format!("{kind} is no kind; write it as vm:NAME or service:NAME"))
        }
        _ => Ok(Depend { on: on.to_owned(), mode: mode.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_is_hard_unless_it_says_soft() {
        let read = |text| dependency(text).map(|it| (it.on, it.mode));
        let is = |on: &str, mode: &str| Ok((on.to_owned(), mode.to_owned()));
        assert_eq!(read("vm:db"), is("vm:db", "hard"));
        assert_eq!(read("vm:db:soft"), is("vm:db", "soft"));
        // A VM of that name.
        assert_eq!(read("vm:soft"), is("vm:soft", "hard"));
        assert!(read("disk:db").is_err());
    }
}
