//! The digests of a pack's blocks: what a later backup compares the server's files with.
//!
//! ```text
//! offset  bytes
//!      0      8   "wkblock1"
//!      8      4   block size: 8,192 (little-endian, as all numbers here)
//!     12      4   number of runs, n
//!     16   16·n   per run: where it begins in the pack's raw stream (8), its length (8)
//!            16   per block: the first 128 bits of the BLAKE3 digest of its bytes
//! ```
//!
//! A run is a stretch of one file's blocks, one after another: all of 8,192 bytes but perhaps the last. Runs ascend
//! and do not overlap. A block whose first byte lies in this pack and its last one in the next belongs to this one.
//!
//! A block is found by where its bytes lie, which a manifest's extents tell: no map of its own is needed, backups
//! that share a pack share its digests, and they go when the pack goes.

use std::fmt;
use std::ops::Range;

use proto::page::BLOCK_SIZE;

use super::PackName;
use crate::error::OrAbsent;
use crate::{Branch, Error, Key, Kind, Result};

/// Where all digests of blocks of a branch lie.
pub(crate) const FOLDER: &str = "block-digests";

const MAGIC: &[u8; 8] = b"wkblock1";
const HEAD: usize = 16;
const PER_RUN: usize = 16;

/// Longest object that is read: the digests of 4 GiB in blocks and in as many small files as may be.
const MAX_LENGTH: u64 = 256 << 20;

/// The first 128 bits of a block's BLAKE3 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockDigest([u8; 16]);

impl BlockDigest {
    /// Of these bytes.
    pub fn of(block: &[u8]) -> Self {
        let mut short = [0; 16];
        short.copy_from_slice(&blake3::hash(block).as_bytes()[..16]);
        Self(short)
    }
}

impl fmt::Debug for BlockDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Blocks that lie one after another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    offset: u64,
    length: u64,
    /// Which digest is that of its first block.
    first: usize,
}

/// The digests of a pack's blocks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PackBlocks {
    runs: Vec<Run>,
    digests: Vec<BlockDigest>,
}

impl PackBlocks {
    /// Adds the block that begins at `offset` of the raw stream, after all that were added before.
    pub(crate) fn push(&mut self, offset: u64, length: usize, digest: BlockDigest) {
        let length = length as u64;
        match self.runs.last_mut() {
            // Only whole blocks are followed by another one of the same run.
            Some(run) if run.offset + run.length == offset && run.length % BLOCK_SIZE as u64 == 0 => {
                run.length += length;
            }
            _ => self.runs.push(Run { offset, length, first: self.digests.len() }),
        }
        self.digests.push(digest);
    }

    /// Whether there is no block.
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// About how many bytes of memory it takes.
    pub fn size(&self) -> usize {
        size_of_val(self.runs.as_slice()) + size_of_val(self.digests.as_slice())
    }

    /// The length and the digest of the block that begins exactly at `offset` of the raw stream.
    pub fn at(&self, offset: u64) -> Option<(usize, BlockDigest)> {
        let after = self.runs.partition_point(|run| run.offset <= offset);
        let run = self.runs.get(after.checked_sub(1)?)?;
        let within = offset - run.offset;
        if within >= run.length || !within.is_multiple_of(BLOCK_SIZE as u64) {
            return None;
        }
        let length = (run.length - within).min(BLOCK_SIZE as u64) as usize;
        let digest = self.digests.get(run.first + (within / BLOCK_SIZE as u64) as usize)?;
        Some((length, *digest))
    }

    /// The blocks that begin in `range` of the raw stream, in order: where, their length and digest.
    pub(crate) fn beginning_in(&self, range: Range<u64>) -> impl Iterator<Item = (u64, usize, BlockDigest)> {
        let first = self.runs.partition_point(|run| run.offset + run.length <= range.start);
        let runs = self.runs[first..].iter().take_while(move |run| run.offset < range.end);
        runs.flat_map(move |run| {
            let before = range.start.saturating_sub(run.offset).div_ceil(BLOCK_SIZE as u64);
            let blocks = (before..run.length.div_ceil(BLOCK_SIZE as u64)).map(move |block| (block, *run));
            let placed = blocks.map(|(block, run)| (run.offset + block * BLOCK_SIZE as u64, block, run));
            placed.take_while(move |(offset, ..)| *offset < range.end).filter_map(|(offset, block, run)| {
                let length = (run.length - block * BLOCK_SIZE as u64).min(BLOCK_SIZE as u64) as usize;
                Some((offset, length, *self.digests.get(run.first + block as usize)?))
            })
        })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + self.runs.len() * PER_RUN + self.digests.len() * 16);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(BLOCK_SIZE as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.runs.len() as u32).to_le_bytes());
        for run in &self.runs {
            bytes.extend_from_slice(&run.offset.to_le_bytes());
            bytes.extend_from_slice(&run.length.to_le_bytes());
        }
        self.digests.iter().for_each(|digest| bytes.extend_from_slice(&digest.0));
        bytes
    }

    /// Reads [`PackBlocks::encode`]'s bytes; an error says what is wrong with them.
    fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let (head, rest) = bytes.split_first_chunk::<HEAD>().ok_or("it is cut off")?;
        if &head[..8] != MAGIC {
            return Err("it does not begin as the digests of format 1 do");
        }
        if head[8..12] != (BLOCK_SIZE as u32).to_le_bytes() {
            return Err("it tells of blocks of another size than 8 KiB");
        }
        let count = u32::from_le_bytes([head[12], head[13], head[14], head[15]]) as usize;
        let length = count.checked_mul(PER_RUN).ok_or("it tells of too many runs")?;
        let (runs, digests) = rest.split_at_checked(length).ok_or("it is cut off")?;
        let mut blocks = Self::default();
        let (mut end, mut first) = (0u64, 0u64);
        for run in runs.chunks_exact(PER_RUN) {
            let number =
                |at: usize| run[at..at + 8].iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
            let (offset, length) = (number(0), number(8));
            if offset < end || length == 0 {
                return Err("its runs do not ascend");
            }
            end = offset.checked_add(length).ok_or("a run ends beyond 64 bits")?;
            blocks.runs.push(Run { offset, length, first: first as usize });
            first = first.saturating_add(length.div_ceil(BLOCK_SIZE as u64));
        }
        if digests.len() as u64 != first.saturating_mul(16) {
            return Err("it has not as many digests as its runs have blocks");
        }
        let digests = digests.as_chunks::<16>().0;
        blocks.digests = digests.iter().map(|digest| BlockDigest(*digest)).collect();
        Ok(blocks)
    }
}

