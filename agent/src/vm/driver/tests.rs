//! One VM on one host in memory, through the whole core: orders in, calls carried out at once, reports out.

use std::sync::Arc;

use model::domain_xml;
use model::order::Floors;
use model::vm::{OnIsolation, Presence, StopCause};
use proto::v1;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::clock::Reading;
use crate::core::{AgentCore, Given};
use crate::hypervisor::fake::{FakeHypervisor, Faults};
use crate::hypervisor::mark::Mark;
use crate::hypervisor::{Hypervisor, HypervisorEvent};
use crate::lease::Lease;
use crate::vm::ledger::Ledger;

const VM: Uuid = Uuid::from_u128(0x77);
const CLUSTER: Uuid = Uuid::from_u128(1);

mod handling;

struct Bench {
    fake: Arc<FakeHypervisor>,
    events: mpsc::UnboundedReceiver<HypervisorEvent>,
    core: AgentCore,
    now: u64,
    reports: Vec<String>,
    directory: tempfile::TempDir,
}

fn bench() -> Bench {
    let mut bench = fresh();
    // What libvirt was asked before there was a ledger has shown itself by then.
    bench.pass(5_000, true);
    bench
}

/// An agent whose ledger is new.
fn fresh() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let (fake, events) = FakeHypervisor::new();
    let core =
        AgentCore::new(Ledger::open(directory.path(), directory.path()).unwrap(), Lease::default());
    let mut bench = Bench { fake, events, core, now: 1_000, reports: Vec::new(), directory };
    bench.register(7);
    bench.heartbeat();
    bench
}

fn order(id: u64, kind: v1::order::Kind) -> v1::Order {
    v1::Order {
        id,
        session: 7,
        generation: id,
        vm: "v".into(),
        uuid: VM.to_string(),
        on_isolation: v1::OnIsolation::Suspend.into(),
        kind: Some(kind),
    }
}

fn xml() -> String {
    format!("<domain type='qemu'><name>v</name><uuid>{VM}</uuid><memory>16384</memory></domain>")
}

fn start(id: u64) -> v1::Order {
    order(id, v1::order::Kind::Start(v1::StartOrder { xml: xml(), ..Default::default() }))
}

fn stop(id: u64, graceful_ms: Option<u64>) -> v1::Order {
    order(id, v1::order::Kind::Stop(v1::StopOrder { graceful_ms, ..Default::default() }))
}

fn resume(id: u64, generation: u64) -> v1::Order {
    v1::Order { generation, ..order(id, v1::order::Kind::Resume(v1::ResumeOrder {})) }
}

fn probe(id: u64) -> v1::Order {
    order(id, v1::order::Kind::Probe(v1::ProbeOrder {}))
}

impl Bench {
    fn at(&self) -> Reading {
        Reading { boot_ms: self.now, raw_ms: self.now }
    }

    fn register(&mut self, session: u64) {
        let given = Given {
            session,
            epoch: 1,
            cluster: CLUSTER,
            lease_ttl_ms: 3_000,
            self_fence_ms: 1_000,
            isolation_hold_ms: 60_000,
            floors: Floors::default(),
        };
        let domains = self.fake.domains().unwrap_or_default();
        let inventory = self.core.inventory(&domains, self.at());
        self.core.registered(given, &inventory, self.at()).unwrap();
        self.settle();
    }

    fn heartbeat(&mut self) {
        self.core.heartbeat_answered(self.at(), self.at());
        self.settle();
    }

    fn give(&mut self, orders: Vec<v1::Order>) {
        let cluster = CLUSTER.to_string();
        let list = v1::OrderList { term: 1, epoch: 1, cluster, orders, ..v1::OrderList::default() };
        self.core.orders(list, self.at());
        self.settle();
    }

    /// Time passes in steps of 50 ms, with the lease renewed or not.
    fn pass(&mut self, milliseconds: u64, renewed: bool) {
        for _ in 0..milliseconds / 50 {
            self.now += 50;
            if renewed {
                self.core.heartbeat_answered(self.at(), self.at());
            }
            self.core.tick(self.at());
            self.settle();
        }
    }

