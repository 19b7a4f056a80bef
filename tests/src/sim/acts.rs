//! More of what operators do: holds and pauses, rules and failover domains, drains and shutdowns, and services.
//!
//! It has a chance of its own, so that what a seed is about without it stays as it is.

use std::collections::{BTreeMap, BTreeSet};

use model::ClusterState;
use model::command::{Operation, ServiceAsk};
use model::failover_domain::FailoverDomain;
use model::fleet::PauseMode;
use model::id::{FailoverDomainName, MemberName, NodeName, PlacementRuleName, ServiceName, VmName};
use model::node::AfterShutdown;
use model::placement_rule::{PlacementRule, PlacementRuleKind};
use model::recovery::{RecoveryPolicy, RestartLimit};
use model::service::{
    MemberKind, MemberSpec, MemberWeight, Script, ScriptProgram, ServicePolicy, ServiceSpec,
    StatusCheck, Tolerance,
};
use model::vm::Desired;
use uuid::Uuid;

use super::operators::OperatorAct;
use super::world::{Event, World};

/// How much operators do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Acts {
    /// What they do with VMs and nodes one by one.
    Few,
    /// And what they hold back, drain, shut down, and run as services.
    Many,
    /// All that they can do: settings, fences by hand and every policy too.
    All,
}

/// So many of each at the most.
const SERVICES: usize = 2;
const RULES: usize = 3;
const DOMAINS: usize = 2;
/// Between two looks for what is to be given back, once nothing goes wrong any more.
const UNDO_MS: u64 = 2_000;

pub(super) fn lawful<N, E: std::fmt::Display>(name: Result<N, E>) -> N {
    name.unwrap_or_else(|error| panic!("{error}"))
}

fn one_in(rng: &mut fastrand::Rng, number: u32) -> bool {
    rng.u32(0..number) == 0
}

impl World {
    pub(super) fn act_more(&mut self) {
        if self.calm {
            return;
        }
        let pause = self.acts.u64(500..4_500);
        self.after(pause, Event::Operate(OperatorAct::More));
        let truth = self.truth();
        // What cannot be done now is something else's turn.
        for _ in 0..4 {
            if let Some(operation) = self.one_more(&truth) {
                self.trace.detail(self.now, "act", || format!("{operation:?}"));
                self.count(word(&operation));
                self.submit(operation);
                return;
            }
        }
    }

    fn count(&mut self, word: &'static str) {
        *self.struck.entry(word).or_default() += 1;
    }

    /// From here on operators give back what they held.
    pub(super) fn undo_more(&mut self) {
        self.after(UNDO_MS, Event::Operate(OperatorAct::Undo));
        for operation in held(&self.truth()) {
            self.submit(operation);
        }
    }

    pub(super) fn a_vm(&mut self) -> VmName {
        let number = self.acts.usize(0..self.options.vms);
        lawful(VmName::new(format!("vm{number}")))
    }

    pub(super) fn a_node(&mut self) -> NodeName {
        let number = self.acts.usize(0..self.hosts.len());
        lawful(NodeName::new(&self.hosts[number].name))
    }

