//! Holds a stream of bytes back to a rate.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use proto::config::UploadRate;

/// Lets bytes pass, no faster than the rate on average: within any span of time as many as it allows, and one piece.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: Option<UploadRate>,
    /// When all that has passed may have passed.
    free: Option<Instant>,
}

impl Pace {
    /// Without a rate nothing is held back.
    pub(crate) fn new(rate: Option<UploadRate>) -> Self {
        Self { rate, free: None }
    }

    /// Waits until a piece of `length` bytes may go on.
    pub(crate) async fn pass(&mut self, length: usize) {
        let now = Instant::now();
        tokio::time::sleep_until(self.turn(now, length).into()).await;
    }

    /// The same where several share the rate.
    pub(crate) async fn pass_shared(pace: &Mutex<Self>, length: usize) {
        let now = Instant::now();
        let turn = pace.lock().unwrap_or_else(PoisonError::into_inner).turn(now, length);
        tokio::time::sleep_until(turn.into()).await;
    }

    /// When a piece may go on that is there `now`.
    fn turn(&mut self, now: Instant, length: usize) -> Instant {
        let Some(rate) = self.rate else { return now };
        // What was not used in the past is gone: nobody may make up for it by a burst.
        let turn = self.free.map_or(now, |free| free.max(now));
        self.free = Some(turn + Duration::from_secs_f64(length as f64 / rate.bytes() as f64));
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_passes_than_the_rate_allows() {
        let mut pace = Pace::new("1MiB".parse().ok());
        let begun = Instant::now();
        let turns: Vec<Instant> = (0..11).map(|_| pace.turn(begun, 1 << 20)).collect();
        assert_eq!(turns[0], begun, "the first one goes at once");
        assert_eq!(turns[10], begun + Duration::from_secs(10));
        // A pause is no credit.
        let later = begun + Duration::from_secs(100);
        let turns: Vec<Instant> = (0..3).map(|_| pace.turn(later, 1 << 19)).collect();
        assert_eq!(turns[2], later + Duration::from_secs(1));
    }

    #[test]
    fn without_a_rate_nobody_waits() {
        let mut pace = Pace::new(None);
        let now = Instant::now();
        assert_eq!((pace.turn(now, usize::MAX), pace.turn(now, 1)), (now, now));
    }
}
