//! What the clients do: they read VMs, and write them on the strength of what they read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use proto::v1::submit_request::Operation as Asked;
use proto::v1::{self, AddVm, EnableVm, RelocateVm};
use uuid::Uuid;

use crate::linearizability::checker::{Verdict, check};
use crate::linearizability::operator::{Answer, History, Replicas, Request, read, submit};
use crate::linearizability::register::{Operation, Outcome, Read, Register, State};

/// So that a history stays as short as a round and the events of all of it are kept.
const THINKING_MS: std::ops::Range<u64> = 0..40;
/// A client that gives up after one attempt leaves many outcomes unknown, one that never does leaves none.
const ATTEMPTS: std::ops::RangeInclusive<usize> = 1..=6;
/// Far more situations than a history that is linearizable needs.
const SITUATIONS: usize = 3_000_000;
const AGAIN: Duration = Duration::from_millis(20);

/// One VM under test.
pub struct Subject {
    /// Its name.
    pub name: String,
    uuid: Uuid,
    /// How it may change.
    pub register: Register,
}

impl Subject {
    /// A disabled VM that only its clients change, by edits.
    pub fn steady(number: usize) -> Self {
        Self::new(format!("steady{number}"), true)
    }

    /// A VM that is started, stopped and relocated.
    pub fn live(number: usize) -> Self {
        Self::new(format!("live{number}"), false)
    }

    fn new(name: String, steady: bool) -> Self {
        Self { name, uuid: Uuid::new_v4(), register: Register { steady } }
    }

    /// The VM with a value in the one field that an edit can set to anything and that stops nothing.
    fn spec(&self, stop_timeout_ms: u64) -> AddVm {
        let Self { name, uuid, .. } = self;
        AddVm {
            xml: format!(
                "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory>16384</memory></domain>"
            ),
            policy: Some(v1::VmPolicy {
                recovery: "restart".into(),
                migration: "live".into(),
                stop_timeout_ms,
                ..v1::VmPolicy::default()
            }),
        }
    }

    /// Puts it under management.
    pub async fn add(&self, replicas: &Replicas) -> Result<()> {
        let mut random = Rng::new();
        let request = request(&mut random, "setup".into(), Asked::AddVm(self.spec(1)), None);
        match submit(replicas, 0, 100, &request).await? {
            Answer::Register(Outcome::Done { .. }) => Ok(()),
            other => bail!("{} was not added: {other:?}", self.name),
        }
    }

    /// The VM as its register.
    pub fn seen(&self, vm: &v1::Vm) -> Result<Read> {
        let value = match (self.register.steady, &vm.operation) {
            (true, _) => {
                u128::from(vm.policy.as_ref().context("a VM without a policy")?.stop_timeout_ms)
            }
            (false, Some(operation)) => Uuid::parse_str(&operation.request_id)?.as_u128(),
            (false, None) => 0,
        };
        Ok(Read { value, revision: vm.revision, owner: vm.owner.clone() })
    }

    /// Reads it for as long as it takes.
    pub async fn now(&self, replicas: &Replicas) -> Result<v1::Vm> {
        for replica in 0.. {
            if let Some(vm) = read(replicas, replica, &self.name).await? {
                return Ok(vm);
            }
            tokio::time::sleep(AGAIN).await;
        }
        bail!("there are no replicas")
    }

    /// Waits until nothing is under way and it may run at most at its owner.
    pub async fn settled(&self, replicas: &Replicas, patience: Duration) -> Result<v1::Vm> {
        let begun = Instant::now();
        loop {
            let vm = self.now(replicas).await?;
            let open = vm.operation.as_ref().is_some_and(|operation| {
                operation.phase == "pending" || operation.phase == "halfway"
            });
            if !open && vm.may_run.iter().all(|node| vm.owner.as_ref() == Some(node)) {
                return Ok(vm);
            }
            ensure!(begun.elapsed() < patience, "{} does not settle: {vm:?}", self.name);
            tokio::time::sleep(AGAIN).await;
        }
    }
}

fn request(random: &mut Rng, operator: String, asked: Asked, expected: Option<u64>) -> Request {
    let id = uuid::Builder::from_random_bytes(random.u128(..).to_le_bytes()).into_uuid();
    Request { id, operator, asked, expected }
}

/// A subject in one round.
pub struct Watched {
    /// The VM.
    pub subject: Arc<Subject>,
    /// What the clients saw of it.
    pub history: History,
    begin: State,
}

impl Watched {
    /// Nobody writes it yet.
    pub async fn begin(
        subject: Arc<Subject>,
        replicas: &Replicas,
        patience: Duration,
        begun: Instant,
    ) -> Result<Self> {
        let vm = subject.settled(replicas, patience).await?;
        let begin = subject.seen(&vm)?.into();
        Ok(Self { subject, history: History::new(begun), begin })
    }

    /// Reads it and notes what was seen.
    pub async fn look(&self, replicas: &Replicas, replica: usize) -> Result<Option<v1::Vm>> {
        let called = self.history.now();
        let vm = read(replicas, replica, &self.subject.name).await?;
        if let Some(vm) = &vm {
            self.history.note(called, Operation::Read(self.subject.seen(vm)?));
        }
        Ok(vm)
    }

