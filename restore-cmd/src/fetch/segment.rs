//! A segment, as recovery along a lineage needs it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use proto::wal::padding::stamp;
use proto::wal::{SegmentName, SegmentSize, TimelineHistory, WalFile};
use proto::{Lsn, TimelineId};
use repository::Branch;
use repository::catalogue::Lineage;

use super::beside::{Beside, cannot_write};
use super::{Following, Found};
use crate::program::failure;

/// Zeros are written in pieces of this size: a hole in the file could make a later write fail for want of room.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

pub(super) struct Segment<'a> {
    branch: &'a Branch,
    name: SegmentName,
    following: Following,
}

/// What recovery along a lineage makes of a segment.
enum Role {
    /// All of it counts.
    Whole,
    /// It counts up to here: the first `bytes`, the child's share follows.
    UpTo(u64),
    /// It is not on the way.
    None,
}

/// The way that recovery takes through `name`; `None` where nothing is known of a fork.
pub(super) async fn way(branch: &Branch, name: SegmentName, following: Following) -> Result<Option<Lineage>> {
    match following {
        Following::Pinned(pinned) if pinned > name.timeline => {
            let history = branch.read_history(pinned).await?.with_context(|| {
                format!("the history file of timeline {pinned}, which recovery follows, is missing")
            })?;
            Ok(Some(Lineage::from_history(&history)))
        }
        Following::Newest => newest(branch, name.timeline).await,
        Following::Pinned(_) | Following::Asked => Ok(None),
    }
}

/// The lineage of the newest timeline that descends from `timeline`, if only by its history file: the server is given that
/// file, too, and could not go over to the child once it has replayed the parent beyond the fork.
async fn newest(branch: &Branch, timeline: TimelineId) -> Result<Option<Lineage>> {
    let timelines = branch.history_timelines().await?;
    for child in timelines.into_iter().rev().filter(|child| *child > timeline) {
        let Some(history) = branch.read_history(child).await? else { continue };
        let lineage = Lineage::from_history(&history);
        if lineage.share_of(timeline).is_some() {
            return Ok(Some(lineage));
        }
    }
    Ok(None)
}

/// Whether at least the beginning of a segment is there.
async fn is_there(branch: &Branch, name: SegmentName) -> Result<bool> {
    let wal = branch.folder_listing(name.timeline, name.log).await?;
    Ok(wal.segments.contains_key(&name) || wal.tail_length(name) > 0)
}

/// Whether all of a segment counts on the way that recovery takes, as far as is known now.
///
/// # Errors
/// The repository cannot say.
pub async fn counts_whole(branch: &Branch, name: SegmentName, following: Following) -> Result<bool> {
    let lineage = way(branch, name, following).await?;
    let role = Segment::new(branch, name, following).role(lineage.as_ref()).await?;
    Ok(matches!(role, Role::Whole))
}

impl<'a> Segment<'a> {
    pub(super) fn new(branch: &'a Branch, name: SegmentName, following: Following) -> Self {
        Self { branch, name, following }
    }

    fn size(&self) -> SegmentSize {
        self.branch.segment_size()
    }

    fn bounds(&self) -> Result<(Lsn, Lsn)> {
        let number = self.name.number(self.size())?;
        Ok((number.start(self.size()), number.end(self.size())))
    }

    async fn role(&self, lineage: Option<&Lineage>) -> Result<Role> {
        let Some(lineage) = lineage else { return Ok(Role::Whole) };
        let (start, end) = self.bounds()?;
        let Some(share) = lineage.share_of(self.name.timeline) else { return Ok(Role::None) };
        let fork = share.to;
        if start >= fork {
            return Ok(Role::None);
        }
        if end <= fork {
            return Ok(Role::Whole);
        }
        // The child's copy has the parent's bytes as well, and the right ones after the fork.
        for part in lineage.parts().iter().filter(|part| part.from >= fork && part.from < end) {
            if is_there(self.branch, SegmentName { timeline: part.timeline, ..self.name }).await? {
                return Ok(Role::None);
            }
        }
        Ok(Role::UpTo(fork.bytes_since(start)))
    }

