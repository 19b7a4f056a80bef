//! The shell around [`AgentCore`]: builds the parts, carries what comes in to the core and what goes out from it, ends
//! without touching a guest.
//!
//! ```text
//!  session ─┐                      ┌─▶ hypervisor calls, each on a thread of its own ─┐
//!  libvirt ─┼─▶ one task: the core ┼─▶ reports ─▶ session                             │
//!  time ────┘          ▲           └─▶ whether the watchdog may be fed ─▶ feeder      │
//!                      └──────────────────────────────────────────────────────────────┘
//! ```

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use model::node::SeenDomain;
use proto::convert::agent as convert;
use proto::v1::{self, RegisterRequest};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::clock::Reading;
use crate::config::Config;
use crate::core::{AgentCore, Given, SessionRefused};
use crate::feeder::{self, Armed, FeedState};
use crate::host;
use crate::hypervisor::call::Answer;
use crate::hypervisor::libvirt::Libvirt;
use crate::hypervisor::{
    DomainFacts, HostFacts, HypervisorError, HypervisorEvent, HypervisorHandle, JobStats,
};
use crate::lease_file::LeaseFile;
use crate::load::{self, Loads};
use crate::outbox::Outbox;
use crate::script::call::{Outcome, ScriptCall};
use crate::script::command::Programs;
use crate::script::orphan::RunNotes;
use crate::script::run::Runner;
use crate::session::{Servers, Session, leave, register};
use crate::shutdown;
use crate::vm::driver::VmCall;
use crate::vm::ledger::Ledger;

const LIST_LIMIT: Duration = Duration::from_secs(10);
/// Between two attempts to have libvirt's word at the start of a session.
const LIST_AGAIN: Duration = Duration::from_millis(500);
/// All domains are looked at this often, events or not.
const FULL_LOOK: Duration = Duration::from_secs(30);
/// Without a lease it is looked this often what runs here, libvirt or not: well within a self-fence.
const PROCESSES_LOOK: Duration = Duration::from_millis(200);
/// The core looks at its clock at least this often: half of the shortest watchdog's feed period.
const LONGEST_WAIT: Duration = Duration::from_millis(100);
/// At an orderly end the control plane is told within this, or the watchdog stays armed.
const FAREWELL: Duration = Duration::from_secs(5);

/// All domains, by UUID.
pub type Inventory = BTreeMap<Uuid, SeenDomain>;

/// What comes to the core.
#[derive(Debug)]
pub enum Input {
    /// A session was given for this inventory.
    Registered {
        /// What was given.
        given: Given,
        /// What it was given for.
        inventory: Inventory,
        /// Told whether it is taken.
        taken: oneshot::Sender<Result<(), SessionRefused>>,
    },
    /// The leader ended the session.
    SessionOver,
    /// A heartbeat that was sent at that moment was answered.
    HeartbeatAnswered(Reading),
    /// All orders of this node.
    Orders(v1::OrderList),
    /// libvirt says that something happened.
    Event(HypervisorEvent),
    /// libvirt listed all domains.
    Listed(Vec<DomainFacts>),
    /// The QEMU processes that are here.
    Processes(Vec<Uuid>),
    /// A call came back.
    Answered {
        /// About which VM.
        uuid: Uuid,
        /// Which call.
        id: u64,
        /// With what.
        answer: Result<Answer, HypervisorError>,
    },
    /// A run of a script has ended.
    ScriptEnded {
        /// Of which service.
        service: Uuid,
        /// Which run.
        id: u64,
        /// How.
        outcome: Outcome,
    },
    /// A run of a script that an agent before this one left is gone.
    OrphanGone(Uuid),
    /// Someone wants the inventory as the cluster is told of it, and the highest epoch that was met.
    Inventory(Vec<DomainFacts>, oneshot::Sender<(Inventory, u64)>),
}

/// How far migrations are, by VM, with the order they belong to.
pub type Jobs = Arc<Mutex<BTreeMap<Uuid, (u64, JobStats)>>>;

