//! What systemd is about to do with the host: the unit that announces a shutdown is stopped by an upgrade, too.

use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::Then;

/// Targets whose start is a boot of some kind.
const REBOOTS: [&str; 3] = ["reboot.target", "kexec.target", "soft-reboot.target"];
/// Those that leave it off.
const ENDS: [&str; 3] = ["poweroff.target", "halt.target", "shutdown.target"];

/// What follows, by systemd's list of jobs; `None` while the host stays up.
pub fn what_follows() -> anyhow::Result<Option<Then>> {
    let output = Command::new("systemctl")
        .args(["list-jobs", "--no-legend", "--no-pager", "--plain"])
        .stdin(Stdio::null())
        .output()
        .context("systemctl could not be run")?;
    if !output.status.success() {
        bail!("systemctl list-jobs: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(read(&String::from_utf8_lossy(&output.stdout)))
}

/// Reads `systemctl list-jobs`: number, unit, what is done with it, how far that is.
fn read(jobs: &str) -> Option<Then> {
    let starts = |targets: [&str; 3]| {
        jobs.lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let unit = words.next().is_some_and(|unit| targets.contains(&unit));
            unit && words.next() == Some("start")
        })
    };
    if starts(REBOOTS) {
        Some(Then::Reboot)
    } else if starts(ENDS) {
        Some(Then::StayOff)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reboot_a_shutdown_and_an_upgrade_are_told_apart() {
        let table = [
            (
                "1530 reboot.target start waiting\n1499 libvirtd.service stop waiting\n1531 shutdown.target start waiting\n",
                Some(Then::Reboot),
            ),
            (" 77 kexec.target start waiting\n", Some(Then::Reboot)),
            (
                "1531 shutdown.target start waiting\n1530 poweroff.target start waiting\n1500 berth-host-shutdown.service stop running\n",
                Some(Then::StayOff),
            ),
            ("12 halt.target start waiting\n", Some(Then::StayOff)),
            // The way down is known, where it leads is not: the VMs are better off elsewhere.
            ("12 shutdown.target start waiting\n", Some(Then::StayOff)),
            ("99 berth-host-shutdown.service stop running\n", None),
            ("99 reboot.target stop waiting\n", None),
            ("No jobs running.\n", None),
            ("", None),
        ];
        for (jobs, follows) in table {
            assert_eq!(read(jobs), follows, "{jobs}");
        }
    }
}
