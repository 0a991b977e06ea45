//! The number of a branch of a cluster's history.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A timeline: one uninterrupted line of WAL. Every promotion and every point-in-time recovery begins another.
///
/// Displayed in decimal, as PostgreSQL's settings and messages do; file names use [`TimelineId::hex`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimelineId(NonZeroU32);

impl TimelineId {
    /// The timeline that initdb begins.
    pub const FIRST: TimelineId = TimelineId(NonZeroU32::MIN);

    /// `None` for 0, which PostgreSQL never uses.
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The plain number.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// Eight hexadecimal digits, as in the names of WAL files.
    pub fn hex(self) -> String {
        format!("{:08X}", self.get())
    }

    /// Reads what [`TimelineId::hex`] writes.
    pub fn from_hex(text: &str) -> Option<Self> {
        super::wal::hex32(text).and_then(Self::new)
    }
}

/// The text is no timeline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a timeline: a number from 1 to 4294967295 is expected")]
pub struct TimelineError(String);

impl FromStr for TimelineId {
    type Err = TimelineError;

    fn from_str(text: &str) -> Result<Self, TimelineError> {
        text.parse().ok().and_then(Self::new).ok_or_else(|| TimelineError(text.to_owned()))
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
