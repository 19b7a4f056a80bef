//! Damage at rest: a bit flipped in any file of a data directory, and any file cut short or gone. What was acknowledged
//! is there afterwards, or the directory is refused; never is less there than was, and never something else.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::path::{Path, PathBuf};

use super::snapshot::SnapshotFiles;
use super::*;

/// Of each file, spread over it and at chance places between.
const FLIPS: usize = 60;
const CUTS: usize = 20;
const FIRST: u64 = 211;
const LAST: u64 = 400;

fn record(index: u64) -> Vec<u8> {
    let length = if index.is_multiple_of(9) { 9_000 } else { 150 };
    (0..length).map(|byte: u64| (byte.wrapping_mul(31) ^ index) as u8).collect()
}

/// A directory as a replica leaves it: entries appended, truncated and purged, votes, snapshots.
fn fill(directory: &Path) -> SledStore {
    let store = SledStore::open(directory).unwrap();
    let files = SnapshotFiles::open(directory).unwrap();
    store.put(MetaKey::Identity, b"replica 2").unwrap();
    for index in 1..=LAST {
        if index % 50 == 0 {
            // Another leader had other entries here.
            let other = (index..index + 3).map(|index| (index, vec![0xEE; 300])).collect();
            store.append(other).unwrap();
            store.sync().unwrap();
            store.put(MetaKey::Vote, format!("vote {index}").as_bytes()).unwrap();
            store.remove((Included(index), Unbounded)).unwrap();
            store.sync().unwrap();
        }
        store.append(vec![(index, record(index))]).unwrap();
        store.put(MetaKey::Committed, &index.to_be_bytes()).unwrap();
        store.sync().unwrap();
    }
    files.write(100, 1, &record(100)).unwrap();
    files.write(FIRST, 1, &record(FIRST)).unwrap();
    store.put(MetaKey::Purged, &(FIRST - 1).to_be_bytes()).unwrap();
    store.remove((Unbounded, Excluded(FIRST))).unwrap();
    store.sync().unwrap();
    store
}

/// All files of a directory, by their path in it.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(directory).unwrap().to_owned();
                all.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    all
}

fn lay_out(directory: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
    std::fs::create_dir_all(directory.join("db/blobs")).unwrap();
    for (name, bytes) in files {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// Why the damaged directory is refused, if it is; it panics where something is amiss and nobody says so.
fn refusal(files: &BTreeMap<PathBuf, Vec<u8>>, what: &str) -> Option<String> {
    let directory = tempfile::tempdir().unwrap();
    lay_out(directory.path(), files);
    let store = match SledStore::open(directory.path()) {
        Ok(store) => store,
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() > 20, "{what}: {text}");
            return Some(text);
        }
    };
    let snapshot = match SnapshotFiles::open(directory.path()).unwrap().newest() {
        Ok(snapshot) => snapshot,
        Err(error) => return Some(error.to_string()),
    };
    let there = store.read((Unbounded, Unbounded)).unwrap();
    let expected: Vec<_> = (FIRST..=LAST).map(record).collect();
    assert!(there == expected, "{what}: {} entries of {}", there.len(), expected.len());
    for (key, value) in [
        (MetaKey::Vote, format!("vote {LAST}").into_bytes()),
        (MetaKey::Identity, b"replica 2".to_vec()),
        (MetaKey::Purged, (FIRST - 1).to_be_bytes().to_vec()),
        (MetaKey::Committed, LAST.to_be_bytes().to_vec()),
    ] {
        assert_eq!(store.get(key).unwrap(), Some(value), "{what}: {key:?}");
    }
    // An older one than the last is refused by whoever knows how far the log was purged.
    assert!(snapshot.is_none_or(|it| it == record(FIRST) || it == record(100)), "{what}");
    None
}

/// What came of damage to one file.
#[derive(Debug, Default)]
struct Found {
    tried: usize,
    refused: usize,
    by_tally: usize,
}

impl Found {
    fn count(&mut self, refusal: Option<&str>) {
        self.tried += 1;
        self.refused += usize::from(refusal.is_some());
        let by_tally = |text: &str| text.contains("it ends at change");
        self.by_tally += usize::from(refusal.is_some_and(by_tally));
    }
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit.max(1)
    }
}

/// Damages each file in turn, in many ways; returns what came of it by file.
fn damage(whole: &BTreeMap<PathBuf, Vec<u8>>) -> BTreeMap<String, Found> {
    assert_eq!(refusal(whole, "undamaged"), None);
    let mut chance = Chance(20_261_125);
    let mut seen = BTreeMap::new();
    for (name, bytes) in whole {
        let mut found = Found::default();
        let mut count = |refusal: Option<String>| found.count(refusal.as_deref());
        for number in 0..FLIPS.min(bytes.len() * 8) {
            let bits = bytes.len() * 8;
            let even = number * bits / FLIPS;
            let bit = if number % 2 == 0 { even } else { chance.below(bits) };
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let files = with(whole, name, Some(damaged));
            count(refusal(&files, &format!("bit {bit} of {}", name.display())));
        }
        for number in 0..CUTS.min(bytes.len()) {
            let length = if number == 0 { 0 } else { chance.below(bytes.len()) };
            let files = with(whole, name, Some(bytes[..length].to_vec()));
            count(refusal(&files, &format!("{} cut to {length}", name.display())));
        }
        let files = with(whole, name, None);
        count(refusal(&files, &format!("{} removed", name.display())));
        seen.insert(name.display().to_string(), found);
    }
    println!("{seen:#?}");
    seen
}

#[test]
fn no_damage_takes_back_unseen_what_a_killed_process_had_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let running = fill(directory.path());
    let seen = damage(&files(directory.path()));
    drop(running);
    // What is not read back cannot be lost; of what is, some damage must have been there to be seen, and some of it only
    // the tally tells from a write that never happened.
    let database = &seen["db/db"];
    assert!(database.refused > 5 && database.by_tally > 0, "{seen:?}");
}

#[test]
fn no_damage_takes_back_unseen_what_a_process_that_ended_in_order_had_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    drop(fill(directory.path()));
    // sled writes its index when it opens, and closes its files a moment after it is dropped.
    drop(SledStore::open(directory.path()).unwrap());
    let seen = damage(&files(directory.path()));
    assert!(seen["db/db"].refused > 5, "{seen:?}");
}

fn with(
    files: &BTreeMap<PathBuf, Vec<u8>>,
    name: &Path,
    bytes: Option<Vec<u8>>,
) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = files.clone();
    match bytes {
        Some(bytes) => files.insert(name.to_owned(), bytes),
        None => files.remove(name),
    };
    files
}

#[test]
fn a_database_of_an_earlier_moment_beside_the_tally_of_a_later_one_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let open = || SledStore::open(directory.path()).unwrap();
    let store = open();
    store.append(vec![(1, record(1))]).unwrap();
    store.sync().unwrap();
    drop(store);
    drop(open());
    let early = files(directory.path());
    let store = open();
    store.append(vec![(2, record(2))]).unwrap();
    store.sync().unwrap();
    drop(store);
    let late = files(directory.path());
    let mut mixed = early;
    mixed.insert("tally".into(), late[Path::new("tally")].clone());
    let other = tempfile::tempdir().unwrap();
    lay_out(other.path(), &mixed);
    let error = SledStore::open(other.path()).err().unwrap().to_string();
    assert!(error.contains("it ends at change") && error.contains("replica rebuild"), "{error}");
}
