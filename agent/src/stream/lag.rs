//! How long bytes have been waiting to become durable.

use std::collections::VecDeque;
use std::time::Duration;

use proto::Lsn;

use super::pace::Tick;

/// Since when bytes have been waiting to become durable.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Ends of stretches and when their first byte arrived.
    stretches: VecDeque<(Lsn, Tick)>,
}

impl Waiting {
    /// Stretches closer together than this count as one.
    const GRAIN: Duration = Duration::from_millis(50);
    const MAX: usize = 256;

    pub(super) fn received(&mut self, end: Lsn, now: Tick) {
        let full = self.stretches.len() >= Self::MAX;
        match self.stretches.back_mut() {
            Some((last, since)) if full || now.saturating_sub(*since) < Self::GRAIN => *last = end,
            _ => self.stretches.push_back((end, now)),
        }
    }

    pub(super) fn durable(&mut self, to: Lsn) {
        while self.stretches.front().is_some_and(|(end, _)| *end <= to) {
            self.stretches.pop_front();
        }
    }

    pub(super) fn since(&self) -> Option<Tick> {
        self.stretches.front().map(|(_, since)| *since)
    }
}
