//! The backup of a control plane: one file with the whole state, and the commands that bring it back.
//!
//! What passes is left out: events, remembered requests, sightings. A restored control plane takes a new epoch and asks
//! every node anew (design section 3).

use model::ClusterState;
use model::command::Operation;

/// `berth-backup VERSION CRC32\n`, then the state in postcard.
const MAGIC: &str = "berth-backup";
const VERSION: u32 = 2;

/// Why a file is no backup that can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// Something else.
    #[error("this is not a backup of Berth: {0}")]
    Foreign(&'static str),
    /// It was made before its layout changed.
    #[error(
        "the backup has format {0}, and this version of berth-server reads format {VERSION} only; restore it with the version that made it"
    )]
    Older(u32),
    /// By a newer Berth.
    #[error(
        "the backup has format {0}, and this version of berth-server knows formats up to {VERSION}; restore it with one as new as the one that made it"
    )]
    Newer(u32),
    /// Not what was written.
    #[error("the backup is damaged: {0}; use another one")]
    Damaged(String),
}

/// The file.
pub fn write(state: &ClusterState) -> Result<Vec<u8>, BackupError> {
    let mut state = state.clone();
    state.events.clear();
    state.requests.clear();
    state.requests_in_order.clear();
    let body =
        postcard::to_stdvec(&state).map_err(|error| BackupError::Damaged(error.to_string()))?;
    let mut file = format!("{MAGIC} {VERSION} {:08x}\n", crc32fast::hash(&body)).into_bytes();
    file.extend(body);
    Ok(file)
}

/// The state in a file.
pub fn read(file: &[u8]) -> Result<ClusterState, BackupError> {
    let end = file
        .iter()
        .take(100)
        .position(|byte| *byte == b'\n')
        .ok_or(BackupError::Foreign("it has no head line"))?;
    let head = std::str::from_utf8(&file[..end])
        .map_err(|_| BackupError::Foreign("its head line is not text"))?;
    let body = &file[end + 1..];
    let words: Vec<&str> = head.split(' ').collect();
    let [MAGIC, version, sum] = words.as_slice() else {
        return Err(BackupError::Foreign("its head line is another"));
    };
    let version =
        version.parse().map_err(|_| BackupError::Foreign("its version is not a number"))?;
    if version > VERSION {
        return Err(BackupError::Newer(version));
    }
    if version < VERSION {
        return Err(BackupError::Older(version));
    }
    if *sum != format!("{:08x}", crc32fast::hash(body)) {
        return Err(BackupError::Damaged("its checksum is another".into()));
    }
    postcard::from_bytes(body).map_err(|error| BackupError::Damaged(error.to_string()))
}

/// The commands that make a new control plane of a backup, in their order. None is larger than the VM or node in it.
pub fn restore(state: &ClusterState) -> Result<Vec<Operation>, BackupError> {
    let cluster =
        state.cluster.ok_or_else(|| BackupError::Damaged("it holds no cluster".into()))?;
    let begin =
        Operation::RestoreBegin { cluster, epoch: state.epoch, settings: state.settings.clone() };
    let domains = state
        .failover_domains
        .values()
        .map(|domain| Operation::RestoreFailoverDomain((**domain).clone()));
    let rules = state
        .placement_rules
        .values()
        .map(|rule| Operation::RestorePlacementRule((**rule).clone()));
    let nodes = state.nodes.values().map(|node| Operation::RestoreNode(Box::new((**node).clone())));
    let vms = state.vms.values().map(|vm| Operation::RestoreVm(Box::new((**vm).clone())));
    // After the VMs that are their members.
    let services =
        state.services.values().map(|it| Operation::RestoreService(Box::new((**it).clone())));
    Ok(std::iter::once(begin)
        .chain(domains)
        .chain(rules)
        .chain(nodes)
        .chain(vms)
        .chain(state.lock.clone().map(Operation::RestoreLock))
        // Whoever had the hands of the cluster held still has not let go of them since.
        .chain(state.pause.clone().map(Operation::RestorePause))
        .chain(services)
        .chain([Operation::RestoreEnd])
        .collect())
}

