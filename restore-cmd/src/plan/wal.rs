//! The WAL that there is, as a recovering server will ask for it.
//!
//! A server that recovers to a timeline reads each segment from the newest timeline of the lineage that had begun by
//! that segment: the segment of a fork is read from the child's copy, which holds the parent's bytes before it.

use std::collections::BTreeMap;
use std::ops::Range;

use proto::wal::SegmentSize;
use proto::wal::history::TimelineHistory;
use proto::{Lsn, TimelineId};
use repository::wal::{TimelineWal, WalListing};
use serde::Serialize;

/// A stretch of one timeline on the way to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Leg {
    /// The timeline.
    pub timeline: TimelineId,
    /// Its first byte on this way.
    pub from: Lsn,
    /// Where it is left; `None` for the last one.
    pub to: Option<Lsn>,
}

/// A timeline with its ancestors, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct Lineage {
    legs: Vec<Leg>,
}

impl Lineage {
    /// The way that a history describes. Forks that lie before an earlier one cut that one's leg off.
    pub fn of(history: &TimelineHistory) -> Self {
        let mut legs: Vec<Leg> = Vec::new();
        let mut from = Lsn(0);
        for entry in &history.entries {
            while legs.last().is_some_and(|leg| leg.from >= entry.switch) {
                legs.pop();
            }
            if let Some(leg) = legs.last_mut() {
                leg.to = leg.to.map(|to| to.min(entry.switch));
                from = leg.to.unwrap_or(from);
            } else {
                from = Lsn(0);
            }
            if from < entry.switch {
                legs.push(Leg { timeline: entry.timeline, from, to: Some(entry.switch) });
            }
            from = entry.switch;
        }
        legs.push(Leg { timeline: history.timeline, from, to: None });
        Self { legs }
    }

    /// The legs, oldest first; at least one.
    pub fn legs(&self) -> &[Leg] {
        &self.legs
    }

    /// The timeline to which all this leads.
    pub fn timeline(&self) -> TimelineId {
        self.legs.last().map_or(TimelineId::FIRST, |leg| leg.timeline)
    }

    /// Where this timeline is left; `Some(None)` if never, `None` if the way does not touch it.
    pub fn end_of(&self, timeline: TimelineId) -> Option<Option<Lsn>> {
        self.legs.iter().find(|leg| leg.timeline == timeline).map(|leg| leg.to)
    }

    /// Whether a point on `timeline` that ends at `lsn` lies on this way.
    pub fn holds(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        self.legs
            .iter()
            .any(|leg| leg.timeline == timeline && lsn >= leg.from && leg.to.is_none_or(|to| lsn <= to))
    }

    /// The leg on which the byte at `lsn` lies.
    fn leg_at(&self, lsn: Lsn) -> Leg {
        let begun = self.legs.iter().rev().find(|leg| leg.from <= lsn);
        begun.copied().unwrap_or(self.legs[0])
    }

    /// The timeline to which the byte at `lsn` belongs.
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        self.leg_at(lsn).timeline
    }

    /// The timeline under whose name a server asks for the segment that begins at `start`.
    pub(super) fn asked(&self, start: Lsn, size: SegmentSize) -> TimelineId {
        let begun = self.legs.iter().rev().find(|leg| size.floor(leg.from) <= start);
        begun.unwrap_or(&self.legs[0]).timeline
    }
}

/// Which bytes of WAL there are, by timeline, and how the timelines descend from each other.
#[derive(Clone, Debug)]
pub struct WalMap {
    size: SegmentSize,
    covered: BTreeMap<TimelineId, Vec<Range<Lsn>>>,
    histories: BTreeMap<TimelineId, Result<TimelineHistory, String>>,
}

impl WalMap {
    /// From names, and the histories' contents.
    pub fn new(listing: &WalListing, size: SegmentSize) -> Self {
        let covered =
            listing.timelines.iter().map(|(timeline, wal)| (*timeline, covered(wal, size))).collect();
        let mut histories: BTreeMap<TimelineId, Result<TimelineHistory, String>> = BTreeMap::new();
        for (&timeline, files) in &listing.histories {
            let parsed = files.iter().map(|file| TimelineHistory::parse(timeline, &file.content));
            let agreed = parsed.reduce(|first, next| match (first?, next?) {
                (first, next) if forks(&first).eq(forks(&next)) => Ok(first),
                (first, _) => Ok(TimelineHistory { timeline: first.timeline, entries: Vec::new() }),
            });
            let known = match agreed {
                None => continue,
                Some(Err(error)) => Err(error.to_string()),
                Some(Ok(history)) if history.entries.is_empty() && timeline != TimelineId::FIRST => {
                    Err("two servers were promoted to it, and their history files disagree".to_owned())
                }
                Some(Ok(history)) => Ok(history),
            };
            histories.insert(timeline, known);
        }
        let first = TimelineHistory { timeline: TimelineId::FIRST, entries: Vec::new() };
        histories.insert(TimelineId::FIRST, Ok(first));
        Self { size, covered, histories }
    }

