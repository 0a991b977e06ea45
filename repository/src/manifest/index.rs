//! A manifest's entries, to be looked up by their paths, in bounded memory.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use super::compact::{broken, decode, encode, path, split};
use super::{Entry, SafePath};

/// Entries are looked for in blocks of this size, about: that is what one question reads.
const BLOCK: usize = 8 << 10;

/// So much is kept in memory; what is more goes to a temporary file.
const ROOM: usize = 32 << 20;

/// Entries in ascending order of their paths. In memory is one path for each 8 KiB of them, and the first 32 MiB at most;
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
        let after = self.blocks.partition_point(|block| &*block.first <= wanted);
        let Some(block) = after.checked_sub(1).and_then(|at| self.blocks.get(at)) else { return Ok(None) };
        let mut read = Vec::new();
        let mut bytes = match (&block.place, &self.file) {
            (Place::Held(at), _) => self.held.get(*at..*at + block.length).ok_or_else(broken)?,
            (Place::File(at), Some(file)) => {
                read.resize(block.length, 0);
                file.read_exact_at(&mut read, *at)?;
                read.as_slice()
            }
            (Place::File(_), None) => return Err(broken()),
        };
        while !bytes.is_empty() {
            let body = split(&mut bytes)?;
            if path(body)? == wanted {
                return decode(body).map(Some);
            }
        }
        Ok(None)
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
