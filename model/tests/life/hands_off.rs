//! What the cluster leaves alone, by an operator's word, and how it takes it up again.

use model::event::EventKind;
use model::fleet::PauseMode;
use model::vm::OnConflict;

use super::*;

/// The VM is left alone on `place` of a and b, brought to b behind the cluster's back, and b falls silent before it says so.
fn taken_to_a_silent_node() -> Story {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.add(VmPolicy::default());
    story.answer_probes();
    story.does(Operation::Enable { vm: vm(), on: Some(name("a")) });
    story.lead();
    let (seen, done) = (story.seen(Presence::Running), story.done(story.order(), None));
    story.reports("a", vec![seen, done]);
    story.does(Operation::Ignore(vm()));
    let gone = story.absent(u64::MAX, Some(StopCause::Destroyed));
    story.reports("a", vec![gone]);
    story.dies("b");
    assert!(story.record().may_run.is_empty());
    story
}

#[test]
fn a_vm_that_was_left_alone_is_asked_for_everywhere_whatever_takes_it_up_again() {
    let ways: [(&str, Vec<Operation>); 4] = [
        ("enable", vec![Operation::Enable { vm: vm(), on: None }]),
        ("disable first", vec![Operation::Disable(vm()), Operation::Enable { vm: vm(), on: None }]),
        (
            "stop first",
            vec![
                Operation::Stop { vm: vm(), now: false },
                Operation::Enable { vm: vm(), on: None },
            ],
        ),
        ("restart", vec![Operation::Restart(vm())]),
    ];
    for (way, operations) in ways {
        let mut story = taken_to_a_silent_node();
        for operation in operations {
            story.does(operation);
            story.lead();
            story.answer_probes();
        }
        let b = story.id("b");
        assert!(story.record().may_run.contains_key(&b), "{way}");
        assert!(story.lead().iter().all(|what| !what.starts_with("start")), "{way}");
        assert_eq!(story.record().desired, Desired::Enabled, "{way}");
    }
}

#[test]
fn a_stop_takes_up_what_was_left_alone_and_is_done() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    story.does(Operation::Ignore(vm()));
    assert_eq!(story.reason(), Reason::Ignored);
    story.does(Operation::Stop { vm: vm(), now: false });
    assert_eq!(story.lead(), [format!("stop on {place}")]);
}

impl Story {
    fn pause(&mut self) {
        let (mode, why) = (PauseMode::Freeze, "the storage is replaced".to_owned());
        self.does(Operation::PauseCluster { mode, why });
    }

    /// Both nodes say that it runs there, for longer than that can be a moment's misunderstanding.
    fn twice(&mut self, other: &str) {
        let here = self.seen(Presence::Running);
        self.reports(other, vec![here]);
        self.now += 10_000;
    }
}

#[test]
fn a_vm_that_runs_twice_is_a_conflict_whoever_has_said_hands_off() {
    for (whose, hands_off) in [
        ("the cluster's", (|story| story.pause()) as fn(&mut Story)),
        ("the VM's", |story| {
            story.does(Operation::Ignore(vm()));
        }),
    ] {
        let policy = VmPolicy { on_conflict: OnConflict::KeepOwner, ..VmPolicy::default() };
        let (mut story, place) = Story::running(policy, &["a", "b"]);
        hands_off(&mut story);
        story.twice(if place == "a" { "b" } else { "a" });
        assert_eq!(story.lead(), ["conflict"], "{whose}");
        assert_eq!(story.record().state, VmState::Conflict, "{whose}");
        let alarms = story.state.events.iter().filter(|it| it.kind == EventKind::VmConflict);
        assert_eq!(alarms.count(), 1, "{whose}");
        // The owner's copy is to be kept by its policy, but not by a cluster whose hands are off.
        story.now += 100_000;
        assert!(story.lead().is_empty(), "{whose}");
        assert!(matches!(story.reason(), Reason::Conflict { .. }), "{whose}");
    }
}

#[test]
fn what_a_conflict_in_a_pause_leaves_to_be_done_is_done_after_it() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    let other = if place == "a" { "b" } else { "a" };
    story.pause();
    story.twice(other);
    story.lead();
    story.does(Operation::Resolve { vm: vm(), keep: name(&place) });
    assert!(story.lead().is_empty());
    story.does(Operation::UnpauseCluster);
    assert_eq!(story.lead(), [format!("evict from {other}")]);
}

#[test]
fn a_stop_that_is_under_way_when_the_cluster_is_paused_is_hastened_after_the_pause() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    story.does(Operation::Stop { vm: vm(), now: false });
    story.lead();
    let graceful = story.order();
    story.pause();
    story.does(Operation::Stop { vm: vm(), now: true });
    assert!(story.lead().is_empty(), "what apply refuses is not planned");
    assert_eq!(story.order(), graceful);
    assert!(matches!(story.reason(), Reason::OrderOut { .. }));
    story.does(Operation::UnpauseCluster);
    assert_eq!(story.lead(), [format!("stop on {place}")]);
}

