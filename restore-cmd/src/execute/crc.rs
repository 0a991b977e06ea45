//! A file's CRC-32C, put together from pieces that arrive in any order.

use crc_fast::{CrcAlgorithm, checksum, checksum_combine};

/// Some bytes of a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Piece {
    offset: u64,
    length: u64,
    crc: u32,
}

/// Collects the pieces of one file. What never comes is zeros: a hole.
#[derive(Debug, Default)]
pub(super) struct PieceCrc {
    pieces: Vec<Piece>,
}

/// CRC-32C of `bytes`.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

fn combine(front: u32, back: u32, back_length: u64) -> u32 {
    if back_length == 0 {
        return front;
    }
    checksum_combine(CrcAlgorithm::Crc32Iscsi, front.into(), back.into(), back_length) as u32
}

/// CRC-32C of `length` zero bytes, by doubling.
fn zeros(length: u64) -> u32 {
    let (mut crc, mut done) = (crc32c(&[]), 0);
    let (mut power, mut power_length, mut rest) = (crc32c(&[0]), 1u64, length);
    while rest > 0 {
        if rest & 1 == 1 {
            crc = combine(crc, power, power_length);
            done += power_length;
        }
        rest >>= 1;
        if rest > 0 {
            power = combine(power, power, power_length);
            power_length *= 2;
        }
    }
    debug_assert_eq!(done, length);
    crc
}

impl PieceCrc {
    /// `bytes` stand at `offset`.
    pub(super) fn add(&mut self, offset: u64, bytes: &[u8]) {
        let piece = Piece { offset, length: bytes.len() as u64, crc: crc32c(bytes) };
        // Pieces of one pack come in order: joined at once, a large file keeps a handful of them.
        match self.pieces.last_mut() {
            Some(last) if last.offset + last.length == offset => {
                last.crc = combine(last.crc, piece.crc, piece.length);
                last.length += piece.length;
            }
            _ => self.pieces.push(piece),
        }
    }

    /// The whole file's CRC; `None` if pieces overlap or go beyond `size`.
    pub(super) fn finish(mut self, size: u64) -> Option<u32> {
        self.pieces.sort_unstable();
        let (mut crc, mut end) = (crc32c(&[]), 0u64);
        for piece in &self.pieces {
            let hole = piece.offset.checked_sub(end)?;
            crc = combine(combine(crc, zeros(hole), hole), piece.crc, piece.length);
            end = piece.offset.checked_add(piece.length)?;
        }
        let hole = size.checked_sub(end)?;
        Some(combine(crc, zeros(hole), hole))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn knows_the_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn overlapping_pieces_are_refused() {
        let mut crc = PieceCrc::default();
        crc.add(0, b"abc");
        crc.add(2, b"def");
        assert_eq!(crc.finish(10), None);
        let mut crc = PieceCrc::default();
        crc.add(0, b"abc");
        assert_eq!(crc.finish(2), None);
    }

    proptest! {
        #[test]
        fn zeros_by_doubling(length in 0usize..10_000) {
            prop_assert_eq!(zeros(length as u64), crc32c(&vec![0; length]));
        }

        #[test]
        fn pieces_in_any_order_give_the_whole(
            pieces in proptest::collection::vec((0usize..300, proptest::collection::vec(any::<u8>(), 1..300)), 0..12),
            tail in 0usize..300,
            seed: u64,
        ) {
            let (mut file, mut placed) = (Vec::new(), Vec::new());
            for (gap, bytes) in pieces {
                file.resize(file.len() + gap, 0);
                placed.push((file.len(), bytes.clone()));
                file.extend(bytes);
            }
            file.resize(file.len() + tail, 0);
            let rotate = seed as usize % placed.len().max(1);
            placed.rotate_left(rotate);
            if seed & 1 == 1 {
                placed.reverse();
            }
            let mut crc = PieceCrc::default();
            for (offset, bytes) in placed {
                crc.add(offset as u64, &bytes);
            }
            prop_assert_eq!(crc.finish(file.len() as u64), Some(crc32c(&file)));
        }
    }
}
