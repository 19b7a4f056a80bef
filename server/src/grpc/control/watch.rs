//! Streams to operators: one VM, and events.

use proto::convert::view;
use proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use super::{Answer, ControlService, Streamed, find};

/// How much a slow reader may lag behind before it is waited for.
const PIPE: usize = 64;

impl ControlService {
    /// The VM now and after each change, until it is forgotten, the reader leaves or this replica no longer leads.
    pub(super) fn stream_vm(&self, message: v1::GetVmRequest) -> Streamed<v1::Vm> {
        let (sender, receiver) = mpsc::channel(PIPE);
        let service = self.clone();
        tokio::spawn(async move {
            let mut applied = service.raft.applied();
            let mut plan = service.leader.view();
            let mut progress = service.leader.progress();
            let mut sent = None;
            loop {
                applied.mark_unchanged();
                progress.mark_unchanged();
                if plan.borrow_and_update().is_none() {
                    let _ = sender.send(Err(Status::unavailable("no longer the leader"))).await;
                    return;
                }
                let state = service.raft.state();
                let vm = find(&state, &message.vm)
                    .map(|record| service.vm_view(&state, record, message.with_xml));
                let gone = vm.is_err();
                if gone || sent.as_ref() != vm.as_ref().ok() {
                    sent = vm.as_ref().ok().cloned();
                    if sender.send(vm).await.is_err() || gone {
                        return;
                    }
                }
                tokio::select! {
                    changed = applied.changed() => if changed.is_err() { return },
                    changed = plan.changed() => if changed.is_err() { return },
                    changed = progress.changed() => if changed.is_err() { return },
                    () = sender.closed() => return,
                }
            }
        });
        Box::pin(ReceiverStream::new(receiver))
    }

    pub(super) fn stream_events(
        &self,
        message: v1::WatchEventsRequest,
    ) -> Answer<Streamed<v1::Event>> {
        let oldest = self.raft.state().oldest_event();
        // Revision 0 asks for whatever is there.
        if message.after_revision != 0 && message.after_revision + 1 < oldest {
            return Err(Status::out_of_range(format!(
                "events before revision {oldest} are no longer kept; ask from 0 for all that are"
            )));
        }
        let (sender, receiver) = mpsc::channel(PIPE);
        let service = self.clone();
        tokio::spawn(async move {
            let mut applied = service.raft.applied();
            let mut leadership = service.raft.leadership();
            let mut after = message.after_revision;
            loop {
                applied.mark_unchanged();
                // What is applied here falls behind when another leads; whoever reads goes on there.
                if !message.stale && leadership.borrow_and_update().is_none() {
                    let _ = sender.send(Err(Status::unavailable("no longer the leader"))).await;
                    return;
                }
                let state = service.raft.state();
                // Newest first, back to where the reader is, so that a wake-up costs what is new.
                let mut new: Vec<_> =
                    state.events.iter().rev().take_while(|event| event.revision > after).collect();
                new.reverse();
                for event in new {
                    after = event.revision;
                    let about = |asked: &Option<String>, name: Option<&str>| {
                        asked.as_deref().is_none_or(|asked| name == Some(asked))
                    };
                    let wanted = about(&message.vm, event.vm.as_ref().map(|vm| vm.as_str()))
                        && about(&message.node, event.node.as_ref().map(|node| node.as_str()))
                        && about(&message.service, event.service.as_ref().map(|it| it.as_str()));
                    if wanted && sender.send(Ok(view::event(event))).await.is_err() {
                        return;
                    }
                }
                if !message.follow {
                    return;
                }
                tokio::select! {
                    changed = applied.changed() => if changed.is_err() { return },
                    changed = leadership.changed(), if !message.stale => {
                        if changed.is_err() { return }
                    }
                    () = sender.closed() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
