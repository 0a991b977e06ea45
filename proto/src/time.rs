//! The server's clock.

use serde::{Deserialize, Serialize};

/// An instant by a PostgreSQL server's clock: microseconds since 2000-01-01 00:00 UTC, as the protocol sends it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerTime(pub i64);

/// Microseconds from the Unix epoch to PostgreSQL's.
const EPOCH_OFFSET: i64 = 946_684_800_000_000;

impl ServerTime {
    /// Microseconds since 1970-01-01 00:00 UTC.
    pub const fn unix_micros(self) -> i64 {
        self.0.saturating_add(EPOCH_OFFSET)
    }

    /// From microseconds since 1970-01-01 00:00 UTC.
    pub const fn from_unix_micros(micros: i64) -> Self {
        Self(micros.saturating_sub(EPOCH_OFFSET))
    }
}
