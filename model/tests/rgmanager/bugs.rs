//! Section 7.2, number by number, and each complaint of 7.1 that concerns VMs: none of them is Berth's.

use model::Operation;
use model::command::{Decision, Report};
use model::event::EventKind;
use model::handling::Route;
use model::id::{FailoverDomainName, NodeName};
use model::node::SeenDomain;
use model::order::{Order, OrderKind, outstanding};
use model::plan::Reason;
use model::recovery::RestartLimit;
use model::vm::{Desired, Migratable, Presence, StopCause, VmPolicy, VmState};

use crate::story::{Flags, Story, node, vm};

fn freeze() -> Operation {
    Operation::Freeze { vm: vm("v"), why: "x".into(), for_ms: None }
}

#[test]
fn bug_1_one_unreachable_peer_is_not_nobody_has_it() {
    let mut story = Story::with_nodes(&["a", "b", "c"]);
    story.guests.insert(("v".into(), "c".into()));
    story.falls_silent("c");
    story.adds("v", VmPolicy::default());
    story.enables("v");
    story.pass(3_600);
    assert!(matches!(story.reason("v"), Reason::MayRunOn { .. }), "{}", story.reason("v"));
    // When it can be asked again, it is tracked there.
    story.registers("c");
    story.settles();
    assert_eq!(story.place("v"), "started on c");
}

#[test]
fn bug_2_no_reply_in_time_is_not_absent() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.hung.insert("b".into());
    story.adds("v", VmPolicy::default());
    story.enables("v");
    story.pass(3_600);
    assert_eq!(story.state_of("v"), VmState::Stopped);
    story.hung.clear();
    story.settles();
    assert_eq!(story.state_of("v"), VmState::Started);
}

#[test]
fn bug_3_a_freeze_made_during_a_migration_is_kept() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("v", "a", VmPolicy::default());
    story.migrates("v", "b");
    story.leads();
    story.does(freeze());
    story.settles();
    assert_eq!(story.place("v"), "started on b");
    assert!(story.record("v").frozen.is_some());
    story.crashes("v");
    assert!(story.settles().is_empty());
}

#[test]
fn bug_4_a_migration_is_a_state_with_its_time_and_its_events() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("v", "a", VmPolicy::default());
    let before = story.record("v").state_since;
    story.migrates("v", "b");
    story.leads();
    assert_eq!(story.state_of("v"), VmState::Migrating);
    assert!(story.record("v").state_since > before);
    story.settles();
    let kinds: Vec<_> = story.state.events.iter().map(|event| event.kind).collect();
    for kind in [EventKind::VmMigrating, EventKind::VmMigrated] {
        assert!(kinds.contains(&kind), "{kind:?}");
    }
}

#[test]
fn bug_5_a_failed_start_is_never_called_started() {
    let mut story = Story::with_nodes(&["a"]);
    story.adds("v", VmPolicy::default());
    story.bad_starts.insert(("v".into(), "a".into()));
    story.enables("v");
    story.settles();
    assert_eq!(story.state_of("v"), VmState::Recovering);
    assert!(!story.state.events.iter().any(|event| event.kind == EventKind::VmStarted));
}

#[test]
fn bug_6_disable_while_the_owner_is_offline_stays_disabled() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("v", "a", VmPolicy::default());
    story.falls_silent("a");
    story.disables("v");
    story.settles();
    assert_eq!(story.record("v").desired, Desired::Disabled);
    story.guests.clear();
    story.returns("a");
    story.settles();
    assert_eq!(story.place("v"), "disabled");
}

#[test]
fn bug_7_an_uncertain_stop_is_no_success() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("v", "a", VmPolicy::default());
    story.bad_stops.insert("v".into());
    story.does(Operation::Relocate { vm: vm("v"), to: Some(node("b")) });
    story.pass(3_600);
    assert_eq!(story.place("v"), "failed on a", "no second copy is started on b");
}

