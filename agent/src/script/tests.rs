//! The driver's stories: calls are answered here as scripts would answer them.

use std::collections::{BTreeMap, BTreeSet};

use model::order::Floors;
use model::service::{Script, ScriptProgram, StatusCheck};
use proto::convert::service::write_script;
use proto::v1;
use proto::v1::report::Report as Kind;
use uuid::Uuid;

use crate::clock::Reading;
use crate::core::{AgentCore, Given};
use crate::lease::Lease;
use crate::script::call::{Action, Outcome, ScriptCall};
use crate::script::orphan::Orphan;
use crate::vm::ledger::Ledger;

const CLUSTER: Uuid = Uuid::from_u128(1);
const SERVICE: Uuid = Uuid::from_u128(9);

/// An agent with a ledger on disk, and scripts that are up or not.
struct Bench {
    directory: tempfile::TempDir,
    core: AgentCore,
    now: u64,
    session: u64,
    /// What its registration rules out.
    floor: u64,
    up: BTreeSet<String>,
    /// Answers that differ from what the script would say.
    odd: BTreeMap<(String, &'static str), Outcome>,
    calls: Vec<String>,
    reports: Vec<String>,
}

fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(directory.path(), directory.path()).unwrap();
    let mut bench = Bench {
        core: AgentCore::new(ledger, Lease::default()),
        directory,
        now: 1_000,
        session: 0,
        floor: 0,
        up: BTreeSet::new(),
        odd: BTreeMap::new(),
        calls: Vec::new(),
        reports: Vec::new(),
    };
    bench.register();
    bench
}

fn script() -> Script {
    Script {
        program: ScriptProgram::Lsb("/etc/init.d/x".into()),
        parameters: BTreeMap::new(),
        start_timeout_ms: 5_000,
        stop_timeout_ms: 5_000,
        checks: vec![StatusCheck { depth: 0, interval_ms: 10_000, timeout_ms: 1_000 }],
    }
}

fn named(member: &str) -> v1::NamedScript {
    v1::NamedScript { member: member.into(), script: Some(write_script(&script())) }
}

impl Bench {
    fn at(&self) -> Reading {
        Reading { boot_ms: self.now, raw_ms: self.now }
    }

    fn register(&mut self) {
        self.session += 1;
        let given = Given {
            session: self.session,
            epoch: 1,
            cluster: CLUSTER,
            lease_ttl_ms: 3_000,
            self_fence_ms: 1_000,
            isolation_hold_ms: 60_000,
            floors: Floors { below: self.floor, ..Floors::default() },
        };
        let inventory = self.core.inventory(&[], self.at());
        self.core.registered(given, &inventory, self.at()).unwrap();
        self.core.heartbeat_answered(self.at(), self.at());
        self.settle();
    }

    /// The agent dies and another begins on the same ledger.
    fn restart(&mut self) {
        let lease = self.core.lease();
        let ledger = Ledger::open(self.directory.path(), self.directory.path()).unwrap();
        self.core = AgentCore::new(ledger, lease);
        self.register();
    }

    fn order(&self, id: u64, kind: v1::script_order::Kind) -> v1::ScriptOrder {
        v1::ScriptOrder {
            id,
            session: self.session,
            generation: 1,
            service: "web".into(),
            service_id: SERVICE.to_string(),
            kind: Some(kind),
        }
    }

    fn give(&mut self, scripts: Vec<v1::ScriptOrder>, watched: &[(&str, u64)]) {
        self.give_only(scripts, watched);
        self.settle();
    }

    fn give_only(&mut self, scripts: Vec<v1::ScriptOrder>, watched: &[(&str, u64)]) {
        let watched = watched
            .iter()
            .map(|(member, started_by)| v1::WatchedScript {
                service: "web".into(),
                service_id: SERVICE.to_string(),
                member: (*member).into(),
                started_by: *started_by,
                script: Some(write_script(&script())),
            })
            .collect();
        let cluster = CLUSTER.to_string();
        let list =
            v1::OrderList { term: 1, epoch: 1, cluster, scripts, watched, ..Default::default() };
        self.core.orders(list, self.at());
    }

    fn start(&mut self, id: u64, member: &str) {
        let order = self.order(id, v1::script_order::Kind::Start(named(member)));
        self.give(vec![order], &[]);
    }

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

