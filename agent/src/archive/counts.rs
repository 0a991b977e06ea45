//! What the archiver's calls, and the work ahead of them, have come to since the agent was started.

use crate::counters::Counter;

/// Counted where it happens.
#[derive(Debug, Default)]
pub struct ArchiveCounts {
    /// Calls answered with success: the file is durable in the repository, whoever has brought it there.
    pub answered: Counter,
    /// Segments that were stored for the archiver, or ahead of it: the stream had not brought them.
    pub shipped: Counter,
    /// Calls that were refused for what the file is: another content under its name, another cluster's, damaged.
    pub refused: Counter,
    /// Calls that failed for another reason, and may succeed the next time.
    pub failed: Counter,
}
