//! Builds the parts, runs them, ends without touching a guest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use model::node::SeenDomain;
use nix::time::{ClockId, clock_gettime};
use proto::v1::RegisterRequest;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{info, warn};
use uuid::Uuid;

use crate::config::{Config, WatchdogConfig};
use crate::hypervisor::libvirt::Libvirt;
use crate::hypervisor::{HostFacts, HypervisorEvent, HypervisorHandle};
use crate::lease::Lease;
use crate::session::{Outbox, Servers, Session, register};
use crate::vm::driver::{self, Jobs, Message, Tools};
use crate::vm::ledger::Ledger;
use crate::vm::order::Order;
use crate::watchdog::{PipeWatchdog, Watchdog};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const LIST_LIMIT: Duration = Duration::from_secs(10);
/// Between two attempts to have libvirt's word at the start of a session.
const LIST_AGAIN: Duration = Duration::from_millis(500);
/// All domains are looked at this often, events or not.
const FULL_LOOK: Duration = Duration::from_secs(30);

/// Milliseconds since the host booted, sleep included (`CLOCK_BOOTTIME`).
pub fn clock_ms() -> u64 {
    // The clock exists on every Linux that runs; a machine without it has no lease to hold.
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(u64::MAX, |now| now.tv_sec() as u64 * 1_000 + now.tv_nsec() as u64 / 1_000_000)
}

/// Runs the agent until it is told to stop.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let ledger = Ledger::open(&config.state_dir)?;
    let boot_id =
        std::fs::read_to_string(BOOT_ID).context("the boot id cannot be read")?.trim().to_owned();
    let servers = Servers::new(&config.servers, config.tls.as_ref())?;
    let (libvirt, events) = Libvirt::start(&config.hypervisor_uri, config.migrate_unsafe)?;
    let hypervisor = HypervisorHandle::new(Arc::new(libvirt));
    let lease_file = LeaseFile::open(&config.run_dir)?;
    let lease = Arc::new(Mutex::new(Lease::inherited(lease_file.read())));
    let busy = Arc::new(Mutex::new(true));
    let working = Arc::new(AtomicUsize::new(0));
    // Armed before the first VM can run, and before the control plane is told that it is.
    let feeder = match &config.watchdog {
        Some(watchdog) => {
            Some(feed(watchdog, lease.clone(), (busy.clone(), working.clone()), lease_file)?)
        }
        None => None,
    };
    let (reports, queue) = mpsc::unbounded_channel();
    let tools = Tools {
        hypervisor: hypervisor.clone(),
        ledger,
        reports,
        jobs: Jobs::default(),
        working: working.clone(),
    };
    let (orders, order_lists) = mpsc::unbounded_channel();
    let fleet = Arc::new(Mutex::new(Fleet { tools: tools.clone(), drivers: BTreeMap::new() }));
    let dispatching =
        tokio::spawn(dispatch(fleet.clone(), hypervisor.clone(), events, order_lists, busy));
    let agent =
        Agent { config, boot_id, servers, hypervisor, fleet, lease, jobs: tools.jobs, orders };
    let stopped = tokio::select! {
        () = agent.sessions(Outbox::new(queue)) => Ok(()),
        stopped = told_to_stop() => stopped,
        ended = dispatching => Err(anyhow::anyhow!("the dispatcher ended: {ended:?}")),
    };
    if let Some(feeder) = feeder {
        feeder.abort();
        // Its place in the watchdog's file is dropped with it; what happens to the host is decided there.
        let _ = feeder.await;
    }
    info!("the agent ends; no guest is touched");
    stopped
}

struct Agent {
    config: Config,
    boot_id: String,
    servers: Servers,
    hypervisor: HypervisorHandle,
    fleet: Arc<Mutex<Fleet>>,
    lease: Arc<Mutex<Lease>>,
    jobs: Jobs,
    orders: mpsc::UnboundedSender<Vec<Order>>,
}

