//! Section 2: who starts a VM, who takes it back, and what holds that up.

use model::failover_domain::{Failback, Window};
use model::id::FailoverDomainName;
use model::plan::Reason;
use model::vm::{Migratable, VmPolicy, VmState};

use crate::story::{Flags, Story, node, vm};

const PLAIN: Flags = Flags { ordered: false, restricted: false, nofailback: false };
const ORDERED: Flags = Flags { ordered: true, ..PLAIN };
const RESTRICTED: Flags = Flags { restricted: true, ..PLAIN };
const NOFAILBACK: Flags = Flags { ordered: true, nofailback: true, ..PLAIN };

fn in_domain() -> VmPolicy {
    VmPolicy { failover_domain: Some(FailoverDomainName::new("d").unwrap()), ..VmPolicy::default() }
}

/// Nodes that are there, the domain, where it starts, what dies and comes back, and where it is in the end.
#[test]
fn the_domain_says_where_it_starts_and_where_it_goes_back() {
    for (row, nodes, members, flags, starts, comes, ends) in [
        ("no member online, unrestricted: any node", "x y", "a:1", ORDERED, "x", "", "x"),
        ("a member is preferred to others", "x b", "a:1 b:2", PLAIN, "b", "", "b"),
        ("ordered: the lowest number", "a b", "a:2 b:1", ORDERED, "b", "", "b"),
        ("not ordered: numbers do not count", "a b", "a:2 b:1", PLAIN, "a", "", "a"),
        ("priorities 1 to 100", "a b", "a:100 b:99", ORDERED, "b", "", "b"),
        ("ordered: it goes back to the lowest number", "b", "a:1 b:2", ORDERED, "b", "a", "a"),
        ("nofailback: it stays", "b", "a:1 b:2", NOFAILBACK, "b", "a", "b"),
        ("ties: it does not move between equals", "b", "a:1 b:1", ORDERED, "b", "a", "b"),
        ("not ordered: it does not move between members", "b", "a:1 b:2", PLAIN, "b", "a", "b"),
        ("outside its domain it moves in when a member appears", "x", "a:1", PLAIN, "x", "a", "a"),
        ("that also with nofailback, as the man page says", "x", "a:1", NOFAILBACK, "x", "a", "a"),
        ("a node outside draws nothing", "b", "a:1 b:2", ORDERED, "b", "x", "b"),
        (
            "restricted: it goes back too",
            "b",
            "a:1 b:2",
            Flags { restricted: true, ..ORDERED },
            "b",
            "a",
            "a",
        ),
    ] {
        let mut story = Story::with_nodes(&[]);
        for name in ["a", "b", "x", "y"] {
            story.registers(name);
        }
        for name in ["a", "b", "x", "y"] {
            if !nodes.split(' ').any(|it| it == name) {
                story.dies(name);
            }
        }
        story.domain("d", members, flags);
        story.adds("v", in_domain());
        story.enables("v");
        story.settles();
        assert_eq!(story.place("v"), format!("started on {starts}"), "{row}: start");
        if !comes.is_empty() {
            story.returns(comes);
        }
        story.settles();
        assert_eq!(story.place("v"), format!("started on {ends}"), "{row}: end");
    }
}

#[test]
fn restricted_with_no_member_online_stays_stopped_and_says_why() {
    let mut story = Story::with_nodes(&["a", "x"]);
    story.domain("d", "a", RESTRICTED);
    story.running("v", "a", in_domain());
    story.dies("a");
    story.settles();
    assert!(story.record("v").owner.is_none());
    let reason = story.reason("v");
    assert!(matches!(reason, Reason::NoPlace(_)) && reason.is_stuck());
    assert!(reason.to_string().contains("not in the restricted failover domain"), "{reason}");
    story.returns("a");
    story.settles();
    assert_eq!(story.place("v"), "started on a");
}