    fn one_more(&mut self, truth: &ClusterState) -> Option<Operation> {
        let vm = self.a_vm();
        let record = truth.vms.get(&vm);
        match self.acts.u32(0..100) {
            0..=7 => {
                let for_ms = self.acts.bool().then(|| self.acts.u64(500..15_000));
                Some(Operation::Freeze { vm, why: "a look".into(), for_ms })
            }
            8..=14 => {
                let frozen = truth.vms.values().find(|it| it.frozen.is_some())?;
                Some(Operation::Unfreeze(frozen.spec.name.clone()))
            }
            15..=16 if truth.lock.is_none() => Some(Operation::Lock { why: "a look".into() }),
            15..=20 => truth.lock.as_ref().map(|_| Operation::Unlock),
            21..=27 => Some(self.a_rule()),
            28..=30 => {
                let rules: Vec<_> = truth.placement_rules.keys().cloned().collect();
                self.acts.choice(rules).map(Operation::RemovePlacementRule)
            }
            31..=37 => self.a_domain(truth, &vm),
            38..=39 => {
                let domains: Vec<_> = truth.failover_domains.keys().cloned().collect();
                self.acts.choice(domains).map(Operation::RemoveFailoverDomain)
            }
            40..=45 => {
                let (node, until_boot) = (self.a_node(), self.acts.bool());
                Some(Operation::SetMaintenance { node, on: true, until_boot })
            }
            46..=51 => {
                let drained = truth.nodes.values().find(|it| it.maintenance.is_some())?;
                let node = drained.name.clone();
                Some(Operation::SetMaintenance { node, on: false, until_boot: false })
            }
            52..=53 if truth.pause.is_none() => {
                let mode = if self.acts.bool() { PauseMode::Freeze } else { PauseMode::Ignore };
                Some(Operation::PauseCluster { mode, why: "a look".into() })
            }
            52..=57 => truth.pause.as_ref().map(|_| Operation::UnpauseCluster),
            58..=59 => Some(Operation::Ignore(vm)),
            60..=62 => Some(Operation::Claim { vm, reason: "a backup".into() }),
            63..=66 => record?.claim.as_ref().map(|_| Operation::Unclaim(vm)),
            67..=68 => Some(Operation::Convalesce(vm)),
            69 => {
                let host = self.acts.usize(0..self.hosts.len());
                let then = match self.acts.bool() {
                    true => AfterShutdown::Reboot,
                    false => AfterShutdown::StayOff,
                };
                if self.hosts[host].shutdown.is_none() && self.online() > 2 {
                    self.count("asked-shutdown");
                    self.shut_down(host, then);
                }
                None
            }
            70..=74 => {
                let host = self.acts.usize(0..self.hosts.len());
                self.count("script-dies");
                self.script_dies(host);
                None
            }
            _ => self.of_a_service(truth),
        }
    }

    fn a_rule(&mut self) -> Operation {
        let number = self.acts.usize(0..RULES);
        let kind = match self.acts.bool() {
            true => PlacementRuleKind::Together,
            false => PlacementRuleKind::Apart,
        };
        let mut vms = BTreeSet::new();
        let count = self.acts.usize(2..=3).min(self.options.vms);
        while vms.len() < count {
            vms.insert(self.a_vm());
        }
        let name = lawful(PlacementRuleName::new(format!("rule{number}")));
        Operation::PutPlacementRule(PlacementRule { name, kind, vms })
    }

    /// A failover domain, or a VM that is put into one.
    fn a_domain(&mut self, truth: &ClusterState, vm: &VmName) -> Option<Operation> {
        let known: Vec<_> = truth.failover_domains.keys().cloned().collect();
        if let (Some(domain), false) = (self.acts.choice(known), one_in(&mut self.acts, 3)) {
            let mut spec = truth.vms.get(vm)?.spec.clone();
            spec.policy.failover_domain = Some(domain);
            return Some(Operation::EditVm(Box::new(spec)));
        }
        let number = self.acts.usize(0..DOMAINS);
        let mut nodes = BTreeMap::new();
        for _ in 0..self.acts.usize(1..=3) {
            nodes.insert(self.a_node(), self.acts.u8(1..=3));
        }
        Some(Operation::PutFailoverDomain(FailoverDomain {
            name: lawful(FailoverDomainName::new(format!("domain{number}"))),
            nodes,
            ordered: self.acts.bool(),
            restricted: self.acts.bool(),
            nofailback: self.acts.bool(),
            failback: Default::default(),
        }))
    }

    // ---- services ------------------------------------------------------------------------------------------------

