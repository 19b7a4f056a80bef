//! Guests that end or ail by themselves, and how a VM is treated on its host.

use model::ailment::AilmentKind;
use model::command::GuestNote;
use model::event::EventKind;
use model::failover_domain::FailoverDomain;
use model::handling::{GuestEnd, GuestPolicy, Handling, OnIoError, SavePlace};
use model::id::FailoverDomainName;
use model::vm::{Desired, MigrationMode, MigrationPhase};

use super::*;

fn with(change: impl FnOnce(&mut Handling)) -> VmPolicy {
    let mut policy = VmPolicy::default();
    change(&mut policy.handling);
    policy
}

fn guest(change: impl FnOnce(&mut GuestPolicy)) -> VmPolicy {
    with(|handling| change(&mut handling.guest))
}

impl Story {
    fn last_event(&self, kind: EventKind) -> Option<String> {
        let events = self.state.events.iter().rev();
        events.filter(|event| event.kind == kind).map(|event| event.text.clone()).next()
    }

    /// The order out is carried out well: a stop leaves nothing, a start or a resumption leaves it running.
    fn carried_out(&mut self, node: &str, seen: Option<Presence>) {
        let order = self.order();
        let first = match seen {
            Some(presence) => self.seen(presence),
            None => self.absent(order, Some(StopCause::Destroyed)),
        };
        let done = self.done(order, None);
        self.reports(node, vec![first, done]);
    }
}

#[test]
fn a_guest_that_shuts_itself_down_is_restarted_unless_its_policy_says_otherwise() {
    for (end, state, desired, decisions) in [
        (GuestEnd::Recover, VmState::Recovering, Desired::Enabled, vec!["start on a, a restart"]),
        (GuestEnd::Stop, VmState::Stopped, Desired::Stopped, vec![]),
        (GuestEnd::Disable, VmState::Disabled, Desired::Disabled, vec![]),
    ] {
        let (mut story, place) = Story::running(guest(|it| it.on_shutdown = end), &["a", "b"]);
        let gone = story.absent(u64::MAX, Some(StopCause::GuestShutdown));
        story.reports(&place, vec![gone]);
        assert_eq!((story.record().state, story.record().desired), (state, desired), "{end:?}");
        assert_eq!(story.lead(), decisions, "{end:?}");
        // A QEMU that failed is no doing of the guest's.
        let (mut story, place) = Story::running(guest(|it| it.on_shutdown = end), &["a", "b"]);
        let gone = story.absent(u64::MAX, Some(StopCause::Failed));
        story.reports(&place, vec![gone]);
        assert_eq!(story.record().state, VmState::Recovering, "{end:?}");
    }
}

#[test]
fn a_guest_paused_by_its_storage_is_an_alarm_and_is_resumed_until_that_succeeds() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    let marked = |story: &Story, presence| {
        let mut domain = SeenDomain::active("v", presence, 64);
        domain.generation = Some(story.record().generation.0);
        Report::Seen { uuid: VM, domain }
    };
    let stuck = marked(&story, Presence::IoError);
    story.reports(&place, vec![stuck.clone()]);
    assert_eq!(story.record().ailment.as_ref().map(|it| it.kind), Some(AilmentKind::IoError));
    assert!(story.last_event(EventKind::VmIoError).is_some());
    assert_eq!(story.lead(), ["resume on a"]);
    // It ran for a moment, and its storage is still away.
    story.carried_out(&place, Some(Presence::Running));
    story.reports(&place, vec![stuck.clone()]);
    assert_eq!(story.lead(), Vec::<String>::new(), "not at once again");
    assert!(matches!(story.reason(), Reason::Ailing { .. }), "{:?}", story.reason());
    story.now += 60_000;
    assert_eq!(story.lead(), ["resume on a"]);
    story.carried_out(&place, Some(Presence::Running));
    assert_eq!(story.record().ailment, None);
    assert!(story.last_event(EventKind::VmHealthy).is_some());
    assert_eq!(story.reason(), Reason::AsWanted);
    assert_eq!(story.record().restart_count, 0);
}

