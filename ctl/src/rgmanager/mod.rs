//! The same binary, called as `clusvcadm` or `clustat`: RGManager's flags, output and exit codes, so that scripts go on
//! working. What is said here is RGManager's, to the byte; what is done is Berth's.
//!
//! Source: RGManager reference, section 4; the formats are those of version 3.2.0.

mod act;
mod clustat;
mod clusvcadm;
mod group;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use clap_lex::{RawArgs, ShortFlags};
use proto::v1;
use tonic::Response;

use crate::args::Arguments;
use crate::client::Cluster;
use crate::config;
use crate::exit::Failure;

/// What a tool says when it cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Early {
    out: String,
    error: String,
    code: u8,
}

impl Early {
    fn says(out: impl Into<String>, code: u8) -> Self {
        Self { out: out.into(), error: String::new(), code }
    }

    fn complains(error: impl Into<String>, code: u8) -> Self {
        Self { out: String::new(), error: error.into(), code }
    }
}

/// Does the work when this binary was called by a name of RGManager's.
pub fn main() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    let program = arguments.next()?;
    let name = Path::new(&program).file_name()?.to_str()?.to_owned();
    let rest: Vec<OsString> = arguments.collect();
    let code = match name.as_str() {
        "clustat" => clustat::main(&name, &rest),
        "clusvcadm" => clusvcadm::main(&name, &rest),
        _ => return None,
    };
    Some(ExitCode::from(code))
}

/// One option after the other, as getopt takes them: `-e vm:x`, `-evm:x`, `-qe vm:x`. Other words are passed over, and
/// `--` ends the options. What is unknown, or has no value where it needs one, is '?'.
fn options(arguments: &[OsString], with_value: &str, without: &str) -> Vec<(char, Option<String>)> {
    let raw = RawArgs::new(arguments);
    let mut cursor = raw.cursor();
    let mut found = Vec::new();
    while let Some(argument) = raw.next(&mut cursor) {
        if argument.is_escape() {
            break;
        }
        if argument.is_long() {
            found.push(('?', None));
            continue;
        }
        let Some(mut flags) = argument.to_short() else { continue };
        while let Some(flag) = flags.next_flag() {
            match flag {
                Ok(flag) if with_value.contains(flag) => {
                    let value = value(&mut flags).or_else(|| {
                        raw.next_os(&mut cursor).map(|next| next.to_string_lossy().into_owned())
                    });
                    found.push(match value {
                        Some(value) => (flag, Some(value)),
                        None => ('?', None),
                    });
                    break;
                }
                Ok(flag) if without.contains(flag) => found.push((flag, None)),
                Ok(_) | Err(_) => found.push(('?', None)),
            }
        }
    }
    found
}

fn value(flags: &mut ShortFlags<'_>) -> Option<String> {
    flags.next_value_os().map(|value| value.to_string_lossy().into_owned())
}

/// The cluster as the environment (`BERTH_SERVERS`, `BERTH_TLS_CA` and so on) or `/etc/berth/ctl.toml` names it, as for
/// `berthctl`. RGManager's
/// tools waited as long as an operation took.
fn cluster() -> Result<Cluster, Failure> {
    let arguments = Arguments::try_parse_from(["berthctl", "--timeout", "1h", "status"])
        .map_err(|error| Failure::internal(error.to_string()))?;
    Cluster::new(&config::complete(arguments)?)
}

async fn status(cluster: &Cluster, stale: bool) -> Result<v1::Status, Failure> {
    cluster
        .ask(|mut client| async move {
            client.get_status(v1::GetStatusRequest { stale }).await.map(Response::into_inner)
        })
        .await
}

/// The node this runs on: `BERTH_NODE`, or the one whose name is the host's, with or without its domain.
fn local_node<'n>(nodes: &'n [v1::Node], environment: Option<&str>) -> Option<&'n v1::Node> {
    let host = match environment {
        Some(name) => name.to_owned(),
        None => nix::unistd::gethostname().ok()?.into_string().ok()?,
    };
    let short = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let exact = nodes.iter().find(|node| node.name == host);
    exact.or_else(|| nodes.iter().find(|node| short(&node.name) == short(&host)))
}

fn own_node(nodes: &[v1::Node]) -> Option<&v1::Node> {
    local_node(nodes, std::env::var("BERTH_NODE").ok().as_deref())
}

/// A node that is a member: its agent is in session.
fn is_up(node: &v1::Node) -> bool {
    matches!(node.state.as_str(), "online" | "suspect")
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    Ok(runtime.block_on(work))
}
