//! Section 3.3: every command in every state. RGManager's result stands beside Berth's; where Berth does better, it says how.

use model::Operation;
use model::vm::{StopCause, VmPolicy, VmState};

use crate::story::{Story, node, vm};

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
    Conflict,
    Lost,
    Frozen,
}

/// A story in which `v` is in that state; a, b and c are nodes, and what it has to do with one it has to do with a.
fn story(from: From) -> Story {
    let mut story = Story::with_nodes(&["a", "b", "c"]);
    if from == From::Disabled {
        story.adds("v", VmPolicy::default());
        story.settles();
        return story;
    }
    if from == From::Starting {
        story.adds("v", VmPolicy::default());
        story.settles();
        story.hung.insert("a".into());
        story.enables("v");
        story.settles();
        return story;
    }
    story.running("v", "a", VmPolicy::default());
    match from {
        From::Stopped => {
            story.does(Operation::Stop { vm: vm("v"), now: false });
            story.settles();
        }
        From::Stopping => {
            story.hung.insert("a".into());
            story.does(Operation::Restart(vm("v")));
            story.settles();
        }
        From::Recovering => {
            // All nodes failed to start it, and it waits for the next attempt.
            for name in ["a", "b", "c"] {
                story.bad_starts.insert(("v".into(), name.into()));
            }
            story.crashes("v");
            story.settles();
            story.bad_starts.clear();
        }
        From::Failed => {
            story.bad_stops.insert("v".into());
            story.does(Operation::Restart(vm("v")));
            story.settles();
            story.bad_stops.clear();
        }
        From::Migrating => {
            story.hung.insert("a".into());
            story.migrates("v", "b");
            story.settles();
        }
        From::Conflict => {
            story.appears("v", "b");
            story.pass(10);
        }
        From::Lost => {
            story.ends("v", StopCause::MigratedAway);
            story.settles();
        }
        From::Frozen => {
            story.does(Operation::Freeze { vm: vm("v"), why: "x".into(), for_ms: None });
        }
        From::Started | From::Disabled | From::Starting => {}
    }
    let state = match from {
        From::Stopped => VmState::Stopped,
        From::Stopping => VmState::Stopping,
        From::Recovering => VmState::Recovering,
        From::Failed => VmState::Failed,
        From::Migrating => VmState::Migrating,
        From::Conflict => VmState::Conflict,
        From::Lost => VmState::Lost,
        From::Started | From::Frozen => VmState::Started,
        From::Disabled | From::Starting => unreachable!("told above"),
    };
    assert_eq!(story.state_of("v"), state);
    story
}

fn command(word: &str) -> Operation {
    match word {
        "-e" => Operation::Enable { vm: vm("v"), on: None },
        "-d" => Operation::Disable(vm("v")),
        "-s" => Operation::Stop { vm: vm("v"), now: false },
        "-r" => Operation::Relocate { vm: vm("v"), to: Some(node("c")) },
        "-R" => Operation::Restart(vm("v")),
        "-M" => Operation::Migrate { vm: vm("v"), to: node("c"), mode: None },
        "-Z" => Operation::Freeze { vm: vm("v"), why: "y".into(), for_ms: None },
        "-U" => Operation::Unfreeze(vm("v")),
        other => panic!("{other}"),
    }
}

