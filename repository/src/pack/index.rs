//! The index of a pack: for each frame its compressed length and the digest of its raw bytes.
//!
//! ```text
//! offset  bytes
//!      0      8   "wkindex1"
//!      8      4   frame size: raw bytes in each frame but the last (little-endian, as all numbers here)
//!     12      4   number of frames, n
//!     16      8   raw length of the pack
//!     24   36·n   per frame: compressed length (4), BLAKE3-256 of the raw bytes (32)
//! ```
//!
//! The digest of these bytes stands in the manifest.

use std::ops::Range;

use proto::Digest;

/// Raw bytes in a frame; the last one of a pack may be shorter.
pub const FRAME_SIZE: usize = 1 << 20;

/// Frames in a pack at most: 4 GiB of raw bytes, so that an index never exceeds 144 KiB however well things
/// compress.
pub(crate) const MAX_FRAMES: usize = 4096;

const MAGIC: &[u8; 8] = b"wkindex1";
const HEAD: usize = 24;
const PER_FRAME: usize = 36;

/// Longest index in bytes.
pub(crate) const MAX_INDEX: usize = HEAD + MAX_FRAMES * PER_FRAME;

/// zstd never makes a frame of 1 MiB longer than this: incompressible data grows by some bytes for each 128
/// KiB.
const MAX_COMPRESSED: u32 = (FRAME_SIZE + FRAME_SIZE / 128) as u32;

/// One frame of a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    /// Bytes of the zstd frame.
    pub(crate) compressed: u32,
    /// Digest of the raw bytes.
    pub(crate) digest: Digest,
}

/// A pack's frames, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct PackIndex {
    frames: Vec<Frame>,
    /// Where each frame begins in the content.
    offsets: Vec<u64>,
    content_length: u64,
    raw_length: u64,
}

impl PackIndex {
    /// Appends a frame of `raw` bytes. Only the last one may have fewer than [`FRAME_SIZE`].
    pub(crate) fn push(&mut self, frame: Frame, raw: usize) {
        debug_assert_eq!(self.raw_length % FRAME_SIZE as u64, 0, "a short frame must be the last");
        self.offsets.push(self.content_length);
        self.content_length += u64::from(frame.compressed);
        self.raw_length += raw as u64;
        self.frames.push(frame);
    }

    pub(crate) fn raw_length(&self) -> u64 {
        self.raw_length
    }

    /// Bytes of all frames together: where the index begins in the content.
    pub(crate) fn content_length(&self) -> u64 {
        self.content_length
    }

    pub(crate) fn digest_of_frame(&self, frame: usize) -> Option<Digest> {
        self.frames.get(frame).map(|frame| frame.digest)
    }

    /// Where the zstd frame lies in the content.
    pub(crate) fn content_range(&self, frame: usize) -> Option<Range<u64>> {
        let start = *self.offsets.get(frame)?;
        Some(start..start + u64::from(self.frames.get(frame)?.compressed))
    }

    /// Which raw bytes the frame holds.
    pub(crate) fn raw_range(&self, frame: usize) -> Range<u64> {
        let start = (frame as u64).saturating_mul(FRAME_SIZE as u64).min(self.raw_length);
        start..(start + FRAME_SIZE as u64).min(self.raw_length)
    }

    /// Bytes of an index of so many frames; `None` if that is beyond 64 bits.
    pub(crate) fn encoded_length(frames: usize) -> Option<u64> {
        (frames as u64).checked_mul(PER_FRAME as u64)?.checked_add(HEAD as u64)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + self.frames.len() * PER_FRAME);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(FRAME_SIZE as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.frames.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.raw_length.to_le_bytes());
        for frame in &self.frames {
            bytes.extend_from_slice(&frame.compressed.to_le_bytes());
            bytes.extend_from_slice(frame.digest.as_bytes());
        }
        bytes
    }

    /// Reads [`PackIndex::encode`]'s bytes; an error says what is wrong with them.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let (head, mut rest) = bytes.split_at_checked(HEAD).ok_or("the index is cut off")?;
        let u32_at = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let raw_length = u64::from(u32_at(16)) | u64::from(u32_at(20)) << 32;
        let count = u32_at(12) as usize;
        if &head[..8] != MAGIC {
            return Err("the index does not begin as one of format 1 does");
        }
        if u32_at(8) as usize != FRAME_SIZE {
            return Err("the index tells of frames of another size than 1 MiB");
        }
        if count > MAX_FRAMES || rest.len() != count * PER_FRAME {
            return Err("the index is not as long as its number of frames demands");
        }
        if raw_length.div_ceil(FRAME_SIZE as u64) != count as u64 {
            return Err("the index has not as many frames as the raw length demands");
        }
        let mut index = PackIndex::default();
        while let Some((entry, following)) = rest.split_first_chunk::<PER_FRAME>() {
            let compressed = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
            if compressed == 0 || compressed > MAX_COMPRESSED {
                return Err("the index tells of a frame of impossible length");
            }
            let mut digest = [0; 32];
            digest.copy_from_slice(&entry[4..]);
            let raw = (raw_length - index.raw_length).min(FRAME_SIZE as u64) as usize;
            index.push(Frame { compressed, digest: Digest::from_bytes(digest) }, raw);
            rest = following;
        }
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn index(frames: &[u32], last: usize) -> PackIndex {
        let mut index = PackIndex::default();
        for (at, &compressed) in frames.iter().enumerate() {
            let raw = if at + 1 == frames.len() { last } else { FRAME_SIZE };
            index.push(Frame { compressed, digest: Digest::of(&compressed.to_le_bytes()) }, raw);
        }
        index
    }

    #[test]
    fn tells_where_frames_lie() {
        let index = index(&[10, 20, 30], 5);
        assert_eq!(index.content_range(1), Some(10..30));
        assert_eq!(index.content_range(3), None);
        assert_eq!(index.raw_range(2), 2 << 20..(2 << 20) + 5);
        assert_eq!((index.raw_length(), index.content_length()), ((2 << 20) + 5, 60));
    }

    #[test]
    fn the_bounds_are_real() {
        assert!(zstd::zstd_safe::compress_bound(FRAME_SIZE) <= MAX_COMPRESSED as usize);
        assert_eq!(MAX_INDEX, index(&[1; MAX_FRAMES], 1).encode().len());
        assert!(PackIndex::decode(&index(&[1; MAX_FRAMES + 1], 1).encode()).is_err());
    }

    proptest! {
        #[test]
        fn survives_a_round_trip(
            frames in proptest::collection::vec(1..MAX_COMPRESSED, 0..20), last in 1..=FRAME_SIZE,
        ) {
            let index = index(&frames, last);
            prop_assert_eq!(PackIndex::decode(&index.encode()), Ok(index));
        }

        #[test]
        fn never_panics_and_never_believes_a_changed_length(
            frames in 0usize..5, cut in 0usize..200, at in 0usize..24, byte: u8,
        ) {
            let mut bytes = index(&vec![7; frames], 9).encode();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            bytes.truncate(cut);
            if let Ok(index) = PackIndex::decode(&bytes) {
                prop_assert_eq!(index.encode(), bytes);
            }
        }
    }
}
