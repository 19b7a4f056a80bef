//! Section 6.1: `depend` and `depend_mode`. The scenarios are those of the engine that RGManager deleted (`deptest`): chains,
//! several dependencies, loss and return.

use model::Operation;
use model::dependency::{DependMode, Dependee, Dependency};
use model::plan::Reason;
use model::vm::{VmPolicy, VmState};

use crate::story::{Story, node, vm};

fn on(names: &str, mode: DependMode) -> VmPolicy {
    let depend = names
        .split_whitespace()
        .map(|name| Dependency { on: Dependee::Vm(vm(name)), mode })
        .collect();
    VmPolicy { depend, ..VmPolicy::default() }
}

fn hard(names: &str) -> VmPolicy {
    on(names, DependMode::Hard)
}

#[test]
fn it_waits_for_what_it_depends_on_wherever_that_runs() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.adds("db", VmPolicy::default());
    story.adds("app", hard("db"));
    story.enables("app");
    story.settles();
    let reason = story.reason("app");
    assert!(
        matches!(&reason, Reason::DependsOn { on } if on == &["vm:db is disabled"]),
        "{reason}"
    );
    assert!(reason.is_stuck());
    story.enables("db");
    story.settles();
    assert_eq!((story.state_of("db"), story.state_of("app")), (VmState::Started, VmState::Started));
}

#[test]
fn a_chain_starts_from_its_end() {
    let mut story = Story::with_nodes(&["a"]);
    story.adds("a1", hard("b1"));
    story.adds("b1", hard("c1"));
    story.adds("c1", VmPolicy::default());
    for name in ["a1", "b1", "c1"] {
        story.enables(name);
    }
    assert_eq!(story.settles(), ["c1: start on a", "b1: start on a", "a1: start on a"]);
}

#[test]
fn a_hard_dependency_that_is_lost_stops_it_and_starts_it_again_on_its_return() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("db", "a", VmPolicy::default());
    story.running("app", "b", hard("db"));
    story.running("web", "b", hard("app"));
    story.disables("db");
    story.settles();
    assert_eq!((story.place("app"), story.place("web")), ("stopped".into(), "stopped".into()));
    story.enables("db");
    story.settles();
    assert_eq!(story.place("app"), "started on b");
    assert_eq!(story.place("web"), "started on b");
}

#[test]
fn a_soft_dependency_is_for_the_start_only() {
    let mut story = Story::with_nodes(&["a"]);
    story.running("db", "a", VmPolicy::default());
    story.running("app", "a", on("db", DependMode::Soft));
    story.disables("db");
    story.settles();
    assert_eq!(story.place("app"), "started on a");
    story.disables("app");
    story.settles();
    story.enables("app");
    story.settles();
    assert!(matches!(story.reason("app"), Reason::DependsOn { .. }), "{}", story.reason("app"));
}

#[test]
fn all_of_several_dependencies_have_to_be_met() {
    let mut story = Story::with_nodes(&["a"]);
    story.running("db", "a", VmPolicy::default());
    story.adds("queue", VmPolicy::default());
    story.adds("app", hard("db queue"));
    story.enables("app");
    story.settles();
    assert_eq!(story.state_of("app"), VmState::Stopped);
    story.enables("queue");
    story.settles();
    assert_eq!(story.state_of("app"), VmState::Started);
}

/// RGManager took what it knew nothing of for met.
#[test]
fn an_unknown_dependency_is_not_met() {
    let mut story = Story::with_nodes(&["a"]);
    story.adds("app", hard("nothing"));
    story.enables("app");
    story.settles();
    assert!(story.reason("app").to_string().contains("vm:nothing is unknown"));
    assert_eq!(story.state_of("app"), VmState::Stopped);
}

#[test]
fn a_cycle_is_refused_where_it_is_closed() {
    let mut story = Story::with_nodes(&["a"]);
    story.adds("x", hard("y"));
    story.adds("y", hard("z"));
    let spec = story.spec("z", hard("x"));
    let refused = story.refused(Operation::AddVm(Box::new(spec)));
    assert!(refused.contains("vm:z waits for vm:x waits for vm:y waits for vm:z"), "{refused}");
    let spec = story.spec("w", hard("w"));
    story.refused(Operation::AddVm(Box::new(spec)));
    story.adds("z", VmPolicy::default());
    let mut spec = story.record("z").spec.clone();
    spec.policy = hard("x");
    story.refused(Operation::EditVm(Box::new(spec)));
}

