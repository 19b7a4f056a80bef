//! Services as operators see them: one, and a stream of one.

use model::ClusterState;
use model::rejection::Rejection;
use model::service::ServiceRecord;
use proto::convert::{rejection, service as convert_service, view};
use proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{ControlService, Streamed};
use crate::grpc::status;

/// How much a slow reader may lag behind before it is waited for.
const PIPE: usize = 64;

pub(super) fn find<'s>(state: &'s ClusterState, name: &str) -> Result<&'s ServiceRecord, Status> {
    let service = convert_service::service(name).map_err(|error| status::invalid(&error))?;
    let unknown = || rejection::status(&Rejection::UnknownService { service: name.to_owned() });
    state.services.get(&service).map(|record| &**record).ok_or_else(unknown)
}

impl ControlService {
    pub(super) fn service_view(&self, state: &ClusterState, record: &ServiceRecord) -> v1::Service {
        let leader = self.leader.view().borrow().clone();
        view::service(state, record, leader.as_deref())
    }

    /// The service now and after each change, until it is forgotten, the reader leaves or this replica no longer leads.
    pub(super) fn stream_service(&self, message: v1::GetServiceRequest) -> Streamed<v1::Service> {
        let (sender, receiver) = mpsc::channel(PIPE);
        let control = self.clone();
        tokio::spawn(async move {
            let mut applied = control.raft.applied();
            let mut plan = control.leader.view();
            let mut sent = None;
            loop {
                applied.mark_unchanged();
                if plan.borrow_and_update().is_none() {
                    // A reader that is gone needs no farewell.
                    let _ = sender.send(Err(Status::unavailable("no longer the leader"))).await;
                    return;
                }
                let state = control.raft.state();
                let service = find(&state, &message.service)
                    .map(|record| control.service_view(&state, record));
                let gone = service.is_err();
                if gone || sent.as_ref() != service.as_ref().ok() {
                    sent = service.as_ref().ok().cloned();
                    if sender.send(service).await.is_err() || gone {
                        return;
                    }
                }
                tokio::select! {
                    changed = applied.changed() => if changed.is_err() { return },
                    changed = plan.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
            }
        });
        Box::pin(ReceiverStream::new(receiver))
    }
}
