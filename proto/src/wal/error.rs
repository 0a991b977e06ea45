//! What can be wrong with a WAL file.

use super::NameError;
use crate::{Lsn, SystemId, TimelineId};

/// Why a file cannot be taken for the WAL that its name promises.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// Fewer bytes than a page header.
    #[error("the file is too short for WAL: {0} bytes")]
    Short(u64),
    /// Not one of the magic numbers of PostgreSQL 13–18.
    #[error("this is not WAL of PostgreSQL 13 to 18: its first two bytes are {0:04X}")]
    Magic(u16),
    /// A header with an impossible field.
    #[error("the WAL page header is damaged: {0}")]
    Header(&'static str),
    /// The name does not fit the segment size.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Another cluster's WAL.
    #[error("the WAL belongs to the cluster with system identifier {found}, not to {expected}")]
    Foreign {
        /// In the file.
        found: SystemId,
        /// Asked for.
        expected: SystemId,
    },
    /// The page lies elsewhere in the WAL.
    #[error("the page says that it belongs at {found}, but its file's name puts it at {expected}")]
    Address {
        /// In the page.
        found: Lsn,
        /// By the name.
        expected: Lsn,
    },
    /// A page of a later timeline than the name says.
    #[error("the page is of timeline {found}, but the file's name says timeline {expected}")]
    Timeline {
        /// In the page.
        found: TimelineId,
        /// By the name.
        expected: TimelineId,
    },
    /// The file's length is not the segment size.
    #[error("the file has {found} bytes, but a segment of this cluster has {expected}")]
    Length {
        /// Bytes in the file.
        found: u64,
        /// The segment size.
        expected: u64,
    },
    /// `restore-cmd fetch` padded it.
    #[error(
        "the segment is incomplete: only its first {0} bytes are WAL, the rest was padded by restore-cmd"
    )]
    Padded(u64),
    /// WAL stops before the end of the segment, and not with a switch.
    #[error("the segment is incomplete: its WAL ends at {0} without a switch to the next segment")]
    Incomplete(Lsn),
    /// The last page that is not zeros is no page of WAL.
    #[error("the segment is damaged at {at}: {why}")]
    LastPage {
        /// Where.
        at: Lsn,
        /// What its header says.
        why: String,
    },
    /// The walk through the last page met something that is no WAL.
    #[error("the segment is damaged at {at}: {why}")]
    Damaged {
        /// Where.
        at: Lsn,
        /// What.
        why: &'static str,
    },
    /// Not a history file.
    #[error("line {line} of the history file is not \"timeline, LSN, reason\"{why}")]
    History {
        /// Counted from 1.
        line: usize,
        /// What else, as the continuation of the sentence.
        why: &'static str,
    },
    /// Nothing in it.
    #[error("the history file names no timeline")]
    EmptyHistory,
}