    fn settle(&mut self) {
        loop {
            let effects = self.core.take_effects();
            for report in effects.reports {
                self.reports.push(short(report));
            }
            if effects.scripts.is_empty() {
                return;
            }
            for call in effects.scripts {
                let outcome = self.answer(&call);
                self.core.script_ended(call.service, call.id, &outcome, self.at());
            }
        }
    }

    fn answer(&mut self, call: &ScriptCall) -> Outcome {
        let word = match call.action {
            Action::Start => "start",
            Action::Stop => "stop",
            Action::Status { .. } => "status",
        };
        let member = call.member.clone();
        self.calls.push(format!("{word} {member}"));
        if let Some(outcome) = self.odd.get(&(member.clone(), word)) {
            return outcome.clone();
        }
        let code = match call.action {
            Action::Start => {
                self.up.insert(member);
                0
            }
            Action::Stop => {
                self.up.remove(&member);
                0
            }
            Action::Status { .. } => {
                if self.up.contains(&member) {
                    0
                } else {
                    3
                }
            }
        };
        Outcome::Exited { code, output: String::new() }
    }

    fn told(&mut self) -> Vec<String> {
        std::mem::take(&mut self.reports)
    }

    fn called(&mut self) -> Vec<String> {
        std::mem::take(&mut self.calls)
    }
}

fn short(report: v1::Report) -> String {
    match report.report.unwrap() {
        Kind::OrderDone(done) => {
            format!("done {}: {}", done.order, done.error.unwrap_or("ok".into()))
        }
        Kind::Absent(absent) => format!("absent up to {}", absent.floor),
        Kind::ScriptStatus(status) => {
            format!("{}: {}", status.member, status.error.unwrap_or("well".into()))
        }
        Kind::ScriptsSeen(seen) => format!("seen {}", seen.members.join(" ")),
        other => format!("{other:?}"),
    }
}

fn timed_out() -> Outcome {
    Outcome::TimedOut { output: String::new() }
}

#[test]
fn an_order_that_comes_again_is_done_once_over_restarts_too() {
    let mut bench = bench();
    bench.start(10, "ip");
    bench.start(10, "ip");
    bench.restart();
    bench.start(10, "ip");
    assert_eq!(bench.called(), ["start ip"]);
    assert_eq!(bench.told(), ["done 10: ok", "done 10: ok", "done 10: ok"]);
}

#[test]
fn a_start_that_an_agent_died_in_is_taken_up_by_its_status_and_never_begun_again() {
    for (up, expected) in [
        (true, "done 10: ok"),
        (false, "done 10: the agent ended while it started, and it is down"),
    ] {
        let mut bench = bench();
        let order = bench.order(10, v1::script_order::Kind::Start(named("ip")));
        bench.give_only(vec![order], &[]);
        bench.core.take_effects();
        if up {
            bench.up.insert("ip".into());
        }
        bench.restart();
        bench.start(10, "ip");
        assert_eq!(bench.called(), ["status ip"]);
        assert_eq!(bench.told(), [expected]);
    }
}

/// A start of `ip` under way, and the agent dies; the next one finds that run.
fn died_in_a_start(run_starts: bool) -> Bench {
    let mut bench = bench();
    let order = bench.order(10, v1::script_order::Kind::Start(named("ip")));
    bench.give_only(vec![order], &[]);
    bench.core.take_effects();
    let ledger = Ledger::open(bench.directory.path(), bench.directory.path()).unwrap();
    bench.core = AgentCore::new(ledger, bench.core.lease());
    bench.core.wait_for(&[Orphan::told(SERVICE, "ip", run_starts)]);
    bench
}

