//! A cluster in small for stories: the real `apply` and `plan`, and agents that carry orders out at once.
//!
//! Time stands still unless the story lets it pass. What an agent would do wrong is said before.
#![allow(dead_code, reason = "each story file uses its part of it")]

use std::collections::{BTreeMap, BTreeSet};

use model::cluster::{ClusterState, Detail, Outcome};
use model::command::{Command, Decision, Operation, Registration, Report};
use model::domain_xml;
use model::failover_domain::{Failback, FailoverDomain};
use model::id::{ClusterId, FailoverDomainName, NodeId, NodeName, RequestId, SessionId, VmName};
use model::liveness::{Heard, Liveness};
use model::node::{Capacity, ProofOfDeath, SeenDomain};
use model::order::{Order, OrderKind, outstanding};
use model::plan::{Reason, plan};
use model::settings::Settings;
use model::time::Timestamp;
use model::vm::{Presence, StopCause, VmPolicy, VmRecord, VmSpec, VmState};
use uuid::Uuid;

pub(crate) fn node(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

pub(crate) fn vm(text: &str) -> VmName {
    VmName::new(text).unwrap()
}

/// The flags of a failover domain, as RGManager's configuration has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Flags {
    pub(crate) ordered: bool,
    pub(crate) restricted: bool,
    pub(crate) nofailback: bool,
}

#[derive(Clone)]
pub(crate) struct Story {
    pub(crate) state: ClusterState,
    pub(crate) now: u64,
    /// Who asks.
    pub(crate) operator: String,
    index: u64,
    silent: BTreeMap<NodeId, u64>,
    boots: BTreeMap<String, u32>,
    /// Which VMs have a guest on which node, in truth.
    pub(crate) guests: BTreeSet<(String, String)>,
    /// Where a start fails.
    pub(crate) bad_starts: BTreeSet<(String, String)>,
    /// VMs whose stop fails.
    pub(crate) bad_stops: BTreeSet<String>,
    /// VMs whose migration fails.
    pub(crate) bad_migrations: BTreeSet<String>,
    /// Agents that carry nothing out.
    pub(crate) hung: BTreeSet<String>,
    /// The watchdog of nodes that register from now on.
    pub(crate) watchdog_ms: Option<u64>,
    /// Their lock manager.
    pub(crate) lock_manager: Option<String>,
}

impl Story {
    pub(crate) fn with_nodes(nodes: &[&str]) -> Self {
        let mut story = Self {
            state: ClusterState::default(),
            now: 86_400_000,
            operator: "test".into(),
            index: 0,
            silent: BTreeMap::new(),
            boots: BTreeMap::new(),
            guests: BTreeSet::new(),
            bad_starts: BTreeSet::new(),
            bad_stops: BTreeSet::new(),
            bad_migrations: BTreeSet::new(),
            hung: BTreeSet::new(),
            watchdog_ms: None,
            lock_manager: None,
        };
        let cluster = ClusterId(Uuid::from_u128(1));
        story.does(Operation::Initialise { cluster, settings: Settings::default() });
        for name in nodes {
            story.registers(name);
        }
        story
    }

    pub(crate) fn tries(&mut self, operation: Operation) -> Outcome {
        self.index += 1;
        self.now += 1;
        let request = RequestId(Uuid::from_u128(u128::from(self.index)));
        let command =
            Command { request, at: Timestamp(self.now), by: self.operator.clone(), operation };
        self.state.apply(self.index, &command)
    }

    pub(crate) fn does(&mut self, operation: Operation) -> Detail {
        let text = operation.subject();
        self.tries(operation).unwrap_or_else(|refused| panic!("{text}: {refused}")).detail
    }

    /// Why an operation is refused.
    pub(crate) fn refused(&mut self, operation: Operation) -> String {
        let text = operation.subject();
        match self.tries(operation) {
            Ok(_) => panic!("{text} was not refused"),
            Err(refused) => refused.to_string(),
        }
    }

