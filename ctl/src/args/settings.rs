//! Settings of the whole cluster on the command line.

use clap::Subcommand;

use super::value::pair;

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