    pub(super) async fn fetch(&self, to: &Path) -> Result<Found> {
        if matches!(self.following, Following::Pinned(pinned) if pinned < self.name.timeline) {
            return Ok(Found::Absent);
        }
        let lineage = way(self.branch, self.name, self.following).await?;
        let size = self.size().bytes();
        let limit = match self.role(lineage.as_ref()).await? {
            Role::None => return Ok(Found::Absent),
            Role::Whole => size,
            Role::UpTo(bytes) => bytes,
        };
        let wal = self.branch.folder_listing(self.name.timeline, self.name.log).await?;
        let beside = Beside::create(to)?;
        let file = || beside.file.try_clone().with_context(|| cannot_write(&beside.path));
        let valid = if wal.segments.contains_key(&self.name) {
            // Verified against the digest in its name; only after that is it renamed.
            let written = self.branch.read_segment_to(self.name, file()?).await?;
            if written != size {
                bail!("segment {} has {written} bytes instead of {size}", self.name);
            }
            size.min(limit)
        } else {
            // Its fragments go straight into the file: a tail may be as long as the largest segment.
            let tail = match wal.tail_length(self.name) {
                0 => None,
                _ => self.branch.read_tail_to(self.name, file()?).await?,
            };
            let Some(tail) = tail else {
                self.nothing_later(lineage.as_ref(), "").await?;
                return Ok(Found::Absent);
            };
            let valid = u64::from(tail.valid);
            if valid < limit {
                self.nothing_later(lineage.as_ref(), "the end of ").await?;
            }
            valid.min(limit)
        };
        if valid == size {
            beside.finish()?;
            return Ok(Found::Written);
        }
        pad(&beside.file, valid, size).with_context(|| cannot_write(&beside.path))?;
        tracing::info!("{}: {valid} bytes of WAL, the rest is padding", self.name);
        beside.finish()?;
        Ok(Found::Padded)
    }

    /// Proves that the end of this segment is the end of WAL.
    async fn nothing_later(&self, lineage: Option<&Lineage>, part: &str) -> Result<()> {
        let (_, end) = self.bounds()?;
        let share = lineage.and_then(|lineage| lineage.share_of(self.name.timeline));
        // On the own timeline, unless it is left before.
        if share.is_none_or(|share| end < share.to)
            && let Some(newest) = self.branch.proven_after(self.name).await?
        {
            return Err(self.hole(part, &format!("timeline {} up to {newest}", self.name.timeline)));
        }
        let Some(lineage) = lineage else { return self.nobody_forked_later(end, part).await };
        for later in lineage.parts().iter().filter(|part| part.timeline > self.name.timeline) {
            if let Some(newest) = self.branch.newest_wal(later.timeline).await?.filter(|&lsn| lsn > end) {
                return Err(self.hole(part, &format!("timeline {} up to {newest}", later.timeline)));
            }
        }
        Ok(())
    }

    /// A timeline that was forked at this segment's end or later is proof that the segment was there. Who follows a plan has
    /// been told what there is, and chose to end here.
    async fn nobody_forked_later(&self, end: Lsn, part: &str) -> Result<()> {
        if self.following != Following::Asked {
            return Ok(());
        }
        for child in
            self.branch.history_timelines().await?.into_iter().filter(|child| *child > self.name.timeline)
        {
            for file in self.branch.read_wal_file(WalFile::History(child)).await? {
                // One that is no history proves nothing.
                let Ok(history) = TimelineHistory::parse(child, &file.content) else { continue };
                if history.switch_from(self.name.timeline).is_some_and(|switch| switch >= end) {
                    return Err(self.hole(part, &format!("timeline {child} was forked behind it")));
                }
            }
        }
        Ok(())
    }

    fn hole(&self, part: &str, later: &str) -> anyhow::Error {
        failure(
            format!(
                "{part}segment {} is missing from the repository, which has later WAL: {later}",
                self.name
            ),
            "recovery would end here silently; to end it here on purpose, restore with a target before this segment",
        )
    }
}

/// Makes everything from `valid` on zeros, and stamps the end: that tells `archive-cmd` what this is.
fn pad(file: &File, valid: u64, size: u64) -> std::io::Result<()> {
    file.set_len(valid)?;
    let mut at = valid;
    while at < size {
        let length = ((size - at) as usize).min(ZEROS.len());
        file.write_all_at(&ZEROS[..length], at)?;
        at += length as u64;
    }
    match u32::try_from(valid).ok().and_then(|valid| stamp(size - u64::from(valid), valid)) {
        Some(stamp) => file.write_all_at(&stamp, size - stamp.len() as u64),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proto::wal::padding::stamp_padding;

    use super::*;

    #[test]
    fn a_file_is_padded_as_memory_is() {
        for (valid, size) in [(0, 100_000), (5, 1 << 20), (99_990, 100_000), (100_000, 100_000)] {
            let mut expected = vec![7; size];
            stamp_padding(&mut expected, valid);
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), vec![7; size]).unwrap();
            pad(&File::options().write(true).open(file.path()).unwrap(), valid as u64, size as u64).unwrap();
            assert!(std::fs::read(file.path()).unwrap() == expected, "{valid} of {size}");
        }
    }
}
