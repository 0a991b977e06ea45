//! What to store, when, and what may be acknowledged: the rules of streaming, without any I/O.
//!
//! The tail is fed with received bytes, the time and the completions of stores; it answers with [`Action`]s and
//! with the durable position. WAL gathers in a *window*: the whole segment if that is small, else a part of it.
//!
//! ```text
//! segment, 16 MiB:  [ one window                            ]  full: stored whole, from memory
//!                   [flush][flush][flush]                      before that: fragments, merged now and then
//! segment, 32 MiB:  [ window  ][ window  ][ window  ][window]  full: one fragment that replaces its flushes;
//!                                                              at the end the windows are read back and joined
//! ```
//!
//! Where the store has objects that grow, a window's flushes are not objects of their own but records of its journal, one
//! after the other.
//!
//! What always holds: `durable <= planned <= received`; a byte before `planned` is durable or in a job in flight.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use proto::wal::{SegmentName, SegmentNo, SegmentSize};
use proto::{Digest, Lsn, ServerTime, TimelineId};

use super::action::{Action, Append, Content, JobId, PutFragment, PutSegment};
use super::gathered::Gathered;
use super::jobs::{Job, Jobs, Kind};
use super::lag::Waiting;
use super::objects::Objects;
use super::pace::{Flush, Pace, Tick};
use super::prefix::DurablePrefix;
use super::proof::{Checkpoint, Diverged, Proof};
use super::window::{WINDOW, window_size};

/// The longest message that a server sends.
const MAX_MESSAGE: u64 = 128 << 10;

/// Flushes that may be under way at once while the store is slow.
const MAX_FLUSHES: usize = 4;

/// Nor may another begin while so many bytes are under way. No record of a journal is longer.
const MAX_FLUSHING: u64 = 1 << 20;

/// Where and how a tail begins.
#[derive(Debug)]
pub(crate) struct TailStart {
    pub(crate) timeline: TimelineId,
    pub(crate) segment_size: SegmentSize,
    /// The start of a segment.
    pub(crate) start: Lsn,
    pub(crate) flush: Flush,
    /// Flushes become records of a journal.
    pub(crate) journals: bool,
    /// What the repository has from `start` on; see [`checkpoint_positions`].
    pub(crate) known: Vec<Checkpoint>,
}

/// The server sends what it must not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TailError {
    #[error("the server sent WAL from {got} where {expected} comes next")]
    OutOfOrder { expected: Lsn, got: Lsn },
    #[error(transparent)]
    Diverged(#[from] Diverged),
}

/// A segment whose bytes are all in fragments, or will be.
#[derive(Debug)]
struct Assembly {
    segment: SegmentNo,
    digest: Digest,
    server_time: ServerTime,
    windows: Vec<Range<u32>>,
}

/// The WAL of one timeline from the start of one session.
#[derive(Debug)]
pub(crate) struct Tail {
    timeline: TimelineId,
    size: SegmentSize,
    journals: bool,
    window_size: u64,

    window: Gathered,
    window_start: Lsn,
    hasher: blake3::Hasher,
    proof: Proof,
    /// The complete windows of the segment that is being received.
    windows: Vec<Range<u32>>,
    objects: Objects,
    /// Windows that are stored, and whose journals nobody needs any more.
    outlived: Vec<(SegmentNo, Range<u32>)>,

    received: Lsn,
    planned: Lsn,
    prefix: DurablePrefix,
    /// When the server sent the last message; known before anything is stored.
    server_time: ServerTime,
    pace: Pace,
    waiting: Waiting,

    jobs: Jobs,
    assemblies: VecDeque<Assembly>,
    actions: VecDeque<Action>,
}

impl Tail {
    pub(crate) fn new(start: TailStart) -> Self {
        let window = window_size(start.segment_size);
        Self::with_window(start, window)
    }

    fn with_window(start: TailStart, window_size: u64) -> Self {
        debug_assert_eq!(start.segment_size.floor(start.start), start.start);
        Self {
            timeline: start.timeline,
            size: start.segment_size,
            journals: start.journals,
            window_size,
            window: Gathered::default(),
            window_start: start.start,
            hasher: blake3::Hasher::new(),
            proof: Proof::of(start.known),
            windows: Vec::new(),
            objects: Objects::default(),
            outlived: Vec::new(),
            received: start.start,
            planned: start.start,
            prefix: DurablePrefix::starting_at(start.start),
            server_time: ServerTime(0),
            pace: Pace::new(start.flush),
            waiting: Waiting::default(),
            jobs: Jobs::default(),
            assemblies: VecDeque::new(),
            actions: VecDeque::new(),
        }
    }

    pub(crate) fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The first byte that has not been received.
    pub(crate) fn received(&self) -> Lsn {
        self.received
    }

    /// Every byte from the start to here is durable: this, and no more, may be acknowledged.
    pub(crate) fn durable(&self) -> Lsn {
        self.prefix.end()
    }

    /// The last position at which the server's bytes are still to be compared with the repository's.
    pub(crate) fn unproven(&self) -> Option<Lsn> {
        self.proof.end()
    }