#[test]
fn a_start_that_outlived_its_agent_is_ended_before_anything_is_said_of_it_and_has_failed() {
    let mut bench = died_in_a_start(true);
    bench.register();
    bench.start(10, "ip");
    bench.pass(2_000, true);
    assert!(bench.called().is_empty() && bench.told().is_empty());
    // It has come far enough to be up by its own word, and was killed in the middle.
    bench.up.insert("ip".into());
    bench.core.orphan_gone(SERVICE, bench.at());
    bench.settle();
    assert!(bench.called().is_empty());
    let failed = "done 10: the agent ended while it started, and what went on of that was killed";
    assert_eq!(bench.told(), [failed]);
    // What it has begun is bound, and is stopped as after any start that failed.
    let stop = bench.order(11, v1::script_order::Kind::Stop(named("ip")));
    bench.give(vec![stop], &[]);
    assert_eq!(
        (bench.called(), bench.told()),
        (vec!["stop ip".into(), "status ip".into()], vec!["done 11: ok".into()])
    );
    bench.start(12, "ip");
    assert_eq!(
        (bench.called(), bench.told()),
        (vec!["start ip".into()], vec!["done 12: ok".into()])
    );
}

#[test]
fn self_fence_stops_a_script_only_when_its_start_by_the_agent_before_is_gone() {
    let mut bench = died_in_a_start(true);
    bench.core.inventory(&[], bench.at());
    bench.pass(5_000, false);
    assert!(bench.called().is_empty() && !bench.core.is_safe());
    bench.core.orphan_gone(SERVICE, bench.at());
    bench.settle();
    assert_eq!(bench.called(), ["stop ip", "status ip"]);
    assert!(bench.core.is_safe());
}

#[test]
fn a_check_that_outlived_its_agent_says_nothing_of_the_start() {
    let mut bench = died_in_a_start(false);
    bench.core.orphan_gone(SERVICE, bench.at());
    bench.register();
    bench.up.insert("ip".into());
    bench.start(10, "ip");
    assert_eq!(bench.called(), ["status ip"]);
    assert_eq!(bench.told(), ["done 10: ok"]);
}

#[test]
fn a_start_of_an_unknown_service_that_goes_on_leaves_the_host_unsafe() {
    let mut bench = bench();
    assert!(bench.core.is_safe());
    bench.core.wait_for(&[Orphan::told(SERVICE, "ip", true)]);
    assert!(!bench.core.is_safe());
    bench.core.orphan_gone(SERVICE, bench.at());
    assert!(bench.core.is_safe());
}

#[test]
fn an_agent_that_begins_again_takes_up_what_runs_by_its_status_and_restarts_nothing() {
    let mut bench = bench();
    bench.start(10, "ip");
    bench.give(vec![], &[("ip", 10)]);
    bench.restart();
    bench.called();
    bench.told();
    bench.give(vec![], &[("ip", 10)]);
    assert_eq!(bench.called(), ["status ip"]);
    assert!(bench.told().is_empty());
}

#[test]
fn a_probe_promises_and_says_absent_only_when_every_script_is_down_for_sure() {
    let mut bench = bench();
    let probe = |bench: &Bench| {
        let scripts = vec![named("ip"), named("log")];
        bench.order(7, v1::script_order::Kind::Probe(v1::ScriptProbe { scripts }))
    };
    bench.odd.insert(("log".into(), "status"), timed_out());
    let order = probe(&bench);
    bench.give(vec![order], &[]);
    assert_eq!(bench.told(), ["seen log"]);
    bench.odd.clear();
    bench.pass(6_000, true);
    assert_eq!(bench.told(), ["absent up to 7"]);
    bench.called();
    // What was ordered before is refused from now on.
    bench.start(6, "ip");
    assert!(bench.called().is_empty() && bench.told().is_empty());
}

#[test]
fn checks_tell_of_every_failure_and_once_that_it_is_well_again() {
    let mut bench = bench();
    bench.start(10, "ip");
    bench.give(vec![], &[("ip", 10)]);
    bench.told();
    bench.odd.insert(("ip".into(), "status"), timed_out());
    bench.pass(21_000, true);
    bench.odd.clear();
    bench.pass(21_000, true);
    let failed = "ip: it took too long, and its process group was killed";
    assert_eq!(bench.told(), [failed, failed, "ip: well"]);
}

#[test]
fn without_a_lease_what_is_bound_is_stopped_in_reverse_and_the_host_is_safe_only_then() {
    let mut bench = bench();
    bench.start(10, "ip");
    bench.start(11, "log");
    bench.called();
    bench.odd.insert(("log".into(), "stop"), timed_out());
    bench.pass(3_500, false);
    assert!(!bench.core.is_safe() && !bench.core.may_feed(bench.at()));
    assert!(bench.called().iter().all(|call| call == "stop log"));
    bench.odd.clear();
    bench.pass(1_000, false);
    assert_eq!(bench.called(), ["stop log", "status log", "stop ip", "status ip"]);
    assert!(bench.core.is_safe() && bench.core.may_feed(bench.at()));
    // Nothing is started by an agent without a lease.
    bench.start(12, "ip");
    assert!(bench.called().is_empty());
}

