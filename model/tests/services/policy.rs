//! What a service has of a VM's policy: dependencies, autostart, the order of starts.

use super::*;
use model::dependency::{DependMode, Dependee, Dependency};
use model::failover_domain::{Failback, FailoverDomain, Window};
use model::id::FailoverDomainName;
use model::vm::Migratable;

fn on_vm(mode: DependMode) -> Vec<Dependency> {
    vec![Dependency { on: Dependee::Vm(vm()), mode }]
}

fn on_web() -> Vec<Dependency> {
    vec![Dependency { on: Dependee::Service(web()), mode: DependMode::Hard }]
}

fn depending(mode: DependMode) -> ServiceSpec {
    let policy = ServicePolicy { depend: on_vm(mode), ..ServicePolicy::default() };
    ServiceSpec { policy, ..scripts() }
}

impl Story {
    fn enables_vm(&mut self) {
        self.does(Operation::Enable { vm: vm(), on: Some(node("n2")) });
        self.settle();
    }

    fn disables_vm(&mut self) {
        self.does(Operation::Disable(vm()));
        self.settle();
    }

    fn edits_vm(&mut self, change: impl FnOnce(&mut VmPolicy)) -> Outcome {
        let mut spec = self.state.vms[&vm()].spec.clone();
        change(&mut spec.policy);
        self.tries(Operation::EditVm(Box::new(spec)))
    }

    /// A second VM, which was started there by hand and adopted.
    fn another_vm_on(&mut self, name: &str) -> VmName {
        let mut spec = self.state.vms[&vm()].spec.clone();
        spec.name = VmName::new("w").unwrap();
        spec.uuid = Uuid::from_u128(0xbb);
        spec.xml = spec.xml.replace("<name>v<", "<name>w<").into();
        let (uuid, other) = (spec.uuid, spec.name.clone());
        self.does(Operation::AddVm(Box::new(spec)));
        let domain = SeenDomain::active("w", Presence::Running, 64);
        self.report(name, vec![Report::Seen { uuid, domain }]);
        let elsewhere = if name == "n1" { "n2" } else { "n1" };
        self.report(elsewhere, vec![Report::Absent { uuid, floor: u64::MAX, cause: None }]);
        self.does(Operation::Enable { vm: other.clone(), on: None });
        for operation in plan(&self.state, &Liveness::default(), Timestamp(self.now)).operations {
            self.does(operation);
        }
        let order = self.state.vms[&other].order.as_ref().unwrap().id;
        self.report(name, vec![Report::OrderDone { uuid, order, error: None }]);
        other
    }

    /// The whole cluster is down, and its nodes are proven dead and come back.
    fn goes_down_as_a_whole(&mut self) {
        for name in ["n1", "n2"] {
            let (node, session) =
                (self.id(name), self.state.node_named(&node(name)).unwrap().last_session);
            self.does(Operation::NodeLost { node, session, silent_ms: 5_000 });
            self.does(Operation::FenceAsked { node, session });
            let proof = ProofOfDeath::Fenced { device: "fence_x".into() };
            self.does(Operation::NodeDead { node, session, proof });
        }
        self.up.clear();
        self.guest.clear();
        for name in ["n1", "n2"] {
            self.register(name, "boot2");
        }
    }
}

#[test]
fn a_service_starts_after_what_it_depends_on_and_stops_with_it_when_that_is_hard() {
    for (mode, stops) in [(DependMode::Hard, true), (DependMode::Soft, false)] {
        let mut story = Story::with(depending(mode));
        story.asks(ServiceAsk::Enable { on: Some(node("n1")) });
        story.settle();
        assert!(story.log().is_empty());
        let reason = story.reason();
        assert!(
            matches!(&reason, Reason::DependsOn { on } if on == &["vm:v is disabled"]),
            "{reason}"
        );
        story.enables_vm();
        assert_eq!(story.log(), ["start v on n2", "start ip on n1", "start log on n1"]);
        story.disables_vm();
        let expected: &[&str] = match stops {
            true => &["stop v on n2", "stop log on n1", "stop ip on n1"],
            false => &["stop v on n2"],
        };
        assert_eq!(story.log(), expected, "{mode:?}");
        story.enables_vm();
        let expected: &[&str] = match stops {
            true => &["start v on n2", "start ip on n1", "start log on n1"],
            false => &["start v on n2"],
        };
        assert_eq!(story.log(), expected, "{mode:?}");
    }
}

