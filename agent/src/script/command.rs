//! What is run for a script: the program, its arguments and its environment. Never a shell, and nothing inherited.

use std::collections::BTreeMap;
use std::path::PathBuf;

use model::service::ScriptProgram;

use crate::script::call::{Action, ScriptCall};

/// Where programs are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// Below it are `resource.d/PROVIDER/TYPE`.
    pub ocf_root: PathBuf,
    /// For systemd units.
    pub systemctl: PathBuf,
}

impl Default for Programs {
    fn default() -> Self {
        Self { ocf_root: "/usr/lib/ocf".into(), systemctl: "systemctl".into() }
    }
}

/// One command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// All of its environment.
    pub environment: BTreeMap<String, String>,
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The command line of a call.
pub fn command(programs: &Programs, call: &ScriptCall) -> CommandLine {
    let mut environment: BTreeMap<String, String> =
        [("PATH", PATH), ("LANG", "C"), ("LC_ALL", "C"), ("HOME", "/")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
    let word = |status: &str| match call.action {
        Action::Start => "start".to_owned(),
        Action::Stop => "stop".to_owned(),
        Action::Status { .. } => status.to_owned(),
    };
    let (program, arguments) = match &call.script.program {
        ScriptProgram::Lsb(path) => (path.into(), vec![word("status")]),
        ScriptProgram::Systemd(unit) => {
            let arguments = match call.action {
                Action::Start | Action::Stop => vec![word(""), "--".into(), unit.clone()],
                Action::Status { .. } => {
                    let properties = "--property=LoadState,ActiveState,SubState";
                    vec!["show".into(), properties.into(), "--".into(), unit.clone()]
                }
            };
            (programs.systemctl.clone(), arguments)
        }
        ScriptProgram::Ocf(what) => {
            ocf_environment(programs, call, what, &mut environment);
            let path = match what.split_once(':') {
                Some((provider, kind)) if !what.starts_with('/') => {
                    programs.ocf_root.join("resource.d").join(provider).join(kind)
                }
                _ => what.into(),
            };
            (path, vec![word("monitor")])
        }
    };
    CommandLine { program, arguments, environment }
}

/// As the OCF resource agent API has it, version 1.0 and 1.1.
fn ocf_environment(
    programs: &Programs,
    call: &ScriptCall,
    what: &str,
    environment: &mut BTreeMap<String, String>,
) {
    let mut set = |key: &str, value: String| environment.insert(key.to_owned(), value);
    set("OCF_ROOT", programs.ocf_root.display().to_string());
    set("OCF_RA_VERSION_MAJOR", "1".into());
    set("OCF_RA_VERSION_MINOR", "1".into());
    set("OCF_RESOURCE_INSTANCE", format!("{}:{}", call.service_name, call.member));
    set("OCF_RESKEY_CRM_meta_timeout", call.timeout_ms.to_string());
    let (provider, kind) = match what.split_once(':') {
        Some(both) if !what.starts_with('/') => both,
        _ => ("", what.rsplit('/').next().unwrap_or(what)),
    };
    set("OCF_RESOURCE_TYPE", kind.to_owned());
    if !provider.is_empty() {
        set("OCF_RESOURCE_PROVIDER", provider.to_owned());
    }
    if let Action::Status { depth } = call.action {
        set("OCF_CHECK_LEVEL", depth.to_string());
    }
    for (key, value) in &call.script.parameters {
        environment.insert(format!("OCF_RESKEY_{key}"), value.clone());
    }
}
