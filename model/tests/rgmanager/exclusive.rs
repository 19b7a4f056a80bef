//! Section 6.2: a VM that has its node for itself.

use model::Operation;
use model::dependency::{DependMode, Dependee, Dependency};
use model::id::PlacementRuleName;
use model::placement_rule::{PlacementRule, PlacementRuleKind};
use model::recovery::{RecoveryPolicy, RestartLimit};
use model::vm::{VmPolicy, VmState};

use crate::story::{Story, vm};

fn exclusive(number: u32) -> VmPolicy {
    VmPolicy { exclusive: number, ..VmPolicy::default() }
}

#[test]
fn it_goes_where_nobody_is_and_nobody_goes_where_it_is() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("plain", "a", VmPolicy::default());
    story.adds("alone", exclusive(1));
    story.enables("alone");
    story.settles();
    assert_eq!(story.place("alone"), "started on b");
    story.adds("third", VmPolicy::default());
    story.enables("third");
    story.settles();
    assert_eq!(story.place("third"), "started on a");
}

#[test]
fn with_no_free_node_it_waits_and_says_why_and_displaces_no_common_vm() {
    let mut story = Story::with_nodes(&["a"]);
    story.running("plain", "a", VmPolicy::default());
    story.adds("alone", exclusive(1));
    story.enables("alone");
    story.settles();
    let reason = story.reason("alone");
    assert!(
        reason.to_string().contains("it is exclusive, and other VMs or services are there (1)"),
        "{reason}"
    );
    assert_eq!(story.place("plain"), "started on a");
}

/// RGManager: EDEPEND, also for the operator.
#[test]
fn an_operator_cannot_move_a_vm_to_a_node_that_is_taken() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("alone", "a", exclusive(1));
    story.running("plain", "b", VmPolicy::default());
    story.migrates("plain", "a");
    assert_eq!(story.settles(), ["plain: give up"]);
    assert_eq!(story.place("plain"), "started on b");
}

#[test]
fn a_lower_number_takes_the_node_of_a_higher_one_which_goes_elsewhere_if_it_can() {
    let mut story = Story::with_nodes(&["a"]);
    story.running("low", "a", exclusive(9));
    story.adds("high", exclusive(2));
    story.enables("high");
    assert_eq!(story.settles(), ["low: move cold from a", "high: start on a"]);
    assert_eq!(
        (story.place("high").as_str(), story.state_of("low")),
        ("started on a", VmState::Stopped)
    );
    // It waits, and is started as soon as there is a node.
    story.registers("b");
    story.settles();
    assert_eq!(story.place("low"), "started on b");
}

#[test]
fn an_equal_or_lower_number_is_left_alone() {
    for (there, comes) in [(2, 2), (1, 2)] {
        let mut story = Story::with_nodes(&["a"]);
        story.running("first", "a", exclusive(there));
        story.adds("second", exclusive(comes));
        story.enables("second");
        story.settles();
        assert_eq!(story.place("first"), "started on a", "{there} and {comes}");
        assert_eq!(story.state_of("second"), VmState::Stopped);
    }
}

#[test]
fn a_frozen_vm_makes_no_room() {
    let mut story = Story::with_nodes(&["a"]);
    story.running("low", "a", exclusive(9));
    story.does(Operation::Freeze { vm: vm("low"), why: "x".into(), for_ms: None });
    story.adds("high", exclusive(2));
    story.enables("high");
    story.settles();
    assert_eq!(story.place("low"), "started on a");
}

#[test]
fn one_that_is_made_exclusive_while_it_shares_a_node_moves_while_it_runs() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("plain", "a", VmPolicy::default());
    story.running("v", "a", VmPolicy::default());
    story.edits("v", |policy| policy.exclusive = 1);
    assert_eq!(story.settles(), ["v: move to b", "v: adopt on b"]);
    // With no free node it stays: an edit stops nothing.
    story.edits("plain", |policy| policy.exclusive = 2);
    story.adds("third", VmPolicy::default());
    assert!(story.settles().is_empty());
}

#[test]
fn one_that_it_depends_on_makes_no_room_where_it_could_not_go_on_running() {
    let mut story = Story::with_nodes(&["a"]);
    story.running("base", "a", exclusive(9));
    let on = Dependee::Vm(vm("base"));
    let depend = vec![Dependency { on, mode: DependMode::Hard }];
    story.adds("high", VmPolicy { depend, ..exclusive(2) });
    story.enables("high");
    assert!(
        story.settles().is_empty(),
        "one would be stopped for the other and started again, for ever"
    );
    assert_eq!(story.place("base"), "started on a");
}

#[test]
fn one_that_is_kept_with_what_would_make_room_moves_nothing_to_and_fro() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("base", "a", exclusive(9));
    story.adds("high", exclusive(2));
    story.does(Operation::PutPlacementRule(PlacementRule {
        name: PlacementRuleName::new("both").unwrap(),
        kind: PlacementRuleKind::Together,
        vms: [vm("base"), vm("high")].into(),
    }));
    story.enables("high");
    assert!(story.settles().is_empty());
    assert_eq!(story.place("base"), "started on a");
}

#[test]
fn one_that_may_only_restart_where_it_was_clears_no_other_node() {
    let mut story = Story::with_nodes(&["a", "b", "c"]);
    let stays = RestartLimit { max_restarts: 2, expire_ms: 60_000 };
    let policy =
        VmPolicy { recovery: RecoveryPolicy::RestartDisable, restart_limit: stays, ..exclusive(1) };
    story.running("high", "a", policy);
    story.running("low", "b", exclusive(2));
    story.adds("plain", VmPolicy::default());
    story.appears("plain", "a");
    story.crashes("high");
    assert!(story.settles().is_empty(), "the other would be moved to and fro for ever");
    let reason = story.reason("high").to_string();
    assert!(reason.contains("a: it is exclusive, and other VMs"), "{reason}");
}
