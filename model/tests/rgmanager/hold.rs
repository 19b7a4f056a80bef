//! Freeze, lock, autostart: sections 1.1, 3.3, 4.1 and 6.4.

use model::Operation;
use model::plan::Reason;
use model::vm::{Desired, VmPolicy, VmState};

use crate::story::{Story, vm};

fn freeze(for_ms: Option<u64>) -> Operation {
    Operation::Freeze { vm: vm("v"), why: "a new kernel".into(), for_ms }
}

#[test]
fn nothing_is_done_to_a_frozen_vm_whatever_becomes_of_it() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("v", "a", VmPolicy::default());
    story.does(freeze(None));
    story.crashes("v");
    assert!(story.pass(3_600).is_empty());
    let reason = story.reason("v");
    assert!(matches!(reason, Reason::Frozen { .. }) && reason.is_stuck(), "{reason}");
    story.does(Operation::Unfreeze(vm("v")));
    story.settles();
    assert_eq!(story.place("v"), "started on a");
}

#[test]
fn the_death_of_its_node_starts_a_frozen_vm_nowhere_before_it_is_unfrozen() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("v", "a", VmPolicy::default());
    story.does(freeze(None));
    story.dies("a");
    assert!(story.pass(600).is_empty());
    story.does(Operation::Unfreeze(vm("v")));
    story.settles();
    assert_eq!(story.place("v"), "started on b");
}

#[test]
fn unfreeze_asks_every_node_before_it_starts_anything() {
    let mut story = Story::with_nodes(&["a", "b", "c"]);
    story.running("v", "a", VmPolicy::default());
    story.does(freeze(None));
    story.crashes("v");
    story.settles();
    // One agent sees nothing for a while: it may be there that somebody runs it.
    story.hung.insert("c".into());
    story.guests.insert(("v".into(), "c".into()));
    story.does(Operation::Unfreeze(vm("v")));
    story.settles();
    assert!(matches!(story.reason("v"), Reason::MayRunOn { .. }), "{}", story.reason("v"));
    story.hung.clear();
    story.settles();
    assert_eq!(story.place("v"), "started on c", "it is tracked where it runs, and not started");
}

#[test]
fn a_freeze_ends_by_itself_at_its_time() {
    let mut story = Story::with_nodes(&["a"]);
    story.running("v", "a", VmPolicy::default());
    story.does(freeze(Some(7_200_000)));
    story.crashes("v");
    assert!(story.pass(7_000).is_empty());
    let decided = story.pass(300);
    assert_eq!(decided.first().map(String::as_str), Some("v: unfreeze"), "{decided:?}");
    assert_eq!(story.place("v"), "started on a");
}

#[test]
fn a_frozen_vm_is_followed_where_somebody_moves_it() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("v", "a", VmPolicy::default());
    story.does(freeze(None));
    story.is_moved_by_hand("v", "a", "b");
    assert_eq!(story.settles(), ["v: adopt on b"]);
    assert_eq!(story.place("v"), "started on b");
    assert!(story.record("v").frozen.is_some());
}

#[test]
fn a_refusal_names_who_froze_it_and_why_and_the_way_out() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("v", "a", VmPolicy::default());
    story.does(freeze(Some(60_000)));
    let refused = story.refused(Operation::Disable(vm("v")));
    for part in ["frozen for another 60 s", "a new kernel", "(test)", "berthctl unfreeze v"] {
        assert!(refused.contains(part), "{refused}");
    }
    story.does(Operation::Unfreeze(vm("v")));
    assert!(story.refused(Operation::Unfreeze(vm("v"))).contains("not frozen"));
}

#[test]
fn locked_nothing_starts_and_everything_stops() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("v", "a", VmPolicy::default());
    story.running("w", "a", VmPolicy::default());
    story.adds("x", VmPolicy::default());
    story.does(Operation::Lock { why: "the storage moves".into() });
    let refused = story.refused(Operation::Enable { vm: vm("x"), on: None });
    assert!(refused.contains("the storage moves") && refused.contains("unlock"), "{refused}");
    story.refused(Operation::Restart(vm("v")));
    story.refused(Operation::Relocate { vm: vm("v"), to: None });
    // A migration starts nothing, and a stop is a stop.
    story.migrates("v", "b");
    story.settles();
    assert_eq!(story.place("v"), "started on b");
    story.disables("v");
    story.crashes("w");
    story.pass(600);
    assert_eq!(story.state_of("v"), VmState::Disabled);
    assert!(matches!(story.reason("w"), Reason::Locked { .. }), "{}", story.reason("w"));
    story.does(Operation::Unlock);
    story.settles();
    assert_eq!(story.place("w"), "started on a");
    assert!(story.refused(Operation::Unlock).contains("not locked"));
}

/// RGManager's was per daemon, reset when quorum came back, and undefined for a node that joined.
#[test]
fn the_lock_is_the_states_so_it_outlives_leaders_and_nodes() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("v", "a", VmPolicy::default());
    story.does(Operation::Lock { why: "x".into() });
    story.dies("a");
    story.registers("c");
    assert!(story.pass(60).is_empty());
    let copy: model::ClusterState = story.state.clone();
    assert!(copy.lock.is_some());
}

