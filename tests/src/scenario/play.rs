//! Plays a story step by step, and says how it ended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::ClusterState;
use model::command::Operation;
use model::fleet::PauseMode;
use model::id::{NodeName, VmName};
use model::node::{AfterShutdown, NodeState};
use model::plan::Reason;
use model::vm::{Desired as Wanted, Presence, VmRecord, VmState};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::file::{
    self, Condition, Desired, Event, Link, LoadKind, Part, Scenario, Size, Step, StorePath,
    StoreState, Switch, Then, Vm, Wait, Word,
};
use super::stage;
use crate::sim::World;
use crate::sim::host::{Failing, SimDomain};
use crate::sim::network::Place;
use crate::sim::trace::Line;
use crate::sim::world;

/// A step's wait has this bound.
const BOUND_MS: u64 = 1_800_000;
/// It is looked this often whether all is settled, or a condition holds.
const LOOK_MS: u64 = 50;
/// All has to be settled for so long.
const SETTLED_MS: u64 = 3_000;
/// As long again as the slowest fence takes: one whose agent takes its time, up to twenty seconds, and the answer after.
const WATCH_MS: u64 = 25_000;
const HEARTBEAT_MS: u64 = 500;

/// How a story ended.
pub struct Played {
    /// All that happened.
    pub trace: Vec<Line>,
    /// What it was to come to and did not, with the lines that show it.
    pub broken: Vec<String>,
}

