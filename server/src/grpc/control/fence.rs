//! Whether a node is heard by anybody, and whether its fence devices answer.

use std::time::{Duration, Instant};

use futures::future::join_all;
use model::command::Operation;
use model::id::NodeId;
use model::node::FenceDevice;
use model::rejection::Rejection;
use proto::convert::{control as convert_control, rejection};
use proto::v1;
use proto::v1::control_client::ControlClient;
use tonic::{Request, Response, Status};

use super::{Answer, ControlService};
use crate::grpc::status;
use crate::leader::fence_desk::FenceAsk;
use crate::leader::{fencer, lead};

/// How long another replica may take to say when it heard of a node.
const HEARD_LIMIT: Duration = Duration::from_millis(700);

impl ControlService {
    /// Nobody's word makes a node dead that any replica hears (design section 3, proof of death (c)). A replica that does
    /// not answer hears nothing that would reach anybody. Looked at after a quorum round: the word would otherwise wait with
    /// a leader that is cut off, and be committed long after it was looked whether it holds.
    pub(super) async fn check_silent(&self, operation: &Operation) -> Result<(), Status> {
        let Operation::ConfirmOff { node, .. } = operation else { return Ok(()) };
        let state = self.newest().await?;
        let Some(record) = state.node_named(node) else { return Ok(()) };
        let own = self.leader.last_heard_ms(record.id).map(|silent_ms| (silent_ms, self.raft.id()));
        let others = self.raft.status().replicas.into_iter().filter(|it| it.id != self.raft.id());
        let asked = others.map(|replica| async move {
            let silent_ms = self.ask_heard(&replica.address, record.id).await?;
            Some((silent_ms, replica.id))
        });
        let heard = join_all(asked).await.into_iter().flatten().chain(own).min();
        match heard {
            Some((silent_ms, by)) if lead::is_heard(silent_ms, &state.settings) => {
                let state = format!("heard {silent_ms} ms ago by replica {by}");
                Err(rejection::status(&Rejection::NodeAlive { node: node.to_string(), state }))
            }
            Some(_) | None => Ok(()),
        }
    }

    async fn ask_heard(&self, address: &str, node: NodeId) -> Option<u64> {
        let mut client = ControlClient::new(self.router.channel(address)?);
        let asked = client.heard_node(Request::new(v1::HeardNodeRequest { node: node.0 }));
        let reply = tokio::time::timeout(HEARD_LIMIT, asked).await.ok()?.ok()?;
        reply.into_inner().silent_ms
    }

    /// Each device from here, and through one surviving agent that has what it takes.
    pub(super) async fn test_devices(&self, name: &str) -> Answer<v1::TestFenceReply> {
        let state = self.newest().await?;
        let name = convert_control::node(name).map_err(|error| status::invalid(&error))?;
        let unknown = || rejection::status(&Rejection::UnknownNode { node: name.to_string() });
        let node = state.node_named(&name).ok_or_else(unknown)?;
        let view = self.leader.view().borrow().clone();
        let liveness = view.map(|view| view.liveness.clone()).unwrap_or_default();
        let helpers = fencer::helpers(&state, &liveness, node);
        let here = format!("replica {}", self.raft.id());
        let own = node.fence_devices.iter().map(|device| {
            let asked = self.means.ask_here(std::slice::from_ref(device), FenceAsk::Status);
            timed(device, here.clone(), asked)
        });
        let through = node.fence_devices.iter().filter_map(|device| {
            let (helper, helper_name) = helpers.first()?.clone();
            let devices = std::slice::from_ref(device);
            let helper = (helper, helper_name.clone());
            let asked = self.means.ask_through(helper, name.as_str(), devices, FenceAsk::Status);
            Some(timed(device, format!("node {helper_name}"), asked))
        });
        let (own, through) = futures::join!(join_all(own), join_all(through));
        let devices = own.into_iter().chain(through).collect();
        Ok(Response::new(v1::TestFenceReply { devices }))
    }
}

async fn timed(
    device: &FenceDevice,
    through: String,
    asked: impl Future<Output = Result<String, String>>,
) -> v1::FenceAnswer {
    let began = Instant::now();
    let answer = asked.await;
    v1::FenceAnswer {
        agent: device.agent.clone(),
        level: u32::from(device.level),
        ok: answer.is_ok(),
        answer: answer.unwrap_or_else(|error| error),
        took_ms: began.elapsed().as_millis() as u64,
        through,
    }
}