#[cfg(test)]
mod tests {
    use model::command::Command;
    use model::fleet::PauseMode;
    use model::id::{ClusterId, RequestId};
    use model::settings::Settings;
    use model::time::Timestamp;
    use uuid::Uuid;

    use super::*;

    fn apply(state: &mut ClusterState, operations: Vec<Operation>) {
        apply_at(state, operations, Timestamp(1));
    }

    fn apply_at(state: &mut ClusterState, operations: Vec<Operation>, at: Timestamp) {
        for (index, operation) in (1..).zip(operations) {
            let request = RequestId(Uuid::from_u128(index));
            let command = Command { request, at, by: "test".into(), operation };
            state.apply(index as u64, &command).unwrap();
        }
    }

    #[test]
    fn a_restored_state_is_of_a_new_epoch_and_gives_out_no_number_again() {
        let mut state = ClusterState::default();
        let cluster = ClusterId(Uuid::from_u128(9));
        apply(&mut state, vec![Operation::Initialise { cluster, settings: Settings::default() }]);
        let file = write(&state).unwrap();
        let backup = read(&file).unwrap();
        let made = |at| {
            let mut restored = ClusterState::default();
            apply_at(&mut restored, restore(&backup).unwrap(), at);
            assert_eq!(restored.cluster, Some(cluster));
            restored
        };
        let first = made(Timestamp(1_000_000));
        assert!(first.epoch > state.epoch);
        assert!(first.revision > state.revision + 1_000_000);
        // The same backup once more, be the first control plane made of it lost or not.
        let second = made(Timestamp(1_002_000));
        assert!(second.epoch > first.epoch);
        assert!(second.revision > first.revision + 1_000_000);
        // By a clock that is behind what the backup says.
        let astray = made(Timestamp(1));
        assert!(astray.epoch > state.epoch);
        assert!(astray.revision > state.revision + 1_000_000);
    }

    #[test]
    fn what_was_held_still_when_the_backup_was_made_is_held_still_after_it_is_restored() {
        let mut state = ClusterState::default();
        let cluster = ClusterId(Uuid::from_u128(9));
        let why = || "the storage is replaced".to_owned();
        apply(
            &mut state,
            vec![
                Operation::Initialise { cluster, settings: Settings::default() },
                Operation::Lock { why: why() },
                Operation::PauseCluster { mode: PauseMode::Ignore, why: why() },
            ],
        );
        let backup = read(&write(&state).unwrap()).unwrap();
        let mut restored = ClusterState::default();
        apply(&mut restored, restore(&backup).unwrap());
        assert!(restored.pause.is_some() && !restored.restoring);
        assert_eq!((restored.pause, restored.lock), (state.pause, state.lock));
    }

    #[test]
    fn what_is_no_backup_is_refused_with_the_reason() {
        let mut state = ClusterState::default();
        let cluster = ClusterId(Uuid::from_u128(9));
        apply(&mut state, vec![Operation::Initialise { cluster, settings: Settings::default() }]);
        let good = write(&state).unwrap();
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let head = good.iter().position(|byte| *byte == b'\n').unwrap();
        let of_format = |version: u32| {
            let text = std::str::from_utf8(&good[..head]).unwrap();
            let text = text.replacen(&format!(" {VERSION} "), &format!(" {version} "), 1);
            [text.as_bytes(), &good[head..]].concat()
        };
        for (file, reason) in [
            (flipped, "checksum"),
            (good[..good.len() - 3].to_vec(), "checksum"),
            (of_format(VERSION + 1), "one as new as"),
            (of_format(VERSION - 1), "the version that made it"),
            (b"hello".to_vec(), "no head line"),
            (b"hello world\n".to_vec(), "another"),
        ] {
            let error = read(&file).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