#[test]
fn a_ledger_that_is_lost_does_not_let_its_scripts_run_without_a_lease() {
    let mut bench = bench();
    bench.start(10, "ip");
    bench.called();
    std::fs::remove_file(bench.directory.path().join("ledger")).unwrap();
    let ledger = Ledger::open(bench.directory.path(), bench.directory.path()).unwrap();
    bench.core = AgentCore::new(ledger, bench.core.lease());
    bench.core.inventory(&[], bench.at());
    assert!(!bench.core.is_safe(), "the next agent knows nothing of a script that runs");
    bench.pass(5_000, false);
    assert_eq!(bench.called(), ["stop ip", "status ip"]);
    assert!(bench.core.is_safe());
}

#[test]
fn without_a_lease_a_stop_is_believed_only_when_the_script_itself_says_that_it_is_down() {
    let mut bench = bench();
    bench.start(10, "ip");
    // Its stop tells a daemon to end, which takes its time.
    bench.odd.insert(("ip".into(), "stop"), Outcome::Exited { code: 0, output: String::new() });
    bench.pass(6_000, false);
    assert!(!bench.core.is_safe() && !bench.core.may_feed(bench.at()));
    bench.up.remove("ip");
    bench.pass(1_000, false);
    assert!(bench.core.is_safe() && bench.core.may_feed(bench.at()));
}

#[test]
fn a_script_that_runs_on_after_its_stop_stays_bound_until_it_says_that_it_is_down() {
    let mut bench = bench();
    bench.start(10, "ip");
    bench.odd.insert(("ip".into(), "stop"), Outcome::Exited { code: 0, output: String::new() });
    let stop = bench.order(11, v1::script_order::Kind::Stop(named("ip")));
    bench.give(vec![stop], &[]);
    assert_eq!(bench.told(), ["done 10: ok", "done 11: ok"]);
    bench.pass(6_000, false);
    assert!(!bench.core.is_safe(), "the lease runs out, and it runs on");
    bench.core.heartbeat_answered(bench.at(), bench.at());
    bench.up.remove("ip");
    let scripts = vec![named("ip")];
    let probe = bench.order(12, v1::script_order::Kind::Probe(v1::ScriptProbe { scripts }));
    bench.give(vec![probe], &[]);
    bench.pass(6_000, true);
    assert_eq!(bench.told(), ["absent up to 12"]);
    bench.pass(6_000, false);
    assert!(bench.core.is_safe());
}

#[test]
fn a_probe_asks_for_what_is_bound_here_though_the_cluster_means_another_script_now() {
    let mut bench = bench();
    bench.start(10, "ip");
    bench.told();
    let mut other = script();
    other.program = ScriptProgram::Lsb("/etc/init.d/y".into());
    let log = v1::NamedScript { member: "log".into(), script: Some(write_script(&other)) };
    let probe = |id, bench: &Bench| {
        let scripts = vec![log.clone()];
        bench.order(id, v1::script_order::Kind::Probe(v1::ScriptProbe { scripts }))
    };
    let order = probe(12, &bench);
    bench.give(vec![order], &[]);
    assert_eq!(bench.told(), ["seen ip"]);
    bench.up.remove("ip");
    bench.pass(6_000, true);
    assert_eq!(bench.told(), ["absent up to 12"]);
}

#[test]
fn a_start_under_way_is_ended_when_the_lease_runs_out_and_what_it_began_is_stopped() {
    let mut bench = bench();
    let order = bench.order(10, v1::script_order::Kind::Start(named("ip")));
    bench.give_only(vec![order], &[]);
    let call = bench.core.take_effects().scripts.remove(0);
    for _ in 0..70 {
        bench.now += 50;
        bench.core.tick(bench.at());
    }
    let effects = bench.core.take_effects();
    assert_eq!((effects.kills, effects.scripts), (vec![call.id], vec![]));
    assert!(!bench.core.is_safe());
    bench.core.script_ended(call.service, call.id, &Outcome::Cancelled, bench.at());
    bench.settle();
    assert_eq!(bench.called(), ["stop ip", "status ip"]);
    assert_eq!(bench.told(), ["done 10: it was called off"]);
    assert!(bench.core.is_safe());
}

