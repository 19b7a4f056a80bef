//! Fencing on the command line, and what is done to a node and recorded with who and why.

use clap::{Args, Subcommand};

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
