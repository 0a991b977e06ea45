//! Page checksums of a relation's file, computed while it passes by.

use proto::Lsn;
use proto::page::{self, BLOCK_SIZE, PageVerdict, RelationFile};

/// Blocks in a full segment of a relation: 1 GiB, unless PostgreSQL was built otherwise (pg_control tells).
pub const SEGMENT_BLOCKS: u32 = (1 << 30) / BLOCK_SIZE as u32;

/// Of each file at most so many damaged blocks are named; all are counted.
const NAMED_BLOCKS: usize = 1000;

/// Looks at every whole page of one file.
pub struct PageScanner {
    /// Number of the file's first block within its relation: checksums include the number.
    first: u32,
    start: Lsn,
    seen: u32,
    partial: Vec<u8>,
    suspects: Suspects,
}

/// The pages of one file that do not bear their checksum.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Suspects {
    /// Block numbers within the file, from 0, of pages from before the backup; at most a thousand.
    pub blocks: Vec<u32>,
    /// How many there are of these in all.
    pub count: u64,
    /// Those that claim to have been changed during the backup, and when; at most a thousand.
    pub newer: Vec<(u32, Lsn)>,
    /// How many more there are of these, and the latest that one of them claims.
    pub newer_unnamed: (u64, Lsn),
}

impl Suspects {
    /// Pages that claim to be newer than the end of the backup, which none can be, and how many there are in all. The others
    /// of the newer ones were being written: replay mends them. If one of the unnamed claims too much, they all count.
    pub fn impossible(&self, stop: Lsn) -> (Vec<u32>, u64) {
        let blocks: Vec<u32> =
            self.newer.iter().filter(|(_, lsn)| *lsn > stop).map(|(block, _)| *block).collect();
        let (unnamed, latest) = self.newer_unnamed;
        let count = blocks.len() as u64 + if latest > stop { unnamed } else { 0 };
        (blocks, count)
    }
}

impl PageScanner {
    /// For `file` of a backup that starts at `start`: later pages may be torn, and replay mends them.
    pub fn new(file: RelationFile, start: Lsn) -> Self {
        Self {
            first: file.segment_no.saturating_mul(SEGMENT_BLOCKS),
            start,
            seen: 0,
            partial: Vec::new(),
            suspects: Suspects::default(),
        }
    }

    /// The next page is the one with that number within the file; those between are passed over.
    pub fn skip_to(&mut self, block: u32) {
        self.seen = block;
        self.partial.clear();
    }

    /// The next bytes of the file. Pages that lie within them are not copied.
    pub fn push(&mut self, mut bytes: &[u8]) {
        if !self.partial.is_empty() {
            let (head, rest) = bytes.split_at(bytes.len().min(BLOCK_SIZE - self.partial.len()));
            self.partial.extend_from_slice(head);
            bytes = rest;
            if self.partial.len() < BLOCK_SIZE {
                return;
            }
            let page = std::mem::take(&mut self.partial);
            self.look(&page);
            self.partial = page;
            self.partial.clear();
        }
        let pages = bytes.chunks_exact(BLOCK_SIZE);
        let rest = pages.remainder();
        pages.for_each(|page| self.look(page));
        if !rest.is_empty() {
            self.partial.reserve_exact(BLOCK_SIZE);
            self.partial.extend_from_slice(rest);
        }
    }

    /// What was found. A last piece that is no whole page is never looked at: the server was extending the file.
    pub fn finish(self) -> Option<Suspects> {
        (self.suspects != Suspects::default()).then_some(self.suspects)
    }

    fn look(&mut self, page: &[u8]) {
        let block = self.first.wrapping_add(self.seen);
        match page::check(page, block, true, self.start) {
            PageVerdict::Ok | PageVerdict::New => {}
            PageVerdict::NewerThanStart => self.look_at_newer(page, block),
            PageVerdict::BadChecksum { .. } | PageVerdict::BadHeader => {
                self.suspects.count += 1;
                if self.suspects.blocks.len() < NAMED_BLOCKS {
                    self.suspects.blocks.push(self.seen);
                }
            }
        }
        self.seen = self.seen.wrapping_add(1);
    }

    /// Torn, if it does not bear its checksum; or no page at all. Which of them only the end of the backup can tell.
    fn look_at_newer(&mut self, page: &[u8], block: u32) {
        let Some(lsn) = page::lsn(page) else { return };
        if page::check_sum(page, block) == PageVerdict::Ok {
            return;
        }
        if self.suspects.newer.len() < NAMED_BLOCKS {
            self.suspects.newer.push((self.seen, lsn));
        } else {
            let (count, latest) = self.suspects.newer_unnamed;
            self.suspects.newer_unnamed = (count + 1, latest.max(lsn));
        }
    }
}
