//! What `archive_command` hands over: answered from what is durable already, else checked and stored.

mod backlog;
mod counts;
mod known;
mod ship;
mod state;

pub use counts::ArchiveCounts;
pub use known::KnownSegments;
pub use ship::{Archive, ArchiveError, Offer};
pub use state::{ArchiveState, ArchiveStatus};
