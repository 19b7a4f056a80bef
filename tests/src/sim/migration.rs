//! A live migration, as the two libvirts carry it out between themselves, with or without an agent.
//!
//! ```text
//!  prepare ─▶ copying ─▶ handover ─▶ running there ─▶ gone here
//!     │          │           │             │
//!     └──────────┴───────────┴─ undone     └─ the link broke: the source stays stopped, for it cannot know
//! ```

use agent::hypervisor::HypervisorError;
use agent::hypervisor::call::Answer;
use model::vm::{Presence, StopCause};
use uuid::Uuid;

use super::host::PausedBy;
use super::network::Place;
use super::world::{Event, World};

/// How far a migration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The target is being prepared.
    Prepare,
    /// Memory is copied.
    Copying,
    /// The guest is stopped at the source and does not run at the target yet.
    Handover,
    /// It runs at the target, and the source does not know yet.
    Confirm,
}

/// A migration under way.
#[derive(Debug, Clone)]
pub struct Migration {
    uuid: Uuid,
    from: usize,
    to: usize,
    boots: (u64, u64),
    phase: Phase,
    aborted: bool,
    /// How the guest was before its last moment here.
    before: Presence,
    /// The agent's call that waits for it: host, boot, incarnation, VM and number.
    asked: Option<(usize, u64, u64, Uuid, u64)>,
}

impl World {
    /// Somebody begins one: an agent's call, or an outsider.
    pub fn begin_migration(
        &mut self,
        uuid: Uuid,
        from: usize,
        to: usize,
        asked: Option<(usize, u64, u64, Uuid, u64)>,
    ) {
        let boots = (self.hosts[from].boot, self.hosts.get(to).map_or(0, |host| host.boot));
        let migration = Migration {
            uuid,
            from,
            to,
            boots,
            phase: Phase::Prepare,
            aborted: false,
            before: Presence::Running,
            asked,
        };
        let number = self.rng.u64(..);
        self.migrations.insert(number, migration);
        let delay = self.between((5, 50));
        self.after(delay, Event::Migrate(number));
        let names = (self.vm_name(uuid), self.hosts.get(to).map(|host| host.name.clone()));
        if let (Some(vm), Some(target)) = names {
            let source = self.hosts[from].name.clone();
            self.trace.note(self.now, "move", &[&vm, &source, &target, "live"]);
        }
    }

    /// `virDomainAbortJob` on the source.
    pub(super) fn abort_migration(
        &mut self,
        uuid: Uuid,
        host: usize,
    ) -> Result<Answer, HypervisorError> {
        let migration = self
            .migrations
            .values_mut()
            .find(|migration| migration.uuid == uuid && migration.from == host)
            .ok_or_else(|| HypervisorError::Refused("no job is active".into()))?;
        if migration.phase == Phase::Confirm {
            return Err(HypervisorError::Refused("the migration cannot be aborted now".into()));
        }
        migration.aborted = true;
        let number = self.migrations.iter().find(|(_, it)| it.uuid == uuid && it.from == host);
        if let Some(number) = number.map(|(number, _)| *number) {
            self.after(5, Event::Migrate(number));
        }
        Ok(Answer::Done)
    }

    /// Whether a migration of it from this host is under way.
    pub(super) fn migrates(&self, uuid: Uuid, host: usize) -> bool {
        self.migrations.values().any(|it| it.uuid == uuid && it.from == host)
    }

    fn source_holds(&self, migration: &Migration) -> bool {
        let host = &self.hosts[migration.from];
        host.on
            && host.boot == migration.boots.0
            && host.hypervisor.machine().domains.contains_key(&migration.uuid)
    }

    fn target_holds(&self, migration: &Migration) -> bool {
        let Some(host) = self.hosts.get(migration.to) else { return false };
        host.on
            && host.boot == migration.boots.1
            && host
                .hypervisor
                .machine()
                .domains
                .get(&migration.uuid)
                .is_some_and(|domain| domain.presence == Presence::Incoming)
    }

