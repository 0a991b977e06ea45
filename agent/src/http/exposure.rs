//! What would be lost if the server burned now: for how long its oldest WAL has been waiting to become durable.

use std::collections::VecDeque;
use std::time::Duration;

use proto::Lsn;

use crate::stream::{StreamPhase, StreamStatus};

/// Time since the agent was started.
pub(super) type Tick = Duration;

/// Positions that are remembered: at one a second an hour's.
const MOST: usize = 3600;

/// Follows how far the server's WAL was at which time, and what of it is durable.
#[derive(Debug, Default)]
pub(super) struct Exposure {
    /// Where the server was at some time, and when; none of it durable. Ascending.
    ahead: VecDeque<(Lsn, Tick)>,
    /// When everything that the server was known to have was durable.
    safe: Option<Tick>,
}

impl Exposure {
    /// Looks at the stream.
    pub(super) fn observe(&mut self, status: &StreamStatus, now: Tick) {
        let (Some(server), Some(durable)) = (status.server_lsn, status.durable_lsn) else { return };
        while self.ahead.front().is_some_and(|(lsn, _)| *lsn <= durable) {
            // All up to there is safe, and it was all that there was at that time.
            self.safe = self.ahead.pop_front().map(|(_, at)| at);
        }
        if status.state != StreamPhase::Streaming {
            return;
        }
        if server <= durable {
            self.ahead.clear();
            self.safe = Some(now);
        } else if self.ahead.back().is_none_or(|(lsn, _)| *lsn < server) && self.ahead.len() < MOST {
            self.ahead.push_back((server, now));
        }
    }

    /// How much time's commits would be lost; `None` if nothing was ever seen to be safe.
    pub(super) fn seconds(&self, status: &StreamStatus, now: Tick) -> Option<f64> {
        let since = |at: Tick| now.saturating_sub(at).as_secs_f64();
        if status.state == StreamPhase::Streaming {
            let ahead = self.ahead.front().map_or(0.0, |(_, at)| since(*at));
            return Some(ahead.max(status.lag_seconds.unwrap_or(0.0)));
        }
        // Nobody sees what the server does meanwhile.
        self.safe.map(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: StreamPhase, server: u64, durable: u64) -> StreamStatus {
        StreamStatus {
            state,
            server_lsn: Some(Lsn(server)),
            durable_lsn: Some(Lsn(durable)),
            ..StreamStatus::default()
        }
    }

    const fn s(seconds: u64) -> Tick {
        Tick::from_secs(seconds)
    }

    #[test]
    fn what_waits_counts_from_when_it_was_written() {
        use StreamPhase::Streaming;
        let mut exposure = Exposure::default();
        let mut at = |now, server, durable| {
            let status = status(Streaming, server, durable);
            exposure.observe(&status, s(now));
            exposure.seconds(&status, s(now)).unwrap()
        };
        assert_eq!(at(0, 100, 100), 0.0);
        assert_eq!(at(1, 200, 100), 0.0, "only just seen");
        assert_eq!(at(4, 300, 100), 3.0);
        // What was there at 1 is durable; what came at 4 is not.
        assert_eq!(at(6, 300, 250), 2.0);
        assert_eq!(at(9, 300, 300), 0.0);
    }

    #[test]
    fn without_a_stream_it_grows_from_the_last_safe_moment() {
        let mut exposure = Exposure::default();
        let away = |server, durable| status(StreamPhase::Waiting, server, durable);
        assert_eq!(exposure.seconds(&away(0, 0), s(5)), None);
        exposure.observe(&status(StreamPhase::Streaming, 100, 100), s(10));
        exposure.observe(&status(StreamPhase::Streaming, 200, 100), s(12));
        exposure.observe(&away(200, 100), s(20));
        assert_eq!(exposure.seconds(&away(200, 100), s(30)), Some(20.0));
        // The last flush came through after the connection was lost.
        exposure.observe(&away(200, 200), s(31));
        assert_eq!(exposure.seconds(&away(200, 200), s(32)), Some(20.0));
    }
}
