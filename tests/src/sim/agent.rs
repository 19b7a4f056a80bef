//! The agent's shell in virtual time: it carries to and from the real core, as the real shell does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use agent::clock::Reading;
use agent::core::{AgentCore, Given};
use agent::hypervisor::Hypervisor;
use agent::vm::ledger::{Entries, Ledger, LedgerError, LedgerStorage, SinceBoot, Suspended};
use model::command::{Operation, Registration};
use model::id::{NodeId, NodeName, SessionId};
use model::liveness::Measured;
use model::node::{AfterShutdown, SeenDomain};
use proto::convert::agent as convert;
use proto::v1;
use uuid::Uuid;

use super::invariant::Observation;
use super::network::Place;
use super::world::{Event, World};

/// What a replica is asked.
#[derive(Debug, Clone)]
pub enum Request {
    /// An agent asks for its node's last session.
    Announce {
        /// By which the answer is known.
        request: Uuid,
        /// Of which agent on the host.
        incarnation: u64,
    },
    /// An agent registers.
    Register {
        /// By which a repeated one is known.
        request: Uuid,
        /// Of which agent on the host.
        incarnation: u64,
        /// What it says.
        registration: Box<Registration>,
        /// The highest epoch it has met.
        epoch: u64,
    },
    /// An agent's heartbeat.
    Heartbeat {
        /// Whose.
        node: NodeId,
        /// In which session.
        session: SessionId,
        /// Its number.
        number: u64,
        /// Of the session.
        epoch: u64,
        /// What guests use.
        loads: Vec<(Uuid, Measured)>,
    },
    /// What an agent saw and did.
    Report {
        /// By which a repeated one is known.
        request: Uuid,
        /// Of which agent on the host.
        incarnation: u64,
        /// Whose.
        node: NodeId,
        /// In which session.
        session: SessionId,
        /// What.
        reports: Vec<model::command::Report>,
    },
    /// An agent is about to end, and to disarm its watchdog.
    Leave {
        /// By which a repeated one is known.
        request: Uuid,
        /// Of which agent on the host.
        incarnation: u64,
        /// Whose.
        node: NodeId,
        /// In which session.
        session: SessionId,
    },
    /// A host is about to go down in good order.
    AnnounceShutdown {
        /// By which a repeated one is known.
        request: Uuid,
        /// Of which agent on the host.
        incarnation: u64,
        /// Whose.
        node: NodeId,
        /// In which session.
        session: SessionId,
        /// What follows.
        then: AfterShutdown,
    },
    /// An operator's wish.
    Submit {
        /// By which a repeated one is known.
        request: Uuid,
        /// What.
        operation: Box<Operation>,
    },
}

/// What an agent hears.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Its node's last session.
    Announced(Uuid, Option<SessionId>),
    /// Its registration was committed.
    Registered(Uuid, Box<v1::RegisterReply>),
    /// Its registration was refused: it is to be tried again.
    Refused(Uuid),
    /// A heartbeat of a session was answered.
    Heartbeat(u64, u64),
    /// The leader says that a session is over.
    SessionOver(u64),
    /// Its report was committed.
    Reported(Uuid),
    /// It may disarm its watchdog and end.
    Left,
    /// Its host's shutdown is noted; whether nothing of the cluster's may be running there any more.
    ShutdownNoted(bool),
    /// All orders of its node.
    Orders(Box<v1::OrderList>),
}

/// A ledger in memory that outlives its agent.
pub struct SimLedger {
    entries: Arc<Mutex<Entries>>,
    suspended: Arc<Mutex<Suspended>>,
    since_boot: Arc<Mutex<SinceBoot>>,
}

impl LedgerStorage for SimLedger {
    fn write(&mut self, entries: &Entries) -> Result<(), LedgerError> {
        *self.entries.lock().unwrap_or_else(PoisonError::into_inner) = entries.clone();
        Ok(())
    }

    fn write_suspended(&mut self, suspended: &Suspended) -> Result<(), LedgerError> {
        *self.suspended.lock().unwrap_or_else(PoisonError::into_inner) = suspended.clone();
        Ok(())
    }

    fn write_since_boot(&mut self, noted: &SinceBoot) -> Result<(), LedgerError> {
        *self.since_boot.lock().unwrap_or_else(PoisonError::into_inner) = noted.clone();
        Ok(())
    }
}

