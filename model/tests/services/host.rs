//! A service whose host goes down in good order, or is to be empty.

use super::*;
use model::node::AfterShutdown;
use model::vm::AutomaticMoves;

impl Story {
    fn goes_down(&mut self, name: &str, then: AfterShutdown) {
        let (node, session) =
            (self.id(name), self.state.node_named(&node(name)).unwrap().last_session);
        self.does(Operation::ShutdownAnnounced { node, session, then });
    }

    fn is_off(&mut self, name: &str) -> Outcome {
        let (node, session) =
            (self.id(name), self.state.node_named(&node(name)).unwrap().last_session);
        self.tries(Operation::NodeOff { node, session })
    }
}

#[test]
fn a_node_is_not_off_while_scripts_may_run_there() {
    let mut story = Story::started(scripts());
    story.goes_down("n1", AfterShutdown::StayOff);
    assert!(story.state.may_run_anything(story.id("n1")));
    assert!(matches!(story.is_off("n1"), Err(Rejection::Superseded { .. })));
    let mut liveness = Liveness::default();
    let (id, session) = (story.id("n1"), story.state.nodes[&story.id("n1")].last_session);
    let silent_ms = 60_000;
    let heard = model::liveness::Heard { session, met: true, silent_ms, unanswered_ms: silent_ms };
    liveness.heard.insert(id, heard);
    let planned = plan(&story.state, &liveness, Timestamp(story.now)).operations;
    assert!(planned.iter().any(|it| matches!(it, Operation::NodeLost { node, .. } if *node == id)));
}

#[test]
fn a_service_stops_with_its_host_and_starts_elsewhere_when_that_stays_off() {
    let mut story = Story::started(spec());
    story.goes_down("n1", AfterShutdown::StayOff);
    story.settle();
    assert_eq!(
        story.log(),
        [
            "stop log on n1",
            "stop v on n1",
            "stop ip on n1",
            "start ip on n2",
            "start v on n2",
            "start log on n2"
        ]
    );
    assert!(!story.state.may_run_anything(story.id("n1")));
    assert!(story.is_off("n1").is_ok());
}

#[test]
fn a_service_waits_for_a_host_that_reboots_unless_it_is_asked_to_start_elsewhere_or_the_host_dies()
{
    let down = || {
        let mut story = Story::started(scripts());
        story.goes_down("n1", AfterShutdown::Reboot);
        story.settle();
        assert_eq!(story.log(), ["stop log on n1", "stop ip on n1"]);
        assert!(matches!(story.reason(), Reason::WaitsForHost { .. }), "{:?}", story.reason());
        assert!(story.is_off("n1").is_ok());
        story
    };
    let mut story = down();
    story.register("n1", "boot2");
    story.settle();
    assert_eq!(story.log(), ["start ip on n1", "start log on n1"]);
    let mut story = down();
    story.asks(ServiceAsk::Enable { on: Some(node("n2")) });
    story.settle();
    assert_eq!(story.log(), ["start ip on n2", "start log on n2"]);
    let mut story = down();
    let why = "burnt".to_owned();
    story.does(Operation::ConfirmOff { node: node("n1"), why });
    story.settle();
    assert_eq!(story.log(), ["start ip on n2", "start log on n2"]);
}

#[test]
fn a_node_that_is_to_be_empty_lets_a_service_go_whose_vms_may_be_stopped_for_that() {
    let maintenance = |story: &mut Story| {
        story.does(Operation::SetMaintenance { node: node("n1"), on: true, until_boot: false });
        story.settle();
    };
    let mut story = Story::started(scripts());
    maintenance(&mut story);
    assert_eq!(
        story.log(),
        ["stop log on n1", "stop ip on n1", "start ip on n2", "start log on n2"]
    );
    let mut story = Story::started(spec());
    maintenance(&mut story);
    assert!(story.log().is_empty());
    assert!(matches!(story.reason(), Reason::CannotLeave { .. }), "{:?}", story.reason());
    let mut spec = story.state.vms[&vm()].spec.clone();
    spec.policy.automatic_moves = AutomaticMoves::Cold;
    story.does(Operation::EditVm(Box::new(spec)));
    story.settle();
    assert_eq!(story.log().last().map(String::as_str), Some("start log on n2"));
}