fn missing() -> Outcome {
    Outcome::Missing("/etc/init.d/x".into())
}

#[test]
fn what_a_forgotten_service_started_is_bound_when_it_is_added_again() {
    let mut bench = bench();
    bench.start(10, "ip");
    bench.told();
    bench.odd.insert(("ip".into(), "status"), missing());
    let scripts = vec![named("ip")];
    let probe = bench.order(12, v1::script_order::Kind::Probe(v1::ScriptProbe { scripts }));
    let service_id = Uuid::from_u128(77).to_string();
    bench.give(vec![v1::ScriptOrder { service_id, ..probe }], &[]);
    assert_eq!(bench.told(), ["seen ip"], "its program has gone, and its daemon may run on");
}

#[test]
fn what_was_started_here_is_not_called_down_because_its_program_has_gone() {
    let mut bench = bench();
    bench.start(10, "ip");
    bench.told();
    for word in ["start", "stop", "status"] {
        bench.odd.insert(("ip".into(), word), missing());
    }
    let gone = "there is no /etc/init.d/x on this node";
    let stop = bench.order(11, v1::script_order::Kind::Stop(named("ip")));
    bench.give(vec![stop], &[]);
    assert_eq!(bench.told(), [format!("done 11: {gone}")]);
    let scripts = vec![named("ip")];
    let probe = bench.order(12, v1::script_order::Kind::Probe(v1::ScriptProbe { scripts }));
    bench.give(vec![probe], &[]);
    assert_eq!(bench.told(), ["seen ip"]);
    // Self-fence cannot stop it either: the watchdog bites.
    bench.pass(5_000, false);
    assert!(!bench.core.is_safe() && !bench.core.may_feed(bench.at()));
}

#[test]
fn what_was_never_started_here_is_down_where_its_program_is_not() {
    let mut bench = bench();
    for word in ["start", "stop", "status"] {
        bench.odd.insert(("ip".into(), word), missing());
    }
    let scripts = vec![named("ip")];
    let probe = bench.order(7, v1::script_order::Kind::Probe(v1::ScriptProbe { scripts }));
    bench.give(vec![probe], &[]);
    assert_eq!(bench.told(), ["absent up to 7"]);
    // A start that ran nothing leaves nothing to be stopped, so that another node can have it.
    bench.start(10, "ip");
    assert_eq!(bench.told(), ["done 10: there is no /etc/init.d/x on this node"]);
    assert!(bench.core.is_safe());
    let stop = bench.order(11, v1::script_order::Kind::Stop(named("ip")));
    bench.give(vec![stop], &[]);
    assert_eq!(bench.told(), ["done 11: ok"]);
}

#[test]
fn a_second_start_whose_program_has_gone_leaves_what_the_first_began_bound() {
    let mut bench = bench();
    bench.start(10, "ip");
    bench.odd.insert(("ip".into(), "start"), missing());
    bench.start(11, "ip");
    assert!(!bench.core.is_safe());
}

/// The node may have been dead by its lease meanwhile, and the service elsewhere.
#[test]
fn a_start_of_the_session_before_is_not_taken_up_by_the_lease_of_the_next() {
    let mut bench = bench();
    bench.pass(4_000, false);
    bench.start(10, "ip");
    bench.register();
    bench.pass(1_000, true);
    assert_eq!(bench.called(), [""; 0]);
}

#[test]
fn a_start_that_was_begun_is_refused_when_it_was_ruled_out_since() {
    let mut bench = bench();
    let order = bench.order(10, v1::script_order::Kind::Start(named("ip")));
    bench.give_only(vec![order], &[]);
    bench.core.take_effects();
    bench.floor = 20;
    bench.restart();
    bench.start(10, "ip");
    assert_eq!(bench.called(), [""; 0]);
    bench.start(21, "ip");
    assert_eq!(bench.called(), ["start ip"]);
}