/// An agent process.
pub struct SimAgent {
    /// The real thing.
    pub core: AgentCore,
    /// The replica it speaks to.
    server: usize,
    /// Node and session.
    pub session: Option<(NodeId, SessionId)>,
    period_ms: u64,
    limit_ms: u64,
    number: u64,
    pending: Option<(u64, Reading)>,
    pub(super) queue: Vec<v1::Report>,
    pub(super) unanswered: Option<(Uuid, Vec<v1::Report>)>,
    registering: Option<Registering>,
    fed_at: u64,
    /// Its watchdog is armed, or there is none.
    armed: bool,
}

impl SimAgent {
    /// The replica it speaks to.
    pub fn server(&self) -> usize {
        self.server
    }
}

/// A registration under way.
struct Registering {
    request: Uuid,
    inventory: BTreeMap<Uuid, SeenDomain>,
    /// The node's last session, once it is known.
    replaces: Option<Option<SessionId>>,
}

const REQUEST_LIMIT_MS: u64 = 3_000;
const LONGEST_WAIT_MS: u64 = 100;
const FULL_LOOK_MS: u64 = 30_000;

impl World {
    /// An agent process begins, with what is on its host's disk and in its `/run`.
    pub fn start_agent(&mut self, number: usize, incarnation: u64) {
        let now = self.now;
        let servers = self.replicas.len();
        let server = self.rng.usize(0..servers.max(1));
        let host = &mut self.hosts[number];
        if !host.on || host.incarnation != incarnation || host.agent.is_some() {
            return;
        }
        let entries = host.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let suspended = host.suspended.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let noted = host.since_boot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let storage = SimLedger {
            entries: host.ledger.clone(),
            suspended: host.suspended.clone(),
            since_boot: host.since_boot.clone(),
        };
        let ledger = Ledger::over(Box::new(storage), entries, suspended).knowing(noted);
        let core = AgentCore::new(ledger, host.lease_file);
        let watched = host.watchdog.is_some();
        host.guarded = true;
        host.agent = Some(SimAgent {
            core,
            server,
            session: None,
            period_ms: 500,
            limit_ms: 500,
            number: 0,
            pending: None,
            queue: Vec::new(),
            unanswered: None,
            registering: None,
            fed_at: now,
            armed: !watched,
        });
        self.end_orphans(number);
        self.after(1, Event::AgentTick(number, incarnation));
        self.after(20, Event::Listed(number, incarnation));
        self.after(FULL_LOOK_MS, Event::FullLook(number, incarnation));
    }

    /// The agent process ends, however.
    pub fn end_agent(&mut self, number: usize) -> u64 {
        let host = &mut self.hosts[number];
        host.agent = None;
        host.incarnation += 1;
        host.incarnation
    }

    /// An agent is told to end: the control plane hears of it first, and then the watchdog is disarmed.
    pub(super) fn agent_leaves(&mut self, number: usize) {
        let request = self.uuid();
        let incarnation = self.hosts[number].incarnation;
        let Some(agent) = &self.hosts[number].agent else { return };
        let Some((node, session)) = agent.session else { return };
        let request = Request::Leave { request, incarnation, node, session };
        let server = agent.server;
        let message =
            Event::ToReplica { replica: server, host: Some(number), request, forwarded: false };
        self.send(Place::Host(number), Place::Replica(server), message);
        // Told or not, it ends; the watchdog stays armed when it could not say so.
        self.after(REQUEST_LIMIT_MS, Event::AgentGone(number, incarnation));
    }

    pub(super) fn agent_gone(&mut self, number: usize, incarnation: u64) {
        if self.hosts[number].incarnation != incarnation {
            return;
        }
        let incarnation = self.end_agent(number);
        let delay = self.rng.u64(10..25_000);
        self.after(delay, Event::StartAgent(number, incarnation));
    }

    pub(super) fn agent(&mut self, number: usize, incarnation: u64) -> Option<&mut SimAgent> {
        let host = &mut self.hosts[number];
        (host.incarnation == incarnation).then_some(())?;
        host.agent.as_mut()
    }