    /// The node boots, or its agent starts anew, and tells what runs there.
    pub(crate) fn registers(&mut self, name: &str) {
        let boot = self.boots.get(name).copied().unwrap_or(0);
        let inventory = self
            .state
            .vms
            .values()
            .filter(|record| self.runs_on(record.spec.name.as_str(), name))
            .map(|record| {
                let vm = record.spec.name.as_str();
                (record.spec.uuid, SeenDomain::active(vm, Presence::Running, 64))
            })
            .collect();
        let registration = Registration {
            name: node(name),
            hardware: Uuid::from_u128(name.bytes().map(u128::from).sum()),
            boot_id: format!("boot{boot}"),
            replaces: self.state.node_named(&node(name)).map(|node| node.last_session),
            capacity: Capacity { memory_mib: 1_000, cpus: 4 },
            migration_uri: format!("qemu+tls://{name}/system"),
            watchdog_timeout_ms: self.watchdog_ms,
            pausable: false,
            lock_manager: self.lock_manager.clone(),
            agent_version: "1".into(),
            features: Default::default(),
            inventory,
        };
        match self.does(Operation::Register(Box::new(registration))) {
            Detail::Registered { node, .. } => drop(self.silent.remove(&node)),
            Detail::None => panic!("no session"),
        }
    }

    pub(crate) fn spec(&self, name: &str, policy: VmPolicy) -> VmSpec {
        let uuid = Uuid::from_u128(
            0x1000 + name.bytes().fold(0, |sum, byte| sum * 256 + u128::from(byte)),
        );
        let xml = format!(
            "<domain type='kvm'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>64</memory></domain>"
        );
        let domain = domain_xml::parse(&xml).unwrap();
        VmSpec {
            name: domain.name,
            uuid,
            xml: xml.into(),
            memory_mib: domain.memory_mib,
            vcpus: domain.vcpus,
            disks: domain.disks,
            host_ties: domain.host_ties,
            policy,
        }
    }

    pub(crate) fn adds(&mut self, name: &str, policy: VmPolicy) {
        let spec = self.spec(name, policy);
        self.does(Operation::AddVm(Box::new(spec)));
    }

    pub(crate) fn edits(&mut self, name: &str, change: impl FnOnce(&mut VmPolicy)) {
        let mut spec = self.record(name).spec.clone();
        change(&mut spec.policy);
        self.does(Operation::EditVm(Box::new(spec)));
    }

    pub(crate) fn enables(&mut self, name: &str) {
        self.does(Operation::Enable { vm: vm(name), on: None });
    }

    pub(crate) fn disables(&mut self, name: &str) {
        self.does(Operation::Disable(vm(name)));
    }

    pub(crate) fn migrates(&mut self, name: &str, to: &str) {
        self.does(Operation::Migrate { vm: vm(name), to: node(to), mode: None });
    }

    /// A VM that runs on that node.
    pub(crate) fn running(&mut self, name: &str, on: &str, policy: VmPolicy) {
        self.adds(name, policy);
        self.does(Operation::Enable { vm: vm(name), on: Some(node(on)) });
        self.settles();
        assert_eq!(self.place(name), format!("started on {on}"));
    }

    /// Members with their priorities, as "a:1 b:2".
    pub(crate) fn domain(&mut self, name: &str, members: &str, flags: Flags) {
        self.domain_with(name, members, flags, Failback::default());
    }

    pub(crate) fn domain_with(
        &mut self,
        name: &str,
        members: &str,
        flags: Flags,
        failback: Failback,
    ) {
        let member = |text: &str| {
            let (name, priority) = text.split_once(':').unwrap_or((text, "1"));
            (node(name), priority.parse().unwrap())
        };
        self.does(Operation::PutFailoverDomain(FailoverDomain {
            name: FailoverDomainName::new(name).unwrap(),
            nodes: members.split_whitespace().map(member).collect(),
            ordered: flags.ordered,
            restricted: flags.restricted,
            nofailback: flags.nofailback,
            failback,
        }));
    }

    pub(crate) fn id(&self, name: &str) -> NodeId {
        self.state.node_named(&node(name)).unwrap().id
    }

    pub(crate) fn session(&self, name: &str) -> SessionId {
        self.state.node_named(&node(name)).unwrap().last_session
    }

    pub(crate) fn record(&self, name: &str) -> &VmRecord {
        &self.state.vms[&vm(name)]
    }

    pub(crate) fn state_of(&self, name: &str) -> VmState {
        self.record(name).state
    }

    /// "started on a", "stopped".
    pub(crate) fn place(&self, name: &str) -> String {
        let record = self.record(name);
        match record.owner {
            Some(owner) => format!("{} on {}", record.state.as_str(), self.state.node_name(owner)),
            None => record.state.as_str().to_owned(),
        }
    }

    pub(crate) fn runs_on(&self, name: &str, on: &str) -> bool {
        self.guests.contains(&(name.to_owned(), on.to_owned()))
    }

    pub(crate) fn reports(&mut self, from: &str, reports: Vec<Report>) {
        let (node, session) = (self.id(from), self.session(from));
        self.does(Operation::Report { node, session, reports });
    }

