//! The digests that the first WAL of a stream must have, read from the repository.

use std::iter::Peekable;

use proto::wal::SegmentSize;
use proto::{Digest, Lsn, TimelineId};
use repository::{Branch, WalListing};

use super::error::StreamError;
use super::proof::Checkpoint;
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
    let mut digests = TailDigests::at(checkpoint_positions(size, tail.length));
    for fragment in &tail.fragments {
        // Those beyond a fork are of no interest.
        if digests.is_complete() {
            break;
        }
        digests.take(fragment.from, &branch.read_fragment(fragment).await?);
    }
    Ok(digests.found)
}

/// The digests of a tail's first bytes, up to each of some positions.
struct TailDigests<P: Iterator<Item = u32>> {
    positions: Peekable<P>,
    hasher: blake3::Hasher,
    /// How much was digested.
    at: u32,
    found: Vec<(u32, Digest)>,
}

impl<P: Iterator<Item = u32>> TailDigests<P> {
    /// `positions` in ascending order.
    fn at(positions: P) -> Self {
        Self { positions: positions.peekable(), hasher: blake3::Hasher::new(), at: 0, found: Vec::new() }
    }

    /// Every position was reached.
    fn is_complete(&mut self) -> bool {
        self.positions.peek().is_none()
    }

    /// The next fragment begins at `from`, at or before the end of the one before: they overlap where they were merged,
    /// and what was digested already is skipped. Nothing is digested beyond the last position, which may lie before
    /// the end of the fragments: a fork cuts a tail short.
    fn take(&mut self, from: u32, content: &[u8]) {
        let mut rest = content.get(self.at.saturating_sub(from) as usize..).unwrap_or_default();
        while let Some(&position) = self.positions.peek() {
            let wanted = (position - self.at) as usize;
            let Some(piece) = rest.get(..wanted) else {
                self.hasher.update(rest);
                self.at += rest.len() as u32;
                return;
            };
            self.hasher.update(piece);
            self.at = position;
            rest = &rest[wanted..];
            self.found.push((position, self.hasher.finalize().into()));
            self.positions.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(positions: &[u32], fragments: &[(u32, u32)]) -> Vec<(u32, Digest)> {
        let content: Vec<u8> = (0..100).collect();
        let mut digests = TailDigests::at(positions.iter().copied());
        for (from, to) in fragments {
            digests.take(*from, &content[*from as usize..*to as usize]);
        }
        digests.found
    }

    fn of(length: u8) -> (u32, Digest) {
        (length.into(), Digest::of(&(0..length).collect::<Vec<u8>>()))
    }

    #[test]
    fn each_position_gets_the_digest_of_all_before_it() {
        assert_eq!(digests(&[30, 60, 100], &[(0, 40), (40, 100)]), [of(30), of(60), of(100)]);
    }

    #[test]
    fn what_overlaps_is_digested_once() {
        assert_eq!(digests(&[90], &[(0, 40), (10, 40), (20, 90)]), [of(90)]);
    }

    /// A failover behind what was stored: the fork lies within the fragments, and two of them beyond it.
    #[test]
    fn fragments_beyond_a_fork_are_left_alone() {
        assert_eq!(digests(&[35], &[(0, 30), (30, 60), (60, 80), (80, 100)]), [of(35)]);
        assert_eq!(digests(&[30], &[(0, 30), (30, 60)]), [of(30)]);
    }
}