    pub(super) fn agent_tick(&mut self, number: usize, incarnation: u64) {
        if self.agent(number, incarnation).is_none() {
            return;
        }
        self.tell_events(number);
        self.with_core(number, AgentCore::tick);
        let without_lease = {
            let now = self.hosts[number].reading(self.now);
            self.hosts[number].agent.as_ref().is_some_and(|it| !it.core.lease().holds(now))
        };
        if without_lease {
            let running: Vec<Uuid> =
                self.hosts[number].hypervisor.machine().domains.keys().copied().collect();
            self.with_core(number, |core, now| core.processes(&running, now));
        }
        let (now, virtual_now) = (self.hosts[number].reading(self.now), self.now);
        let host = &mut self.hosts[number];
        let Some(agent) = &mut host.agent else { return };
        if let Some(watchdog) = &mut host.watchdog
            && (virtual_now >= agent.fed_at + watchdog.timeout_ms / 3 || !agent.armed)
        {
            agent.fed_at = virtual_now;
            host.lease_file = agent.core.lease();
            // Arming it is feeding it, and one that the agent before this one armed may be about to bite.
            if agent.core.may_feed(now) {
                agent.armed = true;
                watchdog.fed = Some(virtual_now);
                self.observe(&Observation::Fed { host: number });
            }
        }
        let Some(agent) = &mut self.hosts[number].agent else { return };
        let wait = agent.core.wake_at(now).map(|at| at.saturating_sub(now.boot_ms));
        let wait = wait.unwrap_or(LONGEST_WAIT_MS).clamp(1, LONGEST_WAIT_MS);
        self.after(wait, Event::AgentTick(number, incarnation));
    }

    pub(super) fn full_look(&mut self, number: usize, incarnation: u64) {
        if self.agent(number, incarnation).is_none() {
            return;
        }
        if let Ok(domains) = self.hosts[number].hypervisor.domains() {
            self.with_core(number, |core, now| core.listed(&domains, now));
        }
        self.after(FULL_LOOK_MS, Event::FullLook(number, incarnation));
    }

    // ---- session -------------------------------------------------------------------------------------------------

    /// libvirt's word on all domains, and a registration with it.
    pub(super) fn listed(&mut self, number: usize, incarnation: u64) {
        let request = self.uuid();
        let again = Event::Listed(number, incarnation);
        let stalled = self.hosts[number].libvirt_stalled_until > self.now;
        let domains = self.hosts[number].hypervisor.inventory();
        let now = self.hosts[number].reading(self.now);
        let Some(agent) = self.agent(number, incarnation) else { return };
        if agent.session.is_some() || agent.registering.is_some() {
            return;
        }
        let Some(domains) = domains.ok().filter(|_| !stalled) else {
            return self.after(500, again);
        };
        let inventory = agent.core.inventory(&domains, now);
        if !agent.armed {
            return self.after(50, again);
        }
        // What was seen before is told by the inventory; what became of orders is kept.
        let unanswered = agent.unanswered.take().map(|(_, reports)| reports).unwrap_or_default();
        let queue = std::mem::take(&mut agent.queue);
        agent.queue = unanswered
            .into_iter()
            .chain(queue)
            .filter(|it| matches!(it.report, Some(v1::report::Report::OrderDone(_))))
            .collect();
        agent.registering = Some(Registering { request, inventory, replaces: None });
        self.send_registration(number, incarnation);
    }

    fn send_registration(&mut self, number: usize, incarnation: u64) {
        let Some(agent) = &self.hosts[number].agent else { return };
        let Some(Registering { request, inventory, replaces }) = &agent.registering else { return };
        let (request, server, replaces) = (*request, agent.server, *replaces);
        let inventory = inventory.clone();
        self.after(REQUEST_LIMIT_MS, Event::RequestLate(number, incarnation, request));
        let host = &self.hosts[number];
        let Some(agent) = &host.agent else { return };
        let Some(replaces) = replaces else {
            let asked = Request::Announce { request, incarnation };
            let message = Event::ToReplica {
                replica: server,
                host: Some(number),
                request: asked,
                forwarded: false,
            };
            return self.send(Place::Host(number), Place::Replica(server), message);
        };
        let Ok(facts) = host.hypervisor.host() else { return };
        let registration = Registration {
            name: NodeName::new(&host.name).unwrap_or_else(|error| panic!("{error}")),
            hardware: facts.hardware,
            boot_id: format!("{}-{}", host.name, host.boot),
            replaces,
            capacity: facts.capacity,
            migration_uri: format!("sim://{number}"),
            watchdog_timeout_ms: host.watchdog.map(|watchdog| watchdog.timeout_ms),
            pausable: host.pausable,
            lock_manager: host.locked.then(|| "lockd".to_owned()),
            agent_version: "sim".into(),
            features: Default::default(),
            inventory,
        };
        let epoch = agent.core.ledger().epoch();
        let message = Event::ToReplica {
            replica: server,
            host: Some(number),
            request: Request::Register {
                request,
                incarnation,
                registration: Box::new(registration),
                epoch,
            },
            forwarded: false,
        };
        self.send(Place::Host(number), Place::Replica(server), message);
    }

