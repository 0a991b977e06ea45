//! How `restore-cmd fetch` marks a segment of which the repository has only the beginning.
//!
//! PostgreSQL wants whole segments from its `restore_command`, so the missing rest is zeros. A standby with
//! `archive_mode=always` then offers that file for archiving under the whole segment's name. The stamp in its last
//! 16 bytes makes it known; PostgreSQL itself never reads so far, since replay ends where the zeros begin.
//!
//! Stamp: 8 bytes `wkpadded`, the number of valid bytes as a little-endian `u32`, and the same with all bits
//! flipped.

use crate::bytes::u32_at;

const MARK: &[u8; 8] = b"wkpadded";
/// Bytes of the stamp.
pub const STAMP: usize = 16;

/// Makes everything from `valid` on zeros, and stamps the end.
///
/// There is no stamp if fewer than 16 bytes are missing: it would overwrite WAL. Such a segment is told by
/// [`check_whole`](super::check::check_whole), since its last record is not there.
pub fn stamp_padding(segment: &mut [u8], valid: usize) {
    let Some(padding) = segment.get_mut(valid..) else { return };
    padding.fill(0);
    let Some(stamp) = u32::try_from(valid).ok().and_then(|valid| stamp(padding.len() as u64, valid)) else {
        return;
    };
    if let Some(end) = padding.last_chunk_mut::<STAMP>() {
        *end = stamp;
    }
}

/// The stamp for a segment of which `valid` bytes are WAL and `padding` bytes are not; `None` if it would not fit in.
pub fn stamp(padding: u64, valid: u32) -> Option<[u8; STAMP]> {
    let mut stamp = [0; STAMP];
    stamp[..8].copy_from_slice(MARK);
    stamp[8..12].copy_from_slice(&valid.to_le_bytes());
    stamp[12..].copy_from_slice(&(!valid).to_le_bytes());
    (padding >= STAMP as u64).then_some(stamp)
}

/// The number of valid bytes if the segment carries the stamp. The end of a segment will do.
pub fn padded_tail(segment: &[u8]) -> Option<usize> {
    let stamp = segment.last_chunk::<STAMP>()?;
    let valid = u32_at(stamp, 8)?;
    (stamp.starts_with(MARK) && u32_at(stamp, 12)? == !valid).then_some(valid as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_stamped_is_known(length in 0..200usize, valid in 0..200usize) {
            let mut segment = vec![7; length];
            stamp_padding(&mut segment, valid);
            if valid + STAMP <= length {
                prop_assert_eq!(padded_tail(&segment), Some(valid));
                prop_assert!(segment[..valid].iter().all(|byte| *byte == 7));
                prop_assert!(segment[valid..length - STAMP].iter().all(|byte| *byte == 0));
            } else {
                prop_assert_eq!(padded_tail(&segment), None);
            }
        }

        #[test]
        fn nothing_else_is_taken_for_a_stamp(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(padded_tail(&bytes), None);
        }
    }
}
