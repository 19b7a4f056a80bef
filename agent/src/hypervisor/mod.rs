//! The agent's one door to the hypervisor, in libvirt's words.
//!
//! The trait's methods block; [`HypervisorHandle`] runs them beside the async threads, with a limit in time and number,
//! so that a libvirtd that hangs hangs nothing else.

pub mod call;
pub mod fake;
pub mod libvirt;
pub mod mark;

use std::sync::Arc;
use std::time::Duration;

use model::command::GuestNote;
use model::node::{Capacity, SeenDomain};
use model::sabotage::{Rule, off};
use model::vm::{Presence, StopCause};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use uuid::Uuid;

use crate::hypervisor::call::{Answer, Call, Migration};
use crate::hypervisor::mark::Mark;

/// Calls to libvirt under way at once, migrations aside. libvirtd itself works on 5 to 20 at a time by default.
const CALLS_AT_ONCE: usize = 8;

/// Why the hypervisor did not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HypervisorError {
    /// No such domain, active or defined.
    #[error("there is no such domain")]
    NoDomain,
    /// There is no connection to libvirt now.
    #[error("libvirt is not reachable: {0}")]
    Disconnected(String),
    /// It takes too long; it may still be done.
    #[error("libvirt did not {what} within {} ms", limit.as_millis())]
    Timeout {
        /// What was asked.
        what: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// libvirt said no; its words.
    #[error("{0}")]
    Refused(String),
}

/// The result of a call.
pub type Result<T> = std::result::Result<T, HypervisorError>;

/// What the host is and has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// The host's UUID, from `virConnectGetCapabilities`.
    pub hardware: Uuid,
    /// All its memory and processors.
    pub capacity: Capacity,
}

/// One domain, active or defined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainFacts {
    /// By which it is known.
    pub uuid: Uuid,
    /// Its name, what is seen of it, and its memory; whose it is follows from the mark.
    pub seen: SeenDomain,
    /// The mark it bears, of whatever cluster.
    pub mark: Option<Mark>,
}

/// Something happened. A hint to look, but for the cause of an end, which can be had from nowhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HypervisorEvent {
    /// Look at this domain.
    Changed(Uuid),
    /// This domain ended.
    Stopped(Uuid, StopCause),
    /// Something happened in its guest, and more about it.
    Noted(Uuid, GuestNote, String),
    /// It is about to end for this cause.
    Ending(Uuid, StopCause),
    /// Its migration begins this pass over its memory, from 1.
    Pass(Uuid, u32),
    /// The connection is there (again): look at everything.
    Connected,
    /// The connection is gone. Says nothing about any domain.
    Disconnected,
}

/// How far a migration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JobStats {
    /// Milliseconds since it began.
    pub elapsed_ms: u64,
    /// Bytes to copy in all, as of now.
    pub total_bytes: u64,
    /// Bytes copied.
    pub processed_bytes: u64,
    /// Bytes left.
    pub remaining_bytes: u64,
}

/// What the agent asks of a hypervisor.
pub trait Hypervisor: Send + Sync + 'static {
    /// What the host is and has.
    fn host(&self) -> Result<HostFacts>;
    /// All domains, active and defined.
    fn domains(&self) -> Result<Vec<DomainFacts>>;
    /// One domain; `None` when libvirt answers that there is none.
    fn domain(&self, uuid: Uuid) -> Result<Option<DomainFacts>>;
    /// The XML by which it would be started anew, secrets included (`virDomainGetXMLDesc`).
    fn definition(&self, uuid: Uuid) -> Result<String>;
    /// Creates a transient domain, its vCPUs stopped (`virDomainCreateXML`).
    fn create(&self, xml: &str) -> Result<()>;
    /// Asks the guest to shut down (`virDomainShutdown`).
    fn shutdown(&self, uuid: Uuid) -> Result<()>;
    /// Ends the domain at once (`virDomainDestroy`).
    fn destroy(&self, uuid: Uuid) -> Result<()>;
    /// Stops its vCPUs (`virDomainSuspend`). One that is stopped already is no error.
    fn suspend(&self, uuid: Uuid) -> Result<()>;
    /// Lets its vCPUs run (`virDomainResume`).
    fn resume(&self, uuid: Uuid) -> Result<()>;
    /// Migrates it peer-to-peer (`virDomainMigrateToURI3`); returns when it has ended, well or not.
    fn migrate(&self, uuid: Uuid, migration: &Migration) -> Result<()>;
    /// Lets it run on at the target (`virDomainMigrateStartPostCopy`).
    fn start_post_copy(&self, uuid: Uuid) -> Result<()>;
    /// Saves its memory to a file and ends it (`virDomainSaveFlags`).
    fn save(&self, uuid: Uuid, file: &str) -> Result<()>;
    /// Makes it from such a file, under this mark and its vCPUs stopped (`virDomainRestoreFlags`), and removes the file;
    /// `false` where there is none.
    fn restore(&self, uuid: Uuid, file: &str, mark: &Mark) -> Result<bool>;
    /// Asks its guest agent for the time, and waits so long for the answer.
    fn ping_guest(&self, uuid: Uuid, limit: Duration) -> Result<()>;
    /// How far the migration is; `None` when there is none.
    fn job(&self, uuid: Uuid) -> Result<Option<JobStats>>;
    /// Calls off the migration (`virDomainAbortJob`).
    fn abort_job(&self, uuid: Uuid) -> Result<()>;
    /// Marks a running domain as the cluster's (`virDomainSetMetadata`).
    fn mark(&self, uuid: Uuid, mark: &Mark) -> Result<()>;
    /// The process of a QEMU with this UUID, found without libvirt's help.
    fn process(&self, uuid: Uuid) -> Result<Option<i32>>;
    /// The UUIDs of all QEMU processes, found without libvirt's help.
    fn processes(&self) -> Result<Vec<Uuid>>;
    /// Kills that process, if there is one, and waits until it is gone; without libvirt's help.
    fn kill(&self, uuid: Uuid) -> Result<()>;

    /// All domains that are defined or active, and the processes that libvirt knows nothing of: what a registration
    /// says is "not here" for all others.
    fn inventory(&self) -> Result<Vec<DomainFacts>> {
        let mut all = self.domains()?;
        for uuid in self.processes()? {
            let known =
                all.iter().any(|domain| domain.uuid == uuid && domain.seen.presence.is_some());
            if !known && !off(Rule::ProcessCounts) {
                let name = format!("qemu-{uuid}");
                let seen = SeenDomain::active(&name, Presence::Running, 0);
                all.retain(|domain| domain.uuid != uuid);
                all.push(DomainFacts { uuid, seen, mark: None });
            }
        }
        Ok(all)
    }

    /// What is seen of the domain: `Ok(None)`, or one without a presence where it is defined, only when libvirt answers
    /// that none is active **and** no QEMU process has this UUID (design section 3: "not here").
    fn look(&self, uuid: Uuid) -> Result<Option<DomainFacts>> {
        let domain = self.domain(uuid)?;
        if domain.as_ref().is_some_and(|domain| domain.seen.presence.is_some()) {
            return Ok(domain);
        }
        match self.process(uuid)? {
            None => Ok(domain),
            Some(_) if off(Rule::ProcessCounts) => Ok(domain),
            // libvirt has let go of it, or not taken it up yet; it still holds the disk.
            Some(process) => Err(HypervisorError::Refused(format!(
                "libvirt has no such domain, but process {process} runs a QEMU with its UUID"
            ))),
        }
    }
}

