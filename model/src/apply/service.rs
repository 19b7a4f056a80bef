//! Services: how each command about one changes the state.

mod ask;
mod decision;
mod member;
mod report;
mod spec;

use std::sync::Arc;

use crate::apply::report::FAILBACK_AGAIN_MS;
use crate::cluster::{ClusterState, Context};
use crate::event::EventKind;
use crate::id::{NodeId, ServiceName, VmName};
use crate::rejection::Rejection;
use crate::service::{ServiceFailure, ServiceRecord, ServiceState};
use crate::vm::OperationPhase;

impl ClusterState {
    /// The service's record, to be changed; it counts as changed by this command.
    pub(super) fn service_mut(
        &mut self,
        cx: &Context,
        name: &ServiceName,
    ) -> Result<&mut ServiceRecord, Rejection> {
        let unknown = || Rejection::UnknownService { service: name.to_string() };
        let record = Arc::make_mut(self.services.get_mut(name).ok_or_else(unknown)?);
        record.changed = cx.index;
        Ok(record)
    }

    pub(super) fn service(&self, name: &ServiceName) -> Result<Arc<ServiceRecord>, Rejection> {
        let unknown = || Rejection::UnknownService { service: name.to_string() };
        self.services.get(name).cloned().ok_or_else(unknown)
    }

    /// The service that a VM is a member of, while the VM's life is the service's.
    pub fn governing(&self, vm: &VmName) -> Option<&Arc<ServiceRecord>> {
        let service = self.service_of.get(vm).and_then(|name| self.services.get(name))?;
        service.governs().then_some(service)
    }

    /// A member is started, stopped and moved by its service only.
    pub(super) fn must_stand_alone(&self, vm: &VmName) -> Result<(), Rejection> {
        match self.governing(vm) {
            None => Ok(()),
            Some(service) => Err(Rejection::MemberOfService {
                vm: vm.to_string(),
                service: service.spec.name.to_string(),
            }),
        }
    }

    pub(super) fn emit_service(
        &mut self,
        cx: &mut Context,
        kind: EventKind,
        service: &ServiceName,
        node: Option<NodeId>,
        text: String,
    ) {
        self.emit(cx, kind, None, node, text);
        if let Some(event) = self.events.back_mut() {
            Arc::make_mut(event).service = Some(service.clone());
        }
    }

    /// Ends the open operation of a service, if it has one.
    fn end_service_operation(
        &mut self,
        cx: &mut Context,
        name: &ServiceName,
        end: OperationPhase,
    ) -> Result<(), Rejection> {
        let record = self.service_mut(cx, name)?;
        let Some(operation) = record.operation.as_mut().filter(|it| it.phase.is_open()) else {
            return Ok(());
        };
        operation.phase = end.clone();
        let verb = operation.verb.as_str();
        if operation.cause.is_some() && matches!(end, OperationPhase::Failed(_)) {
            record.failback_not_before = cx.at.plus(FAILBACK_AGAIN_MS);
        }
        let (kind, text) = match end {
            OperationPhase::Failed(why) => {
                (EventKind::OperationFailed, format!("{verb} of service {name} failed: {why}"))
            }
            _ => (EventKind::OperationDone, format!("{verb} of service {name} is done")),
        };
        self.emit_service(cx, kind, name, None, text);
        Ok(())
    }
}

impl ServiceRecord {
    fn set_state(&mut self, cx: &Context, state: ServiceState) {
        if self.state != state {
            self.state = state;
            self.state_since = cx.at;
        }
    }

    /// Notes a failure; what was tried before without success in between is kept.
    fn fail(&mut self, cx: &Context, why: String, node: NodeId, node_died: bool) {
        let (tried, rounds) = match self.failure.take() {
            Some(earlier) => (earlier.tried, earlier.rounds),
            None => Default::default(),
        };
        self.failure = Some(ServiceFailure {
            why,
            at: cx.at,
            node,
            node_died,
            tried,
            rounds,
            not_before: cx.at,
        });
    }

    fn wrong_state(&self, why: &str) -> Rejection {
        Rejection::ServiceState {
            service: self.spec.name.to_string(),
            state: self.state.as_str().to_owned(),
            why: why.to_owned(),
        }
    }
}
