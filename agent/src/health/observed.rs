//! What was observed: plain data, from which the rules conclude, and which `walkeep health --json` prints.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Everything.
#[derive(Debug, Clone, Serialize)]
pub struct Observed {
    /// By the clock of this machine.
    pub at: Timestamp,
    /// How long the look took, in seconds.
    pub took_seconds: f64,
    /// The server itself.
    pub server: Server,
    /// Its clients.
    pub connections: Connections,
    /// Sessions that wait, let others wait, or have had a transaction open for as long as a threshold.
    pub sessions: Vec<Session>,
    /// Its standbys, the agent among them.
    pub standbys: Vec<Standby>,
    /// Its replication slots.
    pub slots: Vec<SlotState>,
    /// Its checkpoints.
    pub checkpoints: Checkpoints,
    /// Its databases, the largest first.
    pub databases: Vec<Database>,
    /// Its log; `None` where it cannot be read.
    pub log: Option<LogErrors>,
    /// Room on the disk of the data directory, in bytes; `None` where it cannot be seen from here.
    pub disk: Option<Disk>,
    /// The look that growth is measured against; `None` where none was kept.
    pub earlier: Option<Timestamp>,
    /// Why there is none, where that is no matter of course.
    pub earlier_unknown: Option<String>,
}

/// The server itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Server {
    /// `server_version_num`
    pub version: u32,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// Since when it counts what is not a database's own.
    pub counted_since: Option<Timestamp>,
    /// From this age on a table is frozen, come what may.
    pub freeze_max_age: u64,
    /// The same of multixacts.
    pub multixact_freeze_max_age: u64,
    /// Of a standby: WAL that was received and not replayed, in bytes.
    pub replay_lag_bytes: Option<i64>,
    /// Of a standby that has not replayed all: how old the last replayed transaction is, in seconds.
    pub replay_lag_seconds: Option<f64>,
    /// Where its files are; `None` for a role that may not see that.
    pub data_directory: Option<String>,
    /// As it is written, such as `1GB`.
    pub max_wal_size: String,
}

/// Its clients.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Connections {
    /// So many may there be of roles that are no superusers.
    pub limit: u32,
    /// So many there are.
    pub used: u32,
    /// By what they do, as PostgreSQL names it.
    pub by_state: BTreeMap<String, u32>,
}

/// A session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Session {
    /// Its process.
    pub pid: i32,
    /// Where it is logged in.
    pub database: Option<String>,
    /// As whom.
    pub role: Option<String>,
    /// What it calls itself.
    pub application: Option<String>,
    /// `active`, `idle in transaction`, …; `None` for a process of the server's own.
    pub state: Option<String>,
    /// What it waits for.
    pub wait_event: Option<String>,
    /// How long its transaction has been open, in seconds.
    pub transaction_seconds: Option<f64>,
    /// How long ago its last statement began, in seconds.
    pub statement_seconds: Option<f64>,
    /// How long it has been in its state, in seconds.
    pub state_seconds: Option<f64>,
    /// The processes whose locks it waits for.
    pub blocked_by: Vec<i32>,
    /// The beginning of its last statement.
    pub query: Option<String>,
}

/// A standby, or somebody else who streams.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Standby {
    /// Its `application_name`.
    pub name: String,
    /// `streaming`, `catchup`, …
    pub state: Option<String>,
    /// `sync`, `async`, …
    pub sync_state: Option<String>,
    /// WAL that it has not replayed (or, where it replays nothing, not flushed), in bytes.
    pub lag_bytes: Option<i64>,
}

