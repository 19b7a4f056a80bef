use std::ops::Bound::{Included, Unbounded};

use super::sled_store::part_key;
use super::*;

fn store(directory: &Path) -> SledStore {
    SledStore::open(directory).unwrap()
}

#[test]
fn what_was_synced_is_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    {
        let store = store(directory.path());
        store.append((1..=5).map(|index| (index, vec![index as u8])).collect()).unwrap();
        store.put(MetaKey::Vote, b"a vote").unwrap();
        store.remove((Included(4), Unbounded)).unwrap();
        store.sync().unwrap();
    }
    let store = store(directory.path());
    assert_eq!(store.read((Unbounded, Unbounded)).unwrap(), [[1], [2], [3]]);
    assert_eq!(store.read((Included(2), Included(2))).unwrap(), [[2]]);
    assert_eq!(store.last().unwrap().unwrap(), [3]);
    assert_eq!(store.get(MetaKey::Vote).unwrap().unwrap(), b"a vote");
    assert_eq!(store.get(MetaKey::Purged).unwrap(), None);
}

#[test]
fn every_sync_after_a_write_reaches_fdatasync() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    for index in 0..20 {
        let before = durable::barriers();
        store.append(vec![(index, vec![7; 100])]).unwrap();
        store.sync().unwrap();
        assert!(durable::barriers() > before, "entry {index}");
    }
}

#[test]
fn a_newer_format_is_refused_with_both_versions() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("FORMAT"), "99\n").unwrap();
    let error = SledStore::open(directory.path()).err().unwrap().to_string();
    assert!(
        error.contains("format 99") && error.contains(&format!("up to {}", format::CURRENT)),
        "{error}"
    );
}

#[test]
fn a_half_made_index_of_a_killed_process_does_not_stop_the_next_one() {
    let directory = tempfile::tempdir().unwrap();
    {
        let store = store(directory.path());
        store.append(vec![(1, vec![1])]).unwrap();
        store.sync().unwrap();
    }
    std::fs::write(directory.path().join("db/snap.0000000000000FFF.generating"), b"").unwrap();
    assert_eq!(store(directory.path()).last().unwrap().unwrap(), [1]);
}

#[test]
fn a_record_too_large_to_be_safe_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let error = store.append(vec![(1, vec![0; MAX_VALUE_BYTES])]).unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    assert_eq!(store.last().unwrap(), None);
}

#[test]
fn a_flipped_bit_in_a_record_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    store.append(vec![(3, b"precious".to_vec())]).unwrap();
    let mut bytes = store.log.get(part_key(3, 0)).unwrap().unwrap().to_vec();
    bytes[6] ^= 4;
    store.log.insert(part_key(3, 0), bytes).unwrap();
    let error = store.last().unwrap_err().to_string();
    assert!(error.contains("log entry 3") && error.contains("checksum"), "{error}");
}

#[test]
fn the_newest_snapshot_is_read_back_and_a_damaged_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let files = snapshot::SnapshotFiles::open(directory.path()).unwrap();
    for index in [5, 40, 300] {
        files.write(index, 1, format!("state {index}").as_bytes()).unwrap();
    }
    assert_eq!(files.newest().unwrap().unwrap(), b"state 300");
    let paths: Vec<_> = std::fs::read_dir(directory.path().join("snapshots")).unwrap().collect();
    assert_eq!(paths.len(), 2, "older ones are removed");
    let newest = directory.path().join(format!("snapshots/{:020}-1.berth", 300));
    let mut bytes = std::fs::read(&newest).unwrap();
    bytes[8] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    assert!(matches!(files.newest(), Err(StoreError::Damaged { .. })));
}

#[test]
fn large_records_come_back_whole_and_never_reach_the_files_that_sled_does_not_sync() {
    let directory = tempfile::tempdir().unwrap();
    let record = |index: u64| vec![index as u8; 60_000 + index as usize];
    {
        let store = store(directory.path());
        for index in 0..200 {
            store.append(vec![(index, record(index))]).unwrap();
            store.sync().unwrap();
            if index % 50 == 49 {
                store.remove((Unbounded, Included(index - 20))).unwrap();
            }
        }
    }
    let blobs = std::fs::read_dir(directory.path().join("db/blobs")).unwrap().count();
    assert_eq!(blobs, 0, "sled has put leaves into blob files");
    let store = store(directory.path());
    let records = store.read((Included(180), Unbounded)).unwrap();
    assert!(
        records.iter().zip(180..).all(|(bytes, index)| *bytes == record(index))
            && records.len() == 20
    );
}
