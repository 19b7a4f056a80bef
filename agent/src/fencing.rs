//! Fences of other nodes, carried out here because the leader cannot reach their devices itself or wants a second way:
//! asked by the same rule, an "off" that the device confirms afterwards.
//!
//! The leader's list says what is wanted. What is no longer in it is given up, with all the programs it started: its
//! "off" must not reach a host that has been switched on again. So does the end of the session, or of this process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fence::{FenceAgents, FenceError};
use model::node::FenceDevice;
use proto::convert::control as convert;
use proto::v1::fence_done_request::Outcome;
use proto::v1::{FenceAction, FenceDoneRequest, FenceList, FenceTask, WatchOrdersRequest};
use tokio::task::JoinHandle;
use tonic::{Code, Request, Status};
use tracing::{debug, info, warn};

use crate::session::{Session, is_over};

/// An answer is kept by the leader's memory alone; it takes no commit.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// A replica of an older version does not know of fences through agents.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(60);

/// What runs, by the task's id; ends with this.
#[derive(Default)]
struct Running(BTreeMap<String, JoinHandle<()>>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.values().for_each(JoinHandle::abort);
    }
}

impl Running {
    fn keep_only(&mut self, wanted: &BTreeSet<&str>) {
        self.0.retain(|id, task| {
            let wanted = wanted.contains(id.as_str());
            if !wanted {
                task.abort();
            }
            wanted
        });
    }
}

impl Session {
    /// Carries out fences until the session is over.
    pub(crate) async fn watch_fences(self: &Arc<Self>) -> String {
        let mut running = Running::default();
        loop {
            let status = self.fences(&mut running).await;
            // Without the leader's word nothing is wanted.
            running.keep_only(&BTreeSet::new());
            if is_over(&status) {
                return status.message().to_owned();
            }
            debug!(code = ?status.code(), "no fences from there: {}", status.message());
            match status.code() {
                Code::Unimplemented => tokio::time::sleep(UNKNOWN_PAUSE).await,
                _ => self.servers.pause().await,
            }
        }
    }

    async fn fences(self: &Arc<Self>, running: &mut Running) -> Status {
        let (index, _, mut client) = self.servers.pick();
        let request =
            WatchOrdersRequest { node_id: self.given.node_id, session: self.given.session };
        let opened = self.servers.unless_left(index, client.watch_fences(request)).await;
        let mut stream = match opened {
            Ok(stream) => stream.into_inner(),
            Err(status) => return status,
        };
        loop {
            match self.servers.unless_left(index, stream.message()).await {
                Ok(Some(list)) => self.take(list, running),
                Ok(None) => return Status::unavailable("the stream ended"),
                Err(status) => return status,
            }
        }
    }

    fn take(self: &Arc<Self>, list: FenceList, running: &mut Running) {
        let wanted: BTreeSet<&str> = list.tasks.iter().map(|task| task.id.as_str()).collect();
        running.keep_only(&wanted);
        for task in list.tasks {
            if !running.0.contains_key(&task.id) {
                let session = self.clone();
                let id = task.id.clone();
                let work = tokio::spawn(async move { session.fence(task).await });
                running.0.insert(id, work);
            }
        }
    }

    /// Asks the devices, and tells the leader until it has heard.
    async fn fence(&self, task: FenceTask) {
        let outcome = match carry_out(&self.fence_agents, &task).await {
            Ok(said) => Outcome::Said(said),
            Err(error) => Outcome::Error(error),
        };
        info!(node = task.node, ?outcome, "fence devices were asked for the leader");
        loop {
            let (index, _, mut client) = self.servers.pick();
            let mut request = Request::new(FenceDoneRequest {
                node_id: self.given.node_id,
                session: self.given.session,
                id: task.id.clone(),
                outcome: Some(outcome.clone()),
            });
            request.set_timeout(ANSWER_LIMIT);
            match self.servers.unless_left(index, client.fence_done(request)).await {
                Ok(_) => return,
                Err(status) if is_over(&status) => return,
                Err(status) => {
                    debug!(code = ?status.code(), "an answer was not taken: {}", status.message());
                    self.servers.pause().await;
                }
            }
        }
    }
}

async fn carry_out(agents: &FenceAgents, task: &FenceTask) -> Result<String, String> {
    let devices: Vec<FenceDevice> = task
        .devices
        .iter()
        .cloned()
        .map(convert::fence_device)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let said: Result<String, FenceError> = match task.action() {
        FenceAction::FenceOff => agents.prove_death(&devices).await,
        FenceAction::FenceOn => agents.revive(&devices).await.map(|()| "on".into()),
        FenceAction::FenceStatus => agents.look(&devices).await.map(|it| it.as_str().into()),
        FenceAction::Unspecified => {
            warn!(node = task.node, "a fence of a kind that this version does not know");
            return Err("its agent does not know what is asked".into());
        }
    };
    said.map_err(|error| error.to_string())
}
