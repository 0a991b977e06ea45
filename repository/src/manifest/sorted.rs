//! A manifest's entries in any order, given back in the order of their paths, in bounded memory.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::compact::{broken, decode, encode, path, split};
use super::{Entry, ManifestError, ManifestWriter};
use crate::pack::PackEntry;

/// So much is kept in memory, about, before it goes to a temporary file.
const ROOM: usize = 16 << 20;

/// A run is read from the file in pieces of this size.
const PIECE: usize = 64 << 10;

/// Takes entries in any order. So many are in memory; beyond that sorted runs of them go to a temporary file, which has
/// no name, in `TMPDIR` (or `/tmp`).
#[derive(Debug)]
pub struct EntrySorter {
    room: usize,
    /// Entries one after another, and where each begins.
    held: Vec<u8>,
    starts: Vec<u32>,
    body: Vec<u8>,
    file: Option<File>,
    runs: Vec<Range<u64>>,
    length: usize,
    used: Vec<bool>,
}

impl Default for EntrySorter {
    fn default() -> Self {
        Self::with_room(ROOM)
    }
}

impl EntrySorter {
    fn with_room(room: usize) -> Self {
        // All at once: growing would need it twice. Memory that nobody touches costs nothing.
        let (held, starts, body) = (Vec::with_capacity(room), Vec::new(), Vec::new());
        Self { room, held, starts, body, file: None, runs: Vec::new(), length: 0, used: Vec::new() }
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// The temporary file cannot be written.
    pub fn push(&mut self, entry: &Entry) -> io::Result<()> {
        if let Entry::File { extents, .. } = entry {
            for extent in extents {
                let pack = extent.pack as usize;
                if pack >= self.used.len() {
                    self.used.resize(pack + 1, false);
                }
                self.used[pack] = true;
            }
        }
        // Less than 4 GiB: it is written out long before.
        self.starts.push(self.held.len() as u32);
        encode(entry, &mut self.held, &mut self.body);
        self.length += 1;
        match self.held.len() + self.starts.len() * size_of::<u32>() >= self.room {
            true => self.spill(),
            false => Ok(()),
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// All have come.
    pub fn sorted(mut self) -> io::Result<SortedEntries> {
        self.sort();
        let Self { held, starts, file, runs, length, used, .. } = self;
        Ok(SortedEntries { held, starts, file, runs, length, used })
    }

    fn sort(&mut self) {
        let held = &self.held;
        // What was encoded can be read.
        let key = |start: &u32| record(held, *start).and_then(path).unwrap_or_default();
        self.starts.sort_unstable_by(|a, b| key(a).cmp(key(b)));
    }

    /// Writes what is held as a sorted run.
    fn spill(&mut self) -> io::Result<()> {
        self.sort();
        let from = self.runs.last().map_or(0, |run| run.end);
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile()?),
        };
        let mut to = BufWriter::with_capacity(PIECE, &*file);
        let mut written = from;
        for start in &self.starts {
            let bytes = &self.held[*start as usize..];
            let mut rest = bytes;
            split(&mut rest)?;
            let whole = &bytes[..bytes.len() - rest.len()];
            to.write_all(whole)?;
            written += whole.len() as u64;
        }
        to.flush()?;
        drop(to);
        self.runs.push(from..written);
        self.held.clear();
        self.starts.clear();
        Ok(())
    }
}

fn record(held: &[u8], start: u32) -> io::Result<&[u8]> {
    split(&mut held.get(start as usize..).ok_or_else(broken)?)
}

/// All entries, to be read in the order of their paths, as often as wanted.
#[derive(Debug)]
pub struct SortedEntries {
    held: Vec<u8>,
    /// Sorted.
    starts: Vec<u32>,
    file: Option<File>,
    runs: Vec<Range<u64>>,
    length: usize,
    used: Vec<bool>,
}

impl SortedEntries {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Reads them. Beside one entry a piece of 64 KiB of each run is in memory.
    ///
    /// # Errors
    /// The temporary file cannot be read.
    pub fn iter(&self) -> io::Result<impl Iterator<Item = io::Result<Entry>>> {
        let mut merge = Merge { sources: Vec::new(), heads: BinaryHeap::new() };
        let held = self.starts.iter().map(|start| record(&self.held, *start));
        merge.add(Source::Held(Box::new(held)))?;
        for run in &self.runs {
            let file = self.file.as_ref().ok_or_else(broken)?;
            let run = Run { file, at: run.start, end: run.end };
            merge.add(Source::Run(BufReader::with_capacity(PIECE, run)))?;
        }
        Ok(merge)
    }

    /// Writes all but a manifest's head: the packs, which are those that [`SortedEntries::used_packs`] has left, and the
    /// entries, which number them anew.
    ///
    /// # Errors
    /// Two entries have the same path, or one refers to what is not there.
    pub(crate) fn write_body(&self, packs: &[PackEntry], to: impl Write) -> Result<(), ManifestError> {
        let mut next = 0;
        let numbers = self.used.iter().map(|used| {
            next += u32::from(*used);
            used.then(|| next - 1)
        });
        let numbers: Vec<Option<u32>> = numbers.collect();
        let mut writer = ManifestWriter::below_head(to, packs)?;
        for entry in self.iter().map_err(unreadable)? {
            let mut entry = entry.map_err(unreadable)?;
            if let Entry::File { extents, .. } = &mut entry {
                for extent in extents {
                    let number = numbers.get(extent.pack as usize).copied().flatten();
                    extent.pack = number.unwrap_or(u32::MAX);
                }
            }
            writer.entry(&entry)?;
        }
        Ok(())
    }

