//! The note that `berthctl replica rebuild` leaves in an emptied data directory, and `berth-server` begins by.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

const NAME: &str = "REBUILT";

/// Under which id a replica begins anew, in place of which other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebuilt {
    /// The new id.
    pub new: u64,
    /// The id that is never used again, and may still be in the configuration.
    pub old: u64,
}

impl Rebuilt {
    /// What a data directory says, where it says something.
    pub fn read(directory: &Path) -> io::Result<Option<Self>> {
        let path = directory.join(NAME);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let rebuilt = text
            .trim()
            .split_once(" in place of ")
            .and_then(|(new, old)| Some(Self { new: new.parse().ok()?, old: old.parse().ok()? }));
        let unread = || io::Error::other(format!("{} says {text:?}", path.display()));
        rebuilt.map(Some).ok_or_else(unread)
    }

    /// Says it in a data directory; on stable storage when this returns.
    pub fn write(self, directory: &Path) -> io::Result<()> {
        let mut file = fs::File::create(directory.join(NAME))?;
        writeln!(file, "{} in place of {}", self.new, self.old)?;
        file.sync_all()?;
        fs::File::open(directory)?.sync_all()
    }
}
