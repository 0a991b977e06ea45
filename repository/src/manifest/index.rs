//! A manifest's entries, to be looked up by their paths, in bounded memory.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use super::compact::{broken, decode, encode, path, split};
use super::{Entry, SafePath};

/// Entries are looked for in blocks of this size, about: that is what one question reads.
const BLOCK: usize = 8 << 10;

/// So much is kept in memory; what is more goes to a temporary file.
const ROOM: usize = 16 << 20;

/// Entries in ascending order of their paths. In memory is one path for each 8 KiB of them, and the first 16 MiB at most;
/// the rest is in a temporary file, which has no name, in `TMPDIR` (or `/tmp`).
#[derive(Debug)]
pub struct EntryIndex {
    room: usize,
    blocks: Vec<Block>,
    /// The block that is being filled.
    open: Vec<u8>,
    body: Vec<u8>,
    held: Vec<u8>,
    file: Option<File>,
    written: u64,
    length: usize,
}

/// Where a block is.
#[derive(Debug)]
struct Block {
    first: Box<[u8]>,
    place: Place,
    length: usize,
}

#[derive(Debug)]
enum Place {
    Held(usize),
    File(u64),
}

impl Default for EntryIndex {
    fn default() -> Self {
        Self::with_room(ROOM)
    }
}

impl EntryIndex {
    fn with_room(room: usize) -> Self {
        let (open, body, held) = (Vec::new(), Vec::new(), Vec::new());
        Self { room, blocks: Vec::new(), open, body, held, file: None, written: 0, length: 0 }
    }

    /// Takes the next entry, whose path must be greater than that of the one before.
    ///
    /// # Errors
    /// The temporary file cannot be written.
    pub fn push(&mut self, entry: &Entry) -> io::Result<()> {
        encode(entry, &mut self.open, &mut self.body);
        self.length += 1;
        if self.open.len() < BLOCK { Ok(()) } else { self.close() }
    }

    /// Ends the block that is being filled. Whoever has pushed the last entry has to call it.
    pub fn close(&mut self) -> io::Result<()> {
        if self.open.is_empty() {
            return Ok(());
        }
        let first = path(split(&mut self.open.as_slice())?)?.into();
        let length = self.open.len();
        let place = if self.held.len() + length <= self.room {
            self.held.extend_from_slice(&self.open);
            Place::Held(self.held.len() - length)
        } else {
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(tempfile::tempfile()?),
            };
            file.write_all(&self.open)?;
            self.written += length as u64;
            Place::File(self.written - length as u64)
        };
        self.blocks.push(Block { first, place, length });
        self.open.clear();
        Ok(())
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The entry of that path.
    ///
    /// # Errors
    /// The temporary file cannot be read.
    pub fn find(&self, wanted: &SafePath) -> io::Result<Option<Entry>> {
        let wanted = wanted.as_bytes();
        match self.first_from(wanted)? {
            Some(body) if path(&body)? == wanted => decode(&body).map(Some),
            _ => Ok(None),
        }
    }

    /// Whether that is a folder: by an entry of its own, or since something lies in it.
    ///
    /// # Errors
    /// The temporary file cannot be read.
    pub fn is_folder(&self, wanted: &SafePath) -> io::Result<bool> {
        if matches!(self.find(wanted)?, Some(Entry::Directory { .. })) {
            return Ok(true);
        }
        let within = [wanted.as_bytes(), b"/"].concat();
        let next = self.first_from(&within)?;
        next.map_or(Ok(false), |body| Ok(path(&body)?.starts_with(&within)))
    }

    /// All of them, in the order of their paths. Beside one entry a block of some 8 KiB is in memory.
    pub fn iter(&self) -> impl Iterator<Item = io::Result<Entry>> {
        self.blocks.iter().flat_map(|block| {
            let (bytes, error) = match self.read(block) {
                Ok(bytes) => (bytes, None),
                Err(error) => (Cow::default(), Some(Err(error))),
            };
            let mut at = 0;
            let entries = std::iter::from_fn(move || {
                let mut rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
                let entry = split(&mut rest).and_then(decode);
                // Behind what cannot be read nothing can.
                at = if entry.is_ok() { bytes.len() - rest.len() } else { bytes.len() };
                Some(entry)
            });
            error.into_iter().chain(entries)
        })
    }

    /// The first entry whose path is not less than that.
    fn first_from(&self, wanted: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let after = self.blocks.partition_point(|block| &*block.first <= wanted);
        for block in &self.blocks[after.saturating_sub(1)..] {
            let bytes = self.read(block)?;
            let mut rest = &*bytes;
            while !rest.is_empty() {
                let body = split(&mut rest)?;
                if path(body)? >= wanted {
                    return Ok(Some(body.to_vec()));
                }
            }
        }
        Ok(None)
    }

    fn read(&self, block: &Block) -> io::Result<Cow<'_, [u8]>> {
        match (&block.place, &self.file) {
            (Place::Held(at), _) => {
                let held = self.held.get(*at..*at + block.length);
                held.map(Cow::Borrowed).ok_or_else(broken)
            }
            (Place::File(at), Some(file)) => {
                let mut read = vec![0; block.length];
                file.read_exact_at(&mut read, *at)?;
                Ok(Cow::Owned(read))
            }
            (Place::File(_), None) => Err(broken()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::text_tests::entries;
    use super::*;

    proptest! {
        #[test]
        fn finds_what_is_there_and_nothing_else(list in entries(), others in entries(), room in 0usize..3000) {
            let mut index = EntryIndex::with_room(room);
            let mut list = list;
            list.sort_by(|a, b| a.path().cmp(b.path()));
            list.iter().try_for_each(|entry| index.push(entry)).unwrap();
            index.close().unwrap();
            for entry in list.iter().chain(&others) {
                let expected = list.iter().find(|known| known.path() == entry.path());
                let found = index.find(entry.path()).unwrap();
                prop_assert_eq!(found.as_ref(), expected);
            }
            let all: io::Result<Vec<Entry>> = index.iter().collect();
            prop_assert_eq!(all.unwrap(), list.clone());
            let parents = list.iter().chain(&others).filter_map(|entry| entry.path().parent());
            for folder in parents.chain(others.iter().map(|entry| entry.path().clone())) {
                let within = |entry: &Entry| {
                    let (path, folder) = (entry.path().as_bytes(), folder.as_bytes());
                    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with(b"/"))
                };
                let by_entry = |entry: &Entry| matches!(entry, Entry::Directory { path, .. } if *path == folder);
                let expected = list.iter().any(|entry| within(entry) || by_entry(entry));
                prop_assert_eq!(index.is_folder(&folder).unwrap(), expected, "{}", folder);
            }
        }
    }

    #[test]
    fn many_blocks_in_memory_and_in_a_file() {
        let path = |number: u32| SafePath::new(format!("base/5/{number:06}")).unwrap();
        let mut index = EntryIndex::with_room(100_000);
        for number in (0..20_000).step_by(2) {
            index.push(&Entry::Directory { path: path(number), mode: number & 0o777 }).unwrap();
        }
        index.close().unwrap();
        assert!(index.blocks.len() > 10 && index.file.is_some() && !index.held.is_empty());
        for number in 0..20_000 {
            let found = index.find(&path(number)).unwrap();
            let mode = found.map(|entry| match entry {
                Entry::Directory { mode, .. } | Entry::File { mode, .. } => mode,
            });
            assert_eq!(mode, (number % 2 == 0).then_some(number & 0o777), "{number}");
        }
    }
}
