//! `berth-server`: flags, tracing, exit code.

use std::process::ExitCode;

use clap::Parser;
use server::config::{self, Flags};
use tracing::error;
use tracing_subscriber::EnvFilter;

/// The library reports every lost heartbeat of a peer; what matters of that is in our own words.
const DEFAULT_LOG: &str = "info,openraft=error";

fn main() -> ExitCode {
    let flags = Flags::parse();
    let filter =
        EnvFilter::try_from_env("BERTH_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_LOG));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            error!("berth-server stops: {cause:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: Flags) -> anyhow::Result<()> {
    let config = config::load(flags)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(server::server::run(config))
}
