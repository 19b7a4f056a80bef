//! What the cluster leaves alone, by an operator's word, and how it takes it up again.

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
