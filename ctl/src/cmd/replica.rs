//! The replicas of the control plane.

mod rebuild;

use proto::v1::{self, ListReplicasReply};
use tonic::Response;

use crate::args::Replica as Command;
use crate::cmd::Context;
use crate::exit::{Failure, Kind};
use crate::render::{self, Replica, table};

pub(super) async fn run(cx: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::List => {}
        Command::Init { members } => {
            let message = v1::InitialiseClusterRequest { replicas: members.into_iter().collect() };
            let reply = cx
                .cluster
                .ask(|mut client| {
                    let message = message.clone();
                    async move { client.initialise_cluster(message).await.map(Response::into_inner) }
                })
                .await?;
            if cx.json {
                render::json(&serde_json::json!({ "cluster": reply.cluster }));
            } else {
                render::line(&format!("cluster {} is initialised", reply.cluster));
            }
            return Ok(());
        }
        Command::Add { member } => add(cx, member).await?,
        Command::Remove { id } => {
            is_member(cx, id).await?;
            remove(cx, id).await?;
        }
        Command::Replace { old, member } => {
            is_member(cx, old).await?;
            add(cx, member).await?;
            remove(cx, old).await?;
        }
        Command::Rebuild { id, data_dir, address } => {
            rebuild::run(cx, id, &data_dir, address).await?;
        }
        Command::TransferLeader { id } => {
            let from = if id.is_none() { list(cx).await?.leader } else { None };
            let message = v1::TransferLeaderRequest { to: id, from };
            cx.cluster
                .ask(|mut client| async move { client.transfer_leader(message).await })
                .await?;
        }
    }
    let list = list(cx).await?;
    show(cx, &list);
    Ok(())
}

async fn list(cx: &Context) -> Result<ListReplicasReply, Failure> {
    cx.cluster
        .ask(|mut client| async move {
            client.list_replicas(v1::ListReplicasRequest {}).await.map(Response::into_inner)
        })
        .await
}

async fn add(cx: &Context, (id, address): (u64, String)) -> Result<(), Failure> {
    let message = v1::AddReplicaRequest { id, address };
    cx.cluster
        .ask(|mut client| {
            let message = message.clone();
            async move { client.add_replica(message).await }
        })
        .await?;
    Ok(())
}

/// The replicas take the removal of a stranger for one that is done; here it is more likely a wrong number.
async fn is_member(cx: &Context, id: u64) -> Result<(), Failure> {
    let found = list(cx).await?.replicas.iter().any(|replica| replica.id == id);
    let text = || format!("replica {id} is not a member; `berthctl replica list` shows who is");
    found.then_some(()).ok_or_else(|| Failure::new(Kind::NotFound, text()))
}

async fn remove(cx: &Context, id: u64) -> Result<(), Failure> {
    let message = v1::RemoveReplicaRequest { id };
    cx.cluster.ask(|mut client| async move { client.remove_replica(message).await }).await?;
    Ok(())
}

fn show(cx: &Context, list: &ListReplicasReply) {
    if cx.json {
        render::json(&list.replicas.iter().map(Replica::from).collect::<Vec<_>>());
        return;
    }
    let rows = list.replicas.iter().map(|replica| {
        [
            replica.id.to_string(),
            replica.address.clone(),
            replica.role.clone(),
            if replica.voter { "yes" } else { "no" }.into(),
            replica.matched_index.map(|index| index.to_string()).unwrap_or_default(),
        ]
    });
    render::line(&table(["REPLICA", "ADDRESS", "ROLE", "VOTER", "LOG UP TO"], rows));
}
