//! What is told: one JSON object.

use std::fmt;

use jiff::Timestamp;
use repository::run::Job;
use serde::Serialize;

/// What has happened. The words are promised to users: none goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A backup that the agent has taken is complete.
    BackupDone,
    /// A backup that the agent took has failed.
    BackupFailed,
    /// A scheduled logical backup is complete.
    DumpDone,
    /// A scheduled logical backup has failed.
    DumpFailed,
    /// Retention could not be applied.
    ExpireFailed,
    /// A verification has found something, or could not be made.
    VerifyFailed,
    /// A restore was proven.
    DrillPassed,
    /// A drill has failed.
    DrillFailed,
    /// Upkeep was done.
    UpkeepDone,
    /// It could not be done, or not all of it.
    UpkeepFailed,
    /// A checklist was gone through, and nothing of it is red.
    ChecklistDone,
    /// Something of it is red, or it could not be gone through.
    ChecklistFailed,
    /// WAL is missing for good.
    Gap,
    /// The server has dropped what the slot should have kept.
    SlotLost,
    /// The server's WAL is not the repository's.
    Diverged,
    /// `archive_command` has been failing for a while.
    ArchiveFailing,
    /// It succeeds again.
    ArchiveBack,
    /// No WAL has been streamed for a while.
    StreamDown,
    /// WAL is streamed again.
    StreamBack,
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// All is well, or well again.
    Info,
    /// Somebody should look.
    Error,
}

impl EventKind {
    /// How much it matters.
    pub fn severity(self) -> Severity {
        match self {
            Self::BackupDone
            | Self::DumpDone
            | Self::DrillPassed
            | Self::UpkeepDone
            | Self::ChecklistDone
            | Self::ArchiveBack
            | Self::StreamBack => Severity::Info,
            Self::BackupFailed
            | Self::DumpFailed
            | Self::ExpireFailed
            | Self::VerifyFailed
            | Self::DrillFailed
            | Self::UpkeepFailed
            | Self::ChecklistFailed
            | Self::Gap
            | Self::SlotLost
            | Self::Diverged
            | Self::ArchiveFailing
            | Self::StreamDown => Severity::Error,
        }
    }

    /// What it ends, so that the next of those is news again.
    pub(super) fn ends(self) -> Option<EventKind> {
        match self {
            Self::BackupDone => Some(Self::BackupFailed),
            Self::DumpDone => Some(Self::DumpFailed),
            Self::DrillPassed => Some(Self::DrillFailed),
            Self::UpkeepDone => Some(Self::UpkeepFailed),
            Self::ArchiveBack => Some(Self::ArchiveFailing),
            Self::StreamBack => Some(Self::StreamDown),
            _ => None,
        }
    }

    /// The event of a scheduled job that came to its end; `None`: nobody needs to be told.
    pub fn of_job(job: Job, succeeded: bool) -> Option<Self> {
        Some(match (job, succeeded) {
            (Job::Full | Job::Incremental, true) => Self::BackupDone,
            (Job::Full | Job::Incremental, false) => Self::BackupFailed,
            (Job::Dump, true) => Self::DumpDone,
            (Job::Dump, false) => Self::DumpFailed,
            (Job::Drill, true) => Self::DrillPassed,
            (Job::Drill, false) => Self::DrillFailed,
            (Job::Upkeep, true) => Self::UpkeepDone,
            (Job::Upkeep, false) => Self::UpkeepFailed,
            (Job::ChecklistDaily | Job::ChecklistWeekly | Job::ChecklistMonthly, true) => Self::ChecklistDone,
            (Job::ChecklistDaily | Job::ChecklistWeekly | Job::ChecklistMonthly, false) => {
                Self::ChecklistFailed
            }
            (Job::Expire, false) => Self::ExpireFailed,
            (Job::Verify | Job::VerifyDeep, false) => Self::VerifyFailed,
            (Job::Expire | Job::Verify | Job::VerifyDeep, true) => return None,
        })
    }
}

/// The word in JSON.
impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = serde_json::to_value(self).unwrap_or_default();
        f.pad(word.as_str().unwrap_or_default())
    }
}

/// An event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// What has happened.
    pub event: EventKind,
    /// How much it matters.
    pub severity: Severity,
    /// When it was noticed.
    pub at: Timestamp,
    /// In words: one or two sentences.
    pub message: String,
    /// The scheduled job, of events about one.
    pub job: Option<Job>,
    /// How long it took, or has lasted, in seconds.
    pub seconds: Option<f64>,
}

impl Event {
    /// It has happened now.
    pub fn now(event: EventKind, message: impl Into<String>) -> Self {
        let (severity, at) = (event.severity(), Timestamp::now());
        Self { event, severity, at, message: message.into(), job: None, seconds: None }
    }
}

/// What goes out.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Notice<'a> {
    pub(super) cluster: &'a str,
    pub(super) host: &'a str,
    #[serde(flatten)]
    pub(super) event: &'a Event,
    /// How often it has happened since it was last told, this time included.
    pub(super) count: u64,
}

impl Notice<'_> {
    /// One line.
    pub(super) fn json(&self) -> String {
        // Plain data with text keys always becomes JSON.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_promised_keys_are_there() {
        let event = Event {
            at: Timestamp::UNIX_EPOCH,
            job: Some(Job::VerifyDeep),
            seconds: Some(1.5),
            ..Event::now(EventKind::VerifyFailed, "a pack is gone")
        };
        let notice = Notice { cluster: "main", host: "db1", event: &event, count: 2 };
        assert_eq!(
            notice.json(),
            "{\"cluster\":\"main\",\"host\":\"db1\",\"event\":\"verify_failed\",\"severity\":\"error\",\
             \"at\":\"1970-01-01T00:00:00Z\",\"message\":\"a pack is gone\",\"job\":\"verify_deep\",\"seconds\":1.5,\"count\":2}\n"
        );
        assert_eq!(EventKind::StreamBack.to_string(), "stream_back");
    }
}
