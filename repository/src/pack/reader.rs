//! Reading packs.
//!
//! Memory: one fetch of up to 4 MiB while another is being taken apart, and `jobs` + 1 frames of 1 MiB.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use proto::Digest;
use tokio_util::task::AbortOnDropHandle;

use super::index::{MAX_INDEX, PackIndex};
use super::{FRAME_SIZE, PackEntry, outcome, pack_key};
use crate::sealed::ContentReader;
use crate::{Branch, Error, Key, Kind, Result};

/// Frames that are not wanted are read too if that saves a request and they are no longer than this together.
const GAP: u64 = 256 << 10;

/// A request asks for no more than this, but for one frame at least.
const FETCH: u64 = 4 << 20;

/// Magic number and length before an index.
const SKIPPABLE_PREFIX: u64 = 8;

/// A pack whose index was read and checked, ready to be read in parts.
#[derive(Clone)]
pub struct PackReader {
    content: ContentReader,
    index: Arc<PackIndex>,
    key: Key,
}

impl PackReader {
    /// Reads the index, and holds it against the manifest's digest.
    pub async fn open(branch: &Branch, pack: &PackEntry) -> Result<Self> {
        let name = pack_key(pack.name());
        let key = branch.key(&name);
        let corrupt = |why: &str| Error::corrupt(&key, why);
        // All bounds before the first byte is fetched: a manifest is not believed either.
        let frames = usize::try_from(pack.raw_length.div_ceil(FRAME_SIZE as u64)).unwrap_or(usize::MAX);
        let length = PackIndex::encoded_length(frames).filter(|length| *length <= MAX_INDEX as u64);
        let length = length.ok_or_else(|| corrupt("its manifest tells of an impossible length"))?;
        let start = pack.index_offset.checked_add(SKIPPABLE_PREFIX);
        let range = start.and_then(|start| Some(start..start.checked_add(length)?));
        let range = range.ok_or_else(|| corrupt("its manifest tells of an impossible length"))?;

        let content = branch.content_reader(Kind::Pack, &name).await?;
        let bytes = content.read(range).await?;
        if Digest::of(&bytes) != pack.index_digest {
            return Err(corrupt("its index is not the one that its manifest names"));
        }
        let index = PackIndex::decode(&bytes).map_err(corrupt)?;
        if index.raw_length() != pack.raw_length || index.content_length() != pack.index_offset {
            return Err(corrupt("its index contradicts its manifest"));
        }
        Ok(Self { content, index: Arc::new(index), key })
    }

    /// The pack's frames: which raw bytes each holds, and their digest.
    pub fn frames(&self) -> impl Iterator<Item = (Range<u64>, Digest)> {
        (0..).map_while(|frame| Some((self.index.raw_range(frame), self.index.digest_of_frame(frame)?)))
    }

    /// Opens the pack and reads `wanted`: see [`PackReader::ranges`].
    pub async fn read(
        branch: &Branch,
        pack: &PackEntry,
        wanted: &[Range<u64>],
        jobs: usize,
    ) -> Result<impl Stream<Item = Result<(u64, Bytes)>> + Send + Unpin + use<>> {
        Self::open(branch, pack).await?.ranges(wanted, jobs)
    }

    /// Reads `wanted`: ranges of raw bytes in ascending order, which may touch. Each item is a run of wanted
    /// bytes within one frame with its offset in the raw stream, in ascending order; a frame without a hole
    /// between wanted bytes is one item. Each frame is fetched and decompressed once, on up to `jobs`
    /// threads, and none of its bytes is handed out before all of it was checked against its digest.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `wanted` is not ascending or reaches beyond the pack; in the stream,
    /// [`Error::Corrupt`] with the pack and the frame. After an error nothing more comes that could be relied
    /// on.
    pub fn ranges(
        self,
        wanted: &[Range<u64>],
        jobs: usize,
    ) -> Result<impl Stream<Item = Result<(u64, Bytes)>> + Send + Unpin + use<>> {
        let plan = plan(&self.index, wanted).map_err(|why| Error::invalid(&self.key, why))?;
        let jobs = jobs.max(1);
        let fetched = stream::iter(plan).map({
            let reader = self.clone();
            move |fetch| {
                let content = reader.content.clone();
                async move {
                    let range = fetch.content.clone();
                    // A task of its own goes on while nobody asks for its result.
                    let read = AbortOnDropHandle::new(tokio::spawn(async move { content.read(range).await }));
                    outcome(read.await).map(|bytes| (fetch, bytes))
                }
            }
        });
        // One more fetch is under way while the frames of one are being decompressed.
        let frames = fetched.buffered(2).flat_map(move |fetched| {
            let reader = self.clone();
            let items: VecDeque<_> = match fetched {
                Err(error) => VecDeque::from([Err(error)]),
                Ok((fetch, bytes)) => {
                    let base = fetch.content.start;
                    fetch.frames.into_iter().map(|frame| Ok(reader.slice(frame, &bytes, base))).collect()
                }
            };
            stream::iter(items)
        });
        let pieces = frames.map(|frame| async move {
            match frame {
                Ok(task) => task.open().await,
                Err(error) => Err(error),
            }
        });
        let pieces = pieces.buffered(jobs).flat_map(|opened| {
            stream::iter(match opened {
                Ok(pieces) => pieces.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            })
        });
        Ok(Box::pin(pieces))
    }

