//! Fencing by hand, and asking whether it would work.

use proto::v1::submit_request::Operation;
use proto::v1::{NodeAct, TestFenceRequest};
use tonic::Response;

use crate::args::{Deed, Fence, FenceCommand};
use crate::cmd::{Context, node};
use crate::exit::{Failure, Kind};
use crate::render::{self, FenceAttempt, table, time};

pub(super) async fn run(cx: &Context, command: Fence) -> Result<(), Failure> {
    match (command.command, command.deed) {
        (Some(FenceCommand::Test { node }), _) => test(cx, &node).await,
        (Some(FenceCommand::History { node }), _) => history(cx, &node).await,
        (None, Some(Deed { node, why, confirm })) => {
            node::confirm(&node, confirm.as_deref(), "cut its power")?;
            cx.cluster.submit(Operation::FenceNode(NodeAct { node: node.clone(), why })).await?;
            node::say(cx, &node, "is being fenced; `berthctl node show` tells what comes of it");
            Ok(())
        }
        (None, None) => {
            Err(Failure::new(Kind::Input, "name the node; `berthctl fence --help` says how"))
        }
    }
}

async fn history(cx: &Context, node: &str) -> Result<(), Failure> {
    let node = node::find(cx, node, false).await?;
    if cx.json {
        render::json(&node.fence_history.iter().map(FenceAttempt::from).collect::<Vec<_>>());
        return Ok(());
    }
    let rows = node.fence_history.iter().map(|attempt| {
        let proven = if attempt.proven { "yes" } else { "no" };
        [time(attempt.at_ms), proven.to_owned(), attempt.outcome.clone()]
    });
    render::line(&table(["AT", "PROVEN DEAD", "OUTCOME"], rows));
    Ok(())
}

async fn test(cx: &Context, node: &str) -> Result<(), Failure> {
    let message = TestFenceRequest { node: node.to_owned() };
    let reply = cx
        .cluster
        .ask(|mut client| {
            let message = message.clone();
            async move { client.test_fence(message).await.map(Response::into_inner) }
        })
        .await?;
    if cx.json {
        let all: Vec<_> = reply
            .devices
            .iter()
            .map(|device| {
                serde_json::json!({
                    "agent": device.agent, "level": device.level, "answer": device.answer,
                    "ok": device.ok, "took_ms": device.took_ms, "through": device.through,
                })
            })
            .collect();
        render::json(&all);
    } else {
        let rows = reply.devices.iter().map(|device| {
            [
                device.agent.clone(),
                device.level.to_string(),
                device.through.clone(),
                device.answer.clone(),
                format!("{} ms", device.took_ms),
            ]
        });
        render::line(&table(["DEVICE", "LEVEL", "ASKED BY", "ANSWER", "TOOK"], rows));
    }
    // One way to each device is enough.
    let answers = |agent: &str, level: u32| {
        reply.devices.iter().any(|it| it.agent == agent && it.level == level && it.ok)
    };
    let all = reply.devices.iter().all(|device| answers(&device.agent, device.level));
    match all && !reply.devices.is_empty() {
        true => Ok(()),
        false => {
            let text = match reply.devices.is_empty() {
                true => format!("{node} has no fence device"),
                false => format!("not every fence device of {node} answers"),
            };
            Err(Failure::new(Kind::OperationFailed, text))
        }
    }
}