#[test]
fn restricted_forbids_the_operator_too() {
    let mut story = Story::with_nodes(&["a", "x"]);
    story.domain("d", "a", RESTRICTED);
    story.running("v", "a", in_domain());
    for operation in [
        model::Operation::Migrate { vm: vm("v"), to: node("x"), mode: None },
        model::Operation::Relocate { vm: vm("v"), to: Some(node("x")) },
        model::Operation::Enable { vm: vm("v"), on: Some(node("x")) },
    ] {
        let refused = story.refused(operation);
        assert!(refused.contains("restricted failover domain d"), "{refused}");
    }
}

#[test]
fn an_unknown_domain_is_refused_when_it_is_named() {
    let mut story = Story::with_nodes(&["a"]);
    let spec = story.spec("v", in_domain());
    let refused = story.refused(model::Operation::AddVm(Box::new(spec)));
    assert!(refused.contains("no failover domain is named d"), "{refused}");
}

/// The row "no domain" of the decision table: every node is the best, so it may start anywhere, and no node draws it back.
#[test]
fn without_a_failover_domain_every_node_is_the_best() {
    for (row, nodes, starts, comes) in [
        ("the first of equals", "a b x", "a", ""),
        ("any other alone", "x", "x", ""),
        ("what comes back draws nothing", "b", "b", "a"),
        ("nor does one that was never its", "x", "x", "b"),
    ] {
        let mut story = Story::with_nodes(&[]);
        for name in ["a", "b", "x"] {
            story.registers(name);
        }
        for name in ["a", "b", "x"] {
            if !nodes.split(' ').any(|it| it == name) {
                story.dies(name);
            }
        }
        // A domain that is none of its own counts for nothing.
        story.domain("d", "b:1 a:2", ORDERED);
        story.adds("v", VmPolicy::default());
        story.enables("v");
        story.settles();
        assert_eq!(story.place("v"), format!("started on {starts}"), "{row}: start");
        if !comes.is_empty() {
            story.returns(comes);
            assert!(story.settles().is_empty(), "{row}");
            assert_eq!(story.place("v"), format!("started on {starts}"), "{row}: end");
        }
    }
    // An operator may send it to any.
    let mut story = Story::with_nodes(&["a", "b"]);
    story.running("v", "a", VmPolicy::default());
    story.migrates("v", "b");
    story.settles();
    assert_eq!(story.place("v"), "started on b");
}

#[test]
fn failback_is_by_migration_and_stops_nothing() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.domain("d", "a:1 b:2", ORDERED);
    story.running("v", "a", in_domain());
    story.dies("a");
    story.settles();
    assert_eq!(story.place("v"), "started on b");
    story.returns("a");
    assert_eq!(story.settles(), ["v: move to a", "v: adopt on a"]);
    assert_eq!(story.place("v"), "started on a");
}

#[test]
fn what_an_operator_put_on_a_worse_node_stays_until_a_better_one_returns() {
    let mut story = Story::with_nodes(&["a", "b", "c"]);
    story.domain("d", "a:1 b:2 c:3", ORDERED);
    story.running("v", "a", in_domain());
    story.migrates("v", "c");
    story.settles();
    assert_eq!(story.place("v"), "started on c");
    assert!(story.settles().is_empty());
    let reason = story.reason("v");
    assert!(matches!(&reason, Reason::FailbackWaits { to, .. } if to == "a"), "{reason}");
    // An agent that is upgraded is no return of its node.
    story.registers("a");
    assert!(story.settles().is_empty());
    story.dies("b");
    story.returns("b");
    story.settles();
    assert_eq!(story.place("v"), "started on c", "the best of the better ones did not return");
    story.dies("a");
    story.returns("a");
    story.settles();
    assert_eq!(story.place("v"), "started on a");
}

#[test]
fn what_somebody_moved_with_virsh_stays_until_a_better_node_returns() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.domain("d", "a:1 b:2", ORDERED);
    story.running("v", "a", in_domain());
    story.is_moved_by_hand("v", "a", "b");
    story.settles();
    assert_eq!(story.place("v"), "started on b");
    story.dies("a");
    story.returns("a");
    story.settles();
    assert_eq!(story.place("v"), "started on a");
}