#[test]
fn what_a_service_depends_on_and_is_not_known_is_not_met() {
    let on = Dependee::Vm(VmName::new("nothing").unwrap());
    let depend = vec![Dependency { on, mode: DependMode::Soft }];
    let policy = ServicePolicy { depend, ..ServicePolicy::default() };
    let mut story = Story::with(ServiceSpec { policy, ..scripts() });
    story.asks(ServiceAsk::Enable { on: None });
    story.settle();
    assert!(story.log().is_empty());
    assert!(story.reason().to_string().contains("vm:nothing is unknown"), "{}", story.reason());
}

#[test]
fn editing_a_service_stops_nothing_and_binds_it_from_when_all_was_there() {
    let mut story = Story::started(scripts());
    story.does(Operation::EditService(Box::new(depending(DependMode::Hard))));
    story.settle();
    assert!(story.log().is_empty());
    story.enables_vm();
    story.disables_vm();
    assert_eq!(story.log(), ["start v on n2", "stop v on n2", "stop log on n1", "stop ip on n1"]);
}

#[test]
fn a_circle_through_vms_and_services_is_refused_where_it_is_closed() {
    type Close = fn(&mut Story) -> Outcome;
    let by_service: Close =
        |story| story.tries(Operation::EditService(Box::new(depending(DependMode::Hard))));
    let by_vm: Close = |story| story.edits_vm(|policy| policy.depend = on_web());
    let by_member: Close = |story| {
        let policy = ServicePolicy { depend: on_vm(DependMode::Soft), ..ServicePolicy::default() };
        story.tries(Operation::EditService(Box::new(ServiceSpec { policy, ..spec() })))
    };
    let by_itself: Close = |story| {
        let policy = ServicePolicy { depend: on_web(), ..ServicePolicy::default() };
        story.tries(Operation::EditService(Box::new(ServiceSpec { policy, ..scripts() })))
    };
    let nothing: Close = |story| story.edits_vm(|_| {});
    for (first, close, way) in [
        (by_vm, by_service, "service:web waits for vm:v waits for service:web"),
        (by_service, by_vm, "vm:v waits for service:web waits for vm:v"),
        (nothing, by_member, "vm:v waits for vm:v"),
        (nothing, by_itself, "service:web waits for service:web"),
    ] {
        let mut story = Story::with(scripts());
        first(&mut story).unwrap();
        let refused = close(&mut story).unwrap_err();
        assert!(matches!(refused, Rejection::DependencyCycle { .. }), "{refused}");
        assert!(refused.to_string().contains(way), "{refused}");
    }
}

#[test]
fn autostart_says_whether_a_service_starts_after_the_whole_cluster_was_down() {
    for (autostart, asked, state) in [
        (true, false, ServiceState::Started),
        (false, false, ServiceState::Disabled),
        // The operator wants it now.
        (false, true, ServiceState::Started),
    ] {
        let policy = ServicePolicy { autostart, ..ServicePolicy::default() };
        let mut story = Story::started(ServiceSpec { policy, ..spec() });
        story.goes_down_as_a_whole();
        if asked {
            story.asks(ServiceAsk::Enable { on: None });
        }
        story.settle();
        assert_eq!(story.record().state, state, "autostart {autostart}, {}", story.reason());
        let vm = story.state.vms[&vm()].state;
        assert_eq!(vm == VmState::Started, state == ServiceState::Started, "{vm:?}");
    }
    // The loss of one node of two is not the whole cluster.
    let policy = ServicePolicy { autostart: false, ..ServicePolicy::default() };
    let mut story = Story::started(ServiceSpec { policy, ..spec() });
    story.dies("n1");
    assert_eq!(story.record().state, ServiceState::Started);
}

#[test]
fn a_moment_in_which_no_node_is_heard_does_not_make_a_service_cold_that_is_being_started() {
    let policy = ServicePolicy { autostart: false, ..ServicePolicy::default() };
    for over in [true, false] {
        let mut story = Story::with(ServiceSpec { policy: policy.clone(), ..scripts() });
        story.asks(ServiceAsk::Enable { on: Some(node("n1")) });
        story.plans_once();
        assert_eq!(story.record().state, ServiceState::Starting);
        let nodes = vec![story.id("n1"), story.id("n2")];
        story.does(Operation::MassLoss { nodes });
        assert!(story.record().cold.is_some());
        if over {
            story.does(Operation::MassLossOver);
            assert_eq!(story.record().cold, None);
        }
        story.settle();
        assert_eq!(story.record().state, ServiceState::Started);
        assert_eq!(story.record().cold, None, "it has started since");
    }
}

