//! What is printed: JSON for programs, tables for people, both from the same values. Field names are stable.

use std::io::Write;

use comfy_table::{ContentArrangement, Table, TableStyle};
use proto::v1;
use serde::Serialize;

mod event;
mod failover_domain;
mod node;
mod placement_rule;
mod replica;
mod service;
mod status;
mod vm;

pub use event::Event;
pub use failover_domain::FailoverDomain;
pub use node::{FenceAttempt, Node};
pub use placement_rule::PlacementRule;
pub use replica::Replica;
pub use service::Service;
pub use status::Status;
pub use vm::{Vm, owner, ties, vm_note};

/// Prints to standard output; a reader that has gone (`| head`) is no error.
pub fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Prints a value for programs.
pub fn json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => line(&text),
        Err(error) => eprintln!("berthctl: the answer cannot be written as JSON: {error}"),
    }
}

/// Prints one value a line, for streams.
pub fn json_line(value: &impl Serialize) {
    match serde_json::to_string(value) {
        Ok(text) => line(&text),
        Err(error) => eprintln!("berthctl: the answer cannot be written as JSON: {error}"),
    }
}

/// A table; nothing is cut off, whatever the width.
pub fn table<const N: usize>(
    head: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(TableStyle::new())
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(head);
    for row in rows {
        table.add_row(row);
    }
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[derive(Debug, Serialize)]
struct Operation {
    request_id: String,
    verb: String,
    phase: String,
    failure: Option<String>,
}

#[derive(Debug, Serialize)]
struct Reason {
    code: String,
    text: String,
    stuck: bool,
}

fn reason(reason: &v1::Reason) -> Reason {
    Reason { code: reason.code.clone(), text: reason.text.clone(), stuck: reason.stuck }
}

/// What guests used lately, as agents measured it.
#[derive(Debug, Serialize)]
struct Measured {
    cpu_milli: u64,
    memory_mib: u64,
}

impl From<&v1::MeasuredLoad> for Measured {
    fn from(load: &v1::MeasuredLoad) -> Self {
        Self { cpu_milli: load.cpu_milli, memory_mib: load.memory_mib }
    }
}

/// The same for people; nothing where nobody measured it.
pub fn measured(load: Option<&v1::MeasuredLoad>) -> String {
    load.map_or_else(String::new, |load| {
        let (whole, rest) = (load.cpu_milli / 1_000, load.cpu_milli % 1_000 / 10);
        format!("{whole}.{rest:02} processors, {} MiB", load.memory_mib)
    })
}

/// A moment for people and programs: RFC 3339 in UTC, to the millisecond.
pub fn time(milliseconds: u64) -> String {
    match jiff::Timestamp::from_millisecond(milliseconds as i64) {
        Ok(moment) => format!("{moment:.3}"),
        Err(_) => milliseconds.to_string(),
    }
}

/// What is worth saying beside the state.
pub fn note(reason: Option<&v1::Reason>) -> String {
    reason
        .filter(|reason| reason.code != "as-wanted")
        .map(|reason| reason.text.clone())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_never_cut_and_the_last_owner_is_in_parentheses() {
        let vm = v1::Vm { last_owner: Some("node1".into()), ..v1::Vm::default() };
        let long = "x".repeat(300);
        let text = table(["VM", "OWNER"], [[long.clone(), owner(&vm)]]);
        assert!(text.contains(&long) && text.ends_with("(node1)"), "{text}");
    }

    #[test]
    fn what_guests_use_is_told_where_it_was_measured() {
        let load = v1::MeasuredLoad { cpu_milli: 2_050, memory_mib: 300 };
        assert_eq!(measured(Some(&load)), "2.05 processors, 300 MiB");
        assert_eq!(measured(None), "");
    }

    #[test]
    fn times_are_in_utc_to_the_millisecond() {
        assert_eq!(time(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
    }
}
