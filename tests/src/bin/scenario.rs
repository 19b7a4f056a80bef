//! Plays stories in the format `ha-scenario/1`; one line for each file.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use tests::scenario::{file, names, needs, play};

/// Plays stories in virtual time, with the real decisions over fake hosts.
#[derive(Debug, Parser)]
struct Flags {
    /// Decides all that chance decides.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where traces go, as NAME.jsonl.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// The files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// How one file ended; the worst decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ending {
    Well,
    Failed,
    BadFile,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let worst = flags.files.iter().map(|path| one(&flags, path)).max().unwrap_or(Ending::Well);
    match worst {
        Ending::Well => ExitCode::SUCCESS,
        Ending::Failed => ExitCode::from(1),
        Ending::BadFile => ExitCode::from(2),
    }
}

fn one(flags: &Flags, path: &Path) -> Ending {
    let shown = path.display().to_string();
    let bad = |name: &str, why: &str| {
        println!("error {name}: {why}");
        Ending::BadFile
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return bad(&shown, &format!("it cannot be read: {error}")),
    };
    let name = file::name(&text).unwrap_or(shown);
    let skip = |missing: &[String]| {
        println!("skip {name}: needs {}", missing.join(", "));
        Ending::Well
    };
    // First: what it needs may have brought words with it that are not known here.
    let missing = file::head(&text).map(|head| needs::missing_by_name(&head)).unwrap_or_default();
    if !missing.is_empty() {
        return skip(&missing);
    }
    let scenario = match file::parse(&text) {
        Ok(scenario) => scenario,
        Err(error) => return bad(&name, &error.to_string()),
    };
    let missing = needs::missing(&scenario);
    if !missing.is_empty() {
        return skip(&missing);
    }
    if let Err(error) = names::check(&scenario, &text) {
        return bad(&name, &error.to_string());
    }
    let played = match play::play(&scenario, flags.seed) {
        Ok(played) => played,
        Err(why) => return bad(&name, &why),
    };
    if let Some(directory) = &flags.trace
        && let Err(error) = write(directory, &name, &played)
    {
        return bad(&name, &format!("its trace cannot be written: {error}"));
    }
    if !played.broken.is_empty() {
        println!("FAIL {name}: {}", played.broken.join("; "));
        return Ending::Failed;
    }
    println!("{} {name}", if scenario.expect.is_some() { "pass" } else { "ran" });
    Ending::Well
}

fn write(directory: &Path, name: &str, played: &play::Played) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let mut text = String::new();
    for line in &played.trace {
        text.push_str(&line.json());
        text.push('\n');
    }
    std::fs::write(directory.join(format!("{}.jsonl", name.replace('/', "-"))), text)
}