#[test]
fn editing_and_forgetting_stop_nothing() {
    let mut story = Story::with_nodes(&["a"]);
    story.adds("db", VmPolicy::default());
    story.running("app", "a", VmPolicy::default());
    // It now depends on what was never there while it ran.
    story.edits("app", |policy| *policy = hard("db"));
    assert!(story.settles().is_empty());
    story.enables("db");
    story.settles();
    // From here on it is bound.
    story.does(Operation::ForgetVm(vm("db")));
    assert!(story.settles().is_empty());
    assert_eq!(story.place("app"), "started on a");
}

#[test]
fn what_it_came_to_depend_on_while_it_ran_binds_it_once_it_was_there() {
    let mut story = Story::with_nodes(&["a"]);
    story.adds("db", VmPolicy::default());
    story.running("app", "a", VmPolicy::default());
    story.edits("app", |policy| *policy = hard("db"));
    story.enables("db");
    story.settles();
    story.disables("db");
    story.settles();
    assert_eq!(story.place("app"), "stopped");
}

#[test]
fn a_dependency_that_migrates_is_not_lost_and_one_that_crashes_is() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("db", "a", VmPolicy::default());
    story.running("app", "b", hard("db"));
    story.migrates("db", "b");
    assert_eq!(story.settles(), ["db: migrate to b", "db: adopt on b"]);
    story.crashes("db");
    let decided = story.settles();
    assert!(decided.contains(&"app: stop on b".to_owned()), "{decided:?}");
    assert_eq!(
        (story.place("db"), story.place("app")),
        ("started on b".into(), "started on b".into())
    );
}

#[test]
fn vms_are_started_in_the_order_of_their_numbers_and_those_without_come_last() {
    let mut story = Story::with_nodes(&["a"]);
    for (name, start_priority) in [("u", 0), ("v", 2), ("w", 1), ("x", 2)] {
        story.adds(name, VmPolicy { start_priority, ..VmPolicy::default() });
    }
    for name in ["u", "v", "w", "x"] {
        story.enables(name);
    }
    story.obeys();
    assert_eq!(story.leads(), ["w: start on a"]);
    assert!(matches!(story.reason("v"), Reason::StartsLater { .. }), "{}", story.reason("v"));
    story.obeys();
    assert_eq!(story.leads(), ["v: start on a", "x: start on a"]);
    story.obeys();
    assert_eq!(story.leads(), ["u: start on a"]);
}

#[test]
fn one_that_cannot_be_started_holds_up_nobody() {
    let mut story = Story::with_nodes(&["a"]);
    story.adds("first", VmPolicy { start_priority: 1, ..VmPolicy::default() });
    story.adds("second", VmPolicy { start_priority: 2, ..VmPolicy::default() });
    story.bad_starts.insert(("first".into(), "a".into()));
    story.enables("first");
    story.enables("second");
    story.settles();
    assert_eq!(story.place("second"), "started on a");
}

#[test]
fn a_start_on_a_node_that_is_lost_and_not_proven_dead_holds_up_nobody() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.adds("first", VmPolicy { start_priority: 1, ..VmPolicy::default() });
    story.adds("second", VmPolicy { start_priority: 2, ..VmPolicy::default() });
    story.settles();
    story.hung.insert("a".into());
    story.does(Operation::Enable { vm: vm("first"), on: Some(node("a")) });
    assert_eq!(story.leads(), ["first: start on a"]);
    story.does(Operation::Enable { vm: vm("second"), on: Some(node("b")) });
    assert!(matches!(story.reason("second"), Reason::StartsLater { .. }), "it is under way");
    story.falls_silent("a");
    assert_eq!(story.leads(), ["second: start on b"], "{}", story.reason("second"));
    assert_eq!(story.place("first"), "starting on a");
}
