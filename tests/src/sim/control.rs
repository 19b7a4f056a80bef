//! The stand-in for Raft: a total order of commands for each control plane, leaders with terms, and quorums.
//!
//! A proposal is committed when its proposer still leads in the newest term and reaches a majority at that moment. A
//! deposed leader goes on believing that it leads until it hears otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::ClusterState;
use model::cluster::{Detail, Outcome};
use model::command::{Command, Decision, Operation};
use model::id::{NodeId, NodeName, RequestId, SessionId};
use model::order;
use model::sabotage::{Rule, off};
use model::vm::Presence;
use proto::v1;
use server::clock::ElapsedClock;
use server::leader::{Carried, lead};
use uuid::Uuid;

use super::agent::{Reply, Request};
use super::invariant::Observation;
use super::leader::Leading;
use super::network::Place;
use super::world::{Event, World};

/// One control plane: its log and who leads it.
#[derive(Default)]
pub struct Plane {
    /// All committed commands.
    pub log: Vec<Command>,
    /// The state after the last of them.
    pub state: Arc<ClusterState>,
    /// The newest term.
    pub term: u64,
    /// Who was elected in it.
    pub leader: Option<usize>,
    /// Since when it has had no leader that reaches a majority.
    leaderless_since: Option<u64>,
    election_ms: u64,
    /// Who is elected first, if it can be: it led before.
    pub leads_first: Option<usize>,
    /// Its replicas.
    pub members: Vec<usize>,
    /// How each host's domains were when they were last traced.
    pub traced: Vec<BTreeMap<String, Presence>>,
}

impl Plane {
    /// One that has not begun.
    pub fn new(members: Vec<usize>, traced: Vec<BTreeMap<String, Presence>>) -> Self {
        Self { members, traced, ..Self::default() }
    }
}

/// One replica.
pub struct Replica {
    /// Its control plane.
    pub plane: usize,
    /// The host it lives on, or a machine of its own.
    pub home: Option<usize>,
    /// It runs.
    pub up: bool,
    /// It stands still until then.
    pub stalled_until: u64,
    /// Since when, if it does; or how long it did the last time.
    pub stalled_since: u64,
    /// How much of the log it has applied.
    pub applied: usize,
    /// The state then.
    pub state: ClusterState,
    /// What it does as the leader, as far as it knows.
    pub leading: Option<Leading>,
    /// The heartbeats it passed on.
    pub carried: Carried,
    /// How much faster than true time its two clocks run, in parts per million.
    pub drift_ppm: (i64, i64),
    clock: ElapsedClock,
    elapsed_ms: u64,
    /// It has met a higher epoch and has stopped for good.
    pub superseded: bool,
    /// Its storage fails: it stops rather than serve.
    pub storage_fails: bool,
}

impl Replica {
    /// One that has not begun.
    pub fn new(plane: usize, home: Option<usize>) -> Self {
        Self {
            plane,
            home,
            up: false,
            stalled_until: 0,
            stalled_since: 0,
            applied: 0,
            state: ClusterState::default(),
            leading: None,
            carried: Carried::new(),
            drift_ppm: (0, 0),
            clock: ElapsedClock::begin((0, 0)),
            elapsed_ms: 0,
            superseded: false,
            storage_fails: false,
        }
    }

    /// Its own elapsed time, by the clocks it has.
    pub fn elapsed_ms(&mut self, now: u64) -> u64 {
        let microseconds = |ppm: i64| (now as i64 * 1_000 + now as i64 * ppm / 1_000) as u64;
        self.elapsed_ms =
            self.clock.step((microseconds(self.drift_ppm.0), microseconds(self.drift_ppm.1)));
        self.elapsed_ms
    }

    /// The same, when it was asked last.
    pub fn last_elapsed_ms(&self) -> u64 {
        self.elapsed_ms
    }
}

/// A command on its way into the log.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// Who proposes.
    pub replica: usize,
    /// In which term.
    pub term: u64,
    /// What.
    pub command: Command,
    /// Who waits for it.
    pub waiting: Waiting,
    /// How often no quorum was reached.
    pub tries: u32,
}