/// A hypervisor to be called from async code. Cheap to clone.
#[derive(Clone)]
pub struct HypervisorHandle {
    hypervisor: Arc<dyn Hypervisor>,
    permits: Arc<Semaphore>,
}

impl HypervisorHandle {
    /// Over any hypervisor.
    pub fn new(hypervisor: Arc<dyn Hypervisor>) -> Self {
        Self { hypervisor, permits: Arc::new(Semaphore::new(CALLS_AT_ONCE)) }
    }

    /// Calls it within `limit`. After the limit the call is left to end by itself and keeps its place.
    pub async fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        limit: Duration,
        call: impl FnOnce(&dyn Hypervisor) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let late = HypervisorError::Timeout { what, limit };
        let hypervisor = self.hypervisor.clone();
        let permits = self.permits.clone();
        let called = async move {
            let gone = |error: &dyn std::error::Error| HypervisorError::Refused(error.to_string());
            let permit = permits.acquire_owned().await.map_err(|error| gone(&error))?;
            tokio::task::spawn_blocking(move || {
                let result = call(&*hypervisor);
                drop(permit);
                result
            })
            .await
            .map_err(|error| gone(&error))?
        };
        timeout(limit, called).await.unwrap_or(Err(late))
    }

    /// Makes one call about one VM, within its limit if it has one.
    pub async fn make(&self, uuid: Uuid, call: Call) -> Result<Answer> {
        match call.limit() {
            // What waits for storage or for a guest must not hold up what asks libvirt, nor what does without libvirt wait for it.
            Some(limit) if call.needs_no_turn() => {
                let late = HypervisorError::Timeout { what: call.as_str(), limit };
                let called = self.call_to_its_end(move |it| call.make(uuid, it));
                timeout(limit, called).await.unwrap_or(Err(late))
            }
            Some(limit) => self.call(call.as_str(), limit, move |it| call.make(uuid, it)).await,
            None => self.call_to_its_end(move |it| call.make(uuid, it)).await,
        }
    }

    /// Calls it on a thread of its own, for as long as it takes: for what brings a guest to life, here or elsewhere. After
    /// a time-out nobody could say any more whether the guest will come.
    pub async fn call_to_its_end<T: Send + 'static>(
        &self,
        call: impl FnOnce(&dyn Hypervisor) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let hypervisor = self.hypervisor.clone();
        tokio::task::spawn_blocking(move || call(&*hypervisor))
            .await
            .map_err(|error| HypervisorError::Refused(error.to_string()))?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::hypervisor::fake::FakeHypervisor;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_kill_does_not_wait_for_calls_to_a_libvirt_that_hangs() {
        let (fake, _events) = FakeHypervisor::new();
        let handle = HypervisorHandle::new(fake.clone());
        let (hung, hang) = channel::<()>();
        let hang = Arc::new(std::sync::Mutex::new(hang));
        for _ in 0..CALLS_AT_ONCE {
            let hang = hang.clone();
            let late = handle.call("hang", Duration::from_millis(1), move |_| {
                let _ = hang.lock().unwrap().recv();
                Ok(())
            });
            assert!(late.await.is_err());
        }
        let killed = handle.make(Uuid::from_u128(1), Call::Kill).await;
        assert!(killed.is_ok(), "{killed:?}");
        drop(hung);
    }
}