    fn seen(&self, name: &str) -> Report {
        let uuid = self.record(name).spec.uuid;
        Report::Seen { uuid, domain: SeenDomain::active(name, Presence::Running, 64) }
    }

    fn absent(&self, name: &str, floor: u64, cause: Option<StopCause>) -> Report {
        Report::Absent { uuid: self.record(name).spec.uuid, floor, cause }
    }

    /// The guest ends on its node, and its agent says so.
    pub(crate) fn ends(&mut self, name: &str, cause: StopCause) {
        let places: Vec<_> =
            self.guests.iter().filter(|(guest, _)| guest == name).cloned().collect();
        for (guest, place) in places {
            self.guests.remove(&(guest, place.clone()));
            let absent = self.absent(name, self.index, Some(cause));
            self.reports(&place, vec![absent]);
        }
    }

    pub(crate) fn crashes(&mut self, name: &str) {
        self.ends(name, StopCause::Crashed);
    }

    /// Somebody starts it by hand.
    pub(crate) fn appears(&mut self, name: &str, on: &str) {
        self.guests.insert((name.to_owned(), on.to_owned()));
        let seen = self.seen(name);
        self.reports(on, vec![seen]);
    }

    /// Somebody migrates it with virsh.
    pub(crate) fn is_moved_by_hand(&mut self, name: &str, from: &str, to: &str) {
        self.guests.remove(&(name.to_owned(), from.to_owned()));
        let absent = self.absent(name, self.index, Some(StopCause::MigratedAway));
        self.reports(from, vec![absent]);
        self.appears(name, to);
    }

    pub(crate) fn check_fails(&mut self, name: &str, on: &str) {
        let uuid = self.record(name).spec.uuid;
        self.reports(on, vec![Report::StatusFailed { uuid, error: "no answer".into() }]);
    }

    /// The node loses its power, and its fence device says so.
    pub(crate) fn dies(&mut self, name: &str) {
        self.falls_silent(name);
        let (node, session) = (self.id(name), self.session(name));
        let proof = ProofOfDeath::Fenced { device: "fence_test".into() };
        self.guests.retain(|(_, place)| place != name);
        self.does(Operation::FenceAsked { node, session });
        self.does(Operation::NodeDead { node, session, proof });
    }

    /// No heartbeat of it comes, for so long.
    pub(crate) fn is_unheard(&mut self, name: &str, silent_ms: u64) {
        let node = self.id(name);
        match silent_ms {
            0 => drop(self.silent.remove(&node)),
            _ => drop(self.silent.insert(node, silent_ms)),
        }
    }

    pub(crate) fn falls_silent(&mut self, name: &str) {
        let (node, session) = (self.id(name), self.session(name));
        self.silent.insert(node, 10_000);
        self.does(Operation::NodeLost { node, session, silent_ms: 10_000 });
    }

    /// It boots again.
    pub(crate) fn returns(&mut self, name: &str) {
        *self.boots.entry(name.to_owned()).or_default() += 1;
        self.registers(name);
    }

    pub(crate) fn liveness(&self) -> Liveness {
        let heard = self.state.nodes.values().map(|node| {
            let silent_ms = self.silent.get(&node.id).copied().unwrap_or(0);
            let heard = Heard {
                session: node.last_session,
                met: true,
                silent_ms,
                unanswered_ms: silent_ms,
            };
            (node.id, heard)
        });
        Liveness { heard: heard.collect(), ..Liveness::default() }
    }

    pub(crate) fn reason(&self, name: &str) -> Reason {
        plan(&self.state, &self.liveness(), Timestamp(self.now)).vms[&vm(name)].clone()
    }

    pub(crate) fn wakes_at(&self) -> Option<u64> {
        plan(&self.state, &self.liveness(), Timestamp(self.now)).wake_at.map(|at| at.0)
    }

    /// The leader plans once, and what it proposes is applied; in short. Only what is done to VMs.
    pub(crate) fn leads(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        for operation in plan(&self.state, &self.liveness(), Timestamp(self.now)).operations {
            let text = match &operation {
                Operation::Decide { vm, decision, .. } => {
                    Some(format!("{vm}: {}", self.short(decision)))
                }
                _ => None,
            };
            if self.tries(operation).is_ok() {
                all.extend(text);
            }
        }
        all
    }

