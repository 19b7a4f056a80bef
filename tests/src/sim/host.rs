//! A hypervisor host: power, clocks, libvirt, and the domains that run on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent::clock::Reading;
use agent::hypervisor::call::Migration;
use agent::hypervisor::mark::{self, Mark};
use agent::hypervisor::{
    DomainFacts, HostFacts, Hypervisor, HypervisorError, JobStats, Result as Called,
};
use agent::lease::Lease;
use agent::vm::ledger::{Entries, SinceBoot, Suspended};
use model::node::{Capacity, SeenDomain};
use model::sabotage::{Rule, off};
use model::vm::{Presence, StopCause};
use uuid::Uuid;

use super::agent::SimAgent;
use super::scripts::ScriptRun;
use super::shutdown::SimShutdown;

/// Who stopped a domain's vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PausedBy {
    /// The agent, by its call.
    Agent,
    /// Somebody with virsh.
    Outsider,
}

/// A domain and its QEMU.
#[derive(Debug, Clone)]
pub struct SimDomain {
    /// Its name.
    pub name: String,
    /// How it is.
    pub presence: Presence,
    /// Who paused it, while it is.
    pub paused_by: Option<PausedBy>,
    /// Its mark.
    pub mark: Option<Mark>,
    /// Its memory.
    pub memory_mib: u64,
    /// libvirtd has lost sight of it; its QEMU runs on.
    pub unseen: bool,
    /// Somebody brought it here without the cluster, and the cluster has not taken it over yet.
    pub outside: bool,
    /// Its guest has run here since it was created.
    pub ran: bool,
    /// What libvirtd makes of it when it starts again and finds it in the middle of a migration.
    pub recovers_to: Option<Presence>,
}

/// What libvirt and QEMU of one host are doing.
#[derive(Debug, Default)]
pub struct Machine {
    /// All domains.
    pub domains: BTreeMap<Uuid, SimDomain>,
    /// What happened and was not told to the agent yet.
    pub events: Vec<(Uuid, Option<StopCause>)>,
    /// Calls that fail from now on.
    pub failing: Failing,
    /// Calls about one VM that fail, on this host and others.
    pub of_vm: BTreeMap<Uuid, Arc<Mutex<Failing>>>,
    /// libvirtd does not run.
    pub libvirt_down: bool,
    /// Its UUID.
    pub hardware: Uuid,
    /// What it has.
    pub capacity: Capacity,
}

/// How many of the next calls fail.
#[derive(Debug, Default, Clone, Copy)]
pub struct Failing {
    /// Starts.
    pub starts: u32,
    /// Starts whose answer is lost, and that come true a while later.
    pub lost_starts: u32,
    /// Stops.
    pub stops: u32,
    /// Migrations.
    pub migrations: u32,
}

/// The machine as the agent's calls meet it.
#[derive(Clone, Default)]
pub struct SimHypervisor {
    machine: Arc<Mutex<Machine>>,
}

impl SimHypervisor {
    /// The machine.
    pub fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answering(&self) -> Called<MutexGuard<'_, Machine>> {
        let machine = self.machine();
        if machine.libvirt_down {
            return Err(HypervisorError::Disconnected("libvirtd is not running".into()));
        }
        Ok(machine)
    }
}

impl Machine {
    fn facts(uuid: Uuid, domain: &SimDomain) -> DomainFacts {
        let seen = SeenDomain::active(&domain.name, domain.presence, domain.memory_mib);
        DomainFacts { uuid, seen, mark: domain.mark }
    }

    fn seen(&mut self, uuid: Uuid) -> Called<&mut SimDomain> {
        let domain = self.domains.get_mut(&uuid).filter(|domain| !domain.unseen);
        domain.ok_or(HypervisorError::NoDomain)
    }

