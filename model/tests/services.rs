//! Stories of services: what the leader plans, what apply takes, and what agents that do as they are told are told.
#![expect(clippy::unwrap_used, reason = "a story that cannot be told is a test that failed")]

use std::collections::{BTreeMap, BTreeSet};

use model::cluster::{ClusterState, Detail, Outcome};
use model::command::{Command, Operation, Registration, Report, ServiceAsk, ServiceDecision};
use model::domain_xml;
use model::id::{ClusterId, MemberName, NodeId, NodeName, RequestId, ServiceName, VmName};
use model::liveness::Liveness;
use model::node::{Capacity, ProofOfDeath, SeenDomain};
use model::order::{OrderKind, outstanding};
use model::plan::{Reason, plan};
use model::recovery::{RecoveryPolicy, RestartLimit};
use model::rejection::Rejection;
use model::service::order::{ScriptOrderKind, work};
use model::service::{
    MemberKind, MemberSpec, MemberWeight, Script, ScriptProgram, ServicePolicy, ServiceRecord,
    ServiceSpec, ServiceState, StatusCheck, Tolerance,
};
use model::settings::Settings;
use model::time::Timestamp;
use model::vm::{Desired, OperationPhase, Presence, StopCause, VmPolicy, VmSpec, VmState};
use uuid::Uuid;

const VM: Uuid = Uuid::from_u128(0xaa);
const SERVICE: Uuid = Uuid::from_u128(0x5e);

/// A cluster whose agents do what they are told, but for what is said otherwise.
struct Story {
    state: ClusterState,
    index: u64,
    now: u64,
    /// Scripts that are up, by node.
    up: BTreeSet<(String, String)>,
    /// Where the guest runs.
    guest: BTreeSet<String>,
    /// What fails: "start ip on n1".
    broken: BTreeSet<String>,
    /// What is said to be done and is not.
    deaf: BTreeSet<String>,
    /// What is under way and does not end.
    hung: BTreeSet<String>,
    /// What was done.
    log: Vec<String>,
}

