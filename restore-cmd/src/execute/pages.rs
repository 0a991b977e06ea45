//! Page checksums of files whose bytes arrive in pieces.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use proto::Lsn;
use proto::page::{self, BLOCK_SIZE, PageVerdict};

/// Blocks in a full segment of a relation: 1 GiB.
const BLOCKS_PER_SEGMENT: u32 = (1 << 30) / BLOCK_SIZE as u32;

/// A page of which some bytes have come, and how many.
type Half = (Box<[u8]>, usize);

/// Checks the pages of relations. A page is in memory only while a part of it is missing, which is as a rule in the frame
/// behind it.
#[derive(Debug)]
pub(super) struct PageCheck {
    /// From the backup's start to its end: pages that were changed there are mended by replay, and none is newer.
    span: Range<Lsn>,
    /// By file and block.
    halves: Mutex<HashMap<(u32, u64), Half>>,
}

/// The first block of a relation's file, counted through the relation; `None` if the file at `path` has no pages.
pub(super) fn first_block(path: &[u8]) -> Option<u32> {
    let file = page::is_relation_file(std::str::from_utf8(path).ok()?)?;
    file.segment_no.checked_mul(BLOCKS_PER_SEGMENT)
}

impl PageCheck {
    pub(super) fn new(span: Range<Lsn>) -> Self {
        Self { span, halves: Mutex::default() }
    }

    /// `bytes` stand at `offset` of that file, whose first block has the number `first_block`. Each byte comes once. The
    /// blocks, counted within the file, that are whole now and damaged.
    pub(super) fn add(&self, file: u32, first_block: u32, mut offset: u64, mut bytes: &[u8]) -> Vec<u32> {
        const BLOCK: u64 = BLOCK_SIZE as u64;
        let mut damaged = Vec::new();
        let mut check = |block: u64, page: &[u8]| damaged.extend(self.check(first_block, block, page));
        while !bytes.is_empty() {
            let (block, within) = (offset / BLOCK, (offset % BLOCK) as usize);
            let (piece, rest) = bytes.split_at(bytes.len().min(BLOCK_SIZE - within));
            if piece.len() == BLOCK_SIZE {
                check(block, piece);
            } else {
                let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
                let empty = || (vec![0; BLOCK_SIZE].into(), 0);
                let (page, filled) = halves.entry((file, block)).or_insert_with(empty);
                page[within..within + piece.len()].copy_from_slice(piece);
                *filled += piece.len();
                if *filled >= BLOCK_SIZE
                    && let Some((page, _)) = halves.remove(&(file, block))
                {
                    drop(halves);
                    check(block, &page);
                }
            }
            offset += piece.len() as u64;
            bytes = rest;
        }
        damaged
    }

    /// The block, if it is damaged.
    fn check(&self, first_block: u32, block: u64, page: &[u8]) -> Option<u32> {
        let block = u32::try_from(block).ok()?;
        let number = first_block.wrapping_add(block);
        match page::check_within(page, number, self.span.start, self.span.end) {
            PageVerdict::Ok | PageVerdict::New | PageVerdict::NewerThanStart => None,
            PageVerdict::BadChecksum { .. } | PageVerdict::BadHeader => Some(block),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPAN: Range<Lsn> = Lsn(0x100_0000)..Lsn(0x200_0000);

    #[test]
    fn what_claims_to_be_newer_than_the_backup_is_damaged() {
        let check = PageCheck::new(SPAN);
        let mut torn = sound(0, 3);
        torn[4..8].copy_from_slice(&0x180_0000u32.to_ne_bytes());
        assert!(check.add(0, 0, 0, &torn).is_empty());
        assert_eq!(check.add(0, 0, BLOCK_SIZE as u64, &b"text".repeat(BLOCK_SIZE / 4)), [1]);
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
            let check = PageCheck::new(SPAN);
            let mut found = Vec::new();
            for (from, to) in pieces {
                found.extend(check.add(3, BLOCKS_PER_SEGMENT, from as u64, &file[from..to]));
            }
            prop_assert_eq!(found, if damage { vec![block as u32] } else { vec![] });
            prop_assert!(check.halves.lock().unwrap().is_empty());
        }
    }

    #[test]
    fn other_files_have_no_pages() {
        assert_eq!(first_block(b"base/5/16384.1"), Some(BLOCKS_PER_SEGMENT));
        for other in [&b"pg_xact/0000"[..], b"global/pg_control", b"base/5/\xff"] {
            assert_eq!(first_block(other), None);
        }
    }
}
