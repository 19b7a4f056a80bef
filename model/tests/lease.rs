//! What a proof by lease proves, and what it does not.
#![expect(clippy::unwrap_used, reason = "a story that cannot be told is a test that failed")]

mod story;

use std::collections::BTreeMap;

use model::command::{Operation, Report};
use model::id::OrderId;
use model::node::{AfterFence, FenceDevice, NodeState, ProofOfDeath, SeenDomain};
use model::plan::fencing::power_on_is_due;
use model::settings::Settings;
use model::time::Timestamp;
use model::vm::{MigrationPhase, OnIsolation, Presence, VmPolicy, VmState};

use story::{Story, node, vm};

/// Nodes with a watchdog and without fence devices: only a lease proves their deaths.
fn with_watchdogs(names: &[&str]) -> Story {
    let mut story = Story::with_nodes(&[]);
    (story.watchdog_ms, story.lock_manager) = (Some(5_000), Some("lockd".into()));
    names.iter().for_each(|name| story.registers(name));
    story
}

/// It is silent for longer than its lease and its watchdog last.
fn dies_by_lease(story: &mut Story, name: &str) -> Vec<String> {
    story.falls_silent(name);
    let decided = story.pass(0);
    let state = &story.state.nodes[&story.id(name)].state;
    assert!(matches!(state, NodeState::Dead(ProofOfDeath::Lease { .. })), "{state:?}");
    decided
}

fn may_run(story: &Story, on: &str) -> bool {
    story.record("v").may_run.contains_key(&story.id(on))
}

fn is_confirmed_off(story: &mut Story, name: &str) -> Vec<String> {
    story.guests.retain(|(_, place)| place != name);
    story.does(Operation::ConfirmOff { node: node(name), why: "its plug is out".into() });
    story.pass(0)
}

#[test]
fn what_was_started_there_is_recovered_by_lease_alone() {
    let mut story = with_watchdogs(&["a", "b", "c"]);
    story.running("v", "a", VmPolicy::default());
    // Its agent stops what the lease binds.
    story.guests.clear();
    let decided = dies_by_lease(&mut story, "a");
    assert!(decided.iter().any(|what| what.starts_with("v: start on")), "{decided:?}");
}

#[test]
fn what_was_adopted_there_is_recovered_by_lease_alone() {
    let mut story = with_watchdogs(&["a", "b", "c"]);
    story.adds("v", VmPolicy::default());
    story.appears("v", "a");
    story.enables("v");
    assert_eq!(story.settles(), ["v: adopt on a"]);
    // Its agent stops what the lease binds.
    story.guests.clear();
    let decided = dies_by_lease(&mut story, "a");
    assert!(decided.iter().any(|what| what.starts_with("v: start on")), "{decided:?}");
}

#[test]
fn the_source_of_a_migration_that_is_done_leaves_the_set_by_lease() {
    let mut story = with_watchdogs(&["a", "b", "c"]);
    story.running("v", "a", VmPolicy::default());
    story.migrates("v", "b");
    story.leads();
    let order = story.record("v").order.as_ref().unwrap().id;
    story.guests.clear();
    story.appears("v", "b");
    let uuid = story.record("v").spec.uuid;
    // It has left, and dies before it says that nothing of it is left there.
    story.reports("a", vec![Report::OrderDone { uuid, order, error: None }]);
    story.leads();
    assert_eq!((story.place("v").as_str(), may_run(&story, "a")), ("started on b", true));
    dies_by_lease(&mut story, "a");
    assert_eq!((story.place("v").as_str(), may_run(&story, "a")), ("started on b", false));
}

#[test]
fn a_stop_that_never_arrived_binds_nothing() {
    let mut story = with_watchdogs(&["a", "b", "c"]);
    story.adds("v", VmPolicy::default());
    story.appears("v", "a");
    story.settles();
    story.hung.insert("a".into());
    story.disables("v");
    assert_eq!(story.leads(), ["v: stop on a"]);
    // Nobody took it over there: it runs on, and its watchdog is fed.
    dies_by_lease(&mut story, "a");
    assert!(may_run(&story, "a"));
    story.enables("v");
    assert!(story.pass(60).is_empty(), "{}", story.reason("v"));
    let decided = is_confirmed_off(&mut story, "a");
    assert!(decided.iter().any(|what| what.starts_with("v: start on")), "{decided:?}");
}

