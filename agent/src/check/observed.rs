//! What was observed: plain data, from which the rules conclude.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};
use proto::client::ServerVersion;
use proto::config::Config;
use proto::{Lsn, TimelineId};

use super::hba::HbaLine;
use crate::backup::facts::{Slot, archives_to_us};

/// Something that could not be looked at, in one sentence, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) message: String,
    pub(super) hint: String,
}

/// Everything.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub(super) config: Config,
    /// The `archive_command` that would be right.
    pub(super) archive_command: String,
    /// The line of pg_hba.conf that lets the role replicate.
    pub(super) hba_line: String,
    /// The database of plain SQL.
    pub(super) database: String,
    /// How the agent names itself to the server.
    pub(super) application_name: String,
    pub(super) now: Timestamp,
    pub(super) server: Result<Server, Failed>,
    /// Whether the server lets the agent replicate.
    pub(super) replication: Result<(), Failed>,
    /// What the running agent says of itself.
    pub(super) agent: Result<Agent, String>,
    pub(super) repository: Result<Stored, Failed>,
}

/// A server that answers.
#[derive(Debug, Clone, Default)]
pub(super) struct Server {
    /// `server_version_num`
    pub(super) version: u32,
    /// As `pg_settings` has them; those that the role may not see are absent.
    pub(super) settings: BTreeMap<String, String>,
    /// Changed in a file, and not in force before a restart.
    pub(super) pending_restart: Vec<String>,
    pub(super) in_recovery: bool,
    pub(super) role: String,
    pub(super) may_replicate: bool,
    pub(super) may_monitor: bool,
    pub(super) may_switch_wal: bool,
    /// Reached through the network, and not by a loop back to this machine.
    pub(super) remote: bool,
    /// Whether this session is encrypted.
    pub(super) tls: bool,
    /// The slot of the configuration.
    pub(super) slot: Option<Slot>,
    pub(super) slots_used: u32,
    pub(super) senders_used: u32,
    pub(super) archiver: Archiver,
    /// `synchronous_commit` as it is set for single roles or databases: the statement that takes it back, and the value.
    pub(super) synchronous_overrides: Vec<(String, String)>,
    /// pg_hba.conf; `None`: the role may not see it.
    pub(super) hba: Option<Vec<HbaLine>>,
    /// How far its clock is ahead of ours.
    pub(super) clock_ahead: SignedDuration,
    /// Where the server's WAL lies, if that can be seen from here.
    pub(super) space: Option<Space>,
    /// What its `archive_command` would run, if that can be seen from here.
    pub(super) archive_program: Option<Program>,
}

/// pg_stat_archiver.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Archiver {
    pub(super) archived: u64,
    pub(super) failed: u64,
    /// The file that fails just now: the last failure is younger than the last success.
    pub(super) failing: Option<String>,
    /// Files that wait for it, if that can be seen.
    pub(super) waiting: u64,
}

/// The program of an `archive_command`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    /// Why it cannot be run by the server's user.
    pub(super) trouble: Option<String>,
    /// Why its configuration file is not the one that we have.
    pub(super) other_configuration: Option<String>,
}

/// Room on a disk, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Space {
    pub(crate) place: String,
    pub(crate) free: u64,
    pub(crate) total: u64,
}

/// What the agent says.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Agent {
    /// `streaming`, `waiting`, …
    pub(super) state: String,
    pub(super) last_error: Option<String>,
    pub(super) lag_seconds: Option<f64>,
}

/// A repository that was opened.
#[derive(Debug, Clone, Default)]
pub(super) struct Stored {
    pub(super) description: String,
    /// Why a trial object could not be written and read back.
    pub(super) write_trouble: Option<Failed>,
    /// Why it could not be deleted.
    pub(super) delete_trouble: Option<repository::Error>,
    /// How far the store's clock is ahead of ours.
    pub(super) clock_ahead: Option<SignedDuration>,
    /// Of a directory.
    pub(super) space: Option<Space>,
    /// What it has of this cluster.
    pub(super) cluster: Option<Result<Cluster, Failed>>,
}

/// What the repository has of the cluster.
#[derive(Debug, Clone, Default)]
pub(super) struct Cluster {
    /// The newest backup.
    pub(super) backup: Option<Backup>,
    /// WAL that is missing behind the start of the newest backup, on its timeline: from and to.
    pub(super) gaps: Vec<(TimelineId, Lsn, Lsn)>,
}

/// A backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Backup {
    pub(super) label: String,
    pub(super) finished_at: Timestamp,
    pub(super) restorable: bool,
}

impl Server {
    pub(super) fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    /// A setting that is a number; `None` if it cannot be seen.
    pub(super) fn number(&self, name: &str) -> Option<i64> {
        self.settings.get(name)?.parse().ok()
    }

    pub(super) fn is_on(&self, name: &str) -> bool {
        self.setting(name) == "on"
    }

    pub(super) fn version(&self) -> ServerVersion {
        ServerVersion(self.version)
    }

    pub(super) fn major(&self) -> u32 {
        self.version().major()
    }

    /// Whether an archiver runs.
    pub(super) fn archives(&self) -> bool {
        matches!(self.setting("archive_mode"), "on" | "always")
    }

    /// Whether the archiver hands WAL to walkeep.
    pub(super) fn archives_to_us(&self) -> bool {
        archives_to_us(|name| self.setting(name))
    }
}
