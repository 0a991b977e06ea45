//! Segments that were stored ahead of others.
//!
//! After an outage a server has many segments waiting. They are stored side by side, or the time to catch up would be a
//! few requests' for each. So one may be there before another that comes before it; and if server and agent die at that
//! moment, and the server's disk with them, the other one never comes. Nobody was told that it is stored: WAL is
//! acknowledged in order. It must look different from a hole that swallows what *was* acknowledged. So a segment's header
//! tells how many right before it were perhaps not stored yet when it was. What lies behind a missing segment proves that
//! it was there only if it was not stored ahead of it.

use bytes::Bytes;
use proto::wal::{SegmentName, SegmentNo};
use proto::{Digest, Lsn};

use super::Stored;
use crate::error::OrAbsent;
use crate::{Branch, Error, Result, TimelineWal};

/// How many segments may be missing before one that is stored.
pub const MOST_AHEAD: u32 = 16;

impl Branch {
    /// Stores a whole segment while the `ahead` segments right before it are perhaps not stored yet, [`MOST_AHEAD`] at
    /// most. It must not be acknowledged before they are.
    ///
    /// # Errors
    /// As [`Branch::put_segment`].
    pub async fn put_segment_ahead(
        &self,
        name: SegmentName,
        digest: Digest,
        ahead: u32,
        content: Bytes,
    ) -> Result<Stored> {
        if ahead > MOST_AHEAD {
            return Err(Error::invalid(
                format_args!("segment {name}"),
                format_args!("it cannot be stored {ahead} segments ahead: {MOST_AHEAD} are the most"),
            ));
        }
        let mut header = self.segment_header(name, digest, None)?;
        header.ahead = ahead;
        self.put_segment_under(header, name, digest, content).await
    }

    /// Where the WAL of a timeline ends, if there is any after `missing` that proves that `missing` was stored once.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn proven_after(&self, missing: SegmentName) -> Result<Option<Lsn>> {
        let size = self.segment_size();
        let invalid = |why| Error::invalid(missing, why);
        let number = missing.number(size).map_err(invalid)?;
        let Some(newest) = self.newest_wal(missing.timeline).await?.filter(|lsn| *lsn > number.end(size))
        else {
            return Ok(None);
        };
        let last = size.segment_before(newest);
        if last.0 - number.0 > u64::from(MOST_AHEAD) {
            return Ok(Some(newest));
        }
        let mut listed: Option<(u32, TimelineWal)> = None;
        for later in (number.0 + 1..=last.0).map(SegmentNo) {
            let name = SegmentName::new(missing.timeline, later, size);
            let wal = match listed.take() {
                Some((log, wal)) if log == name.log => wal,
                _ => self.folder_listing(name.timeline, name.log).await?,
            };
            let is_proof = match wal.segments.contains_key(&name) {
                true => later.0 > number.0 + u64::from(self.stored_ahead(name).await?),
                false => wal.tail_length(name) > 0,
            };
            if is_proof {
                return Ok(Some(newest));
            }
            listed = Some((name.log, wal));
        }
        Ok(None)
    }

    /// How many segments right before this stored one were perhaps not stored when it was. Its clear header is good enough:
    /// who could change that could take the segment away as well.
    pub(crate) async fn stored_ahead(&self, name: SegmentName) -> Result<u32> {
        match self.peek_segment(name).await.or_absent() {
            Ok(Some(header)) => Ok(header.ahead.min(MOST_AHEAD)),
            // Gone since it was listed: it proves nothing any more.
            Ok(None) => Ok(MOST_AHEAD),
            Err(Error::Corrupt { .. } | Error::Conflict { .. } | Error::Invalid { .. }) => Ok(0),
            Err(error) => Err(error),
        }
    }
}
