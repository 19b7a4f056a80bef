//! What an outcome means: exit codes by the OCF resource agent API, the Linux Standard Base and systemd.

use model::service::ScriptProgram;

use crate::script::call::{Action, Outcome};

/// How a script is, by its own word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It is up and well.
    Running,
    /// It is down for sure.
    Down,
    /// It is up and not well, or nobody knows: it may run.
    Failing(String),
}

/// OCF: not running. LSB: 3.
const OCF_NOT_RUNNING: i32 = 7;
/// OCF: the agent's software is not installed on this node.
const OCF_NOT_INSTALLED: i32 = 5;
/// LSB status: dead with a pid file, dead with a lock file, not running.
const LSB_DOWN: std::ops::RangeInclusive<i32> = 1..=3;

/// There is nothing of the script here that could have run: no program, or an OCF agent without its software.
pub fn is_not_here(program: &ScriptProgram, outcome: &Outcome) -> bool {
    match (program, outcome) {
        (_, Outcome::Missing(_)) => true,
        (ScriptProgram::Ocf(_), Outcome::Exited { code, .. }) => *code == OCF_NOT_INSTALLED,
        _ => false,
    }
}

/// What a start or a stop came to; `None` for success. Of what is `bound` here something was started: its daemon may run on
/// though the file system with its script has gone.
pub fn failure(
    program: &ScriptProgram,
    action: Action,
    outcome: &Outcome,
    bound: bool,
) -> Option<String> {
    match outcome {
        Outcome::Exited { code: 0, .. } => None,
        other if action == Action::Stop && !bound && is_not_here(program, other) => None,
        other => Some(describe(other)),
    }
}

/// What a status call came to; `bound` as for [`failure`].
pub fn status(program: &ScriptProgram, outcome: &Outcome, bound: bool) -> Status {
    match (program, outcome) {
        (_, outcome) if is_not_here(program, outcome) => match bound {
            true => Status::Failing(describe(outcome)),
            false => Status::Down,
        },
        (ScriptProgram::Ocf(_), Outcome::Exited { code, .. }) => match *code {
            0 => Status::Running,
            OCF_NOT_RUNNING => Status::Down,
            _ => Status::Failing(describe(outcome)),
        },
        (ScriptProgram::Lsb(_), Outcome::Exited { code, .. }) => match *code {
            0 => Status::Running,
            code if LSB_DOWN.contains(&code) => Status::Down,
            _ => Status::Failing(describe(outcome)),
        },
        (ScriptProgram::Systemd(_), Outcome::Exited { code: 0, output }) => unit(output),
        (_, other) => Status::Failing(describe(other)),
    }
}

/// `systemctl show` prints one property a line.
fn unit(output: &str) -> Status {
    let property = |name: &str| {
        output.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or("")
    };
    let (load, active, sub) =
        (property("LoadState"), property("ActiveState"), property("SubState"));
    match (load, active) {
        ("not-found", "inactive") | ("loaded" | "masked", "inactive" | "failed") => Status::Down,
        (_, "active") => Status::Running,
        _ => Status::Failing(format!("its unit is {active} ({sub}), and {load}")),
    }
}

/// For sentences: "the start failed: ...".
pub fn describe(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Exited { code, output } if output.is_empty() => format!("it exited with {code}"),
        Outcome::Exited { code, output } => format!("it exited with {code}: {output}"),
        Outcome::Killed { signal } => format!("it was ended by signal {signal}"),
        Outcome::TimedOut { output } if output.is_empty() => {
            "it took too long, and its process group was killed".into()
        }
        Outcome::TimedOut { output } => {
            format!("it took too long, and its process group was killed: {output}")
        }
        Outcome::Cancelled => "it was called off".into(),
        Outcome::Missing(program) => format!("there is no {program} on this node"),
        Outcome::NotRun(error) => format!("it could not be run: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exited(code: i32) -> Outcome {
        Outcome::Exited { code, output: String::new() }
    }

    #[test]
    fn exit_codes_mean_what_their_standards_say() {
        let ocf = ScriptProgram::Ocf("a:b".into());
        let lsb = ScriptProgram::Lsb("/x".into());
        let failing = |text: &str| Status::Failing(text.into());
        for (program, outcome, expected) in [
            (&ocf, exited(0), Status::Running),
            (&ocf, exited(7), Status::Down),
            (&ocf, exited(5), Status::Down),
            (&ocf, exited(1), failing("it exited with 1")),
            (&ocf, exited(9), failing("it exited with 9")),
            (&lsb, exited(0), Status::Running),
            (&lsb, exited(1), Status::Down),
            (&lsb, exited(3), Status::Down),
            (&lsb, exited(4), failing("it exited with 4")),
            (&lsb, exited(150), failing("it exited with 150")),
            (&lsb, Outcome::Missing("/x".into()), Status::Down),
            (&lsb, Outcome::Killed { signal: 9 }, failing("it was ended by signal 9")),
            (
                &lsb,
                Outcome::TimedOut { output: String::new() },
                failing("it took too long, and its process group was killed"),
            ),
        ] {
            assert_eq!(status(program, &outcome, false), expected, "{program:?} {outcome:?}");
        }
    }

    #[test]
    fn a_unit_is_down_only_when_systemd_says_so() {
        let unit = ScriptProgram::Systemd("x.service".into());
        let shown = |load: &str, active: &str| {
            let output = format!("LoadState={load}\nActiveState={active}\nSubState=s");
            status(&unit, &Outcome::Exited { code: 0, output }, true)
        };
        assert_eq!(shown("loaded", "active"), Status::Running);
        assert_eq!(shown("loaded", "inactive"), Status::Down);
        assert_eq!(shown("loaded", "failed"), Status::Down);
        assert_eq!(shown("not-found", "inactive"), Status::Down);
        for (load, active) in [("loaded", "deactivating"), ("loaded", "activating"), ("", "")] {
            assert!(matches!(shown(load, active), Status::Failing(_)), "{load} {active}");
        }
        assert!(matches!(status(&unit, &exited(1), false), Status::Failing(_)));
    }

    #[test]
    fn only_success_stops_a_script_that_was_started_here() {
        let lsb = ScriptProgram::Lsb("/x".into());
        let ocf = ScriptProgram::Ocf("a:b".into());
        let gone = Outcome::Missing("/x".into());
        let stop = |program, outcome: &Outcome, bound| {
            failure(program, Action::Stop, outcome, bound).is_none()
        };
        assert!(stop(&lsb, &exited(0), true));
        for (program, outcome) in [(&lsb, &gone), (&ocf, &gone), (&ocf, &exited(5))] {
            assert!(!stop(program, outcome, true) && stop(program, outcome, false));
            assert!(failure(program, Action::Start, outcome, false).is_some());
            assert!(matches!(status(program, outcome, true), Status::Failing(_)));
            assert_eq!(status(program, outcome, false), Status::Down);
        }
        for outcome in [exited(1), exited(7), Outcome::TimedOut { output: String::new() }] {
            assert!(!stop(&lsb, &outcome, false), "{outcome:?}");
        }
        assert!(!stop(&lsb, &exited(5), false), "an init script's 5 is only a failed stop");
    }
}
