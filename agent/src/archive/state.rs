//! What the archiver's calls have led to, for `walkeep status`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use proto::wal::{SegmentName, WalFile};
use serde::Serialize;
use tracing::{debug, info, warn};

use crate::notify::{Repeats, Told, essence};

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

/// A failure that goes on is told again after that.
const SILENCE: Duration = Duration::from_secs(600);

/// Shared by all connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ArchiveState(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    status: ArchiveStatus,
    told: Repeats,
}

impl Default for ArchiveState {
    fn default() -> Self {
        let inner = Inner { status: ArchiveStatus::default(), told: Repeats::new(SILENCE) };
        Self(Arc::new(Mutex::new(inner)))
    }
}

impl ArchiveState {
    /// A copy.
    pub fn status(&self) -> ArchiveStatus {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).status.clone()
    }

    /// Notes the outcome of a call. What repeats itself is logged once, and later with its count.
    pub fn note(&self, file: WalFile, outcome: Result<(), &str>) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner { status, told } = &mut *inner;
        match outcome {
            Ok(()) => {
                status.stored += 1;
                if status.last_error.take().is_some() {
                    told.forget("");
                    info!(%file, "archive_command succeeds again");
                }
                if let WalFile::Segment(segment) = file {
                    status.last_segment = Some(segment);
                }
            }
            Err(why) => {
                status.failed += 1;
                match told.note(&essence(why), Instant::now()) {
                    Told::Now(1) => warn!(%file, "not archived: {why}"),
                    Told::Now(count) => warn!(%file, count, "still not archived: {why}"),
                    Told::Counted => debug!(%file, "not archived: {why}"),
                }
                status.last_error = Some(format!("{file}: {why}"));
            }
        }
    }
}