#[test]
fn a_service_that_is_being_started_on_a_lost_node_holds_up_nobody() {
    let policy = ServicePolicy { start_priority: 1, ..ServicePolicy::default() };
    let mut story = Story::with(ServiceSpec { policy, ..scripts() });
    story.asks(ServiceAsk::Enable { on: Some(node("n1")) });
    story.plans_once();
    story.plans_once();
    assert!(story.record().order.is_some());
    let (n1, session) = (story.id("n1"), story.state.node_named(&node("n1")).unwrap().last_session);
    story.does(Operation::Enable { vm: vm(), on: Some(node("n2")) });
    story.plans_once();
    assert_eq!(story.state.vms[&vm()].state, VmState::Stopped, "the service comes first");
    story.does(Operation::NodeLost { node: n1, session, silent_ms: 5_000 });
    story.plans_once();
    assert_eq!(story.state.vms[&vm()].state, VmState::Starting);
}

#[test]
fn vms_and_services_start_in_one_order_of_their_numbers() {
    for (service, vms, expected) in [
        (1, 2, ["start ip on n1", "start log on n1", "start v on n2"]),
        (2, 1, ["start v on n2", "start ip on n1", "start log on n1"]),
        (1, 0, ["start ip on n1", "start log on n1", "start v on n2"]),
        (0, 1, ["start v on n2", "start ip on n1", "start log on n1"]),
    ] {
        let policy = ServicePolicy { start_priority: service, ..ServicePolicy::default() };
        let mut story = Story::with(ServiceSpec { policy, ..scripts() });
        story.edits_vm(|policy| policy.start_priority = vms).unwrap();
        story.asks(ServiceAsk::Enable { on: Some(node("n1")) });
        story.does(Operation::Enable { vm: vm(), on: Some(node("n2")) });
        story.settle();
        assert_eq!(story.log(), expected, "{service}, {vms}");
    }
    // One that cannot start holds up nobody.
    let policy = ServicePolicy {
        start_priority: 1,
        depend: on_vm(DependMode::Hard),
        ..ServicePolicy::default()
    };
    let mut story = Story::with(ServiceSpec { policy, ..scripts() });
    story.asks(ServiceAsk::Enable { on: Some(node("n1")) });
    story.enables_vm();
    assert_eq!(story.log(), ["start v on n2", "start ip on n1", "start log on n1"]);
}

fn domain(nofailback: bool, failback: Failback) -> FailoverDomain {
    FailoverDomain {
        name: FailoverDomainName::new("both").unwrap(),
        nodes: [(node("n1"), 1), (node("n2"), 2)].into(),
        ordered: true,
        restricted: false,
        nofailback,
        failback,
    }
}

/// In the domain, up on n1; then that dies and returns.
fn away_from_its_better_node(domain: FailoverDomain, together: bool, of: ServiceSpec) -> Story {
    let policy = ServicePolicy {
        failover_domain: Some(domain.name.clone()),
        migrate_together: together,
        ..ServicePolicy::default()
    };
    let mut story = Story::new();
    story.does(Operation::PutFailoverDomain(domain));
    story.does(Operation::AddService(Box::new(ServiceSpec { policy, ..of })));
    story.settle();
    story.asks(ServiceAsk::Enable { on: Some(node("n1")) });
    story.settle();
    story.log();
    story.dies("n1");
    story.log();
    story.register("n1", "boot2");
    story.settle();
    story
}

#[test]
fn a_service_fails_back_by_stop_and_start_or_with_its_vms_running() {
    let stop_and_start = [
        "stop log on n2",
        "stop v on n2",
        "stop ip on n2",
        "start ip on n1",
        "start v on n1",
        "start log on n1",
    ];
    let together =
        ["stop log on n2", "stop ip on n2", "migrate v to n1", "start ip on n1", "start log on n1"];
    for (nofailback, migrate, expected) in [
        (false, false, &stop_and_start[..]),
        (false, true, &together[..]),
        (true, false, &[]),
        (true, true, &[]),
    ] {
        let domain = domain(nofailback, Failback::default());
        let mut story = away_from_its_better_node(domain, migrate, spec());
        assert_eq!(story.log(), expected, "nofailback {nofailback}, together {migrate}");
        let place = if expected.is_empty() { "n2" } else { "n1" };
        assert_eq!(story.record().owner, Some(story.id(place)));
        assert_eq!(story.record().state, ServiceState::Started);
        // And there it stays.
        assert!(matches!(story.reason(), Reason::AsWanted), "{}", story.reason());
    }
}

