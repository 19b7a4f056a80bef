//! libvirt through the `virt` crate; only this folder names it.
//!
//! One connection carries the events; it is opened when it is first needed and again whenever it breaks: a libvirtd that
//! restarts is not a dead VM. Each call takes a connection of its own from a pool, for libvirt's client makes calls on
//! one connection wait for each other: behind a migration, for as long as that takes. One thread runs libvirt's event
//! loop, which events, keep-alive and the close callback depend on.

mod ask;
mod domain;
mod event;
mod ffi;

use std::fs;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

pub use ask::{FLAG, ask};
pub(crate) use domain::qemu_processes;
use model::node::Capacity;
use tokio::sync::mpsc;
use tracing::{info, warn};
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::{Error, ErrorNumber};
use virt::sys;

use crate::hypervisor::call::Migration;
use crate::hypervisor::mark::{self, Mark, NAMESPACE, PREFIX};
use crate::hypervisor::{
    DomainFacts, HostFacts, Hypervisor, HypervisorError, HypervisorEvent, JobStats, Result,
};

/// libvirt's own keep-alive: a hung libvirtd is noticed after about twenty seconds, our calls time out long before.
const KEEP_ALIVE_SECONDS: i32 = 5;
const KEEP_ALIVE_COUNT: u32 = 3;
/// There is no event that says "libvirtd is back"; its socket is tried this often.
const RECONNECT: Duration = Duration::from_millis(500);

struct Open {
    connection: Connect,
    _watch: ffi::Watch,
}

struct Shared {
    uri: String,
    open: Mutex<Option<Open>>,
    /// Connections that no call uses now.
    idle: Mutex<Vec<Connect>>,
    events: mpsc::UnboundedSender<HypervisorEvent>,
}

/// A libvirt connection that heals.
pub struct Libvirt {
    shared: Arc<Shared>,
    migrate_unsafe: bool,
}

impl Libvirt {
    /// Starts the event loop and connects in the background; events begin with `Connected`. `migrate_unsafe` waives
    /// libvirt's refusal to migrate a VM whose storage it does not take for shared.
    pub fn start(
        uri: &str,
        migrate_unsafe: bool,
    ) -> Result<(Self, mpsc::UnboundedReceiver<HypervisorEvent>)> {
        run_event_loop()?;
        let (events, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            uri: uri.to_owned(),
            open: Mutex::new(None),
            idle: Mutex::default(),
            events,
        });
        let weak = Arc::downgrade(&shared);
        let reconnect = move || {
            let mut complained = false;
            while let Some(shared) = weak.upgrade() {
                match shared.connection() {
                    Ok(_) => complained = false,
                    Err(error) if !complained => {
                        warn!(uri = shared.uri, %error, "libvirt is not reachable; trying on");
                        complained = true;
                    }
                    Err(_) => {}
                }
                drop(shared);
                std::thread::park_timeout(RECONNECT);
            }
        };
        std::thread::Builder::new()
            .name("libvirt-connect".into())
            .spawn(reconnect)
            .map_err(|error| HypervisorError::Refused(error.to_string()))?;
        Ok((Self { shared, migrate_unsafe }, receiver))
    }

    fn with<T>(&self, call: impl FnOnce(&Connect) -> std::result::Result<T, Error>) -> Result<T> {
        let connection = self.shared.take()?;
        let result = call(&connection).map_err(|error| self.shared.classify(&connection, &error));
        if !matches!(result, Err(HypervisorError::Disconnected(_))) {
            self.shared.idle().push(connection);
        }
        result
    }

    fn with_domain<T>(
        &self,
        uuid: Uuid,
        call: impl FnOnce(&Domain) -> std::result::Result<T, Error>,
    ) -> Result<T> {
        self.with(|connection| call(&connection.lookup_domain_by_uuid(uuid)?))
    }
}