/// State, command, RGManager's result, and Berth's: the place in the end, or a part of the refusal.
const TABLE: &[(From, &str, &str, Result<&str, &str>)] = &[
    (From::Stopped, "-e", "start", Ok("started on a")),
    (From::Stopped, "-d", "agent stop, disabled", Ok("disabled")),
    (From::Stopped, "-s", "ok, no-op", Ok("stopped")),
    (From::Stopped, "-r", "start on target", Ok("started on c")),
    (From::Stopped, "-R", "start", Ok("started on a")),
    (From::Stopped, "-M", "EAGAIN", Err("only a started VM can be migrated")),
    (From::Stopped, "-Z", "ok", Ok("stopped")),
    (From::Stopped, "-U", "ok", Err("not frozen")),
    (From::Starting, "-e", "ERUN", Ok("started on a")),
    (From::Starting, "-d", "queued", Ok("disabled")),
    (From::Starting, "-s", "queued", Ok("stopped")),
    (From::Starting, "-r", "queued", Ok("started on c")),
    (From::Starting, "-R", "queued", Ok("started on a")),
    (From::Starting, "-M", "EAGAIN", Err("only a started VM can be migrated")),
    // Better: what is under way ends, and nothing follows.
    (From::Starting, "-Z", "EAGAIN", Ok("started on a")),
    (From::Starting, "-U", "EAGAIN", Err("not frozen")),
    (From::Stopping, "-e", "ERUN", Ok("started on a")),
    (From::Stopping, "-d", "queued", Ok("disabled")),
    (From::Stopping, "-s", "queued", Ok("stopped")),
    (From::Stopping, "-r", "queued", Ok("started on c")),
    (From::Stopping, "-R", "queued", Ok("started on a")),
    (From::Stopping, "-M", "EAGAIN", Err("only a started VM can be migrated")),
    (From::Stopping, "-Z", "EAGAIN", Ok("stopped")),
    (From::Stopping, "-U", "EAGAIN", Err("not frozen")),
    (From::Started, "-e", "ERUN, after a search", Ok("started on a")),
    (From::Started, "-d", "stop, disabled", Ok("disabled")),
    (From::Started, "-s", "stop, stopped", Ok("stopped")),
    (From::Started, "-r", "stop, start elsewhere", Ok("started on c")),
    (From::Started, "-R", "stop, start on the same node", Ok("started on a")),
    (From::Started, "-M", "migrate", Ok("started on c")),
    (From::Started, "-Z", "ok", Ok("started on a")),
    (From::Started, "-U", "ok", Err("not frozen")),
    // Better: it is started, and at once. RGManager said "Success" and started nothing.
    (From::Recovering, "-e", "\"Success\" without starting", Ok("started on a")),
    (From::Recovering, "-d", "disabled", Ok("disabled")),
    (From::Recovering, "-s", "stopped", Ok("stopped")),
    (From::Recovering, "-r", "start elsewhere", Ok("started on c")),
    (From::Recovering, "-R", "start", Ok("started on c")),
    (From::Recovering, "-M", "EAGAIN", Err("only a started VM can be migrated")),
    (From::Recovering, "-Z", "EAGAIN", Ok("recovering")),
    (From::Recovering, "-U", "EAGAIN", Err("not frozen")),
    // Better: what is seen to run on is tracked again; RGManager did so only of a VM found on a peer.
    (From::Failed, "-e", "EABORT", Ok("started on a")),
    // Better: it is disabled when it is down, and not when the stop failed once more.
    (From::Failed, "-d", "agent stop, disabled even if it fails", Ok("disabled")),
    (From::Failed, "-s", "EFAIL", Err("a stop of it failed already")),
    (From::Failed, "-r", "EABORT", Err("a stop of it failed")),
    (From::Failed, "-R", "EFAIL", Err("a stop of it failed")),
    (From::Failed, "-M", "EAGAIN", Err("only a started VM can be migrated")),
    (From::Failed, "-Z", "EAGAIN", Ok("failed on a")),
    (From::Failed, "-U", "EAGAIN", Err("not frozen")),
    (From::Disabled, "-e", "start", Ok("started on a")),
    (From::Disabled, "-d", "agent stop again", Ok("disabled")),
    (From::Disabled, "-s", "ok, no-op", Ok("disabled")),
    (From::Disabled, "-r", "EINVAL", Err("it stays down")),
    (From::Disabled, "-R", "EINVAL", Err("it stays down")),
    (From::Disabled, "-M", "EAGAIN", Err("only a started VM can be migrated")),
    (From::Disabled, "-Z", "ok", Ok("disabled")),
    (From::Disabled, "-U", "ok", Err("not frozen")),
    // RGManager had no such state since 2009: the VM was "started" on the source for the whole copy.
    (From::Migrating, "-e", "ERUN", Err("a migration of VM v is under way")),
    (From::Migrating, "-d", "queued", Ok("disabled")),
    (From::Migrating, "-s", "queued", Ok("stopped")),
    (From::Migrating, "-r", "queued", Ok("started on c")),
    (From::Migrating, "-R", "queued", Ok("started on b")),
    (From::Migrating, "-M", "queued", Err("only a started VM can be migrated")),
    // Better: RGManager lost a freeze that was made during the copy.
    (From::Migrating, "-Z", "ok, and lost", Ok("started on b")),
    (From::Migrating, "-U", "ok", Err("not frozen")),
    // RGManager never noticed a second copy.
    (From::Conflict, "-e", "-", Ok("conflict on a")),
    (From::Conflict, "-d", "-", Ok("conflict on a")),
    (From::Conflict, "-s", "-", Ok("conflict on a")),
    (From::Conflict, "-r", "-", Err("resolve")),
    (From::Conflict, "-R", "-", Err("resolve")),
    (From::Conflict, "-M", "-", Err("only a started VM can be migrated")),
    (From::Conflict, "-Z", "-", Ok("conflict on a")),
    (From::Conflict, "-U", "-", Err("not frozen")),
    // RGManager started it again while it ran outside the cluster.
    (From::Lost, "-e", "-", Ok("started on a")),
    (From::Lost, "-d", "-", Ok("disabled")),
    (From::Lost, "-s", "-", Ok("stopped")),
    (From::Lost, "-r", "-", Err("left by a migration")),
    (From::Lost, "-R", "-", Err("left by a migration")),
    (From::Lost, "-M", "-", Err("only a started VM can be migrated")),
    (From::Lost, "-Z", "-", Ok("lost")),
    (From::Lost, "-U", "-", Err("not frozen")),
    // Better: RGManager said "Success" to -e, and moved the owner to the first peer it asked.
    (From::Frozen, "-e", "EFROZEN, or Success with the wrong owner", Err("is frozen")),
    (From::Frozen, "-d", "EFROZEN", Err("is frozen")),
    (From::Frozen, "-s", "EFROZEN", Err("is frozen")),
    (From::Frozen, "-r", "EFROZEN", Err("is frozen")),
    (From::Frozen, "-R", "EFROZEN", Err("is frozen")),
    (From::Frozen, "-M", "EFROZEN", Err("is frozen")),
    (From::Frozen, "-Z", "ok", Ok("started on a")),
    (From::Frozen, "-U", "clears", Ok("started on a")),
];

