//! RGManager reference, section 3.3, of services: every command in every state.

use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Stopped,
    Starting,
    Stopping,
    Started,
    Recovering,
    Failed,
    Disabled,
    Migrating,
    Frozen,
}

const COMMANDS: [&str; 8] = ["-e", "-d", "-s", "-r", "-R", "-M", "-Z", "-U"];

/// A service of an address, a VM that moves with it and a log, in that state; what it has to do with a node it has to do
/// with n1.
fn story(from: From) -> Story {
    let mut together = spec();
    together.policy.migrate_together = true;
    if matches!(from, From::Disabled | From::Starting) {
        let mut story = Story::with(together);
        if from == From::Starting {
            story.hung.insert("start log on n1".into());
            story.asks(ServiceAsk::Enable { on: Some(node("n1")) });
            story.settle();
        }
        return story;
    }
    let mut story = Story::started(together);
    match from {
        From::Stopped => story.asks(ServiceAsk::Stop),
        From::Stopping => {
            story.hung.insert("stop ip on n1".into());
            story.asks(ServiceAsk::Restart);
        }
        From::Recovering => {
            // Both nodes failed to start it, and it waits for the next attempt.
            story.broken.extend(["start ip on n1".into(), "start ip on n2".into()]);
            story.check_fails("ip");
        }
        From::Failed => {
            story.broken.insert("stop log on n1".into());
            story.asks(ServiceAsk::Restart);
        }
        From::Migrating => {
            story.hung.insert("start log on n2".into());
            story.asks(ServiceAsk::Migrate { to: node("n2"), mode: None });
        }
        From::Frozen => story.asks(ServiceAsk::Freeze { why: "x".into(), for_ms: None }),
        From::Started | From::Disabled | From::Starting => {}
    }
    story.settle();
    story.broken.clear();
    let state = match from {
        From::Stopped => ServiceState::Stopped,
        From::Stopping => ServiceState::Stopping,
        From::Recovering => ServiceState::Recovering,
        From::Failed => ServiceState::Failed,
        From::Migrating => ServiceState::Migrating,
        From::Started | From::Frozen => ServiceState::Started,
        From::Disabled | From::Starting => unreachable!("told above"),
    };
    assert_eq!(story.record().state, state, "{:?}", story.reason());
    story
}

fn ask(word: &str) -> ServiceAsk {
    match word {
        "-e" => ServiceAsk::Enable { on: None },
        "-d" => ServiceAsk::Disable,
        "-s" => ServiceAsk::Stop,
        "-r" => ServiceAsk::Relocate { to: None },
        "-R" => ServiceAsk::Restart,
        "-M" => ServiceAsk::Migrate { to: node("n2"), mode: None },
        "-Z" => ServiceAsk::Freeze { why: "y".into(), for_ms: None },
        "-U" => ServiceAsk::Unfreeze,
        other => panic!("{other}"),
    }
}

/// Where it is in the end, or a part of the refusal.
type Outcome = Result<&'static str, &'static str>;

const NOT_STARTED: Outcome = Err("only a started service can be migrated");
const NOT_FROZEN: Outcome = Err("is not frozen");
const UNDER_WAY: Outcome = Err("wait until that is done");
const FROZEN: Outcome = Err("is frozen");

/// A row for each state; RGManager's results are those of `rgmanager/state_commands.rs`, for it told VMs and services apart
/// only by how they move. A recovering one was tried on n2 last.
const TABLE: &[(From, [Outcome; 8])] = &[
    (
        From::Stopped,
        [
            Ok("started on n1"),
            Ok("disabled"),
            Ok("stopped"),
            Ok("started on n2"),
            Ok("started on n1"),
            NOT_STARTED,
            Ok("stopped"),
            NOT_FROZEN,
        ],
    ),
    (
        From::Starting,
        [
            Ok("started on n1"),
            Ok("disabled"),
            Ok("stopped"),
            Ok("started on n2"),
            Ok("started on n1"),
            NOT_STARTED,
            UNDER_WAY,
            NOT_FROZEN,
        ],
    ),
    (
        From::Stopping,
        [
            Ok("started on n1"),
            Ok("disabled"),
            Ok("stopped"),
            Ok("started on n2"),
            Ok("started on n1"),
            NOT_STARTED,
            UNDER_WAY,
            NOT_FROZEN,
        ],
    ),
    (
        From::Started,
        [
            Ok("started on n1"),
            Ok("disabled"),
            Ok("stopped"),
            Ok("started on n2"),
            Ok("started on n1"),
            Ok("started on n2"),
            Ok("started on n1"),
            NOT_FROZEN,
        ],
    ),
    (
        From::Recovering,
        [
            Ok("started on n2"),
            Ok("disabled"),
            Ok("stopped"),
            Ok("started on n1"),
            Ok("started on n2"),
            NOT_STARTED,
            Ok("recovering"),
            NOT_FROZEN,
        ],
    ),
    (
        From::Failed,
        [
            Err("a stop of a member failed"),
            Ok("disabled"),
            Err("a stop of it failed already"),
            Err("a stop of it failed"),
            Err("a stop of it failed"),
            NOT_STARTED,
            Ok("failed on n1"),
            NOT_FROZEN,
        ],
    ),
    (
        From::Disabled,
        [
            Ok("started on n1"),
            Ok("disabled"),
            Ok("disabled"),
            Err("it stays down"),
            Err("it stays down"),
            NOT_STARTED,
            Ok("disabled"),
            NOT_FROZEN,
        ],
    ),
    (
        From::Migrating,
        [
            Err("a migrate of it is under way"),
            Ok("disabled"),
            Ok("stopped"),
            Ok("started on n1"),
            Ok("started on n2"),
            NOT_STARTED,
            UNDER_WAY,
            NOT_FROZEN,
        ],
    ),
    (
        From::Frozen,
        [FROZEN, FROZEN, FROZEN, FROZEN, FROZEN, FROZEN, Ok("started on n1"), Ok("started on n1")],
    ),
];

