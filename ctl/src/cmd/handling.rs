//! How a VM is treated on its host: from flags, and shown.

use model::handling::MigrationOptions;
use proto::convert::handling;
use proto::v1::VmHandling;

use crate::args::handling::{End, Handling, IoError, Reboot};
use crate::exit::{Failure, Kind};

/// What the flags change of it.
pub(super) fn apply(flags: &Handling, mut handling: VmHandling) -> Result<VmHandling, Failure> {
    let milliseconds = |span: std::time::Duration| span.as_millis() as u64;
    if let Some(file) = &flags.xml_file {
        handling.xml_file.clone_from(file);
        handling.xml_path.clear();
    }
    if let Some(path) = &flags.xml_path {
        handling.xml_file.clear();
        handling.xml_path =
            path.split(':').filter(|part| !part.is_empty()).map(Into::into).collect();
    }
    if let Some(directory) = &flags.save_dir {
        handling.save_dir.clone_from(directory);
    }
    if let Some(line) = &flags.status_program {
        handling.status_shell.clone_from(line);
        handling.status_command.clear();
    }
    if !flags.status_command.is_empty() {
        handling.status_shell.clear();
        handling.status_command.clone_from(&flags.status_command);
    }
    handling.save_shared = flags.save_shared.unwrap_or(handling.save_shared);
    handling.no_kill = flags.no_kill.unwrap_or(handling.no_kill);
    handling.guest_agent = flags.guest_agent.unwrap_or(handling.guest_agent);
    for (flag, value) in [
        (flags.start_timeout, &mut handling.start_timeout_ms),
        (flags.check_interval, &mut handling.check_interval_ms),
        (flags.check_timeout, &mut handling.check_timeout_ms),
    ] {
        *value = flag.map_or(*value, milliseconds);
    }
    for (flag, word) in [
        (flags.on_guest_shutdown, &mut handling.on_guest_shutdown),
        (flags.on_guest_crash, &mut handling.on_guest_crash),
        (flags.on_guest_panic, &mut handling.on_guest_panic),
        (flags.on_watchdog, &mut handling.on_watchdog),
        (flags.on_destroy, &mut handling.on_destroy),
    ] {
        if let Some(end) = flag {
            *word = self::end(end).into();
        }
    }
    if let Some(policy) = flags.on_guest_reboot {
        handling.on_guest_reboot = match policy {
            Reboot::RunOn => "run-on",
            Reboot::Recover => "recover",
            Reboot::Stop => "stop",
            Reboot::Disable => "disable",
        }
        .into();
    }
    if let Some(policy) = flags.on_io_error {
        handling.on_io_error = match policy {
            IoError::Resume => "resume",
            IoError::Restart => "restart",
            IoError::Leave => "leave",
        }
        .into();
    }
    migration(flags, &mut handling)?;
    Ok(handling)
}

fn end(end: End) -> &'static str {
    match end {
        End::Recover => "recover",
        End::Stop => "stop",
        End::Disable => "disable",
    }
}

fn migration(flags: &Handling, to: &mut VmHandling) -> Result<(), Failure> {
    let input = |error: String| Failure::new(Kind::Input, error);
    let mut options = handling::migration(to.migration.take().unwrap_or_default())
        .map_err(|error| input(error.to_string()))?;
    if let Some(text) = &flags.migrate_options {
        let kept = std::mem::take(&mut options);
        options = MigrationOptions {
            routes: kept.routes,
            max_downtime_ms: kept.max_downtime_ms,
            ..MigrationOptions::default()
        };
        options.add_virsh(text).map_err(|error| input(error.to_string()))?;
    }
    if let Some(text) = &flags.migration_mapping {
        options.routes.clear();
        options.add_mapping(text).map_err(|error| input(error.to_string()))?;
    }
    if let Some(span) = flags.migration_max_downtime {
        options.max_downtime_ms = span.as_millis() as u64;
    }
    to.migration = Some(handling::write_migration(&options));
    Ok(())
}

