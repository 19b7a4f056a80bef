//! How a VM is treated on its host, as operators give it and as they see it.

use model::handling::{
    Checks, DomainSource, GuestEnd, GuestPolicy, Handling, MigrationOptions, OnIoError, OnReboot,
    SavePlace, StatusProgram,
};

use crate::convert::ConvertError;
use crate::convert::control::{node, word};
use crate::v1;

/// Reads and checks it.
pub fn read(message: v1::VmHandling) -> Result<Handling, ConvertError> {
    let defaults = Handling::default();
    let or = |value: u64, default: u64| if value == 0 { default } else { value };
    let handling = Handling {
        source: source(message.xml_file, message.xml_path)?,
        save: (!message.save_dir.is_empty())
            .then_some(SavePlace { directory: message.save_dir, shared: message.save_shared }),
        start_timeout_ms: or(message.start_timeout_ms, defaults.start_timeout_ms),
        no_kill: message.no_kill,
        checks: Checks {
            program: program(message.status_command, message.status_shell)?,
            guest_agent: message.guest_agent,
            interval_ms: or(message.check_interval_ms, defaults.checks.interval_ms),
            timeout_ms: or(message.check_timeout_ms, defaults.checks.timeout_ms),
        },
        migration: message.migration.map(migration).transpose()?.unwrap_or_default(),
        guest: GuestPolicy {
            on_shutdown: end("on_guest_shutdown", &message.on_guest_shutdown)?,
            on_crash: end("on_guest_crash", &message.on_guest_crash)?,
            on_panic: end("on_guest_panic", &message.on_guest_panic)?,
            on_reboot: word(
                "on_guest_reboot",
                &message.on_guest_reboot,
                "run-on, recover, stop, disable",
                OnReboot::parse,
            )?,
            on_watchdog: end("on_watchdog", &message.on_watchdog)?,
            on_destroy: end("on_destroy", &message.on_destroy)?,
            on_io_error: word(
                "on_io_error",
                &message.on_io_error,
                "resume, restart, leave",
                OnIoError::parse,
            )?,
        },
    };
    handling.check().map_err(|error| ConvertError::new(error.field, error.reason))?;
    Ok(handling)
}

fn end(field: &'static str, text: &str) -> Result<GuestEnd, ConvertError> {
    word(field, text, "recover, stop, disable", GuestEnd::parse)
}

/// Where a domain XML is read.
pub fn source(file: String, path: Vec<String>) -> Result<DomainSource, ConvertError> {
    match (file.is_empty(), path.is_empty()) {
        (true, true) => Ok(DomainSource::Stored),
        (false, true) => Ok(DomainSource::File(file)),
        (true, false) => Ok(DomainSource::Search(path)),
        (false, false) => {
            Err(ConvertError::new("xml_file", "xml_file and xml_path are two ways; give one"))
        }
    }
}

/// A status program.
pub fn program(command: Vec<String>, shell: String) -> Result<Option<StatusProgram>, ConvertError> {
    match (command.is_empty(), shell.is_empty()) {
        (true, true) => Ok(None),
        (false, true) => Ok(Some(StatusProgram::Command(command))),
        (true, false) => Ok(Some(StatusProgram::Shell(shell))),
        (false, false) => {
            let reason = "status_command and status_shell are two ways; give one";
            Err(ConvertError::new("status_command", reason))
        }
    }
}

/// Reads migration options; they are checked with the rest.
pub fn migration(message: v1::MigrationOptions) -> Result<MigrationOptions, ConvertError> {
    let route = |(name, target): (String, String)| Ok((node(&name)?, target));
    Ok(MigrationOptions {
        allow_unsafe: message.allow_unsafe,
        tunnelled: message.tunnelled,
        tls: message.tls,
        auto_converge: message.auto_converge,
        post_copy: message.post_copy,
        compressed: message.compressed,
        abort_on_error: message.abort_on_error,
        parallel: message.parallel,
        bandwidth_mib_s: message.bandwidth_mib_s,
        max_downtime_ms: message.max_downtime_ms,
        timeout_ms: message.timeout_ms,
        routes: message.routes.into_iter().map(route).collect::<Result<_, _>>()?,
    })
}

