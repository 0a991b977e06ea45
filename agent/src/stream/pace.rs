//! When what has been received is due to be stored.

use std::time::Duration;

/// Time since the session began.
pub(crate) type Tick = Duration;

/// A flush at once begins beside others only after the last one has been under way for so long: then the store is slow,
/// and waiting for it would double the time of a commit. Before that, waiting gathers a group.
pub(super) const SLOW: Duration = Duration::from_millis(10);

/// When received WAL is to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flush {
    /// A byte waits this long at most.
    Every(Duration),
    /// As soon as something is there and no flush is in flight; what arrives meanwhile makes up the next: group commit.
    /// While the store is slow, a few overlap.
    AtOnce,
}

#[derive(Debug)]
pub(super) struct Pace {
    flush: Flush,
    /// Since when the oldest byte that is not planned has been here.
    pending_since: Option<Tick>,
    /// When the last flush was begun.
    flushed_at: Tick,
    /// Somebody waits: do not wait for `flush_interval`.
    hurry: bool,
}

impl Pace {
    pub(super) fn new(flush: Flush) -> Self {
        Self { flush, pending_since: None, flushed_at: Tick::ZERO, hurry: false }
    }

    pub(super) fn is_at_once(&self) -> bool {
        self.flush == Flush::AtOnce
    }

    /// Bytes wait no longer than this from now on. Without a meaning where they are flushed at once.
    pub(super) fn set_interval(&mut self, interval: Duration) {
        if let Flush::Every(current) = &mut self.flush {
            *current = interval;
        }
    }

    /// Bytes have arrived.
    pub(super) fn received(&mut self, now: Tick) {
        self.pending_since.get_or_insert(now);
    }

    /// All that has arrived is on its way.
    pub(super) fn planned(&mut self) {
        self.pending_since = None;
    }

    /// Somebody waits until [`Pace::calm`].
    pub(super) fn hurry(&mut self) {
        self.hurry = true;
    }

    /// Nobody waits any more.
    pub(super) fn calm(&mut self) {
        self.hurry = false;
    }

    /// A flush has begun.
    pub(super) fn flushed(&mut self, now: Tick) {
        self.flushed_at = now;
    }

    /// When the next flush is due; `in_flight` if one is under way.
    pub(super) fn deadline(&self, in_flight: bool) -> Option<Tick> {
        match self.flush {
            Flush::Every(interval) => self.pending_since.map(|since| since + interval),
            Flush::AtOnce if in_flight => Some(self.flushed_at + SLOW),
            Flush::AtOnce => Some(Tick::ZERO),
        }
    }

    pub(super) fn is_due(&self, now: Tick, in_flight: bool) -> bool {
        let waits = self.hurry && !self.is_at_once();
        waits || self.deadline(in_flight).is_some_and(|due| now >= due)
    }
}