    /// Writes it and notes that, as one client that is alone.
    pub async fn overwrite(
        &self,
        replicas: &Replicas,
        replica: usize,
        operator: &str,
        value: u64,
    ) -> Result<()> {
        let asked = Asked::EditVm(self.subject.spec(value));
        let request = request(&mut Rng::new(), operator.into(), asked, None);
        let called = self.history.now();
        let answer = submit(replicas, replica, 1, &request).await?;
        let Answer::Register(outcome @ Outcome::Done { .. }) = answer else {
            bail!("{} was not written: {answer:?}", self.subject.name)
        };
        let value = u128::from(value);
        self.history.note(called, Operation::Write { value, expected: None, outcome });
        Ok(())
    }

    /// Whether all of it could have been done one at a time.
    pub fn check(&self) -> Result<()> {
        let operations = self.history.operations();
        let name = &self.subject.name;
        match check(&self.subject.register, self.begin.clone(), &operations, SITUATIONS) {
            Verdict::Linearizable => Ok(()),
            Verdict::Undecided => bail!("the history of {name} is too tangled to be decided"),
            Verdict::Violation { ordered, unexplained } => {
                let around = unexplained.saturating_sub(12)..operations.len().min(unexplained + 6);
                let lines: Vec<_> =
                    around.map(|index| format!("{index}: {:?}", operations[index])).collect();
                bail!(
                    "the history of {name} is not linearizable: {ordered} of {} operations can be ordered, \
                     then nothing explains {unexplained}, among\n{}",
                    operations.len(),
                    lines.join("\n")
                )
            }
        }
    }
}

/// A write, for comparing it with the events.
#[derive(Debug, Clone)]
pub struct Written {
    /// Who asked: a name of its own for each write.
    pub operator: String,
    /// Which VM.
    pub vm: String,
    /// What became of it.
    pub answer: Answer,
}

/// One client.
pub struct Client {
    /// Its number; names its writes together with the round.
    pub name: String,
    /// What it does is drawn from this.
    pub random: Rng,
    /// Whom it asks.
    pub replicas: Replicas,
    /// What it works on.
    pub watched: Arc<Vec<Watched>>,
    /// Where VMs can run.
    pub nodes: Vec<String>,
    /// Values for edits, each given once.
    pub values: Arc<AtomicU64>,
}

impl Client {
    /// Works until it is told to end; returns all its writes.
    pub async fn run(mut self, done: Arc<AtomicBool>) -> Result<Vec<Written>> {
        let mut written = Vec::new();
        // What was last seen of each VM; a write on the strength of it may come late.
        let mut last: Vec<Option<v1::Vm>> = vec![None; self.watched.len()];
        while !done.load(Ordering::SeqCst) {
            let index = self.random.usize(..self.watched.len());
            let watched = self.watched.clone();
            let watched = &watched[index];
            let replica = self.random.usize(..self.replicas.count());
            let late = self.random.u8(..8) == 0;
            if !late && let Some(vm) = watched.look(&self.replicas, replica).await? {
                last[index] = Some(vm);
            }
            if let Some(vm) = last[index].take_if(|_| self.random.bool())
                && let Some((value, asked)) = self.wish(&watched.subject, &vm)
            {
                let name = format!("{}-{}", self.name, written.len());
                written.push(self.write(watched, &vm, name, value, asked).await?);
            }
            let thinking = Duration::from_millis(self.random.u64(THINKING_MS));
            tokio::time::sleep(thinking).await;
        }
        Ok(written)
    }

    /// What may be asked of a VM that looks like this. Without a value, it is the request's id.
    fn wish(&mut self, subject: &Subject, vm: &v1::Vm) -> Option<(Option<u64>, Asked)> {
        if subject.register.steady {
            let value = self.values.fetch_add(1, Ordering::SeqCst);
            return Some((Some(value), Asked::EditVm(subject.spec(value))));
        }
        let name = vm.name.clone();
        let elsewhere: Vec<_> =
            self.nodes.iter().filter(|node| vm.owner.as_ref() != Some(node)).cloned().collect();
        let node = self.random.choice(elsewhere);
        let asked = match (vm.state.as_str(), self.random.u8(..8)) {
            ("started", 0) => Asked::Disable(name),
            ("started", 1) => Asked::Restart(name),
            ("started", _) => Asked::Relocate(RelocateVm { vm: name, to: node }),
            ("stopped" | "disabled", _) => Asked::Enable(EnableVm { vm: name, on: node }),
            (_, 0) => Asked::Disable(name),
            _ => return None,
        };
        Some((None, asked))
    }

    async fn write(
        &mut self,
        watched: &Watched,
        vm: &v1::Vm,
        operator: String,
        value: Option<u64>,
        asked: Asked,
    ) -> Result<Written> {
        let expected = (self.random.u8(..8) > 0).then_some(vm.revision);
        let request = request(&mut self.random, operator, asked, expected);
        let attempts = self.random.usize(ATTEMPTS);
        let replica = self.random.usize(..self.replicas.count());
        let called = watched.history.now();
        let answer = submit(&self.replicas, replica, attempts, &request).await?;
        if let Answer::Register(outcome) = answer {
            let value = value.map_or(request.id.as_u128(), u128::from);
            watched.history.note(called, Operation::Write { value, expected, outcome });
        }
        Ok(Written { operator: request.operator, vm: vm.name.clone(), answer })
    }
}
