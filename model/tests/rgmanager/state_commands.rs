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

/// What a command comes to: where the VM is in the end, or why it is refused.
type Outcome = Result<&'static str, &'static str>;

/// State, command, RGManager's result, and Berth's: the place in the end, or a part of the refusal. Then by what Berth does better,
/// where it does. `docs/from-rgmanager.md` has the same table.
const TABLE: &[(From, &str, &str, Outcome, &str)] = &[
    (From::Stopped, "-e", "start", Ok("started on a"), ""),
    (From::Stopped, "-d", "agent stop, disabled", Ok("disabled"), ""),
    (From::Stopped, "-s", "ok, no-op", Ok("stopped"), ""),
    (From::Stopped, "-r", "start on target", Ok("started on c"), ""),
    (From::Stopped, "-R", "start", Ok("started on a"), ""),
    (From::Stopped, "-M", "EAGAIN", Err("only a started VM can be migrated"), ""),
    (From::Stopped, "-Z", "ok", Ok("stopped"), ""),
    (From::Stopped, "-U", "ok", Err("not frozen"), ""),
    (From::Starting, "-e", "ERUN", Ok("started on a"), ""),
    (From::Starting, "-d", "queued", Ok("disabled"), ""),
    (From::Starting, "-s", "queued", Ok("stopped"), ""),
    (From::Starting, "-r", "queued", Ok("started on c"), ""),
    (From::Starting, "-R", "queued", Ok("started on a"), ""),
    (From::Starting, "-M", "EAGAIN", Err("only a started VM can be migrated"), ""),
    (
        From::Starting,
        "-Z",
        "EAGAIN",
        Ok("started on a"),
        "at any time: what is under way ends, and nothing follows",
    ),
    (From::Starting, "-U", "EAGAIN", Err("not frozen"), ""),
    (
        From::Stopping,
        "-e",
        "ERUN",
        Ok("started on a"),
        "it is started once it is down; RGManager said that it was up, and it went down",
    ),
    (From::Stopping, "-d", "queued", Ok("disabled"), ""),
    (From::Stopping, "-s", "queued", Ok("stopped"), ""),
    (From::Stopping, "-r", "queued", Ok("started on c"), ""),
    (From::Stopping, "-R", "queued", Ok("started on a"), ""),
    (From::Stopping, "-M", "EAGAIN", Err("only a started VM can be migrated"), ""),
    (
        From::Stopping,
        "-Z",
        "EAGAIN",
        Ok("stopped"),
        "at any time: what is under way ends, and nothing follows",
    ),
    (From::Stopping, "-U", "EAGAIN", Err("not frozen"), ""),
    (From::Started, "-e", "ERUN, after a search", Ok("started on a"), ""),
    (From::Started, "-d", "stop, disabled", Ok("disabled"), ""),
    (From::Started, "-s", "stop, stopped", Ok("stopped"), ""),
    (From::Started, "-r", "stop, start elsewhere", Ok("started on c"), ""),
    (From::Started, "-R", "stop, start on the same node", Ok("started on a"), ""),
    (From::Started, "-M", "migrate", Ok("started on c"), ""),
    (From::Started, "-Z", "ok", Ok("started on a"), ""),
    (From::Started, "-U", "ok", Err("not frozen"), ""),
    (
        From::Recovering,
        "-e",
        "\"Success\" without starting",
        Ok("started on a"),
        "it is started, and at once",
    ),
    (From::Recovering, "-d", "disabled", Ok("disabled"), ""),
    (From::Recovering, "-s", "stopped", Ok("stopped"), ""),
    (From::Recovering, "-r", "start elsewhere", Ok("started on c"), ""),
    (From::Recovering, "-R", "start", Ok("started on c"), ""),
    (From::Recovering, "-M", "EAGAIN", Err("only a started VM can be migrated"), ""),
    (From::Recovering, "-Z", "EAGAIN", Ok("recovering"), "at any time"),
    (From::Recovering, "-U", "EAGAIN", Err("not frozen"), ""),
    (
        From::Failed,
        "-e",
        "EABORT",
        Ok("started on a"),
        "what is seen to run on is tracked again; RGManager did so only of a VM found on a peer",
    ),
    (
        From::Failed,
        "-d",
        "agent stop, disabled even if it fails",
        Ok("disabled"),
        "disabled when it is down, and not when the stop failed once more",
    ),
    (From::Failed, "-s", "EFAIL", Err("a stop of it failed already"), ""),
    (From::Failed, "-r", "EABORT", Err("a stop of it failed"), ""),
    (From::Failed, "-R", "EFAIL", Err("a stop of it failed"), ""),
    (From::Failed, "-M", "EAGAIN", Err("only a started VM can be migrated"), ""),
    (From::Failed, "-Z", "EAGAIN", Ok("failed on a"), "at any time"),
    (From::Failed, "-U", "EAGAIN", Err("not frozen"), ""),
    (From::Disabled, "-e", "start", Ok("started on a"), ""),
    (From::Disabled, "-d", "agent stop again", Ok("disabled"), ""),
    (From::Disabled, "-s", "ok, no-op", Ok("disabled"), ""),
    (From::Disabled, "-r", "EINVAL", Err("it stays down"), ""),
    (From::Disabled, "-R", "EINVAL", Err("it stays down"), ""),
    (From::Disabled, "-M", "EAGAIN", Err("only a started VM can be migrated"), ""),
    (From::Disabled, "-Z", "ok", Ok("disabled"), ""),
    (From::Disabled, "-U", "ok", Err("not frozen"), ""),
    (
        From::Migrating,
        "-e",
        "ERUN",
        Err("a migration of VM v is under way"),
        "says that it migrates; RGManager had no such state, and called it `started` on the source for the whole copy",
    ),
    (From::Migrating, "-d", "queued", Ok("disabled"), ""),
    (From::Migrating, "-s", "queued", Ok("stopped"), ""),
    (From::Migrating, "-r", "queued", Ok("started on c"), ""),
    (From::Migrating, "-R", "queued", Ok("started on b"), ""),
    (From::Migrating, "-M", "queued", Err("only a started VM can be migrated"), ""),
    (
        From::Migrating,
        "-Z",
        "ok, and lost",
        Ok("started on b"),
        "kept; RGManager lost a freeze that was made during the copy",
    ),
    (From::Migrating, "-U", "ok", Err("not frozen"), ""),
    (
        From::Conflict,
        "-e",
        "-",
        Ok("conflict on a"),
        "the second copy is noticed, and nothing is done before `resolve`",
    ),
    (
        From::Conflict,
        "-d",
        "-",
        Ok("conflict on a"),
        "the second copy is noticed, and nothing is done before `resolve`",
    ),
    (
        From::Conflict,
        "-s",
        "-",
        Ok("conflict on a"),
        "the second copy is noticed, and nothing is done before `resolve`",
    ),
    (
        From::Conflict,
        "-r",
        "-",
        Err("resolve"),
        "the second copy is noticed, and nothing is done before `resolve`",
    ),
    (
        From::Conflict,
        "-R",
        "-",
        Err("resolve"),
        "the second copy is noticed, and nothing is done before `resolve`",
    ),
    (
        From::Conflict,
        "-M",
        "-",
        Err("only a started VM can be migrated"),
        "the second copy is noticed, and nothing is done before `resolve`",
    ),
    (
        From::Conflict,
        "-Z",
        "-",
        Ok("conflict on a"),
        "the second copy is noticed, and nothing is done before `resolve`",
    ),
    (From::Conflict, "-U", "-", Err("not frozen"), ""),
    (
        From::Lost,
        "-e",
        "-",
        Ok("started on a"),
        "only by an operator's word; RGManager started it by itself while it ran outside the cluster",
    ),
    (From::Lost, "-d", "-", Ok("disabled"), "it is known to have left the cluster"),
    (From::Lost, "-s", "-", Ok("stopped"), "it is known to have left the cluster"),
    (From::Lost, "-r", "-", Err("left by a migration"), "it is known to have left the cluster"),
    (From::Lost, "-R", "-", Err("left by a migration"), "it is known to have left the cluster"),
    (
        From::Lost,
        "-M",
        "-",
        Err("only a started VM can be migrated"),
        "it is known to have left the cluster",
    ),
    (From::Lost, "-Z", "-", Ok("lost"), "it is known to have left the cluster"),
    (From::Lost, "-U", "-", Err("not frozen"), ""),
    (
        From::Frozen,
        "-e",
        "EFROZEN, or Success with the wrong owner",
        Err("is frozen"),
        "refused; RGManager said \"Success\", and moved the owner to the first peer it asked",
    ),
    (From::Frozen, "-d", "EFROZEN", Err("is frozen"), ""),
    (From::Frozen, "-s", "EFROZEN", Err("is frozen"), ""),
    (From::Frozen, "-r", "EFROZEN", Err("is frozen"), ""),
    (From::Frozen, "-R", "EFROZEN", Err("is frozen"), ""),
    (From::Frozen, "-M", "EFROZEN", Err("is frozen"), ""),
    (From::Frozen, "-Z", "ok", Ok("started on a"), ""),
    (
        From::Frozen,
        "-U",
        "clears",
        Ok("started on a"),
        "every node is asked for it before anything is done",
    ),
];

