//! What holds a service's members up: a pause of the cluster, the freeze of a VM.

use super::*;
use model::fleet::PauseMode;
use model::id::PlacementRuleName;
use model::placement_rule::{PlacementRule, PlacementRuleKind};

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

#[test]
fn a_service_and_a_rule_that_keeps_its_vms_apart_are_refused_whichever_comes_second() {
    let (v, w) = (vm(), VmName::new("w").unwrap());
    let both = || {
        let mut both = spec();
        both.members.push(member("w", MemberKind::Vm(VmName::new("w").unwrap())));
        both
    };
    let apart = || {
        Operation::PutPlacementRule(PlacementRule {
            name: PlacementRuleName::new("apart").unwrap(),
            kind: PlacementRuleKind::Apart,
            vms: [vm(), VmName::new("w").unwrap()].into(),
        })
    };
    let second = |story: &mut Story| {
        let mut spec = story.state.vms[&v].spec.clone();
        spec.name = w.clone();
        spec.uuid = Uuid::from_u128(0xab);
        spec.xml = spec.xml.replace("<name>v<", "<name>w<").replace("0000aa", "0000ab").into();
        story.does(Operation::AddVm(Box::new(spec)));
    };
    let mut story = Story::new();
    second(&mut story);
    story.does(apart());
    let refused = story.tries(Operation::AddService(Box::new(both())));
    assert!(matches!(refused, Err(Rejection::RulesClash { .. })), "{refused:?}");
    assert!(story.state.services.is_empty() && story.state.service_of.is_empty());

    let mut story = Story::with(spec());
    second(&mut story);
    story.does(apart());
    let refused = story.tries(Operation::EditService(Box::new(both())));
    assert!(matches!(refused, Err(Rejection::RulesClash { .. })), "{refused:?}");

    let mut story = Story::new();
    second(&mut story);
    story.does(Operation::AddService(Box::new(both())));
    let refused = story.tries(apart());
    assert!(matches!(refused, Err(Rejection::RulesClash { .. })), "{refused:?}");
}

#[test]
fn what_was_asked_of_a_vm_ends_when_its_service_stops_it() {
    let mut story = Story::started(spec());
    story.does(Operation::Decide {
        vm: vm(),
        changed: story.state.vms[&vm()].changed,
        decision: model::command::Decision::AskMove {
            to: story.id("n2"),
            cause: model::command::MoveCause::Drain,
            why: "a test".into(),
        },
    });
    story.asks(ServiceAsk::Disable);
    story.settle();
    let operation = story.state.vms[&vm()].operation.clone().unwrap();
    assert!(!operation.phase.is_open(), "{operation:?}");
    assert_eq!(story.record().state, ServiceState::Disabled);
}