fn node(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn vm() -> VmName {
    VmName::new("v").unwrap()
}

fn web() -> ServiceName {
    ServiceName::new("web").unwrap()
}

fn member(name: &str, kind: MemberKind) -> MemberSpec {
    MemberSpec {
        name: MemberName::new(name).unwrap(),
        kind,
        under: None,
        weight: MemberWeight::Critical,
        restart_limit: RestartLimit::default(),
        tolerance: Tolerance::default(),
    }
}

fn script(name: &str) -> MemberSpec {
    let script = Script {
        program: ScriptProgram::Lsb(format!("/etc/init.d/{name}")),
        parameters: BTreeMap::new(),
        start_timeout_ms: 60_000,
        stop_timeout_ms: 60_000,
        checks: vec![StatusCheck::default()],
    };
    member(name, MemberKind::Script(script))
}

/// An address, a VM and a log, in this order.
fn spec() -> ServiceSpec {
    ServiceSpec {
        name: web(),
        id: SERVICE,
        members: vec![script("ip"), member("v", MemberKind::Vm(vm())), script("log")],
        policy: ServicePolicy::default(),
    }
}

/// Two scripts and no VM.
fn scripts() -> ServiceSpec {
    ServiceSpec { members: vec![script("ip"), script("log")], ..spec() }
}

impl Story {
    fn new() -> Self {
        let mut story = Self {
            state: ClusterState::default(),
            index: 0,
            now: 1_000_000,
            up: BTreeSet::new(),
            guest: BTreeSet::new(),
            broken: BTreeSet::new(),
            deaf: BTreeSet::new(),
            hung: BTreeSet::new(),
            log: Vec::new(),
        };
        let cluster = ClusterId(Uuid::from_u128(1));
        story.does(Operation::Initialise { cluster, settings: Settings::default() });
        for name in ["n1", "n2"] {
            story.register(name, "boot1");
        }
        let xml = format!(
            "<domain type='kvm'><name>v</name><uuid>{VM}</uuid><memory unit='MiB'>64</memory></domain>"
        );
        let domain = domain_xml::parse(&xml).unwrap();
        story.does(Operation::AddVm(Box::new(VmSpec {
            name: domain.name,
            uuid: VM,
            xml: xml.into(),
            memory_mib: domain.memory_mib,
            vcpus: domain.vcpus,
            disks: domain.disks,
            host_ties: domain.host_ties,
            policy: VmPolicy::default(),
        })));
        story
    }

    fn with(spec: ServiceSpec) -> Self {
        let mut story = Self::new();
        story.does(Operation::AddService(Box::new(spec)));
        story.settle();
        story.log.clear();
        story
    }

    /// Enabled and up on n1.
    fn started(spec: ServiceSpec) -> Self {
        let mut story = Self::with(spec);
        story.asks(ServiceAsk::Enable { on: Some(node("n1")) });
        story.settle();
        assert_eq!(story.record().state, ServiceState::Started, "{:?}", story.reason());
        story.log.clear();
        story
    }

    /// Somebody else has it running there.
    fn runs(&mut self, member: &str, place: &str) {
        self.up.insert((place.into(), member.into()));
    }

    fn tries(&mut self, operation: Operation) -> Outcome {
        self.index += 1;
        self.now += 10;
        let request = RequestId(Uuid::from_u128(u128::from(self.index)));
        let command = Command { request, at: Timestamp(self.now), by: "test".into(), operation };
        self.state.apply(self.index, &command)
    }

    fn does(&mut self, operation: Operation) -> Detail {
        self.tries(operation).unwrap().detail
    }

    fn asks(&mut self, ask: ServiceAsk) {
        self.does(Operation::AskService { service: web(), ask });
    }

    fn refused(&mut self, ask: ServiceAsk) -> String {
        self.tries(Operation::AskService { service: web(), ask }).unwrap_err().to_string()
    }

    fn register(&mut self, name: &str, boot_id: &str) {
        let registration = Registration {
            name: node(name),
            hardware: Uuid::from_u128(name.bytes().map(u128::from).sum()),
            boot_id: boot_id.into(),
            replaces: self.state.node_named(&node(name)).map(|node| node.last_session),
            capacity: Capacity { memory_mib: 1_000, cpus: 4 },
            migration_uri: format!("qemu+tls://{name}/system"),
            watchdog_timeout_ms: None,
            pausable: false,
            lock_manager: None,
            agent_version: "1".into(),
            features: Default::default(),
            inventory: BTreeMap::new(),
        };
        self.does(Operation::Register(Box::new(registration)));
    }

    fn id(&self, name: &str) -> NodeId {
        self.state.node_named(&node(name)).unwrap().id
    }

    fn record(&self) -> &ServiceRecord {
        &self.state.services[&web()]
    }

    fn reason(&self) -> Reason {
        plan(&self.state, &Liveness::default(), Timestamp(self.now)).services[&web()].clone()
    }

    fn report(&mut self, name: &str, reports: Vec<Report>) {
        let (node, session) =
            (self.id(name), self.state.node_named(&node(name)).unwrap().last_session);
        self.does(Operation::Report { node, session, reports });
    }

    /// A check of a script that is up fails.
    fn check_fails(&mut self, member: &str) {
        let owner = self.record().owner.unwrap();
        let owner = self.state.node_name(owner);
        let member = MemberName::new(member).unwrap();
        let started_by = self.record().members[&member].started_by;
        let error = Some("it is down".into());
        let status = Report::ScriptStatus { service: SERVICE, member, started_by, error };
        self.report(&owner, vec![status]);
    }

    /// The guest is gone.
    fn guest_dies(&mut self, name: &str) {
        self.guest.remove(name);
        let cause = Some(StopCause::Crashed);
        self.report(name, vec![Report::Absent { uuid: VM, floor: u64::MAX, cause }]);
    }

    /// The node is silent, and its death is proven.
    fn dies(&mut self, name: &str) {
        let (node, session) =
            (self.id(name), self.state.node_named(&node(name)).unwrap().last_session);
        self.up.retain(|(at, _)| at != name);
        self.guest.remove(name);
        self.does(Operation::NodeLost { node, session, silent_ms: 5_000 });
        self.settle();
        assert!(self.log.is_empty(), "nothing starts before the proof: {:?}", self.log);
        self.does(Operation::FenceAsked { node, session });
        let proof = ProofOfDeath::Fenced { device: "fence_x".into() };
        self.does(Operation::NodeDead { node, session, proof });
        self.settle();
    }

    /// Plans are proposed and orders carried out until nothing moves; the law is looked at after each step.
    fn settle(&mut self) {
        for _ in 0..200 {
            let planned = plan(&self.state, &Liveness::default(), Timestamp(self.now)).operations;
            let quiet = planned.is_empty();
            for operation in planned {
                // What is fenced, when and how is not this story's.
                if !matches!(operation, Operation::FenceAsked { .. }) {
                    // What an earlier one of the same plan has overtaken is refused.
                    let _ = self.tries(operation);
                }
            }
            let worked = self.obey();
            let places: BTreeSet<_> = self.up.iter().map(|(at, _)| at).collect();
            assert!(places.len() <= 1, "scripts run on {places:?}");
            assert!(self.guest.len() <= 1, "the guest runs on {:?}", self.guest);
            if quiet && !worked {
                return;
            }
        }
        panic!("it does not come to rest: {:?}", self.reason());
    }

    fn obey(&mut self) -> bool {
        let mut worked = false;
        for (at, orders) in outstanding(&self.state) {
            let place = self.state.node_name(at);
            for order in orders {
                worked = true;
                self.obey_vm(&place, order.id, &order.kind);
            }
        }
        for (at, work) in work(&self.state) {
            let place = self.state.node_name(at);
            for order in work.orders {
                worked |= self.obey_script(&place, order.id, order.kind);
            }
        }
        worked
    }

    fn obey_vm(&mut self, place: &str, id: model::id::OrderId, kind: &OrderKind) {
        let seen =
            || Report::Seen { uuid: VM, domain: SeenDomain::active("v", Presence::Running, 64) };
        let absent = |floor| Report::Absent { uuid: VM, floor, cause: None };
        let done = |error| Report::OrderDone { uuid: VM, order: id, error };
        let fails = |word: &str| {
            self.broken.contains(&format!("{word} v on {place}")).then(|| "no".to_owned())
        };
        match kind {
            OrderKind::Start { .. } => match fails("start") {
                Some(error) => self.report(place, vec![done(Some(error)), absent(u64::MAX)]),
                None => {
                    self.log.push(format!("start v on {place}"));
                    self.guest.insert(place.into());
                    self.report(place, vec![seen(), done(None)]);
                }
            },
            OrderKind::Stop { .. } => {
                let error = fails("stop");
                if error.is_none() {
                    self.log.push(format!("stop v on {place}"));
                    self.guest.remove(place);
                }
                self.report(place, vec![done(error)]);
            }
            OrderKind::Migrate { to, .. } => match fails("migrate") {
                Some(error) => {
                    self.report(place, vec![done(Some(error))]);
                    self.report(&to.clone(), vec![absent(u64::MAX)]);
                }
                None => {
                    self.log.push(format!("migrate v to {to}"));
                    self.guest = [to.clone()].into();
                    self.report(to, vec![seen()]);
                    self.report(place, vec![done(None), absent(u64::MAX)]);
                }
            },
            OrderKind::Probe if self.guest.contains(place) => self.report(place, vec![seen()]),
            OrderKind::Probe => self.report(place, vec![absent(id.0)]),
            _ => self.report(place, vec![done(None)]),
        }
    }

    fn obey_script(&mut self, place: &str, id: model::id::OrderId, kind: ScriptOrderKind) -> bool {
        let done = |error| Report::OrderDone { uuid: SERVICE, order: id, error };
        let (word, member) = match kind {
            ScriptOrderKind::Start { member, .. } => ("start", member),
            ScriptOrderKind::Stop { member, .. } => ("stop", member),
            ScriptOrderKind::Probe { scripts } => {
                let up =
                    |member: &MemberName| self.up.contains(&(place.into(), member.to_string()));
                let seen: Vec<_> =
                    scripts.into_iter().map(|(member, _)| member).filter(up).collect();
                let known = self.record().seen.contains_key(&self.id(place));
                let news = seen.is_empty() || !known;
                let floor = id.0;
                let report = match seen.is_empty() {
                    true => Report::Absent { uuid: SERVICE, floor, cause: None },
                    false => Report::ScriptsSeen { service: SERVICE, members: seen },
                };
                self.report(place, vec![report]);
                return news;
            }
        };
        let text = format!("{word} {member} on {place}");
        let key = (place.to_owned(), member.to_string());
        if self.hung.contains(&text) {
            return false;
        }
        if self.broken.contains(&text) {
            self.report(place, vec![done(Some("no".into()))]);
            return true;
        }
        match word {
            _ if self.deaf.contains(&text) => false,
            "start" => self.up.insert(key),
            _ => self.up.remove(&key),
        };
        self.log.push(text);
        self.report(place, vec![done(None)]);
        true
    }

    fn log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }
}