#[test]
fn every_cell_of_the_table_holds() {
    let mut wrong = Vec::new();
    for (from, word, theirs, ours) in TABLE {
        let mut story = story(*from);
        let taken = story.tries(command(word));
        let found = match &taken {
            Ok(_) => {
                story.hung.clear();
                story.pass(10);
                Ok(story.place("v"))
            }
            Err(refused) => Err(refused.to_string()),
        };
        let right = match (&found, ours) {
            (Ok(place), Ok(expected)) => place == expected,
            (Err(refused), Err(part)) => refused.contains(part),
            _ => false,
        };
        if !right {
            wrong.push(format!(
                "{from:?} {word} (RGManager: {theirs}): {found:?}, and not {ours:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_cell_is_missing() {
    let commands = ["-e", "-d", "-s", "-r", "-R", "-M", "-Z", "-U"];
    assert_eq!(TABLE.len(), 11 * commands.len());
    for (from, word, ..) in TABLE {
        assert_eq!(TABLE.iter().filter(|row| (row.0, row.1) == (*from, *word)).count(), 1);
        assert!(commands.contains(word));
    }
}

/// A restart is a stop and a start, and what is started there is another guest than before.
#[test]
fn what_stops_and_starts_does_both() {
    for (from, word, decided) in [
        (From::Started, "-R", vec!["v: stop on a", "v: start on a"]),
        (From::Started, "-r", vec!["v: stop on a", "v: start on c"]),
        (From::Starting, "-R", vec![]),
        (From::Starting, "-r", vec!["v: stop on a", "v: start on c"]),
        (From::Migrating, "-R", vec!["v: adopt on b", "v: stop on b", "v: start on b"]),
        (From::Migrating, "-r", vec!["v: adopt on b", "v: stop on b", "v: start on c"]),
        (From::Recovering, "-r", vec!["v: start on c"]),
    ] {
        let mut story = story(from);
        story.does(command(word));
        story.hung.clear();
        assert_eq!(story.settles(), decided, "{from:?} {word}");
    }
}
