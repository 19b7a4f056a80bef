use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::event::{EventKind, Severity};
use model::id::VmName;
use model::time::Timestamp;
use serde_json::Value;
use tempfile::TempDir;

use super::*;

/// More than any program here takes, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

fn script(directory: &Path, name: &str, body: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, format!("#!/bin/sh\ncd {}\n{body}\n", directory.display())).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn hook(program: PathBuf, timeout: Duration) -> Hook {
    Hook { program, events: None, severity: Severity::Info, timeout }
}

/// A state in which so many more things have happened.
fn happened(state: &mut ClusterState, kind: EventKind, revisions: std::ops::RangeInclusive<u64>) {
    for revision in revisions {
        state.events.push_back(Arc::new(Event {
            revision,
            sequence: 0,
            at: Timestamp(1_764_000_000_123),
            kind,
            vm: Some(VmName::new("mail").unwrap()),
            service: None,
            node: None,
            text: "mail \u{1} says\n\"no\"".into(),
        }));
    }
}

/// Waits until a file has this many lines, and tells them.
async fn lines(directory: &TempDir, file: &str, count: usize) -> Vec<String> {
    let begun = tokio::time::Instant::now();
    loop {
        let text = std::fs::read_to_string(directory.path().join(file)).unwrap_or_default();
        if text.lines().count() >= count {
            return text.lines().map(Into::into).collect();
        }
        assert!(begun.elapsed() < PATIENCE, "{file} has {text:?}, and not {count} lines");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn is_alive(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim().starts_with('Z'))
}

#[tokio::test]
async fn a_program_gets_the_event_as_variables_and_as_json_and_nothing_of_the_servers_environment()
{
    let directory = tempfile::tempdir().unwrap();
    let body = "cat > json.new; env | sort > env.new; mv json.new json; mv env.new env";
    let program = script(directory.path(), "hook", body);
    let mut hooks = Hooks::new(vec![hook(program, PATIENCE)]);
    let mut state = ClusterState::default();
    hooks.begin(1, &state);
    happened(&mut state, EventKind::VmLost, 7..=7);
    hooks.look(&state);
    let environment = lines(&directory, "env", 8).await;
    let has =
        |line: &str| assert!(environment.iter().any(|it| it == line), "{line}: {environment:?}");
    has("BERTH_EVENT_KIND=vm-lost");
    has("BERTH_EVENT_SEVERITY=alarm");
    has("BERTH_EVENT_REVISION=7");
    has("BERTH_EVENT_VM=mail");
    has("BERTH_EVENT_TEXT=mail   says \"no\"");
    let others = |line: &&String| line.starts_with("CARGO") || line.starts_with("BERTH_EVENT_NODE");
    assert_eq!(environment.iter().find(others), None);
    let json: Value =
        serde_json::from_slice(&std::fs::read(directory.path().join("json")).unwrap()).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "cluster": null, "revision": 7, "sequence": 0, "at": "2025-11-24T16:00:00.123Z",
            "kind": "vm-lost", "severity": "alarm", "vm": "mail", "service": null, "node": null,
            "text": "mail \u{1} says\n\"no\"",
        })
    );
}

#[tokio::test]
async fn events_are_told_in_order_once_and_only_those_after_the_leader_began() {
    let directory = tempfile::tempdir().unwrap();
    let program = script(directory.path(), "hook", "echo $BERTH_EVENT_REVISION >> told");
    let mut hooks = Hooks::new(vec![hook(program, PATIENCE)]);
    let mut state = ClusterState::default();
    happened(&mut state, EventKind::VmStarted, 1..=3);
    hooks.begin(1, &state);
    hooks.look(&state);
    happened(&mut state, EventKind::VmStarted, 4..=6);
    hooks.look(&state);
    hooks.look(&state);
    assert_eq!(lines(&directory, "told", 3).await, ["4", "5", "6"]);
    // Another leads, and what it does is its to tell; then this one again.
    hooks.end();
    happened(&mut state, EventKind::VmStarted, 7..=7);
    hooks.begin(3, &state);
    hooks.look(&state);
    happened(&mut state, EventKind::VmStarted, 8..=8);
    hooks.look(&state);
    assert_eq!(lines(&directory, "told", 4).await, ["4", "5", "6", "8"]);
}

#[tokio::test]
async fn only_what_was_asked_for_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let program = script(directory.path(), "hook", "echo $BERTH_EVENT_KIND >> told");
    let wanted = Hook {
        events: Some(vec![EventKind::NodeDead, EventKind::VmLost]),
        ..hook(program, PATIENCE)
    };
    let mut hooks = Hooks::new(vec![wanted]);
    let mut state = ClusterState::default();
    hooks.begin(1, &state);
    happened(&mut state, EventKind::VmStarted, 1..=2);
    happened(&mut state, EventKind::VmLost, 3..=3);
    hooks.look(&state);
    assert_eq!(lines(&directory, "told", 1).await, ["vm-lost"]);
}