    /// Everything received is durable and no job is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.actions.is_empty() && self.durable() == self.received
    }

    /// How long the oldest byte that is not durable has been waiting.
    pub(crate) fn lag(&self, now: Tick) -> Duration {
        self.waiting.since().map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// The segments that are complete here and on their way into the repository.
    pub(crate) fn storing(&self) -> impl Iterator<Item = SegmentName> {
        self.jobs.whole().map(|segment| self.name(segment))
    }

    /// Whether there is room for another message. If not, the server waits: memory is bounded.
    pub(crate) fn wants_bytes(&self) -> bool {
        let full = self.jobs.window_bytes() >= self.window_size.max(WINDOW)
            || (self.jobs.is_assembling() && !self.assemblies.is_empty());
        // A message must not close a window while the store has enough to do: the next window is fresh memory.
        !full || self.window_end().bytes_since(self.received) > MAX_MESSAGE
    }

    fn window_end(&self) -> Lsn {
        // Windows need not divide a segment: of a gigabyte the last one is shorter.
        let segment = self.size.segment_at(self.window_start);
        segment.end(self.size).min(self.window_start + self.window_size)
    }

    fn name(&self, segment: SegmentNo) -> SegmentName {
        SegmentName::new(self.timeline, segment, self.size)
    }

    /// Bytes have arrived, as the server sent them at `sent_at` by its own clock.
    pub(crate) fn receive(
        &mut self,
        start: Lsn,
        mut bytes: &[u8],
        sent_at: ServerTime,
        now: Tick,
    ) -> Result<(), TailError> {
        if start != self.received {
            return Err(TailError::OutOfOrder { expected: self.received, got: start });
        }
        self.server_time = sent_at;
        while !bytes.is_empty() {
            let end = self.proof.next().map_or(self.window_end(), |next| next.min(self.window_end()));
            let room = usize::try_from(end.bytes_since(self.received)).unwrap_or(usize::MAX);
            let (piece, rest) = bytes.split_at(room.min(bytes.len()));
            bytes = rest;
            self.hasher.update(piece);
            self.window.push(piece);
            self.received = self.received + piece.len() as u64;
            self.pace.received(now);
            self.waiting.received(self.received, now);
            let hasher = &self.hasher;
            self.proof.compare(self.received, || hasher.finalize().into())?;
            if self.received == self.window_end() {
                self.close_window();
            }
        }
        Ok(())
    }

    /// The window is full.
    fn close_window(&mut self) {
        let segment = self.size.segment_before(self.received);
        let complete = self.received == segment.end(self.size);
        let range = self.offset(segment, self.window_start)..self.offset(segment, self.received);
        if self.proof.is_stored(self.received) {
            self.window.take();
            if complete {
                // Durable: the repository has this segment, and it was just found equal.
                self.prefix.add(segment.start(self.size), self.received);
                self.waiting.durable(self.prefix.end());
            }
        } else if self.window_size == self.size.bytes() {
            let rest = self.received.bytes_since(self.planned);
            if self.pace.is_at_once() && self.planned > self.window_start && rest < MAX_FLUSHING {
                // A commit at the segment's end shall not wait for the whole segment.
                self.put_flush();
            }
            let digest = self.hasher.finalize().into();
            let content = Content::Memory(self.window.take());
            self.put_segment(Kind::Segment, segment, digest, self.server_time, content);
        } else {
            let replaces = self.planned > self.window_start;
            let content = self.window.take();
            self.put_fragment(Kind::Window, segment, range.clone(), content, replaces);
            self.objects.close_window(range.clone());
            self.windows.push(range);
            if complete {
                self.assemblies.push_back(Assembly {
                    segment,
                    digest: self.hasher.finalize().into(),
                    server_time: self.server_time,
                    windows: std::mem::take(&mut self.windows),
                });
            }
        }
        if complete {
            self.hasher.reset();
            self.objects = Objects::default();
        }
        self.window_start = self.received;
        self.planned = self.received;
        self.pace.planned();
    }

    /// A position in `segment` as an offset.
    fn offset(&self, segment: SegmentNo, at: Lsn) -> u32 {
        // At most the segment's size, which fits.
        at.bytes_since(segment.start(self.size)) as u32
    }

    /// Whatever has been received shall be stored now: a timeline ends, the server or the agent stops.
    pub(crate) fn hurry(&mut self) {
        self.pace.hurry();
    }

    /// WAL waits no longer than this from now on. Without a meaning where it is flushed at once.
    pub(crate) fn set_flush_interval(&mut self, interval: Duration) {
        self.pace.set_interval(interval);
    }

    /// When [`Tail::plan`] has something to do though nothing else happens.
    pub(crate) fn deadline(&self) -> Option<Tick> {
        self.pace.deadline(self.is_flushing()).filter(|_| self.may_flush())
    }

    fn is_flushing(&self) -> bool {
        self.jobs.flushes().0 > 0
    }

    fn may_flush(&self) -> bool {
        let (count, bytes) = self.jobs.flushes();
        // A record is written when the one before it is durable.
        let overlap = !self.journals && count < MAX_FLUSHES && bytes < MAX_FLUSHING;
        // Nothing is stored before all was compared.
        self.received > self.planned && self.proof.is_complete() && (count == 0 || overlap)
    }

    /// Decides what to do at this moment. To be called after each change, then [`Tail::next_action`].
    pub(crate) fn plan(&mut self, now: Tick) {
        if self.received == self.planned {
            self.pace.calm();
        }
        if self.pace.is_due(now, self.is_flushing()) && self.may_flush() {
            self.put_flush();
            self.pace.flushed(now);
        }
        let segment = self.size.segment_at(self.window_start);
        if let Some(range) = self.objects.plan_merge() {
            let content = self.part(segment, &range);
            self.put_fragment(Kind::Merge, segment, range, content, true);
        }
        let ranges = self.objects.take_superseded();
        if !ranges.is_empty() {
            self.actions.push_back(Action::Delete { segment: self.name(segment), ranges });
        }
        self.give_up_journals();
        while self.assemblies.front().is_some_and(|next| next.segment.end(self.size) <= self.durable()) {
            let Some(next) = self.assemblies.pop_front() else { break };
            let content = Content::Fragments(next.windows);
            self.put_segment(Kind::Assembly, next.segment, next.digest, next.server_time, content);
        }
    }

    /// A window that is stored needs no journals, once nothing is being written to them.
    fn give_up_journals(&mut self) {
        for (segment, window) in std::mem::take(&mut self.outlived) {
            match self.jobs.is_flushing(segment, &window) {
                true => self.outlived.push((segment, window)),
                false => {
                    let segment = self.name(segment);
                    self.actions.push_back(Action::DeleteJournals { segment, window });
                }
            }
        }
    }

    /// What to do next.
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Stores what has been received since the last flush. Of a journal a record at most: the next one is due at once.
    fn put_flush(&mut self) {
        let segment = self.size.segment_at(self.window_start);
        let end = match self.journals {
            true => self.received.min(self.planned + MAX_FLUSHING.min(self.window_size / 4)),
            false => self.received,
        };
        let range = self.offset(segment, self.planned)..self.offset(segment, end);
        if range.is_empty() {
            return;
        }
        let content = self.part(segment, &range);
        if self.journals {
            self.append(segment, range, content.concat().into());
        } else {
            self.objects.begin(range.clone());
            self.put_fragment(Kind::Flush, segment, range, content, false);
        }
        self.planned = end;
        if end == self.received {
            self.pace.planned();
        }
    }

    /// A part of the window, which itself goes on growing.
    fn part(&self, segment: SegmentNo, range: &Range<u32>) -> Vec<Bytes> {
        let window = self.offset(segment, self.window_start);
        self.window.part((range.start - window) as usize..(range.end - window) as usize)
    }

    fn append(&mut self, segment: SegmentNo, range: Range<u32>, content: Bytes) {
        let job = self.jobs.begin(Job { kind: Kind::Flush, segment, range: range.clone() });
        let window = self.offset(segment, self.window_start);
        let (segment, server_time) = (self.name(segment), self.server_time);
        self.actions.push_back(Action::Append(Append { job, segment, range, server_time, content, window }));
    }

    fn put_fragment(
        &mut self,
        kind: Kind,
        segment: SegmentNo,
        range: Range<u32>,
        content: Vec<Bytes>,
        replaces: bool,
    ) {
        let job = self.jobs.begin(Job { kind, segment, range: range.clone() });
        let (segment, server_time) = (self.name(segment), self.server_time);
        let put = PutFragment { job, segment, range, server_time, content, replaces };
        self.actions.push_back(Action::PutFragment(put));
    }

    fn put_segment(
        &mut self,
        kind: Kind,
        segment: SegmentNo,
        digest: Digest,
        server_time: ServerTime,
        content: Content,
    ) {
        let range = 0..self.offset(segment, segment.end(self.size));
        let job = self.jobs.begin(Job { kind, segment, range });
        let put = PutSegment { job, segment: self.name(segment), digest, server_time, content };
        self.actions.push_back(Action::PutSegment(put));
    }

    /// The object of `job` is durable in the repository.
    pub(crate) fn stored(&mut self, job: JobId) {
        let Some(Job { kind, segment, range }) = self.jobs.end(job) else { return };
        let start = segment.start(self.size);
        self.prefix.add(start + u64::from(range.start), start + u64::from(range.end));
        self.waiting.durable(self.prefix.end());
        if self.journals && kind == Kind::Window {
            self.outlived.push((segment, range.clone()));
        }
        let current = segment == self.size.segment_at(self.window_start);
        // A record is no object.
        let is_object = match kind {
            Kind::Flush => !self.journals,
            Kind::Merge | Kind::Window => true,
            Kind::Segment | Kind::Assembly => false,
        };
        if current && is_object {
            self.objects.stored(&range);
        }
    }
}

#[cfg(test)]
#[path = "tail_tests.rs"]
mod tests;
