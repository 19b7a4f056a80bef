//! Hosts in memory, with faults: for tests. No threads and no clock; what is asked takes effect at the call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::domain_xml;
use model::node::{Capacity, SeenDomain};
use model::vm::{Presence, StopCause};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::hypervisor::call::Migration;
use crate::hypervisor::mark::{self, Mark};
use crate::hypervisor::{
    DomainFacts, HostFacts, Hypervisor, HypervisorError, HypervisorEvent, JobStats, Result,
};

/// What goes wrong, until it is changed.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Starts that fail from now on.
    pub start_fails: u32,
    /// libvirt does not answer.
    pub disconnected: bool,
    /// Guests do not react to a shutdown.
    pub deaf_guests: bool,
    /// So often a migration is said to be under way.
    pub migrating: u32,
}

#[derive(Default)]
struct State {
    domains: BTreeMap<Uuid, SeenDomain>,
    marks: BTreeMap<Uuid, Mark>,
    saved: BTreeMap<String, SeenDomain>,
    calls: Vec<String>,
    faults: Faults,
    unanswered: u32,
}

impl State {
    fn facts(&self, uuid: Uuid, seen: &SeenDomain) -> DomainFacts {
        DomainFacts { uuid, seen: seen.clone(), mark: self.marks.get(&uuid).copied() }
    }
}

/// One host in memory.
pub struct FakeHypervisor {
    state: Arc<Mutex<State>>,
    events: mpsc::UnboundedSender<HypervisorEvent>,
}

impl FakeHypervisor {
    /// A host without domains, and its events.
    pub fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<HypervisorEvent>) {
        let (events, receiver) = mpsc::unbounded_channel();
        (Arc::new(Self { state: Arc::default(), events }), receiver)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answering(&self) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        if state.faults.disconnected {
            state.unanswered += 1;
            return Err(HypervisorError::Disconnected("the fake is told so".into()));
        }
        Ok(state)
    }

    fn tell(&self, event: HypervisorEvent) {
        // Nobody listens in a test that does not care.
        let _ = self.events.send(event);
    }

    fn set(&self, uuid: Uuid, call: &str, presence: Presence) -> Result<()> {
        let mut state = self.answering()?;
        state.calls.push(call.into());
        state.domains.get_mut(&uuid).ok_or(HypervisorError::NoDomain)?.presence = Some(presence);
        drop(state);
        self.tell(HypervisorEvent::Changed(uuid));
        Ok(())
    }

    /// Changes the faults.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// A QEMU dies.
    pub fn kill(&self, uuid: Uuid, cause: StopCause) {
        self.state().domains.remove(&uuid);
        self.tell(HypervisorEvent::Stopped(uuid, cause));
    }

    /// Somebody starts a domain by hand.
    pub fn appear(&self, uuid: Uuid, name: &str, presence: Presence) {
        self.state().domains.insert(uuid, SeenDomain::active(name, presence, 16));
        self.tell(HypervisorEvent::Changed(uuid));
    }

    /// Somebody defines a domain, or takes its definition away, and does not start it.
    pub fn define(&self, uuid: Uuid, name: Option<&str>) {
        match name {
            Some(name) => {
                let seen = SeenDomain {
                    presence: None,
                    ..SeenDomain::active(name, Presence::Running, 16)
                };
                self.state().domains.insert(uuid, seen);
            }
            None => drop(self.state().domains.remove(&uuid)),
        }
        self.tell(HypervisorEvent::Changed(uuid));
    }

    /// All calls that change something, in order.
    pub fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// How many calls were not answered.
    pub fn unanswered(&self) -> u32 {
        self.state().unanswered
    }

    /// The mark of a domain.
    pub fn mark_of(&self, uuid: Uuid) -> Option<Mark> {
        self.state().marks.get(&uuid).copied()
    }
}

impl Hypervisor for FakeHypervisor {
    fn host(&self) -> Result<HostFacts> {
        drop(self.answering()?);
        Ok(HostFacts {
            hardware: Uuid::from_u128(1),
            capacity: Capacity { memory_mib: 1_024, cpus: 4 },
        })
    }

    fn domains(&self) -> Result<Vec<DomainFacts>> {
        let state = self.answering()?;
        Ok(state.domains.iter().map(|(uuid, seen)| state.facts(*uuid, seen)).collect())
    }

    fn domain(&self, uuid: Uuid) -> Result<Option<DomainFacts>> {
        let state = self.answering()?;
        Ok(state.domains.get(&uuid).map(|seen| state.facts(uuid, seen)))
    }

    fn definition(&self, uuid: Uuid) -> Result<String> {
        let state = self.answering()?;
        let seen = state.domains.get(&uuid).ok_or(HypervisorError::NoDomain)?;
        Ok(format!(
            "<domain type='kvm'><name>{}</name><uuid>{uuid}</uuid><memory unit='MiB'>{}</memory></domain>",
            seen.name, seen.memory_mib
        ))
    }