    /// Whether this is one of the VM's own calls that fail; it counts as one.
    pub fn fails(&self, uuid: Uuid, which: fn(&mut Failing) -> &mut u32) -> bool {
        let Some(failing) = self.of_vm.get(&uuid) else { return false };
        let mut failing = failing.lock().unwrap_or_else(PoisonError::into_inner);
        let left = which(&mut failing);
        let fails = *left > 0;
        if fails && *left < u32::MAX {
            *left -= 1;
        }
        fails
    }

    /// Whether the VM's next stop fails.
    fn cannot_stop(&self, uuid: Uuid) -> bool {
        self.of_vm
            .get(&uuid)
            .is_some_and(|failing| failing.lock().unwrap_or_else(PoisonError::into_inner).stops > 0)
    }

    /// Its QEMU ends.
    pub fn end(&mut self, uuid: Uuid, cause: StopCause) -> bool {
        let ended = self.domains.remove(&uuid).is_some();
        if ended {
            self.events.push((uuid, Some(cause)));
        }
        ended
    }
}

fn uuid_of(xml: &str) -> Uuid {
    model::domain_xml::parse(xml).ok().and_then(|domain| domain.uuid).unwrap_or_default()
}

impl Hypervisor for SimHypervisor {
    fn host(&self) -> Called<HostFacts> {
        let machine = self.answering()?;
        Ok(HostFacts { hardware: machine.hardware, capacity: machine.capacity })
    }

    fn domains(&self) -> Called<Vec<DomainFacts>> {
        let machine = self.answering()?;
        let seen = machine.domains.iter().filter(|(_, domain)| !domain.unseen);
        Ok(seen.map(|(uuid, domain)| Machine::facts(*uuid, domain)).collect())
    }

    fn domain(&self, uuid: Uuid) -> Called<Option<DomainFacts>> {
        let machine = self.answering()?;
        let seen = machine.domains.get(&uuid).filter(|domain| !domain.unseen);
        Ok(seen.map(|domain| Machine::facts(uuid, domain)))
    }

    fn definition(&self, _uuid: Uuid) -> Called<String> {
        Err(HypervisorError::NoDomain)
    }

    fn create(&self, xml: &str) -> Called<()> {
        let mut machine = self.answering()?;
        if machine.fails(uuid_of(xml), |failing| &mut failing.starts) {
            return Err(HypervisorError::Refused("its disk is missing".into()));
        }
        if machine.failing.starts > 0 {
            machine.failing.starts -= 1;
            return Err(HypervisorError::Refused("the disk cannot be opened".into()));
        }
        let domain = model::domain_xml::parse(xml)
            .map_err(|error| HypervisorError::Refused(error.to_string()))?;
        let uuid = domain.uuid.unwrap_or_default();
        if machine.domains.contains_key(&uuid) {
            return Err(HypervisorError::Refused("the domain exists already".into()));
        }
        let runs = off(Rule::LostStartMayCome);
        machine.domains.insert(
            uuid,
            SimDomain {
                name: domain.name.to_string(),
                // Stopped, as the real one is asked to create it.
                presence: if runs { Presence::Running } else { Presence::Paused },
                paused_by: (!runs).then_some(PausedBy::Agent),
                mark: mark::in_domain(xml),
                memory_mib: domain.memory_mib,
                unseen: false,
                outside: false,
                ran: runs,
                recovers_to: None,
            },
        );
        machine.events.push((uuid, None));
        Ok(())
    }

    fn shutdown(&self, uuid: Uuid) -> Called<()> {
        let mut machine = self.answering()?;
        let presence = machine.seen(uuid)?.presence;
        // A guest whose vCPUs are stopped does not hear the button, nor one that cannot be stopped.
        if presence == Presence::Running && machine.failing.stops == 0 && !machine.cannot_stop(uuid)
        {
            machine.end(uuid, StopCause::GuestShutdown);
        }
        Ok(())
    }