impl Agent {
    async fn sessions(&self, mut outbox: Outbox) {
        let host = self.host().await;
        loop {
            outbox.keep_outcomes();
            let inventory = self.inventory().await;
            let given = register(&self.servers, self.registration(&host, &inventory)).await;
            lock(&self.fleet).registered(&inventory);
            if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
                warn!(%error, "the service manager could not be told");
            }
            let session = Session {
                servers: self.servers.clone(),
                given,
                lease: self.lease.clone(),
                jobs: self.jobs.clone(),
                orders: self.orders.clone(),
            };
            session.run(&mut outbox).await;
        }
    }

    async fn host(&self) -> HostFacts {
        loop {
            match self.hypervisor.call("describe the host", LIST_LIMIT, |it| it.host()).await {
                Ok(host) => return host,
                Err(error) => {
                    warn!(%error, "waiting for libvirt");
                    tokio::time::sleep(LIST_AGAIN).await;
                }
            }
        }
    }

    /// A session begins with libvirt's own word on all domains, or it does not begin.
    async fn inventory(&self) -> BTreeMap<Uuid, SeenDomain> {
        loop {
            match self.hypervisor.call("list the domains", LIST_LIMIT, |it| it.domains()).await {
                Ok(domains) => {
                    return domains.into_iter().map(|domain| (domain.uuid, domain.seen)).collect();
                }
                Err(error) => {
                    warn!(%error, "waiting for libvirt");
                    tokio::time::sleep(LIST_AGAIN).await;
                }
            }
        }
    }

    fn registration(
        &self,
        host: &HostFacts,
        inventory: &BTreeMap<Uuid, SeenDomain>,
    ) -> RegisterRequest {
        RegisterRequest {
            request_id: Uuid::new_v4().to_string(),
            node: self.config.node.to_string(),
            hardware: host.hardware.to_string(),
            boot_id: self.boot_id.clone(),
            memory_mib: host.capacity.memory_mib.saturating_sub(self.config.reserved_memory_mib),
            cpus: host.capacity.cpus,
            migration_uri: self.config.migration_uri.clone(),
            watchdog_timeout_ms: self.config.watchdog.as_ref().map(|watchdog| watchdog.timeout_ms),
            agent_version: env!("CARGO_PKG_VERSION").into(),
            inventory: inventory.iter().map(|(uuid, seen)| driver::wire(*uuid, seen)).collect(),
        }
    }
}

/// All drivers, by VM; one is made when its VM is first heard of.
struct Fleet {
    tools: Tools,
    drivers: BTreeMap<Uuid, mpsc::UnboundedSender<Message>>,
}

impl Fleet {
    fn tell(&mut self, uuid: Uuid, message: Message) {
        let driver =
            self.drivers.entry(uuid).or_insert_with(|| driver::spawn(uuid, self.tools.clone()));
        // A driver lives as long as its sender.
        let _ = driver.send(message);
    }

    fn registered(&mut self, inventory: &BTreeMap<Uuid, SeenDomain>) {
        let known: Vec<Uuid> = self.drivers.keys().copied().collect();
        for uuid in known.into_iter().chain(inventory.keys().copied()) {
            self.tell(uuid, Message::Registered(inventory.get(&uuid).cloned()));
        }
    }