#[test]
fn a_guest_paused_by_its_storage_is_restarted_or_left_alone_where_that_is_its_policy() {
    let (mut story, place) =
        Story::running(guest(|it| it.on_io_error = OnIoError::Restart), &["a", "b"]);
    let stuck = story.seen(Presence::IoError);
    story.reports(&place, vec![stuck]);
    assert_eq!(story.lead(), ["stop on a"]);
    story.carried_out(&place, None);
    assert_eq!(story.record().state, VmState::Recovering);
    assert_eq!(story.lead(), ["start on a, a restart"]);

    let (mut story, place) =
        Story::running(guest(|it| it.on_io_error = OnIoError::Leave), &["a", "b"]);
    let stuck = story.seen(Presence::IoError);
    story.reports(&place, vec![stuck]);
    assert_eq!(story.lead(), Vec::<String>::new());
    assert!(story.reason().is_stuck());
    // The operator's way out.
    story.does(Operation::Restart(vm()));
    assert_eq!(story.lead(), ["stop on a"]);
}

#[test]
fn a_crashed_domain_that_libvirt_keeps_is_not_health() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    let crashed = story.seen(Presence::Crashed);
    let note = Report::Noted { uuid: VM, note: GuestNote::Panicked, text: String::new() };
    story.reports(&place, vec![note, crashed]);
    assert!(story.last_event(EventKind::VmGuestPanicked).is_some());
    assert_eq!(story.lead(), ["stop on a"]);
    story.carried_out(&place, None);
    assert_eq!(story.lead(), ["start on a, a restart"]);

    let (mut story, place) =
        Story::running(guest(|it| it.on_watchdog = GuestEnd::Disable), &["a", "b"]);
    let bitten = story.seen(Presence::WatchdogPaused);
    story.reports(&place, vec![bitten]);
    assert_eq!(story.lead(), ["stop on a"]);
    story.carried_out(&place, None);
    assert_eq!(story.record().state, VmState::Disabled);
    assert_eq!(story.lead(), Vec::<String>::new());
}

#[test]
fn a_guest_whose_checks_fail_is_stopped_and_recovered_and_an_operation_comes_first() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    let failed = Report::Checked { uuid: VM, error: Some("no ping".into()) };
    story.reports(&place, vec![failed]);
    assert_eq!(story.lead(), ["stop on a"]);
    story.carried_out(&place, None);
    assert!(story.last_event(EventKind::VmFailed).unwrap().contains("no ping"));
    assert_eq!(story.lead(), ["start on a, a restart"]);
    // A check that succeeds again takes it back.
    let (mut story, place) = Story::running(VmPolicy::default(), &["a"]);
    let failed = Report::Checked { uuid: VM, error: Some("no ping".into()) };
    let well = Report::Checked { uuid: VM, error: None };
    story.reports(&place, vec![failed, well]);
    assert_eq!(story.lead(), Vec::<String>::new());
}

#[test]
fn saved_memory_belongs_to_the_next_start_and_to_no_later_one() {
    for (shared, back_on, restored) in
        [(true, "a", true), (true, "b", true), (false, "a", true), (false, "b", false)]
    {
        let save = SavePlace { directory: "/saved/".into(), shared };
        let (mut story, place) = Story::running(with(|it| it.save = Some(save)), &["a", "b"]);
        story.does(Operation::Stop { vm: vm(), now: false });
        assert_eq!(story.lead(), ["stop on a"]);
        let order = story.record().order.clone().unwrap();
        let file = format!("/saved/{VM}.{}.save", order.id);
        assert_eq!(order.memory_file.as_deref(), Some(file.as_str()));
        story.carried_out(&place, None);
        assert_eq!(story.record().saved.as_ref().map(|it| it.file.as_str()), Some(file.as_str()));
        story.does(Operation::Enable { vm: vm(), on: Some(name(back_on)) });
        assert_eq!(story.lead(), [format!("start on {back_on}")]);
        let start = story.record().order.clone().unwrap();
        assert_eq!(start.memory_file.as_deref(), restored.then_some(file.as_str()));
        assert_eq!(story.last_event(EventKind::VmMemoryLost).is_some(), !restored);
        assert_eq!(story.record().saved, None, "nobody restores it a second time");
    }
}

