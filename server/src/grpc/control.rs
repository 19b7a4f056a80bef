//! The operators' service.

mod backup;
mod fence;
mod fleet;
mod replicas;
mod services;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;

use ::fence::FenceAgents;
use futures::Stream;
use model::ClusterState;
use model::command::{Command, Operation};
use model::id::{NodeId, RequestId};
use model::node::NodeRecord;
use model::plan::{Load, placement};
use model::rejection::Rejection;
use model::vm::VmRecord;
use proto::convert::control as convert_control;
use proto::convert::{self, placing, rejection, view};
use proto::v1::control_client::ControlClient;
use proto::v1::control_server::Control;
use proto::v1::{self};
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use crate::clock;
use crate::grpc::forward::{Route, Router, forwarded};
use crate::grpc::questions::Questions;
use crate::grpc::status;
use crate::leader::LeaderHandle;
use crate::leader::fencer::Means;
use crate::raft::RaftHandle;

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How many of a VM's last events `explain` shows.
const EXPLAINED_EVENTS: usize = 10;

/// Serves operators, or passes them on to the leader.
#[derive(Clone)]
pub struct ControlService {
    raft: RaftHandle,
    router: Router,
    leader: LeaderHandle,
    means: Means,
    questions: Questions,
}

/// Passes a request on to the leader unless this replica leads.
macro_rules! or_forward {
    ($self:ident, $request:ident, $method:ident) => {
        if let Route::Leader(leader) = $self.router.route(&$request)? {
            let mut client = ControlClient::new(leader.channel.clone())
                .max_decoding_message_size(crate::server::MAX_MESSAGE_BYTES);
            return leader.answer(client.$method(forwarded($request))).await;
        }
    };
}

impl ControlService {
    /// The service of this replica.
    pub fn new(
        raft: RaftHandle,
        router: Router,
        leader: LeaderHandle,
        agents: FenceAgents,
        questions: Questions,
    ) -> Self {
        let means = Means { agents, desk: leader.fences() };
        Self { raft, router, leader, means, questions }
    }

    /// The leader's state, as new as anything acknowledged before this was called.
    async fn newest(&self) -> Result<std::sync::Arc<ClusterState>, Status> {
        self.raft.read_barrier().await.map_err(|error| status::not_proposed(&error))?;
        Ok(self.raft.state())
    }

    /// The settings speak for every replica's elections; this one's are known here (design section 5).
    fn check_elections(&self, operation: &Operation) -> Result<(), Status> {
        let settings = match operation {
            Operation::ChangeSettings(settings) => settings,
            Operation::ApplyChanges { changes, .. } => {
                return changes.iter().try_for_each(|change| self.check_elections(change));
            }
            _ => return Ok(()),
        };
        let own = self.raft.timing().election_max_ms;
        if own <= settings.election_max_ms {
            return Ok(());
        }
        Err(rejection::status(&Rejection::Contradiction {
            rule: "election_max_ms is at least the longest election of any replica; shorten it in the replicas' configuration first".into(),
            arithmetic: format!(
                "replica {} waits for up to {own} ms > {} ms",
                self.raft.id(),
                settings.election_max_ms
            ),
        }))
    }

    fn vm_view(&self, state: &ClusterState, record: &VmRecord, with_xml: bool) -> v1::Vm {
        let leader = self.leader.view().borrow().clone();
        let mut vm = view::vm(state, record, leader.as_deref(), with_xml);
        vm.progress = self.leader.progress().borrow().get(&record.spec.uuid).cloned();
        vm
    }
}

fn find<'s>(state: &'s ClusterState, name: &str) -> Result<&'s VmRecord, Status> {
    let vm = convert_control::vm(name).map_err(|error| status::invalid(&error))?;
    let unknown = || rejection::status(&Rejection::UnknownVm { vm: name.to_owned() });
    state.vms.get(&vm).map(|record| &**record).ok_or_else(unknown)
}

/// By name, as VMs are: what a node's number is depends on which agent came first.
fn by_name(state: &ClusterState) -> impl Iterator<Item = &NodeRecord> {
    let nodes: BTreeMap<_, _> =
        state.nodes.values().map(|node| (&node.name, node.as_ref())).collect();
    nodes.into_values()
}

/// The UUID of a domain that has none follows from the request, so that a repeated request makes the same one.
fn fresh_uuid(request: Uuid) -> Uuid {
    uuid::Builder::from_random_bytes(request.as_u128().rotate_left(64).to_be_bytes()).into_uuid()
}

