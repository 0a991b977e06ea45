//! Whether the server is still there.
//!
//! A host that vanishes resets no connection, and TCP asks a silent peer nothing while bytes of ours are not
//! acknowledged; we report every few seconds, so they never are. And a server that hears of us has no reason to speak:
//! an idle one may be silent for hours. So after a while we ask, and a server that lives answers at once.

use std::time::Duration;

use super::pace::Tick;

/// Silence before the reports ask for an answer.
const ASK_AFTER: Duration = Duration::from_secs(10);

/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(18);

/// The server's silence in one session.
#[derive(Debug, Default)]
pub(crate) struct Silence {
    heard: Tick,
    asked: Option<Tick>,
}

impl Silence {
    /// The server has said something, or could not: we did not listen.
    pub(crate) fn broken(&mut self, now: Tick) {
        (self.heard, self.asked) = (now, None);
    }

    /// Whether a report that is sent now asks for an answer.
    pub(crate) fn asks(&mut self, now: Tick) -> bool {
        let asks = now.saturating_sub(self.heard) >= ASK_AFTER;
        if asks {
            self.asked.get_or_insert(now);
        }
        asks
    }

    /// How long it has lasted, once a question has gone unanswered for too long.
    pub(crate) fn final_after(&self, now: Tick) -> Option<Duration> {
        let asked = self.asked?;
        (now.saturating_sub(asked) >= PATIENCE).then(|| now.saturating_sub(self.heard))
    }

    /// When to look at [`Silence::final_after`], if there is a question.
    pub(crate) fn deadline(&self) -> Option<Tick> {
        self.asked.map(|asked| asked + PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Tick {
        Tick::from_secs(seconds)
    }

    #[test]
    fn a_silent_server_is_asked_and_given_up_only_after_that() {
        let mut silence = Silence::default();
        silence.broken(s(100));
        assert!(!silence.asks(s(106)));
        // As of an agent that was frozen: nobody was asked.
        assert_eq!(silence.final_after(s(900)), None);
        assert!(silence.asks(s(112)) && silence.asks(s(118)));
        assert_eq!(silence.deadline(), Some(s(130)));
        assert_eq!(silence.final_after(s(129)), None);
        assert_eq!(silence.final_after(s(130)), Some(s(30)));
        silence.broken(s(131));
        assert_eq!((silence.final_after(s(900)), silence.deadline()), (None, None));
    }
}
