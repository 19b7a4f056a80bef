//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::exit;

pub mod handling;
pub mod placing;

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

/// Services.
#[derive(Debug, Subcommand)]
pub enum Service {
    /// Put a service under management. Starts nothing.
    Add {
        /// Its YAML file: name, policy, members in the order of their start; - for standard input.
        #[arg(short, long)]
        file: PathBuf,
    },
    /// Change a service to what a file says. Stops nothing.
    Edit {
        /// As for `add`; it names the service.
        #[arg(short, long)]
        file: PathBuf,
        /// Refuse unless its definition is still that of this revision, as `service show` tells it.
        #[arg(long, value_name = "REVISION")]
        if_definition: Option<u64>,
    },
    /// Take a service out of management. Stops nothing.
    Forget {
        /// The service.
        service: String,
    },
    /// Show a service.
    Show {
        /// The service.
        service: String,
        #[command(flatten)]
        read: Read,
    },
    /// List the services with their members.
    List(Read),
}

/// Nodes.
#[derive(Debug, Subcommand)]
pub enum Node {
    /// List the nodes.
    List(Read),
    /// Show a node.
    Show {
        /// The node.
        node: String,
        #[command(flatten)]
        read: Read,
    },
    /// Say how a node is fenced: a fence agent with its options. With --add one more, as for a second power supply.
    Fence {
        /// The node.
        node: String,
        /// The fence agent, such as `fence_ipmilan`.
        #[arg(long, required_unless_present = "clear")]
        agent: Option<String>,
        /// An option of it, as KEY=VALUE. Kept secret.
        #[arg(long = "option", value_parser = pair)]
        options: Vec<(String, String)>,
        /// How long one call of it may take.
        #[arg(long, value_parser = duration, default_value = "20s")]
        call_timeout: Duration,
        /// Devices of one level must all say off; levels are tried in turn, the lowest first.
        #[arg(long, default_value_t = 0)]
        level: u8,
        /// Keep the devices that are set, and add this one.
        #[arg(long, conflicts_with = "clear")]
        add: bool,
        /// Remove the fence devices.
        #[arg(long, conflicts_with_all = ["agent", "options"])]
        clear: bool,
    },
    /// Say that a lost node is off, having made sure: its VMs start elsewhere.
    ConfirmOff(Deed),
    /// Many nodes seem lost at once and nothing is fenced: say that these are lost indeed, having looked at each.
    Release {
        /// All that seem lost, as `berthctl status` names them; refused where others do as well. Without any, the list is shown
        /// and asked about.
        nodes: Vec<String>,
    },
    /// How a node's death may be proven, and what follows a fence.
    Policy {
        /// The node.
        node: String,
        /// It is a virtual machine whose clock is never paused: its lease proves its death.
        #[arg(long, conflicts_with = "no_vouch_clock")]
        vouch_clock: bool,
        /// No longer so.
        #[arg(long)]
        no_vouch_clock: bool,
        /// `stay-off`, or `power-on/N` for N times an hour at the most.
        #[arg(long)]
        after_fence: Option<String>,
    },
    /// Move everything off a node and keep it empty until it has booted anew; VMs that cannot leave are named.
    Drain {
        /// The node.
        node: String,
        /// Keep it empty until `node maintenance NODE off`.
        #[arg(long)]
        stay: bool,
    },
    /// Move everything off a node and keep it empty, or take it back.
    Maintenance {
        /// The node.
        node: String,
        /// On or off.
        switch: placing::Switch,
    },
    /// Remove a node that can run nothing any more.
    Remove {
        /// The node.
        node: String,
    },
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

/// Something that is done to a node, and recorded with who and why.
#[derive(Debug, Args)]
pub struct Deed {
    /// The node.
    pub node: String,
    /// Why, for the record.
    #[arg(long)]
    pub why: String,
    /// The node's name again, for scripts; otherwise it is asked for.
    #[arg(long)]
    pub confirm: Option<String>,
}

/// Fencing.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Fence {
    /// What else is done with fence devices.
    #[command(subcommand)]
    pub command: Option<FenceCommand>,
    /// Cut a node's power; its VMs start elsewhere.
    #[command(flatten)]
    pub deed: Option<Deed>,
}

/// What else is done with fence devices.
#[derive(Debug, Subcommand)]
pub enum FenceCommand {
    /// Ask the fence devices of a node for its status, from the leading replica and through a surviving node; changes
    /// nothing.
    Test {
        /// The node.
        node: String,
    },
    /// How fences of a node ended, and what took their place; the last twenty.
    History {
        /// The node.
        node: String,
    },
}

/// Cluster-wide settings.
#[derive(Debug, Subcommand)]
pub enum Settings {
    /// Show them.
    Show,
    /// Change some; what would break the law is refused with the arithmetic.
    Set {
        /// As NAME=VALUE.
        #[arg(value_parser = pair, required_unless_present = "quiet_network")]
        values: Vec<(String, String)>,
        /// Begin with those for a network that never delays a packet by 50 ms. Raft's elections have to be as quick.
        #[arg(long)]
        quiet_network: bool,
    },
}

