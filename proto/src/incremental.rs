//! `INCREMENTAL.<name>`: the changed blocks of one relation segment (PostgreSQL 17 and later).
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | magic D3AE1F0D |
//! | 4 | 4 | how many blocks follow |
//! | 8 | 4 | truncation length in blocks |
//! | 12 | 4 each | their numbers, ascending |
//! | | | zeros up to a multiple of 8,192, but only if there are blocks |
//! | | 8192 each | the blocks |

use crate::bytes::u32_at;
use crate::page::BLOCK_SIZE;

/// What an incremental file begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncrementalHeader {
    /// The smallest length in blocks that the file had since the parent backup.
    pub truncation_block_length: u32,
    /// Which blocks follow, ascending, counted within this segment.
    pub blocks: Vec<u32>,
}

/// Why a header cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IncrementalError {
    /// More bytes are needed: this many from the file's beginning.
    #[error("the header needs {0} bytes")]
    Short(usize),
    /// Not an incremental file.
    #[error("the file does not begin as an incremental file does")]
    Magic,
    /// A field that no server writes.
    #[error("the incremental file's header is damaged: {0}")]
    Field(&'static str),
}

const MAGIC: u32 = 0xD3AE_1F0D;
const FIXED: usize = 12;
/// Blocks in a full segment of a relation, 1 GiB: no number of a block or of blocks can be larger.
const MAX_BLOCKS: u32 = 131_072;

impl IncrementalHeader {
    /// Reads the header from the file's first bytes. Blocks begin at [`IncrementalHeader::length`].
    ///
    /// # Errors
    /// [`IncrementalError::Short`] says how many bytes are needed: 12 at first, then all; at most 525 KiB.
    pub fn parse(content: &[u8]) -> Result<IncrementalHeader, IncrementalError> {
        let field = |at| u32_at(content, at).ok_or(IncrementalError::Short(FIXED));
        if field(0)? != MAGIC {
            return Err(IncrementalError::Magic);
        }
        let (count, truncation_block_length) = (field(4)?, field(8)?);
        if count > MAX_BLOCKS {
            return Err(IncrementalError::Field("it has more blocks than a segment"));
        }
        if truncation_block_length > MAX_BLOCKS {
            return Err(IncrementalError::Field("its truncation length is longer than a segment"));
        }
        let numbers = content.get(FIXED..).unwrap_or_default().chunks_exact(4).take(count as usize);
        if numbers.len() < count as usize {
            return Err(IncrementalError::Short(header_length(count as usize)));
        }
        let blocks: Vec<u32> = numbers.filter_map(|number| u32_at(number, 0)).collect();
        if !blocks.is_sorted_by(|a, b| a < b) {
            return Err(IncrementalError::Field("its block numbers do not ascend"));
        }
        if blocks.last().is_some_and(|last| *last >= MAX_BLOCKS) {
            return Err(IncrementalError::Field("a block lies beyond the end of a segment"));
        }
        let header = IncrementalHeader { truncation_block_length, blocks };
        let (used, length) = (FIXED + 4 * count as usize, header.length());
        let padding = content.get(used..length).ok_or(IncrementalError::Short(length))?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(IncrementalError::Field("its padding is not zeros"));
        }
        Ok(header)
    }

    /// Bytes that the header takes, padding included.
    pub fn length(&self) -> usize {
        header_length(self.blocks.len())
    }

    /// Writes the header, padding included.
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.length());
        bytes.extend(MAGIC.to_le_bytes());
        bytes.extend((self.blocks.len() as u32).to_le_bytes());
        bytes.extend(self.truncation_block_length.to_le_bytes());
        bytes.extend(self.blocks.iter().flat_map(|block| block.to_le_bytes()));
        bytes.resize(self.length(), 0);
        bytes
    }
}

fn header_length(blocks: usize) -> usize {
    match FIXED + 4 * blocks {
        FIXED => FIXED,
        used => used.next_multiple_of(BLOCK_SIZE),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_unchanged_file_is_twelve_bytes() {
        let header = IncrementalHeader { truncation_block_length: 7, blocks: vec![] };
        assert_eq!(header.write(), [0x0D, 0x1F, 0xAE, 0xD3, 0, 0, 0, 0, 7, 0, 0, 0]);
    }

    #[test]
    fn says_how_much_it_needs() {
        let header = IncrementalHeader { truncation_block_length: 3000, blocks: (0..2046).collect() };
        let bytes = header.write();
        assert_eq!(bytes.len(), 2 * BLOCK_SIZE);
        assert_eq!(IncrementalHeader::parse(&bytes[..11]), Err(IncrementalError::Short(12)));
        assert_eq!(IncrementalHeader::parse(&bytes[..12]), Err(IncrementalError::Short(2 * BLOCK_SIZE)));
        assert_eq!(IncrementalHeader::parse(&bytes), Ok(header));
    }

    #[test]
    fn refuses_lies() {
        let of = |fields: [u32; 4]| -> Vec<u8> {
            let mut bytes: Vec<u8> = fields.iter().flat_map(|field| field.to_le_bytes()).collect();
            bytes.resize(BLOCK_SIZE, 0);
            bytes
        };
        assert!(IncrementalHeader::parse(&of([MAGIC, 1, 1, 5])).is_ok());
        for fields in
            [[MAGIC, u32::MAX, 1, 5], [MAGIC, 1, u32::MAX, 5], [MAGIC, 1, 1, MAX_BLOCKS], [MAGIC, 2, 1, 5]]
        {
            assert!(
                matches!(IncrementalHeader::parse(&of(fields)), Err(IncrementalError::Field(_))),
                "{fields:?}"
            );
        }
        assert_eq!(IncrementalHeader::parse(&of([1, 1, 1, 5])), Err(IncrementalError::Magic));
    }

    proptest! {
        #[test]
        fn survives_a_round_trip(length in 0..=MAX_BLOCKS, blocks in proptest::collection::btree_set(0..MAX_BLOCKS, 0..3000)) {
            let header = IncrementalHeader { truncation_block_length: length, blocks: blocks.into_iter().collect() };
            prop_assert_eq!(IncrementalHeader::parse(&header.write()), Ok(header));
        }

        #[test]
        fn never_panics_on_any_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), right: bool) {
            if right && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
            }
            let _ = IncrementalHeader::parse(&bytes);
        }
    }
}
