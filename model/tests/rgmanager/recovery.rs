//! Sections 1.1 and 3.4, and RHEL's Table B.26: recovery policies and their counters.

use model::Operation;
use model::plan::Reason;
use model::recovery::RecoveryPolicy::{self, Disable, Relocate, Restart, RestartDisable};
use model::recovery::{FailureTolerance, RestartLimit};
use model::vm::{VmPolicy, VmState};

use crate::story::{Story, vm};

fn policy(recovery: RecoveryPolicy, max_restarts: u32, expire_ms: u64) -> VmPolicy {
    let restart_limit = RestartLimit { max_restarts, expire_ms };
    VmPolicy { recovery, restart_limit, ..VmPolicy::default() }
}

fn fails(story: &mut Story, node: &str) {
    story.bad_starts.insert(("v".into(), node.into()));
}

/// So many crashes a minute apart, nodes on which starts fail, and where it is after each crash.
#[test]
fn each_policy_does_what_the_documentation_says() {
    for (row, policy, bad, places) in [
        ("restart: in place, for ever", policy(Restart, 0, 0), "", vec!["a"; 6]),
        (
            "max_restarts=2: two in place, the third moves it",
            policy(Restart, 2, 0),
            "",
            vec!["a", "a", "b"],
        ),
        ("after the move it is counted anew", policy(Restart, 1, 0), "", vec!["a", "b", "b", "a"]),
        (
            "restarts older than the window are forgotten",
            policy(Restart, 1, 50_000),
            "",
            vec!["a", "a", "a"],
        ),
        ("a local restart that fails moves it", policy(Restart, 0, 0), "a", vec!["b"]),
        ("relocate: elsewhere at once", policy(Relocate, 5, 0), "", vec!["b", "a", "b"]),
        (
            "relocate with no other node that can start it: back",
            policy(Relocate, 0, 0),
            "b c",
            vec!["a"],
        ),
        ("disable: not at all", policy(Disable, 5, 0), "", vec!["disabled"]),
        ("restart-disable: in place", policy(RestartDisable, 0, 0), "", vec!["a"; 3]),
        (
            "restart-disable with a limit: then not at all",
            policy(RestartDisable, 2, 0),
            "",
            vec!["a", "a", "disabled"],
        ),
        (
            "restart-disable whose restart fails: disabled, never moved",
            policy(RestartDisable, 0, 0),
            "a",
            vec!["disabled"],
        ),
    ] {
        let mut story = Story::with_nodes(&["a", "b", "c"]);
        story.running("v", "a", policy);
        for node in bad.split_whitespace() {
            fails(&mut story, node);
        }
        for (crash, place) in (1..).zip(places) {
            story.pass(60);
            story.crashes("v");
            story.settles();
            let expected = match place {
                "disabled" => "disabled".to_owned(),
                node => format!("started on {node}"),
            };
            assert_eq!(story.place("v"), expected, "{row}: crash {crash}");
        }
    }
}

#[test]
fn the_death_of_its_node_is_no_failure_of_its_own() {
    for recovery in [Restart, Relocate, Disable, RestartDisable] {
        let mut story = Story::with_nodes(&["a", "b"]);
        story.running("v", "a", policy(recovery, 1, 0));
        story.dies("a");
        story.settles();
        assert_eq!(story.place("v"), "started on b", "{recovery:?}");
    }
}

/// RGManager counted in the memory of each node, from nothing again after every change of the configuration.
#[test]
fn the_counter_outlives_leaders_edits_and_agents() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("v", "a", policy(Restart, 2, 0));
    for _ in 0..2 {
        story.crashes("v");
        story.settles();
    }
    assert_eq!(story.place("v"), "started on a");
    // Another leader plans from a copy of the same state; the agent starts anew; the VM is edited.
    story.state = story.state.clone();
    story.registers("a");
    story.edits("v", |policy| policy.stop_timeout_ms = 1_000);
    story.settles();
    story.crashes("v");
    story.settles();
    assert_eq!(story.place("v"), "started on b");
}

#[test]
fn a_start_that_fails_tries_the_other_allowed_nodes_in_order() {
    let mut story = Story::with_nodes(&["a", "b", "c"]);
    story.adds("v", VmPolicy::default());
    fails(&mut story, "a");
    fails(&mut story, "b");
    story.enables("v");
    assert_eq!(story.settles(), ["v: start on a", "v: start on b", "v: start on c"]);
    assert_eq!(story.place("v"), "started on c");
}

#[test]
fn when_all_nodes_failed_to_start_it_they_are_tried_again_later_and_explain_says_so() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.adds("v", VmPolicy::default());
    fails(&mut story, "a");
    fails(&mut story, "b");
    story.enables("v");
    assert_eq!(story.settles(), ["v: start on a", "v: start on b", "v: delay"]);
    assert!(matches!(story.reason("v"), Reason::WaitingUntil { .. }), "{}", story.reason("v"));
    story.bad_starts.clear();
    story.pass(60);
    assert_eq!(story.state_of("v"), VmState::Started);
}

#[test]
fn failed_checks_are_let_pass_as_often_as_is_set_and_then_it_is_recovered() {
    let mut story = Story::with_nodes(&["a", "b"]);
    let failure_tolerance = FailureTolerance { max_failures: 2, expire_ms: 600_000 };
    story.running("v", "a", VmPolicy { failure_tolerance, ..VmPolicy::default() });
    for _ in 0..2 {
        story.check_fails("v", "a");
        assert!(story.settles().is_empty());
    }
    story.check_fails("v", "a");
    // It still runs, and has to be down before it is started again.
    assert_eq!(story.settles(), ["v: stop on a", "v: restart on a"]);
    assert_eq!(story.place("v"), "started on a");
    assert!(story.record("v").status_failures.is_empty());
}

#[test]
fn a_failed_check_is_a_failure_with_the_recovery_policy() {
    for (recovery, expected) in
        [(Restart, "started on a"), (Relocate, "started on b"), (Disable, "disabled")]
    {
        let mut story = Story::with_nodes(&["a", "b"]);
        story.running("v", "a", policy(recovery, 0, 0));
        story.check_fails("v", "a");
        story.settles();
        assert_eq!(story.place("v"), expected, "{recovery:?}");
    }
}

/// RGManager's `failed` was a dead end that hid where the VM was.
#[test]
fn a_failed_stop_keeps_its_evidence_and_clears_itself_once_it_is_proven_down() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("v", "a", VmPolicy::default());
    story.bad_stops.insert("v".into());
    story.does(Operation::Restart(vm("v")));
    story.settles();
    assert_eq!(story.place("v"), "failed on a", "where it is stays known");
    let reason = story.reason("v");
    assert!(reason.to_string().contains("libvirt does not answer"), "{reason}");
    assert!(reason.is_stuck());
    assert!(story.pass(3_600).is_empty(), "nothing is done to what may still run");
    story.crashes("v");
    story.settles();
    assert_eq!(story.place("v"), "started on a");
}

#[test]
fn a_failed_vm_whose_node_dies_is_started_elsewhere() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("v", "a", VmPolicy::default());
    story.bad_stops.insert("v".into());
    story.does(Operation::Restart(vm("v")));
    story.settles();
    story.dies("a");
    story.settles();
    assert_eq!(story.place("v"), "started on b");
}
