//! What servers write. Every byte follows from its position and from who wrote it, so that a reader can be checked.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::Bytes;
use proto::wal::{SegmentNo, SegmentSize};
use proto::{Digest, Lsn, TimelineId};

/// The smallest segments that there are: 1 MiB.
pub(crate) fn size() -> SegmentSize {
    SegmentSize::new(1 << 20).expect("a size")
}

/// The WAL of one server on one timeline, with what it has of the timelines before.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) timeline: TimelineId,
    /// Where the timeline, or this server's version of it, begins.
    pub(crate) begin: Lsn,
    /// How far it is flushed.
    pub(crate) end: Lsn,
    /// From where on whose hand: the salts of the bytes.
    hands: Vec<(Lsn, u64)>,
}

impl Written {
    pub(crate) fn first(timeline: TimelineId, end: Lsn, salt: u64) -> Self {
        Self { timeline, begin: Lsn(0), end, hands: vec![(Lsn(0), salt)] }
    }

    /// Another server goes on from `at`.
    pub(crate) fn fork(&self, timeline: TimelineId, at: Lsn, salt: u64) -> Self {
        let mut hands: Vec<_> = self.hands.iter().copied().filter(|(from, _)| *from < at).collect();
        hands.push((at, salt));
        Self { timeline, begin: at, end: at, hands }
    }

    /// The bytes from `from` to `to`, which are in one segment.
    pub(crate) fn bytes(&self, from: Lsn, to: Lsn) -> Bytes {
        let segment = size().segment_at(from);
        let start = segment.start(size());
        let place = |at: Lsn| usize::try_from(at.bytes_since(start)).expect("an offset");
        self.made(segment, |made| made.bytes.slice(place(from)..place(to)))
    }

    /// The digest of a whole segment.
    pub(crate) fn digest(&self, segment: SegmentNo) -> Digest {
        self.made(segment, |made| *made.digest.get_or_insert_with(|| Digest::of(&made.bytes)))
    }

    fn made<T>(&self, segment: SegmentNo, use_it: impl FnOnce(&mut Made) -> T) -> T {
        let (start, end) = (segment.start(size()), segment.end(size()));
        let mut hands: Vec<(u64, u64)> = Vec::new();
        for (from, salt) in self.hands.iter().copied().filter(|(from, _)| *from < end) {
            if from <= start {
                hands.clear();
            }
            hands.push((from.max(start).bytes_since(start), salt));
        }
        CACHE.with_borrow_mut(|cache| {
            if cache.len() > 64 {
                cache.clear();
            }
            let made = cache
                .entry((segment, hands))
                .or_insert_with_key(|(_, hands)| Made { bytes: make(start, hands), digest: None });
            use_it(made)
        })
    }
}

/// A segment's bytes, and their digest if somebody has asked for it.
struct Made {
    bytes: Bytes,
    digest: Option<Digest>,
}

type Cache = BTreeMap<(SegmentNo, Vec<(u64, u64)>), Made>;

thread_local! {
    static CACHE: RefCell<Cache> = const { RefCell::new(BTreeMap::new()) };
}

/// So many bytes say the same: by whom, and where. It compresses well, so that most of the time goes into what is tested.
const UNIT: usize = 128;

fn make(start: Lsn, hands: &[(u64, u64)]) -> Bytes {
    let length = size().bytes();
    let mut bytes = vec![0; length as usize];
    for (at, (from, salt)) in hands.iter().enumerate() {
        let to = hands.get(at + 1).map_or(length, |next| next.0);
        let (from, to) = (*from as usize, to as usize);
        for unit in from / UNIT..to.div_ceil(UNIT) {
            let place = start.0 / UNIT as u64 + unit as u64;
            let mark = (salt << 40 ^ place).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 0x0101_0101_0101_0101;
            let unit_end = (unit + 1) * UNIT;
            let (first, last) = (from.max(unit * UNIT), to.min(unit_end));
            let marks = mark.to_le_bytes().into_iter().cycle().skip(first % 8);
            if last - first == UNIT {
                bytes[first..last].as_chunks_mut().0.fill(mark.to_le_bytes());
            } else {
                bytes[first..last].iter_mut().zip(marks).for_each(|(byte, mark)| *byte = mark);
            }
        }
    }
    bytes.into()
}