/// Rows for `vm show`: only what is not as it is by default.
pub(super) fn rows(handling: &VmHandling) -> Vec<(&'static str, String)> {
    let defaults = handling::write(&model::handling::Handling::default());
    let seconds = |ms: u64| format!("{} s", ms / 1_000);
    let program = match handling.status_command.as_slice() {
        [] => handling.status_shell.clone(),
        words => words.join(" "),
    };
    let agent = if handling.guest_agent { "asked" } else { "" };
    let shared = if handling.save_shared { " (shared)" } else { "" };
    let saved = match handling.save_dir.as_str() {
        "" => String::new(),
        directory => format!("{directory}{shared}"),
    };
    let word = |now: &str, default: &str| if now == default { "" } else { now }.to_owned();
    let mut rows = vec![
        ("domain XML", handling.xml_file.clone() + &handling.xml_path.join(":")),
        ("saved to", saved),
        ("start time-out", seconds(handling.start_timeout_ms)),
        ("no-kill", if handling.no_kill { "yes".into() } else { String::new() }),
        ("status program", program),
        ("guest agent", agent.into()),
        ("migrate options", options(handling)),
        ("guest shutdown", word(&handling.on_guest_shutdown, &defaults.on_guest_shutdown)),
        ("guest crash", word(&handling.on_guest_crash, &defaults.on_guest_crash)),
        ("guest panic", word(&handling.on_guest_panic, &defaults.on_guest_panic)),
        ("guest reboot", word(&handling.on_guest_reboot, &defaults.on_guest_reboot)),
        ("watchdog", word(&handling.on_watchdog, &defaults.on_watchdog)),
        ("destroyed", word(&handling.on_destroy, &defaults.on_destroy)),
        ("I/O error", word(&handling.on_io_error, &defaults.on_io_error)),
    ];
    rows.retain(|(_, value)| !value.is_empty());
    rows
}

fn options(handling: &VmHandling) -> String {
    let options = handling.migration.clone().unwrap_or_default();
    let flags = [
        (options.allow_unsafe, "unsafe"),
        (options.tunnelled, "tunnelled"),
        (options.tls, "tls"),
        (options.auto_converge, "auto-converge"),
        (options.post_copy, "post-copy"),
        (options.compressed, "compressed"),
        (options.abort_on_error, "abort-on-error"),
    ];
    let numbers = [
        (u64::from(options.parallel), "connections"),
        (options.bandwidth_mib_s, "MiB/s"),
        (options.max_downtime_ms, "ms downtime"),
        (options.timeout_ms, "ms time-out"),
    ];
    let mut routes: Vec<_> =
        options.routes.iter().map(|(node, target)| format!("{node}:{target}")).collect();
    routes.sort();
    flags
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, word)| (*word).to_owned())
        .chain(numbers.iter().filter(|(it, _)| *it > 0).map(|(it, unit)| format!("{it} {unit}")))
        .chain(routes)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_change_only_what_they_name_and_unknown_options_are_refused() {
        let before = handling::write(&model::handling::Handling::default());
        let flags = Handling {
            xml_path: Some("/a:/b".into()),
            no_kill: Some(true),
            migrate_options: Some("--unsafe".into()),
            ..Handling::default()
        };
        let after = apply(&flags, before.clone()).unwrap();
        assert_eq!(after.xml_path, ["/a", "/b"]);
        assert!(after.no_kill && after.migration.clone().is_some_and(|it| it.allow_unsafe));
        assert_eq!(after.on_guest_shutdown, before.on_guest_shutdown);
        let flags = Handling { migrate_options: Some("--nonsense".into()), ..Handling::default() };
        let failure = apply(&flags, after.clone()).unwrap_err();
        assert!(failure.message.contains("--nonsense"), "{}", failure.message);
        let cleared = Handling { xml_file: Some(String::new()), ..Handling::default() };
        assert!(apply(&cleared, after).unwrap().xml_path.is_empty());
    }
}