#[test]
fn every_cell_of_the_table_holds_for_services() {
    let mut wrong = Vec::new();
    for (from, row) in TABLE {
        for (word, expected) in COMMANDS.iter().zip(row) {
            let mut story = story(*from);
            let asked = story.tries(Operation::AskService { service: web(), ask: ask(word) });
            let found = match asked {
                Ok(_) => {
                    story.hung.clear();
                    story.settle();
                    let record = story.record();
                    let place = record.owner.map(|owner| story.state.node_name(owner));
                    let on = place.map(|place| format!(" on {place}")).unwrap_or_default();
                    Ok(format!("{}{on}", record.state.as_str()))
                }
                Err(refused) => Err(refused.to_string()),
            };
            let right = match (&found, expected) {
                (Ok(place), Ok(expected)) => place == expected,
                (Err(refused), Err(part)) => refused.contains(part),
                _ => false,
            };
            if !right {
                wrong.push(format!("{from:?} {word}: {found:?}, and not {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A restart is a stop and a start, also of what was under way when it was asked for.
#[test]
fn what_stops_and_starts_a_service_does_both() {
    for (from, word, last) in [
        (From::Started, "-R", "start log on n1"),
        (From::Starting, "-R", "start log on n1"),
        (From::Starting, "-r", "start log on n2"),
        (From::Migrating, "-R", "start log on n2"),
    ] {
        let mut story = story(from);
        story.asks(ask(word));
        story.hung.clear();
        story.settle();
        let log = story.log();
        assert!(log.iter().any(|it| it.starts_with("stop v")), "{from:?} {word}: {log:?}");
        assert_eq!(log.last().map(String::as_str), Some(last), "{from:?} {word}: {log:?}");
        let operation = story.record().operation.as_ref().unwrap();
        assert_eq!(operation.phase, OperationPhase::Done, "{from:?} {word}");
    }
}

#[test]
fn nothing_of_a_service_is_asked_to_start_under_a_lock() {
    let lock = || Operation::Lock { why: "power".into() };
    for (from, word, refused) in [
        (From::Disabled, "-e", true),
        (From::Stopped, "-e", true),
        (From::Stopped, "-R", true),
        (From::Started, "-r", true),
        (From::Started, "-R", true),
        (From::Started, "-e", false),
        (From::Started, "-d", false),
        (From::Started, "-s", false),
    ] {
        let mut story = story(from);
        story.does(lock());
        let asked = story.tries(Operation::AskService { service: web(), ask: ask(word) });
        let locked = matches!(asked, Err(Rejection::Locked { .. }));
        assert_eq!((locked, asked.is_err()), (refused, refused), "{from:?} {word}: {asked:?}");
    }
}

#[test]
fn a_frozen_service_says_so_by_its_own_word() {
    let mut story = story(From::Frozen);
    for word in ["-e", "-d", "-s", "-r", "-R", "-M"] {
        let refused = story.tries(Operation::AskService { service: web(), ask: ask(word) });
        assert!(matches!(refused, Err(Rejection::ServiceFrozen { .. })), "{word}: {refused:?}");
    }
    story.asks(ServiceAsk::Unfreeze);
    story.settle();
    let refused = story.tries(Operation::AskService { service: web(), ask: ServiceAsk::Unfreeze });
    assert!(matches!(refused, Err(Rejection::ServiceNotFrozen { .. })), "{refused:?}");
}