#[test]
fn what_is_added_after_a_death_by_lease_may_run_there() {
    let mut story = with_watchdogs(&["a", "b", "c"]);
    dies_by_lease(&mut story, "a");
    story.adds("v", VmPolicy::default());
    story.enables("v");
    assert!(story.pass(60).is_empty(), "its host may live, and run it unmarked");
    let why = story.reason("v").to_string();
    assert!(why.contains("`berthctl node confirm-off a`"), "{why}");
    let decided = is_confirmed_off(&mut story, "a");
    assert!(decided.iter().any(|what| what.starts_with("v: start on")), "{decided:?}");
}

#[test]
fn forgetting_and_adding_does_not_make_a_guest_dead_that_outlives_its_lease() {
    let mut story = with_watchdogs(&["a", "b", "c"]);
    let policy = VmPolicy { on_isolation: OnIsolation::Continue, ..VmPolicy::default() };
    story.running("v", "a", policy.clone());
    dies_by_lease(&mut story, "a");
    assert!(may_run(&story, "a"));
    story.does(Operation::ForgetVm(vm("v")));
    story.adds("v", policy);
    story.enables("v");
    assert!(story.pass(60).is_empty() && may_run(&story, "a"), "{}", story.reason("v"));
}

#[test]
fn a_fence_that_ends_after_the_lease_proves_the_death_of_the_rest() {
    let mut story = with_watchdogs(&["a", "b", "c"]);
    story.adds("v", VmPolicy::default());
    story.hung.insert("a".into());
    story.enables("v");
    story.settles();
    story.falls_silent("a");
    let (node, session) = (story.id("a"), story.session("a"));
    story.does(Operation::FenceAsked { node, session });
    assert!(story.pass(0).is_empty() && may_run(&story, "a"), "the lease bound nothing there");
    let proof = ProofOfDeath::Fenced { device: "fence_test".into() };
    story.does(Operation::NodeDead { node, session, proof });
    let decided = story.pass(0);
    assert!(decided.iter().any(|what| what.starts_with("v: start on")), "{decided:?}");
}

#[test]
fn a_post_copy_that_fails_leaves_the_guest_at_a_target_that_it_outlives() {
    let mut story = with_watchdogs(&["a", "b", "c"]);
    let policy = VmPolicy { on_isolation: OnIsolation::Continue, ..VmPolicy::default() };
    story.running("v", "a", policy);
    story.migrates("v", "b");
    story.leads();
    let order: OrderId = story.record("v").order.as_ref().unwrap().id;
    let uuid = story.record("v").spec.uuid;
    let phase = MigrationPhase::PostCopy;
    story.reports("a", vec![Report::Migration { uuid, order, phase }]);
    story.hung.insert("a".into());
    dies_by_lease(&mut story, "b");
    let error = Some("the stream broke".to_owned());
    story.reports("a", vec![Report::OrderDone { uuid, order, error }]);
    assert!(may_run(&story, "b"), "it runs there, under its lock manager alone");
    assert_ne!(story.state_of("v"), VmState::Recovering);
}

/// A VM on its way from a to b when b falls silent: whatever is said of b is said of a time when it may still arrive there.
fn migrating_to_a_silent_target() -> Story {
    let mut story = with_watchdogs(&["a", "b", "c", "d", "e"]);
    story.running("v", "a", VmPolicy::default());
    story.migrates("v", "b");
    assert_eq!(story.leads(), ["v: migrate to b"]);
    story.falls_silent("b");
    story
}

fn state(story: &Story, on: &str) -> NodeState {
    story.state.nodes[&story.id(on)].state.clone()
}

fn says_off(story: &Story, on: &str) -> Operation {
    let (node, session) = (story.id(on), story.session(on));
    Operation::NodeDead { node, session, proof: ProofOfDeath::Fenced { device: "f".into() } }
}

