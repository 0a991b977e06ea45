//! Fetches an inventory.

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use proto::wal::SegmentName;
use proto::{Lsn, ServerTime, TimelineId};

use super::{Inventory, UnreadableBackup};
use crate::backup::BackupRef;
use crate::error::OrAbsent;
use crate::{Branch, Error, Result};

/// Heads of manifests are small: so many times more of them than of others are fetched side by side.
const SMALL: usize = 4;

impl Inventory {
    /// Reads the heads of all manifests, the names of all WAL, and the time of the last WAL of each window.
    ///
    /// A manifest that cannot be used does not hide the others: it is listed in [`Inventory::unreadable`].
    pub async fn load(branch: &Branch) -> Result<Self> {
        Self::of(branch, branch.backups().await?).await
    }

    /// The same with these backups alone, listed before.
    pub(crate) async fn of(branch: &Branch, backups: Vec<BackupRef>) -> Result<Self> {
        let heads = backups.into_iter().map(|backup| async move {
            let head = branch.read_manifest_head(&backup).await;
            match head {
                Ok(head) => Ok(Some(Ok(head))),
                // Removed since it was listed.
                Err(Error::Absent { .. }) => Ok(None),
                Err(error @ (Error::Corrupt { .. } | Error::Locked { .. } | Error::Invalid { .. })) => {
                    Ok(Some(Err(UnreadableBackup { label: backup.label, error })))
                }
                Err(error) => Err(error),
            }
        });
        let heads: Vec<_> =
            stream::iter(heads).buffered(SMALL * branch.store().concurrency()).try_collect().await?;
        let (mut readable, mut unreadable) = (Vec::new(), Vec::new());
        for head in heads.into_iter().flatten() {
            match head {
                Ok(head) => readable.push(head),
                Err(backup) => unreadable.push(backup),
            }
        }
        // After the manifests: WAL that a backup needs was there before its manifest was.
        let wal = branch.wal_listing().await?;
        let mut inventory = Self::new(readable, wal, branch.segment_size());
        inventory.unreadable = unreadable;
        inventory.forget_ahead(branch).await?;
        for window in inventory.windows() {
            if let Some(time) = inventory.time_before(branch, window.timeline, window.to_lsn).await? {
                inventory.end_times.insert((window.timeline, window.to_lsn), time);
            }
        }
        Ok(inventory)
    }

    /// When the server sent the byte before `end`, as the object that holds it tells; `None` where nobody wrote it
    /// down, as with segments that came from `archive_command` alone. Clear headers are good enough for what is only
    /// shown.
    pub async fn time_before(
        &self,
        branch: &Branch,
        timeline: TimelineId,
        end: Lsn,
    ) -> Result<Option<Timestamp>> {
        let size = self.segment_size();
        let number = size.segment_before(end);
        // An offset within a segment, whose size has 31 bits at most.
        let offset = end.bytes_since(number.start(size)) as u32;
        let lineage = self.lineage(timeline);
        for part in lineage.timelines_of(number, size) {
            let Some(wal) = self.wal.timelines.get(&part.timeline) else { continue };
            let name = SegmentName::new(part.timeline, number, size);
            let time = if wal.segments.contains_key(&name) {
                branch.peek_segment(name).await.map(|header| header.server_time)
            } else {
                let last = wal.fragments.iter().find(|f| f.segment == name && f.to == offset);
                let Some(last) = last else { continue };
                branch.fragment_time(last).await
            };
            return match time.or_absent() {
                Ok(time) => Ok(time.flatten().and_then(instant)),
                Err(Error::Corrupt { .. } | Error::Conflict { .. }) => Ok(None),
                Err(error) => Err(error),
            };
        }
        Ok(None)
    }
}

fn instant(time: ServerTime) -> Option<Timestamp> {
    Timestamp::from_microsecond(time.unix_micros()).ok()
}
