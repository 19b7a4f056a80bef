//! Scripts that run without the cluster's doing: from before a restore, or because a stop did not tell the truth.

use super::*;

#[test]
fn a_member_that_was_never_started_here_is_stopped_too_before_its_node_leaves_the_set() {
    let mut story = Story::new();
    story.runs("log", "n1");
    story.does(Operation::AddService(Box::new(scripts())));
    story.settle();
    story.broken.insert("start ip on n1".into());
    story.asks(ServiceAsk::Enable { on: None });
    story.settle();
    assert_eq!(
        story.log(),
        ["stop ip on n1", "stop log on n1", "start ip on n2", "start log on n2"]
    );
    assert_eq!(story.record().owner, Some(story.id("n2")));
}

#[test]
fn a_stop_that_said_done_and_was_not_fails_the_service_where_it_is() {
    let mut story = Story::started(scripts());
    story.deaf.insert("stop log on n1".into());
    story.asks(ServiceAsk::Relocate { to: None });
    story.settle();
    assert_eq!(story.log(), ["stop log on n1", "stop ip on n1", "stop log on n1"]);
    assert_eq!(story.record().state, ServiceState::Failed);
    assert!(matches!(story.reason(), Reason::StopFailed { why } if why.contains("log")));
    // Somebody sees to it; the agent's word settles it, and the recovery policy goes on.
    story.up.clear();
    story.settle();
    assert_eq!(story.log(), ["start ip on n1", "start log on n1"]);
}

#[test]
fn apply_itself_keeps_the_node_until_its_agent_says_that_none_of_them_runs() {
    let mut story = Story::started(scripts());
    story.asks(ServiceAsk::Disable);
    for _ in 0..5 {
        let planned = plan(&story.state, &Liveness::default(), Timestamp(story.now)).operations;
        planned.into_iter().for_each(|operation| drop(story.tries(operation)));
        let orders = work(&story.state).into_values().flat_map(|work| work.orders);
        for order in orders.collect::<Vec<_>>() {
            if matches!(order.kind, ScriptOrderKind::Stop { .. }) {
                story.obey_script("n1", order.id, order.kind);
            }
        }
    }
    assert!(story.up.is_empty() && story.record().scripts_are_down());
    assert!(story.record().may_run.contains_key(&story.id("n1")));
    assert!(matches!(story.reason(), Reason::MayRunOn { .. }), "{:?}", story.reason());
    let (changed, decision) = (story.record().changed, ServiceDecision::Down);
    let down = Operation::DecideService { service: web(), changed, decision };
    let refused = story.tries(down).unwrap_err().to_string();
    assert!(refused.contains("n1"), "{refused}");
    story.settle();
    assert_eq!(story.record().state, ServiceState::Disabled);
}

#[test]
fn what_went_wrong_before_a_stop_is_not_held_against_the_stop() {
    let mut story = Story::started(scripts());
    story.deaf.insert("stop log on n1".into());
    // A check that failed, for which it is stopped and started again.
    story.check_fails("log");
    story.settle();
    let stops = story.log().iter().filter(|it| it.as_str() == "stop log on n1").count();
    assert_eq!(stops, 2, "it is stopped once more before the operator is called");
}

#[test]
fn a_node_that_was_not_known_is_asked_for_scripts_before_any_of_them_starts() {
    let mut story = Story::with(scripts());
    story.settle();
    story.up.insert(("n3".into(), "ip".into()));
    story.register("n3", "boot1");
    story.asks(ServiceAsk::Enable { on: Some(node("n1")) });
    // A start on n1 would be the second.
    story.settle();
    assert_eq!(story.record().owner, Some(story.id("n3")), "{:?}", story.reason());
}

#[test]
fn what_runs_elsewhere_of_a_service_does_not_wait_for_its_dead_node() {
    let mut story = Story::started(spec());
    story.asks(ServiceAsk::Disable);
    let (n1, session) = (story.id("n1"), story.state.node_named(&node("n1")).unwrap().last_session);
    story.does(Operation::NodeLost { node: n1, session, silent_ms: 5_000 });
    story.does(Operation::FenceAsked { node: n1, session });
    let proof = ProofOfDeath::Fenced { device: "x".into() };
    story.guest.clear();
    story.up.clear();
    story.does(Operation::NodeDead { node: n1, session, proof });
    // Somebody started it by hand, and the cluster follows it.
    story.guest.insert("n2".into());
    let domain = SeenDomain::active("v", Presence::Running, 64);
    let (n2, session) = (story.id("n2"), story.state.node_named(&node("n2")).unwrap().last_session);
    let seen = vec![Report::Seen { uuid: VM, domain }];
    story.does(Operation::Report { node: n2, session, reports: seen });
    story.settle();
    // The operator wants all of it down, this too.
    assert!(story.guest.is_empty(), "{:?}", story.reason());
    assert_eq!(story.record().state, ServiceState::Disabled, "{:?}", story.reason());
}

#[test]
fn a_script_that_was_found_running_is_not_edited_away() {
    let mut story = Story::new();
    story.runs("log", "n1");
    story.does(Operation::AddService(Box::new(scripts())));
    story.settle();
    let mut spec = scripts();
    spec.members.pop();
    let refused = story.tries(Operation::EditService(Box::new(spec.clone()))).unwrap_err();
    assert!(refused.to_string().contains("member log may be up"), "{refused}");
    // Its node would be asked for another script, and say that it is not there.
    story.up.clear();
    story.settle();
    let absent = vec![Report::Absent { uuid: SERVICE, floor: u64::MAX, cause: None }];
    story.report("n1", absent);
    story.does(Operation::EditService(Box::new(spec)));
}

#[test]
fn a_script_of_a_newer_spec_than_a_backup_knows_is_named_where_it_runs() {
    let mut story = Story::started(scripts());
    story.asks(ServiceAsk::Disable);
    for _ in 0..5 {
        story.plans_once();
        let orders: Vec<_> =
            work(&story.state).into_values().flat_map(|work| work.orders).collect();
        for order in orders {
            if matches!(order.kind, ScriptOrderKind::Stop { .. }) {
                story.obey_script("n1", order.id, order.kind);
            }
        }
    }
    let members = vec![MemberName::new("cache").unwrap()];
    story.report("n1", vec![Report::ScriptsSeen { service: SERVICE, members }]);
    let why = story.reason();
    assert!(why.is_stuck() && why.to_string().contains("cache may run on n1"), "{why}");
}
