//! Counters and durations of what has happened since the agent was started: cheap to count, read now and then.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper ends of the buckets of a [`Histogram`], in seconds: from a sync of a good disk to a store that is nearly away.
pub const BOUNDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// How many times something has happened.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Once more.
    pub fn add_one(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Until now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How long something took, each time.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BOUNDS.len()],
    count: Counter,
    nanoseconds: Counter,
}

/// What a [`Histogram`] held at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Durations {
    /// For each of [`BOUNDS`]: how many took no longer.
    pub at_most: [u64; BOUNDS.len()],
    /// How many there were.
    pub count: u64,
    /// Seconds of all together.
    pub sum: f64,
}

impl Histogram {
    /// Another one took so long.
    pub fn record(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        if let Some(bucket) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.buckets[bucket].add_one();
        }
        self.nanoseconds.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        self.count.add_one();
    }

    /// A copy. One that is recorded meanwhile may be in it in part: no more than one is off.
    pub fn durations(&self) -> Durations {
        let mut durations = Durations {
            count: self.count.get(),
            sum: Duration::from_nanos(self.nanoseconds.get()).as_secs_f64(),
            ..Durations::default()
        };
        let mut below = 0;
        for (bucket, at_most) in self.buckets.iter().zip(&mut durations.at_most) {
            below += bucket.get();
            *at_most = below;
        }
        // A reader takes the last bucket for the count.
        durations.count = durations.count.max(below);
        durations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_in_its_bucket_and_all_above() {
        let histogram = Histogram::default();
        for millis in [1, 2, 400, 60_000] {
            histogram.record(Duration::from_millis(millis));
        }
        let durations = histogram.durations();
        assert_eq!(durations.at_most, [0, 1, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3]);
        assert_eq!(durations.count, 4);
        assert!((durations.sum - 60.403).abs() < 1e-9, "{}", durations.sum);
    }
}