#[path = "services/asked.rs"]
mod asked;
#[path = "services/doubt.rs"]
mod doubt;
#[path = "services/held.rs"]
mod held;
#[path = "services/host.rs"]
mod host;
#[path = "services/policy.rs"]
mod policy;

#[test]
fn adding_and_forgetting_start_and_stop_nothing() {
    let mut story = Story::with(spec());
    assert!(story.log().is_empty());
    assert!(story.record().may_run.is_empty(), "every node has said that nothing of it runs there");
    let mut story = Story::started(spec());
    story.does(Operation::ForgetService(web()));
    story.settle_without_service();
    assert!(story.log().is_empty());
    assert_eq!(story.state.vms[&vm()].state, VmState::Started);
}

impl Story {
    /// What is planned once, and nothing obeyed.
    fn plans_once(&mut self) {
        for operation in plan(&self.state, &Liveness::default(), Timestamp(self.now)).operations {
            let _ = self.tries(operation);
        }
    }

    fn settle_without_service(&mut self) {
        self.plans_once();
        self.obey();
    }
}

#[test]
fn members_start_in_order_on_one_node_and_stop_in_reverse() {
    let mut story = Story::with(spec());
    story.asks(ServiceAsk::Enable { on: Some(node("n2")) });
    story.settle();
    assert_eq!(story.log(), ["start ip on n2", "start v on n2", "start log on n2"]);
    assert_eq!(story.record().operation.as_ref().unwrap().phase, OperationPhase::Done);
    story.asks(ServiceAsk::Disable);
    story.settle();
    assert_eq!(story.log(), ["stop log on n2", "stop v on n2", "stop ip on n2"]);
    assert_eq!(story.record().state, ServiceState::Disabled);
    assert!(story.record().may_run.is_empty());
}

