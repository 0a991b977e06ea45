//! Why streaming does not go on.

use std::ops::Range;
use std::time::Duration;

use proto::config::SlotName;
use proto::wal::{SegmentSize, WalError};
use proto::{Lsn, TimelineId, client};

use super::start::Ambiguous;
use super::tail::TailError;

/// Why a stream ended, and whether anything but an operator can help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The server, or the way to it.
    #[error("streaming from PostgreSQL: {0}")]
    Server(#[from] client::Error),
    /// Plain SQL about the slot.
    #[error("asking PostgreSQL about its slot: {0}")]
    Sql(String),
    /// The repository.
    #[error("the repository: {0}")]
    Repository(#[from] repository::Error),
    /// The slot is for logical replication.
    #[error(
        "the replication slot \"{0}\" is for logical replication: it is somebody else's, and was not touched"
    )]
    SlotForeign(SlotName),
    /// The slot was made, and keeps nothing all the same.
    #[error("the replication slot \"{0}\" was made, but the server keeps no WAL for it")]
    SlotUnusable(SlotName),
    /// The cluster has gone on without this server.
    #[error(
        "the server is a primary on timeline {timeline}, at {flushed}, but the cluster has gone on along timeline \
         {child} since {switch}: what this server writes is another history; nothing of it is stored or acknowledged"
    )]
    LeftBehind {
        /// The server's timeline.
        timeline: TimelineId,
        /// How far its WAL reaches.
        flushed: Lsn,
        /// The timeline that was streamed instead.
        child: TimelineId,
        /// Where that one was forked.
        switch: Lsn,
    },
    /// The server writes other WAL than the repository has under the same names.
    #[error(
        "the server's WAL on timeline {timeline} up to {at} differs from what the repository has: nothing was \
         stored and nothing acknowledged"
    )]
    Diverged {
        /// The timeline.
        timeline: TimelineId,
        /// The end of the bytes that were compared.
        at: Lsn,
    },
    /// The repository itself holds two contents.
    #[error("the repository: {0}")]
    Ambiguous(String),
    /// Positions do not follow each other.
    #[error("{0}")]
    OutOfOrder(String),
    /// A history file cannot be read.
    #[error("the server's history of timeline {timeline}: {why}")]
    History {
        /// The timeline.
        timeline: TimelineId,
        /// What is wrong.
        why: WalError,
    },
    /// The segment size is not the one that the branch was begun with.
    #[error("the server has WAL segments of {} bytes, the repository's branch was begun with {}", .server.bytes(), .branch.bytes())]
    SegmentSize {
        /// The server's.
        server: SegmentSize,
        /// The repository's.
        branch: SegmentSize,
    },
    /// The server may be waiting to shut down, and the repository does not answer.
    #[error(
        "the repository has not answered for {} s: let go of the server, so that it can shut down, without \
         acknowledging; the slot keeps the WAL from {durable} on",
        .grace.as_secs()
    )]
    LetGo {
        /// How long it has been waiting.
        grace: Duration,
        /// What is durable.
        durable: Lsn,
    },
    /// A range was asked for and the timeline does not reach it.
    #[error("timeline {timeline} ended at {end}, before {wanted}: was the server promoted meanwhile?")]
    TimelineEnded {
        /// The timeline.
        timeline: TimelineId,
        /// Where it ended.
        end: Lsn,
        /// What was asked for.
        wanted: Lsn,
    },
    /// The server is gone without a word, or cannot be reached any more.
    #[error(
        "the server has said nothing for {} s, and does not answer: it, or the way to it, is gone",
        .silence.as_secs()
    )]
    Silent {
        /// How long it has said nothing.
        silence: Duration,
    },
    /// The server went away in good order.
    #[error("the server has shut down")]
    ServerShutdown,
}

impl StreamError {
    /// Whether only an operator can help. The agent looks again now and then all the same.
    pub fn needs_operator(&self) -> bool {
        match self {
            Self::SlotForeign(_)
            | Self::SlotUnusable(_)
            | Self::LeftBehind { .. }
            | Self::Diverged { .. }
            | Self::Ambiguous(_)
            | Self::History { .. }
            | Self::SegmentSize { .. } => true,
            Self::Repository(error) => is_final(error),
            Self::Server(error) => !error.is_transient() && error.sqlstate() != Some("58P01"),
            _ => false,
        }
    }

    /// Whether the server and the repository hold different histories.
    pub(crate) fn is_divergence(&self) -> bool {
        matches!(self, Self::Diverged { .. } | Self::LeftBehind { .. } | Self::Ambiguous(_))
    }

    /// What an operator can do.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Server(error) => return error.hint(),
            Self::Repository(error) => return error.hint().map(str::to_owned),
            Self::Ambiguous(_) => {
                "two servers have written under one name, and nothing was overwritten. Find out which one is right, and \
                 move the other one's objects out of the repository by hand: walkeep never does"
                    .to_owned()
            }
            Self::SlotForeign(_) => "choose another name: `slot` in [stream]".to_owned(),
            Self::SlotUnusable(_) => {
                "look at pg_replication_slots and the server's log; max_slot_wal_keep_size may be too small".to_owned()
            }
            Self::LeftBehind { .. } => {
                "stop that server and make it a standby of the new primary (pg_rewind). If it is the one to keep, make \
                 it a standby and promote it, so that it gets a timeline of its own"
                    .to_owned()
            }
            Self::Diverged { .. } => {
                "was this server restored, promoted without a new timeline, or copied? Point walkeep to the right \
                 server, or use another `cluster` name for this one"
                    .to_owned()
            }
            Self::SegmentSize { .. } => "use another `cluster` name, and run `walkeep init` for it".to_owned(),
            _ => return None,
        })
    }

    /// The server no longer has the WAL that was asked for.
    pub(crate) fn is_wal_removed(&self) -> bool {
        matches!(self, Self::Server(error) if error.sqlstate() == Some("58P01"))
    }

    /// Somebody else streams through the slot.
    pub(crate) fn is_slot_in_use(&self) -> bool {
        matches!(self, Self::Server(error) if error.sqlstate() == Some("55006"))
    }

    pub(crate) fn tail(error: TailError, timeline: TimelineId) -> Self {
        match error {
            TailError::Diverged(diverged) => Self::Diverged { timeline, at: diverged.at },
            out_of_order @ TailError::OutOfOrder { .. } => Self::OutOfOrder(out_of_order.to_string()),
        }
    }
}

impl From<Ambiguous> for StreamError {
    fn from(error: Ambiguous) -> Self {
        Self::Ambiguous(error.to_string())
    }
}

/// Whether trying to store the same thing again is pointless.
pub(crate) fn is_final(error: &repository::Error) -> bool {
    use repository::Error;
    matches!(
        error,
        Error::Conflict { .. }
            | Error::Foreign { .. }
            | Error::Invalid { .. }
            | Error::Locked { .. }
            | Error::NotBegun { .. }
    )
}

/// How a gap is told.
pub(crate) fn gap(range: &Range<Lsn>) -> String {
    format!(
        "WAL from {} to {} is neither in the repository nor on the server any more: recovery cannot cross this gap; \
         take a new base backup",
        range.start, range.end
    )
}