#[test]
fn bug_8_a_second_lock_keeps_the_cluster_locked() {
    let mut story = Story::with_nodes(&["a"]);
    story.running("v", "a", VmPolicy::default());
    story.does(Operation::Lock { why: "one".into() });
    story.does(Operation::Lock { why: "two".into() });
    story.crashes("v");
    assert!(story.settles().is_empty());
    assert!(story.reason("v").to_string().contains("two"), "{}", story.reason("v"));
    // Somebody else's is refused with the one that is there, and changes nothing: the end of theirs would be that of both.
    "other".clone_into(&mut story.operator);
    let refused = story.refused(Operation::Lock { why: "three".into() });
    assert!(refused.contains("two (test)"), "{refused}");
    let frozen = |why: &str, for_ms| Operation::Freeze { vm: vm("v"), why: why.into(), for_ms };
    story.does(frozen("a new disk", None));
    "test".clone_into(&mut story.operator);
    let refused = story.refused(frozen("a look", Some(1_000)));
    assert!(refused.contains("a new disk (other)"), "{refused}");
    story.does(Operation::Unlock);
    assert!(story.pass(60).is_empty(), "{}", story.reason("v"));
}

#[test]
fn bug_9_an_unknown_dependency_is_not_satisfied() {
    let mut story = Story::with_nodes(&["a"]);
    let on = model::dependency::Dependee::Vm(vm("nobody"));
    let mode = model::dependency::DependMode::Hard;
    let depend = vec![model::dependency::Dependency { on, mode }];
    story.adds("v", VmPolicy { depend, ..VmPolicy::default() });
    story.enables("v");
    story.settles();
    assert!(matches!(story.reason("v"), Reason::DependsOn { .. }), "{}", story.reason("v"));
}

#[test]
fn bug_10_no_kill_is_off_unless_it_is_set() {
    assert!(!VmPolicy::default().handling.no_kill);
}

#[test]
fn bug_11_a_guest_that_is_shutting_down_or_crashed_still_holds_its_disk() {
    for presence in [Presence::ShuttingDown, Presence::Crashed, Presence::Paused] {
        let mut story = Story::with_nodes(&["a", "b"]);
        story.running("v", "a", VmPolicy::default());
        let uuid = story.record("v").spec.uuid;
        let domain = SeenDomain::active("v", presence, 64);
        story.reports("a", vec![Report::Seen { uuid, domain }]);
        // Whatever is decided: nothing starts on b while it is there.
        let (b, changed) = (story.id("b"), story.record("v").changed);
        let decision = Decision::Start { node: b, why: "x".into(), restart: false };
        let refused = story.refused(Operation::Decide { vm: vm("v"), changed, decision });
        assert!(refused.contains("may be running on a"), "{presence:?}: {refused}");
    }
}

#[test]
fn bug_12_a_node_that_joins_asks_nothing_of_vms_that_are_well_owned() {
    let mut story = Story::with_nodes(&["a"]);
    story.running("v", "a", VmPolicy::default());
    let before = story.record("v").clone();
    story.registers("b");
    assert!(story.settles().is_empty());
    assert_eq!(*story.record("v"), before, "its record is not rewritten");
}

#[test]
fn bug_13_a_migration_while_the_sources_libvirtd_is_down_leaves_a_running_vm_started() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("v", "a", VmPolicy::default());
    story.bad_migrations.insert("v".into());
    story.migrates("v", "b");
    story.settles();
    assert_eq!(story.place("v"), "started on a");
}

#[test]
fn complaint_libvirt_autostart_resumed_a_vm_on_a_second_host() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("v", "a", VmPolicy::default());
    story.appears("v", "b");
    story.pass(10);
    assert_eq!(story.state_of("v"), VmState::Conflict);
    assert!(story.state.events.iter().any(|event| event.kind == EventKind::VmConflict));
}

#[test]
fn complaint_stop_before_start_stopped_guests_when_the_daemon_came_up() {
    let mut story = Story::with_nodes(&["a"]);
    story.running("v", "a", VmPolicy::default());
    story.registers("a");
    assert!(story.settles().is_empty());
    assert!(story.runs_on("v", "a"));
}

#[test]
fn complaint_a_guest_slow_to_stop_was_destroyed_and_no_kill_left_it_failed() {
    let mut story = Story::with_nodes(&["a"]);
    let mut policy = VmPolicy::default();
    policy.handling.no_kill = true;
    story.running("v", "a", policy);
    story.bad_stops.insert("v".into());
    story.disables("v");
    story.leads();
    let orders: Vec<_> = outstanding(&story.state).into_values().flatten().collect();
    let asks = |order: &Order| matches!(order.kind, OrderKind::Stop { ask_only: true, .. });
    assert!(orders.len() == 1 && asks(&orders[0]), "{orders:?}");
    story.settles();
    assert_eq!(story.place("v"), "failed on a");
    // Its updates are installed: it goes, and nobody has to say that it has.
    story.now += 3_600_000;
    story.ends("v", StopCause::GuestShutdown);
    story.settles();
    assert_eq!(story.place("v"), "disabled");
}