    fn linked(&self, migration: &Migration) -> bool {
        let (from, to) = (Place::Host(migration.from), Place::Host(migration.to));
        migration.to < self.hosts.len()
            && self.hosts[migration.to].on
            && self.network.connected(from, to)
    }

    pub(super) fn migration_step(&mut self, number: u64) {
        let Some(migration) = self.migrations.get(&number).cloned() else { return };
        let stands_still = [migration.from, migration.to]
            .iter()
            .filter_map(|host| self.hosts.get(*host))
            .filter(|host| host.on)
            .map(|host| host.still_until().max(host.libvirt_stalled_until))
            .max()
            .filter(|until| *until > self.now);
        if let Some(until) = stands_still {
            return self.after(until - self.now, Event::Migrate(number));
        }
        if !self.source_holds(&migration) {
            return self.source_lost(number, &migration);
        }
        match migration.phase {
            Phase::Prepare => self.prepare(number, &migration),
            Phase::Copying => self.hand_over(number, &migration),
            Phase::Handover => self.finish(number, &migration),
            Phase::Confirm => self.confirm(number, &migration),
        }
    }

    fn go_on(&mut self, number: u64, phase: Phase, within: (u64, u64)) {
        if let Some(migration) = self.migrations.get_mut(&number) {
            migration.phase = phase;
        }
        let delay = self.between(within);
        self.after(delay, Event::Migrate(number));
    }

    fn prepare(&mut self, number: u64, migration: &Migration) {
        let uuid = migration.uuid;
        let fails = {
            let mut machine = self.hosts[migration.from].hypervisor.machine();
            let told_to_fail = machine.failing.migrations > 0;
            machine.failing.migrations = machine.failing.migrations.saturating_sub(1);
            let runs = machine.domains.get(&uuid).is_some_and(|domain| {
                matches!(domain.presence, Presence::Running | Presence::Paused)
            });
            let its_own = machine.fails(uuid, |failing| &mut failing.migrations);
            told_to_fail || its_own || !runs || machine.libvirt_down
        };
        let taken = self.hosts.get(migration.to).is_none_or(|host| {
            let machine = host.hypervisor.machine();
            machine.libvirt_down || machine.domains.contains_key(&uuid) || !host.guarded
        });
        let others = self.migrations.values().filter(|other| other.uuid == uuid).count() > 1;
        if fails || taken || others || !self.linked(migration) {
            return self.undo(number, migration, "the target cannot be prepared");
        }
        let copy = self.hosts[migration.from].hypervisor.machine().domains.get(&uuid).cloned();
        if let Some(mut domain) = copy {
            domain.presence = Presence::Incoming;
            domain.paused_by = None;
            domain.outside = migration.asked.is_none();
            (domain.recovers_to, domain.ran) = (None, true);
            let mut machine = self.hosts[migration.to].hypervisor.machine();
            machine.domains.insert(uuid, domain);
            machine.events.push((uuid, None));
        }
        let before = self.hosts[migration.from]
            .hypervisor
            .machine()
            .domains
            .get(&uuid)
            .map(|it| it.presence);
        // It is the target as it is now that is connected to, whatever it was when this was asked for.
        let boot = self.hosts[migration.to].boot;
        if let (Some(migration), Some(before)) = (self.migrations.get_mut(&number), before) {
            (migration.before, migration.boots.1) = (before, boot);
        }
        self.go_on(number, Phase::Copying, self.pace.copy);
    }

    fn hand_over(&mut self, number: u64, migration: &Migration) {
        if migration.aborted {
            return self.undo(number, migration, "it was aborted");
        }
        if !self.target_holds(migration) || !self.linked(migration) {
            return self.undo(number, migration, "the target is gone");
        }
        let mut before = Presence::Running;
        {
            let mut machine = self.hosts[migration.from].hypervisor.machine();
            if let Some(domain) = machine.domains.get_mut(&migration.uuid) {
                before = domain.presence;
                domain.presence = Presence::Leaving;
            }
            machine.events.push((migration.uuid, None));
        }
        if let Some(migration) = self.migrations.get_mut(&number) {
            migration.before = before;
        }
        // It no longer runs here before it runs there.
        self.trace_domains(migration.from);
        self.go_on(number, Phase::Handover, (2, 60));
    }

