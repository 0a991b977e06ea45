//! What a backup's files come to: all that a plan asks of a manifest, gathered in one pass.

use std::collections::BTreeMap;

use repository::manifest::Entry;

use super::is_external;

/// What file systems hand out at least.
pub(super) const BLOCK: u64 = 4096;

/// What is written besides the backup's files: `backup_manifest` has a line for each, the rest is small.
const PER_FILE: u64 = 256;

/// Sums over a manifest's entries.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Content {
    pub(super) files: u64,
    pub(super) directories: u64,
    pub(super) size_bytes: u64,
    pub(super) read_bytes: u64,
    /// Room on disk for what lies in no tablespace, and for the list of all files.
    pub(super) room: u64,
    /// What lies in `pg_tblspc`, by oid.
    pub(super) spaces: BTreeMap<u32, Space>,
    packs: Vec<bool>,
}

/// What lies in a tablespace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Space {
    pub(super) room: u64,
    /// The first folder in it.
    pub(super) folder: Option<String>,
}

impl Content {
    /// Of all entries.
    ///
    /// # Errors
    /// An entry could not be read.
    pub fn of<E>(entries: impl IntoIterator<Item = Result<Entry, E>>) -> Result<Self, E> {
        let mut content = Self::default();
        for entry in entries {
            content.add(&entry?);
        }
        Ok(content)
    }

    fn add(&mut self, entry: &Entry) {
        let mut room = BLOCK;
        match entry {
            Entry::Directory { .. } => self.directories += 1,
            Entry::File { size, extents, .. } => {
                self.files += 1;
                self.size_bytes += size;
                let stored: u64 = extents.iter().map(|extent| extent.length).sum();
                self.read_bytes += stored;
                // What no extent covers is a hole.
                room = stored.next_multiple_of(BLOCK);
                for extent in extents {
                    let pack = extent.pack as usize;
                    if pack >= self.packs.len() {
                        self.packs.resize(pack + 1, false);
                    }
                    self.packs[pack] = true;
                }
            }
        }
        if is_external(entry) {
            return;
        }
        let mut parts = entry.path().parts().map(std::str::from_utf8);
        let space = match (parts.next(), parts.next()) {
            (Some(Ok("pg_tblspc")), Some(Ok(oid))) => oid.parse().ok(),
            _ => None,
        };
        self.room = self.room.saturating_add(PER_FILE);
        match space {
            Some(oid) => {
                let space: &mut Space = self.spaces.entry(oid).or_default();
                space.room = space.room.saturating_add(room);
                if space.folder.is_none() {
                    space.folder = parts.next().and_then(Result::ok).map(str::to_owned);
                }
            }
            None => self.room = self.room.saturating_add(room),
        }
    }

    /// How many packs they lie in.
    pub(super) fn packs(&self) -> usize {
        self.packs.iter().filter(|used| **used).count()
    }
}
