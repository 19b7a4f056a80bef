//! Builds the parts in order, runs them, stops them in reverse.

use std::time::Duration;

use anyhow::{Context, anyhow};
use fence::FenceAgents;
use proto::channel::server_tls;
use proto::v1::agent_session_server::AgentSessionServer;
use proto::v1::control_server::ControlServer;
use proto::v1::raft_peer_server::RaftPeerServer;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tracing::{info, warn};

use crate::config::Config;
use crate::grpc::agent::{AgentService, of_this_cluster};
use crate::grpc::control::ControlService;
use crate::grpc::forward::Router;
use crate::grpc::questions::Questions;
use crate::hooks::Hooks;
use crate::leader::{self, LeaderHandle};
use crate::raft::{RaftHandle, RaftOptions};

/// A host that lost its power sends no farewell.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// A snapshot's chunk is 1 MiB, a batch of log entries may be larger.
/// A whole fleet with its domain XML, or a status of it.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
/// How long requests under way may take at an orderly stop; streams are cut after it.
const FAREWELL: Duration = Duration::from_secs(1);

/// Runs a replica until it is told to stop or its Raft stops.
pub async fn run(config: Config) -> anyhow::Result<()> {
    // The port first: a second process is refused before it touches the data.
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!("cannot listen on {}; is another berth-server running?", config.listen)
    })?;
    let raft = RaftHandle::open(RaftOptions {
        id: config.id,
        data_dir: config.data_dir.clone(),
        tls: config.tls.clone(),
        timing: config.timing,
    })
    .await?;
    let leader = LeaderHandle::default();
    let router = Router::new(raft.clone(), config.tls.clone());
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE));
    if let Some(tls) = &config.tls {
        server = server.tls_config(server_tls(tls)?)?;
    }
    let peers = RaftPeerServer::new(raft.peer_service())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let fence = FenceAgents::new(config.fence_agents.clone());
    let questions = Questions::default();
    let control = ControlService::new(
        raft.clone(),
        router.clone(),
        leader.clone(),
        fence.clone(),
        questions.clone(),
    );
    let agents = AgentService::new(raft.clone(), router, leader.clone(), questions);
    let routes = server
        .add_service(peers)
        .add_service(
            ControlServer::new(control)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(AgentSessionServer::with_interceptor(agents, of_this_cluster(raft.clone())));
    // `tcp_nodelay` of the builder does not reach a listener that was made outside; without it every write waits for
    // the other side's delayed acknowledgement.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(routes.serve_with_incoming_shutdown(incoming, async {
        // A sender that is gone means the same as its word.
        let _ = stopped.await;
    }));
    let mut superseded = leader.superseded();
    let hooks = Hooks::new(config.hooks);
    let leading = tokio::spawn(leader::run(raft.clone(), leader, fence, hooks));
    info!(id = config.id, listen = %config.listen, "serving");
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        warn!(%error, "the service manager could not be told");
    }

    let ended = tokio::select! {
        reason = raft.fatal() => Err(anyhow!("Raft has stopped: {reason}")),
        signal = told_to_stop() => signal,
        // The sender lives as long as the services above.
        epoch = superseded.wait_for(Option::is_some) => Err(anyhow!(
            "an agent has met epoch {}: a restored control plane has taken this one's place; shut this one down for good, and keep its data directory only as long as it may be looked into (if this one is the one that was restored last, the clock here was behind the restore before it: set the clock, empty the data directory and restore the backup again)",
            epoch.ok().and_then(|epoch| *epoch).unwrap_or_default()
        )),
    };
    // An error to hand over is no reason to stay; the others elect in a second.
    if ended.is_ok()
        && raft.leadership().borrow().is_some()
        && let Err(error) = raft.transfer_leader(None, None).await
    {
        info!(%error, "leadership was not handed over");
    }
    leading.abort();
    drop(stop);
    if tokio::time::timeout(FAREWELL, serving).await.is_err() {
        info!("streams were cut");
    }
    raft.shutdown().await;
    ended
}

async fn told_to_stop() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!("told to stop");
    Ok(())
}
