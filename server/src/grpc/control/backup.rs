//! Backup and restore, over the wire.

use std::collections::BTreeMap;

use proto::v1;
use tonic::{Response, Status, Streaming};

use super::{Answer, ControlService, Streamed};
use crate::backup;
use crate::grpc::status;

const CHUNK_BYTES: usize = 256 * 1024;
/// Ten times the state of the largest cluster designed for.
const MAX_BACKUP_BYTES: usize = 4 * 1024 * 1024 * 1024;

impl ControlService {
    pub(super) async fn stream_backup(&self) -> Answer<Streamed<v1::BackupChunk>> {
        let state = self.newest().await?;
        let file = backup::write(&state).map_err(|error| Status::internal(error.to_string()))?;
        let chunks: Vec<_> = file
            .chunks(CHUNK_BYTES)
            .map(|bytes| Ok(v1::BackupChunk { bytes: bytes.to_vec().into() }))
            .collect();
        Ok(Response::new(Box::pin(futures::stream::iter(chunks))))
    }

    pub(super) async fn take_backup(
        &self,
        mut chunks: Streaming<v1::RestoreChunk>,
    ) -> Answer<v1::RestoreReply> {
        let mut members = BTreeMap::new();
        let mut file = Vec::new();
        while let Some(chunk) = chunks.message().await? {
            members.extend(chunk.replicas);
            if file.len() + chunk.bytes.len() > MAX_BACKUP_BYTES {
                return Err(Status::invalid_argument("the backup is larger than 4 GiB"));
            }
            file.extend_from_slice(&chunk.bytes);
        }
        super::replicas::check_count(&members)?;
        let state =
            backup::read(&file).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let operations =
            backup::restore(&state).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let cluster =
            state.cluster.ok_or_else(|| Status::invalid_argument("the backup holds no cluster"))?;
        self.raft
            .restore(members, cluster, operations)
            .await
            .map_err(|error| status::not_changed(&error))?;
        let state = self.raft.state();
        Ok(Response::new(v1::RestoreReply {
            cluster: cluster.to_string(),
            epoch: state.epoch.0,
            vms: state.vms.len() as u64,
            nodes: state.nodes.len() as u64,
        }))
    }
}
