//! Power, kernels and watchdogs of hosts, and how what happens on them reaches their agents.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent::core::AgentCore;
use model::vm::{Presence, StopCause};
use uuid::Uuid;

use super::control::Replica;
use super::host::{SimDomain, SimHost, SimHypervisor};
use super::world::{Event, World};

/// How often a host's kernel looks at its watchdog.
const HOST_TICK_MS: u64 = 50;

impl World {
    /// A host gets power: its kernel boots, libvirtd and the agent come up a while later.
    pub fn power_on(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        if host.on {
            return;
        }
        host.on = true;
        host.shutdown = None;
        host.boot += 1;
        host.incarnation += 1;
        host.hypervisor.machine().libvirt_down = false;
        host.libvirt_stalled_until = 0;
        host.agent_stalled_until = 0;
        let (boot, incarnation, name) = (host.boot, host.incarnation, host.name.clone());
        self.trace.note(self.now, "node-on", &[&name]);
        let delay = self.between(self.pace.boot);
        self.after(100, Event::HostTick(number, boot));
        self.after(delay, Event::StartAgent(number, incarnation));
        for replica in self.replicas_on(number) {
            self.after(delay / 2, Event::StartReplica(replica));
        }
    }

    /// A host loses its power, and all that ran on it with it.
    pub fn power_off(&mut self, number: usize, cause: &'static str) {
        let host = &mut self.hosts[number];
        if !host.on {
            return;
        }
        host.on = false;
        host.shutdown = None;
        host.guarded = false;
        host.agent = None;
        host.incarnation += 1;
        host.lease_file = Default::default();
        host.suspended = Arc::default();
        host.since_boot = Arc::default();
        host.paused_until = 0;
        host.frozen_until = 0;
        host.scripts.clear();
        host.runs.clear();
        if let Some(watchdog) = &mut host.watchdog {
            watchdog.fed = None;
        }
        let ended: Vec<(Uuid, String)> = {
            let mut machine = host.hypervisor.machine();
            machine.events.clear();
            // What had not come yet, or had gone already, did not end here.
            let here =
                |it: &SimDomain| !matches!(it.presence, Presence::Incoming | Presence::Leaving);
            let ended = machine.domains.iter().filter(|(_, it)| here(it));
            let ended = ended.map(|(uuid, it)| (*uuid, it.name.clone())).collect();
            machine.domains.clear();
            ended
        };
        let name = host.name.clone();
        let boots = host.boots_after_ms;
        self.trace.note(self.now, "node-off", &[&name, cause]);
        for (_, vm) in ended {
            self.trace.note(self.now, "down", &[&vm, &name]);
        }
        if let Some(traced) = self.planes.first_mut().and_then(|it| it.traced.get_mut(number)) {
            // What comes up there again is news.
            traced.clear();
        }
        for replica in self.replicas_on(number) {
            self.stop_replica(replica);
        }
        if let Some(delay) = boots {
            self.after(delay, Event::Boot(number));
        }
    }

    /// The replicas that live on a host.
    pub fn replicas_on(&self, host: usize) -> Vec<usize> {
        let there =
            |(number, replica): (usize, &Replica)| (replica.home == Some(host)).then_some(number);
        self.replicas.iter().enumerate().filter_map(there).collect()
    }

    pub(super) fn host_tick(&mut self, number: usize, boot: u64) {
        let now = self.now;
        let host = &mut self.hosts[number];
        if !host.on || host.boot != boot {
            return;
        }
        let bites = host
            .watchdog
            .and_then(|watchdog| Some((watchdog.fed?, watchdog.timeout_ms)))
            // Within this tick, and not a tick later.
            .is_some_and(|(fed, timeout_ms)| now + HOST_TICK_MS > fed + timeout_ms);
        if bites {
            return self.power_off(number, "self-fence");
        }
        if !host.stands_still(now) {
            self.tell_events(number);
        }
        self.after(HOST_TICK_MS, Event::HostTick(number, boot));
    }

