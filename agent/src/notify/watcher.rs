//! What nobody calls out must be noticed: a stream that stays away, an archiver that fails again and again.

use std::time::{Duration, Instant};

use proto::config::NotifyConfig;
use tokio::sync::watch;

use super::event::{Event, EventKind};
use super::sender::Events;
use crate::archive::ArchiveState;
use crate::stream::{Alarm, StreamPhase, StreamState};

/// Between looks.
const PACE: Duration = Duration::from_secs(1);

/// Looks at the agent's state, and tells what there is to tell. `streams`: whether there is a stream at all.
pub async fn watch_agent(
    stream: StreamState,
    archive: ArchiveState,
    streams: bool,
    config: watch::Receiver<NotifyConfig>,
    events: Events,
) {
    let (mut stream_away, mut archive_fails) = (Trouble::default(), Trouble::default());
    loop {
        tokio::time::sleep(PACE).await;
        let (now, after) = (Instant::now(), config.borrow().after);
        for (alarm, message) in stream.take_alarms() {
            let kind = match alarm {
                Alarm::Gap => EventKind::Gap,
                Alarm::SlotLost => EventKind::SlotLost,
                Alarm::Diverged => EventKind::Diverged,
            };
            events.tell(Event::now(kind, message));
        }
        let state = stream.status().state;
        // An agent that waits for another's slot is where it should be.
        let is_away = streams && state != StreamPhase::Streaming && !stream.waits_for_slot();
        if let Some(news) = stream_away.look(is_away, after, now) {
            let error = stream.last_error().map(|error| error.message).unwrap_or_default();
            events.tell(match news {
                News::Lasts(time) => event(
                    EventKind::StreamDown,
                    time,
                    format!("no WAL has been streamed for {} s: {error}", time.as_secs()),
                ),
                News::Over(time) => event(
                    EventKind::StreamBack,
                    time,
                    format!("WAL is streamed again, after {} s", time.as_secs()),
                ),
            });
        }
        let status = archive.status();
        if let Some(news) = archive_fails.look(status.last_error.is_some(), after, now) {
            let error = status.last_error.unwrap_or_default();
            events.tell(match news {
                News::Lasts(time) => event(
                    EventKind::ArchiveFailing,
                    time,
                    format!("archive_command has been failing for {} s: {error}", time.as_secs()),
                ),
                News::Over(time) => event(
                    EventKind::ArchiveBack,
                    time,
                    format!("archive_command succeeds again, after {} s", time.as_secs()),
                ),
            });
        }
    }
}

fn event(kind: EventKind, time: Duration, message: String) -> Event {
    Event { seconds: Some(time.as_secs_f64()), ..Event::now(kind, message) }
}

/// Something that may go on for a while before it is worth telling.
#[derive(Debug, Default)]
struct Trouble {
    since: Option<Instant>,
    is_told: bool,
}

/// What there is to tell.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// It has gone on for so long.
    Lasts(Duration),
    /// It is over, after so long. Only said of what was told.
    Over(Duration),
}

impl Trouble {
    fn look(&mut self, is_there: bool, after: Duration, now: Instant) -> Option<News> {
        if !is_there {
            let since = self.since.take();
            let was_told = std::mem::take(&mut self.is_told);
            return since.filter(|_| was_told).map(|since| News::Over(now - since));
        }
        let lasts = now - *self.since.get_or_insert(now);
        if self.is_told || lasts < after {
            return None;
        }
        self.is_told = true;
        Some(News::Lasts(lasts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_told_once_and_so_is_its_end() {
        let (mut trouble, begun) = (Trouble::default(), Instant::now());
        let seconds = Duration::from_secs;
        let mut look = |is_there, second| trouble.look(is_there, seconds(60), begun + seconds(second));
        assert_eq!(look(false, 0), None);
        assert_eq!(look(true, 10), None);
        assert_eq!(look(false, 20), None, "it was too short to be told");
        assert_eq!(look(true, 30), None);
        assert_eq!(look(true, 89), None);
        assert_eq!(look(true, 90), Some(News::Lasts(seconds(60))));
        assert_eq!(look(true, 1000), None);
        assert_eq!(look(false, 1001), Some(News::Over(seconds(971))));
        assert_eq!(look(false, 1002), None);
        assert_eq!(look(true, 1003), None);
    }
}