#[test]
fn a_service_says_that_it_waits_for_the_claim_on_its_vm() {
    let mut story = Story::with(spec());
    story.does(Operation::Claim { vm: vm(), reason: "backup".into() });
    story.asks(ServiceAsk::Enable { on: Some(node("n2")) });
    story.settle();
    assert_eq!(story.log(), ["start ip on n2"]);
    assert!(matches!(story.reason(), Reason::Claimed { .. }), "{:?}", story.reason());
    story.does(Operation::Unclaim(vm()));
    story.settle();
    assert_eq!(story.log(), ["start v on n2", "start log on n2"]);
}

#[test]
fn the_node_dies_and_all_of_it_starts_elsewhere_in_order_after_the_proof() {
    let mut story = Story::started(spec());
    story.dies("n1");
    assert_eq!(story.log(), ["start ip on n2", "start v on n2", "start log on n2"]);
    assert_eq!(story.record().owner, Some(story.id("n2")));
    assert_eq!(story.record().restart_count, 1);
}

#[test]
fn a_lease_proves_the_death_of_scripts_that_were_ordered_there_and_of_no_others() {
    let by_lease = |story: &mut Story, name: &str| {
        let (node, session) =
            (story.id(name), story.state.node_named(&node(name)).unwrap().last_session);
        story.does(Operation::NodeLost { node, session, silent_ms: 5_000 });
        let proof = ProofOfDeath::Lease { silent_ms: 60_000 };
        story.does(Operation::NodeDead { node, session, proof });
    };
    // n1 was only asked: what somebody started there by hand its agent does not stop when the lease runs out.
    let mut story = Story::new();
    story.does(Operation::AddService(Box::new(spec())));
    by_lease(&mut story, "n1");
    assert!(story.record().may_run.contains_key(&story.id("n1")));
    // The same where the lease had run out before.
    story.does(Operation::ForgetService(web()));
    story.does(Operation::AddService(Box::new(spec())));
    assert!(story.record().may_run.contains_key(&story.id("n1")));
    // Nor where the service has begun, and it was not their turn yet.
    let mut story = Story::new();
    story.runs("log", "n1");
    story.does(Operation::AddService(Box::new(scripts())));
    story.settle();
    story.broken.insert("start ip on n1".into());
    story.asks(ServiceAsk::Enable { on: None });
    story.plans_once();
    assert_eq!(story.record().owner, Some(story.id("n1")));
    by_lease(&mut story, "n1");
    assert!(story.record().may_run.contains_key(&story.id("n1")));
    story.settle();
    assert!(matches!(story.reason(), Reason::OwnerSilent { .. }), "{:?}", story.reason());
    // Nor what was stopped, as it said, and runs on: its agent took the stop's word.
    let mut story = Story::started(scripts());
    story.deaf.insert("stop log on n1".into());
    story.asks(ServiceAsk::Relocate { to: None });
    story.settle();
    assert_eq!(story.record().state, ServiceState::Failed);
    by_lease(&mut story, "n1");
    story.settle();
    assert_eq!(story.record().owner, Some(story.id("n1")), "{:?}", story.reason());
    // What was ordered there is stopped with the lease.
    let mut story = Story::started(spec());
    let place = story.state.node_name(story.record().owner.unwrap());
    story.up.retain(|(at, _)| *at != place);
    story.guest.remove(&place);
    by_lease(&mut story, &place);
    story.settle();
    let owner = story.record().owner.map(|owner| story.state.node_name(owner));
    assert!(owner.is_some_and(|owner| owner != place), "{}", story.reason());
    assert_eq!(story.record().state, ServiceState::Started);
}