    /// A frame's share of what was fetched from `base` on.
    fn slice(&self, wanted: WantedFrame, fetched: &Bytes, base: u64) -> ClosedFrame {
        let compressed = self.index.content_range(wanted.frame).and_then(|range| {
            let (start, end) = (range.start.checked_sub(base)?, range.end.checked_sub(base)?);
            let (start, end) = (usize::try_from(start).ok()?, usize::try_from(end).ok()?);
            (end <= fetched.len()).then(|| fetched.slice(start..end))
        });
        ClosedFrame {
            compressed: compressed.unwrap_or_default(),
            raw: self.index.raw_range(wanted.frame),
            digest: self.index.digest_of_frame(wanted.frame),
            key: self.key.clone(),
            wanted,
        }
    }
}

/// A frame that was fetched and is not yet decompressed.
struct ClosedFrame {
    wanted: WantedFrame,
    compressed: Bytes,
    raw: Range<u64>,
    digest: Option<Digest>,
    key: Key,
}

impl ClosedFrame {
    /// Decompresses and checks it, and cuts out what is wanted.
    async fn open(self) -> Result<Vec<(u64, Bytes)>> {
        let key = self.key.clone();
        crate::branch::off_thread(&key, move || {
            let corrupt =
                |why: &str| Error::corrupt(&self.key, format_args!("frame {}: {why}", self.wanted.frame));
            // Never more than a frame, whatever the compressed bytes claim.
            let length = (self.raw.end - self.raw.start) as usize;
            let raw = zstd::bulk::decompress(&self.compressed, length)
                .map_err(|error| corrupt(&format!("it cannot be decompressed: {error}")))?;
            if raw.len() != length {
                return Err(corrupt("its length is not the expected one"));
            }
            if Some(Digest::of(&raw)) != self.digest {
                return Err(corrupt("its digest is not the one in the pack's index"));
            }
            let raw = Bytes::from(raw);
            let start = self.raw.start;
            let piece = |wanted: Range<u64>| {
                let within = (wanted.start - start) as usize..(wanted.end - start) as usize;
                (wanted.start, raw.slice(within))
            };
            Ok(self.wanted.pieces.into_iter().map(piece).collect())
        })
        .await
    }
}

/// A frame of which something is wanted.
#[derive(Debug, PartialEq, Eq)]
struct WantedFrame {
    frame: usize,
    /// Ranges of the pack's raw stream, within the frame.
    pieces: Vec<Range<u64>>,
}

/// What one request brings.
#[derive(Debug, PartialEq, Eq)]
struct Fetch {
    /// A range of the content.
    content: Range<u64>,
    frames: Vec<WantedFrame>,
}

/// Which frames to fetch for `wanted`, in which requests.
fn plan(index: &PackIndex, wanted: &[Range<u64>]) -> Result<Vec<Fetch>, &'static str> {
    let mut fetches: Vec<Fetch> = Vec::new();
    for frame in wanted_frames(index, wanted)? {
        let content = index.content_range(frame.frame).ok_or("more is wanted than the pack has")?;
        match fetches.last_mut() {
            Some(fetch)
                if content.start - fetch.content.end <= GAP && content.end - fetch.content.start <= FETCH =>
            {
                fetch.content.end = content.end;
                fetch.frames.push(frame);
            }
            _ => fetches.push(Fetch { content, frames: vec![frame] }),
        }
    }
    Ok(fetches)
}

