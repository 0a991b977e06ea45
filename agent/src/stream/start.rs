//! Where to begin: a plan made from what the slot keeps and what the repository has.
//!
//! ```text
//!  repository   ■■■■ ■■■■ ■■■■ ■■··            whole segments, a tail
//!  slot               └── restart_lsn          the server has all WAL from here on
//!  start                       └── the first segment that is not whole; where it has no tail, one segment
//!                                  earlier, so that there is something to compare
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use proto::wal::history::TimelineHistory;
use proto::wal::{SegmentName, SegmentNo, SegmentSize};
use proto::{Digest, Lsn, TimelineId};
use repository::{Epoch, FragmentName, WalListing};

/// What the server says of itself.
#[derive(Debug, Clone)]
pub(crate) struct ServerWal {
    pub(crate) segment_size: SegmentSize,
    /// The current timeline's history; without entries on timeline 1.
    pub(crate) history: TimelineHistory,
    /// How far its WAL reaches.
    pub(crate) flushed: Lsn,
    /// The slot keeps everything from here on.
    pub(crate) restart_lsn: Lsn,
}

/// Whether to ask for WAL that the slot does not promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Back to what the repository has, so that it can be compared and a gap be closed, if the server still has it.
    BackToTheKnown,
    /// Back to the first byte that is missing: the server no longer has the known WAL before it.
    ToTheMissing,
    /// No further than the slot: the server has nothing older.
    Slot,
}

/// Where to begin and what is known of the WAL that comes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StartPlan {
    pub(crate) timeline: TimelineId,
    pub(crate) start: Lsn,
    pub(crate) known: Known,
    /// WAL that neither the repository nor the slot has.
    pub(crate) gap: Option<Range<Lsn>>,
}

/// What the repository has from the start of a stream on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Known {
    /// Whole segments, one after the other.
    pub(crate) whole: Vec<(SegmentName, Digest)>,
    /// What fragments hold of the segment after those.
    pub(crate) tail: Option<KnownTail>,
}

/// A segment's beginning as one epoch has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownTail {
    pub(crate) segment: SegmentName,
    /// Each begins at or before the end of the one before.
    pub(crate) fragments: Vec<FragmentName>,
    /// How much of it belongs to the timeline.
    pub(crate) length: u32,
}

/// The repository holds two contents under one name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("segment {segment} is stored with different contents: {}", .digests.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
pub(crate) struct Ambiguous {
    pub(crate) segment: SegmentName,
    pub(crate) digests: Vec<Digest>,
}

impl ServerWal {
    /// The name under which a segment goes on the way to the current timeline: that of its last byte's timeline.
    fn name(&self, segment: SegmentNo) -> SegmentName {
        let last = segment.end(self.segment_size) - 1;
        SegmentName::new(self.history.timeline_at(last), segment, self.segment_size)
    }

    /// Whether `timeline` is the server's own, or on the way to it.
    pub(crate) fn passes(&self, timeline: TimelineId) -> bool {
        self.history.timeline == timeline || self.end_of(timeline).is_some()
    }

    /// Where the server left `timeline`; `None` on the current one.
    fn end_of(&self, timeline: TimelineId) -> Option<Lsn> {
        self.history.switch_from(timeline)
    }

    /// Plans the first stream of a session.
    pub(crate) fn plan(&self, stored: &WalListing, reach: Reach) -> Result<StartPlan, Ambiguous> {
        let size = self.segment_size;
        let slot = size.segment_at(self.restart_lsn);
        let mut first = slot;
        while digest(stored, self.name(first))?.is_some() {
            first = first.next();
        }
        let has_tail = longest_tail(stored, self.name(first)).is_some();
        // The archiver alone may have brought the whole segments before the slot, and hidden a gap before them.
        let run = self.run_before(stored, slot);
        let hidden = self.newest_before(stored, run).filter(|newest| run < slot && *newest < run.start(size));
        let (newest, goes_on) = match hidden {
            Some(newest) => (Some(newest), run.start(size)),
            None => (self.newest_before(stored, slot), slot.start(size)),
        };
        // Where there is a tail, an agent has streamed, and looked before it did. Where the slot's segment is there whole, it
        // may again be that the archiver alone has brought it.
        let looked_at = |newest: &Lsn| match first > slot && hidden.is_none() {
            true => *newest >= goes_on,
            false => has_tail,
        };
        let mut gap = None;
        match newest.filter(|newest| !looked_at(newest)) {
            Some(newest) if reach == Reach::BackToTheKnown => first = size.segment_before(newest),
            Some(newest) if reach == Reach::ToTheMissing => first = size.segment_at(newest),
            unseen => {
                gap = unseen.filter(|newest| *newest < goes_on).map(|newest| newest..goes_on);
                first = if first > slot && !has_tail { SegmentNo(first.0 - 1) } else { first };
            }
        }
        if self.name(first).timeline == self.history.timeline {
            // A server that lags behind the repository is asked from its own end on: all is compared, nothing acknowledged.
            first = first.min(size.segment_at(self.flushed));
        }
        let timeline = self.name(first).timeline;
        Ok(StartPlan { timeline, start: first.start(size), known: self.known(stored, timeline, first)?, gap })
    }