#[test]
fn complaint_migration_traffic_went_over_the_wrong_network() {
    let mut story = Story::with_nodes(&["a", "b", "c"]);
    let mut policy = VmPolicy::default();
    policy.handling.migration.routes.insert(node("b"), "b-migration".into());
    story.running("v", "a", policy);
    for (to, data) in [("b", Some("tcp://b-migration")), ("c", None)] {
        story.migrates("v", to);
        story.leads();
        let orders: Vec<_> = outstanding(&story.state).into_values().flatten().collect();
        let route = orders.iter().find_map(|order| match &order.kind {
            OrderKind::Migrate { route, .. } => Some(route.clone()),
            _ => None,
        });
        let target = &story.state.nodes[&story.id(to)];
        let expected =
            Route { connection: target.migration_uri.clone(), data: data.map(str::to_owned) };
        assert_eq!(route, Some(expected), "to {to}");
        story.settles();
        assert_eq!(story.place("v"), format!("started on {to}"));
    }
}

#[test]
fn complaint_failed_hides_where_the_vm_runs() {
    let mut story = Story::with_nodes(&["a"]);
    story.running("v", "a", VmPolicy::default());
    story.bad_stops.insert("v".into());
    story.disables("v");
    story.settles();
    let record = story.record("v");
    assert_eq!(record.owner, Some(story.id("a")));
    assert!(record.seen.contains_key(&story.id("a")));
}

#[test]
fn complaint_failed_needs_disable_and_then_enable() {
    let mut story = Story::with_nodes(&["a"]);
    story.running("v", "a", VmPolicy::default());
    story.bad_stops.insert("v".into());
    story.does(Operation::Restart(vm("v")));
    story.settles();
    assert_eq!(story.state_of("v"), VmState::Failed);
    story.enables("v");
    story.settles();
    assert_eq!(story.place("v"), "started on a");
}

#[test]
fn complaint_restart_of_a_vm_after_a_migration_or_an_edit() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("v", "a", VmPolicy::default());
    story.migrates("v", "b");
    story.settles();
    story
        .edits("v", |policy| policy.restart_limit = RestartLimit { max_restarts: 1, expire_ms: 0 });
    assert!(story.settles().is_empty());
    assert_eq!((story.place("v").as_str(), story.record("v").restart_count), ("started on b", 0));
}

#[test]
fn complaint_a_failed_migration_marked_a_healthy_vm_failed() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("v", "a", VmPolicy::default());
    story.bad_migrations.insert("v".into());
    story.migrates("v", "b");
    assert_eq!(story.settles(), ["v: migrate to b"]);
    assert_eq!(story.place("v"), "started on a");
}

#[test]
fn complaint_migrations_to_an_offline_node_of_a_frozen_vm_and_out_of_a_restricted_domain() {
    let to = |name: &str| Operation::Migrate { vm: vm("v"), to: node(name), mode: None };
    let mut story = Story::with_nodes(&["a", "b", "c"]);
    story.domain("d", "a b", Flags { restricted: true, ..Flags::default() });
    let failover_domain = Some(FailoverDomainName::new("d").unwrap());
    story.running("v", "a", VmPolicy { failover_domain, ..VmPolicy::default() });
    story.dies("b");
    for (name, why) in [("b", "the node is dead"), ("c", "restricted failover domain d")] {
        let refused = story.refused(to(name));
        assert!(refused.contains(why), "{refused}");
    }
    let unknown = Operation::Migrate { vm: vm("v"), to: NodeName::new("z").unwrap(), mode: None };
    assert!(story.refused(unknown).contains("no node is named z"));
    story.returns("b");
    story.does(freeze());
    assert!(story.refused(to("b")).contains("is frozen"));
}

#[test]
fn complaint_max_restarts_counted_wrongly_and_stuck_in_recovering_after_a_relocation() {
    let mut story = Story::with_nodes(&["a", "b"]);
    let restart_limit = RestartLimit { max_restarts: 2, expire_ms: 3_600_000 };
    story.running("v", "a", VmPolicy { restart_limit, ..VmPolicy::default() });
    for place in ["a", "a", "b", "b", "b", "a"] {
        story.pass(120);
        story.crashes("v");
        story.settles();
        assert_eq!(story.place("v"), format!("started on {place}"));
    }
}