    fn destroy(&self, uuid: Uuid) -> Called<()> {
        let mut machine = self.answering()?;
        machine.seen(uuid)?;
        if machine.fails(uuid, |failing| &mut failing.stops) {
            return Err(HypervisorError::Refused("device or resource busy".into()));
        }
        if machine.failing.stops > 0 {
            machine.failing.stops -= 1;
            return Err(HypervisorError::Refused("device or resource busy".into()));
        }
        machine.end(uuid, StopCause::Destroyed);
        Ok(())
    }

    fn suspend(&self, uuid: Uuid) -> Called<()> {
        let mut machine = self.answering()?;
        let domain = machine.seen(uuid)?;
        match domain.presence {
            Presence::Running => {
                domain.presence = Presence::Paused;
                domain.paused_by = Some(PausedBy::Agent);
                machine.events.push((uuid, None));
            }
            // Somebody was quicker by a moment; that both have stopped it nobody can see.
            Presence::Paused => domain.paused_by = Some(PausedBy::Agent),
            _ => {}
        }
        Ok(())
    }

    fn resume(&self, uuid: Uuid) -> Called<()> {
        let mut machine = self.answering()?;
        let domain = machine.seen(uuid)?;
        if domain.presence == Presence::Paused {
            domain.presence = Presence::Running;
            (domain.paused_by, domain.ran) = (None, true);
            machine.events.push((uuid, None));
        }
        Ok(())
    }

    /// Migrations are the world's: see [`super::migration`].
    fn migrate(&self, _uuid: Uuid, _migration: &Migration) -> Called<()> {
        Err(HypervisorError::Refused("a migration is not one call here".into()))
    }

    fn start_post_copy(&self, _uuid: Uuid) -> Called<()> {
        Err(HypervisorError::Refused("no post-copy here".into()))
    }

    fn save(&self, _uuid: Uuid, _file: &str) -> Called<()> {
        Err(HypervisorError::Refused("nothing is saved here".into()))
    }

    fn restore(&self, _uuid: Uuid, _file: &str, _mark: &Mark) -> Called<bool> {
        drop(self.answering()?);
        Ok(false)
    }

    fn ping_guest(&self, _uuid: Uuid, _limit: std::time::Duration) -> Called<()> {
        drop(self.answering()?);
        Ok(())
    }

    fn job(&self, _uuid: Uuid) -> Called<Option<JobStats>> {
        drop(self.answering()?);
        Ok(None)
    }

    fn abort_job(&self, _uuid: Uuid) -> Called<()> {
        drop(self.answering()?);
        Err(HypervisorError::Refused("no job is active".into()))
    }

    fn mark(&self, uuid: Uuid, mark: &Mark) -> Called<()> {
        let mut machine = self.answering()?;
        let domain = machine.seen(uuid)?;
        domain.mark = Some(*mark);
        domain.outside = false;
        Ok(())
    }

    fn process(&self, uuid: Uuid) -> Called<Option<i32>> {
        Ok(self.machine().domains.contains_key(&uuid).then_some(1))
    }

    fn processes(&self) -> Called<Vec<Uuid>> {
        Ok(self.machine().domains.keys().copied().collect())
    }

    fn kill(&self, uuid: Uuid) -> Called<()> {
        let mut machine = self.machine();
        // One that hangs in its kernel outlives that.
        if !machine.cannot_stop(uuid) {
            machine.end(uuid, StopCause::Crashed);
        }
        Ok(())
    }
}

/// A watchdog device.
#[derive(Debug, Clone, Copy)]
pub struct SimWatchdog {
    /// When it bites after its last food.
    pub timeout_ms: u64,
    /// When it was fed, in virtual time; `None` while it is not armed.
    pub fed: Option<u64>,
}

/// A fence device.
#[derive(Debug, Clone, Copy, Default)]
pub struct SimFence {
    /// It does not answer until then.
    pub dark_until: u64,
    /// It says "done" and does nothing.
    pub broken: bool,
}