/// Cuts `wanted` at the borders of frames, and joins what touches.
fn wanted_frames(index: &PackIndex, wanted: &[Range<u64>]) -> Result<Vec<WantedFrame>, &'static str> {
    let mut frames: Vec<WantedFrame> = Vec::new();
    let mut reached = 0;
    for range in wanted {
        if range.start < reached || range.end < range.start {
            return Err("the ranges that are wanted are not in ascending order");
        }
        if range.end > index.raw_length() {
            return Err("more is wanted than the pack has");
        }
        reached = range.end;
        let mut start = range.start;
        while start < range.end {
            let frame = (start / FRAME_SIZE as u64) as usize;
            let piece = start..range.end.min((frame as u64 + 1) * FRAME_SIZE as u64);
            start = piece.end;
            match frames.last_mut() {
                Some(last) if last.frame == frame => match last.pieces.last_mut() {
                    Some(before) if before.end == piece.start => before.end = piece.end,
                    _ => last.pieces.push(piece),
                },
                _ => frames.push(WantedFrame { frame, pieces: vec![piece] }),
            }
        }
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::index::Frame;
    use std::slice;

    use super::*;

    fn index(frames: &[u32], last: usize) -> PackIndex {
        let mut index = PackIndex::default();
        for (at, &compressed) in frames.iter().enumerate() {
            let raw = if at + 1 == frames.len() { last } else { FRAME_SIZE };
            index.push(Frame { compressed, digest: Digest::of(b"") }, raw);
        }
        index
    }

    #[test]
    fn near_frames_are_fetched_together_and_far_ones_not() {
        let (mib, gap) = (1u64 << 20, GAP as u32);
        let index = index(&[100, gap, 100, gap + 1, 100], 10);
        let wanted = [5..6, 6..9, 2 * mib..2 * mib + 1, 2 * mib + 7..2 * mib + 8, 4 * mib..4 * mib + 10];
        let fetches = plan(&index, &wanted).unwrap();
        let content: Vec<_> = fetches.iter().map(|fetch| fetch.content.clone()).collect();
        assert_eq!(content, [0..200 + GAP, 201 + 2 * GAP..301 + 2 * GAP]);
        assert_eq!(fetches[0].frames[0].pieces, slice::from_ref(&(5..9)));
        assert_eq!(fetches[0].frames[1].pieces, [2 * mib..2 * mib + 1, 2 * mib + 7..2 * mib + 8]);
    }

    #[test]
    fn refuses_what_is_not_ascending_or_not_there() {
        let index = index(&[100, 100], 10);
        let end = index.raw_length();
        assert!(plan(&index, slice::from_ref(&(0..end))).is_ok());
        assert!(plan(&index, slice::from_ref(&(0..end + 1))).is_err());
        assert!(plan(&index, &[5..6, 5..7]).is_err());
        #[expect(clippy::reversed_empty_ranges, reason = "that is what is tried")]
        let reversed = 5..4;
        assert!(plan(&index, slice::from_ref(&reversed)).is_err());
    }

    proptest! {
        /// Exactly the wanted bytes are planned, each within its frame, no request is longer than it may be.
        #[test]
        fn plans_what_is_wanted(
            frames in proptest::collection::vec(1u32..1 << 20, 1..30), last in 1..=FRAME_SIZE,
            cuts in proptest::collection::btree_set(any::<u32>(), 0..20),
        ) {
            let index = index(&frames, last);
            let mut cuts: Vec<u64> = cuts.into_iter().map(|cut| u64::from(cut) % index.raw_length()).collect();
            cuts.sort_unstable();
            let wanted: Vec<Range<u64>> = cuts.chunks_exact(2).map(|pair| pair[0]..pair[1]).collect();
            let fetches = plan(&index, &wanted).unwrap();
            let (mut total, mut reached) = (0, 0);
            for fetch in &fetches {
                prop_assert!(fetch.content.end - fetch.content.start <= FETCH || fetch.frames.len() == 1);
                for frame in &fetch.frames {
                    let (raw, content) = (index.raw_range(frame.frame), index.content_range(frame.frame).unwrap());
                    prop_assert!(fetch.content.start <= content.start && content.end <= fetch.content.end);
                    for piece in &frame.pieces {
                        prop_assert!(raw.start <= piece.start && piece.end <= raw.end && piece.start >= reached);
                        reached = piece.end;
                        total += piece.end - piece.start;
                    }
                }
            }
            prop_assert_eq!(total, wanted.iter().map(|range| range.end - range.start).sum::<u64>());
        }
    }
}
