//! The agent's memory on disk: for each VM the highest order taken or promised, and what the last one came to. Synced
//! before the agent acts, so that an order is done once over restarts, and one that was ruled out stays so.

mod entries;
mod file;

use model::node::SeenDomain;
use model::order::Floors;
use model::sabotage::{Rule, off};
use model::vm::{OnIsolation, Presence};
use uuid::Uuid;

pub use self::entries::{Done, Entries, Entry, IsolationTerms, SinceBoot, Suspended, Suspension};
pub use self::file::LedgerError;
use crate::hypervisor::DomainFacts;
use crate::vm::order::{Kind, Order};
use crate::vm::request_queue::Memory;

/// Where the ledger is kept; on stable storage when `write` returns.
pub trait LedgerStorage: Send {
    /// Replaces all of it.
    fn write(&mut self, entries: &Entries) -> Result<(), LedgerError>;
    /// Notes what Berth has stopped. It has to outlive the agent, and not the host: after a boot there is nothing.
    fn write_suspended(&mut self, suspended: &Suspended) -> Result<(), LedgerError>;
    /// Notes what the ledger says of this boot, in the same way: one that is lost or comes back older does not know of it, and
    /// nothing on the host does.
    fn write_since_boot(&mut self, noted: &SinceBoot) -> Result<(), LedgerError>;
}

/// The ledger of all VMs. Its methods that change something block for one fsync.
pub struct Ledger {
    storage: Box<dyn LedgerStorage>,
    entries: Entries,
    suspended: Suspended,
    noted: SinceBoot,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Ledger").field("entries", &self.entries).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Over any storage, with what it holds.
    pub fn over(storage: Box<dyn LedgerStorage>, entries: Entries, suspended: Suspended) -> Self {
        let noted = SinceBoot::of(&entries);
        Self { storage, entries, suspended, noted }
    }

    /// What is noted of its suspension.
    pub fn suspension(&self, uuid: Uuid) -> Option<Suspension> {
        self.suspended.get(&uuid).copied()
    }

    /// What may be running since the host booted is bound, whatever the ledger knows of it, and no guest runs on without a lease
    /// by the word of a ledger that is older than the last order.
    pub fn knowing(mut self, noted: SinceBoot) -> Self {
        if !off(Rule::OldLedgerRunsNothingOn) {
            for (uuid, entry) in &mut self.entries.vms {
                let told = noted.run_on.get(uuid) == Some(&entry.generation);
                if entry.on_isolation == OnIsolation::Continue && !told {
                    entry.on_isolation = OnIsolation::default();
                }
            }
        }
        if !off(Rule::BoundOutlivesLedger) {
            for (id, (name, scripts)) in noted.scripts.clone() {
                self.entries.service(id).know(name, scripts);
            }
        }
        self.noted = noted;
        self
    }

    /// Whether Berth has stopped the copy whose mark names this generation: nothing else may be resumed. A copy that came here
    /// later, as by a migration, was stopped by somebody else.
    pub fn is_suspended(&self, uuid: Uuid, generation: Option<u64>) -> bool {
        let noted = self.suspension(uuid);
        noted.is_some_and(|it| it.generation.is_none() || it.generation == generation)
    }

    /// What is known of a VM.
    pub fn entry(&self, uuid: Uuid) -> Option<&Entry> {
        self.entries.vms.get(&uuid)
    }

