//! Sets the stage: the cluster as it was when it was last shut down in good order, and everything off.

use std::collections::BTreeMap;

use model::command::{Command, Decision, Operation, Registration, Report};
use model::domain_xml;
use model::failover_domain::FailoverDomain;
use model::fleet::{PlacementMode, ShutdownPolicy};
use model::id::{
    ClusterId, FailoverDomainName, NodeName, OrderId, PlacementRuleName, RequestId, VmName,
};
use model::liveness::Measured;
use model::node::{Capacity, FenceDevice, SeenDomain};
use model::placement_rule::{PlacementRule, PlacementRuleKind};
use model::recovery::StartLimit;
use model::settings::Settings;
use model::vm::{AutomaticMoves, Migratable, OrderIntent, Presence, StopCause, VmPolicy, VmSpec};
use uuid::Uuid;

use super::file::{self, AutoMoves, Desired, OnePerNode, Replicas, RuleKind, Scenario, Switch, Vm};
use super::seed;
use crate::sim::acts::Acts;
use crate::sim::control::{Plane, Replica};
use crate::sim::host::{SimFence, SimWatchdog};
use crate::sim::invariant;
use crate::sim::theme::Theme;
use crate::sim::trace::Trace;
use crate::sim::world::{Event, Options, Pace, World};

const WATCHDOG_MS: u64 = 2_000;
const MEMORY_MIB: u64 = 131_072;
const VM_MEMORY_MIB: u64 = 1_024;
/// How long load has to be uneven before a VM is moved: three rounds of ten seconds.
const REBALANCE_HOLD_MS: u64 = 30_000;

/// A world in which the story can begin. An error is the story's: a name that is none, or a node nobody told of.
pub fn set(scenario: &Scenario, seed: u64) -> Result<World, String> {
    let options = Options {
        seed,
        hosts: scenario.cluster.nodes.len(),
        replicas: 0,
        vms: scenario.vms.len(),
        trouble_ms: 0,
        calm_ms: 0,
        theme: Theme::Everything,
        acts: Acts::Few,
    };
    let mut world = World::new(options, invariant::all(), Trace::kept());
    world.pace = Pace {
        start: (200, 600),
        copy: (1_000, 3_000),
        fence: (500, 1_500),
        call: (1, 20),
        boot: (8_000, 10_000),
    };
    for (name, node) in &scenario.cluster.nodes {
        let memory_mib = node.mem_mib.map_or(MEMORY_MIB, |it| it.0);
        let host = world.add_host(name, memory_mib, node.cpu.unwrap_or(8.0) as u32);
        world.hosts[host].watchdog = Some(SimWatchdog { timeout_ms: WATCHDOG_MS, fed: None });
        world.hosts[host].fence = Some(SimFence::default());
    }
    for (number, vm) in scenario.vms.values().enumerate() {
        if let Some(load) = vm.load {
            world.loads.insert(Uuid::from_u128(0x1000 + number as u128), measured(load));
        }
    }
    replicas(&mut world, &scenario.cluster.replicas);
    seed_log(&mut world, scenario)?;
    for number in 0..world.replicas.len() {
        if world.replicas[number].home.is_none() {
            world.start_replica(number);
        }
    }
    let told = scenario.initial_state.as_ref().and_then(|told| told.leader_was.as_ref());
    if let Some(told) = told {
        let home = world.hosts.iter().position(|host| host.name == *told);
        // The first to lead, where it can.
        world.planes[0].leads_first =
            home.and_then(|home| world.replicas_on(home).first().copied());
    }
    world.after(1, Event::Elect(0));
    let on: Vec<usize> = scenario
        .cluster
        .nodes
        .values()
        .enumerate()
        .filter(|(_, node)| node.power == Switch::On)
        .map(|(number, _)| number)
        .collect();
    for host in on {
        world.power_on(host);
    }
    Ok(world)
}

fn replicas(world: &mut World, replicas: &Replicas) {
    let homes: Vec<Option<usize>> = match replicas {
        Replicas::Number(number) => vec![None; *number],
        Replicas::Word(OnePerNode::OnePerNode) => (0..world.hosts.len()).map(Some).collect(),
    };
    for home in &homes {
        world.replicas.push(Replica::new(0, *home));
    }
    world.network.homes = homes;
    let traced = vec![Default::default(); world.hosts.len()];
    world.planes.push(Plane::new((0..world.replicas.len()).collect(), traced));
}

/// A measured load.
pub fn measured(load: file::Size) -> Measured {
    Measured {
        cpu_milli: (load.cpu.unwrap_or(0.0).max(0.0) * 1_000.0) as u64,
        memory_mib: load.mem_mib.map_or(0, |it| it.0),
    }
}

