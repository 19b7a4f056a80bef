//! A small file that is written often and is never without a whole value: two slots, written in turn.
//!
//! ```text
//!  slot 0: length │ sealed (number, value)     the slot that is whole and has the higher number holds
//!  slot 1: length │ sealed (number, value)     a write that is cut short harms the older one only
//! ```
//! A write is in the kernel when [`Twin::write`] returns, so that it outlives this process, and on stable storage after
//! [`Twin::sync`].

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::store::format::sync_parent;
use crate::store::{StoreError, codec, file};

/// A page, so that the two slots never share one.
const SLOT_BYTES: usize = 4096;
const LENGTH_BYTES: usize = 4;
const NUMBER_BYTES: usize = 8;
/// The largest value that fits into a slot beside its length, its envelope and its number.
pub(crate) const MAX_TWIN_BYTES: usize = SLOT_BYTES - 32;

/// The file.
pub(crate) struct Twin {
    path: PathBuf,
    file: File,
    number: Mutex<u64>,
    dirty: AtomicBool,
}

impl Twin {
    /// Opens or makes the file; returns the value that holds. A file of which no slot is whole is damaged.
    pub(crate) fn open(path: &Path) -> Result<(Self, Option<Vec<u8>>), StoreError> {
        let made = !path.exists();
        let opened =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let opened = opened.map_err(|source| file("opening", path, source))?;
        if made {
            sync_parent(path)?;
        }
        let length = opened.metadata().map_err(|source| file("reading", path, source))?.len();
        let newest = (0..2).filter_map(|slot| read_slot(&opened, slot)).max_by_key(|(it, _)| *it);
        if newest.is_none() && length > 0 {
            return Err(StoreError::Damaged {
                what: "both copies of what is kept".into(),
                path: path.to_owned(),
                reason: "neither is what was written".into(),
            });
        }
        let number = newest.as_ref().map_or(0, |(number, _)| *number);
        let twin = Self {
            path: path.to_owned(),
            file: opened,
            number: Mutex::new(number),
            dirty: AtomicBool::new(false),
        };
        Ok((twin, newest.map(|(_, value)| value)))
    }

    /// Writes a value in the place of the older one.
    pub(crate) fn write(&self, value: &[u8]) -> Result<(), StoreError> {
        if value.len() > MAX_TWIN_BYTES {
            return Err(StoreError::TooLarge { bytes: value.len() });
        }
        let mut number = self.number.lock().unwrap_or_else(PoisonError::into_inner);
        let mut numbered = (*number + 1).to_be_bytes().to_vec();
        numbered.extend(value);
        let sealed = codec::seal(&numbered);
        let mut bytes = (sealed.len() as u32).to_be_bytes().to_vec();
        bytes.extend(sealed);
        let place = (*number + 1) % 2 * SLOT_BYTES as u64;
        self.file
            .write_all_at(&bytes, place)
            .map_err(|source| file("writing", &self.path, source))?;
        *number += 1;
        self.dirty.store(true, Ordering::Release);
        Ok(())
    }

    /// Returns when everything written before is on stable storage.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        if self.dirty.swap(false, Ordering::AcqRel) {
            self.file.sync_data().map_err(|source| file("syncing", &self.path, source))?;
        }
        Ok(())
    }
}

fn read_slot(file: &File, slot: u64) -> Option<(u64, Vec<u8>)> {
    let place = slot * SLOT_BYTES as u64;
    let mut length = [0; LENGTH_BYTES];
    file.read_exact_at(&mut length, place).ok()?;
    let length = u32::from_be_bytes(length) as usize;
    if length > SLOT_BYTES - LENGTH_BYTES {
        return None;
    }
    let mut sealed = vec![0; length];
    file.read_exact_at(&mut sealed, place + LENGTH_BYTES as u64).ok()?;
    let value = codec::unseal(&sealed).ok()?;
    let (number, value) = value.split_first_chunk::<NUMBER_BYTES>()?;
    Some((u64::from_be_bytes(*number), value.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_holds_and_a_cut_or_a_flipped_bit_leaves_one_of_the_last_two() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("twin");
        {
            let (twin, none) = Twin::open(&path).unwrap();
            assert_eq!(none, None);
            for value in [b"one".as_slice(), b"two", b"three"] {
                twin.write(value).unwrap();
            }
            twin.sync().unwrap();
        }
        assert_eq!(Twin::open(&path).unwrap().1.unwrap(), b"three");
        let good = std::fs::read(&path).unwrap();
        let may_be = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Twin::open(&path).unwrap().1.unwrap()
        };
        for bit in (0..good.len() * 8).step_by(61).chain(0..200) {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let value = may_be(&bytes);
            assert!(value == b"two" || value == b"three", "bit {bit}: {value:?}");
        }
        for length in (SLOT_BYTES..good.len()).chain([good.len() - 1]) {
            assert_eq!(may_be(&good[..length]), b"two", "length {length}");
        }
        std::fs::write(&path, &good[..7]).unwrap();
        assert!(matches!(Twin::open(&path), Err(StoreError::Damaged { .. })));
    }
}
