//! Replicas on the command line.

use std::path::PathBuf;

use clap::Subcommand;

use super::value::replica;

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
