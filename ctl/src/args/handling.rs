//! Flags on how a VM is treated on its host. RGManager's attributes are named in `docs/from-rgmanager.md`.

use std::time::Duration;

use clap::builder::ArgAction;
use clap::{Args, ValueEnum};

use super::value::duration;

/// How a VM is treated on its host.
#[derive(Debug, Args, Default)]
#[command(next_help_heading = "On its host")]
pub struct Handling {
    /// A file on storage that all nodes share from which its domain XML is read at each start; empty for the XML as given.
    #[arg(long, value_name = "FILE", conflicts_with = "xml_path")]
    pub xml_file: Option<String>,
    /// Directories, with colons between them, in which NAME or NAME.xml is looked for at each start; empty for the XML as
    /// given.
    #[arg(long, value_name = "DIR:DIR")]
    pub xml_path: Option<String>,
    /// Where its memory is saved when it is stopped, to be restored at its next start; empty for not at all.
    #[arg(long, value_name = "DIR")]
    pub save_dir: Option<String>,
    /// All nodes share the directory of --save-dir.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    pub save_shared: Option<bool>,
    /// How long a start may take until its checks succeed.
    #[arg(long, value_parser = duration)]
    pub start_timeout: Option<Duration>,
    /// Only ever ask its guest to shut down; one that does not in time makes the VM failed.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    pub no_kill: Option<bool>,
    /// A line for the shell of its node that succeeds while the guest works; empty for none.
    #[arg(long, value_name = "LINE", conflicts_with = "status_command")]
    pub status_program: Option<String>,
    /// The same as a program and its arguments, one flag for each.
    #[arg(long, value_name = "WORD")]
    pub status_command: Vec<String>,
    /// Its guest agent has to answer.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    pub guest_agent: Option<bool>,
    /// The time between two checks.
    #[arg(long, value_parser = duration)]
    pub check_interval: Option<Duration>,
    /// How long one check may take.
    #[arg(long, value_parser = duration)]
    pub check_timeout: Option<Duration>,
    /// How it is migrated, in virsh's words, such as "--unsafe --bandwidth 100 --timeout 60"; empty for none of them.
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true)]
    pub migrate_options: Option<String>,
    /// Where migration traffic to a node goes, as NODE:HOST,NODE:HOST; other nodes use their own address. Empty for none.
    #[arg(long, value_name = "NODE:HOST")]
    pub migration_mapping: Option<String>,
    /// How long its guest may stand still at the end of a live migration; 0 for the hypervisor's default.
    #[arg(long, value_parser = duration)]
    pub migration_max_downtime: Option<Duration>,
    /// What follows when its guest shuts itself down.
    #[arg(long, value_enum)]
    pub on_guest_shutdown: Option<End>,
    /// What follows when its guest or its QEMU crashes.
    #[arg(long, value_enum)]
    pub on_guest_crash: Option<End>,
    /// What follows when its guest's kernel panics.
    #[arg(long, value_enum)]
    pub on_guest_panic: Option<End>,
    /// What follows when its guest reboots.
    #[arg(long, value_enum)]
    pub on_guest_reboot: Option<Reboot>,
    /// What follows when its own watchdog device bites.
    #[arg(long, value_enum)]
    pub on_watchdog: Option<End>,
    /// What follows when somebody destroys its domain by hand.
    #[arg(long, value_enum)]
    pub on_destroy: Option<End>,
    /// What follows when it is paused because its storage failed.
    #[arg(long, value_enum)]
    pub on_io_error: Option<IoError>,
}

/// What follows when a guest ends by itself.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum End {
    /// It is a failure, and --recovery says what is done.
    Recover,
    /// It is down for now.
    Stop,
    /// It is down and stays so.
    Disable,
}

/// What follows when a guest reboots.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Reboot {
    /// It is noted, and the guest runs on.
    RunOn,
    /// It is stopped, and --recovery says what is done.
    Recover,
    /// It is stopped, and down for now.
    Stop,
    /// It is stopped, and stays down.
    Disable,
}

/// What follows when a guest is paused by its storage.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum IoError {
    /// It is resumed again and again, until that succeeds.
    Resume,
    /// It is destroyed, and --recovery says what is done.
    Restart,
    /// It is left alone.
    Leave,
}