    fn finish(&mut self, number: u64, migration: &Migration) {
        if migration.aborted || !self.target_holds(migration) || !self.linked(migration) {
            return self.undo(number, migration, "the target is gone");
        }
        let paused_by = {
            let machine = self.hosts[migration.from].hypervisor.machine();
            machine.domains.get(&migration.uuid).and_then(|domain| domain.paused_by)
        };
        {
            let mut machine = self.hosts[migration.to].hypervisor.machine();
            if let Some(domain) = machine.domains.get_mut(&migration.uuid) {
                // A guest that was stopped arrives stopped.
                domain.presence = migration.before;
                // Whoever moves by hand what the agent has stopped has it stopped from then on.
                let mover = migration.asked.is_none().then_some(PausedBy::Outsider);
                let stopped = migration.before == Presence::Paused;
                domain.paused_by = paused_by.filter(|_| stopped).map(|by| mover.unwrap_or(by));
            }
            machine.events.push((migration.uuid, None));
        }
        self.trace_domains(migration.to);
        self.go_on(number, Phase::Confirm, (2, 60));
    }

    fn confirm(&mut self, number: u64, migration: &Migration) {
        self.migrations.remove(&number);
        if !self.linked(migration) {
            // It cannot know whether the guest runs there; QEMU's image lock keeps it from running on here.
            let there = self.copies(migration.uuid).iter().any(|(host, _)| *host == migration.to);
            if there {
                let error = HypervisorError::Refused("the connection to the target broke".into());
                return self.migration_ended(migration, Err(error));
            }
        }
        let mut machine = self.hosts[migration.from].hypervisor.machine();
        machine.end(migration.uuid, StopCause::MigratedAway);
        drop(machine);
        self.tell_events(migration.from);
        self.migration_ended(migration, Ok(Answer::Done));
    }

    /// The source goes on as it was, the half-built target goes away.
    fn undo(&mut self, number: u64, migration: &Migration, why: &str) {
        self.migrations.remove(&number);
        {
            let mut machine = self.hosts[migration.from].hypervisor.machine();
            if let Some(domain) = machine.domains.get_mut(&migration.uuid) {
                let handed_over =
                    domain.presence == Presence::Leaving && migration.phase == Phase::Handover;
                // libvirt lets a source run on that it had running before, whoever stopped it meanwhile.
                let stopped = domain.paused_by == Some(PausedBy::Agent)
                    && migration.phase != Phase::Prepare
                    && migration.before == Presence::Running;
                if handed_over {
                    domain.presence = migration.before;
                } else if stopped {
                    domain.presence = Presence::Running;
                    domain.paused_by = None;
                }
                machine.events.push((migration.uuid, None));
            }
        }
        // What was never prepared takes nothing away from another migration to the same place.
        if migration.phase != Phase::Prepare {
            self.drop_target(migration);
        }
        let names = (self.vm_name(migration.uuid), self.hosts.get(migration.to));
        if let (Some(vm), Some(target)) = names {
            let (source, target) = (self.hosts[migration.from].name.clone(), target.name.clone());
            self.trace.note(self.now, "move-failed", &[&vm, &source, &target]);
        }
        self.migration_ended(migration, Err(HypervisorError::Refused(why.to_owned())));
    }

    fn drop_target(&mut self, migration: &Migration) {
        if self.target_holds(migration) {
            let mut machine = self.hosts[migration.to].hypervisor.machine();
            // A libvirtd that is down does so when it comes back.
            if !machine.libvirt_down {
                machine.end(migration.uuid, StopCause::Failed);
            }
        }
    }

