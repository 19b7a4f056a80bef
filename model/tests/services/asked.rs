//! Who is asked for scripts that somebody else may have started meanwhile.

use super::*;

#[test]
fn a_script_that_is_put_into_a_service_that_runs_is_asked_for_everywhere_first() {
    let only_vm = ServiceSpec { members: vec![member("v", MemberKind::Vm(vm()))], ..spec() };
    let with_log = ServiceSpec {
        members: vec![member("v", MemberKind::Vm(vm())), script("log")],
        ..only_vm.clone()
    };
    let mut story = Story::started(only_vm.clone());
    story.runs("log", "n2");
    story.does(Operation::EditService(Box::new(with_log.clone())));
    story.settle();
    assert!(story.log().is_empty());
    assert!(matches!(story.reason(), Reason::MayRunOn { .. }), "{:?}", story.reason());
    story.up.clear();
    story.settle();
    assert_eq!(story.log(), ["start log on n1"]);
    // Out and in again: what nobody looked after may have been started elsewhere meanwhile.
    story.asks(ServiceAsk::Disable);
    story.settle();
    story.does(Operation::EditService(Box::new(only_vm)));
    story.asks(ServiceAsk::Enable { on: Some(node("n1")) });
    story.settle();
    story.log();
    story.runs("log", "n2");
    story.does(Operation::EditService(Box::new(with_log)));
    story.settle();
    assert!(story.log().is_empty() && story.up.len() == 1);
}

#[test]
fn scripts_that_were_moved_by_hand_in_a_freeze_are_followed_and_not_started_twice() {
    let mut story = Story::started(scripts());
    story.asks(ServiceAsk::Freeze { why: "by hand".into(), for_ms: None });
    story.up.clear();
    story.runs("ip", "n2");
    story.runs("log", "n2");
    story.asks(ServiceAsk::Unfreeze);
    story.check_fails("ip");
    story.settle();
    assert_eq!(story.record().owner, Some(story.id("n2")));
    assert_eq!(story.record().state, ServiceState::Started);
}