    /// Leaves a replica that does not answer.
    fn rotate(&mut self, number: usize) {
        let servers = self.replicas.len();
        if let Some(agent) = &mut self.hosts[number].agent {
            agent.server = (agent.server + 1) % servers.max(1);
        }
    }

    pub(super) fn request_late(&mut self, number: usize, incarnation: u64, request: Uuid) {
        let Some(agent) = self.agent(number, incarnation) else { return };
        let registering = agent.registering.as_ref().is_some_and(|it| it.request == request);
        let reporting = agent.unanswered.as_ref().is_some_and(|(id, _)| *id == request);
        if registering {
            self.rotate(number);
            self.send_registration(number, incarnation);
        } else if reporting {
            self.rotate(number);
            self.send_reports(number, incarnation);
        }
    }

    pub(super) fn heartbeat(&mut self, number: usize, incarnation: u64) {
        let sent = self.hosts[number].reading(self.now);
        let Some(agent) = self.agent(number, incarnation) else { return };
        let Some((node, session)) = agent.session else { return };
        if agent.pending.is_some() {
            return;
        }
        agent.number += 1;
        agent.pending = Some((agent.number, sent));
        let (beat, server, limit) = (agent.number, agent.server, agent.limit_ms);
        let epoch = agent.core.ledger().epoch();
        let loads = self.measure(number);
        let request = Request::Heartbeat { node, session, number: beat, epoch, loads };
        let message =
            Event::ToReplica { replica: server, host: Some(number), request, forwarded: false };
        self.send(Place::Host(number), Place::Replica(server), message);
        self.after(limit, Event::HeartbeatLate(number, incarnation, beat));
    }

    /// What its guests use, where anything is known of that.
    fn measure(&self, number: usize) -> Vec<(Uuid, Measured)> {
        let machine = self.hosts[number].hypervisor.machine();
        let here = self.loads.iter().filter(|(uuid, _)| machine.domains.contains_key(uuid));
        here.map(|(uuid, load)| (*uuid, *load)).collect()
    }

    pub(super) fn heartbeat_late(&mut self, number: usize, incarnation: u64, beat: u64) {
        let Some(agent) = self.agent(number, incarnation) else { return };
        if agent.pending.is_some_and(|(pending, _)| pending == beat) {
            agent.pending = None;
            self.rotate(number);
            self.after(20, Event::HeartbeatDue(number, incarnation));
        }
    }

    pub(super) fn send_reports(&mut self, number: usize, incarnation: u64) {
        let fresh = self.uuid();
        let Some(agent) = self.agent(number, incarnation) else { return };
        let Some((node, session)) = agent.session else { return };
        if agent.unanswered.is_none() {
            if agent.queue.is_empty() {
                return;
            }
            agent.unanswered = Some((fresh, std::mem::take(&mut agent.queue)));
        }
        let Some((request, reports)) = &agent.unanswered else { return };
        let reports: Vec<_> =
            reports.iter().cloned().map(convert::report).filter_map(Result::ok).collect();
        let (request, server) = (*request, agent.server);
        let asked = Request::Report { request, incarnation, node, session, reports };
        let message = Event::ToReplica {
            replica: server,
            host: Some(number),
            request: asked,
            forwarded: false,
        };
        self.send(Place::Host(number), Place::Replica(server), message);
        self.after(REQUEST_LIMIT_MS, Event::RequestLate(number, incarnation, request));
    }