/// Who waits for a command.
#[derive(Debug, Clone)]
pub enum Waiting {
    /// The leader itself.
    Leader,
    /// An agent's registration, by host and incarnation.
    Registration(usize, u64),
    /// An agent's report.
    Report(usize, u64, SessionId),
    /// An agent that is about to end, by host and incarnation.
    Leave(usize, u64),
    /// An agent whose host shuts down, by host, incarnation and node.
    Shutdown(usize, u64, NodeId),
    /// An operator.
    Operator,
    /// The fence of a session, whose end it is.
    Fence(NodeId, SessionId),
}

const ELECT_PERIOD_MS: u64 = 50;
const LONGEST_ELECTION_MS: u64 = 600;

impl World {
    /// A replica's process begins; its log and its state are as they were.
    pub fn start_replica(&mut self, number: usize) {
        let replica = &mut self.replicas[number];
        if replica.up || replica.superseded || replica.storage_fails {
            return;
        }
        replica.up = true;
        replica.leading = None;
        replica.carried = Carried::new();
        self.after(10, Event::Apply(number));
    }

    /// A replica's process is told to end: one that leads hands over first.
    pub fn end_replica(&mut self, number: usize) {
        let (plane, now) = (self.replicas[number].plane, self.now);
        let led = self.planes[plane].leader == Some(number);
        self.stop_replica(number);
        if led {
            // Whoever it handed over to asks for votes at once.
            let asked = now.saturating_sub(LONGEST_ELECTION_MS);
            self.planes[plane].leaderless_since.get_or_insert(asked);
        }
    }

    /// A replica's process ends.
    pub fn stop_replica(&mut self, number: usize) {
        let replica = &mut self.replicas[number];
        replica.up = false;
        replica.leading = None;
    }

    fn works(&self, number: usize) -> bool {
        let replica = &self.replicas[number];
        let home = replica
            .home
            .is_none_or(|host| self.hosts[host].on && !self.hosts[host].stands_still(self.now));
        replica.up && replica.stalled_until <= self.now && home
    }

    /// Whether the replica reaches a majority of its plane's, itself counted whether it stands still or not: what it
    /// has sent before it did is answered by the others.
    fn reaches_majority(&self, number: usize) -> bool {
        let plane = &self.planes[self.replicas[number].plane];
        let reached = plane.members.iter().filter(|other| {
            **other == number
                || (self.works(**other)
                    && self.network.connected(Place::Replica(number), Place::Replica(**other)))
        });
        reached.count() * 2 > plane.members.len()
    }

    /// Whether the plane has a leader that works and reaches a majority.
    pub fn has_leader(&self, plane: usize) -> bool {
        let leader = self.planes[plane].leader;
        leader.is_some_and(|leader| {
            self.works(leader)
                && self.replicas[leader].leading.is_some()
                && self.reaches_majority(leader)
        })
    }

    /// Whether some replica that works reaches a majority.
    pub fn could_elect(&self, plane: usize) -> bool {
        self.planes[plane].members.iter().any(|it| self.works(*it) && self.reaches_majority(*it))
    }

    pub(super) fn elect(&mut self, plane: usize) {
        self.after(ELECT_PERIOD_MS, Event::Elect(plane));
        if self.has_leader(plane) {
            self.planes[plane].leaderless_since = None;
            return;
        }
        let now = self.now;
        let timeout = self.rng.u64(300..=600);
        let since = self.planes[plane].leaderless_since.get_or_insert(now);
        if *since == now {
            self.planes[plane].election_ms = timeout;
            return;
        }
        if now - *since < self.planes[plane].election_ms {
            return;
        }
        let able: Vec<usize> = self.planes[plane]
            .members
            .iter()
            .copied()
            .filter(|it| self.works(*it) && self.reaches_majority(*it))
            .collect();
        if able.is_empty() {
            return;
        }
        let by_chance = able[self.rng.usize(0..able.len())];
        let before = self.planes[plane].leads_first.take().filter(|it| able.contains(it));
        let elected = before.unwrap_or(by_chance);
        self.catch_up(elected);
        let replicas = &mut self.replicas;
        let plane_record = &mut self.planes[plane];
        let old = plane_record.leader.filter(|old| *old != elected);
        plane_record.term += 1;
        plane_record.leader = Some(elected);
        let leaderless_ms = plane_record.leaderless_since.take().map_or(0, |since| now - since);
        let term = plane_record.term;
        let (elapsed, carried) =
            (replicas[elected].elapsed_ms(now), replicas[elected].carried.clone());
        replicas[elected].leading =
            Some(Leading::begin(term, (now, elapsed), &carried, leaderless_ms));
        let name = self.replica_name(elected);
        self.trace.note(now, "leader", &[&name]);
        self.after(1, Event::Lead { replica: elected, term });
        if let Some(old) = old {
            let old_term = self.replicas[old].leading.as_ref().map_or(0, |it| it.term);
            let delay = self.rng.u64(1..100);
            self.after(delay, Event::StepDown { replica: old, term: old_term });
        }
    }

