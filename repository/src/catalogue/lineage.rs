//! The way that leads to a timeline.

use std::collections::BTreeMap;
use std::ops::Range;

use proto::wal::history::TimelineHistory;
use proto::wal::{SegmentNo, SegmentSize};
use proto::{Lsn, TimelineId};
use serde::{Serialize, Serializer};

use super::Coverage;

/// One timeline's share of a lineage: the bytes `from..to` of the WAL are its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Part {
    /// The timeline.
    pub timeline: TimelineId,
    /// Where it was forked from the one before; the beginning of all WAL for the first one.
    pub from: Lsn,
    /// Where the next one was forked; [`Lineage::OPEN_END`] for the last one.
    #[serde(serialize_with = "end")]
    pub to: Lsn,
}

/// `null` for what has no end.
fn end<S: Serializer>(to: &Lsn, serializer: S) -> Result<S::Ok, S::Error> {
    Some(to).filter(|to| **to != Lineage::OPEN_END).serialize(serializer)
}

/// A timeline and its ancestors, oldest first: each byte of WAL that a server on this timeline has ever
/// replayed or written belongs to exactly one part.
///
/// A timeline's first segment begins with a copy of its parent's bytes, up to the fork. So the segment with
/// the fork comes from the child, and the parent's own, which may never have become whole, is not needed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct Lineage {
    parts: Vec<Part>,
}

/// A timeline of which a history file tells, and of which the WAL at the fork is not there: whoever follows
/// this lineage would replay the parent beyond the fork.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "timeline {timeline} was forked from timeline {parent} at {switch}, and its WAL at that place is not there"
)]
pub struct MissingFork {
    /// The child.
    pub timeline: TimelineId,
    /// Its parent.
    pub parent: TimelineId,
    /// Where it was forked.
    pub switch: Lsn,
}

impl Lineage {
    /// Where the last part ends: nowhere.
    pub const OPEN_END: Lsn = Lsn(u64::MAX);

    /// The lineage of `timeline`. Without its history only the timeline itself is known; it is taken to reach
    /// back to the beginning.
    pub fn of(timeline: TimelineId, histories: &BTreeMap<TimelineId, TimelineHistory>) -> Self {
        match histories.get(&timeline) {
            Some(history) => Self::from_history(history),
            None => Self { parts: vec![Part { timeline, from: Lsn(0), to: Self::OPEN_END }] },
        }
    }

    /// The lineage that a history tells of, as PostgreSQL reads it: a byte belongs to the newest timeline that had
    /// begun there. A recovery that aimed at one timeline may have stopped before that one began: then that is no part.
    /// One that was left where it began is an empty part.
    pub fn from_history(history: &TimelineHistory) -> Self {
        let timelines = history.entries.iter().map(|entry| entry.timeline).chain([history.timeline]);
        let begins = [Lsn(0)].into_iter().chain(history.entries.iter().map(|entry| entry.switch));
        let begun: Vec<_> = timelines.zip(begins).collect();
        let (mut parts, mut to) = (Vec::new(), Self::OPEN_END);
        for (timeline, from) in begun.into_iter().rev() {
            if from <= to || parts.is_empty() {
                parts.push(Part { timeline, from, to });
                to = from;
            }
        }
        parts.reverse();
        Self { parts }
    }

    /// The parts, oldest first; never empty.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The timeline that it leads to.
    pub fn timeline(&self) -> TimelineId {
        self.last().timeline
    }

    /// The share of the timeline that it leads to.
    pub fn last(&self) -> Part {
        self.parts[self.parts.len() - 1]
    }

    /// The share of `timeline`; `None` if no byte of this lineage is its own.
    pub fn share_of(&self, timeline: TimelineId) -> Option<Part> {
        self.parts.iter().copied().find(|part| part.timeline == timeline && part.from < part.to)
    }

    /// Whether a server that has replayed `timeline` up to `lsn` can go on along this lineage: that timeline
    /// is part of it, and was not left before.
    pub fn contains(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        self.parts.iter().any(|part| part.timeline == timeline && (part.from..=part.to).contains(&lsn))
    }

    /// The part that the byte at `lsn` belongs to.
    pub fn part_at(&self, lsn: Lsn) -> Part {
        *self.parts.iter().find(|part| lsn < part.to).unwrap_or(&self.last())
    }

    /// The timelines under whose names a segment of this lineage may be stored, the newest first: as recovery
    /// asks for them. Of one that is not the first, only the bytes before the next one's fork belong to the
    /// lineage.
    pub fn timelines_of(&self, segment: SegmentNo, size: SegmentSize) -> impl Iterator<Item = Part> {
        let bytes = segment.start(size)..segment.end(size);
        self.parts.iter().rev().copied().filter(move |part| part.from < bytes.end && part.to > bytes.start)
    }

    /// All bytes of this lineage that are there, given what is there of each timeline.
    pub fn available(&self, coverage: &BTreeMap<TimelineId, Coverage>, size: SegmentSize) -> Coverage {
        let share = |part: &Part| {
            let bounds = supplied(part, size);
            coverage.get(&part.timeline).map(|coverage| coverage.within(&bounds).collect::<Vec<_>>())
        };
        self.parts.iter().filter_map(share).flatten().collect()
    }

