//! Services on the command line.

use std::path::PathBuf;

use clap::Subcommand;

use super::Read;

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