/// The key of a pack's digests below the branch.
pub(crate) fn key(pack: &PackName) -> Key {
    Key::root().child(FOLDER).child(pack.label()).child(pack.id())
}

impl Branch {
    /// Stores the digests of a pack's blocks. They are durable when this returns.
    pub(crate) async fn put_pack_blocks(&self, pack: &PackName, blocks: &PackBlocks) -> Result<()> {
        self.put_sealed(self.header(Kind::BlockDigests, &key(pack)), blocks.encode().into()).await?;
        Ok(())
    }

    /// The digests of a pack's blocks; `None` if the store has none.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if they cannot be relied on; a backup can do without them.
    pub async fn read_pack_blocks(&self, pack: &PackName) -> Result<Option<PackBlocks>> {
        let name = key(pack);
        let found = self.get_sealed(Kind::BlockDigests, &name, MAX_LENGTH).await.or_absent()?;
        let Some((_, content)) = found else { return Ok(None) };
        PackBlocks::decode(&content).map(Some).map_err(|why| Error::corrupt(self.key(&name), why))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Files of these lengths one after another, the first at `offset`: digest of each block is that of its place.
    fn blocks(mut offset: u64, files: &[u64]) -> (PackBlocks, Vec<(u64, usize, BlockDigest)>) {
        let (mut blocks, mut placed) = (PackBlocks::default(), Vec::new());
        for file in files {
            let mut rest = *file;
            while rest > 0 {
                let length = rest.min(BLOCK_SIZE as u64) as usize;
                let digest = BlockDigest::of(&offset.to_le_bytes());
                blocks.push(offset, length, digest);
                placed.push((offset, length, digest));
                offset += length as u64;
                rest -= length as u64;
            }
        }
        (blocks, placed)
    }

    #[test]
    fn whole_blocks_are_one_run() {
        let (joined, _) = blocks(7, &[3 * 8192, 2 * 8192 + 5, 8192]);
        assert_eq!(joined.runs.len(), 2);
        assert_eq!(joined.at(7).unwrap().0, 8192);
        assert_eq!(joined.at(7 + 5 * 8192).unwrap().0, 5);
        for nothing in [0, 8, 7 + 5 * 8192 + 1, 7 + 6 * 8192 + 5] {
            assert_eq!(joined.at(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn what_deviates_is_refused() {
        let good = blocks(0, &[8192, 10]).0.encode();
        assert!(PackBlocks::decode(&good).is_ok());
        for at in [0, 8, 12, 25] {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            assert!(PackBlocks::decode(&bad).is_err(), "{at}");
        }
        assert!(PackBlocks::decode(&good[..good.len() - 1]).is_err());
    }

    proptest! {
        #[test]
        fn every_block_is_found_again(
            offset in 0u64..100_000, files in proptest::collection::vec(0u64..40_000, 0..20),
            from in 0u64..500_000, to in 0u64..500_000,
        ) {
            let (blocks, placed) = blocks(offset, &files);
            prop_assert_eq!(blocks.is_empty(), placed.is_empty());
            let read = PackBlocks::decode(&blocks.encode());
            prop_assert_eq!(read.as_ref(), Ok(&blocks));
            for (offset, length, digest) in &placed {
                prop_assert_eq!(blocks.at(*offset), Some((*length, *digest)));
            }
            let (from, to) = (from.min(to), from.max(to));
            let within = placed.into_iter().filter(|(offset, ..)| (from..to).contains(offset));
            prop_assert!(blocks.beginning_in(from..to).eq(within));
        }

        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), right: bool) {
            if right && bytes.len() >= 12 {
                bytes[..8].copy_from_slice(MAGIC);
                bytes[8..12].copy_from_slice(&[0, 0x20, 0, 0]);
            }
            let _ = PackBlocks::decode(&bytes);
        }
    }
}
