//! What the stream has done since the agent was started, counted where it happens.

use std::time::Duration;

use crate::counters::{Counter, Durations, Histogram};

/// What a put makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutKind {
    /// A part of a segment, as an object of its own.
    Fragment,
    /// A part of a segment, added to a journal.
    Record,
    /// A whole segment.
    Segment,
}

impl PutKind {
    /// All of them.
    pub const ALL: [PutKind; 3] = [Self::Fragment, Self::Record, Self::Segment];

    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fragment => "fragment",
            Self::Record => "record",
            Self::Segment => "segment",
        }
    }
}

/// The stream's counters.
#[derive(Debug, Default)]
pub struct StreamCounts {
    puts: [Histogram; 3],
    bytes: [Counter; 3],
    retries: Counter,
    interruptions: Counter,
}

impl StreamCounts {
    /// So many bytes of WAL became durable, the way there with all its retries took so long.
    pub(crate) fn put(&self, kind: PutKind, bytes: u64, took: Duration) {
        self.bytes[kind as usize].add(bytes);
        self.puts[kind as usize].record(took);
    }

    /// A put has failed, and is tried again.
    pub(crate) fn retry(&self) {
        self.retries.add_one();
    }

    /// WAL was flowing, and does no more.
    pub(crate) fn interrupted(&self) {
        self.interruptions.add_one();
    }

    /// How long puts of this kind took.
    pub fn durations(&self, kind: PutKind) -> Durations {
        self.puts[kind as usize].durations()
    }

    /// Bytes of WAL in them, uncompressed.
    pub fn bytes(&self, kind: PutKind) -> u64 {
        self.bytes[kind as usize].get()
    }

    /// Puts that failed and were tried again.
    pub fn retries(&self) -> u64 {
        self.retries.get()
    }

    /// Times that WAL was flowing and then did no more.
    pub fn interruptions(&self) -> u64 {
        self.interruptions.get()
    }
}