    /// Those of `packs` to which an entry refers.
    pub(crate) fn used_packs(&self, mut packs: Vec<PackEntry>) -> Vec<PackEntry> {
        let mut used = self.used.iter().copied();
        packs.retain(|_| used.next().unwrap_or(false));
        packs
    }
}

fn unreadable(error: io::Error) -> ManifestError {
    let why = format!("the temporary file with them cannot be read: {error}");
    ManifestError::Unwritable { what: "the files".into(), why }
}

/// Where sorted entries come from.
enum Source<'a> {
    Held(Box<dyn Iterator<Item = io::Result<&'a [u8]>> + 'a>),
    Run(BufReader<Run<'a>>),
}

impl Source<'_> {
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Held(entries) => entries.next().map(|entry| entry.map(<[u8]>::to_vec)).transpose(),
            Self::Run(run) => next_of(run),
        }
    }
}

/// The next entry of a run.
fn next_of(run: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    if run.fill_buf()?.is_empty() {
        return Ok(None);
    }
    let mut length = 0u64;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        run.read_exact(&mut byte)?;
        length |= u64::from(byte[0] & 0x7F) << shift;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = Vec::new();
    run.take(length).read_to_end(&mut body)?;
    if body.len() as u64 == length { Ok(Some(body)) } else { Err(broken()) }
}

/// A part of the temporary file.
struct Run<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Run<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(into.len());
        let read = self.file.read_at(&mut into[..room], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// The first entry of a source that was not given out yet.
struct Head {
    body: Vec<u8>,
    source: usize,
}

impl Head {
    fn path(&self) -> &[u8] {
        path(&self.body).unwrap_or_default()
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The heap gives out the greatest: that shall be the smallest path.
impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.path(), other.source).cmp(&(self.path(), self.source))
    }
}

struct Merge<'a> {
    sources: Vec<Source<'a>>,
    heads: BinaryHeap<Head>,
}

impl<'a> Merge<'a> {
    fn add(&mut self, source: Source<'a>) -> io::Result<()> {
        self.sources.push(source);
        self.refill(self.sources.len() - 1)
    }

    fn refill(&mut self, source: usize) -> io::Result<()> {
        if let Some(body) = self.sources[source].next()? {
            self.heads.push(Head { body, source });
        }
        Ok(())
    }
}

impl Iterator for Merge<'_> {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let Head { body, source } = self.heads.pop()?;
        Some(self.refill(source).and_then(|()| decode(&body)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::text_tests::{entries, head, pack};
    use super::super::{Manifest, text};
    use super::*;

    proptest! {
        /// However little room there is, and in whatever order they come.
        #[test]
        fn all_come_back_in_order(list in entries().prop_shuffle(), room in 1usize..2000) {
            let mut sorter = EntrySorter::with_room(room);
            list.iter().try_for_each(|entry| sorter.push(entry)).unwrap();
            let sorted = sorter.sorted().unwrap();
            prop_assert_eq!(sorted.len(), list.len());
            let mut expected = list;
            expected.sort_by(|a, b| a.path().cmp(b.path()));
            for _ in 0..2 {
                let found: io::Result<Vec<Entry>> = sorted.iter().unwrap().collect();
                prop_assert_eq!(found.unwrap(), expected.clone());
            }
        }

        /// The same bytes as a manifest that is held in memory.
        #[test]
        fn the_text_is_the_same(entries in entries().prop_shuffle(), room in 1usize..2000) {
            let packs: Vec<PackEntry> = (0..8).map(|number| pack(number, u64::MAX)).collect();
            let mut sorter = EntrySorter::with_room(room);
            entries.iter().try_for_each(|entry| sorter.push(entry)).unwrap();
            let mut found = Vec::new();
            text::write_head(&mut found, &head()).unwrap();
            let sorted = sorter.sorted().unwrap();
            sorted.write_body(&sorted.used_packs(packs.clone()), &mut found).unwrap();
            let mut manifest = Manifest { head: head(), packs, entries };
            manifest.drop_unused_packs();
            prop_assert_eq!(String::from_utf8(found), String::from_utf8(manifest.write(Vec::new()).unwrap()));
        }
    }

    #[test]
    fn a_path_that_comes_twice_is_refused() {
        let entry = Entry::Directory { path: super::super::SafePath::new("base").unwrap(), mode: 0o700 };
        let mut sorter = EntrySorter::with_room(1);
        [&entry, &entry].into_iter().try_for_each(|entry| sorter.push(entry)).unwrap();
        let written = sorter.sorted().unwrap().write_body(&[], Vec::new());
        assert!(matches!(written, Err(ManifestError::Unwritable { .. })), "{written:?}");
    }
}