#[test]
fn a_critical_script_that_fails_restarts_all_in_place_and_elsewhere_when_that_came_too_often() {
    let mut spec = spec();
    spec.policy.restart_limit = RestartLimit { max_restarts: 1, expire_ms: 0 };
    let mut story = Story::started(spec);
    let stops = ["stop log on n1", "stop v on n1", "stop ip on n1"];
    for place in ["n1", "n2"] {
        story.up.remove(&("n1".into(), "log".into()));
        story.check_fails("log");
        story.settle();
        let starts = ["ip", "v", "log"].map(|member| format!("start {member} on {place}"));
        assert_eq!(story.log(), [&stops.map(String::from)[..], &starts[..]].concat());
    }
}

#[test]
fn a_vm_member_that_dies_is_recovered_by_its_service_and_not_for_itself() {
    let mut spec = spec();
    spec.policy.recovery = RecoveryPolicy::Relocate;
    let mut story = Story::started(spec);
    story.guest_dies("n1");
    story.settle();
    assert_eq!(
        story.log(),
        ["stop log on n1", "stop ip on n1", "start ip on n2", "start v on n2", "start log on n2"]
    );
}

#[test]
fn recovery_disable_leaves_all_of_it_down() {
    let mut spec = spec();
    spec.policy.recovery = RecoveryPolicy::Disable;
    let mut story = Story::started(spec);
    story.check_fails("log");
    story.settle();
    assert_eq!(
        (story.record().state, story.record().desired),
        (ServiceState::Disabled, Desired::Disabled)
    );
    assert_eq!(story.state.vms[&vm()].state, VmState::Stopped);
}

