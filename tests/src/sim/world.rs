//! The world: its machines, its time, and the one queue of all that is to happen.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use agent::hypervisor::DomainFacts;
use agent::hypervisor::call::Call;
use agent::script::call::Outcome as ScriptOutcome;
use fastrand::Rng;
use model::ClusterState;
use model::command::Command;
use model::id::{NodeId, SessionId};
use model::liveness::Measured;
use model::time::Timestamp;
use model::vm::Presence;
use uuid::Uuid;

use super::acts::Acts;
use super::agent::{Reply, Request};
use super::control::{Plane, Proposal, Replica};
use super::faults::Fault;
use super::host::SimHost;
use super::invariant::{Invariant, Observation, Violation};
use super::leader::FenceStage;
use super::migration::Migration;
use super::network::{Network, Place};
use super::operators::OperatorAct;
use super::theme::Theme;
use super::trace::Trace;

/// What is simulated.
#[derive(Debug, Clone)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// Hosts.
    pub hosts: usize,
    /// Replicas, on machines of their own.
    pub replicas: usize,
    /// VMs.
    pub vms: usize,
    /// How long faults come, in virtual milliseconds.
    pub trouble_ms: u64,
    /// How long it may take after them until all is well. The longest way known: guests that do not hear that they are to
    /// shut down, each with two minutes' grace, one after the other.
    pub calm_ms: u64,
    /// What is likely to go wrong.
    pub theme: Theme,
    /// What operators do.
    pub acts: Acts,
}

impl Options {
    /// The sweep's.
    pub fn of_seed(seed: u64) -> Self {
        Self {
            seed,
            hosts: 4,
            replicas: 3,
            vms: 4,
            trouble_ms: 60_000,
            calm_ms: 600_000,
            theme: Theme::of_seed(seed),
            acts: Acts::All,
        }
    }

    /// The same, with operators who do less: as it was when the older of the pinned seeds were found.
    pub fn with_few_acts(seed: u64) -> Self {
        Self { acts: Acts::Few, ..Self::of_seed(seed) }
    }

    /// The same, without their rare acts.
    pub fn with_many_acts(seed: u64) -> Self {
        Self { acts: Acts::Many, ..Self::of_seed(seed) }
    }
}

/// Something that is to happen.
#[derive(Debug, Clone)]
pub enum Event {
    /// Replicas look whether they have a leader.
    Elect(usize),
    /// A replica catches up with its log.
    Apply(usize),
    /// The leader of a term looks at all there is.
    Lead {
        /// Which replica.
        replica: usize,
        /// Of which term.
        term: u64,
    },
    /// A replica hears that another leads.
    StepDown {
        /// Which replica.
        replica: usize,
        /// The term that it no longer leads.
        term: u64,
    },
    /// A proposal reaches its quorum, or does not.
    Commit(Box<Proposal>),
    /// A request arrives at a replica.
    ToReplica {
        /// Which.
        replica: usize,
        /// From whom; `None` for an operator.
        host: Option<usize>,
        /// What.
        request: Request,
        /// A replica passed it on.
        forwarded: bool,
    },
    /// The quorum round of a heartbeat is over.
    Barrier {
        /// The leader.
        replica: usize,
        /// Its term.
        term: u64,
        /// Whose heartbeat.
        host: usize,
        /// Of which node.
        node: NodeId,
        /// In which session.
        session: SessionId,
        /// Its number.
        number: u64,
    },
    /// The leader answers a heartbeat whose quorum round was good.
    Answer {
        /// The leader.
        replica: usize,
        /// Its term.
        term: u64,
        /// Whose heartbeat.
        host: usize,
        /// Of which node.
        node: NodeId,
        /// In which session.
        session: SessionId,
        /// Its number.
        number: u64,
    },
    /// Something reaches an agent.
    ToAgent {
        /// On which host.
        host: usize,
        /// Which agent.
        incarnation: u64,
        /// What.
        reply: Reply,
    },
    /// An agent looks at its clock.
    AgentTick(usize, u64),
    /// An agent's next heartbeat is due.
    HeartbeatDue(usize, u64),
    /// A heartbeat was not answered in time.
    HeartbeatLate(usize, u64, u64),
    /// A registration or a report was not answered in time.
    RequestLate(usize, u64, Uuid),
    /// An agent has libvirt's list and registers.
    Listed(usize, u64),
    /// An agent looks at all domains.
    FullLook(usize, u64),
    /// A call to libvirt comes to its end.
    CallEnds {
        /// On which host.
        host: usize,
        /// In which boot.
        boot: u64,
        /// Of which agent.
        incarnation: u64,
        /// About which VM.
        uuid: Uuid,
        /// Its number.
        id: u64,
        /// What.
        call: Call,
    },
    /// An agent waits no longer for a call.
    CallLate(usize, u64, Uuid, u64, Call),
    /// A run of a script comes to its end.
    ScriptEnds {
        /// On which host.
        host: usize,
        /// In which boot.
        boot: u64,
        /// Its number.
        number: u64,
        /// How.
        outcome: ScriptOutcome,
    },
    /// An agent hears of that.
    ScriptAnswer {
        /// On which host.
        host: usize,
        /// Which agent.
        incarnation: u64,
        /// Of which service.
        service: Uuid,
        /// The call's number.
        id: u64,
        /// How it ended.
        outcome: ScriptOutcome,
    },
    /// An agent hears that a run which one before it had left is gone.
    OrphanGone {
        /// On which host.
        host: usize,
        /// Which agent.
        incarnation: u64,
        /// Of which service.
        service: Uuid,
    },
    /// A migration goes on.
    Migrate(u64),
    /// A fence goes on.
    Fence(Box<FenceStage>),
    /// A host's kernel looks at its watchdog, and libvirt tells its events.
    HostTick(usize, u64),
    /// A host gets its power back.
    Boot(usize),
    /// An agent is started.
    StartAgent(usize, u64),
    /// An agent that was told to end has ended.
    AgentGone(usize, u64),
    /// A replica is started.
    StartReplica(usize),
    /// A host that goes down in good order is looked after.
    Shutdown(usize, u64),
    /// Something goes wrong, or right again.
    Fault(Fault),
    /// An operator does something.
    Operate(OperatorAct),
}

