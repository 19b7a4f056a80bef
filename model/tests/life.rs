//! Stories of VMs and nodes, told command by command: what apply takes and refuses, and what the leader plans from it.
#![expect(clippy::unwrap_used, reason = "a story that cannot be told is a test that failed")]

use std::collections::BTreeMap;

use model::cluster::{ClusterState, Detail, Outcome};
use model::command::{Command, Decision, Operation, Registration, Report};
use model::domain_xml::{self, HostTie, KeepsFrom};
use model::id::{ClusterId, Generation, NodeId, NodeName, OrderId, RequestId, SessionId, VmName};
use model::liveness::{Heard, Liveness};
use model::node::{Capacity, FenceDevice, NodeState, ProofOfDeath, SeenDomain};
use model::order::{OrderKind, outstanding};
use model::plan::{Reason, plan};
use model::recovery::{RecoveryPolicy, RestartLimit};
use model::rejection::Rejection;
use model::settings::Settings;
use model::time::Timestamp;
use model::vm::{
    Desired, Migratable, OperationPhase, Presence, StopCause, VmPolicy, VmRecord, VmSpec, VmState,
};
use uuid::Uuid;

const VM: Uuid = Uuid::from_u128(0xaa);

struct Story {
    state: ClusterState,
    index: u64,
    now: u64,
    silent: BTreeMap<NodeId, u64>,
}

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn vm() -> VmName {
    VmName::new("v").unwrap()
}

impl Story {
    fn new() -> Self {
        let mut story = Self {
            state: ClusterState::default(),
            index: 0,
            now: 1_000_000,
            silent: BTreeMap::new(),
        };
        let cluster = ClusterId(Uuid::from_u128(1));
        story.does(Operation::Initialise { cluster, settings: Settings::default() });
        story
    }

