//! Manifests: all that is needed to rebuild a cluster's files out of packs.
//!
//! A manifest is complete in itself, an incremental backup's too: no other manifest is needed to restore it.
//! Its text form is in `text`, byte by byte in `docs/format.md`.

mod compact;
mod head;
mod index;
mod path;
mod sorted;
mod text;
#[cfg(test)]
pub(crate) mod text_tests;

use std::io::{BufRead, Write};

pub use head::{
    Controls, DamagedPages, ExternalConfig, MANIFEST_FORMAT, MAX_LISTED_DAMAGE, ManifestHead, Tablespace,
    WalRange,
};
pub use index::EntryIndex;
pub use path::{PathError, RawBytes, SafePath, escape, unescape};
pub use sorted::{EntrySorter, SortedEntries};
pub use text::{ManifestError, ManifestReader, ManifestWriter};

use crate::pack::{Extent, PackEntry};

/// Entries below this folder hold configuration files from outside the data directory.
pub const EXTERNAL_PREFIX: &str = ".walkeep-external";

/// A file or folder of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// A folder. Folders that only follow from the paths of files need no entry.
    Directory {
        /// Below the data directory.
        path: SafePath,
        /// Permission bits.
        mode: u32,
    },
    /// A regular file.
    File {
        /// Below the data directory.
        path: SafePath,
        /// Bytes.
        size: u64,
        /// Permission bits.
        mode: u32,
        /// When it was last changed, in seconds since 1970 UTC.
        mtime: i64,
        /// CRC-32C of the content, if known.
        crc32c: Option<u32>,
        /// Where its bytes lie: ascending, without overlap; what is not covered is zeros.
        extents: Vec<Extent>,
    },
}

impl Entry {
    /// Below the data directory.
    pub fn path(&self) -> &SafePath {
        match self {
            Entry::Directory { path, .. } | Entry::File { path, .. } => path,
        }
    }
}

/// A whole manifest in memory. Large ones are better written by an [`EntrySorter`], and looked up in an [`EntryIndex`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// What the backup is.
    pub head: ManifestHead,
    /// The packs that extents refer to by their index here.
    pub packs: Vec<PackEntry>,
    /// Files and folders. In any order; written, and therefore read back, in ascending order of their paths'
    /// bytes.
    pub entries: Vec<Entry>,
}

fn extents(entries: &mut [Entry]) -> impl Iterator<Item = &mut Extent> {
    entries.iter_mut().flat_map(|entry| match entry {
        Entry::File { extents, .. } => extents.as_mut_slice(),
        Entry::Directory { .. } => &mut [],
    })
}

impl Manifest {
    /// Takes packs out of the list to which no extent refers, so that what the list names is what the backup needs.
    pub fn drop_unused_packs(&mut self) {
        let mut numbers: Vec<Option<u32>> = vec![None; self.packs.len()];
        for extent in extents(&mut self.entries) {
            if let Some(number) = numbers.get_mut(extent.pack as usize) {
                *number = Some(0);
            }
        }
        let used = numbers.iter_mut().filter_map(Option::as_mut);
        used.zip(0..).for_each(|(number, next)| *number = next);
        let mut kept = numbers.iter();
        self.packs.retain(|_| kept.next().is_some_and(Option::is_some));
        for extent in extents(&mut self.entries) {
            if let Some(Some(number)) = numbers.get(extent.pack as usize) {
                extent.pack = *number;
            }
        }
    }

    /// Writes the text form, entries sorted by path.
    pub fn write<W: Write>(&self, mut to: W) -> Result<W, ManifestError> {
        self.write_head(&mut to)?;
        self.write_body(&mut to)?;
        Ok(to)
    }

    /// Writes the first line.
    pub(crate) fn write_head(&self, to: impl Write) -> Result<(), ManifestError> {
        self.head.write(to)
    }

    /// Writes everything but the first line.
    pub(crate) fn write_body(&self, to: impl Write) -> Result<(), ManifestError> {
        let mut sorted: Vec<&Entry> = self.entries.iter().collect();
        sorted.sort_unstable_by_key(|entry| entry.path());
        let mut writer = ManifestWriter::below_head(to, &self.packs)?;
        sorted.into_iter().try_for_each(|entry| writer.entry(entry))
    }

    /// Reads the text form to its end.
    pub fn read<R: BufRead>(from: R) -> Result<Self, ManifestError> {
        let mut reader = ManifestReader::new(from)?;
        let mut entries = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            entries.push(entry);
        }
        let (head, packs) = reader.into_parts();
        Ok(Self { head, packs, entries })
    }
}
