//! `berth-agent`: flags, tracing, exit code.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use agent::config::{self, Flags, Task};
use agent::hypervisor::libvirt;
use agent::shutdown::{self, Limits, Then, systemd};
use clap::Parser;
use tracing::error;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    if let Some(code) = asks_only() {
        return code;
    }
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

/// As the agent's own child, which may be killed: whether a libvirt answers.
fn asks_only() -> Option<ExitCode> {
    let words: Vec<String> = std::env::args_os().skip(1).flat_map(OsString::into_string).collect();
    let [flag, uri] = words.as_slice() else { return None };
    (flag == libvirt::FLAG).then(|| match libvirt::ask(uri) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    })
}

fn run(flags: Flags) -> anyhow::Result<()> {
    if let Some(task) = flags.command.clone() {
        return do_task(&flags, task);
    }
    let config = config::load(flags)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(agent::agent::run(config))
}

fn do_task(flags: &Flags, task: Task) -> anyhow::Result<()> {
    let Task::AnnounceShutdown { reboot, from_systemd, timeout, unheard } = task;
    let then = match from_systemd {
        true => systemd::what_follows()?,
        false if reboot => Some(Then::Reboot),
        false => Some(Then::StayOff),
    };
    let Some(then) = then else {
        println!("the host stays up: nothing is announced");
        return Ok(());
    };
    let socket = shutdown::socket(&config::run_dir(flags)?);
    let limits =
        Limits { total: Duration::from_secs(timeout), unheard: Duration::from_secs(unheard) };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(shutdown::wait(&socket, then, limits, &mut |text| println!("{text}")))?;
    Ok(())
}