    fn with_nodes(names: &[&str]) -> Self {
        let mut story = Self::new();
        for name in names {
            story.register(name, "boot1", &[]);
        }
        story
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

    fn register(&mut self, node: &str, boot_id: &str, domains: &[(Uuid, Presence)]) -> NodeId {
        let registration = self.registration(node, boot_id, domains);
        match self.does(Operation::Register(Box::new(registration))) {
            Detail::Registered { node, .. } => {
                self.silent.remove(&node);
                node
            }
            Detail::None => panic!("no session"),
        }
    }

    fn registration(
        &self,
        node: &str,
        boot_id: &str,
        domains: &[(Uuid, Presence)],
    ) -> Registration {
        let domain =
            |(uuid, presence): &(Uuid, Presence)| (*uuid, SeenDomain::active("v", *presence, 64));
        Registration {
            name: name(node),
            hardware: Uuid::from_u128(node.bytes().map(u128::from).sum()),
            boot_id: boot_id.into(),
            replaces: self.state.node_named(&self::name(node)).map(|node| node.last_session),
            capacity: Capacity { memory_mib: 1_000, cpus: 4 },
            migration_uri: format!("qemu+tls://{node}/system"),
            watchdog_timeout_ms: None,
            pausable: false,
            lock_manager: None,
            agent_version: "1".into(),
            features: Default::default(),
            inventory: domains.iter().map(domain).collect(),
        }
    }

    fn add(&mut self, policy: VmPolicy) {
        let xml = format!(
            "<domain type='kvm'><name>v</name><uuid>{VM}</uuid><memory unit='MiB'>64</memory></domain>"
        );
        let domain = domain_xml::parse(&xml).unwrap();
        let spec = VmSpec {
            name: domain.name,
            uuid: VM,
            xml: xml.into(),
            memory_mib: domain.memory_mib,
            vcpus: domain.vcpus,
            disks: domain.disks,
            host_ties: domain.host_ties,
            policy,
        };
        self.does(Operation::AddVm(Box::new(spec)));
    }

    fn enable(&mut self) {
        self.does(Operation::Enable { vm: vm(), on: None });
    }

    fn id(&self, node: &str) -> NodeId {
        self.state.node_named(&name(node)).unwrap().id
    }

    fn session(&self, node: &str) -> SessionId {
        self.state.node_named(&name(node)).unwrap().last_session
    }

    fn record(&self) -> &VmRecord {
        &self.state.vms[&vm()]
    }

    fn reports(&mut self, node: &str, reports: Vec<Report>) {
        let (node, session) = (self.id(node), self.session(node));
        self.does(Operation::Report { node, session, reports });
    }

    fn seen(&self, presence: Presence) -> Report {
        Report::Seen { uuid: VM, domain: SeenDomain::active("v", presence, 64) }
    }

    fn absent(&self, floor: u64, cause: Option<StopCause>) -> Report {
        Report::Absent { uuid: VM, floor, cause }
    }

    fn done(&self, order: u64, error: Option<&str>) -> Report {
        Report::OrderDone { uuid: VM, order: OrderId(order), error: error.map(str::to_owned) }
    }

    fn order(&self) -> u64 {
        self.record().order.as_ref().map(|order| order.id.0).expect("no order is out")
    }

    /// All agents answer their probes: the VM is not there.
    fn answer_probes(&mut self) {
        for (node, orders) in outstanding(&self.state) {
            let node = self.state.nodes[&node].name.to_string();
            for order in orders.iter().filter(|order| order.kind == OrderKind::Probe) {
                let absent = self.absent(order.id.0, None);
                self.reports(&node, vec![absent]);
            }
        }
    }

    fn liveness(&self) -> Liveness {
        let heard = self.state.nodes.values().map(|node| {
            let silent_ms = self.silent.get(&node.id).copied().unwrap_or(0);
            (
                node.id,
                Heard {
                    session: node.last_session,
                    met: true,
                    silent_ms,
                    unanswered_ms: silent_ms,
                },
            )
        });
        Liveness { heard: heard.collect(), ..Liveness::default() }
    }

    fn reason(&self) -> Reason {
        plan(&self.state, &self.liveness(), Timestamp(self.now)).vms[&vm()].clone()
    }

    /// The leader plans and proposes until nothing changes any more. Returns the decisions in short.
    fn lead(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let operations = plan(&self.state, &self.liveness(), Timestamp(self.now)).operations;
            if operations.is_empty() {
                return all;
            }
            for operation in operations {
                let text = match &operation {
                    Operation::Decide { decision, .. } => match decision {
                        Decision::Start { node, restart, .. } => {
                            format!(
                                "start on {}{}",
                                self.state.node_name(*node),
                                if *restart { ", a restart" } else { "" }
                            )
                        }
                        Decision::Stop { node, .. } => {
                            format!("stop on {}", self.state.node_name(*node))
                        }
                        Decision::Migrate { to, .. } => {
                            format!("migrate to {}", self.state.node_name(*to))
                        }
                        Decision::Adopt { node } => {
                            format!("adopt on {}", self.state.node_name(*node))
                        }
                        Decision::Settle => "settle".into(),
                        Decision::Disable { .. } => "disable".into(),
                        Decision::Delay { .. } => "delay".into(),
                        Decision::Conflict => "conflict".into(),
                        Decision::FailOperation { .. } => "give up".into(),
                        Decision::AskMove { to, .. } => {
                            format!("move to {}", self.state.node_name(*to))
                        }
                        Decision::StopForShutdown { node, .. } => {
                            format!("stop with {}", self.state.node_name(*node))
                        }
                        Decision::Resume { node } => {
                            format!("resume on {}", self.state.node_name(*node))
                        }
                        Decision::Unfreeze => "unfreeze".into(),
                        Decision::TellAgain { .. } => "tell again".into(),
                        Decision::Fulfilled => "fulfilled".into(),
                        Decision::DependsMet => "depends met".into(),
                        Decision::Move { to, mode, .. } => {
                            let how = if mode.is_some() { "move" } else { "move cold" };
                            format!("{how} to {}", self.state.node_name(*to))
                        }
                        Decision::Evict { node, .. } => {
                            format!("evict from {}", self.state.node_name(*node))
                        }
                    },
                    other => other.subject().split(' ').next().unwrap_or_default().to_owned(),
                };
                self.does(operation);
                all.push(text);
            }
        }
    }

    /// A VM that runs on the node that placement chose.
    fn running(policy: VmPolicy, nodes: &[&str]) -> (Self, String) {
        let mut story = Self::with_nodes(nodes);
        story.add(policy);
        story.answer_probes();
        story.enable();
        story.lead();
        let place = story.owner();
        let (order, seen) = (story.order(), story.seen(Presence::Running));
        let done = story.done(order, None);
        story.reports(&place, vec![seen, done]);
        assert_eq!(story.record().state, VmState::Started);
        (story, place)
    }

    fn owner(&self) -> String {
        self.state.node_name(self.record().owner.expect("no owner"))
    }

    fn dies(&mut self, node: &str) {
        let id = self.id(node);
        self.silent.insert(id, 10_000);
        self.lead();
    }

    /// It is lost; its fence is asked, and says off.
    fn is_fenced(&mut self, node: &str) {
        let (node, session) = (self.id(node), self.session(node));
        self.does(Operation::FenceAsked { node, session });
        self.does(Operation::NodeDead { node, session, proof: fenced() });
    }
}

fn fenced() -> ProofOfDeath {
    ProofOfDeath::Fenced { device: "fence_test".into() }
}