    /// As the trace names it.
    pub fn replica_name(&self, number: usize) -> String {
        match self.replicas[number].home {
            Some(host) => self.hosts[host].name.clone(),
            None => format!("replica{}", number + 1),
        }
    }

    pub(super) fn step_down(&mut self, number: usize, term: u64) {
        let plane = self.replicas[number].plane;
        let leads = self.replicas[number].leading.as_ref().is_some_and(|it| it.term == term);
        if !leads || self.planes[plane].term == term {
            return;
        }
        let newest = self.planes[plane].leader;
        let heard = newest.is_some_and(|leader| {
            self.network.connected(Place::Replica(leader), Place::Replica(number))
        });
        if heard {
            self.replicas[number].leading = None;
            self.catch_up(number);
        } else {
            self.after(100, Event::StepDown { replica: number, term });
        }
    }

    /// A replica applies what is committed and it has not applied yet.
    pub(super) fn catch_up(&mut self, number: usize) {
        let plane = &self.planes[self.replicas[number].plane];
        let replica = &mut self.replicas[number];
        while let Some(command) = plane.log.get(replica.applied) {
            replica.applied += 1;
            // Every replica comes to the same by itself; that it does is looked at in the end.
            let _ = replica.state.apply(replica.applied as u64, command);
        }
    }

    // ---- proposals -----------------------------------------------------------------------------------------------

    /// A replica that takes itself for the leader proposes.
    pub fn propose(
        &mut self,
        replica: usize,
        term: u64,
        (request, by, operation): (Uuid, String, Operation),
        waiting: Waiting,
    ) {
        let at = self.wall();
        let command = Command { request: RequestId(request), at, by, operation };
        let delay = self.between(self.network.delay) + 1;
        let proposal = Proposal { replica, term, command, waiting, tries: 0 };
        self.after(delay, Event::Commit(Box::new(proposal)));
    }

    pub(super) fn try_to_commit(&mut self, mut proposal: Box<Proposal>) {
        let number = proposal.replica;
        let plane = self.replicas[number].plane;
        let in_office = self.planes[plane].term == proposal.term;
        if !in_office && off(Rule::TermFence) {
            // As if whoever leads now took it for its own.
            if let Some(leader) = self.planes[plane].leader.filter(|it| self.works(*it)) {
                proposal.replica = leader;
                return self.commit(*proposal);
            }
        }
        if !self.replicas[number].up || !in_office {
            return self.proposal_ended(number, &proposal.waiting);
        }
        if !self.reaches_majority(number) || !self.works(number) {
            proposal.tries += 1;
            if proposal.tries > 500 {
                return self.proposal_ended(number, &proposal.waiting);
            }
            return self.after(20, Event::Commit(proposal));
        }
        self.commit(*proposal);
    }

    fn proposal_ended(&mut self, number: usize, waiting: &Waiting) {
        let Some(leading) = &mut self.replicas[number].leading else { return };
        match waiting {
            Waiting::Leader => leading.proposals = leading.proposals.saturating_sub(1),
            // Committed or not: what is still asked for is begun again.
            Waiting::Fence(node, session) => {
                leading.fencing.remove(&(*node, *session));
            }
            _ => {}
        }
    }

