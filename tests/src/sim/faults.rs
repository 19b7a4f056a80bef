//! What goes wrong, and its end.

use std::sync::PoisonError;

use agent::vm::ledger::Entries;
use model::node::NodeState;
use model::vm::Presence;
use server::backup;
use uuid::Uuid;

use super::control::{Plane, Replica};
use super::host::{Failing, PausedBy, SimDomain};
use super::network::Place;
use super::theme::{Theme, Trouble};
use super::world::{Event, World};

/// Something that goes wrong, or right again.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Anything, as chance has it.
    Anything,
    /// A link in one direction, or both, is mended.
    Mend(Place, Place),
    /// A machine is connected again.
    Connect(Place),
    /// The network is as it should be.
    Quiet,
    /// A fence device is mended.
    MendFence(usize),
    /// libvirtd is started again.
    StartLibvirt(usize),
    /// Guests that somebody stopped are let run again.
    LetRun(usize),
    /// Replicas are gone for good.
    TakeAway(Vec<usize>),
    /// The last of them: from here on all is to get well.
    Heal,
}

impl World {
    pub(super) fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::Anything => {
                if self.calm {
                    return;
                }
                let pause = self.rng.u64(300..5_000);
                self.after(pause, Event::Fault(Fault::Anything));
                self.some_fault();
            }
            Fault::Mend(one, other) => {
                self.network.cut(one, other, false);
                self.network.cut(other, one, false);
            }
            Fault::Connect(place) => self.network.isolate(place, false),
            Fault::Quiet => {
                (self.network.loss_permille, self.network.twice_permille) = (0, 0);
                self.network.delay = (1, 5);
            }
            Fault::MendFence(host) => {
                if let Some(fence) = &mut self.hosts[host].fence {
                    fence.broken = false;
                }
            }
            Fault::StartLibvirt(host) => {
                self.hosts[host].hypervisor.machine().libvirt_down = false;
                self.hosts[host].hypervisor.machine().domains.values_mut().for_each(|domain| {
                    domain.unseen = false;
                });
                self.libvirt_recovers(host);
                let incarnation = self.hosts[host].incarnation;
                self.after(5, Event::FullLook(host, incarnation));
            }
            Fault::TakeAway(replicas) => {
                for number in replicas {
                    self.replicas[number].superseded = true;
                    self.stop_replica(number);
                }
            }
            Fault::LetRun(host) => self.let_run(host),
            Fault::Heal => self.heal(),
        }
    }

    fn some_place(&mut self) -> Place {
        let (hosts, replicas) = (self.hosts.len(), self.replicas.len());
        match self.rng.usize(0..hosts + replicas) {
            number if number < hosts => Place::Host(number),
            number => Place::Replica(number - hosts),
        }
    }

    fn some_fault(&mut self) {
        let host = self.rng.usize(0..self.hosts.len());
        let replica = self.rng.usize(0..self.replicas.len());
        let trouble = self.options.theme.some_trouble(&mut self.rng);
        self.trace.detail(self.now, "trouble", || {
            format!("{trouble:?} host {} replica {}", host + 1, replica + 1)
        });
        *self.struck.entry(trouble.as_str()).or_default() += 1;
        if self.rng.u32(0..3) == 0 {
            // Somebody makes backups of ledgers.
            let copy =
                self.hosts[host].ledger.lock().unwrap_or_else(PoisonError::into_inner).clone();
            self.hosts[host].ledger_copy = Some(copy);
        }
        match trouble {
            Trouble::Network => self.network_fault(),
            Trouble::Split => self.split(),
            Trouble::PowerOff => {
                let (least, most) = self.options.theme.off_ms();
                let boots = self.rng.bool().then(|| self.rng.u64(least..most));
                self.hosts[host].boots_after_ms = boots;
                self.power_off(host, "power");
            }
            Trouble::AgentEnds => {
                let incarnation = self.end_agent(host);
                let delay = self.rng.u64(10..20_000);
                self.after(delay, Event::StartAgent(host, incarnation));
            }
            Trouble::AgentLeaves => self.agent_leaves(host),
            Trouble::AgentStalls => {
                let until = self.now + self.rng.u64(100..15_000);
                let stalled = &mut self.hosts[host].agent_stalled_until;
                *stalled = until.max(*stalled);
            }
            Trouble::LibvirtStalls => {
                let until = self.now + self.rng.u64(100..15_000);
                let stalled = &mut self.hosts[host].libvirt_stalled_until;
                *stalled = until.max(*stalled);
            }
            Trouble::LibvirtCrashes => self.libvirt_crash(host),
            Trouble::HostPauses => self.host_pauses(host),
            Trouble::HostFreezes => {
                let until = self.now + self.rng.u64(500..20_000);
                if self.hosts[host].on {
                    let frozen = &mut self.hosts[host].frozen_until;
                    *frozen = until.max(*frozen);
                }
            }
            Trouble::LibvirtSlow => {
                self.hosts[host].slow_until = self.now + self.rng.u64(1_000..20_000);
            }
            Trouble::ReplicaStops => {
                self.stop_replica(replica);
                let delay = self.rng.u64(50..15_000);
                self.after(delay, Event::StartReplica(replica));
            }
            Trouble::ReplicaStalls => {
                let pause = self.rng.u64(100..12_000);
                self.stall_replica(replica, pause);
            }
            Trouble::ControlPlaneStalls => {
                let pause = self.rng.u64(1_000..12_000);
                for replica in 0..self.replicas.len() {
                    self.stall_replica(replica, pause);
                }
            }
            Trouble::FenceDark => {
                let until = self.now + self.rng.u64(1_000..40_000);
                if let Some(fence) = &mut self.hosts[host].fence {
                    fence.dark_until = until;
                }
            }
            Trouble::FenceBroken => {
                if let Some(fence) = &mut self.hosts[host].fence {
                    fence.broken = true;
                    let delay = self.rng.u64(1_000..30_000);
                    self.after(delay, Event::Fault(Fault::MendFence(host)));
                }
            }
            Trouble::CallsFail => {
                let failing = Failing {
                    starts: self.rng.u32(0..3),
                    lost_starts: self.rng.u32(0..2),
                    stops: self.rng.u32(0..2),
                    migrations: self.rng.u32(0..3),
                };
                self.hosts[host].hypervisor.machine().failing = failing;
            }
            Trouble::GuestDies => self.guest_dies(host),
            Trouble::Outsider => self.outsider(host),
            Trouble::LedgerLost => self.ledger_fault(host, Default::default()),
            Trouble::LedgerRolledBack => {
                if let Some(copy) = self.hosts[host].ledger_copy.clone() {
                    self.ledger_fault(host, copy);
                }
            }
            Trouble::Restore if self.planes.len() < 3 => self.restore(),
            Trouble::Restore => {}
        }
    }

    /// All of a virtual machine stands still, its clock and its watchdog too.
    fn host_pauses(&mut self, host: usize) {
        let pause = self.rng.u64(500..20_000);
        self.pause_host(host, pause);
    }

    /// For so many milliseconds of true time.
    pub fn pause_host(&mut self, host: usize, pause: u64) {
        let now = self.now;
        let host = &mut self.hosts[host];
        if !host.pausable || !host.on || host.paused_until > now {
            return;
        }
        host.paused_until = now + pause;
        host.paused_ms += pause;
        if let Some(watchdog) = &mut host.watchdog {
            watchdog.fed = watchdog.fed.map(|fed| fed + pause);
        }
    }

    fn stall_replica(&mut self, number: usize, pause_ms: u64) {
        let now = self.now;
        let replica = &mut self.replicas[number];
        if replica.stalled_until <= now {
            replica.stalled_since = now;
        }
        replica.stalled_until = replica.stalled_until.max(now + pause_ms);
    }

    /// The machines fall into two groups.
    fn split(&mut self) {
        let places = (0..self.hosts.len())
            .map(Place::Host)
            .chain((0..self.replicas.len()).map(Place::Replica));
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for place in places {
            if self.rng.bool() { one.push(place) } else { other.push(place) }
        }
        let duration = self.rng.u64(500..20_000);
        for (one, other) in one.iter().flat_map(|one| other.iter().map(move |it| (*one, *it))) {
            self.network.cut(one, other, true);
            self.network.cut(other, one, true);
            self.after(duration, Event::Fault(Fault::Mend(one, other)));
        }
    }

    fn network_fault(&mut self) {
        let duration = self.rng.u64(200..20_000);
        match self.rng.u32(0..4) {
            0 => {
                let place = self.some_place();
                self.network.isolate(place, true);
                self.after(duration, Event::Fault(Fault::Connect(place)));
            }
            1 => {
                let (one, other) = (self.some_place(), self.some_place());
                self.network.cut(one, other, true);
                self.after(duration, Event::Fault(Fault::Mend(one, other)));
            }
            2 => {
                let (one, other) = (self.some_place(), self.some_place());
                self.network.cut(one, other, true);
                self.network.cut(other, one, true);
                self.after(duration, Event::Fault(Fault::Mend(one, other)));
            }
            _ => {
                self.network.loss_permille = self.rng.u64(0..300);
                let most = if self.options.theme == Theme::LateMessages { 500 } else { 100 };
                self.network.twice_permille = self.rng.u64(0..most);
                self.network.delay = (1, self.rng.u64(5..700));
                self.after(duration, Event::Fault(Fault::Quiet));
            }
        }
    }

    fn libvirt_crash(&mut self, host: usize) {
        let forgets = self.rng.u32(0..3) == 0;
        let delay = self.rng.u64(200..8_000);
        self.end_libvirt(host, forgets, delay);
    }

    /// libvirtd ends; QEMU runs on, and a new libvirtd finds it again after so many milliseconds. One that forgets answers
    /// before that, and does not know its domains yet.
    pub fn end_libvirt(&mut self, host: usize, forgets: bool, back_after_ms: u64) {
        {
            let mut machine = self.hosts[host].hypervisor.machine();
            machine.libvirt_down = true;
            machine.events.clear();
            if forgets {
                machine.domains.values_mut().for_each(|domain| domain.unseen = true);
            }
        }
        self.migrations_lose_libvirt(host);
        if forgets {
            self.hosts[host].hypervisor.machine().libvirt_down = false;
        }
        self.after(back_after_ms, Event::Fault(Fault::StartLibvirt(host)));
    }

    /// The disk under a ledger is replaced, or an older copy of it comes back.
    fn ledger_fault(&mut self, host: usize, older: Entries) {
        let incarnation = self.put_ledger_back(host, older);
        let delay = self.rng.u64(10..3_000);
        self.after(delay, Event::StartAgent(host, incarnation));
    }

    fn replace_ledger(&mut self, host: usize, older: Entries) {
        *self.hosts[host].ledger.lock().unwrap_or_else(PoisonError::into_inner) = older;
        self.hosts[host].ledgers_lost += 1;
    }

    /// An agent ends, and finds no ledger when it is started again; by this number that one is known.
    pub fn lose_ledger(&mut self, host: usize) -> u64 {
        self.put_ledger_back(host, Entries::default())
    }

    /// The same, and it finds an older one.
    pub fn put_ledger_back(&mut self, host: usize, older: Entries) -> u64 {
        let incarnation = self.end_agent(host);
        self.replace_ledger(host, older);
        incarnation
    }

    /// What its ledger holds.
    pub fn ledger_of(&self, host: usize) -> Entries {
        self.hosts[host].ledger.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The control plane is lost for good, as it seems, and comes back from a backup on other machines.
    pub(super) fn restore(&mut self) {
        let Some(last) = self.planes.last() else { return };
        let keep = last.log.len();
        if keep < 5 {
            return;
        }
        // The backup is a while old.
        let upto = self.rng.usize(keep / 2..keep);
        // Or there was no newer one than that which the last control plane was restored from already.
        let again = self.planes.len().checked_sub(2).and_then(|before| self.planes.get(before));
        let last = again.filter(|_| upto.is_multiple_of(2)).unwrap_or(last);
        let mut state = model::ClusterState::default();
        for (index, command) in (1..).zip(last.log.iter().take(upto)) {
            let _ = state.apply(index, command);
        }
        let Ok(operations) = backup::restore(&state) else { return };
        let plane = self.planes.len();
        let members: Vec<usize> =
            (0..self.options.replicas).map(|number| self.replicas.len() + number).collect();
        for _ in &members {
            self.replicas.push(Replica::new(plane, None));
        }
        let traced = vec![Default::default(); self.hosts.len()];
        self.planes.push(Plane::new(members.clone(), traced));
        for number in &members {
            self.start_replica(*number);
        }
        let at = self.wall();
        for operation in operations {
            let request = model::id::RequestId(self.uuid());
            let by = "bootstrap".to_owned();
            let command = model::command::Command { request, at, by, operation };
            self.planes[plane].log.push(command.clone());
            let index = self.planes[plane].log.len() as u64;
            let mut state = (*self.planes[plane].state).clone();
            let _ = state.apply(index, &command);
            self.planes[plane].state = std::sync::Arc::new(state);
        }
        self.after(1, Event::Elect(plane));
        // The old one is lost: most of its replicas are gone, and whoever restores takes the rest away a moment later. One
        // that could still commit, and is reached by some agents only, has to be shut down first (docs/failure-modes.md).
        let mut old = self.planes[plane - 1].members.clone();
        let left = old.len().saturating_sub(1) / 2;
        for number in old.split_off(left) {
            self.replicas[number].superseded = true;
            self.stop_replica(number);
        }
        let longest = self.options.theme.old_plane_lives_ms();
        let delay = self.rng.u64(0..longest);
        self.after(delay, Event::Fault(Fault::TakeAway(old)));
    }

    /// From here on nothing goes wrong any more, and operators settle what is theirs to settle.
    fn heal(&mut self) {
        self.calm = true;
        self.network.heal();
        self.network.delay = (1, 5);
        let newest = self.planes.len() - 1;
        for number in 0..self.replicas.len() {
            if self.replicas[number].plane == newest {
                self.after(10, Event::StartReplica(number));
            } else {
                // Whoever restores a control plane takes the old one away in the end.
                self.stop_replica(number);
            }
        }
        let mut recovering = Vec::new();
        for number in 0..self.hosts.len() {
            let host = &mut self.hosts[number];
            // What stands still goes on by itself soon.
            host.boots_after_ms = Some(5_000);
            {
                let mut machine = host.hypervisor.machine();
                machine.failing = Failing::default();
                let was_down = std::mem::take(&mut machine.libvirt_down);
                recovering.extend(was_down.then_some(number));
                machine.domains.values_mut().for_each(|domain| domain.unseen = false);
            }
            if let Some(fence) = &mut host.fence {
                (fence.dark_until, fence.broken) = (0, false);
            }
            let (on, incarnation, runs) = (host.on, host.incarnation, host.agent.is_some());
            if !on {
                self.after(2_000, Event::Boot(number));
            } else if !runs {
                self.after(1_000, Event::StartAgent(number, incarnation));
            }
        }
        for host in recovering {
            self.libvirt_recovers(host);
        }
        for host in 0..self.hosts.len() {
            self.let_run(host);
        }
        self.after(1, Event::Fault(Fault::Quiet));
    }

    /// Whoever has stopped guests of a host lets them run again, as soon as virsh works there.
    fn let_run(&mut self, host: usize) {
        if !self.hosts[host].on {
            return;
        }
        if !self.virsh_works(host) {
            return self.after(500, Event::Fault(Fault::LetRun(host)));
        }
        let truth = self.truth();
        let name = self.hosts[host].name.clone();
        let theirs = |(uuid, domain): (&Uuid, &SimDomain)| {
            (domain.paused_by == Some(PausedBy::Outsider)).then_some(*uuid)
        };
        let stopped: Vec<Uuid> =
            self.hosts[host].hypervisor.machine().domains.iter().filter_map(theirs).collect();
        for uuid in stopped {
            let owner = truth.vm_with_uuid(&uuid).and_then(|record| record.owner);
            let here = owner.is_some_and(|owner| truth.node_name(owner) == name);
            // Nobody lets a copy run that is not the only one.
            if !here || self.copies(uuid).len() != 1 {
                continue;
            }
            let mut machine = self.hosts[host].hypervisor.machine();
            if let Some(domain) = machine.domains.get_mut(&uuid) {
                (domain.presence, domain.paused_by) = (Presence::Running, None);
                machine.events.push((uuid, None));
            }
        }
        self.tell_events(host);
    }

    /// Nodes that the newest control plane does not take for lost.
    pub fn online(&self) -> usize {
        self.truth().nodes.values().filter(|node| node.state == NodeState::Online).count()
    }
}