    /// What the repository has of `timeline` from segment `first` on.
    pub(crate) fn known(
        &self,
        stored: &WalListing,
        timeline: TimelineId,
        mut first: SegmentNo,
    ) -> Result<Known, Ambiguous> {
        let size = self.segment_size;
        let end = self.end_of(timeline);
        let mut known = Known::default();
        loop {
            let segment = SegmentName::new(timeline, first, size);
            let beyond = end.is_some_and(|end| first.end(size) > end);
            match digest(stored, segment)? {
                Some(digest) if !beyond => known.whole.push((segment, digest)),
                _ => {
                    known.tail = longest_tail(stored, segment);
                    break;
                }
            }
            first = first.next();
        }
        if let (Some(tail), Some(end)) = (&mut known.tail, end) {
            let room = end.bytes_since(first.start(size)).min(size.bytes());
            tail.length = tail.length.min(u32::try_from(room).unwrap_or(u32::MAX));
        }
        known.tail = known.tail.filter(|tail| tail.length > 0);
        Ok(known)
    }

    /// The first of the whole segments that follow each other up to `segment`; that itself where the one before is not there.
    fn run_before(&self, stored: &WalListing, segment: SegmentNo) -> SegmentNo {
        let mut run = segment;
        // Of two contents neither is known to be right.
        while run.0 > 0 && matches!(digest(stored, self.name(SegmentNo(run.0 - 1))), Ok(Some(_))) {
            run = SegmentNo(run.0 - 1);
        }
        run
    }

    /// The end of the newest WAL of this lineage in segments before `segment`, under whichever timeline's name it is
    /// stored: a fork within a segment leaves the parent's part of it under the parent's name.
    fn newest_before(&self, stored: &WalListing, segment: SegmentNo) -> Option<Lsn> {
        let size = self.segment_size;
        let mut end = Lsn(u64::MAX);
        let own = [(self.history.timeline, end)].into_iter();
        let ancestors = self.history.entries.iter().rev().map(|entry| (entry.timeline, entry.switch));
        let newest = own.chain(ancestors).filter_map(|(timeline, switch)| {
            end = end.min(switch);
            let wal = stored.timelines.get(&timeline)?;
            let start = |name: SegmentName| {
                let number = name.number(size).ok().filter(|number| *number < segment)?;
                Some(number.start(size))
            };
            let whole = wal.segments.keys().filter_map(|name| Some(start(*name)? + size.bytes()));
            let tails: BTreeSet<_> = wal.fragments.iter().map(|fragment| fragment.segment).collect();
            let tails = tails.into_iter().filter_map(|name| {
                let length = wal.tail_length(name);
                Some(start(name)? + u64::from(length)).filter(|_| length > 0)
            });
            Some(whole.chain(tails).max()?.min(end))
        });
        newest.max()
    }
}

/// The stored digest of a segment.
fn digest(stored: &WalListing, segment: SegmentName) -> Result<Option<Digest>, Ambiguous> {
    let wal = stored.timelines.get(&segment.timeline);
    match wal.and_then(|wal| wal.segments.get(&segment)).map(Vec::as_slice) {
        None | Some([]) => Ok(None),
        Some([digest]) => Ok(Some(*digest)),
        Some(digests) => Err(Ambiguous { segment, digests: digests.to_vec() }),
    }
}

/// The epoch that has most of a segment from its start on without a hole.
fn longest_tail(stored: &WalListing, segment: SegmentName) -> Option<KnownTail> {
    tails(stored, segment).into_iter().max_by_key(|tail| tail.length)
}

/// What each epoch has of a segment from its start on without a hole.
pub(crate) fn tails(stored: &WalListing, segment: SegmentName) -> Vec<KnownTail> {
    let Some(wal) = stored.timelines.get(&segment.timeline) else { return Vec::new() };
    let mut epochs: BTreeMap<Epoch, Vec<FragmentName>> = BTreeMap::new();
    for fragment in wal.fragments.iter().filter(|fragment| fragment.segment == segment) {
        epochs.entry(fragment.epoch).or_default().push(*fragment);
    }
    let tails = epochs.into_values().filter_map(|fragments| {
        let (mut chosen, mut length) = (Vec::new(), 0);
        while let Some(next) = fragments.iter().filter(|f| f.from <= length).max_by_key(|f| f.to) {
            if next.to <= length {
                break;
            }
            length = next.to;
            chosen.push(*next);
        }
        (length > 0).then_some(KnownTail { segment, fragments: chosen, length })
    });
    tails.collect()
}

