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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Prepare,
    Copying,
    Handover,
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
            .map(|host| host.paused_until.max(host.libvirt_stalled_until))
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
            let mut machine = self.hosts[migration.to].hypervisor.machine();
            machine.domains.insert(uuid, domain);
            machine.events.push((uuid, None));
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
                domain.paused_by = paused_by.filter(|_| migration.before == Presence::Paused);
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
                    && migration.aborted;
                if handed_over {
                    domain.presence = migration.before;
                } else if stopped {
                    domain.presence = Presence::Running;
                    domain.paused_by = None;
                }
                machine.events.push((migration.uuid, None));
            }
        }
        self.drop_target(migration);
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
            machine.end(migration.uuid, StopCause::Failed);
        }
    }

    /// The source's QEMU or its host is gone: what has not begun to run there never will.
    fn source_lost(&mut self, number: u64, migration: &Migration) {
        self.migrations.remove(&number);
        self.drop_target(migration);
        let gone = HypervisorError::Refused("the domain is gone".into());
        self.migration_ended(migration, Err(gone));
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

    /// Whether anything is being moved.
    pub fn migrating(&self) -> bool {
        !self.migrations.is_empty()
    }
}