/// Failover domains.
#[derive(Debug, Subcommand)]
pub enum FailoverDomain {
    /// List them.
    List,
    /// Set one.
    Set {
        /// Its name.
        name: String,
        /// A member, as NODE or NODE:PRIORITY (1 is the best, 100 the last).
        #[arg(long = "node", value_parser = member, required = true)]
        nodes: Vec<(String, u32)>,
        /// Priorities count.
        #[arg(long)]
        ordered: bool,
        /// VMs run on members only.
        #[arg(long)]
        restricted: bool,
        /// VMs stay where they are when a better member returns.
        #[arg(long)]
        nofailback: bool,
        #[command(flatten)]
        failback: Failback,
    },
    /// Remove one.
    Remove {
        /// Its name.
        name: String,
    },
}

/// How VMs come back to a better node of their failover domain.
#[derive(Debug, Args)]
pub struct Failback {
    /// How long the better node has to be online before.
    #[arg(long, value_parser = duration, default_value = "0")]
    pub failback_delay: Duration,
    /// VMs of this domain on their way at a time; 0 = no limit.
    #[arg(long, default_value_t = 0)]
    pub failback_at_once: u32,
    /// VMs of this domain that come back within an hour; 0 = no limit.
    #[arg(long, default_value_t = 0)]
    pub failback_per_hour: u32,
    /// Only at this time of the day, as HH:MM-HH:MM in UTC.
    #[arg(long, value_parser = window)]
    pub failback_window: Option<(u32, u32)>,
    /// What cannot be migrated is stopped and started there; otherwise it stays.
    #[arg(long)]
    pub failback_relocate: bool,
}

/// Replicas.
#[derive(Debug, Subcommand)]
pub enum Replica {
    /// List them.
    List,
    /// Make a cluster of 1, 3 or 5 new replicas.
    Init {
        /// The members, as ID=HOST:PORT.
        #[arg(required = true, value_parser = replica)]
        members: Vec<(u64, String)>,
    },
    /// Add a new replica.
    Add {
        /// As ID=HOST:PORT.
        #[arg(value_parser = replica)]
        member: (u64, String),
    },
    /// Remove a replica.
    Remove {
        /// Its id.
        id: u64,
    },
    /// Add a new replica and remove an old one.
    Replace {
        /// The old one's id.
        old: u64,
        /// The new one, as ID=HOST:PORT.
        #[arg(value_parser = replica)]
        member: (u64, String),
    },
    /// Bring a broken replica back from its peers, under a new id; to be run on its host, with its server stopped or
    /// failing. What is left of its data is kept aside.
    Rebuild {
        /// The broken one's id, which is never used again.
        id: u64,
        /// Its data directory.
        #[arg(long, env = "BERTH_DATA_DIR", default_value = "/var/lib/berth/server")]
        data_dir: PathBuf,
        /// Where it will listen, as HOST:PORT; where the broken one did unless said otherwise.
        #[arg(long)]
        address: Option<String>,
    },
    /// Hand leadership over.
    TransferLeader {
        /// To this one; else to the one that has most of the log.
        id: Option<u64>,
    },
}

/// A span such as 90s, 5m, 1h30m, or a number of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let span: jiff::SignedDuration =
        text.parse().map_err(|error| format!("{error}; write it like 90s, 5m or 1h30m"))?;
    Duration::try_from(span).map_err(|_| "it is negative".to_owned())
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

/// Times of the day as HH:MM-HH:MM, in minutes since midnight.
fn window(text: &str) -> Result<(u32, u32), String> {
    let minute = |text: &str| -> Option<u32> {
        let (hour, minute) = text.split_once(':')?;
        let (hour, minute): (u32, u32) = (hour.parse().ok()?, minute.parse().ok()?);
        (hour < 24 && minute < 60).then_some(hour * 60 + minute)
    };
    text.split_once('-')
        .and_then(|(from, to)| Some((minute(from)?, minute(to)?)))
        .ok_or_else(|| "write it as HH:MM-HH:MM, in UTC".to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn member(text: &str) -> Result<(String, u32), String> {
    match text.split_once(':') {
        None => Ok((text.to_owned(), 1)),
        Some((node, priority)) => match priority.parse() {
            Ok(priority @ 1..=100) => Ok((node.to_owned(), priority)),
            _ => Err(format!("the priority {priority} is not a number from 1 to 100")),
        },
    }
}

fn replica(text: &str) -> Result<(u64, String), String> {
    let (id, address) = text.split_once('=').ok_or("write it as ID=HOST:PORT")?;
    let id = id.parse().map_err(|_| format!("{id} is not a number"))?;
    Ok((id, address.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_fits_together() {
        Arguments::command().debug_assert();
    }

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

    #[test]
    fn a_window_is_two_times_of_the_day() {
        assert_eq!(window("22:00-04:30"), Ok((1_320, 270)));
        for wrong in ["22-4", "24:00-01:00", "10:60-11:00", "10:00"] {
            assert!(window(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_are_seconds_or_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5_400)));
        assert!(duration("soon").is_err());
    }
}