#[tokio::test]
async fn what_waits_when_the_leadership_ends_is_not_run() {
    let directory = tempfile::tempdir().unwrap();
    let body = "echo $BERTH_EVENT_REVISION >> told; while ! [ -e go ]; do sleep 0.02; done";
    let program = script(directory.path(), "hook", body);
    let mut hooks = Hooks::new(vec![hook(program, PATIENCE)]);
    let mut state = ClusterState::default();
    hooks.begin(1, &state);
    happened(&mut state, EventKind::VmStarted, 1..=3);
    hooks.look(&state);
    lines(&directory, "told", 1).await;
    hooks.end();
    hooks.begin(2, &state);
    std::fs::write(directory.path().join("go"), "").unwrap();
    happened(&mut state, EventKind::VmStarted, 4..=4);
    hooks.look(&state);
    assert_eq!(lines(&directory, "told", 2).await, ["1", "4"]);
}

#[tokio::test]
async fn a_hook_that_hangs_or_fails_is_killed_with_its_group_and_holds_up_only_itself() {
    let directory = tempfile::tempdir().unwrap();
    let body = "[ $BERTH_EVENT_REVISION = 1 ] || { echo $BERTH_EVENT_REVISION >> after; exit 3; }\n\
                sh -c 'echo $$ >> pids; while :; do sleep 1; done' &\n\
                echo $$ >> pids; while :; do sleep 1; done";
    let hanging = script(directory.path(), "hanging", body);
    let quick = script(directory.path(), "quick", "echo $BERTH_EVENT_REVISION >> quick.told");
    let mut hooks = Hooks::new(vec![hook(hanging, Duration::from_secs(2)), hook(quick, PATIENCE)]);
    let mut state = ClusterState::default();
    hooks.begin(1, &state);
    happened(&mut state, EventKind::VmStarted, 1..=2);
    hooks.look(&state);
    let pids = lines(&directory, "pids", 2).await;
    assert_eq!(lines(&directory, "quick.told", 2).await, ["1", "2"]);
    assert!(pids.iter().all(|pid| is_alive(pid)), "the quick one did not wait for the hanging one");
    // The next event has its turn when the time of the first is over.
    assert_eq!(lines(&directory, "after", 1).await, ["2"]);
    let begun = tokio::time::Instant::now();
    while pids.iter().any(|pid| is_alive(pid)) {
        assert!(begun.elapsed() < PATIENCE, "{pids:?} are still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn programs_end_with_the_replica() {
    let directory = tempfile::tempdir().unwrap();
    let program = script(directory.path(), "hook", "echo $$ >> pids; while :; do sleep 1; done");
    let mut hooks = Hooks::new(vec![hook(program, PATIENCE)]);
    let mut state = ClusterState::default();
    hooks.begin(1, &state);
    happened(&mut state, EventKind::VmStarted, 1..=1);
    hooks.look(&state);
    let pids = lines(&directory, "pids", 1).await;
    drop(hooks);
    let begun = tokio::time::Instant::now();
    while is_alive(&pids[0]) {
        assert!(begun.elapsed() < PATIENCE, "{pids:?} is still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_full_queue_drops_what_is_new_and_counts_it_and_never_more_than_a_few_run_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let body = "echo $BERTH_EVENT_REVISION >> told; while ! [ -e go ]; do sleep 0.02; done";
    let programs = ["one", "two"].map(|name| script(directory.path(), name, body));
    let hooks = programs.map(|program| hook(program, PATIENCE));
    let mut hooks = Hooks::with(hooks.into(), 2, 1);
    let mut state = ClusterState::default();
    hooks.begin(1, &state);
    happened(&mut state, EventKind::VmStarted, 1..=1);
    hooks.look(&state);
    lines(&directory, "told", 1).await;
    // One of the two runs; the other has its event in hand and waits for its turn.
    while hooks.lines.iter().any(|line| line.queue.capacity() < 2) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    happened(&mut state, EventKind::VmStarted, 2..=6);
    hooks.look(&state);
    assert_eq!(hooks.lines.iter().map(|line| line.dropped).collect::<Vec<_>>(), [3, 3]);
    assert_eq!(lines(&directory, "told", 1).await, ["1"], "one at a time in all");
    std::fs::write(directory.path().join("go"), "").unwrap();
    let mut told = lines(&directory, "told", 6).await;
    told.sort();
    assert_eq!(told, ["1", "1", "2", "2", "3", "3"]);
    happened(&mut state, EventKind::VmStarted, 7..=7);
    hooks.look(&state);
    assert_eq!(lines(&directory, "told", 8).await[6..], ["7", "7"]);
    assert_eq!(hooks.lines.iter().map(|line| line.dropped).collect::<Vec<_>>(), [0, 0]);
}
