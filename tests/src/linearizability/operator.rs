//! A client of the control plane that notes what it asked and what it was told.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use proto::channel::endpoint;
use proto::convert::rejection;
use proto::v1::control_client::ControlClient;
use proto::v1::submit_request::Operation as Asked;
use proto::v1::{self, SubmitRequest};
use tonic::transport::Channel;
use tonic::{Code, Status};
use uuid::Uuid;

use crate::linearizability::checker::Timed;
use crate::linearizability::register::{Operation, Outcome};

/// A replica that is cut off does not answer at all; the others answer well within this, also in an election.
const ATTEMPT: Duration = Duration::from_millis(1_500);

/// Connections to all replicas, each made when it is used.
#[derive(Clone)]
pub struct Replicas {
    channels: Vec<Channel>,
}

impl Replicas {
    /// To be called in a runtime. `endpoints` are `HOST:PORT`.
    pub fn new(endpoints: &[String]) -> Result<Self> {
        let channel = |address: &String| Ok(endpoint(address, None)?.connect_lazy());
        Ok(Self { channels: endpoints.iter().map(channel).collect::<Result<_>>()? })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.channels.len()
    }

    /// One, by number from 0; counted round.
    pub fn channel(&self, number: usize) -> Channel {
        self.channels[number % self.channels.len()].clone()
    }

    /// The same, for operators.
    pub fn control(&self, number: usize) -> ControlClient<Channel> {
        ControlClient::new(self.channel(number))
    }
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// As the register knows it.
    Register(Outcome),
    /// Refused, whatever the revision was: nothing was written.
    Refused,
}

/// One request, to whom it may concern.
#[derive(Debug, Clone)]
pub struct Request {
    /// Made anew for each; kept over attempts.
    pub id: Uuid,
    /// Who asks, for the events.
    pub operator: String,
    /// What is asked.
    pub asked: Asked,
    /// Only if the VM is at this revision.
    pub expected: Option<u64>,
}

/// Asks for a change, up to `attempts` times, each time at another replica, the first at `replica`.
pub async fn submit(
    replicas: &Replicas,
    replica: usize,
    attempts: usize,
    request: &Request,
) -> Result<Answer> {
    for attempt in 0..attempts {
        let message = SubmitRequest {
            request_id: request.id.to_string(),
            operator: request.operator.clone(),
            expected_revision: request.expected,
            operation: Some(request.asked.clone()),
        };
        let mut client = replicas.control(replica + attempt);
        match within(client.submit(message)).await {
            Ok(reply) => {
                return Ok(Answer::Register(Outcome::Done { revision: reply.revision }));
            }
            Err(status) => match rejection::word(&status) {
                Some("superseded") => return Ok(Answer::Register(Outcome::Superseded)),
                Some("wrong-state" | "busy" | "bad-target") => return Ok(Answer::Refused),
                Some(_) => bail!("{request:?} was refused: {status}"),
                None => may_be_trouble(&status)?,
            },
        }
    }
    Ok(Answer::Register(Outcome::Unknown))
}

/// Reads a VM through one replica; `None` when there was no answer.
pub async fn read(replicas: &Replicas, replica: usize, vm: &str) -> Result<Option<v1::Vm>> {
    let message = v1::GetVmRequest { vm: vm.into(), with_xml: false, stale: false };
    match within(replicas.control(replica).get_vm(message)).await {
        Ok(vm) => Ok(Some(vm)),
        Err(status) => may_be_trouble(&status).map(|()| None),
    }
}

/// Reads a VM from what one replica has applied, without asking the others.
pub async fn read_stale(replicas: &Replicas, replica: usize, vm: &str) -> Result<Option<v1::Vm>> {
    let message = v1::GetVmRequest { vm: vm.into(), with_xml: false, stale: true };
    match within(replicas.control(replica).get_vm(message)).await {
        Ok(vm) => Ok(Some(vm)),
        Err(status) => may_be_trouble(&status).map(|()| None),
    }
}

pub(super) async fn within<T>(
    answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(ATTEMPT, answer).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

/// No answer is what these replicas may have; anything else is a mistake, theirs or of the test.
pub(super) fn may_be_trouble(status: &Status) -> Result<()> {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown => Ok(()),
        _ => bail!("a replica answers {status}"),
    }
}

/// How much was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Reads with an answer.
    pub reads: usize,
    /// Writes that were done.
    pub done: usize,
    /// Writes that were refused because the VM had changed.
    pub superseded: usize,
    /// Writes without an answer.
    pub unknown: usize,
}

/// The history of one VM, as it is written down by all clients.
pub struct History {
    begun: Instant,
    operations: Mutex<Vec<Timed<Operation>>>,
}

impl History {
    /// An empty one; `begun` is the same for all that are compared.
    pub fn new(begun: Instant) -> Self {
        Self { begun, operations: Mutex::default() }
    }

    /// The present moment.
    pub fn now(&self) -> u64 {
        self.begun.elapsed().as_nanos() as u64
    }

    /// Notes an operation that was called at `called` and is answered now; one of unknown outcome never is.
    pub fn note(&self, called: u64, operation: Operation) {
        let unknown = matches!(operation, Operation::Write { outcome: Outcome::Unknown, .. });
        let answered = (!unknown).then(|| self.now());
        self.lock().push(Timed { called, answered, operation });
    }

    /// All operations, in the order of their calls.
    pub fn operations(&self) -> Vec<Timed<Operation>> {
        let mut operations = self.lock().clone();
        operations.sort_by_key(|timed| timed.called);
        operations
    }

    /// How much was done.
    pub fn count(&self) -> Count {
        let mut count = Count::default();
        for timed in self.lock().iter() {
            match &timed.operation {
                Operation::Read(_) => count.reads += 1,
                Operation::Write { outcome: Outcome::Done { .. }, .. } => count.done += 1,
                Operation::Write { outcome: Outcome::Superseded, .. } => count.superseded += 1,
                Operation::Write { outcome: Outcome::Unknown, .. } => count.unknown += 1,
            }
        }
        count
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Timed<Operation>>> {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