    fn of_a_service(&mut self, truth: &ClusterState) -> Option<Operation> {
        let number = self.acts.usize(0..SERVICES);
        let name = lawful(ServiceName::new(format!("svc{number}")));
        let Some(record) = truth.services.get(&name) else {
            let id = Uuid::from_u128(self.acts.u128(..));
            let spec = self.a_service(truth, name, id);
            self.after(800, Event::Operate(OperatorAct::EnableService(number)));
            return Some(Operation::AddService(Box::new(spec)));
        };
        let ask = match self.acts.u32(0..20) {
            0..=4 => ServiceAsk::Enable { on: one_in(&mut self.acts, 3).then(|| self.a_node()) },
            5 => ServiceAsk::Disable,
            6 => ServiceAsk::Stop,
            7..=8 => ServiceAsk::Restart,
            9..=10 => ServiceAsk::Relocate { to: self.acts.bool().then(|| self.a_node()) },
            11..=13 => ServiceAsk::Migrate { to: self.a_node(), mode: None },
            14 => ServiceAsk::Convalesce,
            15 => {
                let for_ms = self.acts.bool().then(|| self.acts.u64(500..15_000));
                ServiceAsk::Freeze { why: "a look".into(), for_ms }
            }
            16 => match record.frozen {
                Some(_) => ServiceAsk::Unfreeze,
                None => ServiceAsk::Cancel,
            },
            17..=18 => {
                let spec = self.a_service(truth, name, record.spec.id);
                return Some(Operation::EditService(Box::new(spec)));
            }
            _ => return Some(Operation::ForgetService(name)),
        };
        Some(Operation::AskService { service: name, ask })
    }

    fn a_service(&mut self, truth: &ClusterState, name: ServiceName, id: Uuid) -> ServiceSpec {
        let mut members: Vec<MemberSpec> = Vec::new();
        let free: Vec<VmName> = truth
            .vms
            .keys()
            .filter(|vm| truth.service_of.get(*vm).is_none_or(|service| *service == name))
            .cloned()
            .collect();
        for number in 1..=self.acts.usize(1..=2) {
            let program = ScriptProgram::Ocf(format!("berth:{name}-{number}"));
            let script = self.a_script(program);
            let member = self.a_member(format!("s{number}"), MemberKind::Script(script), &members);
            members.push(member);
        }
        for vm in free {
            if members.len() < 4 && one_in(&mut self.acts, 3) {
                let kind = MemberKind::Vm(vm.clone());
                let member = self.a_member(vm.to_string(), kind, &members);
                let place = self.acts.usize(0..=members.len());
                let under = member.under.as_ref();
                // It comes after what it hangs below.
                let first = under.and_then(|it| members.iter().position(|other| other.name == *it));
                members.insert(first.map_or(place, |first| place.max(first + 1)), member);
            }
        }
        let domains: Vec<_> = truth.failover_domains.keys().cloned().collect();
        let failover_domain = self.acts.choice(domains).filter(|_| self.acts.bool());
        ServiceSpec {
            name,
            id,
            members,
            policy: ServicePolicy {
                recovery: self.a_recovery(),
                restart_limit: self.a_limit(),
                failover_domain,
                migrate_together: self.acts.bool(),
                ..ServicePolicy::default()
            },
        }
    }

    fn a_member(&mut self, name: String, kind: MemberKind, before: &[MemberSpec]) -> MemberSpec {
        let weight = match self.acts.u32(0..4) {
            0 => MemberWeight::Independent,
            1 => MemberWeight::NonCritical,
            _ => MemberWeight::Critical,
        };
        let above: Vec<_> = before.iter().map(|it| it.name.clone()).collect();
        let under = self.acts.choice(above).filter(|_| one_in(&mut self.acts, 3));
        MemberSpec {
            name: lawful(MemberName::new(name)),
            kind,
            under,
            weight,
            restart_limit: self.a_limit(),
            tolerance: Tolerance::default(),
        }
    }