#[test]
fn a_new_vm_is_not_started_before_every_node_has_said_that_it_is_not_there() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.add(VmPolicy::default());
    story.enable();
    assert!(story.lead().is_empty());
    assert!(matches!(story.reason(), Reason::MayRunOn { .. }));
    // The law is in apply itself, whatever is planned.
    let decision = Decision::Start { node: story.id("a"), why: "because".into(), restart: false };
    let changed = story.record().changed;
    let refused = story.tries(Operation::Decide { vm: vm(), changed, decision }).unwrap_err();
    assert!(matches!(refused, Rejection::MayRunElsewhere { .. }), "{refused}");
    story.answer_probes();
    assert_eq!(story.lead(), ["start on a"]);
}

#[test]
fn a_vm_that_runs_already_is_tracked_and_not_started() {
    let mut story = Story::new();
    story.register("a", "boot1", &[]);
    story.register("b", "boot1", &[(VM, Presence::Running)]);
    story.add(VmPolicy::default());
    assert_eq!(story.record().state, VmState::Disabled, "adding starts and stops nothing");
    story.enable();
    assert_eq!(story.lead(), ["adopt on b"]);
    assert_eq!((story.record().state, story.owner().as_str()), (VmState::Started, "b"));
}

#[test]
fn a_word_spoken_before_the_order_arrived_takes_no_node_out_of_the_set() {
    let mut story = Story::with_nodes(&["a"]);
    story.add(VmPolicy::default());
    story.answer_probes();
    story.enable();
    story.lead();
    let order = story.order();
    let old_word = story.absent(order - 1, None);
    story.reports("a", vec![old_word]);
    let a = story.id("a");
    assert!(story.record().may_run.contains_key(&a));
    assert_eq!(story.record().state, VmState::Starting);
}

#[test]
fn reports_of_an_old_session_are_refused() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    let (node, old) = (story.id(&place), story.session(&place));
    story.register(&place, "boot1", &[(VM, Presence::Running)]);
    let reports = vec![story.absent(u64::MAX, None)];
    let refused = story.tries(Operation::Report { node, session: old, reports }).unwrap_err();
    assert!(matches!(refused, Rejection::OldSession { .. }), "{refused}");
    assert_eq!(story.record().state, VmState::Started);
}

#[test]
fn a_qemu_that_dies_is_restarted_in_place_and_moved_when_its_limit_is_spent() {
    let limit = RestartLimit { max_restarts: 1, expire_ms: 600_000 };
    let policy = VmPolicy { restart_limit: limit, ..VmPolicy::default() };
    let (mut story, place) = Story::running(policy, &["a", "b"]);
    let gone = story.absent(u64::MAX, Some(StopCause::Crashed));
    story.reports(&place, vec![gone.clone()]);
    assert_eq!(story.lead(), [format!("start on {place}, a restart")]);
    let started = vec![story.seen(Presence::Running), story.done(story.order(), None)];
    story.reports(&place, started);
    story.reports(&place, vec![gone]);
    let other = if place == "a" { "b" } else { "a" };
    assert_eq!(story.lead(), [format!("start on {other}")]);
    assert_eq!(story.record().restart_count, 2);
}

#[test]
fn a_vm_whose_policy_is_disable_stays_down_when_it_fails() {
    let policy = VmPolicy { recovery: RecoveryPolicy::Disable, ..VmPolicy::default() };
    let (mut story, place) = Story::running(policy, &["a", "b"]);
    let gone = story.absent(u64::MAX, Some(StopCause::Crashed));
    story.reports(&place, vec![gone]);
    assert_eq!(story.lead(), ["disable"]);
    assert_eq!(
        (story.record().state, story.record().desired),
        (VmState::Disabled, Desired::Disabled)
    );
}

#[test]
fn silence_alone_recovers_nothing_and_a_proof_does() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    story.dies(&place);
    let node = story.state.node_named(&name(&place)).unwrap().clone();
    assert_eq!(node.state, NodeState::Lost);
    assert!(matches!(story.reason(), Reason::OwnerSilent { .. }));
    assert_eq!((story.record().state, story.owner()), (VmState::Started, place.clone()));
    story.is_fenced(&place);
    let other = if place == "a" { "b" } else { "a" };
    assert_eq!(story.lead(), [format!("start on {other}")]);
}

#[test]
fn a_lost_node_with_a_fence_device_is_fenced_and_may_not_register_before_that_is_resolved() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    let device = FenceDevice {
        agent: "fence_test".into(),
        options: BTreeMap::new(),
        timeout_ms: 1_000,
        level: 0,
    };
    story.does(Operation::SetFenceDevices { node: name(&place), devices: vec![device] });
    story.dies(&place);
    assert_eq!(story.state.node_named(&name(&place)).unwrap().state, NodeState::Fencing);
    let registration = story.registration(&place, "boot1", &[(VM, Presence::Running)]);
    let refused = story.tries(Operation::Register(Box::new(registration))).unwrap_err();
    assert!(matches!(refused, Rejection::FenceUnresolved { .. }), "{refused}");
    let (node, session) = (story.id(&place), story.session(&place));
    story.does(Operation::FenceFailed { node, session, error: "dark".into() });
    story.register(&place, "boot1", &[(VM, Presence::Running)]);
    assert_eq!((story.record().state, story.owner()), (VmState::Started, place));
}

