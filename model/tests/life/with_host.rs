//! VMs that were stopped with their host.

use model::fleet::ShutdownPolicy;
use model::node::AfterShutdown;
use model::vm::AutomaticMoves;

use super::*;

/// Its host said that it reboots, and the VM was stopped with it.
fn stopped_with_its_host(policy: ShutdownPolicy) -> (Story, String, String) {
    // One that is not moved off, whatever the policy.
    let stays = VmPolicy { automatic_moves: AutomaticMoves::Never, ..VmPolicy::default() };
    let (mut story, place) = Story::running(stays, &["a", "b"]);
    let other = if place == "a" { "b" } else { "a" };
    let settings = Settings { shutdown_policy: policy, ..Settings::default() };
    story.does(Operation::ChangeSettings(settings));
    let (node, session) = (story.id(&place), story.session(&place));
    let then = AfterShutdown::Reboot;
    story.does(Operation::ShutdownAnnounced { node, session, then });
    assert_eq!(story.lead(), [format!("stop with {place}")]);
    let order = story.order();
    let (gone, done) = (story.absent(order, None), story.done(order, None));
    story.reports(&place, vec![gone, done]);
    story.lead();
    assert!(matches!(story.reason(), Reason::WaitsForHost { .. }), "{}", story.reason());
    (story, place, other.to_owned())
}

#[test]
fn what_waits_for_its_host_starts_elsewhere_once_that_is_proven_dead_but_under_freeze() {
    for (policy, starts) in [
        (ShutdownPolicy::Conditional, true),
        (ShutdownPolicy::Migrate, true),
        (ShutdownPolicy::Freeze, false),
    ] {
        let (mut story, place, other) = stopped_with_its_host(policy);
        let (node, session) = (story.id(&place), story.session(&place));
        story.silent.insert(node, 10_000);
        story.does(Operation::NodeLost { node, session, silent_ms: 10_000 });
        assert!(story.lead().is_empty(), "silence ends no wait");
        story.is_fenced(&place);
        match starts {
            true => assert_eq!(story.lead(), [format!("start on {other}")]),
            false => {
                assert!(story.lead().is_empty());
                assert!(matches!(story.reason(), Reason::WaitsForHost { .. }));
            }
        }
    }
}

#[test]
fn a_host_that_stays_off_is_waited_for_until_the_operator_says_so() {
    let (mut story, place, other) = stopped_with_its_host(ShutdownPolicy::Conditional);
    story.dies(&place);
    assert_eq!(story.state.nodes[&story.id(&place)].state, NodeState::Off);
    assert!(matches!(story.reason(), Reason::WaitsForHost { .. }));
    let why = "its mainboard is broken".to_owned();
    story.does(Operation::ConfirmOff { node: name(&place), why });
    assert_eq!(story.lead(), [format!("start on {other}")]);
}

#[test]
fn what_waits_for_its_host_starts_there_when_it_is_back() {
    let (mut story, place, _) = stopped_with_its_host(ShutdownPolicy::Conditional);
    story.dies(&place);
    story.register(&place, "boot2", &[]);
    story.answer_probes();
    assert_eq!(story.lead(), [format!("start on {place}")]);
}