/// Registered before the first connection and run for the process's life, as libvirt asks.
fn run_event_loop() -> Result<()> {
    static LOOP: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    LOOP.get_or_init(|| {
        ffi::silence();
        virt::event::event_register_default_impl().map_err(|error| error.message().to_owned())?;
        let run = || loop {
            if let Err(error) = virt::event::event_run_default_impl() {
                warn!(error = error.message(), "libvirt's event loop failed once");
            }
        };
        std::thread::Builder::new()
            .name("libvirt-events".into())
            .spawn(run)
            .map(|_| ())
            .map_err(|error| error.to_string())
    })
    .clone()
    .map_err(HypervisorError::Refused)
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connect>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection for one call. Only while the one with the events is there: what is not heard of must not be asked
    /// for either.
    fn take(self: &Arc<Self>) -> Result<Connect> {
        self.connection()?;
        let idle = self.idle().pop();
        match idle {
            Some(connection) => Ok(connection),
            None => self.open_one(),
        }
    }

    fn open_one(&self) -> Result<Connect> {
        let connection = Connect::open(Some(&self.uri))
            .map_err(|error| HypervisorError::Disconnected(error.message().to_owned()))?;
        if let Err(error) = connection.set_keep_alive(KEEP_ALIVE_SECONDS, KEEP_ALIVE_COUNT) {
            info!(error = error.message(), "libvirt's keep-alive is not to be had here");
        }
        Ok(connection)
    }

    /// The connection with the events, which is open, or a new one.
    fn connection(self: &Arc<Self>) -> Result<Connect> {
        if let Some(open) = &*self.open() {
            return Ok(open.connection.clone());
        }
        let disconnected = |error: Error| HypervisorError::Disconnected(error.message().to_owned());
        // Opened outside the lock: a libvirtd that hangs must not hang those that want to know that it does.
        let connection = self.open_one()?;
        let events = self.events.clone();
        let on_event: ffi::OnEvent = Arc::new(move |uuid, event| {
            for event in event::translate(uuid, event) {
                // A receiver that is gone belongs to an agent that is ending.
                let _ = events.send(event);
            }
        });
        let weak = Arc::downgrade(self);
        let on_close = Box::new(move |reason| {
            // Not on this thread: dropping the connection inside its own callback would wait for itself.
            let weak = weak.clone();
            let closing = move || {
                if let Some(shared) = weak.upgrade() {
                    shared
                        .disconnected(&format!("libvirt closed the connection (reason {reason})"));
                }
            };
            if std::thread::Builder::new().name("libvirt-closed".into()).spawn(closing).is_err() {
                warn!("libvirt closed the connection, and no thread could be had to note it");
            }
        });
        let watch = ffi::watch(&connection, &on_event, on_close).map_err(disconnected)?;
        let mut open = self.open();
        if let Some(open) = &*open {
            // Another thread was faster.
            return Ok(open.connection.clone());
        }
        *open = Some(Open { connection: connection.clone(), _watch: watch });
        info!(uri = self.uri, "connected to libvirt");
        let _ = self.events.send(HypervisorEvent::Connected);
        Ok(connection)
    }

    fn disconnected(&self, why: &str) {
        let closed = self.open().take();
        self.idle().clear();
        if closed.is_some() {
            warn!(uri = self.uri, why, "disconnected from libvirt");
            let _ = self.events.send(HypervisorEvent::Disconnected);
        }
    }

    fn classify(&self, connection: &Connect, error: &Error) -> HypervisorError {
        let text = error.message().to_owned();
        if !connection.is_alive().unwrap_or(false) {
            self.disconnected(&text);
            return HypervisorError::Disconnected(text);
        }
        if error.code().is_known_and(|code| code == ErrorNumber::NoDomain) {
            return HypervisorError::NoDomain;
        }
        HypervisorError::Refused(text)
    }
}

impl Hypervisor for Libvirt {
    fn host(&self) -> Result<HostFacts> {
        let (capabilities, info) =
            self.with(|connection| Ok((connection.capabilities()?, connection.node_info()?)))?;
        Ok(HostFacts {
            hardware: domain::host_uuid(&capabilities)?,
            // libvirt gives KiB.
            capacity: Capacity { memory_mib: info.memory / 1024, cpus: info.cpus },
        })
    }

    fn domains(&self) -> Result<Vec<DomainFacts>> {
        let domains = self.with(|connection| connection.list_all_domains(0))?;
        let mut facts = Vec::new();
        for domain in domains {
            match domain::facts(&domain) {
                Ok(fact) => facts.push(fact),
                // It went while it was looked at.
                Err(error) if error.code().is_known_and(|code| code == ErrorNumber::NoDomain) => {}
                Err(error) => return self.with(|_| Err(error)),
            }
        }
        Ok(facts)
    }