/// A story on its stage.
struct Play<'s> {
    scenario: &'s Scenario,
    world: World,
    /// What operators are still to ask: one thing after the other.
    to_ask: VecDeque<(&'static str, String, Operation)>,
    /// Operators' requests whose answers are still to be looked at: event and subject.
    asked: BTreeMap<Uuid, (&'static str, String)>,
    removed: BTreeSet<String>,
    /// VMs of which the trace says that they have no place.
    homeless: BTreeSet<String>,
    /// VMs' sizes as they are configured now.
    sizes: BTreeMap<String, Size>,
    operation_failures: usize,
    /// VMs that were put somewhere while they were down.
    placed: BTreeMap<String, String>,
    /// VMs that are to be forgotten as soon as nothing of them is under way.
    to_remove: BTreeSet<String>,
}

/// Plays it from the beginning to the end.
pub fn play(scenario: &Scenario, seed: u64) -> Result<Played, String> {
    let world = stage::set(scenario, seed)?;
    let mut play = Play {
        scenario,
        world,
        to_ask: VecDeque::new(),
        asked: BTreeMap::new(),
        removed: BTreeSet::new(),
        homeless: BTreeSet::new(),
        sizes: scenario
            .vms
            .iter()
            .filter_map(|(name, vm)| Some((name.clone(), vm.size?)))
            .collect(),
        operation_failures: 0,
        placed: BTreeMap::new(),
        to_remove: BTreeSet::new(),
    };
    play.faults();
    for (number, step) in (1..).zip(&scenario.timeline) {
        play.step(number, step)?;
    }
    play.wait_settled(scenario.timeline.len() + 1);
    let end = play.world.now + WATCH_MS;
    play.go_on(end);
    let mut lawless = Vec::new();
    if let Some(violation) = &play.world.violation {
        lawless.push(format!(
            "the law was broken: {} at {} ms: {}",
            violation.invariant, violation.at, violation.what
        ));
    }
    let last = play.ending();
    play.world.trace.end(play.world.now, last);
    let trace = play.world.trace.lines().to_vec();
    let broken = lawless.into_iter().chain(super::expect::broken(scenario, &trace)).collect();
    Ok(Played { trace, broken })
}

impl Play<'_> {
    fn host(&self, name: &str) -> Result<usize, String> {
        self.world
            .hosts
            .iter()
            .position(|host| host.name == name)
            .ok_or_else(|| format!("{name} is no node of the cluster"))
    }

    fn uuid(&self, vm: &str) -> Result<Uuid, String> {
        let number = self.scenario.vms.keys().position(|name| name == vm);
        let number = number.ok_or_else(|| format!("{vm} is no VM of the story"))?;
        Ok(Uuid::from_u128(0x1000 + number as u128))
    }

    fn faults(&mut self) {
        for (name, vm) in &self.scenario.vms {
            let (Some(faults), Ok(uuid)) = (&vm.faults, self.uuid(name)) else { continue };
            let count = |times: Option<super::file::Times>| times.map_or(0, |it| it.count());
            let failing = Failing {
                starts: if faults.missing { u32::MAX } else { count(faults.start_fails) },
                stops: count(faults.stop_fails),
                migrations: count(faults.migrate_fails),
                ..Failing::default()
            };
            // Shared by all hosts: the VM's fault, not theirs.
            let shared = std::sync::Arc::new(std::sync::Mutex::new(failing));
            for host in &self.world.hosts {
                if faults.only_on.as_ref().is_none_or(|only| *only == host.name) {
                    host.hypervisor.machine().of_vm.insert(uuid, shared.clone());
                }
            }
        }
    }

    // ---- time ----------------------------------------------------------------------------------------------------

    fn go_on(&mut self, until: u64) {
        self.world.run_until(until);
        self.look_at_answers();
    }

    /// What operators were refused, at once or later.
    fn look_at_answers(&mut self) {
        let answered: Vec<Uuid> =
            self.asked.keys().filter(|it| self.world.answers.contains_key(it)).copied().collect();
        let truth = self.world.truth();
        for request in answered {
            let Some((event, subject)) = self.asked.remove(&request) else { continue };
            if let Some(Err(why)) = self.world.answers.get(&request) {
                let why = why.clone();
                self.world.trace.note(self.world.now, "rejected", &[event, &subject, &why]);
                let known = VmName::new(&subject).is_ok_and(|name| truth.vms.contains_key(&name));
                if event == "vm.remove" && known {
                    self.removed.remove(&subject);
                    self.to_remove.insert(subject);
                }
            }
        }
        self.remove_again();
        self.ask();
        let truth = self.world.truth();
        let failures: Vec<_> = truth
            .events
            .iter()
            .filter(|event| event.kind == model::event::EventKind::OperationFailed)
            .collect();
        let fresh: Vec<(String, String)> = failures
            .iter()
            .skip(self.operation_failures)
            .filter(|event| event.text.contains("cannot take it"))
            .map(|event| {
                let vm = event.vm.as_ref().map(ToString::to_string).unwrap_or_default();
                (vm, event.text.clone())
            })
            .collect();
        self.operation_failures = failures.len();
        for (vm, text) in fresh {
            self.world.trace.note(self.world.now, "rejected", &["vm.move", &vm, &text]);
        }
    }

    /// Whoever wants a VM forgotten asks again when what was under way is over.
    fn remove_again(&mut self) {
        let truth = self.world.truth();
        let idle = |vm: &&String| {
            let record = VmName::new(vm.as_str()).ok().and_then(|name| truth.vms.get(&name));
            record.is_some_and(|record| record.order.is_none())
        };
        let Some(vm) = self.to_remove.iter().find(idle).cloned() else { return };
        self.to_remove.remove(&vm);
        if let Ok(name) = VmName::new(&vm) {
            self.removed.insert(vm.clone());
            self.submit("vm.remove", &vm, Operation::ForgetVm(name));
        }
    }

    fn step(&mut self, number: usize, step: &Step) -> Result<(), String> {
        match &step.wait {
            Some(Wait::Until(until)) => self.wait_until(number, &until.until)?,
            Some(Wait::Word(_)) | None => self.wait_settled(number),
        }
        self.world.trace.note_number(self.world.now, "step", number);
        for event in &step.events {
            self.event(event)?;
        }
        self.go_on(self.world.now);
        Ok(())
    }

    fn wait_settled(&mut self, number: usize) {
        let end = self.world.now + BOUND_MS;
        let mut since = None;
        while self.world.now < end && self.world.violation.is_none() {
            self.go_on(self.world.now + LOOK_MS);
            if !self.settled() {
                since = None;
            } else if self.world.now - *since.get_or_insert(self.world.now) >= SETTLED_MS {
                return self.alarms();
            }
        }
        self.world.trace.note_number(self.world.now, "unsettled", number);
    }

    /// VMs that should run and have no place: once for each time.
    fn alarms(&mut self) {
        let leader = self.world.planes[0].leader.map(|leader| &self.world.replicas[leader]);
        let reasons = leader.and_then(|leader| leader.leading.as_ref()).map(|it| &it.reasons);
        let homeless: BTreeSet<String> = reasons
            .into_iter()
            .flatten()
            .filter(|(_, reason)| matches!(reason, Reason::NoPlace(_)))
            .map(|(vm, _)| vm.to_string())
            .collect();
        for vm in homeless.difference(&self.homeless) {
            self.world.trace.note(self.world.now, "alarm", &["unplaceable", vm]);
        }
        self.homeless = homeless;
    }

    fn wait_until(&mut self, number: usize, conditions: &[Condition]) -> Result<(), String> {
        let end = self.world.now + BOUND_MS;
        let mut since = None;
        loop {
            let mut all = true;
            for condition in conditions {
                all &= self.holds(condition)?;
            }
            if all {
                return Ok(());
            }
            if self.world.now >= end || self.world.violation.is_some() {
                self.world.trace.note_number(self.world.now, "unsettled", number);
                return Ok(());
            }
            if !self.settled() {
                since = None;
            } else if self.world.now - *since.get_or_insert(self.world.now) >= SETTLED_MS {
                self.world.trace.note_number(self.world.now, "phase-missed", number);
                return Ok(());
            }
            // The first moment: event by event.
            let Some(next) = self.world.next_at() else { return Ok(()) };
            self.go_on(next.max(self.world.now + 1));
        }
    }

    fn holds(&self, condition: &Condition) -> Result<bool, String> {
        let truth = self.world.truth();
        if let Some(name) = &condition.node {
            let host = self.host(name)?;
            let node = truth.nodes.values().find(|node| node.name.as_str() == name);
            let Some(node) = node else { return Ok(condition.is == Word::Unknown) };
            return Ok(match condition.is {
                Word::Up => node.state == NodeState::Online && self.world.hosts[host].on,
                Word::Unknown => node.state != NodeState::Online,
                Word::Maintenance => node.maintenance.is_some(),
                Word::BeingFenced => matches!(node.state, NodeState::Lost | NodeState::Fencing),
                _ => false,
            });
        }
        let Some(name) = &condition.vm else {
            return Err("a condition names neither a node nor a VM".into());
        };
        let vm = VmName::new(name).map_err(|error| error.to_string())?;
        let Some(record) = truth.vms.get(&vm) else { return Ok(false) };
        let waits_for_fence = record.owner.or(record.last_owner).is_some_and(|owner| {
            truth
                .nodes
                .get(&owner)
                .is_some_and(|node| matches!(node.state, NodeState::Lost | NodeState::Fencing))
        });
        Ok(match condition.is {
            Word::Running => record.state == VmState::Started && !waits_for_fence,
            Word::Stopped => matches!(record.state, VmState::Stopped | VmState::Disabled),
            Word::MovingLive => record.state == VmState::Migrating,
            Word::Recovering => {
                record.state == VmState::Recovering
                    || (record.state == VmState::Starting && record.failure.is_some())
            }
            Word::WaitingForFence => waits_for_fence,
            Word::Failed => record.state == VmState::Failed || gave_up(record),
            _ => false,
        })
    }

    // ---- events --------------------------------------------------------------------------------------------------

    fn submit(&mut self, event: &'static str, subject: &str, operation: Operation) {
        self.to_ask.push_back((event, subject.to_owned(), operation));
        self.ask();
    }

    /// The next request goes out when the one before it is answered, so that they are done in their order.
    fn ask(&mut self) {
        if self.asked.is_empty()
            && let Some((event, subject, operation)) = self.to_ask.pop_front()
        {
            let request = self.world.submit(operation);
            self.asked.insert(request, (event, subject));
        }
    }

    fn event(&mut self, event: &Event) -> Result<(), String> {
        let vm_name = |name: &str| VmName::new(name).map_err(|error| error.to_string());
        match event {
            Event::Power { node, to } => {
                let host = self.host(node)?;
                match to {
                    Switch::On => self.world.power_on(host),
                    Switch::Off => self.world.power_off(host, "power"),
                }
            }
            Event::Network { node, to } => {
                let host = self.host(node)?;
                let isolated = *to == Link::Isolated;
                self.world.network.isolate(Place::Host(host), isolated);
                let word = if isolated { "isolated" } else { "connected" };
                self.world.trace.note(self.world.now, word, &[node]);
            }
            Event::Desire { vm, state } => self.desire(vm, *state)?,
            Event::Move { vm, to, .. } if self.is_down(vm) => self.move_offline(vm, to)?,
            Event::Move { vm, to, live } => {
                let to_node = NodeName::new(to).map_err(|error| error.to_string())?;
                let name = vm_name(vm)?;
                // Of what cannot be migrated, a move can only be the other kind.
                let able = self.scenario.vms.get(vm).is_none_or(|vm| vm.live);
                let operation = match *live && able {
                    true => Operation::Migrate { vm: name, to: to_node, mode: None },
                    false => Operation::Relocate { vm: name, to: Some(to_node) },
                };
                self.submit("vm.move", vm, operation);
            }
            Event::Stop { vm, timeout_s } => {
                let name = vm_name(vm)?;
                if let (Some(record), true) = (self.world.truth().vms.get(&name), *timeout_s > 0) {
                    let mut spec = record.spec.clone();
                    spec.policy.stop_timeout_ms = timeout_s * 1_000;
                    self.submit("vm.stop", vm, Operation::EditVm(Box::new(spec)));
                }
                let now = *timeout_s == 0;
                self.submit("vm.stop", vm, Operation::Stop { vm: name, now });
            }
            Event::Add { vm, node, desired, already_running } => {
                self.add(vm, node.as_deref(), *desired, *already_running)?;
            }
            Event::Remove { vm } => {
                self.removed.insert(vm.clone());
                self.submit("vm.remove", vm, Operation::ForgetVm(vm_name(vm)?));
            }
            Event::MovedOutside { vm, to } => {
                let (uuid, to) = (self.uuid(vm)?, self.host(to)?);
                let from = self.world.copies(uuid).first().map(|(host, _)| *host);
                if let Some(from) = from.filter(|from| *from != to) {
                    self.world.begin_migration(uuid, from, to, None);
                }
            }
            Event::RestartAgent { node } => {
                let host = self.host(node)?;
                if self.world.hosts[host].on {
                    let incarnation = self.world.end_agent(host);
                    self.world.after(300, world::Event::StartAgent(host, incarnation));
                }
            }
            Event::StopReplica { node, graceful } => {
                let host = self.host(node)?;
                for replica in self.world.replicas_on(host) {
                    match graceful {
                        true => self.world.end_replica(replica),
                        false => self.world.stop_replica(replica),
                    }
                }
            }
            Event::Stall { part, rounds } => {
                let until = self.world.now + rounds * HEARTBEAT_MS;
                match part {
                    Part::ControlPlane => {
                        for replica in &mut self.world.replicas {
                            replica.stalled_until = until;
                        }
                    }
                    Part::Agents => {
                        for host in &mut self.world.hosts {
                            host.agent_stalled_until = until;
                        }
                    }
                }
            }
            Event::Wait { seconds } => {
                let until = self.world.now + (seconds.0 * 1_000.0) as u64;
                self.go_on(until);
            }
            Event::Shutdown { node, then } => {
                let host = self.host(node)?;
                let then = match then {
                    Then::StayOff => AfterShutdown::StayOff,
                    Then::PowerOn => AfterShutdown::Reboot,
                };
                self.world.shut_down(host, then);
            }
            Event::Load { vm, kind, cpu, mem_mib } => {
                let size = Size { cpu: *cpu, mem_mib: *mem_mib };
                match kind {
                    LoadKind::Load => {
                        self.world.loads.insert(self.uuid(vm)?, stage::measured(size));
                    }
                    LoadKind::Size => self.resize(vm, size)?,
                }
            }
            Event::Lock { vm, reason } => {
                let claim = Operation::Claim { vm: vm_name(vm)?, reason: reason.clone() };
                self.submit("vm.lock", vm, claim);
            }
            Event::Maintenance { node, on } => {
                let name = NodeName::new(node).map_err(|error| error.to_string())?;
                let set = Operation::SetMaintenance { node: name, on: *on, until_boot: false };
                self.submit("admin.maintenance", node, set);
            }
            Event::Pause { mode } => {
                let mode = match mode {
                    file::PauseMode::Freeze => PauseMode::Freeze,
                    file::PauseMode::Ignore => PauseMode::Ignore,
                };
                let pause = Operation::PauseCluster { mode, why: "the story has it".into() };
                self.submit("admin.pause", mode.as_str(), pause);
            }
            Event::Resume { .. } => {
                self.submit("admin.resume", "cluster", Operation::UnpauseCluster);
            }
            Event::ControlStore { node, path, to } => {
                let host = self.host(node)?;
                self.control_store(host, *path, *to == StoreState::Fail);
            }
        }
        Ok(())
    }

    /// It is not to run, and does not.
    fn is_down(&self, vm: &str) -> bool {
        let truth = self.world.truth();
        let record = VmName::new(vm).ok().and_then(|name| truth.vms.get(&name).cloned());
        record.is_some_and(|record| {
            matches!(record.desired, Wanted::Stopped | Wanted::Disabled)
                && matches!(record.state, VmState::Stopped | VmState::Disabled)
                && record.order.is_none()
        })
    }

    /// What is down has its configuration in the log, on all nodes alike: where it is to be is noted for its next start.
    fn move_offline(&mut self, vm: &str, to: &str) -> Result<(), String> {
        let now = self.world.now;
        let truth = self.world.truth();
        let up = truth
            .nodes
            .values()
            .any(|node| node.name.as_str() == to && node.state == NodeState::Online);
        if !up {
            let why = format!("{to} is not up");
            self.world.trace.note(now, "rejected", &["vm.move", vm, &why]);
            return Ok(());
        }
        let from = self.place_of(vm).unwrap_or_default();
        self.world.trace.note(now, "move", &[vm, &from, to, "offline"]);
        self.placed.insert(vm.to_owned(), to.to_owned());
        Ok(())
    }

    /// Where one that does not run was last, or was put since.
    fn place_of(&self, vm: &str) -> Option<String> {
        let truth = self.world.truth();
        let record = VmName::new(vm).ok().and_then(|name| truth.vms.get(&name).cloned());
        let last = record.and_then(|record| record.owner.or(record.last_owner));
        let last = last.map(|node| truth.node_name(node));
        let told = || self.scenario.vms.get(vm).map(|vm| vm.node.clone());
        self.placed.get(vm).cloned().or(last).or_else(told)
    }

    /// A replica whose storage fails stops rather than serve; an agent that is cut off reaches none.
    fn control_store(&mut self, host: usize, path: StorePath, fails: bool) {
        match path {
            StorePath::Update if fails => drop(self.world.network.agents_cut.insert(host)),
            StorePath::Update => drop(self.world.network.agents_cut.remove(&host)),
            StorePath::ReadWrite => {
                for replica in self.world.replicas_on(host) {
                    self.world.replicas[replica].storage_fails = fails;
                    if fails {
                        self.world.stop_replica(replica);
                    } else if self.world.hosts[host].on {
                        self.world.start_replica(replica);
                    }
                }
            }
        }
    }

    /// A VM is configured anew; what is not said stays.
    fn resize(&mut self, vm: &str, size: Size) -> Result<(), String> {
        let number = self.scenario.vms.keys().position(|name| name == vm).unwrap_or_default();
        let mut told = self.sizes.get(vm).copied().unwrap_or_default();
        told = Size { cpu: size.cpu.or(told.cpu), mem_mib: size.mem_mib.or(told.mem_mib) };
        self.sizes.insert(vm.to_owned(), told);
        let changed = self.scenario.vms.get(vm).map(|it| Vm { size: Some(told), ..it.clone() });
        let policy = stage::policy(self.scenario, vm)?;
        let spec = stage::spec(vm, changed.as_ref(), number, policy)?;
        self.submit("vm.load", vm, Operation::EditVm(Box::new(spec)));
        Ok(())
    }

    fn desire(&mut self, vm: &str, state: Desired) -> Result<(), String> {
        let name = VmName::new(vm).map_err(|error| error.to_string())?;
        let operation = match state {
            Desired::Running => {
                let on = self.placed.remove(vm).map(NodeName::new).transpose();
                Operation::Enable { vm: name, on: on.map_err(|error| error.to_string())? }
            }
            Desired::Stopped => Operation::Stop { vm: name, now: false },
            Desired::Disabled => Operation::Disable(name),
            Desired::Ignored => Operation::Ignore(name),
        };
        self.submit("vm.desire", vm, operation);
        Ok(())
    }

    fn add(
        &mut self,
        vm: &str,
        node: Option<&str>,
        desired: Option<Desired>,
        already_running: bool,
    ) -> Result<(), String> {
        let number = self.scenario.vms.keys().position(|name| name == vm).unwrap_or_default();
        let told = self.scenario.vms.get(vm);
        let spec = stage::spec(vm, told, number, stage::policy(self.scenario, vm)?)?;
        let node = node.or(told.map(|vm| vm.node.as_str()));
        if let (true, Some(node)) = (already_running, node) {
            let host = self.host(node)?;
            let mut machine = self.world.hosts[host].hypervisor.machine();
            machine.domains.insert(
                spec.uuid,
                SimDomain {
                    name: vm.to_owned(),
                    presence: Presence::Running,
                    paused_by: None,
                    mark: None,
                    memory_mib: spec.memory_mib,
                    unseen: false,
                    outside: true,
                    ran: true,
                    recovers_to: None,
                },
            );
            machine.events.push((spec.uuid, None));
            drop(machine);
            self.world.tell_events(host);
        }
        self.removed.remove(vm);
        self.submit("vm.add", vm, Operation::AddVm(Box::new(spec)));
        match desired.or(told.map(|vm| vm.desired)) {
            Some(Desired::Running) => {
                // Where its configuration is, if that can be; one that runs is found.
                let on = node
                    .filter(|_| !already_running)
                    .filter(|name| self.host(name).is_ok_and(|host| self.world.hosts[host].on))
                    .map(NodeName::new)
                    .transpose()
                    .map_err(|error| error.to_string())?;
                let name = VmName::new(vm).map_err(|error| error.to_string())?;
                self.submit("vm.add", vm, Operation::Enable { vm: name, on });
                Ok(())
            }
            Some(Desired::Ignored) => self.desire(vm, Desired::Ignored),
            _ => Ok(()),
        }
    }

    // ---- settled -------------------------------------------------------------------------------------------------

    /// Nothing is in flight: no start, stop, move, fence or recovery, and the cluster knows what has happened.
    fn settled(&self) -> bool {
        let world = &self.world;
        if world.migrating() {
            return false;
        }
        // What stands still goes on.
        if world.replicas.iter().any(|replica| replica.up && replica.stalled_until > world.now)
            || world.hosts.iter().any(|host| host.on && host.agent_stalled_until > world.now)
        {
            return false;
        }
        if world.shutting_down() || self.balances() {
            return false;
        }
        // A host that boots is something in flight.
        if world.hosts.iter().any(|host| host.on && !host.guarded) {
            return false;
        }
        let quorum = world.could_elect(0);
        if !quorum {
            // Nothing is decided; guests that were cut off have been stopped.
            return self.asked.is_empty() || world.hosts.iter().all(|host| self.quiet(host));
        }
        if !world.has_leader(0) || !self.asked.is_empty() {
            return false;
        }
        let truth = world.truth();
        let plane = &world.planes[0];
        let Some(leader) = plane.leader else { return false };
        for (number, host) in world.hosts.iter().enumerate() {
            let node = truth.nodes.values().find(|node| node.name.as_str() == host.name);
            if truth.pause.is_some() {
                // Nothing is done about a node that is not heard.
                continue;
            }
            let reachable =
                host.on && world.network.connected(Place::Host(number), Place::Replica(leader));
            let Some(node) = node else { return false };
            let session = host.agent.as_ref().and_then(|agent| agent.session);
            let known = match node.state {
                // Under the brake nobody is given up, and nothing is in flight for it.
                NodeState::Online if truth.braked() && !reachable => true,
                NodeState::Online => reachable && session == Some((node.id, node.last_session)),
                NodeState::Dead(_) | NodeState::Off => !reachable,
                NodeState::Lost => !reachable && truth.braked(),
                NodeState::Fencing => false,
            };
            if !known {
                return false;
            }
        }
        let reasons = world.replicas[leader].leading.as_ref().map(|leading| &leading.reasons);
        truth.vms.values().all(|record| {
            let reason = reasons.and_then(|reasons| reasons.get(&record.spec.name));
            self.vm_settled(&truth, record, reason)
        })
    }

    /// Load is uneven, and the hold is not over yet, or a VM was moved a moment ago and the next may follow.
    fn balances(&self) -> bool {
        let truth = self.world.truth();
        let Some(since) = truth.uneven_since else { return false };
        let last_move = truth
            .events
            .iter()
            .rev()
            .find(|event| event.kind == model::event::EventKind::VmMigrated)
            .map_or(since, |event| event.at);
        let begun = since.max(last_move);
        self.world.wall().since(begun) < truth.settings.rebalance_hold_ms + 2 * SETTLED_MS
    }

    fn quiet(&self, host: &crate::sim::host::SimHost) -> bool {
        let now = host.reading(self.world.now);
        host.agent.as_ref().is_none_or(|agent| agent.core.may_feed(now))
    }

    fn vm_settled(&self, truth: &ClusterState, record: &VmRecord, reason: Option<&Reason>) -> bool {
        if record.order.is_some() {
            return false;
        }
        let stuck = matches!(reason, Some(Reason::WaitingUntil { .. }))
            || reason.is_some_and(Reason::is_stuck);
        let waits_for_mass_loss = truth.braked() && !record.may_run.is_empty();
        let asked = record.open_operation().is_some();
        if record.desired == Wanted::Ignored || truth.pause.is_some() {
            return true;
        }
        let moves = matches!(
            reason,
            Some(Reason::Deciding(_) | Reason::MoveWaits { .. } | Reason::MoveQueued { .. })
        );
        match (record.desired, record.state) {
            (_, VmState::Conflict | VmState::Lost | VmState::Failed) => true,
            (Wanted::Enabled, VmState::Started) if moves => false,
            (Wanted::Enabled, VmState::Started) => {
                !asked
                    && self.world.copies(record.spec.uuid).iter().any(|(host, presence)| {
                        *presence == Presence::Running
                            && record.owner.map(|owner| truth.node_name(owner))
                                == Some(self.world.hosts[*host].name.clone())
                    })
                    || waits_for_mass_loss
            }
            (Wanted::Enabled, _) => stuck || waits_for_mass_loss,
            (_, VmState::Stopped | VmState::Disabled) => true,
            _ => stuck || waits_for_mass_loss,
        }
    }

    // ---- the end -------------------------------------------------------------------------------------------------

    fn ending(&self) -> Map<String, Value> {
        let truth = self.world.truth();
        let decided = self.world.could_elect(0);
        let leader = self.world.planes[0].leader.map(|leader| &self.world.replicas[leader]);
        let reasons = leader.and_then(|leader| leader.leading.as_ref()).map(|it| &it.reasons);
        let vms: Map<String, Value> = self
            .scenario
            .vms
            .keys()
            .filter_map(|name| {
                let vm = VmName::new(name).ok()?;
                let uuid = self.uuid(name).ok()?;
                let place = self.running_at(uuid);
                let (state, node) = match truth.vms.get(&vm) {
                    None if self.removed.contains(name) => ("removed", place),
                    None => ("unmanaged", place),
                    Some(record) => {
                        let reason = reasons.and_then(|reasons| reasons.get(&vm));
                        let state = state(&truth, record, reason, decided, place.is_some());
                        (state, place.or_else(|| self.place_of(name)))
                    }
                };
                Some((name.clone(), json!({"state": state, "node": node})))
            })
            .collect();
        let nodes: Map<String, Value> = self
            .world
            .hosts
            .iter()
            .map(|host| {
                let node = truth.nodes.values().find(|node| node.name.as_str() == host.name);
                let maintained = node.is_some_and(|node| node.maintenance.is_some());
                let word = match node.map(|node| &node.state) {
                    Some(NodeState::Online) if maintained => "maintenance",
                    Some(NodeState::Online) => "up",
                    Some(NodeState::Lost | NodeState::Fencing) => "being-fenced",
                    Some(NodeState::Dead(_) | NodeState::Off) | None => "unknown",
                };
                (host.name.clone(), json!(word))
            })
            .collect();
        Map::from_iter([
            ("vms".to_owned(), Value::Object(vms)),
            ("nodes".to_owned(), Value::Object(nodes)),
        ])
    }

    fn running_at(&self, uuid: Uuid) -> Option<String> {
        let runs = |it: &&crate::sim::host::SimHost| it.running(self.world.now).contains(&uuid);
        self.world.hosts.iter().find(runs).map(|host| host.name.clone())
    }
}

