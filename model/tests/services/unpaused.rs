//! What others may have done while the cluster had its hands off.

use model::fleet::PauseMode;

use super::*;

#[test]
fn scripts_that_were_moved_by_hand_while_the_cluster_looked_away_are_found_and_not_started_twice() {
    let only_scripts = ServiceSpec { members: vec![script("ip"), script("log")], ..spec() };
    let mut story = Story::started(only_scripts);
    let why = "the storage is replaced".to_owned();
    story.does(Operation::PauseCluster { mode: PauseMode::Ignore, why });
    story.up = ["ip", "log"].map(|member| ("n2".into(), member.into())).into();
    story.does(Operation::UnpauseCluster);
    let asked: Vec<_> = story.record().to_probe().map(|(node, _)| node).collect();
    assert_eq!(asked, [story.id("n2")], "its owner checks what it has itself");
    story.check_fails("ip");
    // A start on n1 would be the second.
    story.settle();
    assert_eq!(story.record().owner, Some(story.id("n2")));
    assert_eq!(story.record().state, ServiceState::Started);
}

#[test]
fn a_service_that_is_down_is_asked_for_everywhere_after_the_cluster_looked_away() {
    let mut story = Story::with(spec());
    let why = "the storage is replaced".to_owned();
    story.does(Operation::PauseCluster { mode: PauseMode::Ignore, why });
    story.up.insert(("n2".into(), "ip".into()));
    story.does(Operation::UnpauseCluster);
    story.asks(ServiceAsk::Enable { on: Some(node("n1")) });
    story.settle();
    assert!(story.log().iter().all(|what| !what.ends_with("n1")), "{:?}", story.reason());
}

#[test]
fn a_vm_that_was_left_alone_is_asked_for_everywhere_before_its_service_starts_it() {
    let mut story = Story::with(spec());
    story.does(Operation::Ignore(vm()));
    let (n2, session) = (story.id("n2"), story.state.node_named(&node("n2")).unwrap().last_session);
    story.does(Operation::NodeLost { node: n2, session, silent_ms: 5_000 });
    story.asks(ServiceAsk::Enable { on: Some(node("n1")) });
    story.settle();
    assert!(story.log().is_empty(), "n2 has not said that the guest is not there");
    story.register("n2", "boot2");
    story.settle();
    assert_eq!(story.log(), ["start ip on n1", "start v on n1", "start log on n1"]);
}

#[test]
fn a_vm_that_runs_and_was_left_alone_is_its_services_from_the_moment_that_is_enabled() {
    let mut story = Story::with(spec());
    story.does(Operation::Enable { vm: vm(), on: Some(node("n1")) });
    story.settle();
    story.does(Operation::Ignore(vm()));
    story.asks(ServiceAsk::Enable { on: None });
    story.settle();
    assert_eq!(story.record().state, ServiceState::Started, "{:?}", story.reason());
    assert_eq!(story.state.vms[&vm()].desired, Desired::Enabled);
}

#[test]
fn a_vm_that_was_disabled_and_left_alone_starts_with_its_service() {
    let mut story = Story::with(spec());
    story.does(Operation::Disable(vm()));
    story.does(Operation::Ignore(vm()));
    story.asks(ServiceAsk::Enable { on: Some(node("n1")) });
    story.settle();
    assert_eq!(story.record().state, ServiceState::Started, "{:?}", story.reason());
}

#[test]
fn hands_are_off_a_member_only_with_its_service() {
    let mut story = Story::started(spec());
    let refused = story.tries(Operation::Ignore(vm()));
    assert!(matches!(refused, Err(Rejection::MemberOfService { .. })), "{refused:?}");
}

#[test]
fn a_service_whose_parts_run_on_two_nodes_says_what_to_do() {
    let mut story = Story::new();
    story.does(Operation::Enable { vm: vm(), on: Some(node("n1")) });
    story.settle();
    story.up.insert(("n2".into(), "ip".into()));
    story.does(Operation::AddService(Box::new(spec())));
    story.asks(ServiceAsk::Enable { on: None });
    story.settle();
    let why = story.reason().to_string();
    assert!(why.contains("v on n1") && why.contains("ip on n2"), "{why}");
    assert!(why.contains("berthctl disable service:web"), "{why}");
    assert!(story.reason().is_stuck());
}

#[test]
fn a_service_whose_parts_run_on_a_node_that_is_away_waits_for_it() {
    let mut story = Story::new();
    story.up.insert(("n2".into(), "ip".into()));
    story.does(Operation::AddService(Box::new(scripts())));
    story.settle();
    let (n2, session) = (story.id("n2"), story.state.node_named(&node("n2")).unwrap().last_session);
    story.does(Operation::NodeLost { node: n2, session, silent_ms: 5_000 });
    story.asks(ServiceAsk::Enable { on: None });
    story.settle();
    assert!(matches!(story.reason(), Reason::OwnerSilent { .. }), "{:?}", story.reason());
}

#[test]
fn a_suspended_vm_that_was_left_alone_runs_on_when_its_service_is_enabled() {
    let mut story = Story::with(spec());
    story.does(Operation::Enable { vm: vm(), on: Some(node("n1")) });
    story.settle();
    story.does(Operation::Ignore(vm()));
    let generation = Some(story.state.vms[&vm()].generation.0);
    let (n1, session) = (story.id("n1"), story.state.node_named(&node("n1")).unwrap().last_session);
    let suspended = SeenDomain { generation, ..SeenDomain::active("v", Presence::Suspended, 64) };
    let reports = vec![Report::Seen { uuid: VM, domain: suspended }];
    story.does(Operation::Report { node: n1, session, reports });
    story.asks(ServiceAsk::Enable { on: None });
    story.report("n2", vec![Report::Absent { uuid: VM, floor: u64::MAX, cause: None }]);
    let planned = plan(&story.state, &Liveness::default(), Timestamp(story.now));
    assert!(
        planned.operations.iter().any(|it| format!("{it:?}").contains("Resume")),
        "{:?}, {:?}",
        planned.operations,
        planned.vms
    );
}
