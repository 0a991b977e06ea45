//! What repeats itself is told once, and counted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// So many different things are remembered. Beyond that the oldest is forgotten, and would be told anew.
const MOST: usize = 256;

/// Remembers what was told.
#[derive(Debug)]
pub(crate) struct Repeats {
    /// After so long a thing that goes on is told again.
    silence: Duration,
    known: BTreeMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    told: Instant,
    /// How often it has happened since.
    since: u64,
}

/// Whether something is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// Yes; it has happened so often since the last time, this time included.
    Now(u64),
    /// No: it is counted.
    Counted,
}

impl Repeats {
    /// What goes on is told again after `silence`.
    pub(crate) fn new(silence: Duration) -> Self {
        Self { silence, known: BTreeMap::new() }
    }

    /// It has happened.
    pub(crate) fn note(&mut self, what: &str, now: Instant) -> Told {
        if let Some(known) = self.known.get_mut(what) {
            known.since += 1;
            if now.saturating_duration_since(known.told) < self.silence {
                return Told::Counted;
            }
            known.told = now;
            return Told::Now(std::mem::take(&mut known.since));
        }
        if self.known.len() >= MOST
            && let Some(oldest) =
                self.known.iter().min_by_key(|(_, known)| known.told).map(|(what, _)| what.clone())
        {
            self.known.remove(&oldest);
        }
        self.known.insert(what.to_owned(), Known { told: now, since: 0 });
        Told::Now(1)
    }

    /// Everything that begins with this is over: the next time it is news.
    pub(crate) fn forget(&mut self, prefix: &str) {
        self.known.retain(|what, _| !what.starts_with(prefix));
    }
}

/// A text without what changes from one time to the next: labels, positions, times, numbers.
pub(crate) fn essence(text: &str) -> String {
    let word =
        |word: &str| if word.bytes().any(|b| b.is_ascii_digit()) { "#".to_owned() } else { word.to_owned() };
    text.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_thing_is_counted_until_it_is_told_again() {
        let (mut repeats, begun) = (Repeats::new(Duration::from_secs(60)), Instant::now());
        let mut note = |text: &str, second| repeats.note(&essence(text), begun + Duration::from_secs(second));
        assert_eq!(note("backup 20261124T013015Z-full-1a2b3c failed", 0), Told::Now(1));
        assert_eq!(note("backup 20261125T013015Z-full-ffffff failed", 1), Told::Counted);
        assert_eq!(note("backup 20261126T013015Z-full-1a2b3c failed", 2), Told::Counted);
        assert_eq!(note("no room", 3), Told::Now(1));
        assert_eq!(note("backup 1 failed", 61), Told::Now(3));
        assert_eq!(note("backup 1 failed", 62), Told::Counted);
        repeats.forget("backup");
        assert_eq!(repeats.note("backup # failed", begun + Duration::from_secs(63)), Told::Now(1));
    }

    #[test]
    fn memory_is_bounded() {
        let (mut repeats, begun) = (Repeats::new(Duration::from_secs(60)), Instant::now());
        for number in 0..1000u64 {
            assert_eq!(
                repeats.note(&number.to_string(), begun + Duration::from_millis(number)),
                Told::Now(1)
            );
        }
        assert_eq!(repeats.known.len(), MOST);
    }
}
