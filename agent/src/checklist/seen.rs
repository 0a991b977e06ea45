//! What was seen: plain data, from which the items conclude.

use std::collections::BTreeMap;

use jiff::Timestamp;
use repository::catalogue::BackupSummary;
use repository::look::Figures;
use repository::run::{Job, RunName};

use crate::drill::LastDrills;
use crate::health::Examination;
use crate::schedule::LastRun;

/// Everything. What could not be looked at is told in a sentence.
#[derive(Debug)]
pub struct Seen {
    /// The cluster's name.
    pub cluster: String,
    /// By the clock of this machine.
    pub now: Timestamp,
    /// Whether `[retention]` keeps anything from growing for ever.
    pub has_retention: bool,
    /// Whether the agent is to stream.
    pub streams: bool,
    /// The server.
    pub health: Result<Examination, String>,
    /// The running agent.
    pub agent: Result<Agent, String>,
    /// The repository.
    pub stored: Result<Stored, String>,
}

/// What the running agent says.
#[derive(Debug, Clone, Default)]
pub struct Agent {
    /// The state of its stream.
    pub state: String,
    /// Its last error.
    pub last_error: Option<String>,
    /// The archiver's calls since it was started that succeeded, and that failed.
    pub archived: u64,
    pub not_archived: u64,
    /// Why the last of them failed; `None` once one has succeeded again.
    pub archive_error: Option<String>,
}

/// What the repository has of the cluster.
#[derive(Debug, Default)]
pub struct Stored {
    /// Oldest first.
    pub backups: Vec<BackupSummary>,
    /// Backups whose manifests cannot be used.
    pub unreadable: usize,
    /// Stretches of WAL that are missing behind the newest backup.
    pub gaps: usize,
    /// The schedule's runs that are remembered, oldest first.
    pub runs: Vec<RunName>,
    /// The last of each job.
    pub last_runs: BTreeMap<Job, LastRun>,
    /// Jobs of the schedule that have not been run to their end since they were due, and since when.
    pub missed: Vec<(Job, Timestamp)>,
    /// The last drills.
    pub drills: LastDrills,
    /// Looks at the server, oldest first.
    pub looks: Vec<Figures>,
}