#[test]
fn a_service_goes_back_within_the_limits_of_its_domain() {
    let failback = Failback { delay_ms: 600_000, ..Failback::default() };
    let mut story = away_from_its_better_node(domain(false, failback), false, scripts());
    assert!(story.log().is_empty());
    assert!(matches!(story.reason(), Reason::FailbackWaits { .. }), "{}", story.reason());
    story.now += 600_000;
    story.settle();
    assert_eq!(story.record().owner, Some(story.id("n1")));
    // One an hour: a second loss within it waits for its turn.
    let failback = Failback { per_hour: 1, ..Failback::default() };
    let mut story = away_from_its_better_node(domain(false, failback), false, scripts());
    assert_eq!(story.record().owner, Some(story.id("n1")));
    story.log();
    story.dies("n1");
    story.register("n1", "boot3");
    story.settle();
    assert_eq!(story.record().owner, Some(story.id("n2")));
    assert!(matches!(story.reason(), Reason::FailbackWaits { .. }), "{}", story.reason());
    story.now += 3_600_000;
    story.settle();
    assert_eq!(story.record().owner, Some(story.id("n1")));
    // Only in its window, which is shut now.
    let minute = u16::try_from(1_000_000_u64 / 60_000 + 60).unwrap();
    let window = Some(Window { from: minute, to: minute + 60 });
    let failback = Failback { window, ..Failback::default() };
    let mut story = away_from_its_better_node(domain(false, failback), false, scripts());
    assert_eq!(story.record().owner, Some(story.id("n2")));
    story.now += 3_600_000;
    story.settle();
    assert_eq!(story.record().owner, Some(story.id("n1")));
}

#[test]
fn a_service_that_was_put_somewhere_by_hand_stays_until_a_better_node_returns() {
    for together in [false, true] {
        let mut story =
            away_from_its_better_node(domain(false, Failback::default()), together, spec());
        story.asks(match together {
            true => ServiceAsk::Migrate { to: node("n2"), mode: None },
            false => ServiceAsk::Relocate { to: Some(node("n2")) },
        });
        story.settle();
        assert_eq!(story.record().owner, Some(story.id("n2")));
        let reason = story.reason();
        assert!(reason.to_string().contains("put where it is by hand"), "{reason}");
        story.log();
        story.dies("n1");
        story.register("n1", "boot3");
        story.settle();
        assert_eq!(story.record().owner, Some(story.id("n1")));
    }
}

#[test]
fn a_service_whose_vms_cannot_migrate_is_stopped_for_its_failback_only_where_its_domain_says_so() {
    for relocate in [false, true] {
        let failback = Failback { relocate, delay_ms: 600_000, ..Failback::default() };
        let mut story = away_from_its_better_node(domain(false, failback), true, spec());
        story.edits_vm(|policy| policy.migratable = Migratable::No).unwrap();
        story.now += 600_000;
        story.settle();
        let place = if relocate { "n1" } else { "n2" };
        assert_eq!(story.record().owner, Some(story.id(place)), "{}", story.reason());
        if !relocate {
            assert!(story.reason().to_string().contains("VM v:"), "{}", story.reason());
        }
    }
}

#[test]
fn a_failback_that_failed_is_not_tried_again_at_once() {
    let failback = Failback { delay_ms: 600_000, ..Failback::default() };
    for (together, broken) in [(false, "start ip on n1"), (true, "migrate v on n2")] {
        let mut story =
            away_from_its_better_node(domain(false, failback.clone()), together, spec());
        story.broken.insert(broken.into());
        story.now += 600_000;
        story.settle();
        assert_eq!(story.record().owner, Some(story.id("n2")), "{}", story.reason());
        assert_eq!(story.record().state, ServiceState::Started);
        let reason = story.reason();
        assert!(matches!(reason, Reason::FailbackWaits { .. }), "{reason}");
        story.broken.clear();
        story.now += 600_000;
        story.settle();
        assert_eq!(story.record().owner, Some(story.id("n1")), "{}", story.reason());
    }
}