#[cfg(test)]
mod tests {
    use proto::wal::history::HistoryEntry;

    use super::*;

    const SIZE: u64 = 16 << 20;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn server(restart_lsn: u64, flushed: u64) -> ServerWal {
        ServerWal {
            segment_size: SegmentSize::DEFAULT,
            history: TimelineHistory { timeline: timeline(1), entries: Vec::new() },
            flushed: Lsn(flushed),
            restart_lsn: Lsn(restart_lsn),
        }
    }

    fn name(number: u64) -> SegmentName {
        SegmentName::new(timeline(1), SegmentNo(number), SegmentSize::DEFAULT)
    }

    fn content(name: SegmentName) -> Digest {
        Digest::of(name.to_string().as_bytes())
    }

    fn stored(names: &[SegmentName]) -> WalListing {
        let mut listing = WalListing::default();
        for name in names {
            let wal = listing.timelines.entry(name.timeline).or_default();
            wal.segments.insert(*name, vec![content(*name)]);
        }
        listing
    }

    fn add_fragment(listing: &mut WalListing, segment: SegmentName, epoch: u32, range: Range<u32>) {
        let epoch = Epoch { number: epoch, writer: repository::WriterId::random() };
        let (digest, place) = (Digest::of(b""), repository::Place::Object);
        let fragment = FragmentName { segment, epoch, from: range.start, to: range.end, digest, place };
        listing.timelines.entry(segment.timeline).or_default().fragments.push(fragment);
    }

    #[test]
    fn the_first_run_begins_with_the_slots_segment() {
        let plan =
            server(3 * SIZE + 500, 5 * SIZE).plan(&WalListing::default(), Reach::BackToTheKnown).unwrap();
        assert_eq!((plan.timeline, plan.start), (timeline(1), Lsn(3 * SIZE)));
        assert_eq!((plan.known, plan.gap), (Known::default(), None));
    }

    #[test]
    fn what_is_stored_is_not_stored_again_but_the_last_of_it_is_compared() {
        let server = server(3 * SIZE + 500, 6 * SIZE);
        let plan = server.plan(&stored(&[name(3), name(4)]), Reach::BackToTheKnown).unwrap();
        assert_eq!(plan.start, Lsn(4 * SIZE));
        assert_eq!(plan.known.whole, [(name(4), content(name(4)))]);
    }

    #[test]
    fn a_tail_is_compared_and_streamed_again_from_its_segments_start() {
        let mut listing = stored(&[name(3)]);
        add_fragment(&mut listing, name(4), 1, 0..100);
        add_fragment(&mut listing, name(4), 2, 0..50);
        add_fragment(&mut listing, name(4), 3, 50..5000);
        let plan = server(4 * SIZE + 100, 6 * SIZE).plan(&listing, Reach::BackToTheKnown).unwrap();
        assert_eq!(plan.start, Lsn(4 * SIZE));
        assert_eq!(plan.known.tail.unwrap().length, 100, "epochs are never mixed");
    }

    #[test]
    fn a_gap_is_closed_if_the_server_still_can_and_told_if_not() {
        let server = server(7 * SIZE + 500, 9 * SIZE);
        // The second was found by the simulation: the archiver had stored the slot's segment, and hidden the gap before it.
        for listing in [stored(&[name(3), name(4)]), stored(&[name(3), name(4), name(7)])] {
            let back = server.plan(&listing, Reach::BackToTheKnown).unwrap();
            assert_eq!((back.start, back.gap), (Lsn(4 * SIZE), None));
            let missing = server.plan(&listing, Reach::ToTheMissing).unwrap();
            assert_eq!((missing.start, missing.gap), (Lsn(5 * SIZE), None));
            let slot = server.plan(&listing, Reach::Slot).unwrap();
            assert_eq!((slot.start, slot.gap), (Lsn(7 * SIZE), Some(Lsn(5 * SIZE)..Lsn(7 * SIZE))));
        }
    }

    /// Found by the simulation, too: the slot was made behind what the archiver had stored.
    #[test]
    fn a_gap_behind_what_the_archiver_has_stored_is_told_until_somebody_has_streamed() {
        let server = server(8 * SIZE + 500, 9 * SIZE);
        let mut listing = stored(&[name(3), name(4), name(6), name(7)]);
        let plan = |listing: &WalListing, reach| server.plan(listing, reach).unwrap();
        assert_eq!(plan(&listing, Reach::BackToTheKnown).start, Lsn(4 * SIZE));
        assert_eq!(plan(&listing, Reach::ToTheMissing).start, Lsn(5 * SIZE));
        let slot = plan(&listing, Reach::Slot);
        assert_eq!((slot.start, slot.gap), (Lsn(8 * SIZE), Some(Lsn(5 * SIZE)..Lsn(6 * SIZE))));
        add_fragment(&mut listing, name(8), 1, 0..600);
        let again = plan(&listing, Reach::BackToTheKnown);
        assert_eq!((again.start, again.gap), (Lsn(8 * SIZE), None));
    }

