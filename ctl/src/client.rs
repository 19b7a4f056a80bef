//! Requests to whichever replica answers, within the command's deadline.
//!
//! A request that changes something keeps its id over all attempts, so that it is done once even when an answer was
//! lost on the way.

use std::future::Future;
use std::time::Duration;

use proto::channel::{TlsFiles, endpoint};
use proto::v1::control_client::ControlClient;
use proto::v1::{self, submit_request};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use uuid::Uuid;

use crate::args::Arguments;
use crate::exit::{Failure, Kind};

/// One attempt; a replica that is there answers within its own proposal time-out.
const ATTEMPT: Duration = Duration::from_secs(6);
/// Between two rounds over all replicas.
const PAUSE: Duration = Duration::from_millis(200);
/// Without a leader for so long, a command that changes or shows something gives up, whatever its deadline is for.
const LEADER_PATIENCE: Duration = Duration::from_secs(15);
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

type Client = ControlClient<Channel>;

/// The replicas.
pub struct Cluster {
    clients: Vec<(String, Client)>,
    deadline: Instant,
    patience: Instant,
    attempt: Duration,
    operator: String,
}

impl Cluster {
    /// Connects when it is first used.
    pub fn new(arguments: &Arguments) -> Result<Self, Failure> {
        let tls = match (&arguments.tls_ca, &arguments.tls_cert, &arguments.tls_key) {
            (Some(ca), Some(certificate), Some(key)) => Some(TlsFiles {
                ca: ca.clone(),
                certificate: certificate.clone(),
                key: key.clone(),
            }),
            _ => None,
        };
        let client = |address: &String| {
            let endpoint = endpoint(address, tls.as_ref())
                .map_err(|error| Failure::new(Kind::Input, error.to_string()))?;
            let client =
                Client::new(endpoint.connect_lazy()).max_decoding_message_size(MAX_MESSAGE_BYTES);
            Ok((address.clone(), client))
        };
        let operator = arguments
            .operator
            .clone()
            .or_else(|| std::env::var("USER").ok())
            .unwrap_or_else(|| "operator".into());
        Ok(Self {
            clients: arguments.servers.iter().map(client).collect::<Result<_, Failure>>()?,
            deadline: Instant::now() + arguments.timeout,
            patience: Instant::now() + arguments.timeout.min(LEADER_PATIENCE),
            attempt: ATTEMPT,
            operator,
        })
    }

    /// The same, with so long for one replica to answer.
    pub fn hurried(self, attempt: Duration) -> Self {
        Self { attempt, ..self }
    }

    /// When the command has to end.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Asks one replica after the other until one answers, or says no.
    pub async fn ask<T, F>(&self, ask: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let mut complaints = Vec::new();
        loop {
            complaints.clear();
            for (address, client) in &self.clients {
                let limit =
                    self.attempt.min(self.deadline.saturating_duration_since(Instant::now()));
                let answer = tokio::time::timeout(limit, ask(client.clone())).await;
                match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
                {
                    Ok(answer) => return Ok(answer),
                    Err(status) if worth_another(&status) => {
                        complaints.push(format!("{address}: {}", explain(&status)))
                    }
                    Err(status) => return Err(status.into()),
                }
            }
            if Instant::now() + PAUSE >= self.patience {
                return Err(Failure::new(Kind::Unreachable, complaints.join("; ")));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks for a change; returns the request's id and the answer.
    pub async fn submit(
        &self,
        operation: submit_request::Operation,
    ) -> Result<(String, v1::SubmitReply), Failure> {
        self.submit_if(operation, None).await
    }

    /// The same; refused as `superseded` unless the VM or service that it is about is still as at that revision of it.
    pub async fn submit_if(
        &self,
        operation: submit_request::Operation,
        expected_revision: Option<u64>,
    ) -> Result<(String, v1::SubmitReply), Failure> {
        let request_id = Uuid::new_v4().to_string();
        let message = v1::SubmitRequest {
            request_id: request_id.clone(),
            operator: self.operator.clone(),
            expected_revision,
            operation: Some(operation),
        };
        let reply = self
            .ask(|mut client| {
                let message = message.clone();
                async move {
                    client.submit(Request::new(message)).await.map(tonic::Response::into_inner)
                }
            })
            .await?;
        Ok((request_id, reply))
    }

    /// One VM, as the leader has it.
    pub async fn vm(&self, name: &str, with_xml: bool) -> Result<v1::Vm, Failure> {
        self.vm_of(name, with_xml, false).await
    }

    /// One VM; where it is `stale`, as the replica that is asked has it.
    pub async fn vm_of(&self, name: &str, with_xml: bool, stale: bool) -> Result<v1::Vm, Failure> {
        let message = v1::GetVmRequest { vm: name.to_owned(), with_xml, stale };
        self.ask(|mut client| {
            let message = message.clone();
            async move { client.get_vm(message).await.map(tonic::Response::into_inner) }
        })
        .await
    }
}

/// A failure that another replica, or the next moment, may not have. Sending the same request again is safe.
pub fn worth_another(status: &Status) -> bool {
    // A status with a cause was made here, by the connection, and not by a replica.
    std::error::Error::source(status).is_some()
        || matches!(
            status.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown
        )
}

/// The transport's words are about itself; what an operator can act on is whether anybody is there.
fn explain(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    if text.contains("http2 error")
        || text.contains("transport error")
        || text.contains("InvalidMessage")
        || text.contains("frame with invalid size")
    {
        text.push_str(" (is --tls-ca, --tls-cert or --tls-key missing, wrong or too much?)");
    }
    text
}
