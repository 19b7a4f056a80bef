//! Plays a story step by step, and says how it ended.

mod ending;
mod events;
mod settled;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::command::Operation;
use model::id::VmName;
use model::node::NodeState;
use model::plan::Reason;
use model::vm::VmState;
use uuid::Uuid;

use self::ending::gave_up;
use super::file::{Condition, Scenario, Size, Step, Wait, Word};
use super::stage;
use crate::sim::World;
use crate::sim::host::Failing;
use crate::sim::trace::Line;

/// A step's wait has this bound.
const BOUND_MS: u64 = 1_800_000;
/// It is looked this often whether all is settled, or a condition holds.
const LOOK_MS: u64 = 50;
/// All has to be settled for so long.
const SETTLED_MS: u64 = 3_000;
/// As long again as the slowest fence takes: one whose agent takes its time, up to twenty seconds, and the answer after.
const WATCH_MS: u64 = 25_000;
const HEARTBEAT_MS: u64 = 500;

/// How a story ended.
pub struct Played {
    /// All that happened.
    pub trace: Vec<Line>,
    /// What it was to come to and did not, with the lines that show it.
    pub broken: Vec<String>,
}

/// A story on its stage.
struct Play<'s> {
    scenario: &'s Scenario,
    world: World,
    /// What operators are still to ask: one thing after the other.
    to_ask: VecDeque<(&'static str, String, Operation)>,
    /// Operators' requests whose answers are still to be looked at: event and subject.
    asked: BTreeMap<Uuid, (&'static str, String)>,
    removed: BTreeSet<String>,
    /// VMs of which the trace says that they have no place.
    homeless: BTreeSet<String>,
    /// VMs' sizes as they are configured now.
    sizes: BTreeMap<String, Size>,
    operation_failures: usize,
    /// VMs that were put somewhere while they were down.
    placed: BTreeMap<String, String>,
    /// VMs that are to be forgotten as soon as nothing of them is under way.
    to_remove: BTreeSet<String>,
}

/// Plays it from the beginning to the end.
pub fn play(scenario: &Scenario, seed: u64) -> Result<Played, String> {
    let world = stage::set(scenario, seed)?;
    let mut play = Play {
        scenario,
        world,
        to_ask: VecDeque::new(),
        asked: BTreeMap::new(),
        removed: BTreeSet::new(),
        homeless: BTreeSet::new(),
        sizes: scenario
            .vms
            .iter()
            .filter_map(|(name, vm)| Some((name.clone(), vm.size?)))
            .collect(),
        operation_failures: 0,
        placed: BTreeMap::new(),
        to_remove: BTreeSet::new(),
    };
    play.faults();
    for (number, step) in (1..).zip(&scenario.timeline) {
        play.step(number, step)?;
    }
    play.wait_settled(scenario.timeline.len() + 1);
    let end = play.world.now + WATCH_MS;
    play.go_on(end);
    let mut lawless = Vec::new();
    if let Some(violation) = &play.world.violation {
        lawless.push(format!(
            "the law was broken: {} at {} ms: {}",
            violation.invariant, violation.at, violation.what
        ));
    }
    let last = play.ending();
    play.world.trace.end(play.world.now, last);
    let trace = play.world.trace.lines().to_vec();
    let broken = lawless.into_iter().chain(super::expect::broken(scenario, &trace)).collect();
    Ok(Played { trace, broken })
}

impl Play<'_> {
    fn host(&self, name: &str) -> Result<usize, String> {
        self.world
            .hosts
            .iter()
            .position(|host| host.name == name)
            .ok_or_else(|| format!("{name} is no node of the cluster"))
    }

    fn uuid(&self, vm: &str) -> Result<Uuid, String> {
        let number = self.scenario.vms.keys().position(|name| name == vm);
        let number = number.ok_or_else(|| format!("{vm} is no VM of the story"))?;
        Ok(Uuid::from_u128(0x1000 + number as u128))
    }

    fn faults(&mut self) {
        for (name, vm) in &self.scenario.vms {
            let (Some(faults), Ok(uuid)) = (&vm.faults, self.uuid(name)) else { continue };
            let count = |times: Option<super::file::Times>| times.map_or(0, |it| it.count());
            let failing = Failing {
                starts: if faults.missing { u32::MAX } else { count(faults.start_fails) },
                stops: count(faults.stop_fails),
                migrations: count(faults.migrate_fails),
                ..Failing::default()
            };
            // Shared by all hosts: the VM's fault, not theirs.
            let shared = std::sync::Arc::new(std::sync::Mutex::new(failing));
            for host in &self.world.hosts {
                if faults.only_on.as_ref().is_none_or(|only| *only == host.name) {
                    host.hypervisor.machine().of_vm.insert(uuid, shared.clone());
                }
            }
        }
    }

    // ---- time ----------------------------------------------------------------------------------------------------

    fn go_on(&mut self, until: u64) {
        self.world.run_until(until);
        self.look_at_answers();
    }

    /// What operators were refused, at once or later.
    fn look_at_answers(&mut self) {
        let answered: Vec<Uuid> =
            self.asked.keys().filter(|it| self.world.answers.contains_key(it)).copied().collect();
        let truth = self.world.truth();
        for request in answered {
            let Some((event, subject)) = self.asked.remove(&request) else { continue };
            if let Some(Err(why)) = self.world.answers.get(&request) {
                let why = why.clone();
                self.world.trace.note(self.world.now, "rejected", &[event, &subject, &why]);
                let known = VmName::new(&subject).is_ok_and(|name| truth.vms.contains_key(&name));
                if event == "vm.remove" && known {
                    self.removed.remove(&subject);
                    self.to_remove.insert(subject);
                }
            }
        }
        self.remove_again();
        self.ask();
        let truth = self.world.truth();
        let failures: Vec<_> = truth
            .events
            .iter()
            .filter(|event| event.kind == model::event::EventKind::OperationFailed)
            .collect();
        let fresh: Vec<(String, String)> = failures
            .iter()
            .skip(self.operation_failures)
            .filter(|event| event.text.contains("cannot take it"))
            .map(|event| {
                let vm = event.vm.as_ref().map(ToString::to_string).unwrap_or_default();
                (vm, event.text.clone())
            })
            .collect();
        self.operation_failures = failures.len();
        for (vm, text) in fresh {
            self.world.trace.note(self.world.now, "rejected", &["vm.move", &vm, &text]);
        }
    }

    /// Whoever wants a VM forgotten asks again when what was under way is over.
    fn remove_again(&mut self) {
        let truth = self.world.truth();
        let idle = |vm: &&String| {
            let record = VmName::new(vm.as_str()).ok().and_then(|name| truth.vms.get(&name));
            record.is_some_and(|record| record.order.is_none())
        };
        let Some(vm) = self.to_remove.iter().find(idle).cloned() else { return };
        self.to_remove.remove(&vm);
        if let Ok(name) = VmName::new(&vm) {
            self.removed.insert(vm.clone());
            self.submit("vm.remove", &vm, Operation::ForgetVm(name));
        }
    }

    fn step(&mut self, number: usize, step: &Step) -> Result<(), String> {
        match &step.wait {
            Some(Wait::Until(until)) => self.wait_until(number, &until.until)?,
            Some(Wait::Word(_)) | None => self.wait_settled(number),
        }
        self.world.trace.note_number(self.world.now, "step", number);
        for event in &step.events {
            self.event(event)?;
        }
        self.go_on(self.world.now);
        Ok(())
    }

    fn wait_settled(&mut self, number: usize) {
        let end = self.world.now + BOUND_MS;
        let mut since = None;
        while self.world.now < end && self.world.violation.is_none() {
            self.go_on(self.world.now + LOOK_MS);
            if !self.settled() {
                since = None;
            } else if self.world.now - *since.get_or_insert(self.world.now) >= SETTLED_MS {
                return self.alarms();
            }
        }
        self.world.trace.note_number(self.world.now, "unsettled", number);
    }

    /// VMs that should run and have no place: once for each time.
    fn alarms(&mut self) {
        let leader = self.world.planes[0].leader.map(|leader| &self.world.replicas[leader]);
        let reasons = leader.and_then(|leader| leader.leading.as_ref()).map(|it| &it.reasons);
        let homeless: BTreeSet<String> = reasons
            .into_iter()
            .flatten()
            .filter(|(_, reason)| matches!(reason, Reason::NoPlace(_)))
            .map(|(vm, _)| vm.to_string())
            .collect();
        for vm in homeless.difference(&self.homeless) {
            self.world.trace.note(self.world.now, "alarm", &["unplaceable", vm]);
        }
        self.homeless = homeless;
    }

    fn wait_until(&mut self, number: usize, conditions: &[Condition]) -> Result<(), String> {
        let end = self.world.now + BOUND_MS;
        let mut since = None;
        loop {
            let mut all = true;
            for condition in conditions {
                all &= self.holds(condition)?;
            }
            if all {
                return Ok(());
            }
            if self.world.now >= end || self.world.violation.is_some() {
                self.world.trace.note_number(self.world.now, "unsettled", number);
                return Ok(());
            }
            if !self.settled() {
                since = None;
            } else if self.world.now - *since.get_or_insert(self.world.now) >= SETTLED_MS {
                self.world.trace.note_number(self.world.now, "phase-missed", number);
                return Ok(());
            }
            // The first moment: event by event.
            let Some(next) = self.world.next_at() else { return Ok(()) };
            self.go_on(next.max(self.world.now + 1));
        }
    }

    fn holds(&self, condition: &Condition) -> Result<bool, String> {
        let truth = self.world.truth();
        if let Some(name) = &condition.node {
            let host = self.host(name)?;
            let node = truth.nodes.values().find(|node| node.name.as_str() == name);
            let Some(node) = node else { return Ok(condition.is == Word::Unknown) };
            return Ok(match condition.is {
                Word::Up => node.state == NodeState::Online && self.world.hosts[host].on,
                Word::Unknown => node.state != NodeState::Online,
                Word::Maintenance => node.maintenance.is_some(),
                Word::BeingFenced => matches!(node.state, NodeState::Lost | NodeState::Fencing),
                _ => false,
            });
        }
        let Some(name) = &condition.vm else {
            return Err("a condition names neither a node nor a VM".into());
        };
        let vm = VmName::new(name).map_err(|error| error.to_string())?;
        let Some(record) = truth.vms.get(&vm) else { return Ok(false) };
        let waits_for_fence = record.owner.or(record.last_owner).is_some_and(|owner| {
            truth
                .nodes
                .get(&owner)
                .is_some_and(|node| matches!(node.state, NodeState::Lost | NodeState::Fencing))
        });
        Ok(match condition.is {
            Word::Running => record.state == VmState::Started && !waits_for_fence,
            Word::Stopped => matches!(record.state, VmState::Stopped | VmState::Disabled),
            Word::MovingLive => record.state == VmState::Migrating,
            Word::Recovering => {
                record.state == VmState::Recovering
                    || (record.state == VmState::Starting && record.failure.is_some())
            }
            Word::WaitingForFence => waits_for_fence,
            Word::Failed => record.state == VmState::Failed || gave_up(record),
            _ => false,
        })
    }
}
