//! The session with the control plane: register, heartbeat, orders, reports; through any replica.
//!
//! ```text
//!  register ──▶ in session: heartbeats │ orders │ reports ──"the session is over"──▶ register …
//! ```
//! A replica that does not answer is left for the next one at once. Reports survive sessions only where they say what
//! became of an order; what was seen is told anew by the next registration.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use fence::FenceAgents;
use proto::channel::{CLUSTER, ChannelError, TlsFiles, endpoint};
use proto::convert::rejection;
use proto::v1::agent_session_client::AgentSessionClient;
use proto::v1::{
    self, AnnounceRequest, HeartbeatRequest, JobProgress, LeaveRequest, RegisterReply,
    RegisterRequest, ReportRequest, WatchOrdersRequest,
};
use tokio::sync::{mpsc, watch};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::agent::{Input, Jobs, lock};
use crate::clock::Reading;
use crate::hypervisor::HypervisorHandle;
use crate::load::Loads;
use crate::outbox::{Outbox, Refused};

/// Between two rounds over all replicas that all failed.
const ROUND_PAUSE: Duration = Duration::from_millis(100);
/// A report or a registration waits for a commit, and for an election before it.
const COMMIT_LIMIT: Duration = Duration::from_secs(3);
/// While a migration runs its progress is told this often.
const PROGRESS_PERIOD: Duration = Duration::from_millis(200);
/// Before questions are listened for again.
const QUESTION_PAUSE: Duration = Duration::from_millis(500);
/// libvirt answers in milliseconds, or it hangs; whoever asked waits longer than this.
const DESCRIBE_LIMIT: Duration = Duration::from_secs(4);

type Client = AgentSessionClient<InterceptedService<Channel, NamesCluster>>;

/// The replicas, and the one that answered last.
#[derive(Clone)]
pub struct Servers {
    clients: Arc<Vec<(String, Client)>>,
    current: Arc<watch::Sender<usize>>,
    cluster: Arc<watch::Sender<Option<Uuid>>>,
}

/// Says with every request which cluster the ledger is of: replicas of another one refuse it.
#[derive(Clone)]
pub(crate) struct NamesCluster(watch::Receiver<Option<Uuid>>);

impl Interceptor for NamesCluster {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(cluster) = *self.0.borrow() {
            let named = cluster.to_string().parse();
            let named = named.map_err(|_| Status::internal("a cluster's name is no metadata"))?;
            request.metadata_mut().insert(CLUSTER, named);
        }
        Ok(request)
    }
}

/// As the replicas' own limit.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

impl Servers {
    /// Connections are made when they are first used. `cluster` is the one that the ledger is of.
    pub fn new(
        addresses: &[String],
        tls: Option<&TlsFiles>,
        cluster: Option<Uuid>,
    ) -> Result<Self, ChannelError> {
        let cluster = watch::Sender::new(cluster);
        let client = |address: &String| {
            let names = NamesCluster(cluster.subscribe());
            let client =
                AgentSessionClient::with_interceptor(endpoint(address, tls)?.connect_lazy(), names);
            Ok((address.clone(), client.max_decoding_message_size(MAX_MESSAGE_BYTES)))
        };
        let clients = addresses.iter().map(client).collect::<Result<Vec<_>, ChannelError>>()?;
        let current = Arc::new(watch::Sender::new(0));
        Ok(Self { clients: Arc::new(clients), current, cluster: Arc::new(cluster) })
    }

    /// From now on the ledger is of this cluster.
    pub fn are_of(&self, cluster: Uuid) {
        self.cluster.send_replace(Some(cluster));
    }

    pub(crate) fn pick(&self) -> (usize, &str, Client) {
        let current = *self.current.borrow();
        let (address, client) = &self.clients[current];
        (current, address, client.clone())
    }

    /// Before the same is asked again, of whichever replica heartbeats have found by then.
    pub(crate) async fn pause(&self) {
        tokio::time::sleep(ROUND_PAUSE).await;
    }

