//! What the ledger keeps of services: orders taken and promised, as of VMs, and which scripts may be running here.

use model::service::Script;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::vm::ledger::{Done, Ledger, LedgerError};

/// What is known of one service's scripts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceEntry {
    /// The service's name, for messages.
    pub name: String,
    /// Orders below this are refused, and so is this one unless it was begun or done.
    pub floor: u64,
    /// The order that was begun and not finished.
    pub begun: Option<u64>,
    /// The last order that was finished.
    pub done: Option<Done>,
    /// Scripts that may be running here, in the order of their start: the lease binds them.
    pub bound: Vec<Bound>,
}

/// A script that may be running here, with all that it takes to stop it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Which member.
    pub member: String,
    /// How it is stopped.
    pub script: Script,
}

impl Ledger {
    /// What is known of a service.
    pub fn service(&self, id: Uuid) -> Option<&ServiceEntry> {
        self.entries().services.get(&id)
    }

    /// The same, as it would be noted.
    pub fn service_or_new(&self, id: Uuid) -> ServiceEntry {
        let new = || ServiceEntry { floor: self.entries().floor, ..ServiceEntry::default() };
        self.service(id).cloned().unwrap_or_else(new)
    }

    /// The services it knows.
    pub fn services(&self) -> impl Iterator<Item = (Uuid, &ServiceEntry)> + '_ {
        self.entries().services.iter().map(|(id, entry)| (*id, entry))
    }

    /// An order about a script is about to be carried out; what it starts may run from now on.
    pub fn begin_script(
        &mut self,
        id: Uuid,
        name: &str,
        order: u64,
        starts: Option<Bound>,
    ) -> Result<(), LedgerError> {
        self.change(|entries| {
            let entry = entries.service(id);
            entry.name = name.to_owned();
            entry.floor = entry.floor.max(order);
            entry.begun = Some(order);
            if let Some(bound) = starts {
                entry.bind(bound);
            }
        })
    }

    /// It came to this; `stopped` is down for sure.
    pub fn finish_script(
        &mut self,
        id: Uuid,
        order: u64,
        error: Option<String>,
        stopped: Option<&str>,
    ) -> Result<(), LedgerError> {
        self.change(|entries| {
            let entry = entries.service(id);
            entry.begun = None;
            entry.done = Some(Done { order, error });
            entry.bound.retain(|bound| Some(bound.member.as_str()) != stopped);
        })
    }

    /// Orders about the service up to this one are refused from now on.
    pub fn promise_scripts(&mut self, id: Uuid, floor: u64) -> Result<(), LedgerError> {
        if self.service(id).is_some_and(|entry| entry.floor >= floor) {
            return Ok(());
        }
        self.change(|entries| {
            let entry = entries.service(id);
            entry.floor = entry.floor.max(floor);
        })
    }

    /// Whether that script may be running here: of this service, or of one that was forgotten and added again since.
    pub fn binds(&self, id: Uuid, member: &str, script: &Script) -> bool {
        let same = |bound: &Bound| {
            bound.script.program == script.program && bound.script.parameters == script.parameters
        };
        self.service(id).is_some_and(|entry| entry.binds(member))
            || self.entries().services.values().any(|entry| entry.bound.iter().any(same))
    }

    /// Scripts that the cluster knows to be up here, though this ledger may not.
    pub fn bind_scripts(
        &mut self,
        id: Uuid,
        name: &str,
        scripts: Vec<Bound>,
    ) -> Result<(), LedgerError> {
        let known = self.service(id).map(|entry| entry.bound.clone()).unwrap_or_default();
        if scripts.iter().all(|it| known.contains(it)) {
            return Ok(());
        }
        self.change(|entries| {
            let entry = entries.service(id);
            entry.name = name.to_owned();
            for bound in scripts {
                entry.bind(bound);
            }
        })
    }

    /// Self-fence or a probe has made sure that these are down.
    pub fn unbind_scripts(&mut self, id: Uuid, member: Option<&str>) -> Result<(), LedgerError> {
        if self.service(id).is_none_or(|entry| entry.bound.is_empty()) {
            return Ok(());
        }
        self.change(|entries| {
            let entry = entries.service(id);
            entry.bound.retain(|bound| member.is_some_and(|member| bound.member != member));
        })
    }
}

impl ServiceEntry {
    /// That script may be running here.
    fn binds(&self, member: &str) -> bool {
        self.bound.iter().any(|bound| bound.member == member)
    }

    /// These may be running: what is noted of them here may be older.
    pub(crate) fn know(&mut self, name: String, scripts: Vec<Bound>) {
        if self.name.is_empty() {
            self.name = name;
        }
        for bound in scripts {
            self.bind(bound);
        }
    }

    fn bind(&mut self, bound: Bound) {
        match self.bound.iter_mut().find(|known| known.member == bound.member) {
            Some(known) => *known = bound,
            None => self.bound.push(bound),
        }
    }
}
