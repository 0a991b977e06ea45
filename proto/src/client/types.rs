//! The small values that commands take and give.

use std::fmt;
use std::time::Duration;

use crate::{Lsn, SystemId, TimelineId};

/// What a session sets for itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionOptions {
    /// What the server lists the session as, if the connection string sets nothing.
    pub application_name: String,
    /// How long the server bears our silence while it streams WAL; `None` leaves the server's setting.
    pub wal_sender_timeout: Option<Duration>,
}

/// `server_version_num`: 150018 is 15.18.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerVersion(pub u32);

impl ServerVersion {
    /// 13–18.
    pub const fn major(self) -> u32 {
        self.0 / 10_000
    }

    /// The number after the dot.
    pub const fn minor(self) -> u32 {
        self.0 % 10_000
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}

/// What IDENTIFY_SYSTEM answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The cluster.
    pub system_id: SystemId,
    /// The server's current timeline; on a standby, the one that it replays.
    pub timeline: TimelineId,
    /// How far WAL is flushed; on a standby, how far it is replayed.
    pub flush_lsn: Lsn,
}

/// A physical slot, as READ_REPLICATION_SLOT shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    /// The server (13, 14) has no such command.
    Unsupported,
    /// No slot of that name.
    Absent,
    /// The slot is there but holds nothing: it was invalidated, or created without reserving WAL and never used.
    Lost,
    /// The slot keeps all WAL from here on.
    Reserved {
        /// What was last reported as flushed.
        restart_lsn: Lsn,
        /// The timeline that `restart_lsn` lies on.
        timeline: TimelineId,
    },
}

/// How long a slot lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotLifetime {
    /// Until it is dropped.
    Permanent,
    /// As long as the session that made it.
    Temporary,
}

/// Where WAL goes on after a timeline has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextTimeline {
    /// The timeline to follow.
    pub timeline: TimelineId,
    /// The switch point: the first byte that belongs to it. It may lie before bytes already received.
    pub start: Lsn,
}