#[test]
fn every_cell_of_the_table_holds() {
    let mut wrong = Vec::new();
    for (from, word, theirs, ours, _) in TABLE {
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

/// The table as the page has it: what Berth does, in bold where that is better, and why below.
fn page() -> String {
    let commands = ["-e", "-d", "-s", "-r", "-R", "-M", "-Z", "-U"];
    let mut text = format!("| from | {} |\n", commands.map(|it| format!("`{it}`")).join(" | "));
    text.push_str(&format!("| --- |{}\n", " --- |".repeat(commands.len())));
    let mut reasons = String::new();
    for state in TABLE.chunks(commands.len()) {
        let name = format!("{:?}", state[0].0).to_lowercase();
        let cells = state.iter().map(|(_, _, _, ours, better)| {
            let cell = match ours {
                Ok(place) => (*place).to_owned(),
                Err(refusal) => format!("no: {refusal}"),
            };
            if better.is_empty() { cell } else { format!("**{cell}**") }
        });
        text.push_str(&format!("| {name} | {} |\n", cells.collect::<Vec<_>>().join(" | ")));
        let better: Vec<_> = state.iter().filter(|row| !row.4.is_empty()).collect();
        for alike in better.chunk_by(|one, other| (one.2, one.4) == (other.2, other.4)) {
            let words: Vec<_> = alike.iter().map(|row| format!("`{}`", row.1)).collect();
            let theirs = if alike[0].2 == "-" { "no such state" } else { alike[0].2 };
            let words = words.join(", ");
            reasons.push_str(&format!("| {name} | {words} | {theirs} | {} |\n", alike[0].4));
        }
    }
    let head = "| from | command | RGManager | Berth does better |\n| --- | --- | --- | --- |";
    format!("{text}\n{head}\n{reasons}")
}

#[test]
fn the_page_has_this_table_and_marks_what_is_better() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/from-rgmanager.md");
    let there = std::fs::read_to_string(path).unwrap();
    let table = page();
    assert!(there.contains(&table), "docs/from-rgmanager.md should have:\n\n{table}");
}