    /// Calls are made and events are told until nothing moves.
    fn settle(&mut self) {
        loop {
            let effects = self.core.take_effects();
            for report in effects.reports {
                self.reports.push(short(report));
            }
            let mut quiet = effects.calls.is_empty();
            for call in effects.calls {
                let answer = call.call.make(call.uuid, &*self.fake);
                self.core.answered(call.uuid, call.id, answer, self.at());
            }
            while let Ok(event) = self.events.try_recv() {
                quiet = false;
                match event {
                    HypervisorEvent::Changed(uuid) => self.core.event(uuid, None, self.at()),
                    HypervisorEvent::Stopped(uuid, cause) => {
                        self.core.event(uuid, Some(cause), self.at());
                    }
                    HypervisorEvent::Noted(uuid, note, text) => {
                        self.core.noted(uuid, note, text, self.at());
                    }
                    HypervisorEvent::Ending(uuid, cause) => {
                        self.core.ending(uuid, cause, self.at());
                    }
                    HypervisorEvent::Pass(uuid, number) => {
                        self.core.pass(uuid, number, self.at());
                    }
                    HypervisorEvent::Connected | HypervisorEvent::Disconnected => {}
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.reports)
    }

    /// The agent dies and another one begins on the same ledger.
    fn restart(&mut self, lease: Lease) {
        self.core = AgentCore::new(
            Ledger::open(self.directory.path(), self.directory.path()).unwrap(),
            lease,
        );
    }

    fn presence(&self) -> Option<Presence> {
        self.fake.domains().unwrap().first().and_then(|domain| domain.seen.presence)
    }
}

/// A report, in short.
fn short(report: v1::Report) -> String {
    use v1::report::Report as Kind;
    match report.report.unwrap() {
        Kind::Seen(seen) => format!("seen {}", seen.presence().as_str_name()),
        Kind::Absent(absent) => {
            format!("absent up to {}: {}", absent.floor, absent.cause().as_str_name())
        }
        Kind::OrderDone(done) => {
            format!("done {}: {}", done.order, done.error.unwrap_or("ok".into()))
        }
        Kind::StartedHere(started) => format!("started here as {}", started.generation),
        Kind::Checked(checked) => format!("checked: {}", checked.error.unwrap_or("ok".into())),
        Kind::Noted(noted) => format!("noted {}: {}", noted.note().as_str_name(), noted.text),
        Kind::Migration(step) => format!("migration {}: {}", step.order, step.post_copy),
        Kind::ScriptStatus(status) => format!("script {}", status.member),
        Kind::ScriptsSeen(seen) => format!("scripts {}", seen.members.join(" ")),
    }
}

#[test]
fn a_start_is_seen_before_it_is_done_and_bears_the_mark() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    assert_eq!(bench.told(), ["seen RUNNING", "done 10: ok"]);
    assert_eq!(bench.fake.mark_of(VM).unwrap().generation, 10);
    assert!(domain_xml::parse(&xml()).is_ok());
}

#[test]
fn a_domain_that_is_defined_and_not_active_is_told_of_for_as_long_as_it_is_defined() {
    let mut bench = bench();
    bench.fake.define(VM, Some("idle"));
    bench.register(2);
    bench.pass(10_000, true);
    assert_eq!(bench.told(), ["absent up to 0: STOP_CAUSE_UNSPECIFIED", "seen INACTIVE"]);
    bench.fake.define(VM, None);
    bench.settle();
    assert_eq!(bench.told(), ["absent up to 0: STOP_CAUSE_UNSPECIFIED"]);
    bench.fake.define(VM, Some("again"));
    bench.settle();
    assert_eq!(bench.told(), ["seen INACTIVE"]);
}

#[test]
fn an_order_that_comes_again_is_done_once_over_restarts_too() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    bench.give(vec![start(10)]);
    bench.restart(bench.core.lease());
    bench.register(7);
    bench.told();
    bench.give(vec![start(10)]);
    assert_eq!(bench.told(), ["done 10: ok"]);
    assert_eq!(bench.fake.calls(), ["create v", "resume"]);
}

#[test]
fn each_session_is_told_anew_what_is_here() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    bench.told();
    bench.register(8);
    assert_eq!(bench.told(), ["seen RUNNING"]);
}