#[test]
fn an_independent_member_is_restarted_alone_with_what_hangs_below() {
    let mut spec = spec();
    spec.members[1].weight = MemberWeight::Independent;
    spec.members[2].under = Some(spec.members[1].name.clone());
    let mut story = Story::started(spec);
    story.check_fails("log");
    story.settle();
    let expected = ["stop log on n1", "stop v on n1", "start v on n1", "start log on n1"];
    assert_eq!(story.log(), expected);
    assert_eq!(story.record().state, ServiceState::Started);
}

#[test]
fn a_member_that_is_not_critical_stays_down_until_the_service_is_convalesced() {
    let mut spec = spec();
    spec.members[2].weight = MemberWeight::NonCritical;
    let mut story = Story::started(spec);
    story.check_fails("log");
    story.settle();
    assert_eq!(story.log(), ["stop log on n1"]);
    assert!(story.record().is_partial() && story.record().state == ServiceState::Started);
    story.asks(ServiceAsk::Convalesce);
    story.settle();
    assert_eq!(story.log(), ["start log on n1"]);
    assert!(!story.record().is_partial());
    assert!(story.refused(ServiceAsk::Convalesce).contains("not partial"));
}

#[test]
fn a_member_that_is_not_critical_does_not_keep_its_service_from_starting() {
    let mut spec = spec();
    spec.members[0].weight = MemberWeight::NonCritical;
    let mut story = Story::with(spec);
    story.broken.insert("start ip on n1".into());
    story.asks(ServiceAsk::Enable { on: Some(node("n1")) });
    story.settle();
    assert_eq!(story.log(), ["stop ip on n1", "start v on n1", "start log on n1"]);
    assert!(story.record().is_partial());
}

#[test]
fn failed_checks_are_let_pass_as_often_as_is_set() {
    let mut spec = spec();
    spec.members[2].tolerance = Tolerance { max_failures: 2, expire_ms: 60_000 };
    let mut story = Story::started(spec);
    for _ in 0..2 {
        story.check_fails("log");
        story.settle();
        assert!(story.log().is_empty());
    }
    story.check_fails("log");
    story.settle();
    assert_eq!(story.log().first().map(String::as_str), Some("stop log on n1"));
}

#[test]
fn a_start_that_fails_is_tried_on_the_other_nodes_and_then_again_after_a_while() {
    let mut story = Story::with(spec());
    story.broken.insert("start log on n1".into());
    story.asks(ServiceAsk::Enable { on: Some(node("n1")) });
    story.settle();
    assert_eq!(story.record().owner, Some(story.id("n2")));
    assert!(
        story
            .log()
            .ends_with(&["start ip on n2", "start v on n2", "start log on n2"].map(String::from))
    );
    story.asks(ServiceAsk::Disable);
    story.settle();
    story.broken.insert("start log on n2".into());
    story.asks(ServiceAsk::Enable { on: None });
    story.settle();
    assert!(matches!(story.reason(), Reason::WaitingUntil { .. }), "{:?}", story.reason());
    assert!(story.up.is_empty() && story.guest.is_empty());
}

