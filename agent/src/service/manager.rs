//! What systemd is told, over the socket that it names in the environment. Without one nothing is said.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::schedule::ScheduleState;
use crate::stream::{StreamPhase, StreamState, StreamStatus};

/// Between looks, without a watchdog.
const PACE: Duration = Duration::from_secs(5);

/// Longer than any wait between two tries.
const MORE_TIME: Duration = Duration::from_secs(300);

/// A stream that has neither received, nor failed, nor begun anew for so long has a defect: an idle server gives a sign of life
/// every ten seconds, and what does not answer is given up in less than a minute.
const STALE: Duration = Duration::from_secs(15 * 60);

/// The service manager.
#[derive(Debug, Default)]
pub struct Manager {
    /// It was told that it cannot be reached.
    is_lost: AtomicBool,
}

impl Manager {
    /// The agent serves.
    pub fn ready(&self) {
        self.say(&[NotifyState::Ready]);
    }

    /// The agent reads its configuration anew. To be followed by [`Manager::ready`].
    pub fn reloading(&self) {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            self.say(&[NotifyState::Reloading, now]);
        }
    }

    /// The agent cannot begin before something answers: it is to be given the time.
    pub fn waiting(&self, why: &str) {
        let more = u32::try_from(MORE_TIME.as_micros()).unwrap_or(u32::MAX);
        self.say(&[NotifyState::Status(why), NotifyState::ExtendTimeoutUsec(more)]);
    }

    /// The agent is ending, and finishes what is in flight.
    pub fn stopping(&self) {
        self.say(&[
            NotifyState::Stopping,
            NotifyState::Status("stopping: what was received is stored first"),
        ]);
    }

    fn say(&self, states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states)
            && !self.is_lost.swap(true, Ordering::Relaxed)
        {
            warn!("the service manager cannot be told anything: {error}");
        }
    }
}

/// Says now and then how it goes, and, where a watchdog waits for it, that the agent is alive: as long as the stream moves.
/// `stream`: `None` where nothing is streamed.
pub async fn pulse(manager: &Manager, stream: Option<StreamState>, schedule: ScheduleState) {
    // Three chances for each deadline.
    let pace = sd_notify::watchdog_enabled().map_or(PACE, |limit| (limit / 3).min(PACE));
    let (mut last, mut was_alive) = (String::new(), true);
    let mut next = Instant::now();
    loop {
        let line = line(stream.as_ref().map(StreamState::status).as_ref(), running(&schedule).as_deref());
        if line != last {
            manager.say(&[NotifyState::Status(&line)]);
            last = line;
        }
        let is_alive =
            stream.as_ref().is_none_or(|stream| moves(stream.quiet_for(), stream.waits_for_slot()));
        if is_alive {
            manager.say(&[NotifyState::Watchdog]);
        }
        match (was_alive, is_alive) {
            (true, false) => error!(
                "the stream has not moved for {} s: the service manager is told no more that the agent is alive",
                STALE.as_secs()
            ),
            (false, true) => info!("the stream moves again"),
            _ => {}
        }
        was_alive = is_alive;
        next += pace;
        tokio::time::sleep_until(next).await;
    }
}

/// Whether a stream that was last heard of so long ago does what it should.
fn moves(quiet_for: Duration, waits_for_slot: bool) -> bool {
    waits_for_slot || quiet_for < STALE
}

fn running(schedule: &ScheduleState) -> Option<String> {
    let jobs = schedule.status()?.jobs;
    jobs.into_iter().find(|job| job.running_since.is_some()).map(|job| job.job.to_string())
}

/// What `systemctl status` shows.
fn line(stream: Option<&StreamStatus>, running: Option<&str>) -> String {
    let mut line = match stream {
        None => "serving archive_command".to_owned(),
        Some(stream) => match (stream.state, stream.timeline, stream.lag_bytes) {
            // Whole MiB: what changes with each flush would be said all the time.
            (StreamPhase::Streaming, Some(timeline), Some(lag)) => {
                format!("streaming timeline {timeline}, {} MiB behind", lag >> 20)
            }
            (StreamPhase::Streaming, ..) => "streaming".to_owned(),
            (StreamPhase::Connecting, ..) => "connecting to the server".to_owned(),
            (StreamPhase::Waiting, ..) => "waiting for the server".to_owned(),
            (StreamPhase::Stopped, ..) => "streaming is stopped: somebody has to act".to_owned(),
        },
    };
    if let Some(job) = running {
        line += &format!("; job {job} is running");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_what_goes_on() {
        let mut status = StreamStatus { state: StreamPhase::Streaming, ..StreamStatus::default() };
        status.timeline = proto::TimelineId::new(3);
        status.lag_bytes = Some(5 << 20);
        assert_eq!(
            line(Some(&status), Some("full")),
            "streaming timeline 3, 5 MiB behind; job full is running"
        );
        assert_eq!(line(None, None), "serving archive_command");
    }

    #[test]
    fn only_a_stream_that_stands_still_is_dead() {
        assert!(moves(Duration::from_secs(600), false) && moves(Duration::MAX, true));
        assert!(!moves(STALE, false));
    }
}