/// Held for a few instructions only; what it guards is valid after every statement.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the agent until it is told to stop.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let ledger = Ledger::open(&config.state_dir, &config.run_dir)?;
    let servers = Servers::new(&config.servers, config.tls.as_ref(), ledger.cluster())?;
    let (libvirt, events) = Libvirt::start(&config.hypervisor_uri, config.migrate_unsafe)?;
    let hypervisor = HypervisorHandle::new(Arc::new(libvirt));
    let lease_file = LeaseFile::open(&config.run_dir)?;
    let mut core = AgentCore::new(ledger, lease_file.read());
    let boot_id = host::boot_id()?;
    let notes = RunNotes::open(&config.run_dir, &boot_id)?;
    let orphans = notes.orphans()?;
    core.wait_for(&orphans);
    let (feed, feed_state) = watch::channel(FeedState::new(core.lease()));
    tokio::spawn(lease_file.keep(feed_state.clone()));
    let feeder = config.watchdog.clone().map(|it| feeder::start(it, feed_state.clone()));
    let (feeder, armed) = feeder.unzip();
    let (inputs, queue) = mpsc::unbounded_channel();
    let (reports, outbox) = mpsc::unbounded_channel();
    let jobs = Jobs::default();
    let shell = Shell {
        core,
        hypervisor: hypervisor.clone(),
        inputs: inputs.clone(),
        reports,
        jobs: jobs.clone(),
        feed,
        runner: Runner::new(Programs::default(), notes),
        looking: Arc::default(),
    };
    for orphan in orphans {
        let inputs = inputs.clone();
        tokio::spawn(async move {
            orphan.end().await;
            let _ = inputs.send(Input::OrphanGone(orphan.service));
        });
    }
    let loads = Loads::default();
    tokio::spawn(load::measure(loads.clone()));
    let session = Arc::new(Mutex::new(None));
    tokio::spawn(shutdown::listen(config.run_dir.clone(), servers.clone(), session.clone()));
    let libvirt = hypervisor.clone();
    let agent = Agent {
        boot_id,
        config,
        servers: servers.clone(),
        hypervisor,
        inputs,
        jobs,
        loads,
        session: session.clone(),
    };
    let mut core = pin!(shell.run(queue, events));
    let ended = tokio::select! {
        ended = agent.sessions(Outbox::new(outbox), armed) => ended,
        stopped = told_to_stop() => stopped,
        () = &mut core => Err(anyhow::anyhow!("the agent's core has ended")),
    };
    if let Some(feeder) = feeder {
        let given = lock(&session).clone();
        // The lease is looked after until the end: without it the watchdog would starve meanwhile.
        tokio::select! {
            () = farewell(feeder, &servers, given, &libvirt, &feed_state) => {}
            () = &mut core => {}
        }
    }
    info!("the agent ends; no guest is touched");
    ended
}

/// First the control plane knows that this node's silence will prove nothing, then the watchdog is disarmed.
///
/// Where it cannot be told, as when a whole site is shut down and there is no quorum any more, an empty host is disarmed all the
/// same: what a proof by its lease says, that nothing of the cluster runs here, is true.
async fn farewell(
    feeder: feeder::Feeder,
    servers: &Servers,
    session: Option<v1::RegisterReply>,
    hypervisor: &HypervisorHandle,
    state: &watch::Receiver<FeedState>,
) {
    let told = match &session {
        Some(session) => tokio::time::timeout(FAREWELL, leave(servers, session)).await.is_ok(),
        None => false,
    };
    if told {
        return feeder.disarm().await;
    }
    let nothing_bound = state.borrow().safe;
    let listed = hypervisor.call("list the domains", LIST_LIMIT, |it| it.domains()).await;
    if nothing_bound && listed.as_ref().is_ok_and(|all| all.iter().all(is_down)) {
        info!("the control plane could not be told that this agent ends; nothing runs here");
        return feeder.disarm().await;
    }
    error!(
        "the control plane could not be told that this agent ends, so the watchdog stays armed: start the agent again at once"
    );
    feeder.stop().await;
}

fn is_down(domain: &DomainFacts) -> bool {
    domain.seen.presence.is_none()
}

/// The task that owns the core.
struct Shell {
    core: AgentCore,
    hypervisor: HypervisorHandle,
    inputs: mpsc::UnboundedSender<Input>,
    reports: mpsc::UnboundedSender<v1::Report>,
    jobs: Jobs,
    feed: watch::Sender<FeedState>,
    runner: Runner,
    /// Held while the processes are looked at.
    looking: Arc<tokio::sync::Mutex<()>>,
}

