//! What the archiver's calls have led to, for `walkeep status`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proto::wal::{SegmentName, WalFile};
use serde::Serialize;
use tracing::{debug, info, warn};

use crate::notify::{Repeats, Told, essence};
use crate::troubles::{Trouble, Troubles};

/// The archiver's calls since the agent was started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ArchiveStatus {
    /// The last segment that was answered with success.
    pub last_segment: Option<SegmentName>,
    /// When a call last succeeded.
    pub last_at: Option<jiff::Timestamp>,
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
    troubles: Troubles,
}

impl Default for ArchiveState {
    fn default() -> Self {
        let inner = Inner {
            status: ArchiveStatus::default(),
            told: Repeats::new(SILENCE),
            troubles: Troubles::default(),
        };
        Self(Arc::new(Mutex::new(inner)))
    }
}

impl ArchiveState {
    /// A copy.
    pub fn status(&self) -> ArchiveStatus {
        self.lock().status.clone()
    }

    /// What went wrong lately, oldest first.
    pub fn troubles(&self) -> Vec<Trouble> {
        self.lock().troubles.all().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the outcome of a call. What repeats itself is logged once, and later with its count.
    pub fn note(&self, file: WalFile, outcome: Result<(), &str>) {
        let mut inner = self.lock();
        let Inner { status, told, troubles } = &mut *inner;
        let now = jiff::Timestamp::now();
        match outcome {
            Ok(()) => {
                status.stored += 1;
                status.last_at = Some(now);
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
                let message = format!("{file}: {why}");
                troubles.note(&message, now);
                status.last_error = Some(message);
            }
        }
    }
}
