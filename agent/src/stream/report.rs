//! When to report which position to the server.

use std::time::Duration;

use proto::Lsn;

use super::pace::Tick;

/// The longest silence. A third of the `wal_sender_timeout` that our session asks for.
const INTERVAL: Duration = Duration::from_secs(6);

/// A server that shuts down answers each report with another question, until all is durable. Answering each at
/// once would keep both sides busy for as long as the repository takes.
const PATIENCE: Duration = Duration::from_millis(100);

/// The reports of one session: never a lower position than before.
#[derive(Debug)]
pub(crate) struct Reporter {
    /// What the slot has. Reporting it again acknowledges nothing new, but lets a server shut down that has sent
    /// nothing since.
    floor: Lsn,
    reported: Lsn,
    at: Option<Tick>,
    asked: bool,
}

impl Reporter {
    /// Nothing below `floor` is reported: it would only move the slot back.
    pub(crate) fn new(floor: Lsn) -> Self {
        Self { floor, reported: Lsn::INVALID, at: None, asked: false }
    }

    /// The last position reported.
    pub(crate) fn reported(&self) -> Lsn {
        self.reported
    }

    /// The server wants an answer.
    pub(crate) fn ask(&mut self) {
        self.asked = true;
    }

    /// The position to report now, if one is due. `INVALID` leaves the slot as it is.
    pub(crate) fn due(&mut self, durable: Lsn, now: Tick) -> Option<Lsn> {
        let position = if durable >= self.floor { durable.max(self.reported) } else { self.reported };
        let since = self.at.map(|at| now.saturating_sub(at));
        let due = match since {
            None => true,
            Some(since) => position > self.reported || since >= INTERVAL || (self.asked && since >= PATIENCE),
        };
        due.then(|| {
            self.reported = position;
            self.at = Some(now);
            self.asked = false;
            position
        })
    }

    /// When a report is due though nothing else happens.
    pub(crate) fn deadline(&self) -> Tick {
        let wait = if self.asked { PATIENCE } else { INTERVAL };
        self.at.map_or(Tick::ZERO, |at| at + wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Tick {
        Tick::from_millis(millis)
    }

    #[test]
    fn progress_is_told_at_once_and_silence_never_lasts() {
        let mut reporter = Reporter::new(Lsn(100));
        assert_eq!(reporter.due(Lsn(99), ms(0)), Some(Lsn::INVALID));
        assert_eq!(reporter.due(Lsn(99), ms(1)), None);
        assert_eq!(reporter.due(Lsn(101), ms(2)), Some(Lsn(101)));
        assert_eq!(reporter.due(Lsn(101), ms(5_000)), None);
        assert_eq!(reporter.due(Lsn(101), ms(6_002)), Some(Lsn(101)));
    }

    #[test]
    fn a_question_is_answered_soon_but_not_in_a_circle() {
        let mut reporter = Reporter::new(Lsn(100));
        reporter.due(Lsn(100), ms(0));
        reporter.ask();
        assert_eq!(reporter.due(Lsn(100), ms(1)), None);
        assert_eq!(reporter.deadline(), ms(100));
        assert_eq!(reporter.due(Lsn(100), ms(100)), Some(Lsn(100)));
        reporter.ask();
        assert_eq!(reporter.due(Lsn(200), ms(101)), Some(Lsn(200)));
    }

    #[test]
    fn positions_never_go_back() {
        let mut reporter = Reporter::new(Lsn(100));
        assert_eq!(reporter.due(Lsn(300), ms(0)), Some(Lsn(300)));
        assert_eq!(reporter.due(Lsn(200), ms(10_000)), Some(Lsn(300)));
    }
}