    /// Timelines of which there is a history file or WAL, ascending.
    pub fn timelines(&self) -> Vec<TimelineId> {
        let mut all: Vec<TimelineId> = self.histories.keys().chain(self.covered.keys()).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The way to `timeline`.
    ///
    /// # Errors
    /// In words: its history file is missing or damaged, or there are two that disagree.
    pub fn lineage(&self, timeline: TimelineId) -> Result<Lineage, String> {
        match self.histories.get(&timeline) {
            Some(Ok(history)) => Ok(Lineage::of(history)),
            Some(Err(why)) => Err(why.clone()),
            None => Err("its history file is missing".to_owned()),
        }
    }

    /// Whether there is WAL of the lineage's last timeline where it begins; always so for one without a parent.
    pub fn begins(&self, lineage: &Lineage) -> bool {
        let Some(leg) = lineage.legs().last().filter(|leg| leg.from.0 > 0) else { return true };
        self.end_on(leg.timeline, self.size.floor(leg.from)) > leg.from
    }

    /// How far WAL goes from `from` on without a hole, along `lineage`. `from` itself if there is none.
    pub fn reach(&self, lineage: &Lineage, from: Lsn) -> Lsn {
        let mut start = self.size.floor(from);
        loop {
            let timeline = lineage.asked(start, self.size);
            let next_leg =
                lineage.legs().iter().map(|leg| self.size.floor(leg.from)).find(|&next| next > start);
            let here = self.end_on(timeline, start);
            match next_leg {
                // What a parent has beyond the fork is not on this way.
                Some(next) if here >= next => start = next,
                _ => return here.max(from),
            }
        }
    }

    /// The end of the stretch without a hole that holds the byte at `from`, on one timeline.
    fn end_on(&self, timeline: TimelineId, from: Lsn) -> Lsn {
        let ranges = self.covered.get(&timeline).map_or(&[][..], Vec::as_slice);
        ranges.iter().find(|range| range.contains(&from)).map_or(from, |range| range.end)
    }

    /// Where WAL of `lineage` goes on after the hole at `from`; `None` if it does not.
    pub fn resumes(&self, lineage: &Lineage, from: Lsn) -> Option<Lsn> {
        let later = lineage.legs().iter().flat_map(|leg| {
            let ranges = self.covered.get(&leg.timeline).map_or(&[][..], Vec::as_slice);
            let floor = self.size.floor(leg.from);
            let end = leg.to;
            ranges
                .iter()
                .map(|range| range.start)
                .filter(move |&start| start > from && start >= floor && end.is_none_or(|end| start < end))
        });
        later.min()
    }
}

fn forks(history: &TimelineHistory) -> impl Iterator<Item = (TimelineId, Lsn)> {
    history.entries.iter().map(|entry| (entry.timeline, entry.switch))
}

/// The stretches that whole segments and the longest tails cover, ascending, joined where they touch. A segment that
/// is stored with two contents covers nothing: nobody may choose between them.
fn covered(wal: &TimelineWal, size: SegmentSize) -> Vec<Range<Lsn>> {
    let mut ends: BTreeMap<Lsn, Lsn> = BTreeMap::new();
    let mut tails = BTreeMap::new();
    for fragment in &wal.fragments {
        let end = tails.entry((fragment.segment, fragment.epoch)).or_insert(0u32);
        // Fragments come in the order of their place; they may overlap after a merge.
        if fragment.from <= *end {
            *end = fragment.to.max(*end);
        }
    }
    for ((segment, _), length) in tails {
        if let Ok(number) = segment.number(size)
            && length > 0
        {
            let start = number.start(size);
            let end = ends.entry(start).or_insert(start);
            *end = (*end).max(start + u64::from(length).min(size.bytes()));
        }
    }
    for (segment, digests) in &wal.segments {
        let Ok(number) = segment.number(size) else { continue };
        match digests.len() {
            0 => {}
            1 => drop(ends.insert(number.start(size), number.end(size))),
            _ => drop(ends.remove(&number.start(size))),
        }
    }
    let mut ranges: Vec<Range<Lsn>> = Vec::new();
    for (start, end) in ends {
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => ranges.push(start..end),
        }
    }
    ranges
}