#[test]
fn a_fence_under_way_keeps_its_node_out_whatever_proved_its_death_meanwhile() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    let device = FenceDevice {
        agent: "fence_test".into(),
        options: BTreeMap::new(),
        timeout_ms: 1_000,
        level: 0,
    };
    story.does(Operation::SetFenceDevices { node: name(&place), devices: vec![device] });
    story.dies(&place);
    let (node, session) = (story.id(&place), story.session(&place));
    let lease = ProofOfDeath::Lease { silent_ms: 6_000 };
    story.does(Operation::NodeDead { node, session, proof: lease });
    // Its VM does not wait for the fence; the node does, for it may still be cut off.
    assert_eq!(story.lead().len(), 1);
    for boot in ["boot1", "boot2"] {
        let registration = story.registration(&place, boot, &[]);
        let refused = story.tries(Operation::Register(Box::new(registration))).unwrap_err();
        assert!(matches!(refused, Rejection::FenceUnresolved { .. }), "{boot}: {refused}");
    }
    story.tries(Operation::RemoveNode(name(&place))).unwrap_err();
    story.does(Operation::NodeDead { node, session, proof: fenced() });
    let again = story.tries(Operation::NodeDead { node, session, proof: fenced() }).unwrap_err();
    assert!(matches!(again, Rejection::Superseded { .. }), "{again}");
    story.register(&place, "boot2", &[]);
}

#[test]
fn nodes_that_fell_silent_together_are_a_mass_loss_though_one_is_found_out_first() {
    for (others, braked) in [([2_600, 0], true), ([1_900, 0], false), ([0, 0], false)] {
        let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b", "c"]);
        let rest: Vec<NodeId> = ["a", "b", "c"]
            .into_iter()
            .filter(|node| *node != place)
            .map(|node| story.id(node))
            .collect();
        story.silent.insert(story.id(&place), 3_001);
        for (node, silent_ms) in rest.into_iter().zip(others) {
            story.silent.insert(node, silent_ms);
        }
        let planned = plan(&story.state, &story.liveness(), Timestamp(story.now)).operations;
        let brakes = planned.iter().any(|it| matches!(it, Operation::MassLoss { .. }));
        let loses = planned.iter().any(|it| matches!(it, Operation::NodeLost { .. }));
        assert_eq!((brakes, loses), (braked, !braked), "{others:?}: {planned:?}");
    }
}

/// One that an operator has fenced meanwhile counts: what was decided knew of two.
#[test]
fn apply_itself_refuses_a_fence_when_more_nodes_are_lost_than_its_leader_knew() {
    let names = ["a", "b", "c", "d"];
    let (mut story, place) = Story::running(VmPolicy::default(), &names);
    let others: Vec<_> = names.into_iter().filter(|it| *it != place).collect();
    for node in &others {
        let device = FenceDevice {
            agent: "fence_x".into(),
            options: BTreeMap::new(),
            timeout_ms: 1_000,
            level: 0,
        };
        story.does(Operation::SetFenceDevices { node: name(node), devices: vec![device] });
    }
    story.dies(others[0]);
    story.dies(others[1]);
    let (node, session) = (story.id(others[0]), story.session(others[0]));
    let asked = Operation::FenceAsked { node, session };
    story.does(Operation::FenceNode { node: name(others[2]), why: "x".into() });
    assert_eq!(story.tries(asked).unwrap_err(), Rejection::Braked);
}

