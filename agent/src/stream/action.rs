//! What the tail asks the world to do.

use std::ops::Range;

use bytes::Bytes;
use proto::wal::SegmentName;
use proto::{Digest, ServerTime};

/// Names one action until it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct JobId(pub(super) u64);

/// What the world is asked to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Store the bytes `range` of `segment` as a fragment.
    PutFragment(PutFragment),
    /// Add bytes of a segment to its journal.
    Append(Append),
    /// Store a whole segment.
    PutSegment(PutSegment),
    /// Delete fragments that a stored one has replaced. May fail.
    Delete { segment: SegmentName, ranges: Vec<Range<u32>> },
    /// Delete the journals of a part of a segment, which a stored fragment has replaced. May fail.
    DeleteJournals { segment: SegmentName, window: Range<u32> },
}

#[derive(Debug)]
pub(crate) struct PutFragment {
    pub(crate) job: JobId,
    pub(crate) segment: SegmentName,
    pub(crate) range: Range<u32>,
    pub(crate) server_time: ServerTime,
    /// In pieces, one after the other.
    pub(crate) content: Vec<Bytes>,
    /// Others are deleted once this one is stored: so it counts as stored only when it was read back and is equal.
    pub(crate) replaces: bool,
}

#[derive(Debug)]
pub(crate) struct Append {
    pub(crate) job: JobId,
    pub(crate) segment: SegmentName,
    pub(crate) range: Range<u32>,
    pub(crate) server_time: ServerTime,
    pub(crate) content: Bytes,
    /// Where the window begins: each window has journals of its own.
    pub(crate) window: u32,
}

#[derive(Debug)]
pub(crate) struct PutSegment {
    pub(crate) job: JobId,
    pub(crate) segment: SegmentName,
    pub(crate) digest: Digest,
    pub(crate) server_time: ServerTime,
    pub(crate) content: Content,
}

/// Where the bytes of a whole segment are.
#[derive(Debug)]
pub(crate) enum Content {
    /// In pieces, one after the other.
    Memory(Vec<Bytes>),
    /// In these stored fragments of our epoch, one after the other.
    Fragments(Vec<Range<u32>>),
}