    #[test]
    fn without_a_tail_the_segment_before_the_slot_is_compared_if_it_is_there() {
        let server = server(5 * SIZE + 500, 6 * SIZE);
        let listing = stored(&[name(4)]);
        assert_eq!(server.plan(&listing, Reach::BackToTheKnown).unwrap().start, Lsn(4 * SIZE));
        let slot = server.plan(&listing, Reach::Slot).unwrap();
        assert_eq!((slot.start, slot.gap), (Lsn(5 * SIZE), None));
    }

    #[test]
    fn a_server_behind_the_repository_is_asked_from_its_own_end() {
        let listing = stored(&[name(3), name(4), name(5), name(6)]);
        let plan = server(3 * SIZE, 4 * SIZE + 700).plan(&listing, Reach::BackToTheKnown).unwrap();
        assert_eq!(plan.start, Lsn(4 * SIZE));
        assert_eq!(plan.known.whole.len(), 3);
    }

    #[test]
    fn a_fork_is_followed_by_the_name_of_each_segments_last_byte() {
        let mut server = server(3 * SIZE, 9 * SIZE);
        let switch = Lsn(5 * SIZE + 4096);
        server.history = TimelineHistory {
            timeline: timeline(2),
            entries: vec![HistoryEntry { timeline: timeline(1), switch, reason: Vec::new() }],
        };
        let plan = server.plan(&stored(&[name(3)]), Reach::BackToTheKnown).unwrap();
        assert_eq!((plan.timeline, plan.start), (timeline(1), Lsn(3 * SIZE)));
        let all = stored(&[name(3), name(4)]);
        let plan = server.plan(&all, Reach::BackToTheKnown).unwrap();
        assert_eq!((plan.timeline, plan.start), (timeline(1), Lsn(4 * SIZE)));
        let child = SegmentName { timeline: timeline(2), ..name(5) };
        let plan = server.plan(&stored(&[name(3), name(4), child]), Reach::BackToTheKnown).unwrap();
        assert_eq!((plan.timeline, plan.start), (timeline(2), Lsn(5 * SIZE)));
    }

    /// Found by the simulation: the new primary was seen only when it had left the segment of the fork.
    #[test]
    fn the_rest_of_the_segment_of_a_fork_is_fetched_from_the_new_primary() {
        let switch = Lsn(5 * SIZE + 4096);
        let mut server = server(7 * SIZE + 100, 8 * SIZE);
        server.history = TimelineHistory {
            timeline: timeline(2),
            entries: vec![HistoryEntry { timeline: timeline(1), switch, reason: Vec::new() }],
        };
        let mut listing = stored(&[name(3), name(4)]);
        add_fragment(&mut listing, name(5), 1, 0..9000);
        let plan = server.plan(&listing, Reach::BackToTheKnown).unwrap();
        assert_eq!((plan.timeline, plan.start, plan.gap), (timeline(2), Lsn(5 * SIZE), None));
        let plan = server.plan(&listing, Reach::Slot).unwrap();
        assert_eq!((plan.start, plan.gap), (Lsn(7 * SIZE), Some(switch..Lsn(7 * SIZE))));
    }

    #[test]
    fn a_tail_beyond_the_fork_is_compared_up_to_the_fork() {
        let mut server = server(3 * SIZE, 9 * SIZE);
        let switch = Lsn(5 * SIZE + 4096);
        server.history = TimelineHistory {
            timeline: timeline(2),
            entries: vec![HistoryEntry { timeline: timeline(1), switch, reason: Vec::new() }],
        };
        let mut listing = stored(&[name(3), name(4)]);
        add_fragment(&mut listing, name(5), 1, 0..9000);
        let known = server.known(&listing, timeline(1), SegmentNo(4)).unwrap();
        assert_eq!(known.tail.unwrap().length, 4096);
    }

    #[test]
    fn two_contents_under_one_name_stop_the_plan() {
        let mut listing = stored(&[name(3)]);
        let wal = listing.timelines.get_mut(&timeline(1)).unwrap();
        wal.segments.get_mut(&name(3)).unwrap().push(Digest::of(b"another"));
        assert!(server(3 * SIZE, 9 * SIZE).plan(&listing, Reach::Slot).is_err());
    }
}
