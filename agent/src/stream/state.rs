//! What the stream does now, for `walkeep status`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::{Lsn, TimelineId};
use serde::Serialize;
use tokio::time::Instant;

/// One word for what goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StreamPhase {
    /// On the way to the server.
    #[default]
    Connecting,
    /// WAL flows.
    Streaming,
    /// The server is away; the agent will come back to it.
    Waiting,
    /// Nothing goes on until an operator has acted, or streaming is not enabled.
    Stopped,
}

/// Positions of the running stream. `None`: not known yet.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct StreamStatus {
    /// What goes on.
    pub state: StreamPhase,
    /// The timeline that is streamed.
    pub timeline: Option<TimelineId>,
    /// The end of what the server has sent.
    pub received_lsn: Option<Lsn>,
    /// Everything before it is durable in the repository, and acknowledged.
    pub durable_lsn: Option<Lsn>,
    /// The end of the server's WAL, as it last said.
    pub server_lsn: Option<Lsn>,
    /// From `durable_lsn` to `server_lsn`.
    pub lag_bytes: Option<u64>,
    /// How long the oldest received byte has been waiting to become durable.
    pub lag_seconds: Option<f64>,
}

#[derive(Debug, Default)]
struct Inner {
    status: StreamStatus,
    last_error: Option<LastError>,
    streaming_since: Option<Instant>,
}

/// The last thing that went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastError {
    /// One sentence.
    pub message: String,
    /// When it was last seen.
    pub at: jiff::Timestamp,
}

/// Shared between the stream, which writes, and whoever asks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct StreamState(Arc<Mutex<Inner>>);

impl StreamState {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of what goes on now.
    pub fn status(&self) -> StreamStatus {
        self.lock().status.clone()
    }

    /// The last thing that went wrong since the agent was started.
    pub fn last_error(&self) -> Option<LastError> {
        self.lock().last_error.clone()
    }

    /// How long WAL has been flowing without a break.
    pub fn streaming_for(&self) -> Option<Duration> {
        self.lock().streaming_since.map(|since| since.elapsed())
    }

    /// Nothing will be streamed.
    pub fn disabled(&self) {
        self.set_phase(StreamPhase::Stopped);
    }

    pub(crate) fn set_phase(&self, phase: StreamPhase) {
        let mut inner = self.lock();
        // A stream that was stopped stays so, for whoever looks, until WAL flows again.
        if inner.status.state != StreamPhase::Stopped || phase != StreamPhase::Connecting {
            inner.status.state = phase;
        }
        inner.streaming_since = None;
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut StreamStatus)) {
        let mut inner = self.lock();
        inner.status.state = StreamPhase::Streaming;
        inner.streaming_since.get_or_insert_with(Instant::now);
        let status = &mut inner.status;
        change(status);
        status.lag_bytes = status.server_lsn.zip(status.durable_lsn).map(|(s, d)| s.bytes_since(d));
    }

    /// Notes an error. Returns whether it is another one than the last, and so worth a line in the log.
    pub(crate) fn set_error(&self, message: &str) -> bool {
        let mut inner = self.lock();
        let news = inner.last_error.as_ref().is_none_or(|last| last.message != message);
        inner.last_error = Some(LastError { message: message.to_owned(), at: jiff::Timestamp::now() });
        news
    }
}