    pub(super) fn agent_hears(&mut self, number: usize, incarnation: u64, reply: Reply) {
        if self.agent(number, incarnation).is_none() {
            return;
        }
        match reply {
            Reply::Announced(request, last) => {
                let Some(agent) = self.agent(number, incarnation) else { return };
                let Some(registering) = &mut agent.registering else { return };
                if registering.request == request && registering.replaces.is_none() {
                    registering.replaces = Some(last);
                    self.send_registration(number, incarnation);
                }
            }
            Reply::Registered(request, reply) => {
                self.registered(number, incarnation, request, &reply);
            }
            Reply::Refused(request) => {
                let Some(agent) = self.agent(number, incarnation) else { return };
                if agent.registering.as_ref().is_some_and(|it| it.request == request) {
                    agent.registering = None;
                    self.after(200, Event::Listed(number, incarnation));
                }
            }
            Reply::Heartbeat(session, beat) => {
                let Some(agent) = self.agent(number, incarnation) else { return };
                let current = agent.session.is_some_and(|(_, it)| it.0 == session);
                let Some((_, sent)) = agent.pending.filter(|(it, _)| *it == beat && current) else {
                    return;
                };
                agent.pending = None;
                let period = agent.period_ms;
                let place = &self.hosts[number].name;
                self.trace.detail(self.now, "renewed", || format!("{place} {session}"));
                self.with_core(number, |core, now| core.heartbeat_answered(sent, now));
                self.after(period, Event::HeartbeatDue(number, incarnation));
            }
            Reply::SessionOver(session) => {
                let Some(agent) = self.agent(number, incarnation) else { return };
                if agent.session.is_some_and(|(_, current)| current.0 == session) {
                    agent.session = None;
                    agent.pending = None;
                    agent.core.session_over();
                    self.after(20, Event::Listed(number, incarnation));
                }
            }
            Reply::Reported(request) => {
                let Some(agent) = self.agent(number, incarnation) else { return };
                if agent.unanswered.as_ref().is_some_and(|(id, _)| *id == request) {
                    agent.unanswered = None;
                    self.send_reports(number, incarnation);
                }
            }
            Reply::Orders(list) => {
                let foreign = self.foreign_orders(number, &list);
                self.with_core(number, |core, now| core.orders(*list, now));
                let core = self.hosts[number].agent.as_ref().map(|agent| &agent.core);
                let began = |(uuid, order): &&(Uuid, u64)| {
                    let entry = core.and_then(|core| core.ledger().entry(*uuid));
                    entry.is_some_and(|entry| entry.begun == Some(*order))
                };
                let foreign = foreign.iter().find(began).map(|(_, order)| *order);
                self.observe(&Observation::Heard { host: number, foreign });
            }
            Reply::ShutdownNoted(empty) => self.shutdown_noted(number, empty),
            Reply::Left => {
                if let Some(watchdog) = &mut self.hosts[number].watchdog {
                    watchdog.fed = None;
                }
                self.agent_gone(number, incarnation);
            }
        }
    }

    /// Those of a list that are not of the agent's session and epoch, and that it is not about already.
    fn foreign_orders(&self, number: usize, list: &v1::OrderList) -> Vec<(Uuid, u64)> {
        let Some(agent) = &self.hosts[number].agent else { return Vec::new() };
        let Some(given) = agent.core.session() else { return Vec::new() };
        let of_another =
            |order: &&v1::Order| order.session != given.session || list.epoch != given.epoch;
        let known = |(uuid, order): &(Uuid, u64)| {
            let entry = agent.core.ledger().entry(*uuid);
            entry.is_some_and(|entry| entry.begun == Some(*order))
        };
        let named = |order: &v1::Order| Some((order.uuid.parse().ok()?, order.id));
        let all = list.orders.iter().filter(of_another).filter_map(named);
        all.filter(|order| !known(order)).collect()
    }

    fn registered(
        &mut self,
        number: usize,
        incarnation: u64,
        request: Uuid,
        reply: &v1::RegisterReply,
    ) {
        let Some(agent) = self.agent(number, incarnation) else { return };
        let taken = agent.registering.take_if(|it| it.request == request);
        let Some(Registering { inventory, .. }) = taken else { return };
        let Ok(given) = Given::read(reply) else { return };
        let mut taken = false;
        self.with_core(number, |core, now| {
            taken = core.registered(given, &inventory, now).is_ok();
        });
        if !taken {
            self.rotate(number);
            return self.after(500, Event::Listed(number, incarnation));
        }
        let Some(agent) = self.agent(number, incarnation) else { return };
        let (node, session) = (NodeId(reply.node_id), SessionId(reply.session));
        agent.session = Some((node, session));
        agent.period_ms = reply.heartbeat_ms;
        agent.limit_ms = reply.answer_timeout_ms;
        agent.pending = None;
        self.after(0, Event::HeartbeatDue(number, incarnation));
        self.send_reports(number, incarnation);
        let place = &self.hosts[number].name;
        self.trace.detail(self.now, "registered", || format!("{place} {session}"));
        self.observe(&Observation::Registered { host: number, node, session });
    }
}
