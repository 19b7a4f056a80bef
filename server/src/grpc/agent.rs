//! The agents' service.

mod fences;

use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use model::cluster::Detail;
use model::command::{Command, Operation};
use model::id::{NodeId, RequestId, SessionId};
use model::node::AfterShutdown;
use model::order;
use model::rejection::Rejection;
use proto::channel::CLUSTER;
use proto::convert::{self, agent as convert_agent, rejection};
use proto::v1::agent_session_client::AgentSessionClient;
use proto::v1::agent_session_server::AgentSession;
use proto::v1::{self, OrderList};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::clock;
use crate::grpc::forward::{Route, Router, forwarded};
use crate::grpc::questions::Questions;
use crate::grpc::status;
use crate::leader::{LeaderHandle, OrderBook, lead};
use crate::raft::RaftHandle;
use crate::server::MAX_MESSAGE_BYTES;

type Answer<T> = Result<Response<T>, Status>;

/// Orders are sent again this often even when nothing changed: what an agent could not answer it is asked again.
const REPEAT: Duration = Duration::from_secs(2);

/// Serves agents, or passes them on to the leader.
#[derive(Clone)]
pub struct AgentService {
    raft: RaftHandle,
    router: Router,
    leader: LeaderHandle,
    questions: Questions,
}

impl AgentService {
    /// The service of this replica.
    pub fn new(
        raft: RaftHandle,
        router: Router,
        leader: LeaderHandle,
        questions: Questions,
    ) -> Self {
        Self { raft, router, leader, questions }
    }

    async fn propose(
        &self,
        request_id: &str,
        by: String,
        operation: Operation,
    ) -> Result<model::Accepted, Status> {
        let request =
            convert::uuid("request_id", request_id).map_err(|error| status::invalid(&error))?;
        let command = Command { request: RequestId(request), at: clock::now(), by, operation };
        let applied =
            self.raft.propose(command).await.map_err(|error| status::not_proposed(&error))?;
        status::rejected(applied.outcome)
    }

    fn old_session(&self, node: NodeId, session: SessionId) -> Status {
        let node = self.raft.state().node_name(node);
        rejection::status(&Rejection::OldSession { node, session: session.0 })
    }

    fn is_current(&self, node: NodeId, session: SessionId) -> bool {
        lead::in_session(&self.raft.state(), node, session)
    }

    /// An agent that has met a higher epoch tells of a restored control plane: this one stops.
    fn check_epoch(&self, met: u64) -> Result<(), Status> {
        let ours = self.raft.state().epoch;
        if self.leader.meets_epoch(met, ours) {
            return Err(Status::failed_precondition(format!(
                "this control plane is of epoch {ours}, and the agent has met epoch {met}"
            )));
        }
        Ok(())
    }
}

/// Agents name the cluster that their ledger is of with every request. Those of another one come by after a move, or with wrong
/// addresses: its sessions, epochs and reports mean nothing here, whatever numbers they bear.
pub fn of_this_cluster(
    raft: RaftHandle,
) -> impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone {
    move |request| {
        let named = request.metadata().get(CLUSTER).and_then(|named| named.to_str().ok());
        let own = raft.state().cluster.map(|own| own.to_string());
        match (named, own) {
            (Some(named), Some(own)) if named != own => Err(Status::failed_precondition(format!(
                "this host is of cluster {named}, and these are replicas of cluster {own}; to move the host, stop its agent, make sure that nothing of the other cluster runs there, and remove `ledger` from the agent's data directory"
            ))),
            _ => Ok(request),
        }
    }
}