    fn short(&self, decision: &Decision) -> String {
        let name = |node: &NodeId| self.state.node_name(*node);
        match decision {
            Decision::Start { node, restart: true, .. } => format!("restart on {}", name(node)),
            Decision::Start { node, .. } => format!("start on {}", name(node)),
            Decision::Stop { node, .. } => format!("stop on {}", name(node)),
            Decision::Migrate { to, .. } => format!("migrate to {}", name(to)),
            Decision::Move { to, mode: Some(_), .. } => format!("move to {}", name(to)),
            Decision::Move { from, mode: None, .. } => format!("move cold from {}", name(from)),
            Decision::Adopt { node } => format!("adopt on {}", name(node)),
            Decision::Settle => "settle".into(),
            Decision::Disable { .. } => "disable".into(),
            Decision::Delay { .. } => "delay".into(),
            Decision::Conflict => "conflict".into(),
            Decision::FailOperation { .. } => "give up".into(),
            Decision::Resume { node } => format!("resume on {}", name(node)),
            Decision::Evict { node, .. } => format!("evict from {}", name(node)),
            Decision::Unfreeze => "unfreeze".into(),
            Decision::DependsMet => "depends met".into(),
            Decision::TellAgain { node } => format!("tell {} again", name(node)),
            #[allow(unreachable_patterns, reason = "others' decisions")]
            other => format!("{other:?}"),
        }
    }

    /// Every agent carries out all its orders.
    pub(crate) fn obeys(&mut self) {
        for (id, orders) in outstanding(&self.state) {
            let place = self.state.node_name(id);
            if self.hung.contains(&place) || self.silent.contains_key(&id) {
                continue;
            }
            for order in orders {
                self.carries_out(&place, &order);
            }
        }
    }

    fn carries_out(&mut self, place: &str, order: &Order) {
        let name = order.vm.as_str().to_owned();
        let here = (name.clone(), place.to_owned());
        let done = |error: Option<&str>| Report::OrderDone {
            uuid: order.uuid,
            order: order.id,
            error: error.map(str::to_owned),
        };
        let absent = self.absent(&name, order.id.0, None);
        match &order.kind {
            OrderKind::Probe if self.guests.contains(&here) => {
                let seen = self.seen(&name);
                self.reports(place, vec![seen]);
            }
            OrderKind::Probe => self.reports(place, vec![absent]),
            OrderKind::Start { .. } if self.bad_starts.contains(&here) => {
                self.reports(place, vec![absent, done(Some("no such disk"))]);
            }
            OrderKind::Start { .. } => {
                self.guests.insert(here);
                let seen = self.seen(&name);
                self.reports(place, vec![seen, done(None)]);
            }
            OrderKind::Stop { .. } if self.bad_stops.contains(&name) => {
                self.reports(place, vec![done(Some("libvirt does not answer"))]);
            }
            OrderKind::Stop { .. } => {
                self.guests.remove(&here);
                self.reports(place, vec![absent, done(None)]);
            }
            OrderKind::Migrate { .. } if self.bad_migrations.contains(&name) => {
                self.reports(place, vec![done(Some("the target refused"))]);
            }
            OrderKind::Migrate { to, .. } => {
                let to = to.clone();
                self.guests.remove(&here);
                self.guests.insert((name.clone(), to.clone()));
                let gone = self.absent(&name, order.id.0, Some(StopCause::MigratedAway));
                let seen = self.seen(&name);
                self.reports(place, vec![gone]);
                self.reports(&to, vec![seen]);
                self.reports(place, vec![done(None)]);
            }
            OrderKind::Adopt | OrderKind::Resume => self.reports(place, vec![done(None)]),
        }
        let copies = self.guests.iter().filter(|(guest, _)| *guest == name).count();
        assert!(copies <= 1 || !self.bad_starts.is_empty(), "{name} runs twice");
    }

    /// Leader and agents go on until nothing is left to be done now. What was decided, in short.
    pub(crate) fn settles(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        for _ in 0..200 {
            self.obeys();
            let decided = self.leads();
            let quiet = decided.is_empty() && outstanding(&self.state).values().all(Vec::is_empty);
            all.extend(decided);
            if quiet {
                return all;
            }
            let hung = |id: &NodeId| {
                self.hung.contains(&self.state.node_name(*id)) || self.silent.contains_key(id)
            };
            if all.is_empty() && outstanding(&self.state).keys().all(hung) {
                return all;
            }
        }
        all
    }

    /// So many seconds pass, and all that falls due in them is done.
    pub(crate) fn pass(&mut self, seconds: u64) -> Vec<String> {
        let end = self.now + seconds * 1_000;
        let mut all = self.settles();
        while let Some(wake) = self.wakes_at().filter(|wake| *wake > self.now && *wake <= end) {
            self.now = wake;
            all.extend(self.settles());
        }
        self.now = self.now.max(end);
        all.extend(self.settles());
        all
    }
}
