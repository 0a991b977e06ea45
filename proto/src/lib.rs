//! The contracts with the outside world.
//!
//! PostgreSQL's replication protocol, its WAL, its files; the configuration file that users write; the socket
//! between `archive-cmd` and the agent. Nothing in here stores anything or decides anything.
//!
//! Without the feature `client` only pure parsers remain: no runtime, no TLS, no clock, no network, no file.

pub mod backup_label;
#[cfg(feature = "formats")]
pub mod backup_manifest;
mod bytes;
#[cfg(feature = "formats")]
pub mod checksum;
#[cfg(feature = "client")]
pub mod client;
pub mod config;
#[cfg(feature = "client")]
pub mod conninfo;
#[cfg(feature = "formats")]
pub mod control;
pub mod digest;
#[cfg(feature = "formats")]
pub mod incremental;
pub mod lsn;
#[cfg(feature = "formats")]
pub mod page;
pub mod socket;
pub mod system_id;
pub mod time;
pub mod timeline;
pub mod wal;

pub use digest::Digest;
pub use lsn::Lsn;
pub use system_id::SystemId;
pub use time::ServerTime;
pub use timeline::TimelineId;