#[test]
fn silence_from_before_the_sources_death_is_no_proof_of_a_dead_targets() {
    let mut story = migrating_to_a_silent_target();
    story.leads();
    assert!(matches!(state(&story, "b"), NodeState::Dead(ProofOfDeath::Lease { .. })));
    // b has booted, its agent has not registered, and the guest arrives there just before a dies.
    story.guests = [("v".to_owned(), "b".to_owned())].into();
    story.dies("a");
    assert_eq!(state(&story, "b"), NodeState::Lost);
    assert!(story.pass(600).is_empty(), "{}", story.reason("v"));
    assert_eq!((state(&story, "b"), may_run(&story, "b")), (NodeState::Lost, true));
    // Its word settles it.
    story.returns("b");
    story.settles();
    assert_eq!(story.place("v"), "started on b");
}

#[test]
fn silence_from_before_the_sources_death_is_no_proof_of_a_lost_targets() {
    let mut story = migrating_to_a_silent_target();
    story.guests = [("v".to_owned(), "b".to_owned())].into();
    let (node, session) = (story.id("b"), story.session("b"));
    story.dies("a");
    // Planned before a's death was committed.
    let proof = ProofOfDeath::Lease { silent_ms: 60_000 };
    let refused = story.refused(Operation::NodeDead { node, session, proof });
    assert!(refused.contains("node b"), "{refused}");
    assert!(story.pass(600).is_empty(), "{}", story.reason("v"));
    assert_eq!((state(&story, "b"), may_run(&story, "b")), (NodeState::Lost, true));
    // With the operator's word that it is off it starts elsewhere.
    let decided = is_confirmed_off(&mut story, "b");
    assert!(decided.iter().any(|what| what.starts_with("v: start on")), "{decided:?}");
}

#[test]
fn a_fence_from_before_the_sources_death_is_no_proof_and_is_asked_anew() {
    for failed in [false, true] {
        let mut story = migrating_to_a_silent_target();
        let (target, session) = (story.id("b"), story.session("b"));
        let device = FenceDevice {
            agent: "fence_test".into(),
            options: BTreeMap::new(),
            timeout_ms: 1_000,
            level: 0,
        };
        story.does(Operation::SetFenceDevices { node: node("b"), devices: vec![device] });
        story.does(Operation::FenceAsked { node: target, session });
        story.dies("a");
        // The one that is under way ends first, whatever it says: also the operator's own would be taken for it.
        assert!(story.leads().is_empty());
        assert_eq!(state(&story, "b"), NodeState::Lost);
        let by_hand = Operation::FenceNode { node: node("b"), why: "now".into() };
        assert!(story.refused(by_hand).contains("still under way"));
        let early = match failed {
            false => says_off(&story, "b"),
            true => Operation::FenceFailed { node: target, session, error: "dark".into() },
        };
        story.does(early);
        assert_eq!((state(&story, "b"), may_run(&story, "b")), (NodeState::Lost, true));
        // A second word of the same fence is nobody's any more.
        let twice = says_off(&story, "b");
        story.refused(twice);
        story.leads();
        assert_eq!(state(&story, "b"), NodeState::Fencing);
        story.guests.clear();
        let after = says_off(&story, "b");
        story.does(after);
        let decided = story.pass(0);
        assert!(decided.iter().any(|what| what.starts_with("v: start on")), "{decided:?}");
    }
}

/// The control plane is restored from a backup in which v is to be suspended without a lease.
fn restored() -> Story {
    let mut story = with_watchdogs(&["a", "b", "c"]);
    story.running("v", "a", VmPolicy::default());
    story.guests.clear();
    let backup = std::mem::take(&mut story.state);
    story.does(Operation::RestoreBegin {
        cluster: backup.cluster.unwrap(),
        epoch: backup.epoch,
        settings: backup.settings.clone(),
    });
    for record in backup.nodes.values() {
        story.does(Operation::RestoreNode(Box::new((**record).clone())));
    }
    story.does(Operation::RestoreVm(Box::new(backup.vms[&vm("v")].as_ref().clone())));
    story.does(Operation::RestoreEnd);
    ["a", "b", "c"].iter().for_each(|name| story.registers(name));
    story
}