#[test]
fn an_agent_without_a_session_makes_sure_of_what_it_finds() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    bench.restart(Lease::default());
    assert!(!bench.core.may_feed(bench.at()), "it does not know yet what runs here");
    let domains = bench.fake.domains().unwrap();
    bench.core.inventory(&domains, bench.at());
    assert!(!bench.core.may_feed(bench.at()), "that runs, and there is no lease");
    bench.pass(1_000, false);
    assert_eq!(bench.presence(), Some(Presence::Paused));
    assert!(bench.core.may_feed(bench.at()));
}

#[test]
fn without_a_lease_a_start_waits_and_begins_with_the_first_answer() {
    let mut bench = bench();
    bench.pass(4_000, false);
    bench.give(vec![start(10)]);
    assert!(bench.fake.calls().is_empty());
    bench.heartbeat();
    assert_eq!(bench.fake.calls(), ["create v", "resume"]);
}

#[test]
fn a_deaf_guest_is_destroyed_when_its_time_is_over() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    bench.fake.set_faults(Faults { deaf_guests: true, ..Faults::default() });
    bench.give(vec![stop(11, Some(8_000))]);
    bench.told();
    bench.pass(7_900, true);
    assert_eq!(bench.presence(), Some(Presence::Running));
    bench.pass(1_200, true);
    assert_eq!(bench.fake.calls(), ["create v", "resume", "shutdown", "shutdown", "destroy"]);
    assert_eq!(bench.told(), ["absent up to 11: DESTROYED", "done 11: ok"]);
}

#[test]
fn a_graceful_stop_can_be_hastened() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    bench.fake.set_faults(Faults { deaf_guests: true, ..Faults::default() });
    bench.give(vec![stop(11, Some(100_000))]);
    bench.give(vec![stop(12, None)]);
    assert_eq!(bench.fake.calls(), ["create v", "resume", "shutdown", "destroy"]);
    assert!(bench.told().contains(&"done 12: ok".to_owned()));
}

#[test]
fn the_end_of_a_guest_is_told_with_its_cause() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    bench.told();
    bench.fake.kill(VM, StopCause::Crashed);
    bench.settle();
    assert_eq!(bench.told(), ["absent up to 10: GUEST_CRASHED"]);
}

#[test]
fn a_new_ledger_gives_no_promise_before_libvirt_has_shown_what_it_was_asked_before() {
    let mut bench = fresh();
    bench.give(vec![probe(20)]);
    bench.pass(4_900, true);
    assert!(bench.told().is_empty());
    bench.pass(300, true);
    assert_eq!(bench.told(), ["absent up to 20: STOP_CAUSE_UNSPECIFIED"]);
}

#[test]
fn a_promise_outlives_the_agent_and_an_older_order_is_refused() {
    let mut bench = bench();
    bench.give(vec![probe(20)]);
    assert_eq!(bench.told(), ["absent up to 20: STOP_CAUSE_UNSPECIFIED"]);
    bench.restart(bench.core.lease());
    bench.register(7);
    bench.give(vec![start(19)]);
    assert!(bench.fake.calls().is_empty());
    assert_eq!(bench.told(), ["done 19: this node has promised not to do it any more"]);
}

#[test]
fn silence_of_libvirt_is_not_absence() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    bench.told();
    bench.fake.set_faults(Faults { disconnected: true, ..Faults::default() });
    bench.core.event(VM, None, bench.at());
    bench.pass(3_000, true);
    assert!(bench.told().is_empty());
    bench.give(vec![probe(20)]);
    assert!(bench.told().is_empty());
}

#[test]
fn orders_of_another_session_epoch_or_older_term_are_refused() {
    let mut bench = bench();
    let list = |term, epoch, order| v1::OrderList {
        term,
        epoch,
        cluster: CLUSTER.to_string(),
        orders: vec![order],
        ..v1::OrderList::default()
    };
    bench.core.orders(list(5, 1, v1::Order { session: 6, ..start(10) }), bench.at());
    bench.core.orders(list(5, 2, start(10)), bench.at());
    bench.core.orders(list(4, 1, start(10)), bench.at());
    bench.settle();
    assert!(bench.fake.calls().is_empty());
    bench.core.orders(list(5, 1, start(10)), bench.at());
    bench.settle();
    assert_eq!(bench.fake.calls(), ["create v", "resume"]);
}