#[test]
fn complaint_a_dependent_was_stuck_in_recovering() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("db", "a", VmPolicy::default());
    let on = model::dependency::Dependee::Vm(vm("db"));
    let mode = model::dependency::DependMode::Hard;
    let depend = vec![model::dependency::Dependency { on, mode }];
    story.running("v", "a", VmPolicy { depend, ..VmPolicy::default() });
    story.dies("a");
    story.settles();
    assert_eq!(
        (story.place("db"), story.place("v")),
        ("started on b".into(), "started on b".into())
    );
}

#[test]
fn complaint_a_reconfiguration_while_something_was_under_way_deadlocked() {
    let mut story = Story::with_nodes(&["a", "b"]);
    for name in ["u", "v", "w"] {
        story.running(name, "a", VmPolicy::default());
    }
    // A copy, a stop and a start under way, none of which ends yet.
    story.migrates("v", "b");
    story.disables("u");
    story.does(Operation::Restart(vm("w")));
    story.leads();
    assert_eq!(story.state_of("v"), VmState::Migrating);
    // All of the configuration is changed meanwhile, that of these VMs too, and nothing waits for them.
    story.domain("d", "b a", Flags { ordered: true, nofailback: true, ..Flags::default() });
    let failover_domain = Some(FailoverDomainName::new("d").unwrap());
    for name in ["u", "v", "w"] {
        story.edits(name, |policy| policy.failover_domain.clone_from(&failover_domain));
    }
    story.adds("x", VmPolicy::default());
    story.enables("x");
    story.settles();
    let places = ["u", "v", "w", "x"].map(|name| story.place(name));
    assert_eq!(places[..3], ["disabled", "started on b", "started on a"]);
    assert_eq!(story.state_of("x"), VmState::Started);
    for name in ["u", "v", "w"] {
        assert_eq!(story.record(name).spec.policy.failover_domain, failover_domain);
    }
}

#[test]
fn complaint_relocations_at_the_same_time_crashed_it() {
    let mut story = Story::with_nodes(&["a", "b"]);
    let names = ["u", "v", "w", "x"];
    for name in names {
        story.running(name, "a", VmPolicy::default());
    }
    for name in names {
        story.does(Operation::Relocate { vm: vm(name), to: None });
    }
    story.settles();
    for name in names {
        assert_eq!(story.place(name), "started on b");
    }
}

#[test]
fn complaint_a_guest_that_reboots_or_a_single_sample_is_no_failure() {
    let mut story = Story::with_nodes(&["a"]);
    story.running("v", "a", VmPolicy::default());
    let uuid = story.record("v").spec.uuid;
    for presence in [Presence::ShuttingDown, Presence::Running] {
        let domain = SeenDomain::active("v", presence, 64);
        story.reports("a", vec![Report::Seen { uuid, domain }]);
        assert!(story.settles().is_empty(), "{presence:?}");
    }
}

#[test]
fn complaint_a_vm_that_left_the_cluster_by_migration_was_started_a_second_time() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("v", "a", VmPolicy::default());
    story.ends("v", StopCause::MigratedAway);
    assert!(story.pass(3_600).is_empty());
    assert_eq!(story.state_of("v"), VmState::Lost);
}

#[test]
fn complaint_editing_a_running_vm_left_it_disabled_and_unmonitored() {
    let mut story = Story::with_nodes(&["a"]);
    story.running("v", "a", VmPolicy { autostart: false, ..VmPolicy::default() });
    story.edits("v", |policy| policy.migratable = Migratable::No);
    story.settles();
    assert_eq!(story.place("v"), "started on a");
    story.crashes("v");
    story.settles();
    assert_eq!(story.place("v"), "started on a");
}

#[test]
fn complaint_rgmanager_alone_dies_and_peers_start_its_vms() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("v", "a", VmPolicy::default());
    // Its agent is silent; the guest runs on, and nothing proves otherwise.
    story.falls_silent("a");
    story.pass(3_600);
    assert!(!story.runs_on("v", "b"));
    assert!(matches!(story.reason("v"), Reason::OwnerSilent { .. }), "{}", story.reason("v"));
}