    /// The source's QEMU or its host is gone: what has not begun to run there never will.
    fn source_lost(&mut self, number: u64, migration: &Migration) {
        self.migrations.remove(&number);
        self.drop_target(migration);
        let gone = HypervisorError::Refused("the domain is gone".into());
        self.migration_ended(migration, Err(gone));
    }

    /// libvirtd of one side has ended, and the connection between the two with it.
    pub(super) fn migrations_lose_libvirt(&mut self, host: usize) {
        let hit = |(number, it): (&u64, &Migration)| {
            (it.from == host || it.to == host).then(|| (*number, it.clone()))
        };
        let hit: Vec<(u64, Migration)> = self.migrations.iter().filter_map(hit).collect();
        for (number, migration) in hit {
            let at_source = migration.from == host;
            match migration.phase {
                Phase::Prepare | Phase::Copying if at_source => {
                    self.migrations.remove(&number);
                    self.drop_target(&migration);
                }
                // It had stopped the guest; libvirtd lets it run again when it is back, for nothing runs there yet.
                Phase::Handover if at_source => {
                    self.migrations.remove(&number);
                    self.leave_to_recover(&migration, Some(migration.before));
                    self.drop_target(&migration);
                }
                Phase::Prepare | Phase::Copying | Phase::Handover => {
                    self.undo(number, &migration, "the connection to the target broke");
                    continue;
                }
                // The guest runs there, and the source cannot know: it stays stopped.
                Phase::Confirm => {
                    self.migrations.remove(&number);
                }
            }
            let error = match at_source {
                true => HypervisorError::Disconnected("the connection broke".into()),
                false => HypervisorError::Refused("the connection to the target broke".into()),
            };
            self.migration_ended(&migration, Err(error));
        }
    }

    fn leave_to_recover(&mut self, migration: &Migration, presence: Option<Presence>) {
        let mut machine = self.hosts[migration.from].hypervisor.machine();
        if let Some(domain) = machine.domains.get_mut(&migration.uuid) {
            domain.recovers_to = presence;
        }
    }

    /// libvirtd is back: it makes an end of what it finds in the middle of a migration that is no more.
    pub(super) fn libvirt_recovers(&mut self, host: usize) {
        let under_way: Vec<Uuid> =
            self.migrations.values().filter(|it| it.to == host).map(|it| it.uuid).collect();
        {
            let mut machine = self.hosts[host].hypervisor.machine();
            let orphans: Vec<Uuid> = machine
                .domains
                .iter()
                .filter(|(uuid, it)| it.presence == Presence::Incoming && !under_way.contains(uuid))
                .map(|(uuid, _)| *uuid)
                .collect();
            for uuid in orphans {
                machine.end(uuid, StopCause::Failed);
            }
            let mut changed = Vec::new();
            for (uuid, domain) in &mut machine.domains {
                if let Some(presence) = domain.recovers_to.take()
                    && domain.presence == Presence::Leaving
                {
                    domain.presence = presence;
                    changed.push((*uuid, None));
                }
            }
            machine.events.extend(changed);
        }
        self.tell_events(host);
    }

    fn migration_ended(&mut self, migration: &Migration, answer: Result<Answer, HypervisorError>) {
        self.tell_events(migration.from);
        if migration.to < self.hosts.len() {
            self.tell_events(migration.to);
        }
        if let Some((host, boot, incarnation, uuid, id)) = migration.asked
            && self.hosts[host].on
            && self.hosts[host].boot == boot
        {
            self.answer_call(host, incarnation, uuid, id, answer);
        }
    }

    /// How far the migration of a VM is, if one is under way.
    pub fn migration_phase(&self, uuid: Uuid) -> Option<Phase> {
        self.migrations.values().find(|it| it.uuid == uuid).map(|it| it.phase)
    }

    /// Whether anything is being moved.
    pub fn migrating(&self) -> bool {
        !self.migrations.is_empty()
    }
}
