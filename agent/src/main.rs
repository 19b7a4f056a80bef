//! `berth-agent`: flags, tracing, exit code.

use std::process::ExitCode;

use agent::config::{self, Flags};
use clap::Parser;
use tracing::error;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let flags = Flags::parse();
    let filter = EnvFilter::try_from_env("BERTH_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            error!("berth-agent stops: {cause:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: Flags) -> anyhow::Result<()> {
    let config = config::load(flags)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(agent::agent::run(config))
}