#[test]
fn what_makes_no_use_of_saved_memory_does_not_save_it() {
    let save = SavePlace { directory: "/saved".into(), shared: false };
    let policy = || with(|it| it.save = Some(save.clone()));
    for (operation, saves) in [
        (Operation::Stop { vm: vm(), now: false }, true),
        (Operation::Disable(vm()), true),
        (Operation::Stop { vm: vm(), now: true }, false),
        (Operation::Restart(vm()), false),
        (Operation::Relocate { vm: vm(), to: None }, false),
    ] {
        let (mut story, _) = Story::running(policy(), &["a", "b"]);
        let subject = operation.subject();
        story.does(operation);
        story.lead();
        let order = story.record().order.clone().unwrap();
        assert_eq!(order.memory_file.is_some(), saves, "{subject}");
    }
}

#[test]
fn a_vm_that_is_never_killed_is_not_stopped_at_once_either() {
    let (mut story, place) = Story::running(with(|it| it.no_kill = true), &["a"]);
    let refused = story.tries(Operation::Stop { vm: vm(), now: true }).unwrap_err();
    assert!(refused.to_string().contains("--no-kill=false"), "{refused}");
    story.does(Operation::Stop { vm: vm(), now: false });
    story.lead();
    assert!(story.record().order.as_ref().unwrap().ask_only);
    let done = story.done(story.order(), Some("the guest did not shut down within 120 s"));
    story.reports(&place, vec![done]);
    assert_eq!(story.record().state, VmState::Failed);
}

#[test]
fn the_log_knows_how_far_a_migration_is_and_a_post_copy_source_is_never_it_again() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    let to = if place == "a" { "b" } else { "a" };
    story.does(Operation::Migrate { vm: vm(), to: name(to), mode: Some(MigrationMode::Live) });
    story.lead();
    let order = story.order();
    let phase = |story: &Story| story.record().migration.unwrap().phase;
    assert_eq!(phase(&story), MigrationPhase::Prepared);
    let step = |phase| Report::Migration { uuid: VM, order: OrderId(order), phase };
    story.reports(&place, vec![step(MigrationPhase::Copying)]);
    assert_eq!(phase(&story), MigrationPhase::Copying);
    story.reports(&place, vec![step(MigrationPhase::PostCopy), step(MigrationPhase::Copying)]);
    assert_eq!(phase(&story), MigrationPhase::PostCopy, "phases only go on");
    // The link breaks: what is left at the source is half a guest.
    let leaving = story.seen(Presence::Leaving);
    let failed = story.done(order, Some("the connection broke"));
    story.reports(&place, vec![leaving, failed]);
    assert_ne!(story.record().state, VmState::Started);
    story.now += 60_000;
    assert_eq!(story.lead(), [format!("evict from {place}")]);
    // The target has it: that is its place.
    let running = story.seen(Presence::Running);
    story.reports(to, vec![running]);
    story.carried_out(&place, None);
    assert_eq!(story.lead(), [format!("adopt on {to}")]);
    assert_eq!(phase(&story), MigrationPhase::Committed);
}

