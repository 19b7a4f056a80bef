//! Failover domains on the command line.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::value::duration;

/// Failover domains.
#[derive(Debug, Subcommand)]
pub enum FailoverDomain {
    /// List them.
    List,
    /// Set one.
    Set {
        /// Its name.
        name: String,
        /// A member, as NODE or NODE:PRIORITY (1 is the best, 100 the last).
        #[arg(long = "node", value_parser = member, required = true)]
        nodes: Vec<(String, u32)>,
        /// Priorities count.
        #[arg(long)]
        ordered: bool,
        /// VMs run on members only.
        #[arg(long)]
        restricted: bool,
        /// VMs stay where they are when a better member returns.
        #[arg(long)]
        nofailback: bool,
        #[command(flatten)]
        failback: Failback,
    },
    /// Remove one.
    Remove {
        /// Its name.
        name: String,
    },
}

/// How VMs come back to a better node of their failover domain.
#[derive(Debug, Args)]
pub struct Failback {
    /// How long the better node has to be online before.
    #[arg(long, value_parser = duration, default_value = "0")]
    pub failback_delay: Duration,
    /// VMs of this domain on their way at a time; 0 = no limit.
    #[arg(long, default_value_t = 0)]
    pub failback_at_once: u32,
    /// VMs of this domain that come back within an hour; 0 = no limit.
    #[arg(long, default_value_t = 0)]
    pub failback_per_hour: u32,
    /// Only at this time of the day, as HH:MM-HH:MM in UTC.
    #[arg(long, value_parser = window)]
    pub failback_window: Option<(u32, u32)>,
    /// What cannot be migrated is stopped and started there; otherwise it stays.
    #[arg(long)]
    pub failback_relocate: bool,
}

/// Times of the day as HH:MM-HH:MM, in minutes since midnight.
fn window(text: &str) -> Result<(u32, u32), String> {
    let minute = |text: &str| -> Option<u32> {
        let (hour, minute) = text.split_once(':')?;
        let (hour, minute): (u32, u32) = (hour.parse().ok()?, minute.parse().ok()?);
        (hour < 24 && minute < 60).then_some(hour * 60 + minute)
    };
    text.split_once('-')
        .and_then(|(from, to)| Some((minute(from)?, minute(to)?)))
        .ok_or_else(|| "write it as HH:MM-HH:MM, in UTC".to_owned())
}

fn member(text: &str) -> Result<(String, u32), String> {
    match text.split_once(':') {
        None => Ok((text.to_owned(), 1)),
        Some((node, priority)) => match priority.parse() {
            Ok(priority @ 1..=100) => Ok((node.to_owned(), priority)),
            _ => Err(format!("the priority {priority} is not a number from 1 to 100")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_two_times_of_the_day() {
        assert_eq!(window("22:00-04:30"), Ok((1_320, 270)));
        for wrong in ["22-4", "24:00-01:00", "10:60-11:00", "10:00"] {
            assert!(window(wrong).is_err(), "{wrong}");
        }
    }
}