/// And it runs on a, marked.
fn restored_and_running() -> Story {
    let mut story = restored();
    story.guests.insert(("v".into(), "a".into()));
    let generation = Some(story.record("v").generation.0);
    let domain = SeenDomain { generation, ..SeenDomain::active("v", Presence::Running, 64) };
    let uuid = story.record("v").spec.uuid;
    story.reports("a", vec![Report::Seen { uuid, domain }]);
    story
}

#[test]
fn what_a_guest_was_told_after_the_backup_was_made_is_not_known_before_it_is_told_anew() {
    // Since the backup it was told to run on without a lease, and so it does.
    let mut story = restored_and_running();
    story.hung.insert("a".into());
    assert_eq!(story.leads(), ["v: adopt on a"]);
    dies_by_lease(&mut story, "a");
    assert!(story.pass(600).is_empty() && may_run(&story, "a"), "{}", story.reason("v"));
    // Told anew, it is suspended.
    let mut story = restored_and_running();
    assert_eq!(story.pass(60), ["v: adopt on a"]);
    story.guests.clear();
    let decided = dies_by_lease(&mut story, "a");
    assert!(decided.iter().any(|what| what.starts_with("v: start on")), "{decided:?}");
}

#[test]
fn what_is_started_after_a_restore_goes_by_what_its_start_says() {
    let mut story = restored();
    // All say that it is not there; then its start is on its way for as long as the story lasts.
    story.settles();
    story.hung.extend(["a", "b", "c"].map(str::to_owned));
    story.now = story.state.quiet_until.0 + 1;
    let decided = story.leads();
    let place = decided[0].strip_prefix("v: start on ").unwrap().to_owned();
    dies_by_lease(&mut story, &place);
    assert!(
        !may_run(&story, &place),
        "the order for it says suspend, and nothing else of it was there"
    );
}

#[test]
fn what_is_resumed_after_a_restore_goes_by_what_its_resumption_says() {
    let mut story = restored();
    story.hung.insert("a".into());
    story.settles();
    story.now = story.state.quiet_until.0 + 1;
    let generation = Some(story.record("v").generation.0);
    let domain = SeenDomain { generation, ..SeenDomain::active("v", Presence::Suspended, 64) };
    let uuid = story.record("v").spec.uuid;
    story.reports("a", vec![Report::Seen { uuid, domain }]);
    assert_eq!(story.leads(), ["v: resume on a"]);
    let order = story.record("v").order.as_ref().unwrap().id;
    story.reports("a", vec![Report::OrderDone { uuid, order, error: None }]);
    dies_by_lease(&mut story, "a");
    assert!(!may_run(&story, "a"), "its resumption said suspend");
}

#[test]
fn what_is_forgotten_and_added_with_another_policy_is_not_dead_by_lease_before_its_node_was_told() {
    let mut story = with_watchdogs(&["a", "b", "c"]);
    let policy = VmPolicy { on_isolation: OnIsolation::Continue, ..VmPolicy::default() };
    story.running("v", "a", policy);
    let record = story.record("v");
    let (uuid, generation) = (record.spec.uuid, Some(record.generation.0));
    let marked = SeenDomain { generation, ..SeenDomain::active("v", Presence::Running, 16) };
    story.reports("a", vec![Report::Seen { uuid, domain: marked }]);
    story.does(Operation::ForgetVm(vm("v")));
    story.adds("v", VmPolicy::default());
    // Its agent lets it run on, as it was told, and feeds the watchdog.
    dies_by_lease(&mut story, "a");
    assert!(may_run(&story, "a"));
    story.enables("v");
    assert!(story.pass(60).is_empty(), "{}", story.reason("v"));
}

fn told(story: &mut Story, on_isolation: OnIsolation) {
    story.edits("v", |policy| policy.on_isolation = on_isolation);
}

