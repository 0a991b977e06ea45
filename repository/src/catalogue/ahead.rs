//! WAL that was stored ahead of segments that never came.

use std::collections::BTreeMap;
use std::ops::Range;

use proto::wal::{SegmentName, SegmentNo};
use proto::{Lsn, TimelineId};

use super::Inventory;
use crate::wal::MOST_AHEAD;
use crate::{Branch, Result};

impl Inventory {
    /// Takes out of the coverage what lies at the end of a timeline's WAL behind a hole, and was stored ahead of what is
    /// missing there: nobody was told that it is stored, no backup needs it, and recovery does not get to it. What is left
    /// ends where everything that was acknowledged ends.
    pub(super) async fn forget_ahead(&mut self, branch: &Branch) -> Result<()> {
        let mut ahead = BTreeMap::new();
        let timelines: Vec<TimelineId> = self.coverage.keys().copied().collect();
        for name in timelines.iter().flat_map(|timeline| self.behind_holes(*timeline)) {
            ahead.insert(name, branch.stored_ahead(name).await?);
        }
        if ahead.is_empty() {
            return Ok(());
        }
        for timeline in timelines {
            if let Some(from) = self.ahead_from(timeline, &ahead)
                && let Some(coverage) = self.coverage.get_mut(&timeline)
            {
                coverage.cut_at(from);
            }
        }
        Ok(())
    }

    /// The holes in a timeline's WAL, the last one first: the first segment that is missing, and what there is behind it
    /// up to the next hole. Only those behind which lies no more than may have been stored ahead, and nothing of a backup.
    fn last_holes(&self, timeline: TimelineId) -> impl Iterator<Item = (SegmentNo, &Range<Lsn>)> {
        let size = self.segment_size();
        let backups = self.backups.iter().filter(move |backup| backup.stop_timeline == timeline);
        let needed = backups.map(|backup| backup.stop_lsn).max().unwrap_or(Lsn(0));
        let ranges = self.coverage(timeline);
        let end = ranges.last().map_or(Lsn(0), |range| range.end);
        ranges.windows(2).rev().map(move |pair| (size.segment_at(pair[0].end), &pair[1])).take_while(
            move |(missing, behind)| {
                behind.start >= needed && size.segment_before(end).0 - missing.0 <= u64::from(MOST_AHEAD)
            },
        )
    }

    /// The segments whose headers tell whether they were stored ahead of a hole.
    fn behind_holes(&self, timeline: TimelineId) -> Vec<SegmentName> {
        let wal = self.wal.timelines.get(&timeline);
        let names = self.last_holes(timeline).flat_map(|(_, behind)| self.names(timeline, behind));
        names.filter(|name| wal.is_some_and(|wal| wal.segments.contains_key(name))).collect()
    }

    fn names(&self, timeline: TimelineId, range: &Range<Lsn>) -> impl Iterator<Item = SegmentName> + use<> {
        let size = self.segment_size();
        let numbers = size.segment_at(range.start).0..=size.segment_before(range.end).0;
        numbers.map(move |number| SegmentName::new(timeline, SegmentNo(number), size))
    }

    /// Where that begins which was only stored ahead. A segment behind several holes must have been ahead of each.
    fn ahead_from(&self, timeline: TimelineId, ahead: &BTreeMap<SegmentName, u32>) -> Option<Lsn> {
        let size = self.segment_size();
        // Everything before this one was stored when the last of those behind the hole was.
        let mut proven = SegmentNo(0);
        let mut from = None;
        for (missing, behind) in self.last_holes(timeline) {
            for name in self.names(timeline, behind) {
                // Fragments are acknowledged as they come: nothing of them is ever ahead.
                let ahead = ahead.get(&name).copied().unwrap_or(0);
                let number = name.number(size).ok()?;
                proven = proven.max(SegmentNo(number.0.saturating_sub(u64::from(ahead))));
            }
            if proven > missing {
                break;
            }
            from = Some(behind.start);
        }
        from
    }
}

#[cfg(test)]
mod tests {
    use super::super::inventory::tests::{World, mib, size, tli};
    use super::*;

    /// Where the WAL of timeline 1 ends when the segments `ahead` were stored so many segments ahead.
    fn end(world: World, ahead: &[(u64, u32)]) -> Lsn {
        let inventory = world.inventory();
        let name = |number| SegmentName::new(tli(1), SegmentNo(number), size());
        let ahead = ahead.iter().map(|(number, ahead)| (name(*number), *ahead)).collect();
        let all = inventory.coverage[&tli(1)].end().unwrap();
        inventory.ahead_from(tli(1), &ahead).unwrap_or(all)
    }

    fn world() -> World {
        // 5 is missing, and 7.
        World::default().segments(1, 2..5).segments(1, 6..7).segments(1, 8..9)
    }

    #[test]
    fn what_was_stored_ahead_of_a_hole_is_forgotten() {
        assert_eq!(end(world(), &[(6, 1), (8, 3)]), mib(6));
        assert_eq!(end(world(), &[(6, 2), (8, 3)]), mib(6));
    }

    #[test]
    fn what_proves_that_the_missing_one_was_stored_is_not() {
        // When 8 was stored 5 was there.
        assert_eq!(end(world(), &[(6, 1), (8, 2)]), mib(8));
        assert_eq!(end(world(), &[(6, 1), (8, 0)]), mib(9));
        assert_eq!(end(world(), &[(6, 0), (8, 3)]), mib(8));
        assert_eq!(end(world(), &[]), mib(9));
        // A tail that somebody streamed behind it.
        assert_eq!(end(world().tail(1, 9, 100), &[(6, 1), (8, 3)]), mib(9) + 100);
    }

    #[test]
    fn what_a_backup_needs_is_not() {
        let ahead = [(6, 1), (8, 3)];
        assert_eq!(end(world().backup(1, mib(6) + 40, mib(6) + 90), &ahead), mib(8));
        assert_eq!(end(world().backup(1, mib(3), mib(4)), &ahead), mib(6));
    }

    #[test]
    fn no_more_than_can_have_been_stored_ahead_is() {
        let many = |count: u64| World::default().segments(1, 2..5).segments(1, 6..6 + count);
        let ahead = |count: u64| (6..6 + count).map(|n| (n, (n - 5) as u32)).collect::<Vec<_>>();
        assert_eq!(end(many(16), &ahead(16)), mib(6));
        assert_eq!(end(many(17), &ahead(17)), mib(23));
    }
}
