//! How much WAL gathers in memory before it is stored.

use proto::wal::SegmentSize;

/// A segment up to this size is one window.
const SMALL_SEGMENT: u64 = 16 << 20;

/// Bytes of a larger segment that gather in memory before they are stored, at least.
pub(super) const WINDOW: u64 = 8 << 20;

/// The most windows of a segment: each becomes one object of the tail, and flushes need room, too.
const MAX_WINDOWS: u64 = 48;

/// Bytes that gather before they are stored.
pub(crate) fn window_size(size: SegmentSize) -> u64 {
    if size.bytes() <= SMALL_SEGMENT {
        return size.bytes();
    }
    (size.bytes() / MAX_WINDOWS).next_multiple_of(1 << 20).max(WINDOW)
}

/// The offsets in a segment at which the digest of its first `length` bytes is to be known.
///
/// A window may be stored only when it was compared whole, so each window's end is among them.
pub(crate) fn checkpoint_positions(size: SegmentSize, length: u32) -> impl Iterator<Item = u32> {
    // A segment has at most 1 GiB, so every offset fits.
    let window = window_size(size) as u32;
    let windows = (1..=length / window).map(move |n| n * window);
    windows.chain((!length.is_multiple_of(window)).then_some(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn giant_segments_have_few_windows_and_small_ones_a_single_one() {
        let window = |mib: u64| window_size(SegmentSize::new(mib << 20).unwrap()) >> 20;
        assert_eq!((window(1), window(16), window(64), window(1024)), (1, 16, 8, 22));
        let giant = SegmentSize::new(1 << 30).unwrap();
        let positions: Vec<u32> = checkpoint_positions(giant, 50 << 20).collect();
        assert_eq!(positions, [22 << 20, 44 << 20, 50 << 20]);
    }
}