    fn commit(&mut self, proposal: Proposal) {
        let number = proposal.replica;
        let plane = self.replicas[number].plane;
        self.catch_up(number);
        let before = self.planes[plane].state.clone();
        self.planes[plane].log.push(proposal.command.clone());
        let index = self.planes[plane].log.len();
        let mut state = (*before).clone();
        let outcome = state.apply(index as u64, &proposal.command);
        self.planes[plane].state = Arc::new(state);
        self.catch_up(number);
        for member in self.planes[plane].members.clone() {
            if member != number {
                let delay = self.rng.u64(1..40);
                self.after(delay, Event::Apply(member));
            }
        }
        let after = self.planes[plane].state.clone();
        let act = match &proposal.command.operation {
            Operation::ForgetVm(_) => Some("vm-forgotten"),
            Operation::AddVm(_) => Some("vm-added"),
            Operation::RemoveNode(_) => Some("node-removed"),
            Operation::ConfirmOff { .. } => Some("confirmed-off"),
            Operation::Register(_) if before.nodes.len() < after.nodes.len() => Some("node-added"),
            Operation::Decide { decision: Decision::Migrate { .. }, .. } => Some("migration"),
            _ => None,
        };
        if let (Some(act), Ok(_)) = (act, &outcome) {
            *self.struck.entry(act).or_default() += 1;
        }
        self.trace.detail(self.now, "commit", || {
            format!("{:?}: {outcome:?}", proposal.command.operation)
        });
        if plane + 1 == self.planes.len() {
            self.trace_commit(&proposal.command, &outcome, &before, &after);
            self.observe(&Observation::Committed {
                command: &proposal.command,
                outcome: &outcome,
                before: &before,
                after: &after,
                in_office: self.planes[plane].term == proposal.term,
            });
        }
        self.proposal_ended(number, &proposal.waiting);
        self.acknowledge(number, &proposal, &outcome);
        let leads = self.replicas[number].leading.as_ref();
        if let Some(term) = leads.map(|leading| leading.term) {
            self.after(1, Event::Lead { replica: number, term });
        }
    }

    fn acknowledge(&mut self, number: usize, proposal: &Proposal, outcome: &Outcome) {
        let request = proposal.command.request.0;
        match proposal.waiting {
            Waiting::Leader | Waiting::Fence(..) => {}
            Waiting::Operator => {
                let answer = match outcome {
                    Ok(accepted) => Ok(accepted.revision),
                    Err(rejection) => Err(rejection.to_string()),
                };
                self.answers.insert(request, answer);
            }
            Waiting::Registration(host, incarnation) => {
                let reply = match outcome {
                    Ok(accepted) => match accepted.detail {
                        Detail::Registered { node, session } => {
                            let reply = self.register_reply(number, node, session);
                            Reply::Registered(request, Box::new(reply))
                        }
                        Detail::None => return,
                    },
                    Err(_) => Reply::Refused(request),
                };
                self.reply(number, host, incarnation, reply);
            }
            Waiting::Shutdown(host, incarnation, node) => {
                if outcome.is_ok() {
                    self.shutdown_reply(number, host, incarnation, node);
                }
            }
            Waiting::Leave(host, incarnation) => {
                if outcome.is_ok() {
                    self.reply(number, host, incarnation, Reply::Left);
                }
            }
            Waiting::Report(host, incarnation, session) => {
                let reply = match outcome {
                    Ok(_) => Reply::Reported(request),
                    Err(_) => Reply::SessionOver(session.0),
                };
                self.reply(number, host, incarnation, reply);
            }
        }
    }

    fn shutdown_reply(&mut self, number: usize, host: usize, incarnation: u64, node: NodeId) {
        let state = &self.replicas[number].state;
        let empty = !state.may_run_anything(node);
        self.reply(number, host, incarnation, Reply::ShutdownNoted(empty));
    }

    fn register_reply(&self, number: usize, node: NodeId, session: SessionId) -> v1::RegisterReply {
        let state = &self.replicas[number].state;
        let lease = state.nodes.get(&node).map(|node| node.lease);
        let floors = order::floors(state, node);
        v1::RegisterReply {
            node_id: node.0,
            session: session.0,
            epoch: state.epoch.0,
            cluster: state.cluster.map(|cluster| cluster.to_string()).unwrap_or_default(),
            heartbeat_ms: state.settings.heartbeat_ms,
            answer_timeout_ms: state.settings.answer_timeout_ms,
            lease_ttl_ms: lease.map_or(0, |lease| lease.ttl_ms),
            self_fence_ms: lease.map_or(0, |lease| lease.self_fence_ms),
            isolation_hold_ms: state.settings.isolation_hold_ms,
            floor: floors.below,
            vms: floors.vms.iter().map(Uuid::to_string).collect(),
            services: floors.services.iter().map(Uuid::to_string).collect(),
        }
    }

