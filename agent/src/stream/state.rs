//! What the stream does now, for `walkeep status`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::{Lsn, SystemId, TimelineId};
use serde::Serialize;
use tokio::time::Instant;

use super::counts::StreamCounts;
use crate::notify::{Repeats, Told};
use crate::troubles::{Trouble, Troubles};

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
    troubles: Troubles,
    streaming_since: Option<Instant>,
    waits_for_slot: bool,
    alarms: VecDeque<(Alarm, String)>,
    flush_interval: Option<Duration>,
    system_id: Option<SystemId>,
    told: Option<Repeats>,
    touched: Option<Instant>,
}

/// An error that goes on is told again after that.
const SILENCE: Duration = Duration::from_secs(600);

/// What people must be told of, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// WAL is missing for good.
    Gap,
    /// The server has dropped what the slot should have kept.
    SlotLost,
    /// The server's WAL is not the repository's.
    Diverged,
}

/// So many alarms wait for whoever takes them; the oldest is forgotten first.
const MOST_ALARMS: usize = 32;

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
pub struct StreamState {
    inner: Arc<Mutex<Inner>>,
    counts: Arc<StreamCounts>,
}

impl StreamState {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of what goes on now.
    pub fn status(&self) -> StreamStatus {
        self.lock().status.clone()
    }

    /// The last thing that went wrong since the agent was started.
    pub fn last_error(&self) -> Option<LastError> {
        self.lock().troubles.last().map(|last| LastError { message: last.message.clone(), at: last.last })
    }

    /// What went wrong lately, oldest first.
    pub fn troubles(&self) -> Vec<Trouble> {
        self.lock().troubles.all().cloned().collect()
    }

    /// What was done since the agent was started.
    pub fn counts(&self) -> &StreamCounts {
        &self.counts
    }

    /// How long WAL has been flowing without a break.
    pub fn streaming_for(&self) -> Option<Duration> {
        self.lock().streaming_since.map(|since| since.elapsed())
    }

    /// Whether another session has the slot, and this agent only stands by.
    pub fn waits_for_slot(&self) -> bool {
        self.lock().waits_for_slot
    }

    /// The system identifier of the server that was chosen last; `None` before one was.
    pub fn system_id(&self) -> Option<SystemId> {
        self.lock().system_id
    }

    pub(crate) fn has_chosen(&self, system_id: SystemId) {
        self.lock().system_id = Some(system_id);
    }

    pub(crate) fn wait_for_slot(&self) {
        self.set_phase(StreamPhase::Waiting);
        self.lock().waits_for_slot = true;
    }

    pub(crate) fn alarm(&self, alarm: Alarm, message: &str) {
        let mut inner = self.lock();
        if inner.alarms.len() >= MOST_ALARMS {
            inner.alarms.pop_front();
        }
        inner.alarms.push_back((alarm, message.to_owned()));
    }

    /// The alarms since they were last taken.
    pub fn take_alarms(&self) -> Vec<(Alarm, String)> {
        self.lock().alarms.drain(..).collect()
    }

    /// From now on WAL waits no longer than this, if it waits at all.
    pub fn set_flush_interval(&self, interval: Duration) {
        self.lock().flush_interval = Some(interval);
    }

    /// What was set since the start.
    pub(crate) fn flush_interval(&self) -> Option<Duration> {
        self.lock().flush_interval
    }

    /// Nothing will be streamed.
    pub fn disabled(&self) {
        self.set_phase(StreamPhase::Stopped);
    }

    pub(crate) fn set_phase(&self, phase: StreamPhase) {
        let mut inner = self.lock();
        if inner.status.state == StreamPhase::Streaming && phase != StreamPhase::Streaming {
            self.counts.interrupted();
        }
        // A stream that was stopped stays so, for whoever looks, until WAL flows again.
        if inner.status.state != StreamPhase::Stopped || phase != StreamPhase::Connecting {
            inner.status.state = phase;
        }
        inner.touched = Some(Instant::now());
        // While it looks whether the slot is free now, it still stands by.
        inner.waits_for_slot &= phase == StreamPhase::Connecting;
        inner.streaming_since = None;
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut StreamStatus)) {
        let mut inner = self.lock();
        inner.status.state = StreamPhase::Streaming;
        inner.streaming_since.get_or_insert_with(Instant::now);
        inner.waits_for_slot = false;
        inner.touched = Some(Instant::now());
        let status = &mut inner.status;
        change(status);
        status.lag_bytes = status.server_lsn.zip(status.durable_lsn).map(|(s, d)| s.bytes_since(d));
    }

    /// Notes an error. Returns whether it is another one than the last, and so worth a line in the log.
    ///
    /// One that goes on is told from here now and then, with its count.
    pub(crate) fn set_error(&self, message: &str) -> bool {
        let mut inner = self.lock();
        inner.touched = Some(Instant::now());
        inner.troubles.note(message, jiff::Timestamp::now());
        let told = inner.told.get_or_insert_with(|| Repeats::new(SILENCE));
        match told.note(message, Instant::now().into_std()) {
            Told::Now(1) => true,
            Told::Now(count) => {
                tracing::warn!(count, "it goes on: {message}");
                false
            }
            Told::Counted => false,
        }
    }

    /// For how long nothing has been heard of the stream: neither WAL nor a sign of life, no error, no other phase.
    pub fn quiet_for(&self) -> Duration {
        self.lock().touched.map(|touched| touched.elapsed()).unwrap_or_default()
    }
}
