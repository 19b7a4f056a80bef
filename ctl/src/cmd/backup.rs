//! The control plane in one file, and back.

use std::io::Write;
use std::path::Path;

use proto::v1::{BackupRequest, RestoreChunk};
use tonic::Response;

use crate::cmd::Context;
use crate::exit::{Failure, Kind};
use crate::render;

const CHUNK_BYTES: usize = 256 * 1024;

pub(super) async fn backup(cx: &Context, path: &Path) -> Result<(), Failure> {
    let bytes = cx
        .cluster
        .ask(|mut client| async move {
            let mut stream = client.backup(BackupRequest {}).await?.into_inner();
            let mut bytes = Vec::new();
            while let Some(chunk) = stream.message().await? {
                bytes.extend_from_slice(&chunk.bytes);
            }
            Ok(bytes)
        })
        .await?;
    write(path, &bytes).map_err(|error| {
        Failure::new(Kind::Input, format!("{} could not be written: {error}", path.display()))
    })?;
    if cx.json {
        render::json(&serde_json::json!({ "file": path, "bytes": bytes.len() }));
    } else {
        render::line(&format!("{}: {} bytes", path.display(), bytes.len()));
    }
    Ok(())
}

/// All of it or nothing, and on the disk when this returns.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().filter(|it| !it.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(directory.unwrap_or(Path::new(".")))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

pub(super) async fn restore(
    cx: &Context,
    path: &Path,
    members: Vec<(u64, String)>,
) -> Result<(), Failure> {
    let bytes = std::fs::read(path).map_err(|error| {
        Failure::new(Kind::Input, format!("{} could not be read: {error}", path.display()))
    })?;
    let mut chunks =
        vec![RestoreChunk { replicas: members.into_iter().collect(), bytes: Default::default() }];
    chunks.extend(
        bytes
            .chunks(CHUNK_BYTES)
            .map(|part| RestoreChunk { replicas: Default::default(), bytes: part.to_vec().into() }),
    );
    let reply = cx
        .cluster
        .ask(|mut client| {
            let chunks = chunks.clone();
            async move {
                client.restore(tokio_stream::iter(chunks)).await.map(Response::into_inner)
            }
        })
        .await?;
    if cx.json {
        render::json(&serde_json::json!({
            "cluster": reply.cluster, "epoch": reply.epoch, "vms": reply.vms, "nodes": reply.nodes,
        }));
    } else {
        render::line(&format!(
            "cluster {} is restored as epoch {}: {} VMs, {} nodes; nothing starts before the nodes have said what they run",
            reply.cluster, reply.epoch, reply.vms, reply.nodes
        ));
    }
    Ok(())
}