    pub(super) fn reply(&mut self, replica: usize, host: usize, incarnation: u64, reply: Reply) {
        let event = Event::ToAgent { host, incarnation, reply };
        self.send(Place::Replica(replica), Place::Host(host), event);
    }

    // ---- requests ------------------------------------------------------------------------------------------------

    /// A request at a replica's door: served by the leader, passed on by any other.
    pub(super) fn serve(
        &mut self,
        number: usize,
        host: Option<usize>,
        request: Request,
        forwarded: bool,
    ) {
        if !self.replicas[number].up {
            return;
        }
        if let Request::Register { epoch, .. } | Request::Heartbeat { epoch, .. } = &request
            && lead::is_superseded(self.replicas[number].state.epoch, *epoch)
        {
            // A restored control plane has taken this one's place.
            self.replicas[number].superseded = true;
            return self.stop_replica(number);
        }
        if let Request::Register { epoch, .. } | Request::Heartbeat { epoch, .. } = &request {
            self.observe(&Observation::Met { replica: number, epoch: *epoch });
        }
        if self.replicas[number].leading.is_none() {
            if let Request::Heartbeat { node, session, .. } = &request {
                let elapsed = self.replicas[number].elapsed_ms(self.now);
                self.replicas[number].carried.insert(*node, (*session, elapsed));
            }
            let plane = self.replicas[number].plane;
            let leader = self.planes[plane].leader.filter(|leader| *leader != number);
            if let (Some(leader), false) = (leader, forwarded) {
                let event = Event::ToReplica { replica: leader, host, request, forwarded: true };
                self.send(Place::Replica(number), Place::Replica(leader), event);
            }
            return;
        }
        let term = self.replicas[number].leading.as_ref().map_or(0, |leading| leading.term);
        match (request, host) {
            (Request::Announce { request, incarnation }, Some(host)) => {
                let plane = self.replicas[number].plane;
                if self.planes[plane].term == term && self.reaches_majority(number) {
                    let state = &self.planes[plane].state;
                    let name = &self.hosts[host].name;
                    let node = state.nodes.values().find(|node| node.name.as_str() == name);
                    let last = node.map(|node| node.last_session);
                    if let Some(id) = node.map(|node| node.id) {
                        self.contacted(number, id);
                    }
                    self.reply(number, host, incarnation, Reply::Announced(request, last));
                }
            }
            (Request::Register { request, incarnation, registration, .. }, Some(host)) => {
                let by = registration.name.to_string();
                let operation = Operation::Register(registration);
                let waiting = Waiting::Registration(host, incarnation);
                self.propose(number, term, (request, by, operation), waiting);
            }
            (Request::Report { request, incarnation, node, session, reports }, Some(host)) => {
                let by = self.replicas[number].state.node_name(node);
                let operation = Operation::Report { node, session, reports };
                let waiting = Waiting::Report(host, incarnation, session);
                self.propose(number, term, (request, by, operation), waiting);
            }
            (Request::Leave { request, incarnation, node, session }, Some(host)) => {
                let by = self.replicas[number].state.node_name(node);
                let waiting = Waiting::Leave(host, incarnation);
                self.propose(
                    number,
                    term,
                    (request, by, Operation::Away { node, session }),
                    waiting,
                );
            }
            (
                Request::AnnounceShutdown { request, incarnation, node, session, then },
                Some(host),
            ) => {
                let state = &self.replicas[number].state;
                let known = state.nodes.get(&node).is_some_and(|it| {
                    it.session() == Some(session) && it.shutdown.is_some_and(|it| it.then == then)
                });
                if known && self.reaches_majority(number) {
                    return self.shutdown_reply(number, host, incarnation, node);
                }
                let by = state.node_name(node);
                let operation = Operation::ShutdownAnnounced { node, session, then };
                let waiting = Waiting::Shutdown(host, incarnation, node);
                self.propose(number, term, (request, by, operation), waiting);
            }
            (Request::Heartbeat { node, session, number: beat, loads, .. }, Some(host)) => {
                let elapsed = self.replicas[number].elapsed_ms(self.now);
                if let Some(leading) = &mut self.replicas[number].leading {
                    leading.detector.measured(node, loads, elapsed);
                }
                self.take_heartbeat(number, term, host, (node, session, beat));
            }
            (Request::Submit { request, operation }, _) => {
                if let Operation::ConfirmOff { node, .. } = &*operation {
                    if !self.reaches_majority(number) {
                        // The quorum round before the look is not over; the operator asks again.
                        return;
                    }
                    if let Some(silent_ms) = self.silent_ms(number, node) {
                        if lead::is_heard(silent_ms, &self.replicas[number].state.settings) {
                            let why = format!("{node} was heard {silent_ms} ms ago");
                            self.answers.insert(request, Err(why));
                            return;
                        }
                        self.observe(&Observation::SaidOff { request, silent_ms });
                    }
                }
                let waiting = Waiting::Operator;
                self.propose(number, term, (request, "operator".into(), *operation), waiting);
            }
            (_, None) => {}
        }
    }