#[test]
fn the_release_of_a_mass_loss_is_of_the_nodes_it_names_and_ends_with_it() {
    let names = ["a", "b", "c", "d", "e"];
    let (mut story, place) = Story::running(VmPolicy::default(), &names);
    let others: Vec<NodeId> =
        names.into_iter().filter(|it| *it != place).map(|it| story.id(it)).collect();
    let planned = |story: &Story| {
        let plan = plan(&story.state, &story.liveness(), Timestamp(story.now)).operations;
        let mass =
            |it: &&Operation| matches!(it, Operation::MassLoss { .. } | Operation::MassLossOver);
        let lost = plan.iter().filter(|it| matches!(it, Operation::NodeLost { .. })).count();
        (plan.iter().find(mass).cloned(), lost)
    };
    for node in &others[..3] {
        story.silent.insert(*node, 3_001);
    }
    let named = Operation::MassLoss { nodes: others[..3].to_vec() };
    assert_eq!(planned(&story), (Some(named.clone()), 0));
    story.does(named.clone());
    let release = |story: &Story, of: &[NodeId]| Operation::ReleaseMassLoss {
        nodes: of.iter().map(|id| name(&story.state.node_name(*id))).collect(),
    };
    let refused = story.tries(release(&story, &others[..2])).unwrap_err();
    let third = story.state.node_name(others[2]);
    assert_eq!(refused, Rejection::OthersLost { nodes: third });
    story.does(release(&story, &others[..3]));
    assert_eq!(planned(&story), (None, 3), "they go the way of any lost node");
    let refused = story.tries(named).unwrap_err();
    assert!(matches!(refused, Rejection::Superseded { .. }), "{refused}");
    // The operator has not seen the fourth.
    story.silent.insert(others[3], 3_001);
    let anew = Operation::MassLoss { nodes: others.clone() };
    assert_eq!(planned(&story), (Some(anew.clone()), 0));
    story.does(anew);
    assert!(story.state.braked());
    let refused = story.tries(release(&story, &others[..3])).unwrap_err();
    assert!(matches!(refused, Rejection::OthersLost { .. }), "{refused}");
    story.does(release(&story, &others));
    // One that came back and falls silent again is another loss, also while the others are still out.
    let back = story.state.node_name(others[0]);
    story.register(&back, "boot1", &[]);
    story.silent.insert(others[0], 3_001);
    assert_eq!(planned(&story), (Some(Operation::MassLoss { nodes: others.clone() }), 0));
    // One of them never comes back: what falls silent days later is no part of that.
    story.silent.clear();
    story.silent.insert(others[0], 3_001);
    assert_eq!(planned(&story), (Some(Operation::MassLossOver), 1));
}

#[test]
fn a_proof_of_an_old_session_says_nothing_of_the_new_one() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    let (node, session) = (story.id(&place), story.session(&place));
    story.dies(&place);
    story.register(&place, "boot1", &[(VM, Presence::Running)]);
    let refused = story.tries(Operation::NodeDead { node, session, proof: fenced() }).unwrap_err();
    assert!(matches!(refused, Rejection::Superseded { .. }), "{refused}");
    assert_eq!(story.record().may_run.len(), 1);
}

#[test]
fn the_same_hardware_with_a_new_boot_id_is_proof_enough() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    story.register(&place, "boot2", &[]);
    assert_eq!(story.record().state, VmState::Recovering);
    assert_eq!(story.lead().len(), 1, "it starts again");
    let registration =
        Registration { hardware: Uuid::from_u128(99), ..story.registration("a", "boot3", &[]) };
    let refused = story.tries(Operation::Register(Box::new(registration))).unwrap_err();
    assert!(matches!(refused, Rejection::OtherHardware { .. }), "{refused}");
}

#[test]
fn a_stop_that_is_reported_before_the_absence_is_a_stop_all_the_same() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    story.does(Operation::Restart(vm()));
    assert_eq!(story.lead(), [format!("stop on {place}")]);
    let order = story.order();
    // The two words of one agent, in two log entries, with a plan between them.
    let done = story.done(order, None);
    story.reports(&place, vec![done]);
    assert_eq!(story.lead(), [format!("start on {place}")]);
    let late = story.absent(order, Some(StopCause::GuestShutdown));
    story.reports(&place, vec![late]);
    let started = vec![story.seen(Presence::Running), story.done(story.order(), None)];
    story.reports(&place, started);
    let operation = story.record().operation.clone().unwrap();
    assert_eq!((story.record().state, operation.phase), (VmState::Started, OperationPhase::Done));
}

#[test]
fn a_migration_has_both_nodes_in_the_set_until_the_source_has_let_go() {
    let (mut story, source) = Story::running(VmPolicy::default(), &["a", "b"]);
    let target = if source == "a" { "b" } else { "a" };
    story.does(Operation::Migrate { vm: vm(), to: name(target), mode: None });
    assert_eq!(story.lead(), [format!("migrate to {target}")]);
    assert_eq!(story.record().may_run.len(), 2);
    let order = story.order();
    let incoming = story.seen(Presence::Incoming);
    story.reports(target, vec![incoming]);
    assert!(story.lead().is_empty(), "a half-built copy is nothing to adopt");
    let done = story.done(order, None);
    story.reports(&source, vec![done]);
    assert!(
        story.lead().is_empty(),
        "the source's order is done, and where the guest is now the target has to say"
    );
    let running = story.seen(Presence::Running);
    story.reports(target, vec![running]);
    let gone = story.absent(order, Some(StopCause::MigratedAway));
    story.reports(&source, vec![gone]);
    assert_eq!(story.lead(), [format!("adopt on {target}")]);
    assert_eq!((story.record().state, story.owner().as_str()), (VmState::Started, target));
    assert_eq!(story.record().may_run.len(), 1);
}