fn alone(exclusive: u32, of: ServiceSpec) -> ServiceSpec {
    ServiceSpec { policy: ServicePolicy { exclusive, ..of.policy.clone() }, ..of }
}

#[test]
fn an_exclusive_service_goes_where_nobody_is_and_nobody_goes_where_it_is() {
    let mut story = Story::with(alone(1, scripts()));
    story.enables_vm();
    story.asks(ServiceAsk::Enable { on: None });
    story.settle();
    assert_eq!(story.log(), ["start v on n2", "start ip on n1", "start log on n1"]);
    // Not even an operator brings a VM there, or the service to the VM.
    let to = Some(node("n1"));
    story.does(Operation::Relocate { vm: vm(), to });
    story.asks(ServiceAsk::Relocate { to: Some(node("n2")) });
    story.settle();
    assert!(story.log().is_empty());
    let phase = &story.record().operation.as_ref().unwrap().phase;
    assert!(
        matches!(phase, OperationPhase::Failed(why) if why.contains("it is exclusive, and other")),
        "{phase:?}"
    );
    // A VM that is down finds no place where the service is.
    story.disables_vm();
    story.log();
    story.dies("n2");
    story.does(Operation::Enable { vm: vm(), on: None });
    story.settle();
    let planned = plan(&story.state, &Liveness::default(), Timestamp(story.now));
    let reason = planned.vms[&vm()].to_string();
    assert!(reason.contains("service:web is exclusive and has it for itself"), "{reason}");
}

#[test]
fn the_vms_of_an_exclusive_service_are_one_tenant_with_it() {
    let mut story = Story::with(alone(1, spec()));
    story.asks(ServiceAsk::Enable { on: Some(node("n1")) });
    story.settle();
    assert_eq!(story.log(), ["start ip on n1", "start v on n1", "start log on n1"]);
    // A VM of it that wants to be alone makes all of it so, and does not stand in its way.
    let mut story = Story::with(spec());
    story.edits_vm(|policy| policy.exclusive = 2).unwrap();
    story.asks(ServiceAsk::Enable { on: Some(node("n1")) });
    story.settle();
    assert_eq!(story.log(), ["start ip on n1", "start v on n1", "start log on n1"]);
}

#[test]
fn a_lower_number_takes_the_node_of_a_higher_one_among_vms_and_services() {
    for (service, vms, expected) in [
        // The service takes the node of the VM, which finds no other.
        (1, 2, &["stop v on n2", "start ip on n2", "start log on n2"][..]),
        (2, 1, &[]),
        (1, 1, &[]),
        // A VM that is not exclusive gives way to nobody.
        (1, 0, &[]),
    ] {
        let mut story = Story::with(alone(service, scripts()));
        story.edits_vm(|policy| policy.exclusive = vms).unwrap();
        story.enables_vm();
        story.log();
        story.dies("n1");
        story.log();
        story.asks(ServiceAsk::Enable { on: None });
        story.settle();
        assert_eq!(story.log(), expected, "{service}, {vms}: {}", story.reason());
    }
    for (service, vms, expected) in [
        (2, 1, &["stop log on n1", "stop ip on n1", "start v on n1"][..]),
        (1, 2, &[]),
        (0, 1, &[]),
    ] {
        let mut story = Story::started(alone(service, scripts()));
        story.edits_vm(|policy| policy.exclusive = vms).unwrap();
        story.dies("n2");
        story.does(Operation::Enable { vm: vm(), on: None });
        story.settle();
        assert_eq!(story.log(), expected, "{service}, {vms}: {}", story.reason());
    }
}

#[test]
fn a_service_that_shares_its_node_leaves_it_only_with_its_vms_running() {
    for (together, expected) in [
        (
            true,
            &[
                "stop log on n1",
                "stop ip on n1",
                "migrate v to n2",
                "start ip on n2",
                "start log on n2",
            ][..],
        ),
        (false, &[]),
    ] {
        let policy = ServicePolicy { migrate_together: together, ..ServicePolicy::default() };
        let mut story = Story::started(ServiceSpec { policy, ..spec() });
        let other = story.another_vm_on("n1");
        let mut spec = story.record().spec.clone();
        spec.policy.exclusive = 1;
        story.does(Operation::EditService(Box::new(spec)));
        story.settle();
        assert_eq!(story.log(), expected, "{}", story.reason());
        assert_eq!(story.state.vms[&other].state, VmState::Started);
    }
}