    /// A leader has heard of a node, whatever it was.
    fn contacted(&mut self, number: usize, node: NodeId) {
        let elapsed = self.replicas[number].elapsed_ms(self.now);
        if let Some(leading) = &mut self.replicas[number].leading {
            leading.detector.contacted(node, elapsed);
        }
    }

    /// Milliseconds since the leader, or a replica that it reaches, has heard of the node.
    fn silent_ms(&mut self, number: usize, name: &NodeName) -> Option<u64> {
        let node = self.replicas[number].state.node_named(name)?.id;
        let mut all = Vec::new();
        for other in self.planes[self.replicas[number].plane].members.clone() {
            let asked = other == number
                || (self.works(other)
                    && self.network.connected(Place::Replica(number), Place::Replica(other)));
            let now = self.replicas[other].elapsed_ms(self.now);
            let replica = &self.replicas[other];
            if !asked {
                continue;
            }
            all.extend(replica.carried.get(&node).map(|(_, heard)| now.saturating_sub(*heard)));
            let leading = replica.leading.as_ref();
            all.extend(leading.and_then(|it| it.detector.last_contact_ms(node, now)));
        }
        all.into_iter().min()
    }

    fn session_over(&mut self, number: usize, host: usize, session: SessionId) {
        let incarnation = self.hosts[host].incarnation;
        self.reply(number, host, incarnation, Reply::SessionOver(session.0));
    }

    fn take_heartbeat(
        &mut self,
        number: usize,
        term: u64,
        host: usize,
        (node, session, beat): (NodeId, SessionId, u64),
    ) {
        self.contacted(number, node);
        let elapsed = self.replicas[number].elapsed_ms(self.now);
        let replica = &mut self.replicas[number];
        let Some(leading) = &mut replica.leading else { return };
        let present = lead::in_session(&replica.state, node, session);
        if !present || leading.detector.heard(node, session, elapsed).is_err() {
            return self.session_over(number, host, session);
        }
        let delay = self.between(self.network.delay) + 1;
        let event = if off(Rule::QuorumBeforeAnswer) {
            Event::Answer { replica: number, term, host, node, session, number: beat }
        } else {
            Event::Barrier { replica: number, term, host, node, session, number: beat }
        };
        self.after(delay, event);
    }

    /// The quorum round that began after the heartbeat arrived: the others answer it whether this replica still moves or
    /// not.
    pub(super) fn barrier(
        &mut self,
        number: usize,
        term: u64,
        host: usize,
        (node, session, beat): (NodeId, SessionId, u64),
    ) {
        let plane = self.replicas[number].plane;
        if self.planes[plane].term == term && self.reaches_majority(number) {
            let event = Event::Answer { replica: number, term, host, node, session, number: beat };
            self.after(0, event);
        }
    }

    pub(super) fn answer(
        &mut self,
        number: usize,
        term: u64,
        host: usize,
        (node, session, beat): (NodeId, SessionId, u64),
    ) {
        let elapsed = self.replicas[number].elapsed_ms(self.now);
        let replica = &mut self.replicas[number];
        let up = replica.up;
        let Some(leading) = replica.leading.as_mut().filter(|it| up && it.term == term) else {
            return;
        };
        if !lead::in_session(&replica.state, node, session) {
            return self.session_over(number, host, session);
        }
        if leading.detector.answered(node, session, elapsed).is_err() {
            return self.session_over(number, host, session);
        }
        let given_up = leading.given_up.contains(&(node, session));
        self.observe(&Observation::Answered { node, session, given_up });
        let incarnation = self.hosts[host].incarnation;
        self.reply(number, host, incarnation, Reply::Heartbeat(session.0, beat));
    }
}
