//! All that is known at one moment: plain data, of which metrics, page and readiness are made.

use std::time::Duration;

use jiff::Timestamp;
use proto::Lsn;
use repository::store::Written;

use super::history::Sample;
use super::look::{RepositoryFacts, ServerFacts};
use crate::archive::ArchiveStatus;
use crate::counters::Durations;
use crate::health::Examination;
use crate::looks::Look;
use crate::schedule::ScheduleStatus;
use crate::stream::{PutKind, StreamPhase, StreamStatus};
use crate::troubles::Trouble;

/// What was put of one kind.
#[derive(Debug, Clone)]
pub(super) struct Puts {
    pub(super) kind: PutKind,
    pub(super) durations: Durations,
    /// Bytes of WAL, uncompressed.
    pub(super) bytes: u64,
}

/// What the archiver's calls have come to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Calls {
    pub(super) answered: u64,
    pub(super) shipped: u64,
    pub(super) refused: u64,
    pub(super) failed: u64,
}

/// Everything.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) now: Timestamp,
    pub(super) started: Timestamp,
    pub(super) cluster: String,
    /// The store in words, without anything secret.
    pub(super) store: String,
    pub(super) stream_enabled: bool,
    pub(super) synchronous: bool,
    pub(super) flush_interval: Duration,
    pub(super) stream: StreamStatus,
    /// Whether another session has the slot, and this agent only stands by.
    pub(super) stands_by: bool,
    /// What is done by itself; `None`: nothing is.
    pub(super) schedule: Option<ScheduleStatus>,
    /// How long commits have not been safe, as far as the stream tells.
    pub(super) exposed: Option<f64>,
    pub(super) puts: Vec<Puts>,
    pub(super) retries: u64,
    pub(super) interruptions: u64,
    pub(super) archive: ArchiveStatus,
    pub(super) calls: Calls,
    pub(super) written: Written,
    /// The last ones, newest first.
    pub(super) troubles: Vec<Trouble>,
    pub(super) history: Vec<Sample>,
    pub(super) repository: Look<RepositoryFacts>,
    pub(super) server: Look<ServerFacts>,
    /// Where `[health]` has it watched.
    pub(super) health: Look<Examination>,
}

/// What would be lost if the server burned now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct AtRisk {
    /// WAL that is on the server and nowhere else.
    pub(super) bytes: Option<u64>,
    /// How much time's commits these are, at most.
    pub(super) seconds: Option<f64>,
}

impl Facts {
    /// Whether WAL flows.
    pub(super) fn streams(&self) -> bool {
        self.stream.state == StreamPhase::Streaming
    }

    /// What would be lost if the server burned now.
    ///
    /// While WAL flows the stream knows. Else it is from what is durable to where the server was when it was last looked at,
    /// and the time since that was everything.
    pub(super) fn at_risk(&self) -> AtRisk {
        if self.streams() {
            return AtRisk { bytes: self.stream.lag_bytes, seconds: self.exposed };
        }
        let server = self.server.facts().and_then(|facts| facts.lsn);
        let bytes = server.zip(self.durable()).map(|(server, durable)| server.bytes_since(durable));
        let newest = self.newest_time();
        let stored = newest.map(|time| self.now.duration_since(time).as_secs_f64().max(0.0));
        // What was streamed in this agent's life is known best.
        let seconds = match (self.exposed, stored) {
            (Some(exposed), Some(stored)) => Some(exposed.min(stored)),
            (known, None) | (None, known) => known,
        };
        AtRisk { bytes, seconds }
    }

    /// Everything before it can be restored, as far as is known: on the timeline that goes furthest.
    fn durable(&self) -> Option<Lsn> {
        let windows = self.repository.facts().map(|facts| facts.windows.as_slice()).unwrap_or_default();
        windows.iter().map(|window| window.to_lsn).chain(self.stream.durable_lsn).max()
    }

    /// When the newest WAL that is durable was written, or handed over.
    fn newest_time(&self) -> Option<Timestamp> {
        let windows = self.repository.facts().map(|facts| facts.windows.as_slice()).unwrap_or_default();
        windows.iter().filter_map(|window| window.to_time).chain(self.archive.last_at).max()
    }
}

#[cfg(test)]
#[path = "facts_tests.rs"]
pub(super) mod tests;