/// Writes the log of the cluster's life before the story.
pub(super) struct Scribe<'w> {
    pub(super) world: &'w mut World,
}

impl Scribe<'_> {
    pub(super) fn state(&self) -> std::sync::Arc<model::ClusterState> {
        self.world.planes[0].state.clone()
    }

    /// What a judge has to know of what was committed before the story begins.
    pub(super) fn tell(&mut self, event: &'static str, subject: &str) {
        self.world.trace.note(self.world.now, event, &[subject]);
    }

    pub(super) fn write(&mut self, operation: Operation) -> Result<(), String> {
        let request = RequestId(self.world.uuid());
        let command = Command { request, at: self.world.wall(), by: "before".into(), operation };
        let plane = &mut self.world.planes[0];
        plane.log.push(command.clone());
        let index = plane.log.len() as u64;
        let mut state = (*plane.state).clone();
        let outcome = state.apply(index, &command);
        plane.state = std::sync::Arc::new(state);
        outcome.map(|_| ()).map_err(|rejection| rejection.to_string())
    }
}

/// A VM of a story as Berth knows it: a name with a slash or a colon in it is no domain's, so that it is kept as it is
/// in the trace only.
pub fn spec(
    name: &str,
    vm: Option<&Vm>,
    number: usize,
    policy: VmPolicy,
) -> Result<VmSpec, String> {
    let uuid = Uuid::from_u128(0x1000 + number as u128);
    let size = vm.and_then(|vm| vm.size).unwrap_or_default();
    let memory_mib = size.mem_mib.map_or(VM_MEMORY_MIB, |it| it.0).max(1);
    let vcpus = size.cpu.map_or(1, |cpu| cpu.ceil().clamp(1.0, 4_096.0) as u32);
    let xml = format!(
        "<domain type='kvm'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>{memory_mib}</memory><vcpu>{vcpus}</vcpu></domain>"
    );
    let domain = domain_xml::parse(&xml).map_err(|error| format!("VM {name}: {error}"))?;
    Ok(VmSpec {
        name: domain.name,
        uuid,
        xml: xml.into(),
        memory_mib: domain.memory_mib,
        vcpus: domain.vcpus,
        disks: domain.disks,
        host_ties: domain.host_ties,
        policy,
    })
}

fn seed_log(world: &mut World, scenario: &Scenario) -> Result<(), String> {
    let mut scribe = Scribe { world };
    let cluster = ClusterId(Uuid::from_u128(0xC1));
    scribe.write(Operation::Initialise { cluster, settings: settings(&scenario.cluster) })?;
    for (number, (name, node)) in scenario.cluster.nodes.iter().enumerate() {
        let node_name = NodeName::new(name).map_err(|error| error.to_string())?;
        scribe.write(Operation::Register(Box::new(Registration {
            name: node_name.clone(),
            hardware: Uuid::from_u128(0xF000 + number as u128),
            boot_id: "before".into(),
            replaces: None,
            capacity: Capacity {
                memory_mib: node.mem_mib.map_or(MEMORY_MIB, |it| it.0),
                cpus: node.cpu.unwrap_or(8.0) as u32,
            },
            migration_uri: format!("sim://{number}"),
            watchdog_timeout_ms: Some(WATCHDOG_MS),
            pausable: false,
            lock_manager: None,
            agent_version: "sim".into(),
            features: Default::default(),
            inventory: BTreeMap::new(),
        })))?;
        let device = FenceDevice {
            agent: "fence_sim".into(),
            options: BTreeMap::new(),
            timeout_ms: 5_000,
            level: 0,
        };
        scribe.write(Operation::SetFenceDevices { node: node_name, devices: vec![device] })?;
    }
    for rule in scenario.rules.iter().filter(|rule| rule.kind == RuleKind::NodeAffinity) {
        for nofailback in [false, true] {
            scribe.write(Operation::PutFailoverDomain(domain_of(rule, nofailback)?))?;
        }
    }
    if scenario.vms.keys().any(|vm| policy(scenario, vm).is_ok_and(|it| stays(&it))) {
        scribe.write(Operation::PutFailoverDomain(anywhere(scenario)?))?;
    }
    for (number, (name, vm)) in scenario.vms.iter().enumerate() {
        if !vm.added_later {
            ran_before(&mut scribe, scenario, number, name, vm)?;
        }
    }
    for rule in scenario.rules.iter().filter(|rule| rule.kind != RuleKind::NodeAffinity) {
        placement_rule(&mut scribe, rule)?;
    }
    seed::nodes(&mut scribe, scenario)
}