#[test]
fn when_the_lease_runs_out_guests_are_suspended_and_only_an_order_resumes_them() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    assert!(!bench.core.is_safe());
    bench.pass(3_100, false);
    assert_eq!(bench.presence(), Some(Presence::Paused));
    assert!(bench.core.may_feed(bench.at()), "every guest is stopped for sure");
    bench.told();
    bench.register(7);
    bench.heartbeat();
    bench.pass(1_000, true);
    assert_eq!(bench.presence(), Some(Presence::Paused), "the lease alone resumes nothing");
    bench.give(vec![resume(12, 11)]);
    assert!(bench.told().iter().any(|told| told.contains("at another generation")));
    bench.give(vec![resume(13, 10)]);
    assert_eq!(bench.presence(), Some(Presence::Running));
}

fn migrate(id: u64) -> v1::Order {
    let (to, uri) = ("b".to_owned(), "fake://b".to_owned());
    let migrate = v1::MigrateOrder { to, uri, live: true, ..Default::default() };
    order(id, v1::order::Kind::Migrate(migrate))
}

/// An agent that has ended in the middle of a migration, which goes on without it.
fn in_the_middle_of_a_migration() -> Bench {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    let list = v1::OrderList {
        term: 1,
        epoch: 1,
        cluster: CLUSTER.to_string(),
        orders: vec![migrate(11)],
        ..v1::OrderList::default()
    };
    // Noted as begun; what it would do first is never done.
    bench.core.orders(list, bench.at());
    bench.restart(bench.core.lease());
    bench.fake.set_faults(Faults { migrating: 3, ..Faults::default() });
    bench.register(7);
    bench.told();
    bench.give(vec![migrate(11)]);
    bench
}

#[test]
fn a_migration_that_goes_on_without_its_agent_is_followed_to_its_end() {
    let mut bench = in_the_middle_of_a_migration();
    assert_eq!(bench.told(), Vec::<String>::new(), "it is not over");
    bench.fake.kill(VM, StopCause::MigratedAway);
    bench.pass(2_000, true);
    assert!(bench.told().contains(&"done 11: ok".to_owned()));
    assert!(!bench.fake.calls().iter().any(|call| call.starts_with("migrate")));
}

#[test]
fn a_migration_that_went_on_without_its_agent_and_failed_is_told_as_failed() {
    let mut bench = in_the_middle_of_a_migration();
    bench.pass(2_000, true);
    assert!(bench.told().iter().any(|told| told.contains("did not come through")));
    assert_eq!(bench.presence(), Some(Presence::Running));
}

#[test]
fn what_may_be_let_run_yet_is_destroyed_when_the_lease_is_over() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    bench.fake.suspend(VM).unwrap();
    std::fs::remove_file(bench.directory.path().join("ledger")).unwrap();
    bench.restart(bench.core.lease());
    bench.register(7);
    bench.heartbeat();
    bench.pass(3_500, false);
    assert_eq!(bench.presence(), None, "nobody knows whether libvirt was asked to let it run");
    assert!(bench.core.may_feed(bench.at()));
}

#[test]
fn what_somebody_else_paused_is_not_resumed() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    bench.fake.suspend(VM).unwrap();
    bench.settle();
    assert_eq!(bench.told().last().unwrap(), "seen PAUSED");
    bench.give(vec![resume(12, 10)]);
    assert!(bench.told().iter().any(|told| told.contains("only what self-fence suspended")));
    assert_eq!(bench.presence(), Some(Presence::Paused));
}

#[test]
fn a_libvirt_that_does_not_answer_costs_the_guests_their_qemu() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    bench.fake.set_faults(Faults { disconnected: true, ..Faults::default() });
    bench.pass(3_400, false);
    assert!(!bench.core.may_feed(bench.at()), "nothing is sure yet");
    bench.pass(500, false);
    assert_eq!(bench.fake.calls().last().unwrap(), "kill");
    assert!(bench.core.may_feed(bench.at()));
}