    /// What there is to judge its orders by.
    pub fn memory(&self, uuid: Uuid) -> Memory<'_> {
        let (floor, from) = (self.floor(uuid), self.entries.memory_from);
        Memory { floor, noted: self.entry(uuid), from }
    }

    /// Up to which order all are refused that are about a VM.
    pub fn floor(&self, uuid: Uuid) -> u64 {
        self.entry(uuid).map_or(self.entries.floor, |entry| entry.floor)
    }

    /// The VMs it knows.
    pub fn vms(&self) -> impl Iterator<Item = Uuid> + '_ {
        self.entries.vms.keys().copied()
    }

    /// The highest epoch that was met.
    pub fn epoch(&self) -> u64 {
        self.entries.epoch
    }

    /// An order is about to be carried out.
    pub fn begin(&mut self, order: &Order) -> Result<(), LedgerError> {
        self.change(|entries| {
            let entry = entries.vm(order.uuid);
            entry.floor = entry.floor.max(order.id);
            entry.generation = order.generation;
            entry.begun = Some(order.id);
            entry.bringing = matches!(order.kind, Kind::Start(_) | Kind::Resume);
            if matches!(order.kind, Kind::Start(_) | Kind::Adopt | Kind::Resume) {
                entry.bound = true;
                entry.on_isolation = order.on_isolation;
            }
        })
    }

    /// It came to this; `lost` when it may still bring a guest to life.
    pub fn finish(
        &mut self,
        uuid: Uuid,
        order: u64,
        error: Option<String>,
        lost: bool,
    ) -> Result<(), LedgerError> {
        self.change(|entries| {
            let entry = entries.vm(uuid);
            entry.begun = None;
            entry.bringing = lost;
            entry.done = Some(Done { order, error });
        })
    }

    /// It was seen to run: what libvirt was asked for has come.
    pub fn note_come(&mut self, uuid: Uuid) -> Result<(), LedgerError> {
        if !self.entry(uuid).is_some_and(|entry| entry.bringing) {
            return Ok(());
        }
        self.change(|entries| {
            if let Some(entry) = entries.vms.get_mut(&uuid) {
                entry.bringing = false;
            }
        })
    }

    /// Orders up to this one are refused from now on.
    pub fn promise(&mut self, uuid: Uuid, floor: u64) -> Result<(), LedgerError> {
        if self.floor(uuid) >= floor {
            return Ok(());
        }
        self.change(|entries| {
            let entry = entries.vm(uuid);
            entry.floor = entry.floor.max(floor);
        })
    }

    /// A session begins: its epoch; where this ledger is new, the first order that it will remember; how guests are treated
    /// without a lease, for an agent that is started again while the host is cut off; and what is refused from now on.
    pub fn note_session(
        &mut self,
        (cluster, epoch): (Uuid, u64),
        remember_from: Option<u64>,
        floors: &Floors,
        terms: IsolationTerms,
    ) -> Result<(), LedgerError> {
        self.change(|entries| {
            (entries.cluster, entries.epoch) = (Some(cluster), entries.epoch.max(epoch));
            entries.memory_from = remember_from.unwrap_or(entries.memory_from);
            entries.terms = terms;
            entries.promise_all_but(floors);
        })
    }

    /// Berth is about to stop its vCPUs, or to create it with stopped ones.
    pub fn note_suspended(&mut self, uuid: Uuid, noted: Suspension) -> Result<(), LedgerError> {
        self.change_suspended(uuid, Some(noted))
    }

    /// They run again, or it is gone.
    pub fn forget_suspended(&mut self, uuid: Uuid) -> Result<(), LedgerError> {
        self.change_suspended(uuid, None)
    }

    fn change_suspended(&mut self, uuid: Uuid, to: Option<Suspension>) -> Result<(), LedgerError> {
        if self.suspended.get(&uuid) == to.as_ref() {
            return Ok(());
        }
        let mut all = self.suspended.clone();
        match to {
            Some(noted) => all.insert(uuid, noted),
            None => all.remove(&uuid),
        };
        self.storage.write_suspended(&all)?;
        self.suspended = all;
        Ok(())
    }

    /// The cluster whose marks count.
    pub fn cluster(&self) -> Option<Uuid> {
        self.entries.cluster
    }

    /// How guests are treated without a lease.
    pub fn terms(&self) -> IsolationTerms {
        self.entries.terms
    }

    /// What is seen, as the cluster is told of it: with the generation where it bears this cluster's mark, and one
    /// that self-fence stopped told apart from one that somebody paused.
    pub fn as_ours(&self, facts: DomainFacts) -> SeenDomain {
        let DomainFacts { uuid, mut seen, mark } = facts;
        // Before the first registration, or after the ledger was lost, any cluster's may be this one's.
        let ours =
            mark.filter(|mark| self.entries.cluster.is_none_or(|cluster| cluster == mark.cluster));
        seen.generation = ours.map(|mark| mark.generation);
        let generation = mark.map(|mark| mark.generation);
        let suspended = self.is_suspended(uuid, generation) || off(Rule::ResumeOnlyOwn);
        if seen.presence == Some(Presence::Paused) && suspended {
            seen.presence = Some(Presence::Suspended);
        }
        seen
    }

    /// All that it holds.
    pub(crate) fn entries(&self) -> &Entries {
        &self.entries
    }

    /// On disk first: what is not written down did not happen.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Entries)) -> Result<(), LedgerError> {
        let mut entries = self.entries.clone();
        change(&mut entries);
        if !off(Rule::LedgerFirst) {
            self.storage.write(&entries)?;
        }
        let noted = SinceBoot::of(&entries);
        if noted != self.noted {
            self.storage.write_since_boot(&noted)?;
        }
        (self.entries, self.noted) = (entries, noted);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
