//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::args::value::{duration, replica};
use crate::exit;

mod failover_domain;
mod fence;
pub mod handling;
mod node;
pub mod placing;
mod replica;
mod service;
mod settings;
mod value;
mod vm;

pub use failover_domain::{Failback, FailoverDomain};
pub use fence::{Deed, Fence, FenceCommand};
pub use node::Node;
pub use replica::Replica;
pub use service::Service;
pub use settings::Settings;
pub use vm::{Adopt, Conflict, Depend, Isolation, Migratable, Migration, Policy, Recovery, Vm};

/// Runs a Berth cluster: VMs on libvirt hosts, each in one place at most.
#[derive(Debug, Parser)]
#[command(name = "berthctl", version, about, after_help = exit::TABLE)]
pub struct Arguments {
    /// The file with what is not said here; /etc/berth/ctl.toml, if that is there.
    #[arg(long, global = true, env = "BERTH_CTL_CONFIG")]
    pub config: Option<PathBuf>,
    /// The replicas, as HOST:PORT [default: those of the file, or 127.0.0.1:7480].
    #[arg(long, global = true, env = "BERTH_SERVERS", value_delimiter = ',')]
    pub servers: Vec<String>,
    /// Print JSON for programs.
    #[arg(long, global = true)]
    pub json: bool,
    /// Return when the request is accepted, without waiting for its end.
    #[arg(long, global = true)]
    pub no_wait: bool,
    /// How long the whole command may take, such as 90s or 5m.
    #[arg(long, global = true, value_parser = duration, default_value = "5m")]
    pub timeout: Duration,
    /// Who asks, for the events.
    #[arg(long, global = true, env = "BERTH_OPERATOR")]
    pub operator: Option<String>,
    /// The authority that signed the replicas' certificates.
    #[arg(long, global = true, env = "BERTH_TLS_CA")]
    pub tls_ca: Option<PathBuf>,
    /// The operator's certificate.
    #[arg(long, global = true, env = "BERTH_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, global = true, env = "BERTH_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show nodes and VMs.
    Status {
        /// Answer from the asked replica's own state, without the leader.
        #[arg(long)]
        stale: bool,
        /// Fail unless every node is online and no VM is failed, in conflict or lost.
        #[arg(long)]
        check: bool,
    },
    /// Start a VM and keep it running; track it where it runs already.
    Enable {
        /// The VM, as NAME or vm:NAME, or the service, as service:NAME.
        vm: String,
        /// The node to start it on.
        #[arg(long)]
        on: Option<String>,
    },
    /// Stop a VM and keep it so; the way out of `failed`.
    Disable {
        /// The VM, as NAME or vm:NAME, or the service, as service:NAME.
        vm: String,
    },
    /// Stop a VM: its guest is asked to shut down, and destroyed after the VM's stop time-out.
    Stop {
        /// The VM, as NAME or vm:NAME, or the service, as service:NAME.
        vm: String,
        /// Destroy at once.
        #[arg(long)]
        now: bool,
    },
    /// Stop a VM and start it on the same node.
    Restart {
        /// The VM, as NAME or vm:NAME, or the service, as service:NAME.
        vm: String,
    },
    /// Stop a VM and start it on another node.
    Relocate {
        /// The VM, as NAME or vm:NAME, or the service, as service:NAME.
        vm: String,
        /// The node.
        #[arg(long)]
        to: Option<String>,
    },
    /// Move a running VM to another node.
    Migrate {
        /// The VM, as NAME or vm:NAME, or the service, as service:NAME.
        vm: String,
        /// The node.
        #[arg(long)]
        to: String,
        /// The guest runs on while its memory is copied.
        #[arg(long, conflicts_with = "pause")]
        live: bool,
        /// The guest is paused for the copy.
        #[arg(long)]
        pause: bool,
    },
    /// Do nothing to a VM until it is unfrozen, while somebody works on it: no start, no stop, no recovery, no move.
    Freeze {
        /// The VM, as NAME or vm:NAME, or the service, as service:NAME.
        vm: String,
        /// Why, for whoever meets it frozen.
        #[arg(long)]
        reason: String,
        /// It is unfrozen by itself after this, such as 2h.
        #[arg(long = "for", value_parser = duration)]
        span: Option<Duration>,
    },
    /// Give a VM back to the cluster; every node says first whether it runs there.
    Unfreeze {
        /// The VM, as NAME or vm:NAME, or the service, as service:NAME.
        vm: String,
    },
    /// Start nothing in the whole cluster until it is unlocked; stops go on.
    Lock {
        /// Why, for whoever meets it locked.
        #[arg(long)]
        reason: String,
    },
    /// Start VMs again.
    Unlock,
    /// Forget what counts against a VM: its restarts, failed checks, nodes tried in vain and waits.
    Convalesce {
        /// The VM, as NAME or vm:NAME, or the service, as service:NAME.
        vm: String,
    },
    /// Call off what is under way.
    Cancel {
        /// The VM, as NAME or vm:NAME, or the service, as service:NAME.
        vm: String,
    },
    /// Why a VM is as it is, and where it could run.
    Explain {
        /// The VM, as NAME or vm:NAME, or the service, as service:NAME.
        vm: String,
    },
    /// Put VMs under management, change, show and forget them.
    #[command(subcommand)]
    Vm(Box<Vm>),
    /// Put services under management, change, show and forget them: ordered groups of VMs and scripts. `enable`,
    /// `disable`, `stop`, `restart`, `relocate`, `migrate`, `freeze`, `unfreeze`, `convalesce`, `cancel` and `explain`
    /// take them as `service:NAME`.
    #[command(subcommand)]
    Service(Service),
    /// Show nodes, say how they are fenced, remove them.
    #[command(subcommand)]
    Node(Node),
    /// Failover domains.
    #[command(subcommand)]
    FailoverDomain(FailoverDomain),
    /// Placement rules: VMs together or apart.
    #[command(subcommand)]
    Rule(placing::Rule),
    /// Claim up all that is done by itself: nothing is started, stopped, moved, fenced or recovered.
    Pause(placing::Pause),
    /// Go on.
    Unpause,
    /// Hands off a VM: nothing is done about it until it is enabled, stopped or disabled.
    Ignore {
        /// The VM.
        vm: String,
    },
    /// What happened.
    Events {
        /// Go on with those that come.
        #[arg(long)]
        follow: bool,
        /// Only after this revision.
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// Only of this VM.
        #[arg(long)]
        vm: Option<String>,
        /// Only of this node.
        #[arg(long)]
        node: Option<String>,
        /// As the asked replica has them, without the leader.
        #[arg(long)]
        stale: bool,
    },
    /// Cut a node's power, or ask its fence devices whether they could.
    Fence(Fence),
    /// Of a VM that runs twice keep one copy; the others are destroyed.
    Resolve {
        /// The VM.
        vm: String,
        /// The node whose copy is kept.
        #[arg(long)]
        keep: String,
    },
    /// Times and limits of the whole cluster.
    #[command(subcommand)]
    Settings(Settings),
    /// Take domains that hosts have already under management, without touching them. Those that run are enabled, so that
    /// they are tracked where they run.
    Adopt(Adopt),
    /// Make the cluster's definitions those of a file, all of it or nothing. Starts and stops nothing: what the file no
    /// longer names is forgotten and runs on. Sections that the file does not have are left alone.
    Apply {
        /// The file, as `export` writes it; - for standard input.
        #[arg(short, long)]
        file: PathBuf,
        /// Show what would change, and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Show what `apply` would change.
    Diff {
        /// The file; - for standard input.
        #[arg(short, long)]
        file: PathBuf,
        /// End with exit code 1 where something would change.
        #[arg(long)]
        exit_code: bool,
    },
    /// Print the cluster's definitions as a file for `apply`. Secrets of fence devices are left out and stay as they are.
    Export {
        /// Write each VM's domain XML to a file of this directory, and not into the file itself.
        #[arg(long)]
        xml_dir: Option<PathBuf>,
    },
    /// Make a file for `apply` of RGManager's cluster.conf, and say line by line what maps, what differs and what cannot
    /// be. Asks no cluster; starts and stops nothing.
    Import {
        /// The cluster.conf.
        file: PathBuf,
        /// Say it, and write nothing.
        #[arg(long)]
        dry_run: bool,
        /// Where the file for `apply` is written. It holds the secrets of the fence devices.
        #[arg(long, default_value = "fleet.yaml")]
        output: PathBuf,
        /// Where the paths in the cluster.conf begin, for one that was copied from its hosts.
        #[arg(long, default_value = "/")]
        root: PathBuf,
        /// Where libvirt keeps its definitions, below the root.
        #[arg(long, default_value = "etc/libvirt/qemu")]
        libvirt: PathBuf,
    },
    /// Write the control plane's state to a file.
    Backup {
        /// The file.
        file: PathBuf,
    },
    /// Make a new control plane of a backup; it takes a new epoch and starts nothing before each node has said what it
    /// runs. Shut the old one down for good before.
    Restore {
        /// The file.
        file: PathBuf,
        /// The members, as ID=HOST:PORT; each with an empty data directory.
        #[arg(long = "replica", value_parser = replica, required = true)]
        members: Vec<(u64, String)>,
    },
    /// The replicas of the control plane.
    #[command(subcommand)]
    Replica(Replica),
    /// Print the completions of a shell.
    Completions {
        /// Which.
        shell: Shell,
    },
}

/// Whose state is shown.
#[derive(Debug, Clone, Copy, Args)]
pub struct Read {
    /// Answer from the asked replica's own state, which may be old, without the leader.
    #[arg(long)]
    pub stale: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_fits_together() {
        Arguments::command().debug_assert();
    }
}
