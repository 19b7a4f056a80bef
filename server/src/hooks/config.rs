//! What the configuration says of hooks, checked.

use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::event::{EventKind, Severity};
use rustix::fs::{Access, access};
use serde::Deserialize;

/// How long a program may take where nothing is said.
const DEFAULT_TIMEOUT_MS: u64 = 30_000;
/// A program that takes longer than this is a service of its own.
const LONGEST_TIMEOUT_MS: u64 = 600_000;
/// All events of a kind, in place of their words.
const ANY: &str = "*";

/// A `[[hooks]]` of the configuration file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileHook {
    program: PathBuf,
    events: Option<Vec<String>>,
    severity: Option<String>,
    timeout_ms: Option<u64>,
}

/// A program and the events it is run for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Where it is.
    pub program: PathBuf,
    /// For which events; `None` for all.
    pub events: Option<Vec<EventKind>>,
    /// Only for events that matter so much or more.
    pub severity: Severity,
    /// How long it may take, 1 ms to ten minutes; then it is killed with its process group.
    pub timeout: Duration,
}

impl Hook {
    /// Whether it is run for events of this kind.
    pub fn wants(&self, kind: EventKind) -> bool {
        kind.severity() >= self.severity
            && self.events.as_ref().is_none_or(|events| events.contains(&kind))
    }

    /// How the log calls it.
    pub(super) fn name(&self) -> String {
        self.program.display().to_string()
    }
}

/// Why a hook is refused.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// The program would depend on where the server was started.
    #[error("the hook {} is not an absolute path", .0.display())]
    NotAbsolute(PathBuf),
    /// The program is not there.
    #[error("the hook {} cannot be read", path.display())]
    Missing {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is a directory, a socket or the like.
    #[error("the hook {} is not a file", .0.display())]
    NotAFile(PathBuf),
    /// It cannot be run by this user.
    #[error("the hook {} is not executable by the user that berth-server runs as; chmod +x it", .0.display())]
    NotExecutable(PathBuf),
    /// Whoever can write to it could do as this process.
    #[error("the hook {} can be written to by anybody; chmod o-w it", .0.display())]
    Writable(PathBuf),
    /// A word that is no event's.
    #[error("the hook {} names an event {word:?}, which there is not; events are \"*\" for all, {}", program.display(), all_words())]
    UnknownEvent {
        /// Whose.
        program: PathBuf,
        /// The word.
        word: String,
    },
    /// A word that is no severity's.
    #[error("the hook {} asks for the severity {word:?}, which there is not; it is info, warning or alarm", program.display())]
    UnknownSeverity {
        /// Whose.
        program: PathBuf,
        /// The word.
        word: String,
    },
    /// It would never run.
    #[error("the hook {} names no events; give events = [\"*\"] for all, or severity = \"alarm\"", .0.display())]
    NoEvents(PathBuf),
    /// It asks for events that are less than it asks for.
    #[error("the hook {} asks for {word}, which is less than its severity: it would never be run for it", program.display())]
    NeverRun {
        /// Whose.
        program: PathBuf,
        /// The event.
        word: &'static str,
    },
    /// No time, or for ever.
    #[error("the hook {} has a time-out of {timeout_ms} ms; it must be 1 to {LONGEST_TIMEOUT_MS} ms", program.display())]
    Timeout {
        /// Whose.
        program: PathBuf,
        /// What it says.
        timeout_ms: u64,
    },
}

fn all_words() -> String {
    let words: Vec<_> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
    words.join(", ")
}

/// Checks one hook, its program included.
pub(crate) fn check(file: FileHook) -> Result<Hook, HookError> {
    let FileHook { program, events, severity, timeout_ms } = file;
    check_program(&program)?;
    let least = match severity {
        None => Severity::Info,
        Some(ref word) => Severity::from_word(word).ok_or_else(|| HookError::UnknownSeverity {
            program: program.clone(),
            word: word.clone(),
        })?,
    };
    let events = match events {
        None if severity.is_none() => return Err(HookError::NoEvents(program)),
        Some(words) if words.is_empty() => return Err(HookError::NoEvents(program)),
        None => None,
        Some(words) if words.iter().any(|word| word == ANY) => {
            kinds(&program, words.iter().filter(|word| *word != ANY), least)?;
            None
        }
        Some(words) => Some(kinds(&program, words.iter(), least)?),
    };
    let timeout_ms = timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS);
    if !(1..=LONGEST_TIMEOUT_MS).contains(&timeout_ms) {
        return Err(HookError::Timeout { program, timeout_ms });
    }
    Ok(Hook { program, events, severity: least, timeout: Duration::from_millis(timeout_ms) })
}

fn kinds<'w>(
    program: &Path,
    words: impl Iterator<Item = &'w String>,
    least: Severity,
) -> Result<Vec<EventKind>, HookError> {
    let program = || program.to_owned();
    words
        .map(|word| {
            let kind = EventKind::from_word(word).ok_or_else(|| HookError::UnknownEvent {
                program: program(),
                word: word.clone(),
            })?;
            if kind.severity() < least {
                return Err(HookError::NeverRun { program: program(), word: kind.as_str() });
            }
            Ok(kind)
        })
        .collect()
}

fn check_program(program: &Path) -> Result<(), HookError> {
    let path = || program.to_owned();
    if !program.is_absolute() {
        return Err(HookError::NotAbsolute(path()));
    }
    let metadata: Metadata =
        std::fs::metadata(program).map_err(|source| HookError::Missing { path: path(), source })?;
    if !metadata.is_file() {
        return Err(HookError::NotAFile(path()));
    }
    if access(program, Access::EXEC_OK).is_err() {
        return Err(HookError::NotExecutable(path()));
    }
    if metadata.permissions().mode() & 0o002 != 0 {
        return Err(HookError::Writable(path()));
    }
    Ok(())
}
