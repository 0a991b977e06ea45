//! The replication client: one physical walsender session, from connecting to streaming WAL or a base backup.
//!
//! [`Replication::connect`] opens a session. It answers short commands, and turns into a [`WalStream`] or a
//! [`BackupStream`]. [`sql`] opens an ordinary SQL session under the same rules.
//!
//! Nothing in here retries, and nothing has a time limit except connecting: a server may be silent for hours
//! while it waits for a checkpoint or for its archiver. A host that is gone is noticed by TCP, within two minutes unless
//! the connection string says otherwise; whoever streams asks a silent server for an answer and need not wait for that.

mod auth;
mod backup_options;
pub mod base_backup;
mod certificate;
mod connection;
mod error;
mod session;
mod sql;
mod startup;
pub mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod types;

pub use backup_options::{BaseBackupOptions, Checkpoint, ManifestChecksums};
pub use base_backup::{BackupMessage, BackupStart, BackupStream, Tablespace};
pub use connection::Io;
pub use error::{Error, Result};
pub use session::Replication;
pub use sql::sql;
pub use stream::{StandbyStatus, Start, WalMessage, WalStream, parse_copy_data};
pub use types::{NextTimeline, ServerVersion, SessionOptions, SlotLifetime, SlotState, SystemIdentity};
