//! Which WAL the backups that stay need.

use std::collections::BTreeMap;
use std::ops::Range;

use proto::{Lsn, TimelineId};

use crate::catalogue::{Coverage, Inventory, Lineage};
use crate::manifest::ManifestHead;

/// For each timeline, the bytes that must stay. Of a backup that opens a window that is all that can be replayed on top of it,
/// along every timeline that can be reached from it; of one that is only kept, what makes it consistent.
pub(super) fn needed<'a>(
    inventory: &Inventory,
    kept: impl IntoIterator<Item = (&'a ManifestHead, bool)>,
) -> BTreeMap<TimelineId, Coverage> {
    let size = inventory.segment_size();
    let timelines = inventory.timelines();
    let mut ranges: BTreeMap<TimelineId, Vec<Range<Lsn>>> = BTreeMap::new();
    for (head, opens_a_window) in kept {
        let mut need = |lineage: &Lineage, to: Lsn| {
            for part in lineage.parts() {
                // A timeline's first segment repeats its parent's bytes, so it counts from the segment's beginning.
                let from = size.floor(part.from.max(head.start_lsn));
                let share = from..part.to.min(to);
                if part.to > head.start_lsn && share.start < share.end {
                    ranges.entry(part.timeline).or_default().push(share);
                }
            }
        };
        need(&inventory.lineage(head.stop_timeline), head.stop_lsn);
        if opens_a_window {
            for lineage in timelines.iter().map(|timeline| inventory.lineage(*timeline)) {
                if lineage.contains(head.stop_timeline, head.stop_lsn) {
                    need(&lineage, Lineage::OPEN_END);
                }
            }
        }
    }
    ranges.into_iter().map(|(timeline, ranges)| (timeline, ranges.into_iter().collect())).collect()
}
