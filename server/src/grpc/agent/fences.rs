//! Fences that a surviving agent is to carry out: handed out like orders, answered into the leader's memory.

use model::id::{NodeId, SessionId};
use proto::convert::control as convert;
use proto::v1::{self, FenceList};
use tokio::sync::mpsc;
use tonic::{Response, Status};

use super::{AgentService, Answer};
use crate::grpc::status;
use crate::leader::fence_desk::{FenceAsk, FenceTask};

impl AgentService {
    pub(super) fn take_fence_answer(
        &self,
        message: v1::FenceDoneRequest,
    ) -> Answer<v1::FenceDoneReply> {
        let (node, session) = (NodeId(message.node_id), SessionId(message.session));
        if !self.is_current(node, session) {
            return Err(self.old_session(node, session));
        }
        let id =
            proto::convert::uuid("id", &message.id).map_err(|error| status::invalid(&error))?;
        let answer = match message.outcome {
            Some(v1::fence_done_request::Outcome::Said(said)) => Ok(said),
            Some(v1::fence_done_request::Outcome::Error(error)) => Err(error),
            None => return Err(Status::invalid_argument("outcome: it is not given")),
        };
        self.leader.fences().done(node, id, answer);
        Ok(Response::new(v1::FenceDoneReply {}))
    }

    /// Sends the whole list whenever it changed, until the session or the leadership ends.
    pub(super) async fn feed_fences(
        &self,
        node: NodeId,
        session: SessionId,
        sender: mpsc::Sender<Result<FenceList, Status>>,
    ) {
        let mut tasks = self.leader.fences().tasks();
        let mut leading = self.raft.leadership();
        let mut applied = self.raft.applied();
        let mut sent = None;
        loop {
            applied.mark_unchanged();
            if leading.borrow_and_update().is_none() {
                let status = Status::unavailable("no longer the leader");
                // A receiver that is gone needs no farewell; so below.
                let _ = sender.send(Err(status)).await;
                return;
            }
            if !self.is_current(node, session) {
                let _ = sender.send(Err(self.old_session(node, session))).await;
                return;
            }
            let list = {
                let all = tasks.borrow_and_update();
                FenceList { tasks: all.get(&node).into_iter().flatten().map(task).collect() }
            };
            if sent.as_ref() != Some(&list) {
                if sender.send(Ok(list.clone())).await.is_err() {
                    return;
                }
                sent = Some(list);
            }
            tokio::select! {
                changed = tasks.changed() => if changed.is_err() { return },
                changed = leading.changed() => if changed.is_err() { return },
                changed = applied.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
        }
    }
}

fn task(task: &FenceTask) -> v1::FenceTask {
    let action = match task.ask {
        FenceAsk::Off => v1::FenceAction::FenceOff,
        FenceAsk::On => v1::FenceAction::FenceOn,
        FenceAsk::Status => v1::FenceAction::FenceStatus,
    };
    v1::FenceTask {
        id: task.id.to_string(),
        node: task.node.clone(),
        action: action.into(),
        devices: task.devices.iter().map(convert::fence_device_message).collect(),
    }
}
