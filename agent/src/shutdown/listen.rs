//! The agent's side: listens on its socket and speaks to the control plane for whoever asks.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use proto::v1::{AnnounceShutdownRequest, RegisterReply};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tonic::Request;
use tracing::{info, warn};
use uuid::Uuid;

use super::{ASK_AGAIN, Ask, LONGEST_LINE_BYTES, Then, Word, socket};
use crate::agent::lock;
use crate::session::Servers;

/// The control plane notes it by a commit, and an election may come before it.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// Who connects says at once what for.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// Between two attempts to listen again.
const AGAIN: Duration = Duration::from_secs(1);

/// Listens for as long as the agent lives. Without a socket the agent does all the rest.
pub async fn listen(
    run_dir: std::path::PathBuf,
    servers: Servers,
    session: Arc<Mutex<Option<RegisterReply>>>,
) {
    let path = socket(&run_dir);
    let listener = match open(&path) {
        Ok(listener) => listener,
        Err(error) => {
            warn!("a shutdown of this host cannot be announced: {error:#}");
            return;
        }
    };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (servers, session) = (servers.clone(), session.clone());
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, &servers, &session).await {
                        info!("a shutdown is no longer announced: {error:#}");
                    }
                });
            }
            Err(error) => {
                warn!(%error, "nobody can be let in on the agent's socket");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

fn open(path: &Path) -> anyhow::Result<UnixListener> {
    // The one of the agent before this; the ledger's lock keeps two from running at once.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("{} cannot be removed", path.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("{} cannot be kept from others", path.display()))?;
    Ok(listener)
}

/// Says it to the control plane until the other side has gone.
async fn serve(
    stream: UnixStream,
    servers: &Servers,
    session: &Mutex<Option<RegisterReply>>,
) -> anyhow::Result<()> {
    let peer = stream.peer_cred().context("it is not known who asks")?.uid();
    ensure!(peer == 0 || peer == nix::unistd::geteuid().as_raw(), "user {peer} may not ask");
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reader.take(LONGEST_LINE_BYTES));
    tokio::time::timeout(ASK_LIMIT, reader.read_line(&mut line))
        .await
        .context("nothing was asked")??;
    let Ask { then } = serde_json::from_str(&line).context("what was asked is not understood")?;
    info!(?then, "this host goes down: the control plane is told");
    let request_id = Uuid::new_v4();
    loop {
        let given = lock(session).clone();
        let word = match given {
            Some(given) => say(servers, &given, request_id, then).await,
            None => Word::Unheard("the agent is not in session with the control plane".into()),
        };
        let mut line = serde_json::to_vec(&word)?;
        line.push(b'\n');
        if writer.write_all(&line).await.is_err() {
            bail!("who asked for it has gone");
        }
        if word == Word::Empty {
            info!("nothing of the cluster's is left here");
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

async fn say(servers: &Servers, given: &RegisterReply, request_id: Uuid, then: Then) -> Word {
    // Another session's announcement is another request.
    let request_id = Uuid::from_u128(request_id.as_u128() ^ u128::from(given.session));
    let (_, address, mut client) = servers.pick();
    let mut request = Request::new(AnnounceShutdownRequest {
        request_id: request_id.to_string(),
        node_id: given.node_id,
        session: given.session,
        reboot: then == Then::Reboot,
    });
    request.set_timeout(ANSWER_LIMIT);
    let answer = tokio::time::timeout(ANSWER_LIMIT, client.announce_shutdown(request)).await;
    match answer {
        Ok(Ok(reply)) => {
            let reply = reply.into_inner();
            if reply.empty { Word::Empty } else { Word::Left(reply.left) }
        }
        // Heartbeats find another replica; this one asks whichever is there then.
        Ok(Err(status)) => Word::Unheard(format!("{address}: {}", status.message())),
        Err(_) => Word::Unheard(format!("{address} does not answer")),
    }
}