#[test]
fn a_domain_that_bears_the_mark_is_bound_though_the_ledger_was_lost() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    std::fs::remove_file(bench.directory.path().join("ledger")).unwrap();
    bench.restart(bench.core.lease());
    bench.register(7);
    bench.heartbeat();
    bench.pass(3_100, false);
    assert_eq!(bench.presence(), Some(Presence::Paused));
}

#[test]
fn a_restarted_agent_keeps_to_the_lease_of_the_one_before() {
    let mut bench = bench();
    bench.give(vec![start(10)]);
    let lease = bench.core.lease();
    bench.restart(lease);
    bench.pass(2_900, false);
    assert_eq!(bench.presence(), Some(Presence::Running));
    bench.pass(200, false);
    assert_eq!(bench.presence(), Some(Presence::Paused));
}

#[test]
fn a_policy_of_destroy_and_one_of_continue_are_kept_to() {
    for (policy, expected) in
        [(v1::OnIsolation::Destroy, None), (v1::OnIsolation::Continue, Some(Presence::Running))]
    {
        let mut bench = bench();
        bench.give(vec![v1::Order { on_isolation: policy.into(), ..start(10) }]);
        bench.pass(3_500, false);
        assert_eq!(bench.presence(), expected);
        assert!(bench.core.may_feed(bench.at()));
    }
    assert_eq!(OnIsolation::default(), OnIsolation::Suspend);
}

fn runs_on_without_a_lease() -> Bench {
    let mut bench = bench();
    let policy = v1::OnIsolation::Continue.into();
    bench.give(vec![v1::Order { on_isolation: policy, ..start(10) }]);
    bench
}

#[test]
fn what_a_guest_was_to_do_in_an_earlier_stay_is_not_what_it_does_in_this_one() {
    let mut bench = runs_on_without_a_lease();
    bench.fake.kill(VM, StopCause::MigratedAway);
    bench.settle();
    // It was started elsewhere since, to be suspended, and has come back by a migration.
    bench.fake.appear(VM, "v", Presence::Running);
    bench.fake.mark(VM, &Mark { cluster: CLUSTER, generation: 20 }).unwrap();
    bench.settle();
    bench.pass(3_500, false);
    assert_eq!(bench.presence(), Some(Presence::Paused));
}

#[test]
fn what_is_told_while_there_is_no_lease_holds_at_once() {
    let mut bench = runs_on_without_a_lease();
    bench.pass(3_500, false);
    assert_eq!(bench.presence(), Some(Presence::Running));
    let adopt = order(11, v1::order::Kind::Adopt(v1::AdoptOrder {}));
    bench.give(vec![v1::Order { generation: 10, ..adopt }]);
    bench.pass(1_000, false);
    assert_eq!(bench.presence(), Some(Presence::Paused));
}

#[test]
fn a_session_of_an_older_epoch_is_not_taken() {
    let mut bench = bench();
    let given = |epoch| Given {
        session: 8,
        epoch,
        cluster: CLUSTER,
        lease_ttl_ms: 3_000,
        self_fence_ms: 1_000,
        isolation_hold_ms: 60_000,
        floors: Floors { below: 30, ..Floors::default() },
    };
    bench.core.registered(given(2), &Default::default(), bench.at()).unwrap();
    let refused = bench.core.registered(given(1), &Default::default(), bench.at()).unwrap_err();
    assert!(refused.to_string().contains("epoch 2"), "{refused}");
    assert_eq!(bench.core.ledger().floor(VM), 30);
}

/// Its lease would be taken for the other's, and its orders' numbers for those that were done here.
#[test]
fn a_session_of_another_cluster_is_not_taken() {
    let mut bench = bench();
    let other = Given {
        session: 8,
        epoch: 5,
        cluster: Uuid::from_u128(77),
        lease_ttl_ms: 3_000,
        self_fence_ms: 1_000,
        isolation_hold_ms: 60_000,
        floors: Floors { below: 900, ..Floors::default() },
    };
    let refused = bench.core.registered(other, &Default::default(), bench.at()).unwrap_err();
    assert!(refused.to_string().contains("remove `ledger`"), "{refused}");
    let ledger = bench.core.ledger();
    assert_eq!((ledger.cluster(), ledger.floor(VM)), (Some(CLUSTER), 0));
}
