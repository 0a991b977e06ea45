//! Page checksums of a file whose bytes arrive in pieces.

use std::collections::BTreeMap;
use std::ops::Range;

use proto::Lsn;
use proto::page::{self, BLOCK_SIZE, PageVerdict};

/// Blocks in a full segment of a relation: 1 GiB.
const BLOCKS_PER_SEGMENT: u32 = (1 << 30) / BLOCK_SIZE as u32;

/// Checks the pages of one file of a relation.
#[derive(Debug)]
pub(super) struct PageCheck {
    /// The file's first block, counted through the relation.
    first_block: u32,
    /// From the backup's start to its end: pages that were changed there are mended by replay, and none is newer.
    span: Range<Lsn>,
    /// Pages of which some bytes have come, and how many.
    halves: BTreeMap<u64, (Vec<u8>, usize)>,
    /// Numbers, within this file, of damaged blocks.
    damaged: Vec<u32>,
}

impl PageCheck {
    /// For the file at `path` if it consists of pages.
    pub(super) fn of(path: &[u8], span: Range<Lsn>) -> Option<Self> {
        let file = page::is_relation_file(std::str::from_utf8(path).ok()?)?;
        let first_block = file.segment_no.checked_mul(BLOCKS_PER_SEGMENT)?;
        Some(Self { first_block, span, halves: BTreeMap::new(), damaged: Vec::new() })
    }

    /// `bytes` stand at `offset`. Each byte comes once.
    pub(super) fn add(&mut self, mut offset: u64, mut bytes: &[u8]) {
        const BLOCK: u64 = BLOCK_SIZE as u64;
        while !bytes.is_empty() {
            let (block, within) = (offset / BLOCK, (offset % BLOCK) as usize);
            let (piece, rest) = bytes.split_at(bytes.len().min(BLOCK_SIZE - within));
            if piece.len() == BLOCK_SIZE {
                self.check(block, piece);
            } else {
                let (page, filled) = self.halves.entry(block).or_insert_with(|| (vec![0; BLOCK_SIZE], 0));
                page[within..within + piece.len()].copy_from_slice(piece);
                *filled += piece.len();
                if *filled >= BLOCK_SIZE
                    && let Some((page, _)) = self.halves.remove(&block)
                {
                    self.check(block, &page);
                }
            }
            offset += piece.len() as u64;
            bytes = rest;
        }
    }

    fn check(&mut self, block: u64, page: &[u8]) {
        let Ok(block) = u32::try_from(block) else { return };
        let number = self.first_block.wrapping_add(block);
        match page::check_within(page, number, self.span.start, self.span.end) {
            PageVerdict::Ok | PageVerdict::New | PageVerdict::NewerThanStart => {}
            PageVerdict::BadChecksum { .. } | PageVerdict::BadHeader => self.damaged.push(block),
        }
    }

    /// Damaged blocks, in ascending order.
    pub(super) fn finish(mut self) -> Vec<u32> {
        self.damaged.sort_unstable();
        self.damaged
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPAN: Range<Lsn> = Lsn(0x100_0000)..Lsn(0x200_0000);

    #[test]
    fn what_claims_to_be_newer_than_the_backup_is_damaged() {
        let mut check = PageCheck::of(b"base/5/16384", SPAN).unwrap();
        let mut torn = sound(0, 3);
        torn[4..8].copy_from_slice(&0x180_0000u32.to_ne_bytes());
        check.add(0, &torn);
        check.add(BLOCK_SIZE as u64, &b"text".repeat(BLOCK_SIZE / 4));
        assert_eq!(check.finish(), [1]);
    }

    fn sound(block: u32, fill: u8) -> Vec<u8> {
        let mut page = vec![fill; BLOCK_SIZE];
        page[..24].fill(0);
        page[4..8].copy_from_slice(&100u32.to_ne_bytes());
        page[12..14].copy_from_slice(&40u16.to_ne_bytes());
        page[14..16].copy_from_slice(&8000u16.to_ne_bytes());
        page[16..18].copy_from_slice(&8192u16.to_ne_bytes());
        page[18..20].copy_from_slice(&(8192u16 | 4).to_ne_bytes());
        let sum = page::checksum(&page, block);
        page[8..10].copy_from_slice(&sum.to_ne_bytes());
        page
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn finds_damage_however_the_bytes_are_cut(
            fills in proptest::collection::vec(1u8.., 1..6),
            bad in any::<prop::sample::Index>(),
            damage: bool,
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
            reverse: bool,
        ) {
            let mut file: Vec<u8> = fills.iter().enumerate()
                .flat_map(|(block, fill)| sound(block as u32 + BLOCKS_PER_SEGMENT, *fill)).collect();
            let block = bad.index(fills.len());
            if damage {
                file[block * BLOCK_SIZE + 5000] ^= 1;
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(file.len())).collect();
            cuts.extend([0, file.len()]);
            cuts.sort_unstable();
            let mut pieces: Vec<_> = cuts.windows(2).map(|pair| (pair[0], pair[1])).collect();
            if reverse {
                pieces.reverse();
            }
            let mut check = PageCheck::of(b"base/5/16384.1", SPAN).unwrap();
            for (from, to) in pieces {
                check.add(from as u64, &file[from..to]);
            }
            prop_assert_eq!(check.finish(), if damage { vec![block as u32] } else { vec![] });
        }
    }

    #[test]
    fn other_files_have_no_pages() {
        assert!(PageCheck::of(b"pg_xact/0000", SPAN).is_none());
        assert!(PageCheck::of(b"global/pg_control", SPAN).is_none());
        assert!(PageCheck::of(b"base/5/\xff", SPAN).is_none());
    }
}
