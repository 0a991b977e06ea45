//! The digests that the first WAL of a stream must have, read from the repository.

use proto::wal::SegmentSize;
use proto::{Digest, Lsn, TimelineId};
use repository::{Branch, WalListing};

use super::error::StreamError;
use super::proof::Checkpoint;
use super::sink;
use super::start::{Known, KnownTail};
use super::window::checkpoint_positions;

impl Known {
    /// Where it ends.
    pub(super) fn end(&self, size: SegmentSize) -> Option<Lsn> {
        let start = |segment: proto::wal::SegmentName| Some(segment.number(size).ok()?.start(size));
        match &self.tail {
            Some(tail) => Some(start(tail.segment)? + u64::from(tail.length)),
            None => Some(start(self.whole.last()?.0)? + size.bytes()),
        }
    }
}

/// Where the newest stored WAL of a timeline ends, if that is beyond `at`.
pub(super) fn stored_beyond(
    stored: &WalListing,
    timeline: TimelineId,
    at: Lsn,
    size: SegmentSize,
) -> Option<Lsn> {
    let wal = stored.timelines.get(&timeline)?;
    let whole = wal.segments.keys().filter_map(|name| Some(name.number(size).ok()?.end(size)));
    let parts = wal.fragments.iter().filter_map(|fragment| {
        Some(fragment.segment.number(size).ok()?.start(size) + u64::from(fragment.to))
    });
    whole.chain(parts).max().filter(|end| *end > at)
}

/// What is to be compared before anything is stored. A tail is read, a fragment at a time; of whole segments the
/// names suffice.
pub(super) async fn checkpoints(branch: &Branch, known: &Known) -> Result<Vec<Checkpoint>, StreamError> {
    let size = branch.segment_size();
    let mut checkpoints = Vec::new();
    for (segment, digest) in &known.whole {
        let number = segment.number(size).map_err(|error| StreamError::Ambiguous(error.to_string()))?;
        checkpoints.push(Checkpoint { at: number.end(size), digest: *digest, whole: true });
    }
    if let Some(tail) = &known.tail {
        let number = tail.segment.number(size).map_err(|error| StreamError::Ambiguous(error.to_string()))?;
        for (offset, digest) in tail_digests(branch, tail, size).await? {
            let at = number.start(size) + u64::from(offset);
            checkpoints.push(Checkpoint { at, digest, whole: false });
        }
    }
    Ok(checkpoints)
}

async fn tail_digests(
    branch: &Branch,
    tail: &KnownTail,
    size: SegmentSize,
) -> Result<Vec<(u32, Digest)>, StreamError> {
    let mut positions = checkpoint_positions(size, tail.length).peekable();
    let (mut hasher, mut at, mut digests) = (blake3::Hasher::new(), 0u32, Vec::new());
    for fragment in &tail.fragments {
        // A fork may lie before the end of what was stored.
        if positions.peek().is_none() {
            break;
        }
        let content = sink::read(branch, fragment).await?;
        // The fragments overlap where they were merged; what was digested already is skipped.
        let mut rest = content.get((at - fragment.from) as usize..).unwrap_or_default();
        while let Some(&position) = positions.peek() {
            let piece = rest.get(..(position - at) as usize);
            hasher.update(piece.unwrap_or(rest));
            let Some(piece) = piece else {
                at += rest.len() as u32;
                break;
            };
            at = position;
            rest = &rest[piece.len()..];
            digests.push((position, hasher.finalize().into()));
            positions.next();
        }
    }
    Ok(digests)
}