impl Shell {
    async fn run(
        mut self,
        mut queue: mpsc::UnboundedReceiver<Input>,
        mut events: mpsc::UnboundedReceiver<HypervisorEvent>,
    ) {
        let mut full_look = tokio::time::interval(FULL_LOOK);
        full_look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut processes = tokio::time::interval(PROCESSES_LOOK);
        processes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = Reading::now();
            let until = self.core.wake_at(now).map(|at| at.saturating_sub(now.boot_ms));
            let wait = until.map_or(LONGEST_WAIT, Duration::from_millis).min(LONGEST_WAIT);
            tokio::select! {
                input = queue.recv() => match input {
                    Some(input) => self.take(input),
                    None => return,
                },
                event = events.recv() => match event {
                    Some(event) => self.take(Input::Event(event)),
                    None => return,
                },
                _ = full_look.tick() => self.look_at_everything(),
                _ = processes.tick(), if !self.core.lease().holds(now) => self.look_at_processes(),
                () = tokio::time::sleep(wait) => {}
            }
            self.core.tick(Reading::now());
            self.carry_out();
        }
    }

    fn take(&mut self, input: Input) {
        let now = Reading::now();
        let core = &mut self.core;
        match input {
            Input::Registered { given, inventory, taken } => {
                // One who no longer waits has ended.
                let _ = taken.send(core.registered(given, &inventory, now));
            }
            Input::SessionOver => core.session_over(),
            Input::HeartbeatAnswered(sent) => core.heartbeat_answered(sent, now),
            Input::Orders(list) => core.orders(list, now),
            Input::Event(HypervisorEvent::Changed(uuid)) => core.event(uuid, None, now),
            Input::Event(HypervisorEvent::Stopped(uuid, cause)) => {
                core.event(uuid, Some(cause), now);
            }
            Input::Event(HypervisorEvent::Noted(uuid, note, text)) => {
                core.noted(uuid, note, text, now);
                core.event(uuid, None, now);
            }
            Input::Event(HypervisorEvent::Ending(uuid, cause)) => core.ending(uuid, cause, now),
            Input::Event(HypervisorEvent::Pass(uuid, number)) => core.pass(uuid, number, now),
            Input::Event(HypervisorEvent::Connected) => self.look_at_everything(),
            Input::Event(HypervisorEvent::Disconnected) => {}
            Input::Listed(domains) => core.listed(&domains, now),
            Input::Processes(running) => core.processes(&running, now),
            Input::Answered { uuid, id, answer } => core.answered(uuid, id, answer, now),
            Input::ScriptEnded { service, id, outcome } => {
                core.script_ended(service, id, &outcome, now);
            }
            Input::OrphanGone(service) => core.orphan_gone(service, now),
            Input::Inventory(domains, asker) => {
                let _ = asker.send((core.inventory(&domains, now), core.ledger().epoch()));
            }
        }
    }

    /// What runs here, whether libvirt says so or not.
    fn look_at_processes(&self) {
        // One at a time: a process that hangs in the kernel may keep its command line from whoever reads it.
        let Ok(looking) = self.looking.clone().try_lock_owned() else { return };
        let (hypervisor, inputs) = (self.hypervisor.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let _looking = looking;
            match hypervisor.call_to_its_end(|it| it.processes()).await {
                Ok(running) => drop(inputs.send(Input::Processes(running))),
                Err(error) => info!(%error, "the processes cannot be listed now"),
            }
        });
    }

    /// What may have happened unheard: domains that are new, and known ones that are gone.
    fn look_at_everything(&self) {
        let (hypervisor, inputs) = (self.hypervisor.clone(), self.inputs.clone());
        tokio::spawn(async move {
            match hypervisor.call("list the domains", LIST_LIMIT, |it| it.domains()).await {
                // A receiver that is gone belongs to an agent that is ending; so below.
                Ok(domains) => drop(inputs.send(Input::Listed(domains))),
                Err(error) => info!(%error, "the domains cannot be listed now"),
            }
        });
    }

    fn carry_out(&mut self) {
        let effects = self.core.take_effects();
        for report in effects.reports {
            let _ = self.reports.send(report);
        }
        for VmCall { uuid, id, call } in effects.calls {
            let (hypervisor, inputs) = (self.hypervisor.clone(), self.inputs.clone());
            tokio::spawn(async move {
                let answer = hypervisor.make(uuid, call).await;
                let _ = inputs.send(Input::Answered { uuid, id, answer });
            });
        }
        for call in effects.scripts {
            let (runner, inputs) = (self.runner.clone(), self.inputs.clone());
            let cancel = runner.prepare(call.id);
            tokio::spawn(async move {
                let outcome = runner.run(&call, cancel).await;
                let ScriptCall { service, id, .. } = call;
                let _ = inputs.send(Input::ScriptEnded { service, id, outcome });
            });
        }
        for id in effects.kills {
            self.runner.cancel(id);
        }
        *lock(&self.jobs) = self.core.jobs().collect();
        let (lease, safe) = (self.core.lease(), self.core.is_safe());
        self.feed.send_replace(FeedState { lease, safe, at: Reading::now() });
    }
}