struct Due {
    at: u64,
    number: u64,
    /// Small in the queue, which moves them about.
    event: Box<Event>,
}

impl Event {
    /// Domains, or what is committed of them, may be other than before.
    fn may_change_domains(&self) -> bool {
        !matches!(
            self,
            Self::Elect(_)
                | Self::Apply(_)
                | Self::Lead { .. }
                | Self::StepDown { .. }
                | Self::ToReplica { .. }
                | Self::Barrier { .. }
                | Self::Answer { .. }
                | Self::HeartbeatDue(..)
                | Self::HeartbeatLate(..)
                | Self::RequestLate(..)
                | Self::Operate(_)
        )
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// All there is.
pub struct World {
    /// What is simulated.
    pub options: Options,
    /// Virtual milliseconds.
    pub now: u64,
    /// Chance.
    pub rng: Rng,
    /// What chance has operators do beyond the few acts.
    pub acts: Rng,
    /// Hosts, by number.
    pub hosts: Vec<SimHost>,
    /// Control planes: the first, and one for each restore.
    pub planes: Vec<Plane>,
    /// Replicas of all of them.
    pub replicas: Vec<Replica>,
    /// The network.
    pub network: Network,
    /// Migrations under way.
    pub migrations: BTreeMap<u64, Migration>,
    /// Faults no longer come.
    pub calm: bool,
    /// What was the matter with the law, if anything.
    pub violation: Option<Violation>,
    /// Facts for judges.
    pub trace: Trace,
    /// Where a watched request of an operator came to.
    pub answers: BTreeMap<Uuid, Result<u64, String>>,
    /// Times of things that differ between the sweep and a scenario.
    pub pace: Pace,
    /// What guests use, where it is measured.
    pub loads: BTreeMap<Uuid, Measured>,
    /// How often each trouble has struck, and each act of an operator that matters here was done.
    pub struck: BTreeMap<&'static str, u64>,
    pub(super) script_runs: u64,
    queue: BinaryHeap<Reverse<Due>>,
    number: u64,
    invariants: Vec<Box<dyn Invariant>>,
}

/// What sets the stream of operators' further acts apart from all else that a seed decides.
const ACTS: u64 = 0x41C7_5000_0000_0000;

/// How long things take, in milliseconds, least and most.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// A start of a domain.
    pub start: (u64, u64),
    /// A copy of a migration.
    pub copy: (u64, u64),
    /// A fence device's "off".
    pub fence: (u64, u64),
    /// Any other call of libvirt.
    pub call: (u64, u64),
    /// From power to a running agent.
    pub boot: (u64, u64),
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            start: (50, 600),
            copy: (100, 3_000),
            fence: (20, 1_500),
            call: (1, 20),
            boot: (3_000, 20_000),
        }
    }
}

