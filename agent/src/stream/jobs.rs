//! What is on its way into the repository.

use std::collections::BTreeMap;
use std::ops::Range;

use proto::wal::SegmentNo;

use super::action::JobId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Flush,
    Merge,
    Window,
    Segment,
    Assembly,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) kind: Kind,
    pub(super) segment: SegmentNo,
    /// Offsets in the segment.
    pub(super) range: Range<u32>,
}

impl Job {
    fn length(&self) -> u64 {
        u64::from(self.range.end - self.range.start)
    }
}

#[derive(Debug, Default)]
pub(super) struct Jobs {
    next: u64,
    jobs: BTreeMap<JobId, Job>,
}

impl Jobs {
    pub(super) fn begin(&mut self, job: Job) -> JobId {
        let id = JobId(self.next);
        self.next += 1;
        self.jobs.insert(id, job);
        id
    }

    pub(super) fn end(&mut self, id: JobId) -> Option<Job> {
        self.jobs.remove(&id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    fn of(&self, kinds: &'static [Kind]) -> impl Iterator<Item = &Job> {
        self.jobs.values().filter(|job| kinds.contains(&job.kind))
    }

    /// The bytes of windows that are being stored.
    pub(super) fn window_bytes(&self) -> u64 {
        self.of(&[Kind::Window, Kind::Segment]).map(Job::length).sum()
    }

    pub(super) fn is_assembling(&self) -> bool {
        self.of(&[Kind::Assembly]).next().is_some()
    }

    /// The segments that are being stored whole.
    pub(super) fn whole(&self) -> impl Iterator<Item = SegmentNo> {
        self.of(&[Kind::Segment, Kind::Assembly]).map(|job| job.segment)
    }

    /// How many flushes are under way, and of how many bytes.
    pub(super) fn flushes(&self) -> (usize, u64) {
        self.of(&[Kind::Flush]).fold((0, 0), |(count, bytes), job| (count + 1, bytes + job.length()))
    }

    /// Whether a flush from within this part of a segment is under way.
    pub(super) fn is_flushing(&self, segment: SegmentNo, part: &Range<u32>) -> bool {
        self.of(&[Kind::Flush]).any(|job| job.segment == segment && part.contains(&job.range.start))
    }
}