#[test]
fn a_stop_that_hangs_fails_the_service_and_nothing_of_it_starts_elsewhere() {
    let mut story = Story::started(spec());
    story.broken.insert("stop ip on n1".into());
    story.asks(ServiceAsk::Relocate { to: None });
    story.settle();
    assert_eq!(story.log(), ["stop log on n1", "stop v on n1"]);
    assert_eq!(story.record().state, ServiceState::Failed);
    assert!(matches!(story.reason(), Reason::StopFailed { why } if why.contains("ip")));
    assert!(story.refused(ServiceAsk::Enable { on: None }).contains("disable"));
    // The way out.
    story.broken.clear();
    story.asks(ServiceAsk::Disable);
    story.settle();
    assert_eq!(story.record().state, ServiceState::Disabled);
    assert!(story.record().may_run.is_empty());
}

#[test]
fn a_failed_service_is_settled_by_its_agents_word_that_nothing_of_it_runs() {
    let mut story = Story::started(spec());
    story.broken.insert("stop ip on n1".into());
    story.asks(ServiceAsk::Disable);
    story.settle();
    assert_eq!(story.record().state, ServiceState::Failed);
    // Somebody stopped it by hand; the probe finds out.
    story.up.clear();
    story.settle();
    assert_eq!(story.record().state, ServiceState::Disabled);
}

#[test]
fn relocate_and_restart_stop_all_and_start_all() {
    let mut story = Story::started(spec());
    story.asks(ServiceAsk::Relocate { to: Some(node("n2")) });
    story.settle();
    assert_eq!(story.record().owner, Some(story.id("n2")));
    assert_eq!(story.log().len(), 6);
    story.asks(ServiceAsk::Restart);
    story.settle();
    assert_eq!(story.record().owner, Some(story.id("n2")));
    assert_eq!(story.log()[3..], ["start ip on n2", "start v on n2", "start log on n2"]);
}

#[test]
fn members_do_not_migrate_unless_the_service_says_together() {
    let mut story = Story::started(spec());
    let migrate = || ServiceAsk::Migrate { to: node("n2"), mode: None };
    assert!(story.refused(migrate()).contains("migrate_together"));
    let alone = Operation::Migrate { vm: vm(), to: node("n2"), mode: None };
    assert!(matches!(story.tries(alone), Err(Rejection::MemberOfService { .. })));
    let mut spec = spec();
    spec.policy.migrate_together = true;
    let mut story = Story::started(spec);
    story.asks(migrate());
    story.settle();
    assert_eq!(
        story.log(),
        ["stop log on n1", "stop ip on n1", "migrate v to n2", "start ip on n2", "start log on n2"]
    );
    assert_eq!(story.record().operation.as_ref().unwrap().phase, OperationPhase::Done);
}

#[test]
fn a_vm_that_cannot_migrate_brings_its_service_back_where_it_was() {
    let mut spec = spec();
    spec.policy.migrate_together = true;
    let mut story = Story::started(spec);
    story.broken.insert("migrate v on n1".into());
    story.asks(ServiceAsk::Migrate { to: node("n2"), mode: None });
    story.settle();
    assert_eq!(
        story.log(),
        ["stop log on n1", "stop ip on n1", "start ip on n1", "start log on n1"]
    );
    let record = story.record();
    assert_eq!((record.state, record.owner), (ServiceState::Started, Some(story.id("n1"))));
    assert!(matches!(record.operation.as_ref().unwrap().phase, OperationPhase::Failed(_)));
}

#[test]
fn frozen_nothing_is_done_to_it_and_unfrozen_what_happened_is_dealt_with() {
    let mut story = Story::started(spec());
    story.asks(ServiceAsk::Freeze { why: "upgrade".into(), for_ms: None });
    story.guest_dies("n1");
    story.check_fails("log");
    story.settle();
    assert!(story.log().is_empty());
    assert!(matches!(story.reason(), Reason::ServiceFrozen { .. }));
    assert!(work(&story.state).values().all(|work| work.watched.is_empty()));
    assert!(story.refused(ServiceAsk::Disable).contains("frozen"));
    story.asks(ServiceAsk::Unfreeze);
    story.settle();
    assert_eq!(story.record().state, ServiceState::Started);
    assert_eq!(story.log().last().map(String::as_str), Some("start log on n1"));
}

