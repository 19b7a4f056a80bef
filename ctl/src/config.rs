//! `/etc/berth/ctl.toml`: what a command line that does not say so means. Flags go before the environment, and both before
//! the file.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::args::Arguments;
use crate::exit::{Failure, Kind};

/// Where it is looked for; none there is none.
pub const DEFAULT_FILE: &str = "/etc/berth/ctl.toml";
/// The replica of this host, where nothing else is said.
const DEFAULT_SERVER: &str = "127.0.0.1:7480";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    servers: Option<Vec<String>>,
    operator: Option<String>,
    #[serde(default)]
    tls: Tls,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

/// The command line, completed from the file that it names, or from the default one if that is there.
pub fn complete(arguments: Arguments) -> Result<Arguments, Failure> {
    complete_from(arguments, Path::new(DEFAULT_FILE))
}

fn complete_from(mut arguments: Arguments, default: &Path) -> Result<Arguments, Failure> {
    let (path, named) = match &arguments.config {
        Some(path) => (path.clone(), true),
        None => (default.to_owned(), false),
    };
    let file = read(&path, named)?;
    if arguments.servers.is_empty() {
        arguments.servers = file.servers.unwrap_or_else(|| vec![DEFAULT_SERVER.into()]);
    }
    arguments.operator = arguments.operator.or(file.operator);
    arguments.tls_ca = arguments.tls_ca.or(file.tls.ca);
    arguments.tls_cert = arguments.tls_cert.or(file.tls.certificate);
    arguments.tls_key = arguments.tls_key.or(file.tls.key);
    whole_tls(&arguments, &path)?;
    Ok(arguments)
}

fn read(path: &Path, named: bool) -> Result<File, Failure> {
    let wrong = |why: String| {
        let text = format!("the configuration file {} {why}", path.display());
        Failure::new(Kind::Input, text)
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound && !named => return Ok(File::default()),
        Err(error) => return Err(wrong(format!("could not be read: {error}"))),
    };
    let file: File =
        toml::from_str(&text).map_err(|error| wrong(format!("is not valid: {error}")))?;
    if let Some(servers) = &file.servers {
        if servers.is_empty() {
            return Err(wrong("names no servers; leave `servers` out, or name one".into()));
        }
        if let Some(odd) = servers.iter().find(|server| !is_address(server)) {
            return Err(wrong(format!("has the server {odd:?}, which is not HOST:PORT")));
        }
    }
    if file.operator.as_ref().is_some_and(|operator| operator.trim().is_empty()) {
        return Err(wrong("has an empty `operator`; leave it out, or give a name".into()));
    }
    Ok(file)
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|it| it > 0))
}

/// All three or none: with two of them nobody could be spoken to, and it would be said late and of something else.
fn whole_tls(arguments: &Arguments, path: &Path) -> Result<(), Failure> {
    let parts = [
        (&arguments.tls_ca, "--tls-ca", "ca"),
        (&arguments.tls_cert, "--tls-cert", "certificate"),
        (&arguments.tls_key, "--tls-key", "key"),
    ];
    let missing: Vec<_> = parts.iter().filter(|(part, ..)| part.is_none()).collect();
    if missing.is_empty() || missing.len() == parts.len() {
        return Ok(());
    }
    let (flags, fields): (Vec<_>, Vec<_>) =
        missing.iter().map(|(_, flag, field)| (*flag, *field)).unzip();
    let text = format!(
        "TLS needs an authority, a certificate and its key: {} missing, or `{}` under [tls] in {}",
        flags.join(" and "),
        fields.join("` and `"),
        path.display()
    );
    Err(Failure::new(Kind::Input, text))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn with(text: &str, words: &[&str]) -> Result<Arguments, Failure> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ctl.toml");
        std::fs::write(&path, text).unwrap();
        let words = ["berthctl"].iter().chain(words).copied().chain(["status"]);
        complete_from(Arguments::try_parse_from(words).unwrap(), &path)
    }

    const FULL: &str = "servers = ['a:7480', 'b:7480']\noperator = 'ann'\n[tls]\nca = '/ca'\ncertificate = '/c'\nkey = '/k'\n";

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
        let found = with(FULL, &[]).unwrap();
        assert_eq!(found.servers, ["a:7480", "b:7480"]);
        assert_eq!(found.operator.as_deref(), Some("ann"));
        assert_eq!(found.tls_key.as_deref(), Some(Path::new("/k")));
        let found = with(FULL, &["--servers", "c:1", "--operator", "bob", "--tls-key", "/o"]);
        let found = found.unwrap();
        assert_eq!(found.servers, ["c:1"]);
        assert_eq!(found.operator.as_deref(), Some("bob"));
        assert_eq!(found.tls_key.as_deref(), Some(Path::new("/o")));
        assert_eq!(found.tls_ca.as_deref(), Some(Path::new("/ca")));
        assert_eq!(with("", &[]).unwrap().servers, [DEFAULT_SERVER]);
    }

    #[test]
    fn what_is_wrong_in_the_file_is_named() {
        for (text, said) in [
            ("server = ['a:1']", "unknown field `server`"),
            ("[tls]\ncert = '/c'", "unknown field `cert`"),
            ("servers = 'a:1'", "invalid type"),
            ("servers = []", "names no servers"),
            ("servers = ['a']", "\"a\", which is not HOST:PORT"),
            ("servers = [':7480']", "which is not HOST:PORT"),
            ("operator = ' '", "empty `operator`"),
            ("[tls]\nca = '/ca'", "--tls-cert and --tls-key missing"),
        ] {
            let message = with(text, &[]).unwrap_err().message;
            assert!(message.contains(said) && message.contains("ctl.toml"), "{text}: {message}");
        }
    }

    #[test]
    fn a_default_file_need_not_be_there_and_a_named_one_must() {
        let nowhere = Path::new("/nowhere/ctl.toml");
        let bare = Arguments::try_parse_from(["berthctl", "status"]).unwrap();
        assert_eq!(complete_from(bare, nowhere).unwrap().servers, [DEFAULT_SERVER]);
        let words = ["berthctl", "--config", "/nowhere/ctl.toml", "status"];
        let named = Arguments::try_parse_from(words).unwrap();
        let message = complete_from(named, nowhere).unwrap_err().message;
        assert!(message.contains("/nowhere/ctl.toml could not be read"), "{message}");
    }

    #[test]
    fn the_sample_that_is_installed_is_read_as_it_is_and_with_its_lines_uncommented() {
        let sample = include_str!("../../deploy/config/ctl.toml");
        assert_eq!(with(sample, &[]).unwrap().servers, [DEFAULT_SERVER]);
        let lines = sample.lines().map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.contains(" = ") || rest.starts_with('[') => rest,
            _ => line,
        });
        let found = with(&lines.collect::<Vec<_>>().join("\n"), &[]).unwrap();
        assert_eq!(found.servers.len(), 3);
        assert!(found.tls_ca.is_some() && found.operator.is_some());
    }
}
