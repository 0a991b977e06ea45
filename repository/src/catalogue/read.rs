//! The WAL of a lineage, segment by segment.

use bytes::Bytes;
use proto::wal::{SegmentName, SegmentNo};

use super::{Inventory, Lineage};
use crate::{Branch, Result};

impl Inventory {
    /// What there is of a segment of `lineage`, from its beginning on, verified; `None` if there is nothing. It is held in
    /// memory.
    ///
    /// # Errors
    /// It is damaged, stored with two contents, or cannot be reached.
    pub async fn read_wal(
        &self,
        branch: &Branch,
        lineage: &Lineage,
        number: SegmentNo,
    ) -> Result<Option<Bytes>> {
        let size = self.segment_size();
        for part in lineage.timelines_of(number, size) {
            let name = SegmentName::new(part.timeline, number, size);
            let Some(wal) = self.wal.timelines.get(&part.timeline) else { continue };
            let bytes = if wal.segments.contains_key(&name) {
                branch.read_segment(name).await?
            } else if wal.tail_length(name) > 0 {
                let Some(tail) = branch.read_tail(name).await? else { return Ok(None) };
                tail.bytes
            } else {
                continue;
            };
            // What a parent has beyond the fork is of another lineage.
            let own = part.to.bytes_since(number.start(size)).min(size.bytes());
            let own = usize::try_from(own).unwrap_or(usize::MAX).min(bytes.len());
            return Ok(Some(bytes.slice(..own)));
        }
        Ok(None)
    }
}