    fn create(&self, xml: &str) -> Result<()> {
        let mut state = self.answering()?;
        let domain =
            domain_xml::parse(xml).map_err(|error| HypervisorError::Refused(error.to_string()))?;
        let uuid = domain.uuid.unwrap_or_default();
        state.calls.push(format!("create {}", domain.name));
        if state.faults.start_fails > 0 {
            state.faults.start_fails -= 1;
            return Err(HypervisorError::Refused("the fake is told to fail".into()));
        }
        if let Some(mark) = mark::in_domain(xml) {
            state.marks.insert(uuid, mark);
        }
        state.domains.insert(
            uuid,
            SeenDomain::active(domain.name.as_str(), Presence::Paused, domain.memory_mib),
        );
        drop(state);
        self.tell(HypervisorEvent::Changed(uuid));
        Ok(())
    }

    fn shutdown(&self, uuid: Uuid) -> Result<()> {
        let mut state = self.answering()?;
        state.calls.push("shutdown".into());
        if !state.faults.deaf_guests && state.domains.remove(&uuid).is_some() {
            drop(state);
            self.tell(HypervisorEvent::Stopped(uuid, StopCause::GuestShutdown));
        }
        Ok(())
    }

    fn destroy(&self, uuid: Uuid) -> Result<()> {
        let mut state = self.answering()?;
        state.calls.push("destroy".into());
        state.domains.remove(&uuid).ok_or(HypervisorError::NoDomain)?;
        drop(state);
        self.tell(HypervisorEvent::Stopped(uuid, StopCause::Destroyed));
        Ok(())
    }

    fn suspend(&self, uuid: Uuid) -> Result<()> {
        self.set(uuid, "suspend", Presence::Paused)
    }

    fn resume(&self, uuid: Uuid) -> Result<()> {
        self.set(uuid, "resume", Presence::Running)
    }

    fn kill(&self, uuid: Uuid) -> Result<()> {
        // Without libvirt, so whether it answers or not.
        let mut state = self.state();
        state.calls.push("kill".into());
        state.domains.remove(&uuid);
        let heard = !state.faults.disconnected;
        drop(state);
        if heard {
            self.tell(HypervisorEvent::Stopped(uuid, StopCause::Crashed));
        }
        Ok(())
    }

    fn start_post_copy(&self, _uuid: Uuid) -> Result<()> {
        self.answering()?.calls.push("post-copy".into());
        Ok(())
    }

    fn save(&self, uuid: Uuid, file: &str) -> Result<()> {
        let mut state = self.answering()?;
        state.calls.push(format!("save {file}"));
        let domain = state.domains.remove(&uuid).ok_or(HypervisorError::NoDomain)?;
        state.saved.insert(file.to_owned(), domain);
        drop(state);
        self.tell(HypervisorEvent::Stopped(uuid, StopCause::Saved));
        Ok(())
    }

    fn restore(&self, uuid: Uuid, file: &str, mark: &Mark) -> Result<bool> {
        let mut state = self.answering()?;
        state.calls.push(format!("restore {file}"));
        let Some(mut domain) = state.saved.remove(file) else { return Ok(false) };
        domain.presence = Some(Presence::Paused);
        state.domains.insert(uuid, domain);
        state.marks.insert(uuid, *mark);
        drop(state);
        self.tell(HypervisorEvent::Changed(uuid));
        Ok(true)
    }

    fn ping_guest(&self, _uuid: Uuid, _limit: Duration) -> Result<()> {
        match self.answering()?.faults.deaf_guests {
            true => Err(HypervisorError::Refused("the guest agent is not connected".into())),
            false => Ok(()),
        }
    }

    fn migrate(&self, uuid: Uuid, migration: &Migration) -> Result<()> {
        let mut state = self.answering()?;
        state.calls.push(format!("migrate to {}", migration.uri));
        state.domains.remove(&uuid).ok_or(HypervisorError::NoDomain)?;
        drop(state);
        self.tell(HypervisorEvent::Stopped(uuid, StopCause::MigratedAway));
        Ok(())
    }

    fn job(&self, _uuid: Uuid) -> Result<Option<JobStats>> {
        let mut state = self.answering()?;
        let under_way = state.faults.migrating > 0;
        state.faults.migrating -= u32::from(under_way);
        Ok(under_way.then(JobStats::default))
    }

    fn abort_job(&self, _uuid: Uuid) -> Result<()> {
        self.answering()?.calls.push("abort".into());
        Ok(())
    }

    fn mark(&self, uuid: Uuid, mark: &Mark) -> Result<()> {
        let mut state = self.answering()?;
        if !state.domains.contains_key(&uuid) {
            return Err(HypervisorError::NoDomain);
        }
        state.marks.insert(uuid, *mark);
        Ok(())
    }

    fn processes(&self) -> Result<Vec<Uuid>> {
        Ok(Vec::new())
    }

    fn process(&self, _uuid: Uuid) -> Result<Option<i32>> {
        Ok(None)
    }
}