/// Of the leader.
fn client(channel: &Channel) -> AgentSessionClient<Channel> {
    AgentSessionClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

#[tonic::async_trait]
impl AgentSession for AgentService {
    async fn announce(&self, request: Request<v1::AnnounceRequest>) -> Answer<v1::AnnounceReply> {
        if let Route::Leader(leader) = self.router.route(&request)? {
            let mut client = client(&leader.channel);
            return leader.answer(client.announce(forwarded(request))).await;
        }
        let name = convert::control::node(&request.into_inner().node)
            .map_err(|error| status::invalid(&error))?;
        self.raft.read_barrier().await.map_err(|error| status::not_proposed(&error))?;
        let state = self.raft.state();
        let node = state.node_named(&name);
        if let Some(node) = node {
            self.leader.detector().contacted(node.id, self.leader.elapsed_ms());
        }
        let last_session = node.map(|node| node.last_session.0);
        Ok(Response::new(v1::AnnounceReply { last_session }))
    }

    async fn register(&self, request: Request<v1::RegisterRequest>) -> Answer<v1::RegisterReply> {
        self.check_epoch(request.get_ref().epoch)?;
        if let Route::Leader(leader) = self.router.route(&request)? {
            let mut client = client(&leader.channel);
            return leader.answer(client.register(forwarded(request))).await;
        }
        let message = request.into_inner();
        let request_id = message.request_id.clone();
        let registration =
            convert_agent::registration(message).map_err(|error| status::invalid(&error))?;
        let by = registration.name.to_string();
        let accepted =
            self.propose(&request_id, by, Operation::Register(Box::new(registration))).await?;
        let Detail::Registered { node, session } = accepted.detail else {
            return Err(Status::internal("a registration gave no session"));
        };
        let state = self.raft.state();
        let floors = order::floors(&state, node);
        Ok(Response::new(v1::RegisterReply {
            node_id: node.0,
            session: session.0,
            epoch: state.epoch.0,
            cluster: state.cluster.map(|cluster| cluster.to_string()).unwrap_or_default(),
            heartbeat_ms: state.settings.heartbeat_ms,
            answer_timeout_ms: state.settings.answer_timeout_ms,
            lease_ttl_ms: state.nodes.get(&node).map_or(0, |node| node.lease.ttl_ms),
            self_fence_ms: state.nodes.get(&node).map_or(0, |node| node.lease.self_fence_ms),
            isolation_hold_ms: state.settings.isolation_hold_ms,
            floor: floors.below,
            vms: floors.vms.iter().map(ToString::to_string).collect(),
            services: floors.services.iter().map(ToString::to_string).collect(),
        }))
    }

    /// Answered only after a quorum round begun after the heartbeat arrived, and after an entry of the leader's own
    /// term was applied (that is what `leadership` says): design section 3, lease.
    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Answer<v1::HeartbeatReply> {
        let message = request.get_ref();
        self.check_epoch(message.epoch)?;
        // Heard, also while nobody leads: this replica may lead next.
        self.leader.carry(NodeId(message.node_id), SessionId(message.session));
        if let Route::Leader(leader) = self.router.route(&request)? {
            let mut client = client(&leader.channel);
            return leader.answer(client.heartbeat(forwarded(request))).await;
        }
        let message = request.into_inner();
        let (node, session) = (NodeId(message.node_id), SessionId(message.session));
        let over = |_| self.old_session(node, session);
        if self.raft.state().nodes.contains_key(&node) {
            self.leader.detector().contacted(node, self.leader.elapsed_ms());
        }
        if !self.is_current(node, session) {
            // A replica that has just been elected may lag behind; only what a quorum agrees to is the truth.
            self.raft.read_barrier().await.map_err(|error| status::not_proposed(&error))?;
            if !self.is_current(node, session) {
                return Err(self.old_session(node, session));
            }
        }
        self.leader.detector().heard(node, session, self.leader.elapsed_ms()).map_err(over)?;
        self.leader.note_progress(message.jobs.into_iter().filter_map(|job| {
            let uuid = convert::uuid("uuid", &job.uuid).ok()?;
            Some((
                uuid,
                v1::MigrationProgress {
                    elapsed_ms: job.elapsed_ms,
                    total_bytes: job.total_bytes,
                    processed_bytes: job.processed_bytes,
                    remaining_bytes: job.remaining_bytes,
                },
            ))
        }));
        let loads = message.loads.iter().filter_map(convert_agent::guest_load);
        self.leader.detector().measured(node, loads, self.leader.elapsed_ms());
        self.raft.read_barrier().await.map_err(|error| status::not_proposed(&error))?;
        let term = self
            .raft
            .leadership()
            .borrow()
            .ok_or_else(|| Status::unavailable("no longer the leader"))?;
        if !self.is_current(node, session) {
            return Err(self.old_session(node, session));
        }
        self.leader.detector().answered(node, session, self.leader.elapsed_ms()).map_err(over)?;
        let state = self.raft.state();
        Ok(Response::new(v1::HeartbeatReply {
            number: message.number,
            term,
            heartbeat_ms: state.settings.heartbeat_ms,
            answer_timeout_ms: state.settings.answer_timeout_ms,
        }))
    }

    async fn leave(&self, request: Request<v1::LeaveRequest>) -> Answer<v1::LeaveReply> {
        if let Route::Leader(leader) = self.router.route(&request)? {
            let mut client = client(&leader.channel);
            return leader.answer(client.leave(forwarded(request))).await;
        }
        let message = request.into_inner();
        let (node, session) = (NodeId(message.node_id), SessionId(message.session));
        let by = self.raft.state().node_name(node);
        self.propose(&message.request_id, by, Operation::Away { node, session }).await?;
        Ok(Response::new(v1::LeaveReply {}))
    }

    async fn announce_shutdown(
        &self,
        request: Request<v1::AnnounceShutdownRequest>,
    ) -> Answer<v1::AnnounceShutdownReply> {
        if let Route::Leader(leader) = self.router.route(&request)? {
            let mut client = client(&leader.channel);
            return leader.answer(client.announce_shutdown(forwarded(request))).await;
        }
        let message = request.into_inner();
        let (node, session) = (NodeId(message.node_id), SessionId(message.session));
        let then = match message.reboot {
            true => AfterShutdown::Reboot,
            false => AfterShutdown::StayOff,
        };
        let state = self.raft.state();
        let known = state.nodes.get(&node).is_some_and(|it| {
            it.session() == Some(session) && it.shutdown.is_some_and(|it| it.then == then)
        });
        if known {
            // An agent says so again until nothing is left there: that costs no log entry.
            self.raft.read_barrier().await.map_err(|error| status::not_proposed(&error))?;
        } else {
            let operation = Operation::ShutdownAnnounced { node, session, then };
            self.propose(&message.request_id, state.node_name(node), operation).await?;
        }
        let state = self.raft.state();
        let empty = !state.may_run_anything(node);
        let view = self.leader.view().borrow().clone();
        let left = lead::left_on(&state, node, view.as_ref().map(|view| &view.plan));
        Ok(Response::new(v1::AnnounceShutdownReply { empty, left }))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Answer<v1::ReportReply> {
        if let Route::Leader(leader) = self.router.route(&request)? {
            let mut client = client(&leader.channel);
            return leader.answer(client.report(forwarded(request))).await;
        }
        let message = request.into_inner();
        let (node, session) = (NodeId(message.node_id), SessionId(message.session));
        let reports: Result<Vec<_>, _> =
            message.reports.into_iter().map(convert_agent::report).collect();
        let reports = reports.map_err(|error| status::invalid(&error))?;
        let by = self.raft.state().node_name(node);
        let operation = Operation::Report { node, session, reports };
        let accepted = self.propose(&message.request_id, by, operation).await?;
        Ok(Response::new(v1::ReportReply { revision: accepted.revision }))
    }

    type WatchQuestionsStream = Pin<Box<dyn Stream<Item = Result<v1::Question, Status>> + Send>>;

    async fn watch_questions(
        &self,
        request: Request<v1::WatchOrdersRequest>,
    ) -> Answer<Self::WatchQuestionsStream> {
        if let Route::Leader(leader) = self.router.route(&request)? {
            let mut client = client(&leader.channel);
            let stream = leader.answer(client.watch_questions(forwarded(request))).await?;
            return Ok(Response::new(Box::pin(leader.stream(stream.into_inner()))));
        }
        let message = request.into_inner();
        let (node, session) = (NodeId(message.node_id), SessionId(message.session));
        if !self.is_current(node, session) {
            return Err(self.old_session(node, session));
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(self.questions.open(node)))))
    }

    async fn answer(&self, request: Request<v1::AnswerRequest>) -> Answer<v1::AnswerReply> {
        if let Route::Leader(leader) = self.router.route(&request)? {
            let mut client = client(&leader.channel);
            return leader.answer(client.answer(forwarded(request))).await;
        }
        let message = request.into_inner();
        let (node, session) = (NodeId(message.node_id), SessionId(message.session));
        if !self.is_current(node, session) {
            return Err(self.old_session(node, session));
        }
        self.questions.answer(node, message);
        Ok(Response::new(v1::AnswerReply {}))
    }

    type WatchOrdersStream = Pin<Box<dyn Stream<Item = Result<OrderList, Status>> + Send>>;

    async fn watch_orders(
        &self,
        request: Request<v1::WatchOrdersRequest>,
    ) -> Answer<Self::WatchOrdersStream> {
        if let Route::Leader(leader) = self.router.route(&request)? {
            let mut client = client(&leader.channel);
            let stream = leader.answer(client.watch_orders(forwarded(request))).await?;
            return Ok(Response::new(Box::pin(leader.stream(stream.into_inner()))));
        }
        let message = request.into_inner();
        let (node, session) = (NodeId(message.node_id), SessionId(message.session));
        if !self.is_current(node, session) {
            return Err(self.old_session(node, session));
        }
        // One list in the pipe: a slow agent gets the newest state, not a queue of old ones.
        let (sender, receiver) = mpsc::channel(1);
        let service = self.clone();
        tokio::spawn(async move { service.feed(node, session, sender).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type WatchFencesStream = Pin<Box<dyn Stream<Item = Result<v1::FenceList, Status>> + Send>>;

    async fn watch_fences(
        &self,
        request: Request<v1::WatchOrdersRequest>,
    ) -> Answer<Self::WatchFencesStream> {
        if let Route::Leader(leader) = self.router.route(&request)? {
            let mut client = client(&leader.channel);
            let stream = leader.answer(client.watch_fences(forwarded(request))).await?;
            return Ok(Response::new(Box::pin(leader.stream(stream.into_inner()))));
        }
        let message = request.into_inner();
        let (node, session) = (NodeId(message.node_id), SessionId(message.session));
        let (sender, receiver) = mpsc::channel(1);
        let service = self.clone();
        tokio::spawn(async move { service.feed_fences(node, session, sender).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn fence_done(
        &self,
        request: Request<v1::FenceDoneRequest>,
    ) -> Answer<v1::FenceDoneReply> {
        if let Route::Leader(leader) = self.router.route(&request)? {
            let mut client = client(&leader.channel);
            return leader.answer(client.fence_done(forwarded(request))).await;
        }
        self.take_fence_answer(request.into_inner())
    }
}

impl AgentService {
    /// Sends the whole list whenever it changed, until the session or the leadership ends.
    async fn feed(
        &self,
        node: NodeId,
        session: SessionId,
        sender: mpsc::Sender<Result<OrderList, Status>>,
    ) {
        let mut book = self.leader.book();
        let mut applied = self.raft.applied();
        let mut sent: Option<OrderList> = None;
        let mut repeat = tokio::time::interval(REPEAT);
        repeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            applied.mark_unchanged();
            let list = book.borrow_and_update().as_deref().map(|book| list(book, node, session));
            let Some(list) = list else {
                let status = Status::unavailable("no longer the leader");
                // A receiver that is gone needs no farewell.
                let _ = sender.send(Err(status)).await;
                return;
            };
            if !self.is_current(node, session) {
                let _ = sender.send(Err(self.old_session(node, session))).await;
                return;
            }
            if sent.as_ref() != Some(&list) {
                if sender.send(Ok(list.clone())).await.is_err() {
                    return;
                }
                sent = Some(list);
            }
            tokio::select! {
                changed = book.changed() => if changed.is_err() { return },
                changed = applied.changed() => if changed.is_err() { return },
                _ = repeat.tick() => {
                    sent = sent.filter(|list| list.orders.is_empty() && list.scripts.is_empty());
                }
                () = sender.closed() => return,
            }
        }
    }
}

fn list(book: &OrderBook, node: NodeId, session: SessionId) -> OrderList {
    let orders = book.orders.get(&node).into_iter().flatten();
    let work = book.scripts.get(&node);
    let scripts = work.into_iter().flat_map(|work| &work.orders);
    let watched = work.into_iter().flat_map(|work| &work.watched);
    let watches = book.watches.get(&node).into_iter().flatten();
    OrderList {
        term: book.term,
        epoch: book.epoch.0,
        cluster: book.cluster.to_string(),
        orders: orders.filter(|order| order.session == session).map(convert_agent::order).collect(),
        scripts: scripts
            .filter(|order| order.session == session)
            .map(convert_agent::script_order)
            .collect(),
        watched: watched.map(convert_agent::watched_script).collect(),
        watches: watches.map(convert_agent::watch).collect(),
    }
}