    /// Checks each fork from `from` on: that the WAL with which the new timeline begins is there under its
    /// name.
    pub fn check_forks(
        &self,
        from: Lsn,
        coverage: &BTreeMap<TimelineId, Coverage>,
    ) -> Result<(), MissingFork> {
        for pair in self.parts.windows(2) {
            let (parent, child) = (pair[0], pair[1]);
            let there =
                || coverage.get(&child.timeline).is_some_and(|coverage| coverage.contains(child.from));
            // A timeline that was left where it began has no bytes of its own.
            if child.from >= from && child.from < child.to && !there() {
                let (timeline, parent) = (child.timeline, parent.timeline);
                return Err(MissingFork { timeline, parent, switch: child.from });
            }
        }
        Ok(())
    }
}

/// Which bytes of the lineage a part's files hold: its own, and before them what it copied of its parent's.
fn supplied(part: &Part, size: SegmentSize) -> Range<Lsn> {
    size.floor(part.from)..part.to
}

#[cfg(test)]
mod tests {
    use super::super::inventory::tests::{history, mib, size, tli};
    use super::*;

    fn histories() -> BTreeMap<TimelineId, TimelineHistory> {
        [history(2, &[(1, mib(5) + 10)]), history(3, &[(1, mib(5) + 10), (2, mib(5) + 20)])].into()
    }

    fn lineage(timeline: u32) -> Lineage {
        Lineage::of(tli(timeline), &histories())
    }

    #[test]
    fn knows_what_was_left_before() {
        let lineage = lineage(2);
        assert!(lineage.contains(tli(1), mib(5)) && lineage.contains(tli(1), mib(5) + 10));
        assert!(!lineage.contains(tli(1), mib(5) + 11) && !lineage.contains(tli(2), mib(5)));
        assert!(lineage.contains(tli(2), mib(900)) && !lineage.contains(tli(3), mib(6)));
        assert_eq!(lineage.part_at(mib(5)).timeline, tli(1));
        assert_eq!(lineage.part_at(mib(5) + 10).timeline, tli(2));
    }

    #[test]
    fn a_fork_before_an_earlier_fork_leaves_the_one_between_no_bytes() {
        let (_, history) = history(3, &[(1, mib(5)), (2, mib(4))]);
        let lineage = Lineage::from_history(&history);
        let parts: Vec<_> = lineage.parts().iter().map(|part| (part.timeline, part.from, part.to)).collect();
        assert_eq!(parts, [(tli(1), Lsn(0), mib(4)), (tli(3), mib(4), Lineage::OPEN_END)]);
        assert!(lineage.contains(tli(1), mib(4)) && !lineage.contains(tli(1), mib(4) + 1));
        assert_eq!((lineage.share_of(tli(2)), lineage.share_of(tli(3))), (None, Some(lineage.last())));
        for lsn in [mib(3), mib(4), mib(5), mib(6)] {
            assert_eq!(lineage.part_at(lsn).timeline, history.timeline_at(lsn));
        }
    }

    #[test]
    fn the_segment_with_the_fork_is_the_newest_timeline_s() {
        let names = |timeline, segment| {
            let parts = lineage(timeline).timelines_of(SegmentNo(segment), size()).collect::<Vec<_>>();
            parts.into_iter().map(|part| part.timeline.get()).collect::<Vec<_>>()
        };
        assert_eq!(names(3, 4), [1]);
        assert_eq!(names(3, 5), [3, 2, 1]);
        assert_eq!(names(3, 6), [3]);
        assert_eq!(names(1, 6), [1]);
    }

    #[test]
    fn the_child_s_copy_replaces_the_parent_s_segment() {
        let whole = |from: u64, to: u64| -> Coverage { [mib(from)..mib(to)].into_iter().collect() };
        let coverage = BTreeMap::from([(tli(1), whole(1, 5)), (tli(3), whole(5, 7))]);
        assert_eq!(lineage(3).available(&coverage, size()), whole(1, 7));
        // The parent's bytes beyond the fork are another history.
        let coverage = BTreeMap::from([(tli(1), whole(1, 9))]);
        let available: Coverage = [mib(1)..mib(5) + 10].into_iter().collect();
        assert_eq!(lineage(2).available(&coverage, size()), available);
    }

    /// A history file without the child's first segment.
    #[test]
    fn a_history_alone_is_no_timeline() {
        let whole = |from: u64, to: u64| -> Coverage { [mib(from)..mib(to)].into_iter().collect() };
        let mut coverage = BTreeMap::from([(tli(1), whole(1, 9))]);
        let missing = lineage(2).check_forks(mib(1), &coverage).unwrap_err();
        assert_eq!((missing.timeline, missing.switch), (tli(2), mib(5) + 10));
        coverage.insert(tli(2), whole(6, 9));
        assert!(lineage(2).check_forks(mib(1), &coverage).is_err());
        assert!(lineage(2).check_forks(mib(6), &coverage).is_ok());
        coverage.insert(tli(2), [mib(5)..mib(5) + 10].into_iter().collect());
        assert!(lineage(2).check_forks(mib(1), &coverage).is_err());
        coverage.insert(tli(2), [mib(5)..mib(5) + 11].into_iter().collect());
        assert!(lineage(2).check_forks(mib(1), &coverage).is_ok());
    }
}