#[test]
fn a_vm_that_somebody_moved_out_of_its_failover_domain_is_adopted_with_a_word_on_that() {
    for (restricted, said) in [
        (true, "outside its restricted failover domain d"),
        (false, "outside its failover domain d"),
    ] {
        let mut story = Story::with_nodes(&["a", "b"]);
        let domain = FailoverDomain {
            name: FailoverDomainName::new("d").unwrap(),
            nodes: BTreeMap::from([(name("a"), 1)]),
            ordered: false,
            restricted,
            nofailback: true,
            failback: Default::default(),
        };
        story.does(Operation::PutFailoverDomain(domain));
        let policy = VmPolicy {
            failover_domain: Some(FailoverDomainName::new("d").unwrap()),
            ..VmPolicy::default()
        };
        story.add(policy);
        story.answer_probes();
        story.enable();
        assert_eq!(story.lead(), ["start on a"]);
        story.carried_out("a", Some(Presence::Running));
        let here = story.seen(Presence::Running);
        let gone = story.absent(u64::MAX, Some(StopCause::MigratedAway));
        story.reports("b", vec![here]);
        story.reports("a", vec![gone]);
        story.lead();
        let text = story.last_event(EventKind::VmAdopted).unwrap();
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn saved_memory_is_in_doubt_when_hands_were_off_and_a_node_is_not_heard() {
    for (silent, kept) in [(true, false), (false, true)] {
        let save = SavePlace { directory: "/saved/".into(), shared: true };
        let (mut story, place) = Story::running(with(|it| it.save = Some(save)), &["a", "b"]);
        story.does(Operation::Stop { vm: vm(), now: false });
        assert_eq!(story.lead(), ["stop on a"]);
        story.carried_out(&place, None);
        story.does(Operation::Freeze { vm: vm(), why: "by hand".into(), for_ms: None });
        let other = if place == "a" { "b" } else { "a" };
        if silent {
            let (node, session) = (story.id(other), story.session(other));
            story.does(Operation::NodeLost { node, session, silent_ms: 5_000 });
        }
        story.does(Operation::Unfreeze(vm()));
        assert_eq!(story.record().saved.is_some(), kept);
    }
}

#[test]
fn saved_memory_is_not_restored_once_somebody_has_run_the_guest_without_it() {
    let save = SavePlace { directory: "/saved/".into(), shared: true };
    let (mut story, place) = Story::running(with(|it| it.save = Some(save)), &["a", "b"]);
    story.does(Operation::Stop { vm: vm(), now: false });
    assert_eq!(story.lead(), ["stop on a"]);
    story.carried_out(&place, None);
    assert!(story.record().saved.is_some());
    // By hand, and shut down again: its disks are not those that its memory knows.
    let there = story.seen(Presence::Running);
    story.reports(&place, vec![there]);
    assert_eq!(story.record().saved, None);
    assert!(story.last_event(EventKind::VmMemoryLost).is_some());
}

#[test]
fn a_guest_that_reboots_is_stopped_only_where_its_policy_says_so() {
    use model::command::GuestNote;
    use model::handling::{GuestEnd, OnReboot};
    let rebooted = || Report::Noted { uuid: VM, note: GuestNote::Rebooted, text: String::new() };
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    story.reports(&place, vec![rebooted()]);
    assert!(story.lead().is_empty(), "{}", story.reason());
    let mut policy = VmPolicy::default();
    policy.handling.guest.on_reboot = OnReboot::End(GuestEnd::Disable);
    let (mut story, place) = Story::running(policy, &["a", "b"]);
    story.reports(&place, vec![rebooted()]);
    // It runs, and is seen to: that does not make it well.
    let seen = story.seen(Presence::Running);
    story.reports(&place, vec![seen]);
    assert_eq!(story.lead(), [format!("stop on {place}")]);
    let (gone, done) = (story.absent(u64::MAX, None), story.done(story.order(), None));
    story.reports(&place, vec![gone, done]);
    assert_eq!(story.record().desired, Desired::Disabled);
    let told =
        story.state.events.iter().any(|it| it.text.contains("the guest rebooted; by its policy"));
    assert!(told, "{:?}", story.state.events);
}