#[test]
fn a_vm_that_runs_already_decides_where_its_service_starts_and_is_tracked() {
    let mut story = Story::new();
    story.guest.insert("n2".into());
    story.does(Operation::AddService(Box::new(spec())));
    story.settle();
    story.asks(ServiceAsk::Enable { on: None });
    story.settle();
    assert_eq!(story.log(), ["start ip on n2", "start log on n2"]);
    assert_eq!(story.record().state, ServiceState::Started);
}

#[test]
fn apply_itself_refuses_a_start_while_another_node_may_run_a_script() {
    let mut story = Story::new();
    story.does(Operation::AddService(Box::new(spec())));
    story.asks(ServiceAsk::Enable { on: None });
    let (node, changed) = (story.id("n1"), story.record().changed);
    let decision = ServiceDecision::Begin { node, why: String::new(), restart: false };
    let begin = Operation::DecideService { service: web(), changed, decision };
    assert!(matches!(story.tries(begin), Err(Rejection::MayRunElsewhere { .. })));
}

#[test]
fn a_word_of_an_earlier_start_says_nothing_of_this_one() {
    let mut story = Story::started(spec());
    let ip = MemberName::new("ip").unwrap();
    let before = story.record().members[&ip].started_by;
    story.asks(ServiceAsk::Restart);
    story.settle();
    story.log.clear();
    let error = Some("late".into());
    let status = Report::ScriptStatus { service: SERVICE, member: ip, started_by: before, error };
    story.report("n1", vec![status]);
    story.settle();
    assert!(story.log().is_empty());
}

#[test]
fn specs_that_cannot_be_are_refused_with_the_member() {
    let mut story = Story::new();
    for (change, reason) in [
        ((|spec| spec.members.clear()) as fn(&mut ServiceSpec), "1 to 100 members"),
        (|spec| spec.members[1] = script("ip"), "two members are named ip"),
        (|spec| spec.members[2] = member("w", MemberKind::Vm(vm())), "VM v is a member twice"),
        (
            |spec| spec.members[0].under = Some(MemberName::new("log").unwrap()),
            "not among the members before it",
        ),
        (
            |spec| spec.members[1].kind = MemberKind::Vm(VmName::new("none").unwrap()),
            "no VM is named none",
        ),
    ] {
        let mut spec = spec();
        change(&mut spec);
        let error = story.tries(Operation::AddService(Box::new(spec))).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    story.does(Operation::AddService(Box::new(spec())));
    let mut other = spec();
    (other.name, other.id) = (ServiceName::new("other").unwrap(), Uuid::from_u128(7));
    let error = story.tries(Operation::AddService(Box::new(other))).unwrap_err().to_string();
    assert!(error.contains("member of service web already"), "{error}");
    let error = story.tries(Operation::ForgetVm(vm())).unwrap_err().to_string();
    assert!(error.contains("member of service web"), "{error}");
}

#[test]
fn a_vm_and_a_service_never_go_by_one_id() {
    let mut story = Story::new();
    let mut service = spec();
    service.id = VM;
    let error = story.tries(Operation::AddService(Box::new(service))).unwrap_err().to_string();
    assert!(error.contains("UUID of VM v"), "{error}");
    story.does(Operation::AddService(Box::new(spec())));
    let mut other = story.state.vms[&vm()].spec.clone();
    (other.name, other.uuid) = (VmName::new("w").unwrap(), SERVICE);
    let error = story.tries(Operation::AddVm(Box::new(other))).unwrap_err().to_string();
    assert!(error.contains("belongs to service web"), "{error}");
    // Where both are gone the id is free again.
    story.does(Operation::ForgetService(web()));
    let mut other = story.state.vms[&vm()].spec.clone();
    (other.name, other.uuid) = (VmName::new("w").unwrap(), SERVICE);
    story.does(Operation::AddVm(Box::new(other)));
}
#[path = "services/state_commands.rs"]
mod state_commands;
#[path = "services/unpaused.rs"]
mod unpaused;