#[test]
fn a_copy_that_is_not_the_present_one_is_left_in_a_pause_and_destroyed_after_it() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    let older = story.record().generation.0 - 1;
    let mut domain = SeenDomain::active("v", Presence::Suspended, 64);
    domain.generation = Some(older);
    story.pause();
    story.reports(&place, vec![Report::Seen { uuid: VM, domain }]);
    assert!(story.lead().is_empty(), "what apply refuses is not planned");
    assert!(matches!(story.reason(), Reason::Paused { .. }));
    story.does(Operation::UnpauseCluster);
    assert_eq!(story.lead(), [format!("evict from {place}")]);
}

#[test]
fn what_is_left_alone_and_was_suspended_runs_on_once_every_node_has_said_that_it_is_not_there() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    story.does(Operation::Ignore(vm()));
    let mut domain = SeenDomain::active("v", Presence::Suspended, 64);
    domain.generation = Some(story.record().generation.0);
    story.reports(&place, vec![Report::Seen { uuid: VM, domain }]);
    assert!(story.lead().is_empty(), "somebody may have brought it to the other one");
    assert!(matches!(story.reason(), Reason::StoppedCopy { .. }), "{:?}", story.reason());
    story.answer_probes();
    assert_eq!(story.lead(), [format!("resume on {place}")]);
    let (seen, done) = (story.seen(Presence::Running), story.done(story.order(), None));
    story.reports(&place, vec![seen, done]);
    assert!(story.lead().is_empty());
    assert_eq!((story.reason(), story.record().desired), (Reason::Ignored, Desired::Ignored));
    // A copy that is not the present one is left as it is.
    let mut domain = SeenDomain::active("v", Presence::Suspended, 64);
    domain.generation = Some(story.record().generation.0 - 1);
    story.reports(&place, vec![Report::Seen { uuid: VM, domain }]);
    story.answer_probes();
    assert!(story.lead().is_empty());
}

#[test]
fn to_enable_what_was_left_alone_and_suspended_is_done_when_it_is_let_run() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    story.does(Operation::Ignore(vm()));
    let mut domain = SeenDomain::active("v", Presence::Suspended, 64);
    domain.generation = Some(story.record().generation.0);
    story.reports(&place, vec![Report::Seen { uuid: VM, domain }]);
    story.does(Operation::Enable { vm: vm(), on: None });
    story.answer_probes();
    assert_eq!(story.lead(), [format!("resume on {place}")]);
    let (seen, done) = (story.seen(Presence::Running), story.done(story.order(), None));
    story.reports(&place, vec![seen, done]);
    assert_eq!(story.lead(), ["fulfilled"]);
    // What is asked of it later would wait for this.
    assert!(story.record().open_operation().is_none());
}

/// Suspended there, and the cluster does not know it: it came with no backup, or was forgotten.
fn suspended_and_unknown() -> (Story, String, u64) {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    let generation = story.record().generation.0;
    story.does(Operation::ForgetVm(vm()));
    let mut domain = SeenDomain::active("v", Presence::Suspended, 64);
    domain.generation = Some(generation);
    for _ in 0..2 {
        story.reports(&place, vec![Report::Seen { uuid: VM, domain: domain.clone() }]);
    }
    (story, place, generation)
}

#[test]
fn a_suspended_copy_that_the_cluster_does_not_know_is_told_and_runs_on_when_it_is_taken_up() {
    let (mut story, place, generation) = suspended_and_unknown();
    let told = |story: &Story| {
        let of_it =
            |it: &&std::sync::Arc<model::event::Event>| it.kind == EventKind::UnmanagedSuspended;
        story.state.events.iter().filter(of_it).count()
    };
    assert_eq!(told(&story), 1, "once");
    story.add(VmPolicy::default());
    assert_eq!(story.record().generation.0, generation);
    story.answer_probes();
    assert!(story.lead().is_empty(), "to add it destroys nothing: {:?}", story.reason());
    let why = story.reason().to_string();
    assert!(why.contains("`berthctl enable`"), "{why}");
    story.enable();
    assert_eq!(story.lead(), [format!("resume on {place}")]);
}

#[test]
fn a_suspended_copy_of_a_vm_that_was_only_added_is_destroyed_when_the_vm_is_not_wanted() {
    let (mut story, place, _) = suspended_and_unknown();
    story.add(VmPolicy::default());
    story.answer_probes();
    assert!(story.lead().is_empty());
    story.does(Operation::Disable(vm()));
    assert!(story.lead().contains(&format!("evict from {place}")), "{:?}", story.reason());
}