    /// libvirt's events reach the agent, if both run.
    pub fn tell_events(&mut self, number: usize) {
        let host = &mut self.hosts[number];
        let (events, down): (Vec<(Uuid, Option<StopCause>)>, bool) = {
            let mut machine = host.hypervisor.machine();
            (std::mem::take(&mut machine.events), machine.libvirt_down)
        };
        if events.is_empty() {
            return;
        }
        self.trace_domains(number);
        let stalled = self.hosts[number].libvirt_stalled_until > self.now;
        if down || stalled {
            // Lost with the connection: what it was about is looked at again by and by.
            return;
        }
        for (uuid, cause) in events {
            self.with_core(number, |core, now| core.event(uuid, cause, now));
        }
    }

    /// Something is done with an agent's core, and what it led to is carried out.
    pub fn with_core(
        &mut self,
        number: usize,
        step: impl FnOnce(&mut AgentCore, agent::clock::Reading),
    ) {
        let now = self.hosts[number].reading(self.now);
        let Some(agent) = &mut self.hosts[number].agent else { return };
        step(&mut agent.core, now);
        self.carry_out(number);
    }

    /// How domains are now, for the trace: a line for each that changed.
    pub fn trace_domains(&mut self, number: usize) {
        if !self.trace.is_kept() {
            return;
        }
        let host = &self.hosts[number];
        let present: BTreeMap<String, Presence> = host
            .hypervisor
            .machine()
            .domains
            .values()
            .map(|domain| {
                // One that has not been let run yet is not up.
                let presence = if domain.ran { domain.presence } else { Presence::Incoming };
                (domain.name.clone(), presence)
            })
            .collect();
        let name = host.name.clone();
        let before = std::mem::replace(&mut self.planes[0].traced[number], present.clone());
        let runs = |presence: Option<&Presence>| {
            presence.is_some_and(|it| matches!(it, Presence::Running | Presence::ShuttingDown))
        };
        let vms: std::collections::BTreeSet<&String> =
            before.keys().chain(present.keys()).collect();
        for vm in vms {
            let (old, new) = (before.get(vm), present.get(vm));
            let line = match (old, new) {
                (Some(Presence::Incoming | Presence::Leaving), None | Some(Presence::Leaving)) => {
                    continue;
                }
                (Some(_), None | Some(Presence::Leaving)) => "down",
                (None | Some(Presence::Incoming | Presence::Leaving), Some(_)) if runs(new) => "up",
                (Some(_), Some(Presence::Paused)) if runs(old) => "suspended",
                (Some(Presence::Paused), Some(_)) if runs(new) => "resumed",
                _ => continue,
            };
            self.trace.note(self.now, line, &[vm, &name]);
        }
    }

    /// A host that has never been on.
    pub fn add_host(&mut self, name: &str, memory_mib: u64, cpus: u32) -> usize {
        let number = self.hosts.len();
        let hypervisor = SimHypervisor::default();
        {
            let mut machine = hypervisor.machine();
            machine.hardware = Uuid::from_u128(0xF000 + number as u128);
            machine.capacity = model::node::Capacity { memory_mib, cpus };
        }
        self.hosts.push(SimHost {
            name: name.to_owned(),
            on: false,
            boot: 0,
            hypervisor,
            agent: None,
            incarnation: 0,
            guarded: false,
            ledger: Arc::default(),
            ledgers_lost: 0,
            lease_file: Default::default(),
            suspended: Arc::default(),
            since_boot: Arc::default(),
            watchdog: None,
            fence: None,
            locked: false,
            pausable: false,
            agent_stalled_until: 0,
            libvirt_stalled_until: 0,
            paused_until: 0,
            frozen_until: 0,
            slow_until: 0,
            ledger_copy: None,
            paused_ms: 0,
            drift_ppm: (0, 0),
            boots_after_ms: None,
            scripts: Default::default(),
            runs: Vec::new(),
            shutdown: None,
        });
        number
    }
}
