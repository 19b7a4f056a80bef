//! What happens in a story, one event after the other.

use model::command::Operation;
use model::fleet::PauseMode;
use model::id::{NodeName, VmName};
use model::node::{AfterShutdown, NodeState};
use model::vm::{Desired as Wanted, Presence, VmState};

use super::super::file::{
    self, Desired, Event, Link, LoadKind, Part, Size, StorePath, StoreState, Switch, Then, Vm,
};
use super::super::stage;
use super::HEARTBEAT_MS;
use super::Play;
use crate::sim::host::SimDomain;
use crate::sim::network::Place;
use crate::sim::world;

impl Play<'_> {
    pub(super) fn submit(&mut self, event: &'static str, subject: &str, operation: Operation) {
        self.to_ask.push_back((event, subject.to_owned(), operation));
        self.ask();
    }

    /// The next request goes out when the one before it is answered, so that they are done in their order.
    pub(super) fn ask(&mut self) {
        if self.asked.is_empty()
            && let Some((event, subject, operation)) = self.to_ask.pop_front()
        {
            let request = self.world.submit(operation);
            self.asked.insert(request, (event, subject));
        }
    }

    pub(super) fn event(&mut self, event: &Event) -> Result<(), String> {
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
    pub(super) fn is_down(&self, vm: &str) -> bool {
        let truth = self.world.truth();
        let record = VmName::new(vm).ok().and_then(|name| truth.vms.get(&name).cloned());
        record.is_some_and(|record| {
            matches!(record.desired, Wanted::Stopped | Wanted::Disabled)
                && matches!(record.state, VmState::Stopped | VmState::Disabled)
                && record.order.is_none()
        })
    }

    /// What is down has its configuration in the log, on all nodes alike: where it is to be is noted for its next start.
    pub(super) fn move_offline(&mut self, vm: &str, to: &str) -> Result<(), String> {
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
    pub(super) fn place_of(&self, vm: &str) -> Option<String> {
        let truth = self.world.truth();
        let record = VmName::new(vm).ok().and_then(|name| truth.vms.get(&name).cloned());
        let last = record.and_then(|record| record.owner.or(record.last_owner));
        let last = last.map(|node| truth.node_name(node));
        let told = || self.scenario.vms.get(vm).map(|vm| vm.node.clone());
        self.placed.get(vm).cloned().or(last).or_else(told)
    }

    /// A replica whose storage fails stops rather than serve; an agent that is cut off reaches none.
    pub(super) fn control_store(&mut self, host: usize, path: StorePath, fails: bool) {
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
    pub(super) fn resize(&mut self, vm: &str, size: Size) -> Result<(), String> {
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

    pub(super) fn desire(&mut self, vm: &str, state: Desired) -> Result<(), String> {
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

    pub(super) fn add(
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
}