#[test]
fn a_vm_with_something_of_its_host_is_not_migrated_unless_the_operator_says_so() {
    for (migratable, allowed) in
        [(Migratable::Auto, false), (Migratable::Yes, true), (Migratable::No, false)]
    {
        let policy = VmPolicy { migratable, ..VmPolicy::default() };
        let (mut story, source) = Story::running(policy, &["a", "b"]);
        let mut spec = story.record().spec.clone();
        spec.host_ties = vec![HostTie {
            what: "the host's TPM /dev/tpm0".into(),
            keeps_from: KeepsFrom::Migrating,
        }];
        story.does(Operation::EditVm(Box::new(spec)));
        let to = name(if source == "a" { "b" } else { "a" });
        let asked = story.tries(Operation::Migrate { vm: vm(), to, mode: None });
        assert_eq!(asked.is_ok(), allowed, "{migratable:?}");
        if migratable == Migratable::Auto {
            let text = asked.unwrap_err().to_string();
            assert!(text.contains("the host's TPM /dev/tpm0"), "{text}");
        }
    }
}

#[test]
fn a_migration_that_fails_leaves_the_vm_where_it_was_and_the_target_has_to_let_go() {
    let (mut story, source) = Story::running(VmPolicy::default(), &["a", "b"]);
    let target = if source == "a" { "b" } else { "a" };
    story.does(Operation::Migrate { vm: vm(), to: name(target), mode: None });
    story.lead();
    let failed = story.done(story.order(), Some("no route"));
    story.reports(&source, vec![failed]);
    assert_eq!((story.record().state, story.owner()), (VmState::Started, source.clone()));
    assert_eq!(story.record().may_run.len(), 2);
    story.answer_probes();
    assert_eq!(story.record().may_run.len(), 1);
    assert!(matches!(&story.record().operation.as_ref().unwrap().phase, OperationPhase::Failed(_)));
}

#[test]
fn the_death_of_the_source_during_a_migration_is_settled_by_the_targets_word() {
    let (mut story, source) = Story::running(VmPolicy::default(), &["a", "b"]);
    let target = if source == "a" { "b" } else { "a" };
    story.does(Operation::Migrate { vm: vm(), to: name(target), mode: None });
    story.lead();
    story.dies(&source);
    story.is_fenced(&source);
    assert!(story.lead().is_empty(), "it may have arrived at the target");
    story.answer_probes();
    assert_eq!(story.lead(), [format!("start on {target}")]);
}

#[test]
fn a_vm_that_leaves_by_a_migration_of_somebody_elses_is_not_restarted() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    let gone = story.absent(u64::MAX, Some(StopCause::MigratedAway));
    story.reports(&place, vec![gone]);
    assert_eq!(story.record().state, VmState::Lost);
    assert!(story.lead().is_empty());
    let other = if place == "a" { "b" } else { "a" };
    let here = story.seen(Presence::Running);
    story.reports(other, vec![here]);
    assert_eq!(story.lead(), [format!("adopt on {other}")]);
    assert_eq!(story.record().restart_count, 0);
}

#[test]
fn a_vm_seen_twice_is_a_conflict_after_a_moment_and_nothing_is_done_by_itself() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    let other = if place == "a" { "b" } else { "a" };
    let here = story.seen(Presence::Running);
    story.reports(other, vec![here]);
    assert!(story.lead().is_empty(), "one of the two may be about to lose it");
    story.now += 10_000;
    assert_eq!(story.lead(), ["conflict"]);
    story.now += 100_000;
    assert!(story.lead().is_empty());
    assert!(matches!(story.reason(), Reason::Conflict { .. }));
}

#[test]
fn a_start_that_fails_is_tried_on_the_other_nodes_and_then_later() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.add(VmPolicy::default());
    story.answer_probes();
    story.enable();
    for place in ["a", "b"] {
        assert_eq!(story.lead(), [format!("start on {place}")]);
        let order = story.order();
        let failed = vec![story.done(order, Some("no such disk")), story.absent(order, None)];
        story.reports(place, failed);
    }
    assert_eq!(story.lead(), ["delay"]);
    assert!(matches!(story.reason(), Reason::WaitingUntil { .. }));
    story.now += 600_000;
    assert_eq!(story.lead(), ["start on a"]);
}

#[test]
fn forgetting_and_adding_again_starts_with_every_node_in_the_set() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    story.does(Operation::ForgetVm(vm()));
    story.add(VmPolicy::default());
    assert_eq!(story.record().may_run.len(), 2);
    story.enable();
    assert_eq!(story.lead(), [format!("adopt on {place}")]);
}

