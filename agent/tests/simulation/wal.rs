//! What servers write. Every byte follows from its position and from who wrote it, so that a reader can be checked.

use std::cell::RefCell;
use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
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
        self.segment(segment).0.slice(place(from)..place(to))
    }

    /// The digest of a whole segment.
    pub(crate) fn digest(&self, segment: SegmentNo) -> Digest {
        self.segment(segment).1
    }

    fn segment(&self, segment: SegmentNo) -> (Bytes, Digest) {
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
            let made = cache.entry((segment, hands.clone())).or_insert_with(|| make(start, &hands));
            made.clone()
        })
    }
}

type Cache = BTreeMap<(SegmentNo, Vec<(u64, u64)>), (Bytes, Digest)>;

thread_local! {
    static CACHE: RefCell<Cache> = const { RefCell::new(BTreeMap::new()) };
}

fn make(start: Lsn, hands: &[(u64, u64)]) -> (Bytes, Digest) {
    let length = size().bytes();
    let mut bytes = BytesMut::zeroed(length as usize);
    for (at, (from, salt)) in hands.iter().enumerate() {
        let to = hands.get(at + 1).map_or(length, |next| next.0);
        for unit in from / 32..to.div_ceil(32) {
            let mark = (salt << 40 ^ (start.0 / 32 + unit)).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
            for (place, mark) in (unit * 32..).zip(mark) {
                if (*from..to).contains(&place) {
                    bytes[place as usize] = mark | 1;
                }
            }
        }
    }
    let digest = Digest::of(&bytes);
    (bytes.freeze(), digest)
}