/// What the story says of the whole cluster; a story's rounds of ten seconds are what its balancing waits by.
fn settings(cluster: &file::Cluster) -> Settings {
    Settings {
        placement: match cluster.placement {
            file::PlacementMode::Count => PlacementMode::Count,
            file::PlacementMode::Static => PlacementMode::Static,
            file::PlacementMode::Dynamic => PlacementMode::Dynamic,
        },
        shutdown_policy: match cluster.shutdown_policy {
            file::ShutdownPolicy::Conditional => ShutdownPolicy::Conditional,
            file::ShutdownPolicy::Freeze => ShutdownPolicy::Freeze,
            file::ShutdownPolicy::Failover => ShutdownPolicy::Failover,
            file::ShutdownPolicy::Migrate => ShutdownPolicy::Migrate,
        },
        rebalance_on_start: cluster.rebalance_on_start,
        auto_rebalance: cluster.auto_rebalance,
        rebalance_hold_ms: REBALANCE_HOLD_MS,
        ..Settings::default()
    }
}

/// A rule that cannot hold beside the others is refused, as it would be an operator, and the trace says so.
fn placement_rule(scribe: &mut Scribe<'_>, rule: &file::Rule) -> Result<(), String> {
    let kind = match rule.kind {
        RuleKind::Together => PlacementRuleKind::Together,
        RuleKind::Apart | RuleKind::NodeAffinity => PlacementRuleKind::Apart,
    };
    let vms = rule.vms.iter().map(|vm| VmName::new(vm).map_err(|error| error.to_string()));
    let name = PlacementRuleName::new(plain(&rule.id)).map_err(|error| error.to_string())?;
    let put = PlacementRule { name, kind, vms: vms.collect::<Result<_, _>>()? };
    if let Err(why) = scribe.write(Operation::PutPlacementRule(put)) {
        let now = scribe.world.now;
        scribe.world.trace.note(now, "rejected", &["rule", &rule.id, &why]);
    }
    Ok(())
}

/// A name with only the characters that names of rules and domains may have.
fn plain(id: &str) -> String {
    let lawful = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    id.chars().map(|letter| if lawful(letter) { letter } else { '-' }).collect()
}

/// One for the VMs that come back to a better node, and one for those that stay.
fn domain_name(id: &str, nofailback: bool) -> Result<FailoverDomainName, String> {
    let name = if nofailback { format!("{}.stay", plain(id)) } else { plain(id) };
    FailoverDomainName::new(name).map_err(|error| error.to_string())
}

fn domain_of(rule: &file::Rule, nofailback: bool) -> Result<FailoverDomain, String> {
    let best = rule.nodes.values().copied().max().unwrap_or(0);
    let mut nodes = BTreeMap::new();
    for (name, preference) in &rule.nodes {
        let node = NodeName::new(name).map_err(|error| error.to_string())?;
        nodes.insert(node, u8::try_from(best - preference + 1).unwrap_or(100).min(100));
    }
    let name = domain_name(&rule.id, nofailback)?;
    Ok(FailoverDomain {
        name,
        nodes,
        ordered: true,
        restricted: rule.strict,
        nofailback,
        failback: Default::default(),
    })
}

/// Where VMs stay that no rule binds to nodes, and that do not come back.
const ANYWHERE: &str = "anywhere";

fn anywhere(scenario: &Scenario) -> Result<FailoverDomain, String> {
    let mut nodes = BTreeMap::new();
    for name in scenario.cluster.nodes.keys() {
        nodes.insert(NodeName::new(name).map_err(|error| error.to_string())?, 1);
    }
    let name = domain_name(ANYWHERE, true)?;
    Ok(FailoverDomain {
        name,
        nodes,
        ordered: false,
        restricted: false,
        nofailback: true,
        failback: Default::default(),
    })
}

fn stays(policy: &VmPolicy) -> bool {
    let name = policy.failover_domain.as_ref().map(FailoverDomainName::as_str);
    name.is_some_and(|name| name.strip_suffix(".stay") == Some(ANYWHERE))
}