    /// Leaves a replica that failed, unless somebody did before. Pauses after each round.
    async fn leave(&self, failed: usize) {
        let next = (failed + 1) % self.clients.len();
        let left = self.current.send_if_modified(|current| {
            let left = *current == failed;
            if left {
                *current = next;
            }
            left
        });
        if left && next == 0 {
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }

    /// What comes of a call through a replica, or UNAVAILABLE once that one was left: a host that lost its power closes no
    /// connection, and the first to notice is the heartbeat.
    pub(crate) async fn unless_left<T>(
        &self,
        index: usize,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let mut current = self.current.subscribe();
        tokio::select! {
            answer = call => answer,
            // The sender lives as long as this.
            _ = current.wait_for(|current| *current != index) => Err(Status::unavailable("the replica was left")),
        }
    }
}

/// Whether the leader said that this session is over.
pub(crate) fn is_over(status: &Status) -> bool {
    rejection::word(status) == Some("old-session")
}

/// What a session works with.
pub struct Session {
    /// The replicas.
    pub servers: Servers,
    /// What the leader gave.
    pub given: RegisterReply,
    /// Migrations under way.
    pub jobs: Jobs,
    /// What guests use, where it was measured since the last heartbeat.
    pub loads: Loads,
    /// What is asked about domains.
    pub hypervisor: HypervisorHandle,
    /// Where orders and answered heartbeats go.
    pub inputs: mpsc::UnboundedSender<Input>,
    /// By what other nodes are fenced from here.
    pub fence_agents: FenceAgents,
}

/// Registers, for as long as no replica answers. `None` when the leader refused it: the inventory is to be taken anew, for
/// while a registration is refused (a fence is under way, say) a guest may arrive that the old one does not know of.
/// `complaint` is the last one that was logged, kept from one attempt to the next.
pub async fn register(
    servers: &Servers,
    mut request: RegisterRequest,
    complaint: &mut String,
) -> Option<RegisterReply> {
    let mut announced = false;
    loop {
        let (index, address, mut client) = servers.pick();
        let answer = if announced {
            let mut message = Request::new(request.clone());
            message.set_timeout(COMMIT_LIMIT);
            client.register(message).await.map(Some)
        } else {
            let mut message = Request::new(AnnounceRequest { node: request.node.clone() });
            message.set_timeout(COMMIT_LIMIT);
            client.announce(message).await.map(|reply| {
                request.replaces = reply.into_inner().last_session;
                announced = true;
                None
            })
        };
        match answer {
            Ok(None) => {}
            Ok(Some(reply)) => {
                let reply = reply.into_inner();
                info!(session = reply.session, through = address, "registered");
                complaint.clear();
                return Some(reply);
            }
            Err(status) if rejection::word(&status) == Some("out-of-turn") => {
                warn!(through = address, "{}", status.message());
                return None;
            }
            Err(status) => {
                // One line for each new complaint, not for each attempt.
                if complaint != status.message() {
                    *complaint = status.message().to_owned();
                    warn!(through = address, code = ?status.code(), %complaint, "not registered yet");
                }
                let refused = rejection::word(&status).is_some();
                if !refused {
                    servers.leave(index).await;
                    continue;
                }
                tokio::time::sleep(ROUND_PAUSE).await;
                if announced {
                    return None;
                }
            }
        }
    }
}

/// Tells the control plane that this agent ends by plan, for as long as it takes.
pub async fn leave(servers: &Servers, given: &RegisterReply) {
    let request_id = Uuid::new_v4().to_string();
    loop {
        let (index, address, mut client) = servers.pick();
        let mut request = Request::new(LeaveRequest {
            request_id: request_id.clone(),
            node_id: given.node_id,
            session: given.session,
        });
        request.set_timeout(COMMIT_LIMIT);
        match client.leave(request).await {
            Ok(_) => return,
            // A session that is over proves nothing any more either.
            Err(status) if is_over(&status) => return,
            Err(status) => {
                debug!(through = address, code = ?status.code(), "no farewell there: {}", status.message());
                servers.leave(index).await;
            }
        }
    }
}

impl Session {
    /// Until the leader says that the session is over.
    pub async fn run(self: &Arc<Self>, outbox: &mut Outbox) {
        let why = tokio::select! {
            why = self.heartbeats() => why,
            why = self.watch_orders() => why,
            why = self.reports(outbox) => why,
            why = self.questions() => why,
            why = self.watch_fences() => why,
        };
        info!(session = self.given.session, why, "the session is over");
    }