impl World {
    /// A world that is about to begin; nothing runs yet.
    pub fn new(options: Options, invariants: Vec<Box<dyn Invariant>>, trace: Trace) -> Self {
        let rng = Rng::with_seed(options.seed);
        Self {
            now: 0,
            rng,
            acts: Rng::with_seed(options.seed ^ ACTS),
            hosts: Vec::new(),
            planes: Vec::new(),
            replicas: Vec::new(),
            network: Network::quick(),
            migrations: BTreeMap::new(),
            calm: false,
            violation: None,
            trace,
            answers: BTreeMap::new(),
            pace: Pace::default(),
            loads: BTreeMap::new(),
            struck: BTreeMap::new(),
            script_runs: 0,
            queue: BinaryHeap::new(),
            number: 0,
            invariants,
            options,
        }
    }

    /// Something happens after so long.
    pub fn after(&mut self, milliseconds: u64, event: Event) {
        self.push(self.now + milliseconds, Box::new(event));
    }

    fn push(&mut self, at: u64, event: Box<Event>) {
        self.number += 1;
        self.queue.push(Reverse(Due { at, number: self.number, event }));
    }

    /// A number between the two.
    pub fn between(&mut self, (least, most): (u64, u64)) -> u64 {
        self.rng.u64(least..=most.max(least))
    }

    /// One in so many.
    pub fn one_in(&mut self, number: u64) -> bool {
        self.rng.u64(0..number) == 0
    }

    /// A UUID that chance has made.
    pub fn uuid(&mut self) -> Uuid {
        Uuid::from_u128(self.rng.u128(..))
    }

    /// The time on walls.
    pub fn wall(&self) -> Timestamp {
        Timestamp(1_700_000_000_000 + self.now)
    }

    /// A message is sent: it arrives after a while, or not, or twice.
    pub fn send(&mut self, from: Place, to: Place, event: Event) {
        let lost = self.rng.u64(0..1_000) < self.network.loss_permille;
        if lost || !self.network.reaches(from, to) {
            return;
        }
        let more =
            self.network.slow_to.filter(|(place, _)| *place == to).map_or(0, |(_, more)| more);
        let delay = self.between(self.network.delay) + more;
        if self.network.twice_permille > 0 && self.rng.u64(0..1_000) < self.network.twice_permille {
            let later = delay + self.rng.u64(0..self.options.theme.late_ms());
            self.after(later, event.clone());
        }
        self.after(delay, event);
    }

    /// The next thing happens; `None` when nothing is to come, or something was the matter.
    pub fn step(&mut self) -> Option<()> {
        if self.violation.is_some() {
            return None;
        }
        let Reverse(due) = self.queue.pop()?;
        self.now = self.now.max(due.at);
        match self.held_until(&due.event) {
            // Whoever it is for stands still.
            Some(until) => self.push(until, due.event),
            None => {
                let looked_at = due.event.may_change_domains();
                self.happen(*due.event);
                if looked_at {
                    self.observe(&Observation::Step);
                }
            }
        }
        Some(())
    }

