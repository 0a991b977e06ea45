//! What was found.

use clap::ValueEnum;
use proto::wal::record::RelFile;
use proto::{Lsn, ServerTime};
use serde::Serialize;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Relations were dropped
    Drop,
    /// Tables were truncated
    Truncate,
    /// A database was dropped
    DropDatabase,
    /// One transaction deleted many rows
    Delete,
    /// Relations were written anew: VACUUM FULL, CLUSTER, REINDEX, ALTER TABLE
    Rewrite,
    /// Relations were created
    Create,
    /// A transaction was committed
    Commit,
    /// A restore point was made
    RestorePoint,
}

/// What is looked for unless told otherwise: what somebody may want to undo.
pub const ACCIDENTS: &[Kind] = &[Kind::Drop, Kind::Truncate, Kind::DropDatabase, Kind::Delete];

/// A commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// The transaction.
    pub xid: u32,
    /// When, by the server's clock.
    pub time: ServerTime,
}

/// What it happened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// The database's oid; 0: shared by all.
    pub database: u32,
    /// The relation's files.
    pub file: Option<RelFile>,
    /// The relation's oid, where the WAL tells it.
    pub oid: Option<u32>,
    /// Rows that were deleted.
    pub rows: u64,
}

impl Subject {
    /// The relation whose files these are.
    pub fn of(file: RelFile) -> Self {
        Self { database: file.database, file: Some(file), oid: None, rows: 0 }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// What.
    pub kind: Kind,
    /// Replay has to stop before the record that begins here.
    pub stop: Lsn,
    /// Where the record is that made it last: the commit, as a rule.
    pub lsn: Lsn,
    /// The transaction; 0: none.
    pub xid: u32,
    /// When, by the server's clock.
    pub time: Option<ServerTime>,
    /// What to.
    pub subjects: Vec<Subject>,
    /// The name of the restore point, or of the database, where the WAL tells it.
    pub name: Option<String>,
    /// Under which name the transaction was prepared: a restored server still has it.
    pub prepared_as: Option<String>,
    /// What cannot be known.
    pub doubt: Option<&'static str>,
    /// The commit before it.
    pub before: Option<Commit>,
}
