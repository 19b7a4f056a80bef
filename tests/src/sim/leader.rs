//! The leader's shell in virtual time: the real look, its proposals, orders and fences.

use std::collections::{BTreeMap, BTreeSet};

use fence::{PowerState, is_proof};
use model::ClusterState;
use model::command::{Command, Operation};
use model::id::{NodeId, RequestId, ServiceName, SessionId, VmName};
use model::node::ProofOfDeath;
use model::order::{self, Order};
use model::plan::Reason;
use model::sabotage::{Rule, off};
use model::service::order::{self as script_order, ScriptWork};
use proto::convert::agent as convert;
use proto::v1;
use server::leader::lead::{self, Look};
use server::leader::{Carried, FailureDetector};
use uuid::Uuid;

use super::agent::Reply;
use super::control::Waiting;
use super::invariant::Observation;
use super::theme::Theme;
use super::world::{Event, World};

/// What a replica does as the leader of a term.
pub struct Leading {
    /// The term.
    pub term: u64,
    /// Since when, in virtual milliseconds.
    pub since: u64,
    /// The real thing.
    pub detector: FailureDetector,
    /// Proposals of the last look that are still on their way.
    pub proposals: usize,
    /// Sessions whose loss it has proposed.
    pub given_up: BTreeSet<(NodeId, SessionId)>,
    /// What it says of VMs that are not as they should be.
    pub reasons: BTreeMap<VmName, Reason>,
    /// Fences that are under way.
    pub(super) fencing: BTreeSet<(NodeId, SessionId)>,
    /// What it says of services.
    pub services: BTreeMap<ServiceName, Reason>,
    sent: BTreeMap<NodeId, (Vec<Order>, ScriptWork, u64)>,
    next_look: u64,
    proposed_at: u64,
}

impl Leading {
    /// A leader begins to listen; the last one is gone for so long.
    pub fn begin(
        term: u64,
        (now, elapsed): (u64, u64),
        carried: &Carried,
        leaderless_ms: u64,
    ) -> Self {
        let mut detector = FailureDetector::default();
        detector.begin(elapsed, carried, elapsed.saturating_sub(leaderless_ms));
        Self {
            term,
            since: now,
            detector,
            proposals: 0,
            given_up: BTreeSet::new(),
            reasons: BTreeMap::new(),
            services: BTreeMap::new(),
            fencing: BTreeSet::new(),
            sent: BTreeMap::new(),
            next_look: 0,
            proposed_at: 0,
        }
    }
}

const PERIOD_MS: u64 = 100;
/// Orders are sent again this often even when nothing changed.
const REPEAT_MS: u64 = 2_000;
/// Proposals that never come back do not stop a leader for ever.
const PROPOSAL_PATIENCE_MS: u64 = 10_000;

impl World {
    pub(super) fn lead(&mut self, number: usize, term: u64) {
        let (now, elapsed, wall) =
            (self.now, self.replicas[number].elapsed_ms(self.now), self.wall());
        let replica = &mut self.replicas[number];
        let up = replica.up;
        let Some(leading) = replica.leading.as_mut().filter(|it| up && it.term == term) else {
            return;
        };
        // A hint comes between two looks, and does not replace the next.
        if leading.next_look <= now {
            leading.next_look = now + PERIOD_MS;
            self.after(PERIOD_MS, Event::Lead { replica: number, term });
        }
        self.publish(number, term);
        let replica = &mut self.replicas[number];
        let Some(leading) = &mut replica.leading else { return };
        let waits = leading.proposals > 0 && now < leading.proposed_at + PROPOSAL_PATIENCE_MS;
        if !waits {
            let Look { plan, .. } =
                lead::look(&mut leading.detector, &replica.state, elapsed, wall);
            leading.reasons = plan.vms;
            leading.services = plan.services;
            leading.proposals = plan.operations.len();
            leading.proposed_at = now;
            for operation in &plan.operations {
                if let Operation::NodeLost { node, session, .. } = operation {
                    leading.given_up.insert((*node, *session));
                }
            }
            for operation in &plan.operations {
                if let Operation::NodeLost { node, .. } = operation {
                    self.observe(&Observation::GivenUp { replica: number, node: *node });
                }
            }
            if off(Rule::IntentBeforeEffect) {
                self.send_before_commit(number, term, &plan.operations);
            }
            for operation in plan.operations {
                let request = self.uuid();
                self.propose(number, term, (request, "leader".into(), operation), Waiting::Leader);
            }
        }
        self.fence_what_is_asked(number, term);
    }

    /// Orders as the applied state has them, to each agent in session whose orders changed or have not come for a while.
    fn publish(&mut self, number: usize, term: u64) {
        let now = self.now;
        let state = self.replicas[number].state.clone();
        let mut orders = order::outstanding(&state);
        let mut scripts = script_order::work(&state);
        for node in state.nodes.values() {
            let Some(session) = node.session() else { continue };
            let list = orders.remove(&node.id).unwrap_or_default();
            let work = scripts.remove(&node.id).unwrap_or_default();
            let Some(leading) = &mut self.replicas[number].leading else { return };
            let due = match leading.sent.get(&node.id) {
                None => true,
                Some((sent, told, at)) => {
                    // What is watched is said to a new agent too, and the stand-in for a stream may lose it.
                    let open = !list.is_empty() || work != ScriptWork::default();
                    *sent != list || *told != work || (open && now >= at + REPEAT_MS)
                }
            };
            if due {
                leading.sent.insert(node.id, (list.clone(), work.clone(), now));
                self.send_orders(number, term, &state, (node.id, session), (&list, &work));
            }
        }
    }