    /// When the next thing happens.
    pub fn next_at(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse(due)| due.at.max(self.now))
    }

    /// Until a moment of virtual time, or until something was the matter.
    pub fn run_until(&mut self, at: u64) {
        while self.next_at().is_some_and(|next| next <= at) {
            if self.step().is_none() {
                return;
            }
        }
        self.now = self.now.max(at);
    }

    fn held_until(&self, event: &Event) -> Option<u64> {
        let until = match event {
            Event::ToAgent { host, .. }
            | Event::AgentTick(host, _)
            | Event::HeartbeatDue(host, _)
            | Event::HeartbeatLate(host, _, _)
            | Event::RequestLate(host, _, _)
            | Event::Listed(host, _)
            | Event::FullLook(host, _)
            | Event::ScriptAnswer { host, .. }
            | Event::OrphanGone { host, .. }
            | Event::CallLate(host, _, _, _, _) => {
                let host = &self.hosts[*host];
                host.agent_stalled_until.max(host.still_until())
            }
            Event::ScriptEnds { host, .. } => self.hosts[*host].still_until(),
            Event::CallEnds { host, call, .. } => {
                let host = &self.hosts[*host];
                // Only what needs no libvirt goes on while libvirtd stands still.
                let libvirt = if *call == Call::Kill { 0 } else { host.libvirt_stalled_until };
                libvirt.max(host.still_until())
            }
            Event::HostTick(host, _) | Event::Shutdown(host, _) => self.hosts[*host].paused_until,
            Event::Apply(replica)
            | Event::Lead { replica, .. }
            | Event::StepDown { replica, .. }
            | Event::ToReplica { replica, .. }
            | Event::Answer { replica, .. } => self.replica_stalled_until(*replica),
            Event::Fence(stage) => self.replica_stalled_until(stage.replica),
            Event::Elect(_)
            | Event::Commit(_)
            | Event::Barrier { .. }
            | Event::Migrate(_)
            | Event::Boot(_)
            | Event::StartAgent(_, _)
            | Event::AgentGone(_, _)
            | Event::StartReplica(_)
            | Event::Fault(_)
            | Event::Operate(_) => 0,
        };
        (until > self.now).then_some(until)
    }

    fn replica_stalled_until(&self, replica: usize) -> u64 {
        let replica = &self.replicas[replica];
        let home = replica.home.map_or(0, |host| self.hosts[host].still_until());
        replica.stalled_until.max(home)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Elect(plane) => self.elect(plane),
            Event::Apply(replica) => self.catch_up(replica),
            Event::Lead { replica, term } => self.lead(replica, term),
            Event::StepDown { replica, term } => self.step_down(replica, term),
            Event::Commit(proposal) => self.try_to_commit(proposal),
            Event::ToReplica { replica, host, request, forwarded } => {
                self.serve(replica, host, request, forwarded);
            }
            Event::Barrier { replica, term, host, node, session, number } => {
                self.barrier(replica, term, host, (node, session, number));
            }
            Event::Answer { replica, term, host, node, session, number } => {
                self.answer(replica, term, host, (node, session, number));
            }
            Event::ToAgent { host, incarnation, reply } => {
                self.agent_hears(host, incarnation, reply);
            }
            Event::AgentTick(host, incarnation) => self.agent_tick(host, incarnation),
            Event::HeartbeatDue(host, incarnation) => self.heartbeat(host, incarnation),
            Event::HeartbeatLate(host, incarnation, number) => {
                self.heartbeat_late(host, incarnation, number);
            }
            Event::RequestLate(host, incarnation, request) => {
                self.request_late(host, incarnation, request);
            }
            Event::Listed(host, incarnation) => self.listed(host, incarnation),
            Event::FullLook(host, incarnation) => self.full_look(host, incarnation),
            Event::CallEnds { host, boot, incarnation, uuid, id, call } => {
                self.call_ends(host, boot, incarnation, (uuid, id, call));
            }
            Event::CallLate(host, incarnation, uuid, id, call) => {
                self.call_late(host, incarnation, uuid, id, call);
            }
            Event::ScriptEnds { host, boot, number, outcome } => {
                self.script_ends(host, boot, number, outcome);
            }
            Event::ScriptAnswer { host, incarnation, service, id, outcome } => {
                self.script_answer(host, incarnation, (service, id), &outcome);
            }
            Event::OrphanGone { host, incarnation, service } => {
                self.orphan_gone(host, incarnation, service);
            }
            Event::Migrate(number) => self.migration_step(number),
            Event::Fence(stage) => self.fence_step(*stage),
            Event::HostTick(host, boot) => self.host_tick(host, boot),
            Event::Boot(host) => self.power_on(host),
            Event::StartAgent(host, incarnation) => self.start_agent(host, incarnation),
            Event::AgentGone(host, incarnation) => self.agent_gone(host, incarnation),
            Event::StartReplica(replica) => self.start_replica(replica),
            Event::Shutdown(host, boot) => self.shutdown_step(host, boot),
            Event::Fault(fault) => self.strike(fault),
            Event::Operate(act) => self.operate(act),
        }
    }

    /// Shows something to all invariants.
    pub fn observe(&mut self, observation: &Observation<'_>) {
        if self.violation.is_some() {
            return;
        }
        let mut invariants = std::mem::take(&mut self.invariants);
        for invariant in &mut invariants {
            if let Err(what) = invariant.see(self, observation) {
                self.violation =
                    Some(Violation { invariant: invariant.name(), at: self.now, what });
                break;
            }
        }
        self.invariants = invariants;
    }

    /// The VM's domains, by host.
    pub fn copies(&self, uuid: Uuid) -> Vec<(usize, Presence)> {
        let of = |(number, host): (usize, &SimHost)| {
            let machine = host.hypervisor.machine();
            Some((number, machine.domains.get(&uuid)?.presence))
        };
        self.hosts.iter().enumerate().filter_map(of).collect()
    }

    /// The newest control plane's committed state.
    pub fn truth(&self) -> Arc<ClusterState> {
        self.planes.last().map(|plane| plane.state.clone()).unwrap_or_default()
    }

    /// The last command of the newest control plane.
    pub fn last_command(&self) -> Option<&Command> {
        self.planes.last().and_then(|plane| plane.log.last())
    }

    /// What libvirt of a host lists.
    pub fn domains(&self, host: usize) -> Vec<DomainFacts> {
        use agent::hypervisor::Hypervisor;
        self.hosts[host].hypervisor.domains().unwrap_or_default()
    }
}
