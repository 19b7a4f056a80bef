//! A power cut at every moment: what was acknowledged is there afterwards, whatever the disk made of the rest.
//!
//! At each barrier that sled asks for, the database file is copied. A cut between two barriers leaves what was there at
//! the first, and of all that was written since any part, in any order, torn at sectors. From such images the store is
//! opened, and everything acknowledged before the first barrier's end must be in it, unharmed. Checked are the database
//! file and its order of writes; not checked are sled's index files, which it makes anew from the database when they are
//! missing, as they are here, and the disk's own honesty about flushes.

use std::ops::Bound::Unbounded;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::durable::observer;
use super::*;

const SECTOR: usize = 512;
const BATCHES: u64 = 120;
const CUTS: usize = 240;

/// What the disk holds for sure at a barrier, and what has been acknowledged when the barrier before it had ended.
struct Moment {
    image: Vec<u8>,
    /// As the kernel has it: the most that it could claim after the cut.
    tally: Vec<u8>,
    acknowledged: (u64, u64),
}

/// A small generator with a fixed seed: a cut that fails can be made again.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

fn record(index: u64) -> Vec<u8> {
    // Some span several parts.
    let length = if index.is_multiple_of(7) { 9_000 } else { 200 };
    (0..length).map(|byte| (byte as u64).wrapping_mul(index) as u8).collect()
}

/// Appends and purges under watch. The acknowledged range is (first, last) of what must be there.
fn moments(directory: &Path) -> Vec<Moment> {
    let store = SledStore::open(directory).unwrap();
    let acknowledged = Arc::new(Mutex::new((1u64, 0u64)));
    let moments = Arc::new(Mutex::new(Vec::new()));
    let (seen, noted, file) = (moments.clone(), acknowledged.clone(), directory.join("db/db"));
    let tally = directory.join("tally");
    observer::set(Some(Box::new(move |path: PathBuf| {
        if path == file {
            let moment = Moment {
                image: std::fs::read(&path).unwrap(),
                tally: std::fs::read(&tally).unwrap(),
                acknowledged: *noted.lock().unwrap(),
            };
            seen.lock().unwrap().push(moment);
        }
    })));
    let mut next = 1;
    for batch in 0..BATCHES {
        let size = 1 + batch % 5;
        store.append((next..next + size).map(|index| (index, record(index))).collect()).unwrap();
        next += size;
        store.sync().unwrap();
        acknowledged.lock().unwrap().1 = next - 1;
        if batch % 20 == 19 {
            let first = next - 10;
            // Entries may be gone from the moment that this is asked.
            acknowledged.lock().unwrap().0 = first;
            store.remove((Unbounded, std::ops::Bound::Excluded(first))).unwrap();
            store.sync().unwrap();
        }
    }
    observer::set(None);
    drop(store);
    std::mem::take(&mut *moments.lock().unwrap())
}

/// The disk after a cut between two barriers: the first's image, and of each sector that changed since, chance decides.
fn cut(before: &[u8], after: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut image = before.to_vec();
    // The file may have grown, or not.
    if chance.next().is_multiple_of(2) {
        image.resize(after.len().max(before.len()), 0);
    }
    let keep = chance.next() % 101;
    let length = image.len().min(after.len());
    for start in (0..length).step_by(SECTOR) {
        let sector = start..(start + SECTOR).min(length);
        if chance.next() % 100 < keep {
            image[sector.clone()].copy_from_slice(&after[sector]);
        }
    }
    image
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_at_any_moment() {
    let directory = tempfile::tempdir().unwrap();
    let moments = moments(directory.path());
    assert!(moments.len() > 100, "only {} barriers were seen", moments.len());
    let configuration = std::fs::read(directory.path().join("db/conf")).unwrap();
    let mut chance = Chance(20_261_123);
    for number in 0..CUTS {
        let at = chance.next() as usize % (moments.len() - 1);
        let (before, after) = (&moments[at], &moments[at + 1]);
        let crashed = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(crashed.path().join("db/blobs")).unwrap();
        let format = format!("{}\n", crate::store::format::CURRENT);
        std::fs::write(crashed.path().join("FORMAT"), format).unwrap();
        std::fs::write(crashed.path().join("tally"), &before.tally).unwrap();
        std::fs::write(crashed.path().join("db/conf"), &configuration).unwrap();
        std::fs::write(crashed.path().join("db/db"), cut(&before.image, &after.image, &mut chance))
            .unwrap();
        let store = SledStore::open(crashed.path())
            .unwrap_or_else(|error| panic!("cut {number} at {at}: {error}"));
        // What had been acknowledged when the first barrier was asked for was on the disk by then; a purge that was
        // asked for since may have been done.
        let (first, last) =
            (before.acknowledged.0.max(after.acknowledged.0), before.acknowledged.1);
        for index in first..=last {
            let range = (std::ops::Bound::Included(index), std::ops::Bound::Included(index));
            let there =
                store.read(range).unwrap_or_else(|error| panic!("cut {number} at {at}: {error}"));
            assert_eq!(
                there,
                [record(index)],
                "cut {number} at {at}: entry {index} of {first} to {last}"
            );
        }
    }
}