#[tonic::async_trait]
impl Control for ControlService {
    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Answer<v1::SubmitReply> {
        or_forward!(self, request, submit);
        let message = request.into_inner();
        let request = convert::uuid("request_id", &message.request_id)
            .map_err(|error| status::invalid(&error))?;
        let mut asked = message
            .operation
            .ok_or_else(|| Status::invalid_argument("operation: it is not given"))?;
        if let Some(outcome) = self.keep_secrets(request, &mut asked).await? {
            let revision = status::rejected(outcome)?.revision;
            return Ok(Response::new(v1::SubmitReply { revision, vm: None }));
        }
        let operation = convert_control::operation(asked, fresh_uuid(request))
            .and_then(|asked| convert_control::guarded(asked, message.expected_revision))
            .map_err(|error| status::invalid(&error))?;
        let vm = operation.vm().map(ToString::to_string);
        let by = match message.operator.trim() {
            "" => "an operator".to_owned(),
            name => name.chars().filter(|character| !character.is_control()).take(100).collect(),
        };
        self.check_silent(&operation).await?;
        self.check_elections(&operation)?;
        let operation = self.stage(request, &by, operation).await?;
        let command = Command { request: RequestId(request), at: clock::now(), by, operation };
        let applied =
            self.raft.propose(command).await.map_err(|error| status::not_proposed(&error))?;
        let accepted = status::rejected(applied.outcome)?;
        Ok(Response::new(v1::SubmitReply { revision: accepted.revision, vm }))
    }

    async fn get_status(&self, request: Request<v1::GetStatusRequest>) -> Answer<v1::Status> {
        let stale = request.get_ref().stale;
        let state = if stale {
            self.raft.state()
        } else {
            or_forward!(self, request, get_status);
            self.newest().await?
        };
        let leader = self.leader.view().borrow().clone();
        let load = match leader.as_deref() {
            Some(view) => Load::measured(&state, &view.liveness),
            None => Load::of(&state),
        };
        let replicas = self.replicas();
        Ok(Response::new(v1::Status {
            cluster: state.cluster.map(|cluster| cluster.to_string()).unwrap_or_default(),
            epoch: state.epoch.0,
            revision: state.revision,
            leader: replicas.leader,
            term: replicas.term,
            nodes: by_name(&state)
                .map(|node| view::node(&state, node, &load, leader.as_deref()))
                .collect(),
            vms: state.vms.values().map(|record| self.vm_view(&state, record, false)).collect(),
            failover_domains: state
                .failover_domains
                .values()
                .map(|domain| view::failover_domain(domain))
                .collect(),
            replicas: replicas.replicas,
            settings: Some(view::settings(&state.settings)),
            mass_loss: view::mass_loss(&state),
            mass_loss_nodes: view::mass_loss_nodes(&state),
            stale,
            unguarded: view::unguarded(&state),
            lock: state.lock.as_ref().map(view::lock),
            services: state
                .services
                .values()
                .map(|record| self.service_view(&state, record))
                .collect(),
            placement_rules: state
                .placement_rules
                .values()
                .map(|rule| placing::write_placement_rule(rule))
                .collect(),
            pause: placing::write_pause(&state),
            uneven_since_ms: state.uneven_since.map(|since| since.0),
        }))
    }

    async fn get_vm(&self, request: Request<v1::GetVmRequest>) -> Answer<v1::Vm> {
        let state = if request.get_ref().stale {
            self.raft.state()
        } else {
            or_forward!(self, request, get_vm);
            self.newest().await?
        };
        let message = request.into_inner();
        let record = find(&state, &message.vm)?;
        Ok(Response::new(self.vm_view(&state, record, message.with_xml)))
    }

    async fn describe_domain(
        &self,
        request: Request<v1::DescribeDomainRequest>,
    ) -> Answer<v1::DescribeDomainReply> {
        or_forward!(self, request, describe_domain);
        let message = request.into_inner();
        let name = convert_control::node(&message.node).map_err(|error| status::invalid(&error))?;
        let uuid = convert::uuid("uuid", &message.uuid).map_err(|error| status::invalid(&error))?;
        let state = self.newest().await?;
        let unknown = || rejection::status(&Rejection::UnknownNode { node: name.to_string() });
        let node = state.node_named(&name).ok_or_else(unknown)?.id;
        let xml = self.questions.definition(node, uuid).await?;
        Ok(Response::new(v1::DescribeDomainReply { xml }))
    }

    async fn get_fleet(&self, request: Request<v1::GetFleetRequest>) -> Answer<v1::Fleet> {
        or_forward!(self, request, get_fleet);
        Ok(Response::new(proto::convert::fleet::fleet(&*self.newest().await?)))
    }

    type WatchVmStream = Streamed<v1::Vm>;

    async fn watch_vm(&self, request: Request<v1::GetVmRequest>) -> Answer<Self::WatchVmStream> {
        if let Route::Leader(leader) = self.router.route(&request)? {
            let mut client = ControlClient::new(leader.channel.clone());
            let stream = leader.answer(client.watch_vm(forwarded(request))).await?;
            return Ok(Response::new(Box::pin(leader.stream(stream.into_inner()))));
        }
        let message = request.into_inner();
        find(&*self.newest().await?, &message.vm)?;
        Ok(Response::new(self.stream_vm(message)))
    }