#[test]
fn what_may_have_been_told_to_run_on_counts_as_told_until_its_node_says_otherwise() {
    let mut story = with_watchdogs(&["a", "b", "c"]);
    story.running("v", "a", VmPolicy::default());
    story.hung.insert("a".into());
    told(&mut story, OnIsolation::Continue);
    told(&mut story, OnIsolation::Suspend);
    dies_by_lease(&mut story, "a");
    assert!(may_run(&story, "a"), "its agent may have taken the first of the two");
}

#[test]
fn an_edit_while_an_order_is_out_reaches_the_node_after_it() {
    let mut story = with_watchdogs(&["a", "b", "c"]);
    story.running("v", "a", VmPolicy::default());
    story.hung.insert("a".into());
    told(&mut story, OnIsolation::Continue);
    told(&mut story, OnIsolation::Suspend);
    story.hung.clear();
    assert_eq!(story.settles(), ["v: tell a again"]);
    let record = story.record("v");
    assert_eq!((record.bound_isolation, record.must_be_told()), (OnIsolation::Suspend, false));
}

#[test]
fn a_node_that_could_not_take_a_vm_over_is_not_bound_and_is_asked_again() {
    let mut story = with_watchdogs(&["a", "b", "c"]);
    story.adds("v", VmPolicy::default());
    story.appears("v", "a");
    story.enables("v");
    story.hung.insert("a".into());
    assert_eq!(story.leads(), ["v: adopt on a"]);
    let (order, uuid) = (story.record("v").order.as_ref().unwrap().id, story.record("v").spec.uuid);
    let error = Some("the ledger cannot be written".to_owned());
    story.reports("a", vec![Report::OrderDone { uuid, order, error }]);
    assert!(story.leads().is_empty(), "not at once");
    let mut dead = story.clone();
    dies_by_lease(&mut dead, "a");
    assert!(may_run(&dead, "a"), "nobody stops it there when the lease runs out");
    story.hung.clear();
    assert_eq!(story.pass(11), ["v: tell a again"]);
    story.settles();
    assert!(!story.record("v").must_be_told());
}

#[test]
fn a_boot_proves_nothing_of_a_guest_that_was_handed_over_since() {
    let mut story = migrating_to_a_silent_target();
    story.leads();
    assert!(matches!(state(&story, "b"), NodeState::Dead(ProofOfDeath::Lease { .. })));
    // b has booted and listed its domains; before its registration is in, the guest arrives there.
    let order = story.record("v").order.as_ref().unwrap().id;
    let uuid = story.record("v").spec.uuid;
    story.guests.clear();
    story.hung.insert("b".into());
    let absent = Report::Absent { uuid, floor: order.0, cause: None };
    story.reports("a", vec![Report::OrderDone { uuid, order, error: None }, absent]);
    story.returns("b");
    assert!(story.pass(60).is_empty() && may_run(&story, "b"), "{}", story.reason("v"));
    story.hung.clear();
    story.appears("v", "b");
    story.settles();
    assert_eq!(story.place("v"), "started on b");
}

#[test]
fn a_migration_to_a_node_whose_lease_ran_out_is_called_off() {
    let mut story = migrating_to_a_silent_target();
    story.leads();
    assert!(matches!(state(&story, "b"), NodeState::Dead(ProofOfDeath::Lease { .. })));
    assert!(may_run(&story, "b"), "it may have arrived, and no lease binds it there");
    let order = story.record("v").order.clone().unwrap();
    assert!(
        matches!(order.intent, model::vm::OrderIntent::Migrate { cancelled: true, .. }),
        "{order:?}"
    );
}

#[test]
fn what_a_lease_did_not_bind_names_the_way_out() {
    let mut story = with_watchdogs(&["a", "b", "c"]);
    story.running(
        "v",
        "a",
        VmPolicy { on_isolation: OnIsolation::Continue, ..VmPolicy::default() },
    );
    dies_by_lease(&mut story, "a");
    assert_eq!(story.place("v"), "started on a");
    let reason = story.reason("v").to_string();
    assert!(reason.contains("`berthctl node confirm-off a`"), "{reason}");
}

