//! What a plan needs to know, asked of the repository.

use futures::{StreamExt, stream};
use jiff::Timestamp;
use proto::Lsn;
use proto::wal::SegmentName;
use repository::backup::BackupLabel;
use repository::{Branch, Error, Kind, Result, WalListing};

use super::Options;
use super::choose::{Choice, Holdings, choose};
use super::wal::WalMap;

/// Heads that are read side by side.
const IN_FLIGHT: usize = 16;

/// What the repository holds, and the names to look closer.
pub struct Gathered {
    /// What the plan is made from.
    pub holdings: Holdings,
    listing: WalListing,
    /// Backups whose manifest cannot be read, and why.
    unreadable: Vec<(BackupLabel, Error)>,
}

/// Lists backups and WAL.
///
/// # Errors
/// The store failed; or every backup's manifest is damaged. Single damaged ones are left out, with a warning.
pub async fn gather(branch: &Branch) -> Result<Gathered> {
    let (found, listing) = futures::try_join!(branch.backups(), branch.wal_listing())?;
    let heads = found.into_iter().map(|backup| async move {
        let head = branch.read_manifest_head(&backup).await;
        (backup, head)
    });
    let heads: Vec<_> = stream::iter(heads).buffered(IN_FLIGHT).collect().await;
    let (mut backups, mut unreadable) = (Vec::new(), Vec::new());
    for (backup, head) in heads {
        match head {
            Ok(head) => backups.push(head),
            Err(error @ (Error::Unreachable { .. } | Error::Refused { .. })) => return Err(error),
            // Removed since it was listed.
            Err(Error::Absent { .. }) => {}
            Err(error) => {
                tracing::warn!("backup {} cannot be used: {error}", backup.label);
                unreadable.push((backup.label, error));
            }
        }
    }
    if backups.is_empty()
        && let Some((_, error)) = unreadable.pop()
    {
        return Err(error);
    }
    let segment_size = branch.segment_size();
    let wal = WalMap::new(&listing, segment_size);
    Ok(Gathered { holdings: Holdings { backups, wal, segment_size }, listing, unreadable })
}

impl Gathered {
    /// Chooses, by [`choose`].
    ///
    /// # Errors
    /// As there; and the backup that was named is there but cannot be read.
    pub fn choose(&self, options: &Options) -> anyhow::Result<Choice> {
        let named = options.backup.as_ref();
        if let Some((_, error)) = self.unreadable.iter().find(|(label, _)| Some(label) == named) {
            return Err(error.clone().into());
        }
        Ok(choose(&self.holdings, options)?)
    }

    /// The server's clock when the last WAL of this way was sent; `None` where nobody wrote it down, as with segments
    /// that came from `archive_command` alone.
    pub async fn wal_end_time(&self, branch: &Branch, choice: &Choice) -> Result<Option<Timestamp>> {
        let size = branch.segment_size();
        let last = size.segment_before(choice.wal_end);
        let timeline = choice.lineage.asked(last.start(size), size);
        let segment = SegmentName::new(timeline, last, size);
        let Some(wal) = self.listing.timelines.get(&timeline) else { return Ok(None) };
        let header = if wal.segments.contains_key(&segment) {
            branch.peek_segment(segment).await?
        } else {
            let end = |to: u32| last.start(size) + u64::from(to);
            let reaches = |to: u32| end(to) >= choice.wal_end && choice.wal_end > Lsn(0);
            let found =
                wal.fragments.iter().find(|fragment| fragment.segment == segment && reaches(fragment.to));
            let Some(fragment) = found else { return Ok(None) };
            branch.peek(Kind::Fragment, &fragment.key()).await?
        };
        Ok(header.server_time.and_then(|time| Timestamp::from_microsecond(time.unix_micros()).ok()))
    }
}