/// A replication slot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SlotState {
    /// Its name.
    pub name: String,
    /// Whether somebody uses it now.
    pub active: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`; `none` of one that keeps nothing.
    pub wal_status: String,
    /// WAL that the server keeps for it, in bytes.
    pub retained_bytes: Option<i64>,
    /// Whether it is `stream.slot`: the agent's own.
    #[serde(default)]
    pub own: bool,
}

/// Checkpoints since `counted_since`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Checkpoints {
    /// Because `checkpoint_timeout` had passed.
    pub timed: u64,
    /// Because of the amount of WAL, or on somebody's demand.
    pub requested: u64,
    /// Since when they are counted.
    pub counted_since: Option<Timestamp>,
}

/// A database.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// Bytes on disk.
    pub size_bytes: u64,
    /// Bytes by which it has grown since the earlier look.
    #[serde(default)]
    pub grown_bytes: Option<i64>,
    /// The age of its oldest transaction that is not frozen.
    pub xid_age: u64,
    /// The same of multixacts.
    pub multixact_age: u64,
    /// Committed transactions.
    pub commits: u64,
    /// Blocks that were found in shared buffers.
    pub blocks_hit: u64,
    /// Blocks that were not.
    pub blocks_read: u64,
    /// Temporary files.
    pub temp_files: u64,
    /// Their bytes.
    pub temp_bytes: u64,
    /// Deadlocks.
    pub deadlocks: u64,
    /// Since when these are counted.
    pub counted_since: Option<Timestamp>,
    /// Whether it takes connections of ours, templates excepted.
    pub open: bool,
    /// Whether it lets the role in.
    pub admits: bool,
    /// Why its tables could not be looked at, though they should be.
    #[serde(default)]
    pub trouble: Option<String>,
    /// Its tables: the largest, and those that stand out.
    #[serde(default)]
    pub tables: Vec<Table>,
    /// Its indexes that stand out: unused, duplicate, invalid.
    #[serde(default)]
    pub indexes: Vec<Index>,
    /// What `pg_stat_statements` tells, where it is installed.
    #[serde(default)]
    pub statements: Option<Statements>,
}

/// A table.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Table {
    /// Schema and name, quoted where SQL needs it.
    pub name: String,
    /// Bytes on disk, with indexes and TOAST; `None` while somebody has it locked.
    pub size_bytes: Option<u64>,
    /// Bytes by which it has grown since the earlier look.
    #[serde(default)]
    pub grown_bytes: Option<i64>,
    /// Rows, as the server counts them.
    pub live_rows: u64,
    /// Rows that nobody can see any more.
    pub dead_rows: u64,
    /// Rows that were changed since it was last analyzed.
    pub changed_rows: u64,
    /// Times that it was read from its beginning to its end.
    pub sequential_scans: u64,
    /// Rows that were read so.
    pub sequential_rows: u64,
    /// Times that one of its indexes was used.
    pub index_scans: u64,
    /// By hand or by autovacuum, whichever was later.
    pub last_vacuum: Option<Timestamp>,
    /// By hand or by autovacuum, whichever was later.
    pub last_analyze: Option<Timestamp>,
}

/// An index.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Index {
    /// Schema and name, quoted where SQL needs it.
    pub name: String,
    /// Of this table.
    pub table: String,
    /// Bytes on disk; `None` while somebody has it locked.
    pub size_bytes: Option<u64>,
    /// Never used to find something, and not needed for a constraint.
    pub unused: bool,
    /// Left behind by a CREATE INDEX or REINDEX CONCURRENTLY that failed.
    pub invalid: bool,
    /// The index that does the same.
    pub duplicate_of: Option<String>,
}

/// What `pg_stat_statements` tells of a database.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Statements {
    /// How often statements were called.
    pub calls: u64,
    /// How long they took altogether, in seconds.
    pub seconds: f64,
    /// Those that took longest altogether, the worst first.
    pub slowest: Vec<Statement>,
}

/// A statement, with its constants taken out by the server.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Statement {
    /// Its beginning.
    pub query: String,
    /// How often it was called.
    pub calls: u64,
    /// How long that took altogether, in seconds.
    pub seconds: f64,
}

/// What the server's log has had since the last look.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LogErrors {
    /// The file, as the server names it.
    pub file: String,
    /// How far it was read, in bytes.
    pub offset: u64,
    /// Where the last look has ended, in the file in which it did; `None`: there was none, or that place is gone.
    pub since_offset: Option<u64>,
    /// What was written since the last look, and was not read; `None`: nothing.
    pub unread: Option<String>,
    /// Lines with `ERROR`.
    pub errors: u64,
    /// Lines with `FATAL`.
    pub fatal: u64,
    /// Lines with `PANIC`.
    pub panics: u64,
    /// The last of these, the newest last: severity and message, without what stands around them.
    pub last: Vec<String>,
}

/// Room on a disk, in bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Disk {
    /// Where.
    pub place: String,
    /// What is free for the server.
    pub free: u64,
    /// All.
    pub total: u64,
}

impl Server {
    /// 13 to 18.
    pub fn major(&self) -> u32 {
        self.version / 10_000
    }
}

impl Database {
    /// The share of blocks that were found in shared buffers, in per cent; `None` where too few were asked for.
    pub fn cache_hit(&self) -> Option<f64> {
        const FEWEST: u64 = 20_000;
        let all = self.blocks_hit + self.blocks_read;
        (all >= FEWEST).then(|| self.blocks_hit as f64 * 100.0 / all as f64)
    }

    /// For how many days its figures were counted until then: a day at least, so that an hour's are not taken for a day's.
    pub fn days_counted(&self, at: Timestamp) -> f64 {
        let seconds = self.counted_since.map_or(0.0, |since| at.duration_since(since).as_secs_f64());
        (seconds / 86_400.0).max(1.0)
    }
}

impl Table {
    /// Dead rows of all, in per cent.
    pub fn dead_share(&self) -> f64 {
        let all = self.live_rows + self.dead_rows;
        if all == 0 { 0.0 } else { self.dead_rows as f64 * 100.0 / all as f64 }
    }
}
