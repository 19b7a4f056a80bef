//! What holds a service's members up: a pause of the cluster, the freeze of a VM.

use super::*;
use model::fleet::PauseMode;

impl Story {
    fn decides(&mut self, decision: ServiceDecision) -> Outcome {
        let changed = self.record().changed;
        self.tries(Operation::DecideService { service: web(), changed, decision })
    }
}

#[test]
fn in_a_pause_nothing_of_a_service_is_stopped_or_started() {
    let mut story = Story::started(spec());
    let why = "the network is worked on".to_owned();
    story.does(Operation::PauseCluster { mode: PauseMode::Freeze, why });
    story.check_fails("log");
    story.settle();
    assert!(story.log().is_empty());
    assert!(matches!(story.reason(), Reason::Paused { .. }));
    assert!(matches!(story.decides(ServiceDecision::Stop), Err(Rejection::Paused { .. })));
    story.does(Operation::UnpauseCluster);
    story.settle();
    assert_eq!(story.log().last().map(String::as_str), Some("start log on n1"));
}

#[test]
fn a_vm_that_is_frozen_is_not_touched_by_its_service() {
    let mut spec = spec();
    spec.policy.migrate_together = true;
    let mut story = Story::started(spec);
    story.does(Operation::Freeze { vm: vm(), why: "its disk is copied".into(), for_ms: None });
    for ask in [
        ServiceAsk::Disable,
        ServiceAsk::Stop,
        ServiceAsk::Restart,
        ServiceAsk::Relocate { to: None },
        ServiceAsk::Migrate { to: node("n2"), mode: None },
    ] {
        assert!(story.refused(ask.clone()).contains("frozen"), "{ask:?}");
    }
    story.check_fails("log");
    story.settle();
    assert_eq!(story.log(), ["stop log on n1"]);
    assert!(
        matches!(story.reason(), Reason::MemberStuck { why } if why.contains("frozen")),
        "{:?}",
        story.reason()
    );
    let member = MemberName::new("v").unwrap();
    let stop = story.decides(ServiceDecision::StopMember { member: member.clone() });
    assert!(matches!(stop, Err(Rejection::Frozen { .. })));
    let mode = model::vm::MigrationMode::Live;
    let migrate = story.decides(ServiceDecision::MigrateMember { member, mode });
    assert!(matches!(migrate, Err(Rejection::Frozen { .. })));
    story.does(Operation::Unfreeze(vm()));
    story.settle();
    assert_eq!(story.record().state, ServiceState::Started);
}

#[test]
fn a_frozen_vm_that_is_down_is_not_started_by_its_service() {
    let mut story = Story::with(spec());
    story.does(Operation::Freeze { vm: vm(), why: "its disk is copied".into(), for_ms: None });
    story.asks(ServiceAsk::Enable { on: Some(node("n1")) });
    story.settle();
    assert_eq!(story.log(), ["start ip on n1"]);
    assert!(matches!(story.reason(), Reason::MemberStuck { why } if why.contains("frozen")));
}

#[test]
fn a_frozen_vm_that_is_shut_down_by_hand_is_no_failure_of_its_service() {
    let mut story = Story::started(spec());
    story.does(Operation::Freeze { vm: vm(), why: "its disk is copied".into(), for_ms: None });
    story.guest_dies("n1");
    story.settle();
    assert!(story.log().is_empty());
    assert!(matches!(story.reason(), Reason::MemberStuck { why } if why.contains("frozen")));
    story.does(Operation::Unfreeze(vm()));
    story.settle();
    assert_eq!(story.record().state, ServiceState::Started);
    assert!(story.log().contains(&"start v on n1".to_owned()));
}
