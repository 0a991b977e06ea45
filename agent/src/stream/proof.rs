//! Proof that the server's WAL is the WAL that the repository has.
//!
//! A restored or promoted server may write other bytes under the names that are taken. That must be found before
//! the first acknowledgement, not at a restore. So the stream begins where the repository still has something,
//! and what arrives there must have the digests that are known.

use std::collections::VecDeque;

use proto::{Digest, Lsn};

/// The digest of a segment's bytes from its start to `at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Where the digested bytes end: at most the segment's end.
    pub(crate) at: Lsn,
    pub(crate) digest: Digest,
    /// The repository has this whole segment: it need not be stored again.
    pub(crate) whole: bool,
}

/// What remains to be compared.
#[derive(Debug, Default)]
pub(crate) struct Proof {
    ahead: VecDeque<Checkpoint>,
    stored_to: Lsn,
}

/// The server's bytes differ from those in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the WAL that the server sends up to {at} is not the WAL that the repository has")]
pub(crate) struct Diverged {
    /// The end of the compared bytes.
    pub(crate) at: Lsn,
}

impl Proof {
    /// `checkpoints` in ascending order; whole segments come first.
    pub(crate) fn of(checkpoints: Vec<Checkpoint>) -> Self {
        let stored_to = checkpoints.iter().rev().find(|c| c.whole).map_or(Lsn::INVALID, |c| c.at);
        Self { ahead: checkpoints.into(), stored_to }
    }

    /// Whether everything has been compared, and was equal.
    pub(crate) fn is_complete(&self) -> bool {
        self.ahead.is_empty()
    }

    /// The last position that is still to be compared.
    pub(crate) fn end(&self) -> Option<Lsn> {
        self.ahead.back().map(|checkpoint| checkpoint.at)
    }

    /// The next position at which to compare.
    pub(crate) fn next(&self) -> Option<Lsn> {
        self.ahead.front().map(|checkpoint| checkpoint.at)
    }

    /// Whether a window that ends at `end` belongs to a segment that the repository has.
    pub(crate) fn is_stored(&self, end: Lsn) -> bool {
        end <= self.stored_to
    }

    /// Compares, if `at` is a position to compare at; `digest` is asked for only then.
    pub(crate) fn compare(&mut self, at: Lsn, digest: impl FnOnce() -> Digest) -> Result<(), Diverged> {
        match self.ahead.front() {
            Some(checkpoint) if checkpoint.at == at => {
                if checkpoint.digest != digest() {
                    return Err(Diverged { at });
                }
                self.ahead.pop_front();
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
