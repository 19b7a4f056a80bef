//! Which node: where all its VMs fit and its scripts may run, by failover domain and then by free memory.

use std::collections::BTreeSet;

use super::Planner;
use crate::command::ServiceDecision;
use crate::failover_domain::Rank;
use crate::id::NodeId;
use crate::node::{NodeRecord, NodeState};
use crate::plan::Reason;
use crate::plan::exclusive;
use crate::plan::placement::{self, NoPlace};
use crate::sabotage::{Rule, off};
use crate::service::ServiceVerb;
use crate::vm::{OperationPhase, VmRecord};

/// One node, weighed for the whole service.
pub(super) struct Choice {
    pub(super) node: NodeId,
    pub(super) name: String,
    rank: Option<Rank>,
    free_memory_mib: i64,
    pub(super) refused: Option<String>,
}

impl Planner<'_> {
    /// It is to run and has no node.
    pub(super) fn begin(&mut self) -> Reason {
        if let Some(lock) = &self.state.lock {
            return Reason::Locked { by: lock.by.clone(), why: lock.why.clone() };
        }
        let quiet_until = self.state.quiet_until;
        if quiet_until > self.now && !off(Rule::RestoredIsUnknown) {
            self.plan.wake(quiet_until);
            return Reason::WaitingUntil {
                wait_ms: quiet_until.since(self.now),
                why: "the control plane was restored, and nodes that the backup does not know may still run parts of it".into(),
            };
        }
        if let Some(reason) = self.waits_for_host() {
            return reason;
        }
        let held = match self.held_at() {
            Ok(held) => held,
            Err(reason) => return reason,
        };
        if let Some(node) = held {
            return self.begin_where_it_is(node);
        }
        if let Some(reason) = self.stays_cold() {
            return reason;
        }
        let (preferred, avoid) = self.wish();
        let none = BTreeSet::new();
        if let Some(node) = preferred
            && self.choices(&none).iter().any(|it| it.node == node && it.refused.is_none())
        {
            let why = "asked for by the operator".to_owned();
            return self.decide(ServiceDecision::Begin { node, why, restart: false }, "it starts");
        }
        let mut choices = self.choices(&avoid);
        if choices.first().is_none_or(|best| best.refused.is_some()) {
            choices = self.choices(&none);
        }
        match self.best(choices, &avoid) {
            Ok((node, why)) => {
                self.decide(ServiceDecision::Begin { node, why, restart: false }, "it starts")
            }
            Err(no_place) => self.no_place(no_place),
        }
    }

    /// Parts of it run there already: by hand, or from before it was managed.
    pub(super) fn begin_where_it_is(&mut self, node: NodeId) -> Reason {
        if !self.has_session(node) {
            // It would be refused, and decided again at once.
            return self.owner_silent(node);
        }
        let why = "parts of it run there already".to_owned();
        self.decide(ServiceDecision::Begin { node, why, restart: false }, "it starts")
    }

    /// The node where something of it runs already, if it is one; before the others have said that nothing runs there,
    /// nothing is started.
    pub(super) fn held_at(&self) -> Result<Option<NodeId>, Reason> {
        let record = self.record;
        let vms: Vec<&VmRecord> =
            record.spec.vms().filter_map(|vm| self.state.vms.get(vm)).map(|vm| &**vm).collect();
        let places: BTreeSet<NodeId> = vms
            .iter()
            .flat_map(|vm| vm.may_run.keys())
            .chain(record.may_run.keys())
            .copied()
            .collect();
        let seen: BTreeSet<NodeId> = vms
            .iter()
            .flat_map(|vm| vm.seen_there())
            .chain(record.seen.iter().filter(|(_, it)| !it.is_empty()).map(|(node, _)| *node))
            .collect();
        match (places.len(), seen.iter().next()) {
            _ if off(Rule::ServiceMayRunRefusal) => Ok(None),
            (0, _) => Ok(None),
            (1, Some(node)) if places.contains(node) => Ok(Some(*node)),
            // Nobody is waited for: all of them have said so.
            (2.., _) if places.is_subset(&seen) => Err(self.torn(&seen)),
            _ => Err(Reason::MayRunOn {
                nodes: places.iter().map(|it| self.place_text(*it)).collect(),
            }),
        }
    }

    /// Parts of it run on several nodes, as when it is put together of what ran before: none of them is moved or stopped by
    /// itself.
    fn torn(&self, seen: &BTreeSet<NodeId>) -> Reason {
        let record = self.record;
        let parts = |node: &NodeId| {
            let vms = record.spec.vms().filter_map(|vm| self.state.vms.get(vm));
            let vms =
                vms.filter(|vm| vm.seen.contains_key(node)).map(|vm| vm.spec.name.to_string());
            let scripts = record.seen.get(node).into_iter().flatten().map(ToString::to_string);
            let parts: Vec<_> = vms.chain(scripts).collect();
            format!("{} on {}", parts.join(" and "), self.state.node_name(*node))
        };
        let places: Vec<_> = seen.iter().map(parts).collect();
        let name = &record.spec.name;
        Reason::MemberStuck {
            why: format!(
                "it runs in parts: {}; `berthctl disable service:{name}`, bring them to one node or stop them, and enable it again",
                places.join(", ")
            ),
        }
    }

    /// Where scripts of it may be running, unless that is nowhere or there only.
    pub(super) fn scripts_elsewhere(&self, but: Option<NodeId>) -> Option<Reason> {
        let places = self.record.may_run.keys().filter(|node| Some(**node) != but);
        let nodes: Vec<_> = places.map(|node| self.place_text(*node)).collect();
        (!nodes.is_empty()).then_some(Reason::MayRunOn { nodes })
    }

    pub(super) fn place_text(&self, node: NodeId) -> String {
        match self.state.nodes.get(&node) {
            Some(node) if node.state == NodeState::Online => format!("{} (asked)", node.name),
            Some(node) => {
                let unbound = node.unbound_by_lease();
                let how = unbound.unwrap_or_else(|| node.state.as_str().to_owned());
                format!("{} ({how})", node.name)
            }
            None => format!("node {node}"),
        }
    }

    /// Where the operator wants it, and where not.
    fn wish(&self) -> (Option<NodeId>, BTreeSet<NodeId>) {
        let last = self.record.last_owner;
        match self.record.open_operation().map(|it| (&it.verb, &it.phase)) {
            Some((ServiceVerb::Enable { on }, _)) => (*on, BTreeSet::new()),
            Some((ServiceVerb::Restart, OperationPhase::Halfway)) => (last, BTreeSet::new()),
            Some((ServiceVerb::Relocate { to: Some(to) }, _)) => (Some(*to), BTreeSet::new()),
            Some((ServiceVerb::Relocate { to: None }, _)) => (None, last.into_iter().collect()),
            _ => (None, BTreeSet::new()),
        }
    }

    /// Every node weighed, the best first, the refused last.
    pub(super) fn choices(&self, avoid: &BTreeSet<NodeId>) -> Vec<Choice> {
        let domain = self.record.spec.policy.failover_domain.as_ref();
        let domain = domain.and_then(|name| self.state.failover_domains.get(name));
        let vms: Vec<&VmRecord> = self
            .record
            .spec
            .vms()
            .filter_map(|vm| self.state.vms.get(vm))
            .map(|vm| &**vm)
            .collect();
        let none = BTreeSet::new();
        let number = exclusive::number_of(self.state, self.record);
        let of_vms: Vec<_> = vms
            .iter()
            .map(|vm| {
                let all = placement::candidates(self.state, self.liveness, self.load, vm, &none);
                (*vm, all)
            })
            .collect();
        let mut choices: Vec<Choice> = self
            .state
            .nodes
            .values()
            .map(|node| {
                let rank = domain.map_or(Some(Rank::Member(0)), |domain| domain.rank(&node.name));
                let free =
                    node.capacity.memory_mib as i64 - self.load.used_memory_mib(node.id) as i64;
                let here =
                    |vm: &VmRecord| vm.owner == Some(node.id) || vm.seen.contains_key(&node.id);
                let need: u64 =
                    vms.iter().filter(|vm| !here(vm)).map(|vm| vm.spec.memory_mib).sum();
                let of_vm = of_vms.iter().find_map(|(vm, all)| {
                    let refused = all.iter().find(|it| it.node == node.id)?.refused.as_ref()?;
                    Some(format!("VM {}: {refused}", vm.spec.name))
                });
                let refused = if rank.is_none() {
                    Some("it is not in the restricted failover domain".to_owned())
                } else if avoid.contains(&node.id) {
                    Some("it was tried already".to_owned())
                } else if need as i64 > free {
                    Some(format!("{free} MiB are free, {need} MiB are needed"))
                } else {
                    let name = &self.record.spec.name;
                    self.unfit(node)
                        .or_else(|| self.load.tenants.refusal_of_service(node.id, name, number))
                        .or(of_vm)
                };
                Choice {
                    node: node.id,
                    name: node.name.to_string(),
                    rank,
                    free_memory_mib: free,
                    refused,
                }
            })
            .collect();
        choices.sort_by(|one, other| {
            (one.refused.is_some().cmp(&other.refused.is_some()))
                .then(one.rank.cmp(&other.rank))
                .then(other.free_memory_mib.cmp(&one.free_memory_mib))
                .then(one.name.cmp(&other.name))
        });
        choices
    }

    /// Why a node takes nothing new at all.
    fn unfit(&self, node: &NodeRecord) -> Option<String> {
        if node.state != NodeState::Online {
            return Some(format!("it is {}", node.state.as_str()));
        }
        let heard = self.liveness.heard.get(&node.id);
        let heard = heard.filter(|heard| heard.session == node.last_session);
        if heard.is_some_and(|heard| !heard.met) {
            return Some("it was not heard yet in its session".into());
        }
        let silent_ms = heard.map_or(0, |heard| heard.silent_ms);
        if silent_ms > self.state.settings.suspect_after_ms {
            return Some(format!("it was not heard for {silent_ms} ms"));
        }
        if let Some(maintenance) = &node.maintenance {
            return Some(format!("it is kept empty by {}", maintenance.by));
        }
        if node.shutdown.is_some() {
            return Some("it is being shut down".into());
        }
        node.away.then(|| "its agent is about to end".into())
    }

    /// The best of what is left; where it was before, among equals.
    pub(super) fn best(
        &self,
        choices: Vec<Choice>,
        avoid: &BTreeSet<NodeId>,
    ) -> Result<(NodeId, String), NoPlace> {
        let Some(first) = choices.first().filter(|best| best.refused.is_none()) else {
            let refused = choices
                .into_iter()
                .map(|choice| (choice.name, choice.refused.unwrap_or_default()))
                .collect();
            return Err(NoPlace { refused });
        };
        let again = self.record.last_owner.filter(|last| !avoid.contains(last));
        let again = choices
            .iter()
            .find(|it| Some(it.node) == again && it.refused.is_none() && it.rank == first.rank);
        match again {
            Some(again) => Ok((again.node, "it ran there before".into())),
            None => Ok((first.node, format!("{} MiB free", first.free_memory_mib))),
        }
    }

    /// Why that node cannot take it, if it cannot.
    pub(super) fn refusal(&self, node: NodeId) -> Option<String> {
        let choices = self.choices(&BTreeSet::new());
        match choices.into_iter().find(|choice| choice.node == node) {
            None => Some("it left the cluster".into()),
            Some(choice) => choice.refused,
        }
    }
}