    fn send_orders(
        &mut self,
        number: usize,
        term: u64,
        state: &ClusterState,
        (node, session): (NodeId, SessionId),
        (orders, work): (&[Order], &ScriptWork),
    ) {
        let Some(name) = state.nodes.get(&node).map(|node| node.name.to_string()) else { return };
        let Some(host) = self.hosts.iter().position(|host| host.name == name) else { return };
        let list = v1::OrderList {
            term,
            epoch: state.epoch.0,
            cluster: state.cluster.map(|cluster| cluster.to_string()).unwrap_or_default(),
            orders: orders
                .iter()
                .filter(|order| order.session == session)
                .map(convert::order)
                .collect(),
            scripts: work
                .orders
                .iter()
                .filter(|order| order.session == session)
                .map(convert::script_order)
                .collect(),
            watched: work.watched.iter().map(convert::watched_script).collect(),
            ..v1::OrderList::default()
        };
        let incarnation = self.hosts[host].incarnation;
        self.reply(number, host, incarnation, Reply::Orders(Box::new(list)));
    }

    /// What a leader would send that does not wait for its decisions to be committed.
    fn send_before_commit(&mut self, number: usize, term: u64, operations: &[Operation]) {
        let mut state = self.replicas[number].state.clone();
        for (more, operation) in (1..).zip(operations) {
            let command = Command {
                request: RequestId(Uuid::from_u128(self.rng.u128(..))),
                at: self.wall(),
                by: "leader".into(),
                operation: operation.clone(),
            };
            let index = self.replicas[number].applied as u64 + more;
            let _ = state.apply(index, &command);
        }
        let mut scripts = script_order::work(&state);
        for (node, list) in order::outstanding(&state) {
            let work = scripts.remove(&node).unwrap_or_default();
            if let Some(session) = state.nodes.get(&node).and_then(|node| node.session()) {
                self.send_orders(number, term, &state, (node, session), (&list, &work));
            }
        }
    }

    // ---- fences --------------------------------------------------------------------------------------------------

    fn fence_what_is_asked(&mut self, number: usize, term: u64) {
        let replica = &self.replicas[number];
        let asked: Vec<(NodeId, SessionId, String)> = replica
            .state
            .nodes
            .values()
            .filter(|node| node.fence_under_way)
            .map(|node| (node.id, node.last_session, node.name.to_string()))
            .collect();
        let still: BTreeSet<_> = asked.iter().map(|(node, session, _)| (*node, *session)).collect();
        if let Some(leading) = &mut self.replicas[number].leading {
            leading.fencing.retain(|key| still.contains(key));
        }
        for (node, session, name) in asked {
            let Some(leading) = &mut self.replicas[number].leading else { return };
            if !leading.fencing.insert((node, session)) {
                continue;
            }
            let Some(host) = self.hosts.iter().position(|host| host.name == name) else { continue };
            let stage = FenceStage {
                replica: number,
                term,
                node,
                session,
                host,
                done: false,
                asked: false,
                status: None,
            };
            let delay = self.between(self.pace.fence);
            self.after(delay, Event::Fence(Box::new(stage)));
        }
    }

    pub(super) fn fence_step(&mut self, mut stage: FenceStage) {
        if !self.replicas[stage.replica].up {
            // The fence agent ended with its replica.
            return;
        }
        let now = self.now;
        let device = self.hosts[stage.host].fence;
        let answers = device.is_some_and(|device| now >= device.dark_until);
        if !stage.asked {
            stage.asked = true;
            stage.done = answers;
            if answers && !device.is_some_and(|device| device.broken) {
                // A fence agent of a deposed leader, which nobody waits for any more, is that leader's host's to end.
                let plane = self.replicas[stage.replica].plane;
                if self.planes[plane].term == stage.term {
                    let (host, session) = (stage.host, stage.session);
                    self.observe(&Observation::FenceBites { host, session });
                }
                self.power_off(stage.host, "fenced");
            }
            // Now and then a fence agent takes its time.
            let delay = if self.rng.u64(0..20) == 0 && !self.calm {
                self.rng.u64(1_000..20_000)
            } else {
                self.between(self.pace.fence)
            };
            return self.after(delay, Event::Fence(Box::new(stage)));
        }
        let Some(status) = stage.status else {
            stage.status = Some(answers.then(|| match self.hosts[stage.host].on {
                true => PowerState::On,
                false => PowerState::Off,
            }));
            // And now and then its answer does.
            let late = self.options.theme == Theme::Fences && self.one_in(4) && !self.calm;
            let delay = if late { self.rng.u64(1_000..20_000) } else { 0 };
            return self.after(delay, Event::Fence(Box::new(stage)));
        };
        let (node, session) = (stage.node, stage.session);
        let operation = match is_proof(stage.done, status) {
            true => Operation::NodeDead {
                node,
                session,
                proof: ProofOfDeath::Fenced { device: "fence_sim".into() },
            },
            false => Operation::FenceFailed {
                node,
                session,
                error: "the device does not say off".into(),
            },
        };
        let request = self.uuid();
        let by = "leader".to_owned();
        self.propose(
            stage.replica,
            stage.term,
            (request, by, operation),
            Waiting::Fence(node, session),
        );
    }
}

/// How far a fence is.
#[derive(Debug, Clone)]
pub struct FenceStage {
    /// The leader that runs it.
    pub replica: usize,
    /// Its term.
    pub term: u64,
    /// Of which node.
    pub node: NodeId,
    /// Of which session a death is sought.
    pub session: SessionId,
    /// The host.
    pub host: usize,
    /// "Off" was said to be done.
    pub done: bool,
    /// "Off" was asked.
    pub asked: bool,
    /// What the device said when it was asked afterwards.
    pub status: Option<Option<PowerState>>,
}
