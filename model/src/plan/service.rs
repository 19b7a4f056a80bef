//! What one service needs now.
//!
//! ```text
//!  state            what is done                                            until
//!  stopped ......... a node is chosen (place.rs)                            starting
//!  starting, started what is to be down is stopped, in reverse order;       started: all that is wanted is up
//!   and migrating    what is to be up is started, in order (converge.rs)
//!  stopping ........ all are stopped, in reverse order (stop.rs)            down: stopped, disabled, recovering
//!  recovering ...... as its policy says (recover.rs)                        starting, disabled
//! ```

mod alone;
mod converge;
mod depend;
mod failback;
mod host;
mod place;
mod recover;
mod stop;

use crate::cluster::ClusterState;
use crate::command::{Operation, ServiceAsk, ServiceDecision};
use crate::id::NodeId;
use crate::liveness::Liveness;
use crate::plan::exclusive;
use crate::plan::flow::Flow;
use crate::plan::load::Load;
use crate::plan::{Plan, Reason};
use crate::service::{
    MemberView, ScriptIntent, ServiceRecord, ServiceState, ServiceVerb, VmStanding,
};
use crate::time::Timestamp;
use crate::vm::Desired;

pub(super) use alone::elsewhere;

struct Planner<'p> {
    state: &'p ClusterState,
    liveness: &'p Liveness,
    now: Timestamp,
    load: &'p mut Load,
    flow: &'p mut Flow,
    record: &'p ServiceRecord,
    plan: &'p mut Plan,
}

pub(super) fn plan_service(
    state: &ClusterState,
    liveness: &Liveness,
    now: Timestamp,
    (load, flow): (&mut Load, &mut Flow),
    record: &ServiceRecord,
    plan: &mut Plan,
) {
    let mut planner = Planner { state, liveness, now, load, flow, record, plan };
    let reason = planner.reason();
    planner.plan.services.insert(record.spec.name.clone(), reason);
}

impl Planner<'_> {
    fn decide(&mut self, decision: ServiceDecision, what: impl Into<String>) -> Reason {
        if let ServiceDecision::Begin { .. } = &decision
            && let Some(reason) = self.held_up()
        {
            return reason;
        }
        if let ServiceDecision::Begin { node, .. } = &decision {
            let number = exclusive::number_of(self.state, self.record);
            self.load.tenants.add_service(*node, &self.record.spec.name, number);
        }
        if matches!(decision, ServiceDecision::Begin { .. } | ServiceDecision::StartMember { .. })
            && self.record.state != ServiceState::Started
        {
            self.flow.starts(self.record.into());
        }
        self.plan.operations.push(Operation::DecideService {
            service: self.record.spec.name.clone(),
            changed: self.record.changed,
            decision,
        });
        Reason::Deciding(what.into())
    }

    fn reason(&mut self) -> Reason {
        let record = self.record;
        if let Some(freeze) = record.frozen.as_ref().filter(|_| record.is_frozen(self.now)) {
            if let Some(until) = freeze.until {
                self.plan.wake(until);
            }
            return Reason::ServiceFrozen { by: freeze.by.clone(), why: freeze.why.clone() };
        }
        if record.frozen.is_some() {
            let (service, ask) = (record.spec.name.clone(), ServiceAsk::Unfreeze);
            self.plan.operations.push(Operation::AskService { service, ask });
            return Reason::Deciding("its freeze is over".into());
        }
        if let Some(pause) = &self.state.pause {
            return Reason::Paused { by: pause.by.clone(), why: pause.why.clone() };
        }
        let wanted = record.desired == Desired::Enabled;
        match record.state {
            ServiceState::Disabled | ServiceState::Stopped if !wanted => self.down(),
            ServiceState::Disabled => Reason::AsWanted,
            ServiceState::Stopped => self.begin(),
            ServiceState::Recovering if !wanted => self.decide(ServiceDecision::Down, "it is down"),
            ServiceState::Recovering => self.recover(),
            ServiceState::Starting | ServiceState::Started | ServiceState::Migrating => {
                let Some(owner) = record.owner else {
                    return self.decide(ServiceDecision::Stop, "it is on no node");
                };
                if !self.has_session(owner) {
                    return self.owner_silent(owner);
                }
                if let Some(reason) = self.order_out() {
                    return reason;
                }
                match wanted {
                    true if self.goes_down(owner) => {
                        self.decide(ServiceDecision::Stop, "it stops with its host")
                    }
                    true => self.converge(owner),
                    false => self.decide(ServiceDecision::Stop, "it stops"),
                }
            }
            ServiceState::Stopping => self.stop_all(),
            ServiceState::Failed => self.failed(),
        }
    }

    /// It is not wanted and has no owner.
    fn down(&mut self) -> Reason {
        let record = self.record;
        let settled = match record.desired {
            Desired::Disabled => record.state == ServiceState::Disabled,
            Desired::Enabled | Desired::Stopped | Desired::Ignored => {
                record.state == ServiceState::Stopped
            }
        };
        if !settled || record.open_operation().is_some() {
            return self.decide(ServiceDecision::Down, "it is down");
        }
        let nodes: Vec<_> = record.seen.keys().map(|node| self.state.node_name(*node)).collect();
        match nodes.is_empty() {
            true => Reason::AsWanted,
            false => Reason::RunsUnasked { nodes },
        }
    }

    /// A stop failed. An operator's `disable` tries again, and an agent that finds nothing left settles it.
    fn failed(&mut self) -> Reason {
        let disable =
            self.record.open_operation().is_some_and(|it| it.verb == ServiceVerb::Disable);
        if disable {
            return self.decide(ServiceDecision::Stop, "it is stopped once more");
        }
        let held = self.record.held_by_owner().is_some();
        if !held && self.standings().iter().all(|it| it.standing == VmStanding::Down) {
            return self.decide(ServiceDecision::Down, "all of it is proven down");
        }
        let why = self.record.failure.as_ref().map(|it| it.why.clone()).unwrap_or_default();
        Reason::StopFailed { why }
    }

    fn standings(&self) -> Vec<MemberView<'_>> {
        self.record.standings(self.state)
    }

    fn has_session(&self, node: NodeId) -> bool {
        self.state.nodes.get(&node).is_some_and(|node| node.session().is_some())
    }

    fn owner_silent(&self, node: NodeId) -> Reason {
        let record = self.state.nodes.get(&node);
        let doing = record
            .and_then(|it| it.unbound_by_lease())
            .or_else(|| self.plan.nodes.get(&node).map(ToString::to_string));
        let doing = doing.unwrap_or_else(|| "it left the cluster".into());
        Reason::OwnerSilent { node: self.state.node_name(node), doing }
    }

    fn order_out(&self) -> Option<Reason> {
        let order = self.record.order.as_ref()?;
        let what = match order.intent {
            ScriptIntent::Start => format!("start {}", order.member),
            ScriptIntent::Stop => format!("stop {}", order.member),
        };
        Some(Reason::OrderOut {
            what,
            node: self.state.node_name(order.node),
            online: self.has_session(order.node),
        })
    }
}