/// Writes migration options.
pub fn write_migration(options: &MigrationOptions) -> v1::MigrationOptions {
    v1::MigrationOptions {
        allow_unsafe: options.allow_unsafe,
        tunnelled: options.tunnelled,
        tls: options.tls,
        auto_converge: options.auto_converge,
        post_copy: options.post_copy,
        compressed: options.compressed,
        abort_on_error: options.abort_on_error,
        parallel: options.parallel,
        bandwidth_mib_s: options.bandwidth_mib_s,
        max_downtime_ms: options.max_downtime_ms,
        timeout_ms: options.timeout_ms,
        routes: options
            .routes
            .iter()
            .map(|(node, target)| (node.to_string(), target.clone()))
            .collect(),
    }
}

pub(super) fn write_source(source: &DomainSource) -> (String, Vec<String>) {
    match source {
        DomainSource::Stored => (String::new(), Vec::new()),
        DomainSource::File(file) => (file.clone(), Vec::new()),
        DomainSource::Search(directories) => (String::new(), directories.clone()),
    }
}

pub(super) fn write_program(program: Option<&StatusProgram>) -> (Vec<String>, String) {
    match program {
        None => (Vec::new(), String::new()),
        Some(StatusProgram::Command(words)) => (words.clone(), String::new()),
        Some(StatusProgram::Shell(line)) => (Vec::new(), line.clone()),
    }
}

/// Writes it.
pub fn write(handling: &Handling) -> v1::VmHandling {
    let (xml_file, xml_path) = write_source(&handling.source);
    let (status_command, status_shell) = write_program(handling.checks.program.as_ref());
    let save = handling.save.as_ref();
    v1::VmHandling {
        xml_file,
        xml_path,
        save_dir: save.map(|save| save.directory.clone()).unwrap_or_default(),
        save_shared: save.is_some_and(|save| save.shared),
        start_timeout_ms: handling.start_timeout_ms,
        no_kill: handling.no_kill,
        status_command,
        status_shell,
        guest_agent: handling.checks.guest_agent,
        check_interval_ms: handling.checks.interval_ms,
        check_timeout_ms: handling.checks.timeout_ms,
        migration: Some(write_migration(&handling.migration)),
        on_guest_shutdown: handling.guest.on_shutdown.as_str().into(),
        on_guest_crash: handling.guest.on_crash.as_str().into(),
        on_guest_panic: handling.guest.on_panic.as_str().into(),
        on_guest_reboot: handling.guest.on_reboot.as_str().into(),
        on_watchdog: handling.guest.on_watchdog.as_str().into(),
        on_destroy: handling.guest.on_destroy.as_str().into(),
        on_io_error: handling.guest.on_io_error.as_str().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_nothing_is_the_defaults() {
        assert_eq!(read(v1::VmHandling::default()).unwrap(), Handling::default());
        let mut handling = Handling {
            source: DomainSource::Search(vec!["/shared/definitions".into()]),
            save: Some(SavePlace { directory: "/shared/saved".into(), shared: true }),
            no_kill: true,
            ..Handling::default()
        };
        handling.checks.program = Some(StatusProgram::Shell("ping -c1 v".into()));
        handling.guest.on_shutdown = GuestEnd::Disable;
        handling.guest.on_io_error = OnIoError::Leave;
        handling.guest.on_panic = GuestEnd::Stop;
        handling.guest.on_reboot = OnReboot::End(GuestEnd::Recover);
        handling.migration.add_mapping("a:a-hb").unwrap();
        handling.migration.add_virsh("--unsafe --timeout 60").unwrap();
        assert_eq!(read(write(&handling)).unwrap(), handling);
    }

    #[test]
    fn two_ways_at_once_and_unknown_words_are_refused_with_the_field() {
        let both = v1::VmHandling {
            xml_file: "/v".into(),
            xml_path: vec!["/d".into()],
            ..Default::default()
        };
        assert_eq!(read(both).unwrap_err().field, "xml_file");
        let word = v1::VmHandling { on_watchdog: "panic".into(), ..Default::default() };
        assert_eq!(read(word).unwrap_err().field, "on_watchdog");
        let relative = v1::VmHandling { save_dir: "saved".into(), ..Default::default() };
        assert_eq!(read(relative).unwrap_err().field, "save_dir");
    }
}