#[test]
fn failback_waits_for_its_delay_its_window_and_its_turn() {
    let failback = |change: fn(&mut Failback)| {
        let mut failback = Failback::default();
        change(&mut failback);
        failback
    };
    // The story begins at midnight. What is set, how many move at once, after ten minutes, and after a day.
    for (what, limits, at_once, soon, late) in [
        ("nothing", failback(|_| {}), 3, 3, 3),
        ("a delay of five minutes", failback(|it| it.delay_ms = 300_000), 0, 3, 3),
        ("one an hour", failback(|it| it.per_hour = 1), 1, 1, 3),
        ("one at once", failback(|it| it.at_once = 1), 3, 3, 3),
        (
            "two in the morning",
            failback(|it| it.window = Some(Window { from: 120, to: 180 })),
            0,
            0,
            3,
        ),
    ] {
        let mut story = Story::with_nodes(&["a", "b"]);
        story.domain_with("d", "a:1 b:2", ORDERED, limits);
        for name in ["u", "v", "w"] {
            story.running(name, "a", in_domain());
        }
        story.dies("a");
        story.settles();
        story.returns("a");
        let back = |story: &Story| {
            ["u", "v", "w"].iter().filter(|name| story.place(name) == "started on a").count()
        };
        story.settles();
        assert_eq!(back(&story), at_once, "{what}: now");
        if at_once < 3 {
            let waiting = ["u", "v", "w"].iter().find(|name| story.place(name) != "started on a");
            let reason = story.reason(waiting.unwrap());
            assert!(matches!(reason, Reason::FailbackWaits { .. }), "{what}: {reason}");
        }
        story.pass(600);
        assert_eq!(back(&story), soon, "{what}: after ten minutes");
        story.pass(86_400);
        assert_eq!(back(&story), late, "{what}: after a day");
    }
}

#[test]
fn one_at_once_is_one_on_its_way() {
    let mut story = Story::with_nodes(&["a", "b"]);
    let limits = Failback { at_once: 1, ..Failback::default() };
    story.domain_with("d", "a:1 b:2", ORDERED, limits);
    for name in ["u", "v", "w"] {
        story.running(name, "a", in_domain());
    }
    story.dies("a");
    story.settles();
    story.returns("a");
    story.hung.insert("b".into());
    assert_eq!(story.settles(), ["u: move to a"]);
    assert!(
        story
            .reason("v")
            .to_string()
            .contains("1 VMs and services of failover domain d are on their way")
    );
}

#[test]
fn a_vm_that_cannot_migrate_goes_back_cold_only_where_the_domain_says_so() {
    for (relocate, decided) in
        [(false, vec![]), (true, vec!["v: move cold from b", "v: start on a"])]
    {
        let mut story = Story::with_nodes(&["a", "b"]);
        story.domain_with("d", "a:1 b:2", ORDERED, Failback { relocate, ..Failback::default() });
        story.running("v", "a", VmPolicy { migratable: Migratable::No, ..in_domain() });
        story.dies("a");
        story.settles();
        story.returns("a");
        assert_eq!(story.settles(), decided);
        if !relocate {
            assert!(story.reason("v").to_string().contains("cannot be migrated"));
        }
    }
}

#[test]
fn a_failback_that_failed_is_not_tried_without_end() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.domain("d", "a:1 b:2", ORDERED);
    story.running("v", "a", in_domain());
    story.dies("a");
    story.settles();
    story.bad_migrations.insert("v".into());
    story.returns("a");
    assert_eq!(story.settles(), ["v: move to a"]);
    assert_eq!(story.place("v"), "started on b");
    assert!(story.pass(300).is_empty());
    story.bad_migrations.clear();
    story.pass(600);
    assert_eq!(story.place("v"), "started on a");
}

#[test]
fn a_frozen_vm_goes_nowhere() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.domain("d", "a:1 b:2", ORDERED);
    story.running("v", "a", in_domain());
    story.dies("a");
    story.settles();
    story.does(model::Operation::Freeze { vm: vm("v"), why: "a backup".into(), for_ms: None });
    story.returns("a");
    story.settles();
    assert_eq!(story.place("v"), "started on b");
    story.does(model::Operation::Unfreeze(vm("v")));
    story.settles();
    assert_eq!(
        (story.state_of("v"), story.place("v").as_str()),
        (VmState::Started, "started on a")
    );
}
