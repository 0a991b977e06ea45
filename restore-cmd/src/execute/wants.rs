//! What is wanted of each pack, in the order in which packs are read: in bounded memory, however many pieces it is.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// So many bytes of it are in memory, before they go to a temporary file.
const ROOM: usize = 8 << 20;

/// A run is read from the file in pieces of this size.
const PIECE: usize = 32 << 10;

/// A stretch of one pack that belongs into a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Want {
    /// Offset in the pack's raw stream.
    pub(super) pack_offset: u64,
    pub(super) length: u64,
    /// Which file.
    pub(super) file: u32,
    /// Offset in the file.
    pub(super) file_offset: u64,
}

/// With the pack's number.
type Wanted = (u32, Want);

/// Bytes of one in the temporary file.
const RECORD: usize = 32;

fn write(wanted: &Wanted, to: &mut impl Write) -> io::Result<()> {
    let (pack, Want { pack_offset, length, file, file_offset }) = wanted;
    to.write_all(&pack.to_le_bytes())?;
    to.write_all(&file.to_le_bytes())?;
    [pack_offset, length, file_offset].iter().try_for_each(|number| to.write_all(&number.to_le_bytes()))
}

fn read(from: &mut impl Read) -> io::Result<Wanted> {
    let mut record = [0; RECORD];
    from.read_exact(&mut record)?;
    let [small, pack_offset, length, file_offset] =
        std::array::from_fn(|at| u64::from_le_bytes(std::array::from_fn(|byte| record[at * 8 + byte])));
    let (pack, file) = (small as u32, (small >> 32) as u32);
    Ok((pack, Want { pack_offset, length, file, file_offset }))
}

/// Takes them in any order. What is too much for memory goes, in sorted runs, to a temporary file without a name in the
/// directory that is restored into: there is room for far more.
#[derive(Debug)]
pub(super) struct WantSorter {
    folder: PathBuf,
    room: usize,
    held: Vec<Wanted>,
    file: Option<File>,
    runs: Vec<Range<u64>>,
    bytes: u64,
}

impl WantSorter {
    pub(super) fn new(folder: &Path) -> Self {
        Self::with_room(folder, ROOM / size_of::<Wanted>())
    }

    fn with_room(folder: &Path, room: usize) -> Self {
        Self { folder: folder.to_owned(), room, held: Vec::new(), file: None, runs: Vec::new(), bytes: 0 }
    }

    /// Takes the next one.
    ///
    /// # Errors
    /// The temporary file cannot be written.
    pub(super) fn push(&mut self, pack: u32, want: Want) -> io::Result<()> {
        if self.held.len() >= self.room {
            self.spill()?;
        }
        self.bytes += want.length;
        self.held.push((pack, want));
        Ok(())
    }

    /// Bytes that are wanted, all together.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn spill(&mut self) -> io::Result<()> {
        self.held.sort_unstable();
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile_in(&self.folder)?),
        };
        let mut to = BufWriter::with_capacity(PIECE, &*file);
        self.held.iter().try_for_each(|wanted| write(wanted, &mut to))?;
        to.flush()?;
        let from = self.runs.last().map_or(0, |run| run.end);
        self.runs.push(from..from + (self.held.len() * RECORD) as u64);
        self.held.clear();
        Ok(())
    }

    /// All have come.
    ///
    /// # Errors
    /// The temporary file cannot be read.
    pub(super) fn sorted(mut self) -> io::Result<Wants> {
        self.held.sort_unstable();
        self.held.shrink_to_fit();
        let mut sources = vec![Source::Held(self.held.into_iter())];
        if let Some(file) = self.file.map(Arc::new) {
            let run = |run: Range<u64>| Run { file: file.clone(), at: run.start, end: run.end };
            let runs = self.runs.into_iter().map(|range| BufReader::with_capacity(PIECE, run(range)));
            sources.extend(runs.map(Source::Run));
        }
        let mut wants = Wants { heads: BinaryHeap::with_capacity(sources.len()), sources };
        (0..wants.sources.len()).try_for_each(|source| wants.refill(source))?;
        Ok(wants)
    }
}

/// A part of the temporary file.
#[derive(Debug)]
struct Run {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Run {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(into.len());
        let read = self.file.read_at(&mut into[..room], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[derive(Debug)]
enum Source {
    Held(std::vec::IntoIter<Wanted>),
    Run(BufReader<Run>),
}

impl Source {
    fn next(&mut self) -> io::Result<Option<Wanted>> {
        match self {
            Self::Held(wants) => Ok(wants.next()),
            Self::Run(run) if run.buffer().is_empty() && run.get_ref().at == run.get_ref().end => Ok(None),
            Self::Run(run) => read(run).map(Some),
        }
    }
}

/// All of it, pack by pack.
#[derive(Debug)]
pub(super) struct Wants {
    sources: Vec<Source>,
    /// The first of each source that was not given out yet.
    heads: BinaryHeap<Reverse<(Wanted, usize)>>,
}

impl Wants {
    fn refill(&mut self, source: usize) -> io::Result<()> {
        if let Some(wanted) = self.sources[source].next()? {
            self.heads.push(Reverse((wanted, source)));
        }
        Ok(())
    }

    /// The next pack of which something is wanted, and what, ascending.
    ///
    /// # Errors
    /// The temporary file cannot be read.
    pub(super) fn next_pack(&mut self) -> io::Result<Option<(u32, Vec<Want>)>> {
        let Some(Reverse(((pack, _), _))) = self.heads.peek() else { return Ok(None) };
        let (pack, mut wants) = (*pack, Vec::new());
        while let Some(Reverse(((next, want), source))) = self.heads.peek()
            && *next == pack
        {
            let source = *source;
            wants.push(*want);
            self.heads.pop();
            self.refill(source)?;
        }
        Ok(Some((pack, wants)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However little room there is.
        #[test]
        fn all_come_back_pack_by_pack(
            list in proptest::collection::vec((0u32..5, any::<u64>(), 1u64..9, any::<u32>(), any::<u64>()), 0..60),
            room in 1usize..20,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut sorter = WantSorter::with_room(folder.path(), room);
            let mut expected: BTreeMap<u32, Vec<Want>> = BTreeMap::new();
            for (pack, pack_offset, length, file, file_offset) in list {
                let want = Want { pack_offset, length, file, file_offset };
                sorter.push(pack, want).unwrap();
                expected.entry(pack).or_default().push(want);
            }
            let bytes: u64 = expected.values().flatten().map(|want| want.length).sum();
            prop_assert_eq!(sorter.bytes(), bytes);
            let mut wants = sorter.sorted().unwrap();
            for (pack, mut wanted) in expected {
                wanted.sort_unstable();
                prop_assert_eq!(wants.next_pack().unwrap(), Some((pack, wanted)));
            }
            prop_assert_eq!(wants.next_pack().unwrap(), None);
            prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "it has no name");
        }
    }
}