#[test]
fn a_running_vm_is_tracked_also_while_the_cluster_is_locked() {
    let mut story = Story::with_nodes(&["a"]);
    story.adds("v", VmPolicy::default());
    story.settles();
    story.appears("v", "a");
    story.does(Operation::Lock { why: "x".into() });
    story.enables("v");
    story.settles();
    assert_eq!(story.place("v"), "started on a");
}

/// RGManager lost its state when all nodes were down, and judged by autostart anew.
#[test]
fn autostart_says_what_starts_after_the_whole_cluster_was_down() {
    for (autostart, all_down, operator, expected) in [
        (true, true, false, "started on a"),
        (false, true, false, "disabled"),
        // The node alone: that is failover, and no start of the cluster.
        (false, false, false, "started on b"),
        (false, true, true, "started on a"),
    ] {
        let mut story = Story::with_nodes(&["a", "b"]);
        let policy = VmPolicy { autostart, ..VmPolicy::default() };
        story.running("v", "a", policy);
        story.dies("a");
        if all_down {
            story.falls_silent("b");
            story.returns("a");
            story.returns("b");
        }
        if operator {
            story.enables("v");
        }
        story.settles();
        assert_eq!(story.place("v"), expected, "autostart {autostart}, all down {all_down}");
    }
}

#[test]
fn a_cluster_that_was_only_out_of_sight_was_not_down() {
    let mut story = Story::with_nodes(&["a"]);
    story.running("v", "a", VmPolicy { autostart: false, ..VmPolicy::default() });
    story.falls_silent("a");
    story.registers("a");
    story.settles();
    assert_eq!((story.place("v").as_str(), story.record("v").cold), ("started on a", None));
    story.crashes("v");
    story.settles();
    assert_eq!(story.place("v"), "started on a");
}

#[test]
fn convalesce_forgets_what_counts_against_a_vm() {
    let mut story = Story::with_nodes(&["a"]);
    story.adds("v", VmPolicy::default());
    story.bad_starts.insert(("v".into(), "a".into()));
    story.enables("v");
    story.settles();
    assert!(matches!(story.reason("v"), Reason::WaitingUntil { .. }), "{}", story.reason("v"));
    story.bad_starts.clear();
    story.does(Operation::Convalesce(vm("v")));
    story.settles();
    assert_eq!(story.place("v"), "started on a");
    assert_eq!(story.record("v").desired, Desired::Enabled);
}

/// All nodes are unheard for a moment, and are there again as they were.
fn out_of_sight(story: &mut Story) {
    for silent_ms in [10_000, 0] {
        for name in ["a", "b"] {
            story.is_unheard(name, silent_ms);
        }
        for _ in 0..3 {
            assert!(story.leads().is_empty(), "{}", story.reason("v"));
        }
        assert_eq!(story.state.mass_loss.is_some(), silent_ms > 0);
        let is_cold = story.record("v").cold.is_some();
        assert_eq!(is_cold, silent_ms > 0, "as long as nobody knows");
    }
}

#[test]
fn a_moment_in_which_no_node_is_heard_makes_nothing_cold_whatever_it_was_doing() {
    let policy = || VmPolicy { autostart: false, ..VmPolicy::default() };
    // It waits to be tried again.
    let mut story = Story::with_nodes(&["a", "b"]);
    story.adds("v", policy());
    for place in ["a", "b"] {
        story.bad_starts.insert(("v".into(), place.into()));
    }
    story.enables("v");
    story.settles();
    story.does(Operation::Convalesce(vm("v")));
    story.crashes("v");
    story.settles();
    assert_eq!(story.state_of("v"), VmState::Recovering);
    out_of_sight(&mut story);
    assert_eq!((story.state_of("v"), story.record("v").cold), (VmState::Recovering, None));
    story.bad_starts.clear();
    story.pass(3_600);
    assert_eq!(story.state_of("v"), VmState::Started);
    // It is being started.
    let mut story = Story::with_nodes(&["a", "b"]);
    story.adds("v", policy());
    story.settles();
    story.enables("v");
    story.leads();
    out_of_sight(&mut story);
    assert_eq!((story.state_of("v"), story.record("v").cold), (VmState::Starting, None));
}

#[test]
fn what_waits_while_the_last_node_is_unheard_is_judged_when_that_is_there_again() {
    for (boots, expected) in [(false, VmState::Started), (true, VmState::Disabled)] {
        let mut story = Story::with_nodes(&["a"]);
        story.adds("v", VmPolicy { autostart: false, ..VmPolicy::default() });
        story.bad_starts.insert(("v".into(), "a".into()));
        story.enables("v");
        story.settles();
        assert!(story.record("v").open_operation().is_none());
        story.bad_starts.clear();
        story.falls_silent("a");
        assert!(story.pass(3_600).is_empty(), "nobody knows yet whether it was down");
        if boots {
            story.returns("a")
        } else {
            story.registers("a")
        }
        story.pass(3_600);
        assert_eq!(story.state_of("v"), expected, "{}", story.reason("v"));
    }
}
