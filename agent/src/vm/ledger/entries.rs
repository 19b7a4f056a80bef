//! What the ledger holds: of each VM and service the orders taken and promised, and what of that counts since the host booted.

use std::collections::BTreeMap;

use model::order::Floors;
use model::vm::OnIsolation;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::script::ledger::{Bound, ServiceEntry};

/// What an order came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Which.
    pub order: u64,
    /// `None` for success.
    pub error: Option<String>,
}

/// What is known of one VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Orders below this are refused, and so is this one unless it was begun or done.
    pub floor: u64,
    /// The ownership of the last order.
    pub generation: u64,
    /// The order that was begun and not finished.
    pub begun: Option<u64>,
    /// The order that was begun brings a guest to life: libvirt may do so after the agent's death.
    pub bringing: bool,
    /// The last order that was finished.
    pub done: Option<Done>,
    /// An order has brought it to life here or taken it over: the lease binds it.
    pub bound: bool,
    /// What is done with it when the lease runs out.
    pub on_isolation: OnIsolation,
}

/// All that is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entries {
    /// The highest epoch that was met; orders of an older one are refused.
    pub epoch: u64,
    /// The cluster of that epoch, whose mark counts.
    pub cluster: Option<Uuid>,
    /// Orders before this one may have been done by an agent whose ledger is lost.
    #[serde(default)]
    pub memory_from: u64,
    /// How guests are treated without a lease; the design's defaults where no session has said it yet.
    #[serde(default)]
    pub terms: IsolationTerms,
    /// Orders up to this one are refused, whatever they are about that has no entry; zero in formats before the fourth.
    #[serde(default)]
    pub floor: u64,
    /// By VM.
    pub vms: BTreeMap<Uuid, Entry>,
    /// By service; none in formats before the third.
    #[serde(default)]
    pub services: BTreeMap<Uuid, ServiceEntry>,
}

impl Entries {
    /// The entry of a VM; a new one has promised what all have.
    pub(super) fn vm(&mut self, uuid: Uuid) -> &mut Entry {
        let new = || Entry { floor: self.floor, ..Entry::default() };
        self.vms.entry(uuid).or_insert_with(new)
    }

    /// The same of a service.
    pub(crate) fn service(&mut self, id: Uuid) -> &mut ServiceEntry {
        let new = || ServiceEntry { floor: self.floor, ..ServiceEntry::default() };
        self.services.entry(id).or_insert_with(new)
    }

    /// Orders up to the floor are refused, but for those about what may run here: of these holds what was promised before.
    /// Entries that say no more than this are dropped.
    pub(super) fn promise_all_but(&mut self, floors: &Floors) {
        if self.floor >= floors.below {
            return;
        }
        for uuid in &floors.vms {
            self.vm(*uuid);
        }
        for id in &floors.services {
            self.service(*id);
        }
        self.vms.retain(|uuid, entry| {
            if floors.vms.contains(uuid) {
                return true;
            }
            entry.floor = entry.floor.max(floors.below);
            *entry != Entry { floor: floors.below, ..Entry::default() }
        });
        self.services.retain(|id, entry| {
            if floors.services.contains(id) {
                return true;
            }
            entry.floor = entry.floor.max(floors.below);
            let (name, floor) = (entry.name.clone(), floors.below);
            *entry != ServiceEntry { name, floor, ..ServiceEntry::default() }
        });
        self.floor = floors.below;
    }
}

/// The VMs whose vCPUs Berth has stopped on this host, by self-fence or because it created them so.
pub type Suspended = BTreeMap<Uuid, Suspension>;

/// What is noted of one of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// Whose copy that is; `None` where it is whichever is here.
    pub generation: Option<u64>,
    /// Since when self-fence keeps it, in milliseconds of the clock that counts from this boot.
    pub since_ms: Option<u64>,
}

impl Suspension {
    /// Created as this generation, and not let run yet.
    pub fn created(generation: u64) -> Self {
        Self { generation: Some(generation), since_ms: None }
    }

    /// Stopped by self-fence at this moment.
    pub fn fenced(since_ms: u64) -> Self {
        Self { generation: None, since_ms: Some(since_ms) }
    }
}

/// What the control plane said last of how guests are treated without a lease, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsolationTerms {
    /// How long stopping them may take.
    pub self_fence_ms: u64,
    /// How long a suspended copy is kept.
    pub hold_ms: u64,
}

impl Default for IsolationTerms {
    /// The design's (section 5).
    fn default() -> Self {
        Self { self_fence_ms: 1_000, hold_ms: 600_000 }
    }
}

/// What of the ledger matters since the host booted, though the ledger be lost or an older one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinceBoot {
    /// Scripts that may be running here, by service: its name, and each of them.
    pub(super) scripts: BTreeMap<Uuid, (String, Vec<Bound>)>,
    /// Guests that run on without a lease, with the ownership that was told so.
    pub(super) run_on: BTreeMap<Uuid, u64>,
}

impl SinceBoot {
    pub(super) fn of(entries: &Entries) -> Self {
        let bound = entries.services.iter().filter(|(_, entry)| !entry.bound.is_empty());
        let on = entries.vms.iter().filter(|(_, it)| it.on_isolation == OnIsolation::Continue);
        Self {
            scripts: bound.map(|(id, it)| (*id, (it.name.clone(), it.bound.clone()))).collect(),
            run_on: on.map(|(uuid, it)| (*uuid, it.generation)).collect(),
        }
    }
}