struct Agent {
    config: Config,
    boot_id: String,
    servers: Servers,
    hypervisor: HypervisorHandle,
    inputs: mpsc::UnboundedSender<Input>,
    jobs: Jobs,
    loads: Loads,
    session: Arc<Mutex<Option<v1::RegisterReply>>>,
}

impl Agent {
    /// One session after the other. The watchdog is armed before the control plane is told of it, and before the first VM
    /// can run.
    async fn sessions(&self, mut outbox: Outbox, armed: Option<Armed>) -> anyhow::Result<()> {
        let host = self.host().await;
        // Only when it is known what runs here can it be safe to arm it.
        if self.inventory().await.is_none() {
            return Ok(());
        }
        let watchdog_timeout_ms = match armed {
            Some(armed) => Some(armed.await.context("the feeder of the watchdog has ended")??),
            None => None,
        };
        // Not only when there is a session: a control plane that is away is no reason to end this agent and its watchdog.
        if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
            warn!(%error, "the service manager could not be told");
        }
        let mut complaint = String::new();
        loop {
            outbox.keep_outcomes();
            let Some((inventory, epoch)) = self.inventory().await else { return Ok(()) };
            let mut request = self.registration(&host, &inventory, epoch);
            request.watchdog_timeout_ms = watchdog_timeout_ms;
            let reply = register(&self.servers, request, &mut complaint).await;
            let Some(reply) = reply else { continue };
            if !self.take(&reply, inventory).await {
                tokio::time::sleep(LIST_AGAIN).await;
                continue;
            }
            *lock(&self.session) = Some(reply.clone());
            let session = Arc::new(Session {
                servers: self.servers.clone(),
                given: reply,
                jobs: self.jobs.clone(),
                loads: self.loads.clone(),
                hypervisor: self.hypervisor.clone(),
                inputs: self.inputs.clone(),
                fence_agents: fence::FenceAgents::new(self.config.fence_agents.clone()),
            });
            session.run(&mut outbox).await;
            *lock(&self.session) = None;
            let _ = self.inputs.send(Input::SessionOver);
        }
    }

    /// Whether the core takes the session.
    async fn take(&self, reply: &v1::RegisterReply, inventory: Inventory) -> bool {
        let given = match Given::read(reply) {
            Ok(given) => given,
            Err(error) => {
                warn!(%error, "a session that cannot be read is not taken");
                return false;
            }
        };
        let cluster = given.cluster;
        let (taken, answer) = oneshot::channel();
        let _ = self.inputs.send(Input::Registered { given, inventory, taken });
        match answer.await {
            Ok(Ok(())) => {
                self.servers.are_of(cluster);
                true
            }
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                warn!(session = reply.session, error, "a session is not taken");
                false
            }
            Err(_) => false,
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
    async fn inventory(&self) -> Option<(Inventory, u64)> {
        loop {
            match self.hypervisor.call("list the domains", LIST_LIMIT, |it| it.inventory()).await {
                Ok(domains) => {
                    let (asker, answer) = oneshot::channel();
                    let _ = self.inputs.send(Input::Inventory(domains, asker));
                    return answer.await.ok();
                }
                Err(error) => {
                    warn!(%error, "waiting for libvirt");
                    tokio::time::sleep(LIST_AGAIN).await;
                }
            }
        }
    }

    fn registration(&self, host: &HostFacts, inventory: &Inventory, epoch: u64) -> RegisterRequest {
        RegisterRequest {
            request_id: Uuid::new_v4().to_string(),
            node: self.config.node.to_string(),
            hardware: host.hardware.to_string(),
            boot_id: self.boot_id.clone(),
            memory_mib: host.capacity.memory_mib.saturating_sub(self.config.reserved_memory_mib),
            cpus: host.capacity.cpus,
            migration_uri: self.config.migration_uri.clone(),
            watchdog_timeout_ms: None,
            pausable: host::is_virtual(),
            lock_manager: host::lock_manager(),
            fence_agents: fence::FenceAgents::new(self.config.fence_agents.clone())
                .installed()
                .into_iter()
                .collect(),
            libvirt_guests: host::libvirt_guests(),
            agent_version: env!("CARGO_PKG_VERSION").into(),
            epoch,
            replaces: None,
            inventory: inventory.iter().map(|(uuid, it)| convert::seen(*uuid, it)).collect(),
        }
    }
}

async fn told_to_stop() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("no signal can be awaited")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("no signal can be awaited")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