    fn domain(&self, uuid: Uuid) -> Result<Option<DomainFacts>> {
        match self.with_domain(uuid, domain::facts) {
            Ok(facts) => Ok(Some(facts)),
            Err(HypervisorError::NoDomain) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn definition(&self, uuid: Uuid) -> Result<String> {
        self.with_domain(uuid, domain::definition)
    }

    fn create(&self, xml: &str) -> Result<()> {
        self.with(|connection| {
            connection.create_domain_xml(xml, sys::VIR_DOMAIN_START_PAUSED).map(|_| ())
        })
    }

    fn shutdown(&self, uuid: Uuid) -> Result<()> {
        self.with_domain(uuid, Domain::shutdown)
    }

    fn destroy(&self, uuid: Uuid) -> Result<()> {
        self.with_domain(uuid, Domain::destroy)
    }

    fn suspend(&self, uuid: Uuid) -> Result<()> {
        self.with_domain(uuid, Domain::suspend)
    }

    fn resume(&self, uuid: Uuid) -> Result<()> {
        self.with_domain(uuid, Domain::resume)
    }

    fn migrate(&self, uuid: Uuid, migration: &Migration) -> Result<()> {
        ask::must_answer(&migration.uri)?;
        self.with_domain(uuid, |domain| domain::migrate(domain, migration, self.migrate_unsafe))
    }

    fn start_post_copy(&self, uuid: Uuid) -> Result<()> {
        self.with_domain(uuid, ffi::start_post_copy)
    }

    fn save(&self, uuid: Uuid, file: &str) -> Result<()> {
        self.with_domain(uuid, |domain| ffi::save(domain, file))
    }

    fn restore(&self, uuid: Uuid, file: &str, mark: &Mark) -> Result<bool> {
        let unreadable =
            |error: io::Error| HypervisorError::Refused(format!("{file} cannot be used: {error}"));
        if !fs::exists(file).map_err(unreadable)? {
            return Ok(false);
        }
        let xml = self.with(|connection| {
            connection.save_image_xml_desc(file, sys::VIR_DOMAIN_SAVE_IMAGE_XML_SECURE)
        })?;
        let refused = |why: String| HypervisorError::Refused(format!("{file}: {why}"));
        let domain = model::domain_xml::parse(&xml).map_err(|error| refused(error.to_string()))?;
        if domain.uuid != Some(uuid) {
            return Err(refused(format!("it is of another VM, {}", domain.name)));
        }
        let xml = mark::insert(&xml, mark).map_err(|error| refused(error.to_string()))?;
        // Taken away before it is used: whatever becomes of this, nobody restores it a second time.
        let taken = format!("{file}.taken");
        fs::rename(file, &taken).map_err(unreadable)?;
        self.with(|connection| {
            connection.restore_domain_flags(&taken, Some(&xml), sys::VIR_DOMAIN_SAVE_PAUSED)
        })?;
        if let Err(error) = fs::remove_file(&taken) {
            warn!(file = taken, %error, "a restored memory file could not be removed");
        }
        Ok(true)
    }

    fn ping_guest(&self, uuid: Uuid, limit: Duration) -> Result<()> {
        let seconds = i32::try_from(limit.as_secs()).unwrap_or(i32::MAX).max(1);
        self.with_domain(uuid, |domain| {
            ffi::set_agent_timeout(domain, seconds)?;
            domain.time(0).map(|_| ())
        })
    }

    fn job(&self, uuid: Uuid) -> Result<Option<JobStats>> {
        self.with_domain(uuid, domain::job)
    }

    fn abort_job(&self, uuid: Uuid) -> Result<()> {
        self.with_domain(uuid, ffi::abort_job)
    }

    fn mark(&self, uuid: Uuid, mark: &Mark) -> Result<()> {
        self.with_domain(uuid, |domain| {
            let mut flags = sys::VIR_DOMAIN_AFFECT_LIVE;
            if domain.is_persistent()? {
                flags |= sys::VIR_DOMAIN_AFFECT_CONFIG;
            }
            let element = mark.element();
            domain.set_metadata(
                sys::VIR_DOMAIN_METADATA_ELEMENT as i32,
                Some(&element),
                Some(PREFIX),
                Some(NAMESPACE),
                flags,
            )?;
            Ok(())
        })
    }

    fn process(&self, uuid: Uuid) -> Result<Option<i32>> {
        domain::qemu_process(uuid)
            .map_err(|error| HypervisorError::Refused(format!("/proc could not be read: {error}")))
    }

    fn processes(&self) -> Result<Vec<Uuid>> {
        domain::qemu_processes()
            .map(|all| all.into_iter().map(|(uuid, _)| uuid).collect())
            .map_err(|error| HypervisorError::Refused(format!("/proc could not be read: {error}")))
    }

    fn kill(&self, uuid: Uuid) -> Result<()> {
        domain::kill_qemu(uuid)
            .map_err(|error| HypervisorError::Refused(format!("its QEMU is not gone: {error}")))
    }
}

#[cfg(test)]
mod tests;
