//! What the archiver's calls have led to, for `walkeep status`.

use std::sync::{Arc, Mutex, PoisonError};

use proto::wal::{SegmentName, WalFile};
use serde::Serialize;

/// The archiver's calls since the agent was started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ArchiveStatus {
    /// The last segment that was answered with success.
    pub last_segment: Option<SegmentName>,
    /// Calls that failed.
    pub failed: u64,
    /// Calls that succeeded.
    pub stored: u64,
    /// Why the last failure happened; `None` once a call has succeeded again.
    pub last_error: Option<String>,
}

/// Shared by all connections. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ArchiveState(Arc<Mutex<ArchiveStatus>>);

impl ArchiveState {
    /// A copy.
    pub fn status(&self) -> ArchiveStatus {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes the outcome of a call.
    pub fn note(&self, file: WalFile, outcome: Result<(), &str>) {
        let mut status = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(()) => {
                status.stored += 1;
                status.last_error = None;
                if let WalFile::Segment(segment) = file {
                    status.last_segment = Some(segment);
                }
            }
            Err(why) => {
                status.failed += 1;
                status.last_error = Some(format!("{file}: {why}"));
            }
        }
    }
}
