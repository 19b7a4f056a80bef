//! Flags and commands about the fleet: placement rules, the pause, and how a VM is placed.

use clap::{Args, Subcommand, ValueEnum};

/// How a VM is placed.
#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Its place")]
pub struct Placing {
    /// How often a start that fails is tried again on the same node, before another is tried.
    #[arg(long, value_name = "N")]
    pub start_retries: Option<u32>,
    /// How many other nodes are tried after that before it is given up and stays down; `all` for all, again and again.
    #[arg(long, value_name = "N", value_parser = relocations)]
    pub max_relocations: Option<Relocations>,
    /// How the cluster may move it by itself.
    #[arg(long, value_enum)]
    pub automatic_moves: Option<AutomaticMoves>,
}

/// How many other nodes are tried; none for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relocations(pub Option<u32>);

fn relocations(text: &str) -> Result<Relocations, String> {
    if text == "all" {
        return Ok(Relocations(None));
    }
    let number = text.parse().map_err(|_| format!("{text:?} is neither a number nor all"))?;
    Ok(Relocations(Some(number)))
}

/// How the cluster may move a VM by itself.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "kebab-case")]
pub enum AutomaticMoves {
    /// By migration.
    Live,
    /// Stopped and started again; never only to even out load.
    Cold,
    /// Not at all.
    Never,
}

impl AutomaticMoves {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Cold => "cold",
            Self::Never => "never",
        }
    }
}

/// Placement rules: VMs on one node, or never two on one. Rules over nodes are failover domains.
#[derive(Debug, Subcommand)]
pub enum Rule {
    /// List them.
    List,
    /// Set one. VMs that are not managed yet may be named; running VMs that break it are moved.
    Set {
        /// Its name.
        name: String,
        /// VMs that are to be on one node.
        #[arg(long, num_args = 2.., value_name = "VM", conflicts_with = "apart")]
        together: Vec<String>,
        /// VMs of which never two are to be on one node.
        #[arg(long, num_args = 2.., value_name = "VM", required_unless_present = "together")]
        apart: Vec<String>,
    },
    /// Remove one. Moves nothing.
    Remove {
        /// Its name.
        name: String,
    },
}

/// How all that is done by itself is held up.
#[derive(Debug, Args)]
pub struct Pause {
    /// Why, for the record.
    #[arg(long)]
    pub why: String,
    /// Let go of the VMs: afterwards they are taken as they are found then. Without it what happens to them is noted and dealt
    /// with afterwards.
    #[arg(long)]
    pub ignore: bool,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}