/// How a VM of the story is treated.
pub fn policy(scenario: &Scenario, name: &str) -> Result<VmPolicy, String> {
    let rule = scenario
        .rules
        .iter()
        .find(|rule| rule.kind == RuleKind::NodeAffinity && rule.vms.iter().any(|vm| vm == name));
    let told = scenario.vms.get(name);
    let nofailback = told.is_some_and(|vm| !vm.failback);
    let failover_domain = match rule {
        Some(rule) => Some(domain_name(&rule.id, nofailback)?),
        None if nofailback => Some(domain_name(ANYWHERE, true)?),
        None => None,
    };
    let cold = told.is_some_and(|vm| !vm.live || vm.auto_moves == Some(AutoMoves::Cold));
    Ok(VmPolicy {
        failover_domain,
        start_limit: StartLimit {
            retries: told.and_then(|vm| vm.max_restart).unwrap_or(1),
            relocations: Some(told.and_then(|vm| vm.max_relocate).unwrap_or(1)),
        },
        automatic_moves: if cold { AutomaticMoves::Cold } else { AutomaticMoves::Live },
        migratable: match told.is_some_and(|vm| !vm.live) {
            true => Migratable::No,
            false => Migratable::default(),
        },
        ..VmPolicy::default()
    })
}

/// It ran on its node, was stopped with the cluster, and is wanted as the story says. Its node has yet to say that it
/// does not run there any more.
fn ran_before(
    scribe: &mut Scribe<'_>,
    scenario: &Scenario,
    number: usize,
    name: &str,
    vm: &Vm,
) -> Result<(), String> {
    let spec = spec(name, Some(vm), number, policy(scenario, name)?)?;
    let (vm_name, uuid) = (spec.name.clone(), spec.uuid);
    scribe.write(Operation::AddVm(Box::new(spec)))?;
    let state = scribe.world.planes[0].state.clone();
    let told = scenario.initial_state.as_ref().and_then(|told| told.vms.get(name));
    let place = told.map_or(&vm.node, |told| &told.node);
    let home = state
        .nodes
        .values()
        .find(|node| node.name.as_str() == place)
        .ok_or_else(|| format!("VM {name} is on {place}, which is no node of the cluster"))?;
    for node in state.nodes.values() {
        let absent = Report::Absent { uuid, floor: u64::MAX, cause: None };
        let report =
            Operation::Report { node: node.id, session: node.last_session, reports: vec![absent] };
        scribe.write(report)?;
    }
    if vm.desired == Desired::Ignored {
        return scribe.write(Operation::Ignore(vm_name));
    }
    if vm.desired == Desired::Disabled {
        return Ok(());
    }
    let (node, session) = (home.id, home.last_session);
    scribe.write(Operation::Enable { vm: vm_name.clone(), on: None })?;
    decide(scribe, &vm_name, Decision::Start { node, why: "before".into(), restart: false })?;
    if let Some(told) = told {
        return seed::vm(scribe, &vm_name, told);
    }
    let seen = Report::Seen { uuid, domain: SeenDomain::active(name, Presence::Running, 1) };
    let order = order(scribe, &vm_name);
    let done = Report::OrderDone { uuid, order, error: None };
    scribe.write(Operation::Report { node, session, reports: vec![seen, done] })?;
    scribe.write(Operation::Stop { vm: vm_name.clone(), now: true })?;
    decide(scribe, &vm_name, Decision::Stop { node, graceful_ms: None })?;
    let order = self::order(scribe, &vm_name);
    let gone = Report::Absent { uuid, floor: u64::MAX, cause: Some(StopCause::Destroyed) };
    let done = Report::OrderDone { uuid, order, error: None };
    scribe.write(Operation::Report { node, session, reports: vec![gone, done] })?;
    if vm.desired == Desired::Running {
        scribe.write(Operation::Enable { vm: vm_name, on: None })?;
        // It bears the cluster's mark: what proves its node's end proves its own.
        let maybe =
            SeenDomain { generation: Some(1), ..SeenDomain::active(name, Presence::Incoming, 1) };
        let reports = vec![Report::Seen { uuid, domain: maybe }];
        scribe.write(Operation::Report { node, session, reports })?;
    }
    Ok(())
}

pub(super) fn decide(
    scribe: &mut Scribe<'_>,
    vm: &VmName,
    decision: Decision,
) -> Result<(), String> {
    let changed = scribe.world.planes[0].state.vms.get(vm).map_or(0, |record| record.changed);
    scribe.write(Operation::Decide { vm: vm.clone(), changed, decision })
}

pub(super) fn order(scribe: &Scribe<'_>, vm: &VmName) -> OrderId {
    let state = &scribe.world.planes[0].state;
    let order = state.vms.get(vm).and_then(|record| record.order.as_ref());
    debug_assert!(order.is_none_or(|it| !matches!(it.intent, OrderIntent::Migrate { .. })));
    order.map(|order| order.id).unwrap_or_default()
}
