//! Waiting longer after each failure.

use std::time::Duration;

/// Doubles from `first` to `most`, with a quarter of jitter so that many agents do not come back at once.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    next: Duration,
    most: Duration,
}

impl Backoff {
    /// Begins with `first`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, next: first, most }
    }

    /// How long to wait now.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.most);
        wait.mul_f64(0.75 + repository::chance::random::<f64>() / 4.0)
    }

    /// It has worked: begin anew.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_limit_and_begins_anew() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        let waits: Vec<u128> = (0..5).map(|_| backoff.next_wait().as_millis()).collect();
        for (wait, most) in waits.into_iter().zip([1000, 2000, 4000, 5000, 5000]) {
            assert!((most * 3 / 4..=most).contains(&wait), "{wait} of {most}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_secs(1));
    }
}