#[test]
fn the_target_of_a_migration_under_way_stays_in_the_set_when_it_boots_anew() {
    let (mut story, source) = Story::running(VmPolicy::default(), &["a", "b"]);
    let target = if source == "a" { "b" } else { "a" };
    story.does(Operation::Migrate { vm: vm(), to: name(target), mode: None });
    story.lead();
    let order = story.order();
    story.register(target, "boot2", &[]);
    assert_eq!(story.record().may_run.len(), 2, "the source has not given up yet");
    // The migration was faster than the word that it is called off, and the source's reports faster than the target's.
    let left = vec![story.done(order, None), story.absent(order, Some(StopCause::MigratedAway))];
    story.reports(&source, left);
    assert!(story.lead().is_empty(), "the target has to speak");
    let here = story.seen(Presence::Running);
    story.reports(target, vec![here]);
    assert_eq!(story.lead(), [format!("adopt on {target}")]);
}

#[test]
fn a_migration_to_a_node_that_died_ends_where_it_began() {
    let (mut story, source) = Story::running(VmPolicy::default(), &["a", "b"]);
    let target = if source == "a" { "b" } else { "a" };
    story.does(Operation::Migrate { vm: vm(), to: name(target), mode: None });
    story.lead();
    story.dies(target);
    story.is_fenced(target);
    let failed = story.done(story.order(), Some("cancelled"));
    story.reports(&source, vec![failed]);
    assert_eq!((story.record().state, story.owner()), (VmState::Started, source));
    assert_eq!(story.record().may_run.len(), 1);
}

#[test]
fn a_target_that_died_before_the_source_of_its_migration_is_proven_dead_once_more() {
    let (mut story, source) = Story::running(VmPolicy::default(), &["a", "b", "c", "d"]);
    let target = if source == "a" { "b" } else { "a" };
    story.does(Operation::Migrate { vm: vm(), to: name(target), mode: None });
    story.lead();
    for node in [target, source.as_str()] {
        story.dies(node);
        story.is_fenced(node);
    }
    // The source may have migrated it to a target that booted again and did not register, until it died itself.
    assert!(story.record().may_run.contains_key(&story.id(target)));
    assert_eq!(story.state.nodes[&story.id(target)].state, NodeState::Lost);
    story.is_fenced(target);
    assert!(story.record().may_run.is_empty());
    assert!(story.lead().iter().any(|line| line.starts_with("start on")), "it starts elsewhere");
}

#[test]
fn a_target_that_died_at_the_handover_is_proven_dead_once_more_and_not_waited_for() {
    let (mut story, source) = Story::running(VmPolicy::default(), &["a", "b", "c", "d"]);
    let target = if source == "a" { "b" } else { "a" };
    story.does(Operation::Migrate { vm: vm(), to: name(target), mode: None });
    story.lead();
    let order = story.order();
    story.dies(target);
    story.is_fenced(target);
    let left = vec![story.done(order, None), story.absent(order, Some(StopCause::MigratedAway))];
    story.reports(&source, left);
    assert_eq!(story.state.nodes[&story.id(target)].state, NodeState::Lost);
    story.is_fenced(target);
    assert!(story.record().may_run.is_empty());
    assert!(story.lead().iter().any(|line| line.starts_with("start on")), "it starts again");
}

#[test]
fn a_registration_that_was_long_on_its_way_is_not_taken_for_a_new_boot() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    // Of a boot that never came to register before the next one did.
    let late = story.registration(&place, "boot2", &[]);
    story.register(&place, "boot3", &[(VM, Presence::Running)]);
    let refused = story.tries(Operation::Register(Box::new(late))).unwrap_err();
    assert!(matches!(refused, Rejection::OutOfTurn { .. }), "{refused}");
}

#[test]
fn only_a_node_that_is_proven_dead_can_be_removed() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    story.does(Operation::ForgetVm(vm()));
    story.dies(&place);
    let refused = story.tries(Operation::RemoveNode(name(&place))).unwrap_err();
    assert!(matches!(refused, Rejection::NodeInUse { .. }), "{refused}");
    story.is_fenced(&place);
    story.does(Operation::RemoveNode(name(&place)));
    assert!(story.state.node_named(&name(&place)).is_none());
}

#[test]
fn a_guest_that_ends_before_its_start_is_reported_is_a_failure_and_not_a_start() {
    let mut story = Story::with_nodes(&["a"]);
    story.add(VmPolicy::default());
    story.answer_probes();
    story.enable();
    story.lead();
    let order = story.order();
    let reports = vec![story.absent(order, Some(StopCause::Failed)), story.done(order, None)];
    story.reports("a", reports);
    assert_eq!(story.record().state, VmState::Recovering);
    assert_eq!(story.lead(), ["start on a, a restart"]);
}

