//! What a handling may say: limits, and settings that contradict each other.

use std::ops::RangeInclusive;

use super::{DomainSource, Handling, StatusProgram};

/// Why a handling is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct HandlingError {
    /// Which of its settings.
    pub field: &'static str,
    /// A sentence without its stop.
    pub reason: String,
}

/// Linux's own limit of a path.
const MAX_PATH: usize = 4_096;
/// More directories than anybody searches.
const MAX_DIRECTORIES: usize = 16;
/// One log entry holds the whole VM; a script of this size belongs in a file.
const MAX_PROGRAM: usize = 4_096;
const MAX_ROUTES: usize = 64;
const TIMEOUT_MS: RangeInclusive<u64> = 1_000..=86_400_000;
const CHECK_TIMEOUT_MS: RangeInclusive<u64> = 100..=3_600_000;
/// libvirt's own bound of connections is a byte's.
const MAX_PARALLEL: u32 = 255;

fn error(field: &'static str, reason: impl Into<String>) -> HandlingError {
    HandlingError { field, reason: reason.into() }
}

fn path(field: &'static str, text: &str) -> Result<(), HandlingError> {
    let climbs = text.split('/').any(|part| part == "..");
    if !text.starts_with('/') || climbs || text.len() > MAX_PATH || text.contains(char::is_control)
    {
        let reason = format!(
            "{text:?} is no absolute path of at most {MAX_PATH} bytes without '..' and control characters"
        );
        return Err(error(field, reason));
    }
    Ok(())
}

fn span(field: &'static str, value: u64, range: RangeInclusive<u64>) -> Result<(), HandlingError> {
    if range.contains(&value) {
        return Ok(());
    }
    let reason = format!("{value} ms is not between {} and {} ms", range.start(), range.end());
    Err(error(field, reason))
}

impl Handling {
    /// Whether it can be taken as it is.
    pub fn check(&self) -> Result<(), HandlingError> {
        match &self.source {
            DomainSource::Stored => {}
            DomainSource::File(file) => path("xml_file", file)?,
            DomainSource::Search(directories) => {
                if directories.is_empty() || directories.len() > MAX_DIRECTORIES {
                    let reason = format!("it has to name 1 to {MAX_DIRECTORIES} directories");
                    return Err(error("xml_path", reason));
                }
                directories.iter().try_for_each(|directory| path("xml_path", directory))?;
            }
        }
        if let Some(save) = &self.save {
            path("save_dir", &save.directory)?;
        }
        span("start_timeout", self.start_timeout_ms, TIMEOUT_MS)?;
        span("check_interval", self.checks.interval_ms, TIMEOUT_MS)?;
        span("check_timeout", self.checks.timeout_ms, CHECK_TIMEOUT_MS)?;
        self.check_program()?;
        self.check_migration()
    }

    fn check_program(&self) -> Result<(), HandlingError> {
        let words = match &self.checks.program {
            None => return Ok(()),
            Some(StatusProgram::Shell(line)) => std::slice::from_ref(line),
            Some(StatusProgram::Command(words)) => {
                let program = words.first().map(String::as_str).unwrap_or_default();
                path("status_program", program)?;
                words
            }
        };
        let bytes: usize = words.iter().map(String::len).sum();
        if bytes == 0 || bytes > MAX_PROGRAM || words.iter().any(|word| word.contains('\0')) {
            let reason = format!(
                "it has to be 1 to {MAX_PROGRAM} bytes without a zero byte; a longer one belongs in a file"
            );
            return Err(error("status_program", reason));
        }
        Ok(())
    }

    fn check_migration(&self) -> Result<(), HandlingError> {
        let migration = &self.migration;
        if migration.parallel > MAX_PARALLEL {
            let reason = format!("{} connections are more than {MAX_PARALLEL}", migration.parallel);
            return Err(error("migration.parallel", reason));
        }
        let contradiction = [
            (migration.parallel > 0, "parallel connections"),
            (migration.post_copy, "post-copy"),
            (migration.tls, "tls"),
        ];
        if migration.tunnelled
            && let Some((_, what)) = contradiction.iter().find(|(set, _)| *set)
        {
            let reason =
                format!("libvirt does not do {what} through a tunnel; leave one of them out");
            return Err(error("migration.tunnelled", reason));
        }
        if migration.timeout_ms > 0 {
            span("migration.timeout", migration.timeout_ms, TIMEOUT_MS)?;
        }
        // libvirt's own bound (virDomainMigrateSetMaxDowntime hands it to QEMU, which takes 2000 s).
        if migration.max_downtime_ms > 2_000_000 {
            return Err(error(
                "migration.max_downtime",
                "it is longer than 2000 s, QEMU's own bound",
            ));
        }
        if migration.routes.len() > MAX_ROUTES {
            let reason = format!("it maps more than {MAX_ROUTES} nodes");
            return Err(error("migration.routes", reason));
        }
        for (node, target) in &migration.routes {
            let plain = |character: char| character.is_ascii_graphic() && character != '\'';
            if target.is_empty() || target.len() > 300 || !target.chars().all(plain) {
                let reason = format!("the target {target:?} of node {node} is no host and no URI");
                return Err(error("migration.routes", reason));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Checks, MigrationOptions, SavePlace};
    use super::*;

    #[test]
    fn what_cannot_be_is_refused_with_the_setting_and_the_reason() {
        assert_eq!(Handling::default().check(), Ok(()));
        let with = |change: fn(&mut Handling)| {
            let mut handling = Handling::default();
            change(&mut handling);
            handling.check().unwrap_err().field
        };
        assert_eq!(with(|it| it.source = DomainSource::File("v.xml".into())), "xml_file");
        assert_eq!(with(|it| it.source = DomainSource::File("/a/../b".into())), "xml_file");
        assert_eq!(with(|it| it.source = DomainSource::Search(Vec::new())), "xml_path");
        assert_eq!(
            with(|it| it.save = Some(SavePlace { directory: "s".into(), shared: true })),
            "save_dir"
        );
        assert_eq!(with(|it| it.start_timeout_ms = 1), "start_timeout");
        assert_eq!(
            with(|it| it.checks = Checks { interval_ms: 0, ..Checks::default() }),
            "check_interval"
        );
        assert_eq!(
            with(|it| it.checks.program = Some(StatusProgram::Command(vec!["true".into()]))),
            "status_program"
        );
        assert_eq!(
            with(|it| it.checks.program = Some(StatusProgram::Shell(String::new()))),
            "status_program"
        );
        let tunnelled = |it: &mut Handling| {
            it.migration = MigrationOptions {
                tunnelled: true,
                post_copy: true,
                ..MigrationOptions::default()
            };
        };
        assert_eq!(with(tunnelled), "migration.tunnelled");
    }
}