/// Its recovery policy or its start limit gave up on it.
fn gave_up(record: &VmRecord) -> bool {
    record.state == VmState::Disabled && record.failure.is_some()
}

fn state(
    truth: &ClusterState,
    record: &VmRecord,
    reason: Option<&Reason>,
    decided: bool,
    runs: bool,
) -> &'static str {
    let let_go = truth.pause.as_ref().is_some_and(|pause| pause.mode == PauseMode::Ignore);
    match record.state {
        _ if record.desired == Wanted::Ignored || let_go => "unmanaged",
        // A stop of it failed: nothing more is done, whether it runs or not.
        VmState::Failed => "failed",
        _ if runs && record.state != VmState::Conflict => "running",
        _ if !decided && record.desired == Wanted::Enabled => "no-quorum",
        VmState::Conflict => "conflict",
        VmState::Lost => "lost",
        VmState::Disabled if gave_up(record) => "failed",
        VmState::Stopped | VmState::Disabled if record.desired != Wanted::Enabled => "stopped",
        _ if truth.pause.is_some() => "frozen",
        // Its recovery policy gave up on it.
        VmState::Disabled => "failed",
        _ if matches!(reason, Some(Reason::WaitsForHost { .. })) => "frozen",
        VmState::Recovering if matches!(reason, Some(Reason::WaitingUntil { .. })) => "failed",
        _ if matches!(reason, Some(Reason::NoPlace(_))) => "unplaceable",
        VmState::Recovering => "failed",
        _ => "stopped",
    }
}