    fn a_script(&mut self, program: ScriptProgram) -> Script {
        Script {
            program,
            parameters: BTreeMap::new(),
            start_timeout_ms: self.acts.u64(1_000..4_000),
            stop_timeout_ms: self.acts.u64(1_000..4_000),
            checks: vec![StatusCheck {
                depth: 0,
                interval_ms: self.acts.u64(1_000..6_000),
                timeout_ms: 2_000,
            }],
        }
    }

    fn a_recovery(&mut self) -> RecoveryPolicy {
        match self.acts.u32(0..4) {
            0 => RecoveryPolicy::Relocate,
            1 => RecoveryPolicy::RestartDisable,
            _ => RecoveryPolicy::Restart,
        }
    }

    fn a_limit(&mut self) -> RestartLimit {
        let (max_restarts, expire_ms) = (self.acts.u32(0..3), self.acts.u64(0..2) * 30_000);
        RestartLimit { max_restarts, expire_ms }
    }

    /// Whoever adds a service wants it to run.
    pub(super) fn enable_service(&mut self, number: usize) {
        let service = lawful(ServiceName::new(format!("svc{number}")));
        if !self.calm && self.truth().services.contains_key(&service) {
            let ask = ServiceAsk::Enable { on: None };
            self.submit(Operation::AskService { service, ask });
        }
    }
}

/// For the count of what was done.
fn word(operation: &Operation) -> &'static str {
    match operation {
        Operation::Freeze { .. } => "asked-freeze",
        Operation::Unfreeze(_) => "asked-unfreeze",
        Operation::Lock { .. } => "asked-lock",
        Operation::Unlock => "asked-unlock",
        Operation::PutPlacementRule(_) => "asked-rule",
        Operation::RemovePlacementRule(_) => "asked-no-rule",
        Operation::PutFailoverDomain(_) => "asked-domain",
        Operation::RemoveFailoverDomain(_) => "asked-no-domain",
        Operation::EditVm(_) => "asked-into-domain",
        Operation::SetMaintenance { on: true, .. } => "asked-drain",
        Operation::SetMaintenance { on: false, .. } => "asked-no-drain",
        Operation::PauseCluster { .. } => "asked-pause",
        Operation::UnpauseCluster => "asked-unpause",
        Operation::Ignore(_) => "asked-ignore",
        Operation::Claim { .. } => "asked-claim",
        Operation::Unclaim(_) => "asked-unclaim",
        Operation::Convalesce(_) => "asked-convalesce",
        Operation::AddService(_) => "asked-service",
        Operation::EditService(_) => "asked-service-edit",
        Operation::ForgetService(_) => "asked-no-service",
        Operation::AskService { .. } => "asked-of-service",
        _ => "asked-other",
    }
}

/// What gives back all that operators hold.
fn held(truth: &ClusterState) -> Vec<Operation> {
    let mut undo = Vec::new();
    undo.extend(truth.pause.as_ref().map(|_| Operation::UnpauseCluster));
    undo.extend(truth.lock.as_ref().map(|_| Operation::Unlock));
    for record in truth.vms.values() {
        let vm = &record.spec.name;
        undo.extend(record.frozen.as_ref().map(|_| Operation::Unfreeze(vm.clone())));
        undo.extend(record.claim.as_ref().map(|_| Operation::Unclaim(vm.clone())));
        // A member is taken back by its service.
        let ignored = record.desired == Desired::Ignored && truth.governing(vm).is_none();
        undo.extend(ignored.then(|| Operation::Enable { vm: vm.clone(), on: None }));
    }
    for record in truth.services.values().filter(|it| it.frozen.is_some()) {
        let service = record.spec.name.clone();
        undo.push(Operation::AskService { service, ask: ServiceAsk::Unfreeze });
    }
    for node in truth.nodes.values().filter(|it| it.maintenance.is_some()) {
        let node = node.name.clone();
        undo.push(Operation::SetMaintenance { node, on: false, until_boot: false });
    }
    undo
}