    async fn get_service(&self, request: Request<v1::GetServiceRequest>) -> Answer<v1::Service> {
        let state = if request.get_ref().stale {
            self.raft.state()
        } else {
            or_forward!(self, request, get_service);
            self.newest().await?
        };
        let record = services::find(&state, &request.into_inner().service)?;
        Ok(Response::new(self.service_view(&state, record)))
    }

    type WatchServiceStream = Streamed<v1::Service>;

    async fn watch_service(
        &self,
        request: Request<v1::GetServiceRequest>,
    ) -> Answer<Self::WatchServiceStream> {
        if let Route::Leader(leader) = self.router.route(&request)? {
            let mut client = ControlClient::new(leader.channel.clone());
            let stream = leader.answer(client.watch_service(forwarded(request))).await?;
            return Ok(Response::new(Box::pin(leader.stream(stream.into_inner()))));
        }
        let message = request.into_inner();
        services::find(&*self.newest().await?, &message.service)?;
        Ok(Response::new(self.stream_service(message)))
    }

    type WatchEventsStream = Streamed<v1::Event>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Answer<Self::WatchEventsStream> {
        // Served from what is applied here where that was asked for: events come in the same order everywhere.
        if !request.get_ref().stale {
            if let Route::Leader(leader) = self.router.route(&request)? {
                let mut client = ControlClient::new(leader.channel.clone());
                let stream = leader.answer(client.watch_events(forwarded(request))).await?;
                return Ok(Response::new(Box::pin(leader.stream(stream.into_inner()))));
            }
            self.newest().await?;
        }
        self.stream_events(request.into_inner())
    }

    async fn explain_vm(&self, request: Request<v1::ExplainVmRequest>) -> Answer<v1::Explanation> {
        or_forward!(self, request, explain_vm);
        let state = self.newest().await?;
        let record = find(&state, &request.into_inner().vm)?;
        let liveness = self
            .leader
            .view()
            .borrow()
            .as_ref()
            .map(|view| view.liveness.clone())
            .unwrap_or_default();
        let load = Load::measured(&state, &liveness);
        let candidates = placement::candidates(&state, &liveness, &load, record, &BTreeSet::new());
        let mut events: Vec<_> = state
            .events
            .iter()
            .rev()
            .filter(|event| event.vm.as_ref() == Some(&record.spec.name))
            .take(EXPLAINED_EVENTS)
            .map(|event| view::event(event))
            .collect();
        events.reverse();
        Ok(Response::new(v1::Explanation {
            vm: Some(self.vm_view(&state, record, false)),
            candidates: candidates.into_iter().map(view::candidate).collect(),
            events,
        }))
    }

    async fn initialise_cluster(
        &self,
        request: Request<v1::InitialiseClusterRequest>,
    ) -> Answer<v1::InitialiseClusterReply> {
        self.initialise(request.into_inner()).await
    }

    async fn list_replicas(
        &self,
        request: Request<v1::ListReplicasRequest>,
    ) -> Answer<v1::ListReplicasReply> {
        or_forward!(self, request, list_replicas);
        self.newest().await?;
        Ok(Response::new(self.replicas()))
    }

    async fn add_replica(
        &self,
        request: Request<v1::AddReplicaRequest>,
    ) -> Answer<v1::ListReplicasReply> {
        or_forward!(self, request, add_replica);
        self.add(request.into_inner()).await
    }

    async fn remove_replica(
        &self,
        request: Request<v1::RemoveReplicaRequest>,
    ) -> Answer<v1::ListReplicasReply> {
        or_forward!(self, request, remove_replica);
        self.remove(request.into_inner()).await
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Answer<v1::ListReplicasReply> {
        or_forward!(self, request, transfer_leader);
        self.transfer(request.into_inner()).await
    }

    async fn test_fence(
        &self,
        request: Request<v1::TestFenceRequest>,
    ) -> Answer<v1::TestFenceReply> {
        or_forward!(self, request, test_fence);
        self.test_devices(&request.into_inner().node).await
    }

    async fn heard_node(
        &self,
        request: Request<v1::HeardNodeRequest>,
    ) -> Answer<v1::HeardNodeReply> {
        let node = NodeId(request.into_inner().node);
        Ok(Response::new(v1::HeardNodeReply { silent_ms: self.leader.last_heard_ms(node) }))
    }

    type BackupStream = Streamed<v1::BackupChunk>;

    async fn backup(&self, request: Request<v1::BackupRequest>) -> Answer<Self::BackupStream> {
        if let Route::Leader(leader) = self.router.route(&request)? {
            let mut client = ControlClient::new(leader.channel.clone());
            let stream = leader.answer(client.backup(forwarded(request))).await?;
            return Ok(Response::new(Box::pin(leader.stream(stream.into_inner()))));
        }
        self.stream_backup().await
    }

    async fn restore(
        &self,
        request: Request<Streaming<v1::RestoreChunk>>,
    ) -> Answer<v1::RestoreReply> {
        // Of a replica that has no leader to pass it on to.
        self.take_backup(request.into_inner()).await
    }
}