#[test]
fn what_a_lease_did_not_bind_is_fenced_until_a_fence_proves_its_death() {
    let mut story = with_watchdogs(&["a", "b", "c"]);
    let policy = VmPolicy { on_isolation: OnIsolation::Continue, ..VmPolicy::default() };
    story.running("v", "a", policy);
    let device = FenceDevice {
        agent: "fence_test".into(),
        options: BTreeMap::new(),
        timeout_ms: 1_000,
        level: 0,
    };
    story.does(Operation::SetFenceDevices { node: node("a"), devices: vec![device] });
    dies_by_lease(&mut story, "a");
    let (id, session) = (story.id("a"), story.session("a"));
    let under_way = |story: &Story| story.state.nodes[&story.id("a")].fence_under_way;
    story.pass(0);
    assert!(under_way(&story) && may_run(&story, "a"));
    story.does(Operation::FenceFailed { node: id, session, error: "no route".into() });
    story.pass(0);
    assert!(!under_way(&story), "not at once");
    story.pass(story.state.settings.fence_retry_ms);
    assert!(under_way(&story));
    assert!(matches!(state(&story, "a"), NodeState::Dead(ProofOfDeath::Lease { .. })));
    story.guests.clear();
    let off = says_off(&story, "a");
    story.does(off);
    let decided = story.pass(0);
    assert!(decided.iter().any(|what| what.starts_with("v: start on")), "{decided:?}");
}

#[test]
fn a_fence_that_ends_after_an_operator_cut_the_power_does_not_have_the_host_switched_on() {
    let mut story = Story::with_nodes(&["a", "b"]);
    let (node_name, power_on) = (node("a"), AfterFence::PowerOn { per_hour: 6 });
    story.does(Operation::SetNodePolicy {
        node: node_name,
        vouched: None,
        after_fence: Some(power_on),
    });
    story.falls_silent("a");
    let (id, session) = (story.id("a"), story.session("a"));
    story.does(Operation::FenceAsked { node: id, session });
    story.does(Operation::ConfirmOff { node: node("a"), why: "its plug is out".into() });
    let proof = ProofOfDeath::Fenced { device: "fence_test".into() };
    story.does(Operation::NodeDead { node: id, session, proof });
    let dead = &story.state.nodes[&id];
    assert!(matches!(dead.state, NodeState::Dead(ProofOfDeath::Confirmed { .. })), "{dead:?}");
    assert!(!dead.fence_under_way, "it may register again");
    let noted = dead.fence_history.last().unwrap();
    assert!(noted.outcome.contains("fence_test"), "{noted:?}");
    let now = Timestamp(story.now + 3_600_000);
    assert!(!power_on_is_due(dead, &story.state.settings, now), "his hands are in it");
}

#[test]
fn the_proof_outlasts_a_lease_that_an_earlier_session_of_the_boot_was_given() {
    let mut story = with_watchdogs(&["a", "b"]);
    let proof_ms = |story: &Story| {
        let percent = story.state.settings.drift_percent;
        story.state.nodes[&story.id("a")].lease_proof_ms(percent).unwrap()
    };
    let before = proof_ms(&story);
    story.does(Operation::ChangeSettings(Settings::quiet_network()));
    // Its agent is started again: a heartbeat of the one before may have been answered a moment ago.
    story.registers("a");
    assert_eq!(proof_ms(&story), before);
    story.returns("a");
    assert!(proof_ms(&story) < before);
}

#[test]
fn a_lease_proves_nothing_of_a_copy_that_an_older_ownership_was_told_of() {
    let mut story = with_watchdogs(&["a", "b"]);
    story.running("v", "a", VmPolicy::default());
    // Somebody keeps an older copy on b, whose agent was told at that time what to do without a lease.
    let mut domain = SeenDomain::active("v", Presence::Paused, 64);
    domain.generation = Some(story.record("v").generation.0 - 1);
    let uuid = story.record("v").spec.uuid;
    let (node, session) = (story.id("b"), story.session("b"));
    story.does(Operation::Report { node, session, reports: vec![Report::Seen { uuid, domain }] });
    dies_by_lease(&mut story, "b");
    assert!(may_run(&story, "b"));
}
