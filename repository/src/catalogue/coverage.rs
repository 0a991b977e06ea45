//! Which bytes of WAL are there.

use std::ops::Range;

use proto::Lsn;
use proto::wal::{SegmentName, SegmentSize};

use crate::TimelineWal;

/// A set of WAL positions: ranges in ascending order that neither overlap nor touch, none of them empty.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Coverage {
    ranges: Vec<Range<Lsn>>,
}

impl Coverage {
    /// What a branch holds of one timeline's WAL that a restore can use: whole segments, and of the others
    /// what the fragments of one epoch hold from their beginning on. A segment that is stored with two
    /// contents cannot be used before an operator has settled that.
    pub fn of(wal: &TimelineWal, size: SegmentSize) -> Self {
        let mut ranges = Vec::with_capacity(wal.segments.len());
        for (name, digests) in &wal.segments {
            if let (Ok(number), 1) = (name.number(size), digests.len()) {
                ranges.push(number.start(size)..number.end(size));
            }
        }
        let mut seen: Option<SegmentName> = None;
        for fragment in &wal.fragments {
            let name = fragment.segment;
            if seen.replace(name) == Some(name) || wal.segments.contains_key(&name) {
                continue;
            }
            if let Ok(number) = name.number(size) {
                let start = number.start(size);
                ranges.push(start..(start + u64::from(wal.tail_length(name))).min(number.end(size)));
            }
        }
        ranges.into_iter().collect()
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> &[Range<Lsn>] {
        &self.ranges
    }

    /// The first byte after the last one that is there.
    pub fn end(&self) -> Option<Lsn> {
        self.ranges.last().map(|range| range.end)
    }

    /// Forgets everything from `end` on.
    pub(super) fn cut_at(&mut self, end: Lsn) {
        self.ranges.retain(|range| range.start < end);
        if let Some(last) = self.ranges.last_mut() {
            last.end = last.end.min(end);
        }
    }

    /// Whether the byte at `lsn` is there.
    pub fn contains(&self, lsn: Lsn) -> bool {
        self.reach(lsn) > lsn
    }

    /// How far one gets from `from` without a hole: the first byte that is not there; `from` itself if it is
    /// not.
    pub fn reach(&self, from: Lsn) -> Lsn {
        let after = self.ranges.partition_point(|range| range.start <= from);
        let before = after.checked_sub(1).map(|at| &self.ranges[at]);
        before.map_or(from, |range| range.end.max(from))
    }

    /// The part of it within `bounds`.
    pub fn within(&self, bounds: &Range<Lsn>) -> impl Iterator<Item = Range<Lsn>> {
        let first = self.ranges.partition_point(|range| range.end <= bounds.start);
        let bounds = bounds.clone();
        self.ranges[first..]
            .iter()
            .map(move |range| range.start.max(bounds.start)..range.end.min(bounds.end))
            .take_while(|range| range.start < range.end)
    }

    /// What is not there of `bounds`.
    pub fn missing(&self, bounds: &Range<Lsn>) -> Vec<Range<Lsn>> {
        let mut missing = Vec::new();
        let mut reached = bounds.start;
        for range in self.within(bounds) {
            if reached < range.start {
                missing.push(reached..range.start);
            }
            reached = range.end;
        }
        if reached < bounds.end {
            missing.push(reached..bounds.end);
        }
        missing
    }
}

impl FromIterator<Range<Lsn>> for Coverage {
    fn from_iter<I: IntoIterator<Item = Range<Lsn>>>(ranges: I) -> Self {
        let mut sorted: Vec<Range<Lsn>> =
            ranges.into_iter().filter(|range| range.start < range.end).collect();
        sorted.sort_unstable_by_key(|range| range.start);
        let mut joined: Vec<Range<Lsn>> = Vec::new();
        for range in sorted {
            match joined.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => joined.push(range),
            }
        }
        Self { ranges: joined }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::{Digest, TimelineId};

    use super::*;
    use crate::{Epoch, FragmentName, Place, WriterId};

    /// The same, byte by byte.
    fn naive(ranges: &[(u64, u64)]) -> [bool; 64] {
        let mut bytes = [false; 64];
        for (start, end) in ranges {
            (*start..*end).for_each(|byte| bytes[byte as usize] = true);
        }
        bytes
    }

    fn bytes_of(ranges: impl IntoIterator<Item = Range<Lsn>>) -> Vec<u64> {
        ranges.into_iter().flat_map(|range| range.start.0..range.end.0).collect()
    }

    proptest! {
        #[test]
        fn agrees_with_a_bitmap(
            ranges in proptest::collection::vec((0u64..64, 0u64..64), 0..8), start in 0u64..64, end in 0u64..64,
        ) {
            let bitmap = naive(&ranges);
            let coverage: Coverage = ranges.iter().map(|(start, end)| Lsn(*start)..Lsn(*end)).collect();
            prop_assert_eq!(
                bytes_of(coverage.ranges().iter().cloned()),
                (0..64).filter(|byte| bitmap[*byte as usize]).collect::<Vec<_>>()
            );
            prop_assert!(coverage.ranges().windows(2).all(|pair| pair[0].end < pair[1].start));
            for byte in 0..64 {
                prop_assert_eq!(coverage.contains(Lsn(byte)), bitmap[byte as usize]);
                let reach = (byte..64).find(|byte| !bitmap[*byte as usize]).unwrap_or(64);
                prop_assert_eq!(coverage.reach(Lsn(byte)), Lsn(reach));
            }
            let bounds = Lsn(start)..Lsn(end);
            let inside = |there: bool| (start..end).filter(|b| bitmap[*b as usize] == there).collect::<Vec<_>>();
            prop_assert_eq!(bytes_of(coverage.within(&bounds)), inside(true));
            prop_assert_eq!(bytes_of(coverage.missing(&bounds)), inside(false));
        }
    }

    #[test]
    fn counts_whole_segments_and_beginnings_but_no_conflicts() {
        let size = SegmentSize::new(1 << 20).unwrap();
        let name = |seg| SegmentName { timeline: TimelineId::FIRST, log: 0, seg };
        let fragment = |seg, from, to| FragmentName {
            segment: name(seg),
            epoch: Epoch { number: 1, writer: WriterId::from_number(1) },
            from,
            to,
            digest: Digest::of(b""),
            place: Place::Object,
        };
        let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
        let mut wal = TimelineWal {
            // 4096 is the first number that cannot occur with segments of 1 MiB.
            segments: [(1, vec![one]), (2, vec![one]), (4, vec![one, other]), (4096, vec![one])]
                .map(|(seg, digests)| (name(seg), digests))
                .into(),
            fragments: vec![
                fragment(2, 0, 10),
                fragment(3, 0, 100),
                fragment(3, 100, 200),
                fragment(4, 0, 5),
                fragment(6, 7, 9),
            ],
            ..TimelineWal::default()
        };
        let mib = |n: u64| Lsn(n << 20);
        assert_eq!(Coverage::of(&wal, size).ranges(), [mib(1)..mib(3) + 200]);
        wal.fragments.push(fragment(7, 0, 1 << 20));
        assert_eq!(Coverage::of(&wal, size).ranges(), [mib(1)..mib(3) + 200, mib(7)..mib(8)]);
    }
}
