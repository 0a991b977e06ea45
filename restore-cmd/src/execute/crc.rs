//! A file's CRC-32C, put together from pieces that arrive in any order.
//!
//! A CRC is linear: the whole file's is the sum of what each piece contributes, however the others look. So one number is
//! enough, however many pieces there are.

use crc_fast::{CrcAlgorithm, checksum};

/// The polynomial, its highest power in the lowest bit.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// What a CRC begins with, and what is added to it at the end.
const ONES: u32 = u32::MAX;

/// x to the power of 8 times 2ⁿ: what 2ⁿ zero bytes multiply a CRC with.
const POWERS: [u32; 64] = {
    let mut powers = [0x80_0000; 64];
    let mut at = 1;
    while at < 64 {
        powers[at] = product(powers[at - 1], powers[at - 1]);
        at += 1;
    }
    powers
};

/// Modulo the polynomial.
const fn product(mut a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    while a != 0 {
        if a & 0x8000_0000 != 0 {
            product ^= b;
        }
        a <<= 1;
        b = if b & 1 == 0 { b >> 1 } else { b >> 1 ^ POLYNOMIAL };
    }
    product
}

/// `crc`, without its first and last ones, with so many zero bytes behind it.
fn shift(crc: u32, zeros: u64) -> u32 {
    let set = (0..64).filter(|power| zeros >> power & 1 == 1);
    set.fold(crc, |crc, power| product(POWERS[power], crc))
}

/// Collects the pieces of one file. What never comes is zeros: a hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct PieceCrc(u32);

/// CRC-32C of `bytes`.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

impl PieceCrc {
    /// `bytes` stand at `offset` of a file of `size` bytes, and come this once.
    pub(super) fn add(&mut self, offset: u64, bytes: &[u8], size: u64) {
        let length = bytes.len() as u64;
        let plain = crc32c(bytes) ^ ONES ^ shift(ONES, length);
        self.0 ^= shift(plain, size.saturating_sub(offset + length));
    }

    /// With what others have collected.
    pub(super) fn join(&mut self, other: Self) {
        self.0 ^= other.0;
    }

    /// The whole file's CRC.
    pub(super) fn finish(self, size: u64) -> u32 {
        self.0 ^ shift(ONES, size) ^ ONES
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn knows_the_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(PieceCrc::default().finish(0), crc32c(b""));
    }

    proptest! {
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
            let (mut crc, size) = (PieceCrc::default(), file.len() as u64);
            for (offset, bytes) in placed {
                crc.add(offset as u64, &bytes, size);
            }
            prop_assert_eq!(crc.finish(size), crc32c(&file));
        }
    }
}