#[test]
fn a_vm_last_seen_on_a_node_that_fell_silent_waits_for_that_node() {
    let mut story = Story::with_nodes(&["a", "b"]);
    story.register("b", "boot1", &[(VM, Presence::Running)]);
    story.add(VmPolicy::default());
    story.dies("b");
    story.enable();
    story.answer_probes();
    assert!(story.lead().is_empty());
    assert!(matches!(story.reason(), Reason::OwnerSilent { .. }));
}

#[test]
fn what_was_asked_on_an_older_record_is_refused_and_changes_nothing() {
    let mut story = Story::with_nodes(&["a"]);
    story.add(VmPolicy::default());
    let seen = story.record().changed;
    let guarded =
        |operation| Operation::IfUnchanged { changed: seen, operation: Box::new(operation) };
    story.does(guarded(Operation::Enable { vm: vm(), on: None }));
    let before = story.record().clone();
    let refused = story.tries(guarded(Operation::Disable(vm()))).unwrap_err();
    assert_eq!(refused, Rejection::Superseded { what: "VM v".into() });
    assert_eq!(*story.record(), before);
    let refused = story.tries(guarded(Operation::RemoveNode(name("a")))).unwrap_err();
    assert!(matches!(refused, Rejection::OutOfRange { .. }), "no VM is meant: {refused}");
}

#[test]
fn a_guarded_request_that_is_sent_again_is_answered_as_the_first_time() {
    let mut story = Story::with_nodes(&["a"]);
    story.add(VmPolicy::default());
    let operation = Box::new(Operation::Enable { vm: vm(), on: None });
    let operation = Operation::IfUnchanged { changed: story.record().changed, operation };
    let request = RequestId(Uuid::from_u128(7));
    let command = Command { request, at: Timestamp(1), by: "test".into(), operation };
    let first = story.state.apply(story.index + 1, &command).unwrap();
    let again = story.state.apply(story.index + 2, &command).unwrap();
    assert_eq!(first, again, "the record has changed since, by this very request");
}

#[path = "life/guest.rs"]
mod guest;
#[path = "life/hands_off.rs"]
mod hands_off;
#[path = "life/with_host.rs"]
mod with_host;

#[test]
fn a_suspended_copy_is_not_resumed_while_nodes_that_a_backup_does_not_know_may_run_it() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    story.now += 60_000;
    story.state.quiet_until = Timestamp(story.now + 40_000);
    let generation = Some(story.record().generation.0);
    let mut domain = SeenDomain::active("v", Presence::Suspended, 64);
    domain.generation = generation;
    story.reports(&place, vec![Report::Seen { uuid: VM, domain }]);
    assert!(story.lead().is_empty(), "{}", story.reason());
    assert!(story.reason().to_string().contains("was restored"), "{}", story.reason());
    story.now += 40_001;
    assert_eq!(story.lead(), [format!("resume on {place}")]);
}

#[test]
fn a_copy_from_before_a_start_that_a_backup_does_not_know_is_not_resumed() {
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    let other = if place == "a" { "b" } else { "a" };
    let copy = story.record().generation;
    let mut domain = SeenDomain::active("v", Presence::Suspended, 64);
    domain.generation = Some(copy.0);
    // The other node started it later, and it wrote to its disks; it has ended since.
    let generation = Generation(copy.0 + 1);
    story.reports(other, vec![Report::StartedHere { uuid: VM, generation }]);
    story.reports(&place, vec![Report::Seen { uuid: VM, domain }]);
    assert_eq!(story.lead(), [format!("evict from {place}")]);
}

#[test]
fn a_lease_proves_the_death_of_what_it_bound_and_of_nothing_else() {
    let by_lease = |story: &mut Story, node: &str| {
        let (node, session) = (story.id(node), story.session(node));
        story.does(Operation::NodeLost { node, session, silent_ms: 3_001 });
        let proof = ProofOfDeath::Lease { silent_ms: 60_000 };
        story.does(Operation::NodeDead { node, session, proof });
        story.silent.insert(node, 60_000);
    };
    // Somebody runs it on a, unmarked: its agent stops nothing there, and keeps its watchdog fed.
    let mut story = Story::with_nodes(&["a", "b"]);
    story.add(VmPolicy::default());
    story.enable();
    let b = story.absent(story.index, None);
    story.reports("b", vec![b]);
    by_lease(&mut story, "a");
    assert!(!story.lead().iter().any(|what| what.starts_with("start")), "{}", story.reason());
    assert!(story.record().may_run.contains_key(&story.id("a")));
    story.does(Operation::ConfirmOff { node: name("a"), why: "its cable is in my hand".into() });
    assert_eq!(story.lead(), ["start on b"]);
    // What Berth started there was stopped with the lease.
    let (mut story, place) = Story::running(VmPolicy::default(), &["a", "b"]);
    let other = if place == "a" { "b" } else { "a" };
    by_lease(&mut story, &place);
    assert_eq!(story.lead(), [format!("start on {other}")]);
}
