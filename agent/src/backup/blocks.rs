//! A file's bytes, cut where its blocks end.

use bytes::{Bytes, BytesMut};
use proto::page::BLOCK_SIZE;

/// Cuts the bytes of one file, as they come, into blocks.
///
/// Blocks that came within one buffer are handed on as slices of it; one that was spread over several is put
/// together by a copy.
#[derive(Debug, Default)]
pub struct BlockCutter {
    partial: BytesMut,
}

impl BlockCutter {
    /// Takes from the front of `bytes`: whole blocks, one after another in one buffer. `None` once nothing is left
    /// to take; what is no whole block yet is kept.
    pub fn take(&mut self, bytes: &mut Bytes) -> Option<Bytes> {
        if self.partial.is_empty() {
            let whole = bytes.len() - bytes.len() % BLOCK_SIZE;
            if whole > 0 {
                return Some(bytes.split_to(whole));
            }
        }
        let missing = BLOCK_SIZE - self.partial.len();
        let part = bytes.split_to(bytes.len().min(missing));
        if part.is_empty() {
            return None;
        }
        self.partial.reserve(missing);
        self.partial.extend_from_slice(&part);
        (self.partial.len() == BLOCK_SIZE).then(|| self.partial.split().freeze())
    }

    /// The file has ended: its last block, if that is shorter than the others.
    pub fn rest(&mut self) -> Option<Bytes> {
        (!self.partial.is_empty()).then(|| self.partial.split().freeze())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn whole_blocks_are_not_copied() {
        let mut bytes = Bytes::from(vec![1; 3 * BLOCK_SIZE + 5]);
        let start = bytes.as_ptr();
        let mut cutter = BlockCutter::default();
        let blocks = cutter.take(&mut bytes).unwrap();
        assert_eq!((blocks.as_ptr(), blocks.len()), (start, 3 * BLOCK_SIZE));
        assert_eq!(cutter.take(&mut bytes), None);
        assert_eq!(cutter.rest().unwrap().len(), 5);
        assert_eq!(cutter.rest(), None);
    }

    proptest! {
        #[test]
        fn the_blocks_are_the_file(
            sizes in prop::collection::vec(prop_oneof![0usize..100, 0..40_000usize, Just(BLOCK_SIZE)], 0..12),
        ) {
            let total: usize = sizes.iter().sum();
            let content: Vec<u8> = (0..total).map(|i| (i / 7 % 251) as u8).collect();
            let (mut rest, mut cutter, mut seen) = (Bytes::from(content.clone()), BlockCutter::default(), Vec::new());
            for size in sizes {
                let mut chunk = rest.split_to(size);
                while let Some(blocks) = cutter.take(&mut chunk) {
                    prop_assert!(!blocks.is_empty() && blocks.len() % BLOCK_SIZE == 0);
                    seen.extend_from_slice(&blocks);
                }
                prop_assert!(chunk.is_empty());
            }
            let last = cutter.rest();
            prop_assert!(last.as_ref().is_none_or(|last| last.len() < BLOCK_SIZE));
            seen.extend_from_slice(&last.unwrap_or_default());
            prop_assert_eq!(seen, content);
        }
    }
}