    async fn heartbeats(&self) -> String {
        let (mut heartbeat_ms, mut answer_timeout_ms) =
            (self.given.heartbeat_ms, self.given.answer_timeout_ms);
        let mut number = 0;
        loop {
            number += 1;
            let period = Duration::from_millis(heartbeat_ms.max(10));
            let limit = Duration::from_millis(answer_timeout_ms.max(10));
            let (index, address, mut client) = self.servers.pick();
            let jobs = self.progress();
            let migrating = !jobs.is_empty();
            let mut request = Request::new(HeartbeatRequest {
                node_id: self.given.node_id,
                session: self.given.session,
                number,
                jobs,
                epoch: self.given.epoch,
                loads: std::mem::take(&mut *lock(&self.loads)),
            });
            request.set_timeout(limit);
            let sent = Reading::now();
            // The time-out that travels with the request is the server's to keep; this one is ours.
            let answer = tokio::time::timeout(limit, client.heartbeat(request)).await;
            match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))) {
                Ok(reply) => {
                    // The receiver lives as long as the process.
                    let _ = self.inputs.send(Input::HeartbeatAnswered(sent));
                    let reply = reply.into_inner();
                    if reply.heartbeat_ms > 0 && reply.answer_timeout_ms > 0 {
                        // Settings that were changed hold at once: silence is measured by them already.
                        heartbeat_ms = reply.heartbeat_ms;
                        answer_timeout_ms = reply.answer_timeout_ms;
                    }
                    let pause = if migrating { PROGRESS_PERIOD.min(period) } else { period };
                    let spent = Duration::from_millis(Reading::now().since(sent));
                    tokio::time::sleep(pause.saturating_sub(spent)).await;
                }
                Err(status) if is_over(&status) => return status.message().to_owned(),
                Err(status) => {
                    debug!(through = address, code = ?status.code(), "a heartbeat was not answered: {}", status.message());
                    // At once through the next one: every half second counts towards the lease.
                    self.servers.leave(index).await;
                }
            }
        }
    }

    fn progress(&self) -> Vec<JobProgress> {
        let jobs: BTreeMap<Uuid, _> = lock(&self.jobs).clone();
        jobs.into_iter()
            .map(|(uuid, (order, stats))| JobProgress {
                uuid: uuid.to_string(),
                order,
                elapsed_ms: stats.elapsed_ms,
                total_bytes: stats.total_bytes,
                processed_bytes: stats.processed_bytes,
                remaining_bytes: stats.remaining_bytes,
            })
            .collect()
    }

    async fn watch_orders(&self) -> String {
        loop {
            let (index, address, mut client) = self.servers.pick();
            let request =
                WatchOrdersRequest { node_id: self.given.node_id, session: self.given.session };
            let status = match tokio::time::timeout(
                COMMIT_LIMIT,
                self.servers.unless_left(index, client.watch_orders(request)),
            )
            .await
            {
                Err(_) => Status::deadline_exceeded("no answer in time"),
                Ok(Err(status)) => status,
                Ok(Ok(stream)) => {
                    let mut stream = stream.into_inner();
                    loop {
                        match self.servers.unless_left(index, stream.message()).await {
                            Ok(Some(list)) => drop(self.inputs.send(Input::Orders(list))),
                            Ok(None) => break Status::unavailable("the stream ended"),
                            Err(status) => break status,
                        }
                    }
                }
            };
            if is_over(&status) {
                return status.message().to_owned();
            }
            debug!(through = address, code = ?status.code(), "no orders from there: {}", status.message());
            self.servers.leave(index).await;
        }
    }

    /// What operators want to know: nothing depends on it, so a failure is left for the next stream.
    async fn questions(&self) -> String {
        loop {
            let (index, address, mut client) = self.servers.pick();
            let request =
                WatchOrdersRequest { node_id: self.given.node_id, session: self.given.session };
            let opened = self.servers.unless_left(index, client.watch_questions(request)).await;
            let status = match opened {
                Err(status) => status,
                Ok(stream) => {
                    let mut stream = stream.into_inner();
                    loop {
                        match self.servers.unless_left(index, stream.message()).await {
                            Ok(Some(question)) => self.answer(&mut client, question).await,
                            Ok(None) => break Status::unavailable("the stream ended"),
                            Err(status) => break status,
                        }
                    }
                }
            };
            if is_over(&status) {
                return status.message().to_owned();
            }
            debug!(through = address, code = ?status.code(), "no questions from there: {}", status.message());
            tokio::time::sleep(QUESTION_PAUSE).await;
        }
    }

    async fn answer(&self, client: &mut Client, question: v1::Question) {
        let answer = match Uuid::parse_str(&question.uuid) {
            Ok(uuid) => self
                .hypervisor
                .call("describe a domain", DESCRIBE_LIMIT, move |it| it.definition(uuid))
                .await
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let (xml, error) = match answer {
            Ok(xml) => (xml, None),
            Err(error) => (String::new(), Some(error)),
        };
        let mut request = Request::new(v1::AnswerRequest {
            node_id: self.given.node_id,
            session: self.given.session,
            question: question.id,
            xml,
            error,
        });
        request.set_timeout(COMMIT_LIMIT);
        if let Err(status) = client.answer(request).await {
            debug!(code = ?status.code(), "an answer was not taken: {}", status.message());
        }
    }

    async fn reports(&self, outbox: &mut Outbox) -> String {
        let mut request_id = Uuid::new_v4();
        loop {
            let Some(reports) = outbox.batch().await else {
                return "the agent is ending".into();
            };
            let (index, address, mut client) = self.servers.pick();
            let mut request = Request::new(ReportRequest {
                request_id: request_id.to_string(),
                node_id: self.given.node_id,
                session: self.given.session,
                reports,
            });
            request.set_timeout(COMMIT_LIMIT);
            match self.servers.unless_left(index, client.report(request)).await {
                Ok(_) => outbox.taken(),
                Err(status) if is_over(&status) => return status.message().to_owned(),
                Err(status) if status.code() == Code::InvalidArgument => {
                    if outbox.refused(status.message()) == Refused::EndSession {
                        return "what was seen here could not be told".into();
                    }
                }
                Err(status) => {
                    debug!(through = address, code = ?status.code(), "reports were not taken: {}", status.message());
                    self.servers.leave(index).await;
                    // The same again, under the same id: it may have been taken.
                    continue;
                }
            }
            request_id = Uuid::new_v4();
        }
    }
}
