//! What operators do, now and then.

use model::command::Operation;
use model::domain_xml;
use model::id::{NodeName, VmName};
use model::recovery::{RecoveryPolicy, RestartLimit};
use model::vm::{Desired, OnIsolation, VmPolicy, VmSpec, VmState};
use uuid::Uuid;

use super::agent::Request;
use super::world::{Event, World};

/// Something an operator does.
#[derive(Debug, Clone)]
pub enum OperatorAct {
    /// Anything, as chance has it.
    Anything,
    /// This, through any replica; tried again when nobody answers.
    Submit(Uuid, Box<Operation>, u32),
    /// One of the further acts, as chance has it.
    More,
    /// One of the rare acts, as chance has it.
    Rare,
    /// What they hold is given back.
    Undo,
    /// A service that was added a moment ago is to run.
    EnableService(usize),
}

/// A VM of the sweep.
pub fn spec(number: usize, policy: VmPolicy) -> VmSpec {
    let uuid = Uuid::from_u128(0x100 + number as u128);
    let xml = format!(
        "<domain type='kvm'><name>vm{number}</name><uuid>{uuid}</uuid><memory unit='MiB'>64</memory></domain>"
    );
    let domain = domain_xml::parse(&xml).unwrap_or_else(|error| panic!("{error}"));
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

impl World {
    /// An operator asks something, and goes on asking until somebody answers.
    pub fn submit(&mut self, operation: Operation) -> Uuid {
        let request = self.uuid();
        self.after(0, Event::Operate(OperatorAct::Submit(request, Box::new(operation), 0)));
        request
    }

    pub(super) fn operate(&mut self, act: OperatorAct) {
        match act {
            OperatorAct::Anything => {
                if self.calm {
                    return;
                }
                let pause = self.rng.u64(500..4_000);
                self.after(pause, Event::Operate(OperatorAct::Anything));
                if let Some(operation) = self.some_operation() {
                    self.submit(operation);
                }
            }
            OperatorAct::More => self.act_more(),
            OperatorAct::Rare => self.act_rarely(),
            OperatorAct::Undo => self.undo_more(),
            OperatorAct::EnableService(number) => self.enable_service(number),
            OperatorAct::Submit(request, operation, tries) => {
                if self.answers.contains_key(&request) || tries > 200 {
                    return;
                }
                let members = self.planes.last().map(|plane| plane.members.clone());
                let Some(members) = members.filter(|members| !members.is_empty()) else { return };
                let replica = members[self.rng.usize(0..members.len())];
                let asked = Request::Submit { request, operation: operation.clone() };
                let event =
                    Event::ToReplica { replica, host: None, request: asked, forwarded: false };
                let delay = self.between(self.network.delay);
                self.after(delay, event);
                let again = OperatorAct::Submit(request, operation, tries + 1);
                self.after(1_000, Event::Operate(again));
            }
        }
    }

    fn some_host(&mut self) -> NodeName {
        let number = self.rng.usize(0..self.hosts.len());
        NodeName::new(&self.hosts[number].name).unwrap_or_else(|error| panic!("{error}"))
    }

    fn some_operation(&mut self) -> Option<Operation> {
        let number = self.rng.usize(0..self.options.vms);
        let vm = VmName::new(format!("vm{number}")).ok()?;
        let truth = self.truth();
        if !truth.vms.contains_key(&vm) {
            return Some(Operation::AddVm(Box::new(spec(number, self.some_policy()))));
        }
        let record = truth.vms.get(&vm)?;
        // To enable a lost VM is to say that it runs nowhere: only after a look.
        let runs = !self.copies(record.spec.uuid).is_empty();
        Some(match self.rng.u32(0..20) {
            0..=5 if record.state == VmState::Lost && runs => return None,
            0..=3 => Operation::Enable { vm, on: None },
            4 => Operation::Enable { vm, on: Some(self.some_host()) },
            5 => Operation::Disable(vm),
            6 => Operation::Stop { vm, now: self.rng.bool() },
            7 => Operation::Restart(vm),
            8 => Operation::Relocate { vm, to: None },
            9..=14 => Operation::Migrate { vm, to: self.some_host(), mode: None },
            15 => Operation::Cancel(vm),
            16 => Operation::ForgetVm(vm),
            17 => {
                let mut spec = record.spec.clone();
                spec.policy = self.some_policy();
                Operation::EditVm(Box::new(spec))
            }
            // An operator tells the truth, and only after a look.
            18 => {
                let off = self.hosts.iter().position(|host| !host.on)?;
                let node = NodeName::new(&self.hosts[off].name).ok()?;
                // It stays off as long as the word is on its way.
                self.hosts[off].boots_after_ms.filter(|delay| *delay > 20_000)?;
                Operation::ConfirmOff { node, why: "its plug is out".into() }
            }
            // What a lost VM asks for, when it surely runs nowhere.
            _ => match (record.state, record.desired) {
                (VmState::Conflict, _) => {
                    let (host, _) = *self.copies(record.spec.uuid).first()?;
                    let keep = NodeName::new(&self.hosts[host].name).ok()?;
                    Operation::Resolve { vm, keep }
                }
                (VmState::Lost, _) if runs => return None,
                (_, Desired::Disabled) => Operation::Enable { vm, on: None },
                _ => Operation::RemoveNode(self.some_host()),
            },
        })
    }

    fn some_policy(&mut self) -> VmPolicy {
        let recovery = match self.rng.u32(0..4) {
            0 => RecoveryPolicy::Relocate,
            1 => RecoveryPolicy::RestartDisable,
            _ => RecoveryPolicy::Restart,
        };
        VmPolicy {
            recovery,
            restart_limit: RestartLimit {
                max_restarts: self.rng.u32(0..3),
                expire_ms: self.rng.u64(0..2) * 30_000,
            },
            stop_timeout_ms: self.rng.u64(0..4) * 1_000,
            on_isolation: match self.rng.u32(0..4) {
                0 => OnIsolation::Destroy,
                _ => OnIsolation::Suspend,
            },
            ..VmPolicy::default()
        }
    }
}
