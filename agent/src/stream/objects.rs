//! The fragments of the segment that is being received, and when to merge them.
//!
//! A quiet server writes some 200 bytes a second; one fragment a second would make 80,000 objects of a segment.
//! So eight neighbours of one level are replaced by one of the next, as a log-structured tree does: a byte is
//! rewritten once per level, and seven objects a level remain. Should that not suffice, the younger half is merged.

use std::ops::Range;

/// Neighbours of one level that are merged into one object.
const FAN_IN: usize = 8;

/// Objects that a tail may have in all.
pub(crate) const MAX_OBJECTS: usize = 64;

/// Room that is left below [`MAX_OBJECTS`]: flushes in flight, the merged object itself, one that is to be deleted.
const HEADROOM: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Object {
    range: Range<u32>,
    level: u8,
    stored: bool,
}

/// The fragments of one segment in one epoch, in order of their offsets.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    /// The flushes since the last closed window, neighbours of each other.
    open: Vec<Object>,
    /// The merge in flight.
    merging: Option<Range<u32>>,
    /// Windows that are complete, one object each.
    closed: usize,
    /// Complete windows whose object is not stored yet, each with what it will replace.
    closing: Vec<(Range<u32>, Vec<Range<u32>>)>,
    /// Replaced by a stored object; nobody needs them any more.
    superseded: Vec<Range<u32>>,
}

impl Objects {
    /// A flush of `range` has begun; it continues the one before.
    pub(crate) fn begin(&mut self, range: Range<u32>) {
        self.open.push(Object { range, level: 0, stored: false });
    }

    /// The flush, merge or window of `range` is durable.
    pub(crate) fn stored(&mut self, range: &Range<u32>) {
        if let Some(at) = self.closing.iter().position(|(window, _)| window == range) {
            self.superseded.extend(self.closing.swap_remove(at).1);
        } else if self.merging.as_ref() == Some(range) {
            self.merging = None;
            self.replace(range);
        } else if let Some(object) = self.open.iter_mut().find(|object| object.range == *range) {
            object.stored = true;
        } else if let Some((_, waiting)) = self.closing.iter_mut().find(|(window, _)| covers(window, range)) {
            waiting.push(range.clone());
        } else {
            self.superseded.push(range.clone());
        }
    }

    fn replace(&mut self, range: &Range<u32>) {
        let within = |object: &Object| covers(range, &object.range);
        let level = self.open.iter().filter(|object| within(object)).map(|object| object.level).max();
        let Some(first) = self.open.iter().position(within) else {
            self.superseded.push(range.clone());
            return;
        };
        let last = self.open.iter().rposition(within).unwrap_or(first);
        let merged =
            Object { range: range.clone(), level: level.unwrap_or(0).saturating_add(1), stored: true };
        self.superseded.extend(self.open.splice(first..=last, [merged]).map(|object| object.range));
    }

    /// The window of `range` is complete and becomes one object, which is to be stored next.
    pub(crate) fn close_window(&mut self, range: Range<u32>) {
        // What is still in flight joins the others when it is there, see `stored`.
        let replaced = self.open.drain(..).filter(|object| object.stored && object.range != range);
        self.closing.push((range.clone(), replaced.map(|object| object.range).collect()));
        self.merging = None;
        self.closed += 1;
    }

    /// Which neighbours to merge now, if any: all stored, and no other merge in flight.
    pub(crate) fn plan_merge(&mut self) -> Option<Range<u32>> {
        if self.merging.is_some() {
            return None;
        }
        let stored = self.open.iter().take_while(|object| object.stored).count();
        let stored = &self.open[..stored];
        let level_run = stored.chunk_by(|a, b| a.level == b.level).find(|run| run.len() >= FAN_IN);
        let limit = (MAX_OBJECTS - HEADROOM).saturating_sub(self.closed).max(4);
        let crowded = || (self.open.len() >= limit && stored.len() >= 2).then(|| &stored[stored.len() / 2..]);
        let run = level_run.or_else(crowded).filter(|run| run.len() >= 2)?;
        let range = run[0].range.start..run[run.len() - 1].range.end;
        self.merging = Some(range.clone());
        Some(range)
    }

    /// Takes what may be deleted.
    pub(crate) fn take_superseded(&mut self) -> Vec<Range<u32>> {
        std::mem::take(&mut self.superseded)
    }
}

fn covers(outer: &Range<u32>, inner: &Range<u32>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Flushes one byte at a time for ever and counts what lies in the store.
    fn most_objects(closed: usize, flushes: u32) -> (usize, u64) {
        let mut objects = Objects { closed, ..Objects::default() };
        let (mut there, mut most, mut rewritten) = (BTreeSet::new(), 0, 0);
        for at in 0..flushes {
            objects.begin(at..at + 1);
            objects.stored(&(at..at + 1));
            there.insert((at, at + 1));
            while let Some(merge) = objects.plan_merge() {
                rewritten += u64::from(merge.end - merge.start);
                there.insert((merge.start, merge.end));
                most = most.max(there.len() + closed);
                objects.stored(&merge);
                for gone in objects.take_superseded() {
                    assert!(there.remove(&(gone.start, gone.end)));
                }
            }
            most = most.max(there.len() + closed);
            let mut end = 0;
            for &(from, to) in &there {
                assert_eq!(from, end);
                end = to;
            }
            assert_eq!(end, at + 1, "what remains covers every byte once");
        }
        (most, rewritten)
    }

    #[test]
    fn a_quiet_server_leaves_few_objects_and_rewrites_little() {
        let (most, rewritten) = most_objects(0, 100_000);
        assert!(most <= MAX_OBJECTS, "{most} objects");
        assert!(rewritten < 6 * 100_000, "{rewritten} bytes rewritten");
    }

    #[test]
    fn nothing_is_given_up_before_the_window_that_covers_it_is_stored() {
        let mut objects = Objects::default();
        objects.begin(0..10);
        objects.stored(&(0..10));
        objects.begin(10..15);
        objects.close_window(0..20);
        objects.stored(&(10..15));
        assert_eq!(objects.take_superseded(), []);
        objects.stored(&(0..20));
        assert_eq!(objects.take_superseded(), [0..10, 10..15]);
    }

    #[test]
    fn a_nearly_full_giant_segment_stays_within_the_bound() {
        let (most, _) = most_objects(47, 100_000);
        assert!(most <= MAX_OBJECTS, "{most} objects");
    }
}
