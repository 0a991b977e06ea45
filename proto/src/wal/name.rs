//! The names of the files that PostgreSQL's archiver hands out.

use std::fmt;
use std::str::FromStr;

use super::{SegmentName, hex32};
use crate::TimelineId;

/// A file of `pg_wal` that the archiver passes on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WalFile {
    /// A whole segment.
    Segment(SegmentName),
    /// The last, incomplete segment of a timeline, renamed by a promotion. Recovery never asks for it.
    Partial(SegmentName),
    /// Where a timeline came from.
    History(TimelineId),
    /// Written by a primary at the end of a base backup: the segment and the offset where the backup began.
    Backup(SegmentName, u32),
}

/// The name is not one that PostgreSQL gives to a WAL file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Neither a segment nor any of its companions.
    #[error("\"{0}\" is not the name of a WAL file")]
    NotAWalFile(String),
    /// Not a segment's name.
    #[error("\"{0}\" is not the name of a WAL segment: 24 upper-case hexadecimal digits are expected")]
    NotASegment(String),
    /// The name cannot occur in a cluster with this segment size.
    #[error("{name} cannot be a segment of {size} bytes: its last eight digits are too large")]
    WrongSegmentSize {
        /// The name.
        name: String,
        /// The cluster's segment size in bytes.
        size: u64,
    },
}

impl FromStr for WalFile {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let parse = || match text.split_once('.') {
            None => text.parse().ok().map(WalFile::Segment),
            Some((timeline, "history")) => TimelineId::from_hex(timeline).map(WalFile::History),
            Some((segment, "partial")) => segment.parse().ok().map(WalFile::Partial),
            Some((segment, rest)) => {
                let offset = rest.strip_suffix(".backup").and_then(hex32)?;
                Some(WalFile::Backup(segment.parse().ok()?, offset))
            }
        };
        parse().ok_or_else(|| NameError::NotAWalFile(text.to_owned()))
    }
}

impl fmt::Display for WalFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalFile::Segment(segment) => write!(f, "{segment}"),
            WalFile::Partial(segment) => write!(f, "{segment}.partial"),
            WalFile::History(timeline) => write!(f, "{:08X}.history", timeline.get()),
            WalFile::Backup(segment, offset) => write!(f, "{segment}.{offset:08X}.backup"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn knows_each_kind() {
        for name in [
            "000000010000000000000003",
            "000000010000000000000003.partial",
            "00000002.history",
            "000000010000000000000003.00000028.backup",
        ] {
            assert_eq!(name.parse::<WalFile>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn refuses_everything_else() {
        for name in [
            "",
            ".history",
            "00000000.history",
            "0000000100000000000000a3",
            "RECOVERYXLOG",
            "000000010000000000000003.partial.partial",
            "000000010000000000000003.28.backup",
            "../00000002.history",
        ] {
            assert!(name.parse::<WalFile>().is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_the_same(text in "[0-9A-F]{8,24}(\\.[0-9A-Fa-z]{1,8}){0,2}") {
            if let Ok(file) = text.parse::<WalFile>() {
                prop_assert_eq!(file.to_string(), text);
            }
        }
    }
}