/// One host.
pub struct SimHost {
    /// Its name.
    pub name: String,
    /// It has power and has booted.
    pub on: bool,
    /// Counts its boots.
    pub boot: u64,
    /// libvirt and QEMU.
    pub hypervisor: SimHypervisor,
    /// The agent, while it runs.
    pub agent: Option<SimAgent>,
    /// Counts the agents.
    pub incarnation: u64,
    /// The agent has been started since the host booted: before that its unit keeps libvirt from listening.
    pub guarded: bool,
    /// The ledger on its disk.
    pub ledger: Arc<Mutex<Entries>>,
    /// How often it was lost.
    pub ledgers_lost: u64,
    /// `/run`: the lease.
    pub lease_file: Lease,
    /// `/run`: what self-fence has stopped.
    pub suspended: Arc<Mutex<Suspended>>,
    /// `/run`: what matters of the ledger since the boot.
    pub since_boot: Arc<Mutex<SinceBoot>>,
    /// Its watchdog.
    pub watchdog: Option<SimWatchdog>,
    /// Its fence device.
    pub fence: Option<SimFence>,
    /// Its libvirt has a lock manager.
    pub locked: bool,
    /// It is a virtual machine: all of it may stand still.
    pub pausable: bool,
    /// The agent stands still until then.
    pub agent_stalled_until: u64,
    /// libvirtd stands still until then.
    pub libvirt_stalled_until: u64,
    /// All of it stands still until then, its clock and its watchdog too.
    pub paused_until: u64,
    /// All of its processes stand still until then, as by SIGSTOP; its kernel and its watchdog do not.
    pub frozen_until: u64,
    /// Calls of libvirt take long until then.
    pub slow_until: u64,
    /// An older copy of the ledger, as a backup has it.
    pub ledger_copy: Option<Entries>,
    /// How long it has stood still so far.
    pub paused_ms: u64,
    /// How much faster than true time its two clocks run, in parts per million.
    pub drift_ppm: (i64, i64),
    /// It comes back by itself after it lost its power.
    pub boots_after_ms: Option<u64>,
    /// Programs of scripts whose daemons are up.
    pub scripts: BTreeSet<String>,
    /// Runs of scripts under way.
    pub runs: Vec<ScriptRun>,
    /// It is going down in good order, or coming back from that.
    pub shutdown: Option<SimShutdown>,
}

impl SimHost {
    /// Its clocks at a moment of virtual time.
    pub fn reading(&self, now: u64) -> Reading {
        let lived = now.saturating_sub(self.paused_ms) as i64;
        let clock = |ppm: i64| (1_000_000 + lived + lived * ppm / 1_000_000) as u64;
        Reading { boot_ms: clock(self.drift_ppm.0), raw_ms: clock(self.drift_ppm.1) }
    }

    /// Its agent has noted no order as begun.
    pub fn has_begun_nothing(&self) -> bool {
        let ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.vms.values().all(|entry| entry.begun.is_none())
    }

    /// Until when its processes stand still, with or without its kernel.
    pub fn still_until(&self) -> u64 {
        self.paused_until.max(self.frozen_until)
    }

    /// Its processes stand still now.
    pub fn stands_still(&self, now: u64) -> bool {
        now < self.still_until()
    }

    /// The scripts that run here now.
    pub fn running_scripts(&self, now: u64) -> impl Iterator<Item = &str> {
        let works = self.on && !self.stands_still(now);
        self.scripts.iter().filter(move |_| works).map(String::as_str)
    }

    /// The VMs whose vCPUs run here now.
    pub fn running(&self, now: u64) -> Vec<Uuid> {
        if !self.on || self.stands_still(now) {
            return Vec::new();
        }
        let machine = self.hypervisor.machine();
        let runs = |domain: &SimDomain| {
            matches!(domain.presence, Presence::Running | Presence::ShuttingDown)
        };
        machine.domains.iter().filter(|(_, it)| runs(it)).map(|(uuid, _)| *uuid).collect()
    }
}
