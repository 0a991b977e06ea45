//! The bytes of a window as they come in: in pieces, so that each can be given up as soon as it has been compressed.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

/// Bytes of a piece.
const PIECE: usize = 256 << 10;

#[derive(Debug, Default)]
pub(super) struct Gathered {
    full: Vec<Bytes>,
    /// The piece that is being filled; it has room for [`PIECE`] bytes, or for none before its first.
    last: BytesMut,
}

impl Gathered {
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.last.is_empty() {
                self.last = BytesMut::with_capacity(PIECE);
            }
            let (now, rest) = bytes.split_at(bytes.len().min(PIECE - self.last.len()));
            self.last.extend_from_slice(now);
            bytes = rest;
            if self.last.len() == PIECE {
                self.full.push(std::mem::take(&mut self.last).freeze());
            }
        }
    }

    /// A part. It shares the pieces that are full; of the last one it is a copy, since that goes on growing.
    pub(super) fn part(&self, range: Range<usize>) -> Vec<Bytes> {
        let within = |at: usize, length: usize| {
            let place = |position: usize| position.saturating_sub(at * PIECE).min(length);
            place(range.start)..place(range.end)
        };
        let full = self.full.iter().enumerate().map(|(at, piece)| piece.slice(within(at, piece.len())));
        let last = Bytes::copy_from_slice(&self.last[within(self.full.len(), self.last.len())]);
        full.chain([last]).filter(|piece| !piece.is_empty()).collect()
    }

    /// All of it; what comes next begins anew.
    pub(super) fn take(&mut self) -> Vec<Bytes> {
        let Self { mut full, last } = std::mem::take(self);
        if !last.is_empty() {
            full.push(last.freeze());
        }
        full
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]

        #[test]
        fn what_went_in_comes_out(
            lengths in prop::collection::vec(0..PIECE, 1..6), ends in any::<[prop::sample::Index; 2]>(),
        ) {
            let (mut gathered, mut all) = (Gathered::default(), Vec::new());
            for (number, length) in lengths.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..length).map(|at| (at * 31 + number) as u8).collect();
                gathered.push(&bytes);
                all.extend(bytes);
            }
            let mut ends = ends.map(|end| end.index(all.len() + 1));
            ends.sort_unstable();
            let part = gathered.part(ends[0]..ends[1]);
            prop_assert!(part.iter().all(|piece| !piece.is_empty()));
            prop_assert_eq!(&part.concat()[..], &all[ends[0]..ends[1]]);
            prop_assert_eq!(gathered.take().concat(), all);
            gathered.push(b"anew");
            prop_assert_eq!(gathered.take().concat(), b"anew");
        }
    }
}