    fn orders(&mut self, orders: Vec<Order>) {
        let mut by_vm: BTreeMap<Uuid, Vec<Order>> =
            self.drivers.keys().map(|uuid| (*uuid, Vec::new())).collect();
        for order in orders {
            by_vm.entry(order.uuid).or_default().push(order);
        }
        for (uuid, orders) in by_vm {
            self.tell(uuid, Message::Orders(orders));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands orders and events to the drivers.
async fn dispatch(
    fleet: Arc<Mutex<Fleet>>,
    hypervisor: HypervisorHandle,
    mut events: mpsc::UnboundedReceiver<HypervisorEvent>,
    mut orders: mpsc::UnboundedReceiver<Vec<Order>>,
    busy: Arc<Mutex<bool>>,
) {
    let mut full_look = tokio::time::interval(FULL_LOOK);
    full_look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let everything = tokio::select! {
            event = events.recv() => match event {
                Some(HypervisorEvent::Changed(uuid)) => {
                    *lock(&busy) = true;
                    lock(&fleet).tell(uuid, Message::Changed);
                    false
                }
                Some(HypervisorEvent::Stopped(uuid, cause)) => {
                    lock(&fleet).tell(uuid, Message::Stopped(cause));
                    true
                }
                Some(HypervisorEvent::Connected) => true,
                Some(HypervisorEvent::Disconnected) => false,
                None => return,
            },
            list = orders.recv() => match list {
                Some(list) => {
                    lock(&fleet).orders(list);
                    false
                }
                None => return,
            },
            _ = full_look.tick() => true,
        };
        if everything {
            look_at_everything(&fleet, &hypervisor, &busy).await;
        }
    }
}

/// What may have happened unheard: domains that are new, and known ones that are gone. The drivers look themselves.
async fn look_at_everything(
    fleet: &Mutex<Fleet>,
    hypervisor: &HypervisorHandle,
    busy: &Mutex<bool>,
) {
    match hypervisor.call("list the domains", LIST_LIMIT, |it| it.domains()).await {
        Ok(domains) => {
            *lock(busy) = domains.iter().any(|domain| domain.seen.presence.is_some());
            let mut fleet = lock(fleet);
            let known: Vec<Uuid> = fleet.drivers.keys().copied().collect();
            for uuid in known
                .into_iter()
                .chain(domains.iter().map(|domain| domain.uuid))
                .collect::<std::collections::BTreeSet<_>>()
            {
                fleet.tell(uuid, Message::Changed);
            }
        }
        Err(error) => info!(%error, "the domains cannot be listed now"),
    }
}

/// Where the lease outlives the agent: a directory that is empty after a reboot.
struct LeaseFile {
    path: PathBuf,
}

impl LeaseFile {
    fn open(directory: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        Ok(Self { path: directory.join("lease") })
    }

    fn read(&self) -> Option<u64> {
        std::fs::read_to_string(&self.path).ok().and_then(|text| text.trim().parse().ok())
    }

    fn write(&self, deadline_ms: u64) {
        let temporary = self.path.with_extension("tmp");
        let written = std::fs::write(&temporary, deadline_ms.to_string())
            .and_then(|()| std::fs::rename(&temporary, &self.path));
        if let Err(error) = written {
            warn!(%error, "the lease cannot be noted; an agent that restarts begins without one");
        }
    }
}

/// Feeds the watchdog a third of its time-out apart, while the lease holds or nothing runs here and nothing is about to.
fn feed(
    config: &WatchdogConfig,
    lease: Arc<Mutex<Lease>>,
    (busy, working): (Arc<Mutex<bool>>, Arc<AtomicUsize>),
    file: LeaseFile,
) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let mut watchdog = PipeWatchdog::arm(&config.path)
        .with_context(|| format!("the watchdog {} cannot be armed", config.path.display()))?;
    info!(path = %config.path.display(), timeout_ms = config.timeout_ms, "the watchdog is armed");
    let mut feeds = tokio::time::interval(Duration::from_millis(config.timeout_ms / 3));
    Ok(tokio::spawn(async move {
        let mut hungry = false;
        loop {
            feeds.tick().await;
            let lease = *lock(&lease);
            if let Some(deadline) = lease.deadline_ms() {
                file.write(deadline);
            }
            let idle = !*lock(&busy) && working.load(Ordering::SeqCst) == 0;
            let may_feed = lease.holds(clock_ms()) || idle;
            if may_feed {
                if let Err(error) = watchdog.feed() {
                    warn!(%error, "the watchdog does not take its food");
                }
            } else if !hungry {
                warn!("the lease has run out and guests run here: the watchdog is left to bite");
            }
            hungry = !may_feed;
        }
    }))
}

async fn told_to_stop() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