#[cfg(test)]
pub(super) mod tests {
    use proto::Digest;
    use proto::wal::{SegmentName, SegmentNo};
    use repository::wal::HistoryFile;

    use super::*;

    pub(in crate::plan) const SIZE: SegmentSize = SegmentSize::DEFAULT;

    pub(in crate::plan) fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    /// Whole segments and histories by number.
    pub(in crate::plan) fn listing(segments: &[(u32, Range<u64>)], histories: &[(u32, &str)]) -> WalListing {
        let mut listing = WalListing::default();
        for (number, range) in segments {
            let wal = listing.timelines.entry(timeline(*number)).or_default();
            for segment in range.clone() {
                let name = SegmentName::new(timeline(*number), SegmentNo(segment), SIZE);
                wal.segments.insert(name, vec![Digest::of(b"x")]);
            }
        }
        for (number, text) in histories {
            let file =
                HistoryFile { digest: Digest::of(text.as_bytes()), content: (*text).to_owned().into() };
            listing.histories.entry(timeline(*number)).or_default().push(file);
        }
        listing
    }

    fn map(segments: &[(u32, Range<u64>)], histories: &[(u32, &str)]) -> WalMap {
        WalMap::new(&listing(segments, histories), SIZE)
    }

    #[test]
    fn reaches_to_the_first_hole() {
        let map = map(&[(1, 2..5), (1, 6..7)], &[]);
        let lineage = map.lineage(timeline(1)).unwrap();
        assert_eq!(map.reach(&lineage, Lsn(0x200_0028)), Lsn(0x500_0000));
        assert_eq!(map.resumes(&lineage, Lsn(0x500_0000)), Some(Lsn(0x600_0000)));
        assert_eq!(map.reach(&lineage, Lsn(0x500_0000)), Lsn(0x500_0000));
    }

    #[test]
    fn a_parent_beyond_the_fork_does_not_count() {
        // The child has forked within segment 4, and has nothing after that segment.
        let map = map(&[(1, 2..9), (2, 4..5)], &[(2, "1\t0/4000158\tx\n")]);
        let lineage = map.lineage(timeline(2)).unwrap();
        assert_eq!(map.reach(&lineage, Lsn(0x200_0028)), Lsn(0x500_0000));
        assert_eq!(map.resumes(&lineage, Lsn(0x500_0000)), None);
        assert!(map.begins(&lineage));
    }

    #[test]
    fn a_history_without_wal_at_the_fork_is_noticed() {
        let map = map(&[(1, 2..9)], &[(2, "1\t0/4000158\tx\n")]);
        let lineage = map.lineage(timeline(2)).unwrap();
        assert!(!map.begins(&lineage));
        assert_eq!(map.reach(&lineage, Lsn(0x200_0028)), Lsn(0x400_0000));
    }

    #[test]
    fn two_histories_that_disagree_lead_nowhere() {
        let map = map(&[], &[(2, "1\t0/4000158\tx\n"), (2, "1\t0/5000000\ty\n")]);
        assert!(map.lineage(timeline(2)).unwrap_err().contains("disagree"));
        let same = self::map(&[], &[(2, "1\t0/4000158\tx\n"), (2, "1\t0/4000158\tother reason\n")]);
        assert!(same.lineage(timeline(2)).is_ok());
    }

    #[test]
    fn two_contents_of_a_segment_are_a_hole() {
        let mut listing = listing(&[(1, 2..5)], &[]);
        let wal = listing.timelines.get_mut(&timeline(1)).unwrap();
        wal.segments.values_mut().nth(1).unwrap().push(Digest::of(b"y"));
        let map = WalMap::new(&listing, SIZE);
        assert_eq!(map.reach(&map.lineage(timeline(1)).unwrap(), Lsn(0x200_0028)), Lsn(0x300_0000));
    }

    #[test]
    fn a_fork_before_an_earlier_fork() {
        let history = TimelineHistory::parse(timeline(3), b"1\t0/5000000\tx\n2\t0/4000000\ty\n").unwrap();
        let lineage = Lineage::of(&history);
        assert_eq!(lineage.timeline_at(Lsn(0x3FF_FFFF)), timeline(1));
        assert_eq!(lineage.timeline_at(Lsn(0x400_0000)), timeline(3));
        assert!(lineage.holds(timeline(1), Lsn(0x400_0000)) && !lineage.holds(timeline(1), Lsn(0x400_0001)));
    }
}
