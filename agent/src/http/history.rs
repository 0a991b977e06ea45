//! The lag of the last hours, in a bounded number of steps.

use std::collections::VecDeque;

use jiff::Timestamp;

use crate::stream::{StreamPhase, StreamStatus};

/// Seconds of one step.
pub(super) const STEP: i64 = 30;

/// Steps that are remembered: six hours.
pub(super) const STEPS: usize = 6 * 3600 / STEP as usize;

/// The worst of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sample {
    /// When the step began, in seconds since 1970; a multiple of [`STEP`].
    pub(super) at: i64,
    /// The longest that commits were not safe, if that was known.
    pub(super) seconds: Option<f64>,
    /// The most bytes that were not safe, if that was known.
    pub(super) bytes: Option<u64>,
    /// Whether the stream was seen waiting or stopped.
    pub(super) away: bool,
}

/// The last hours, oldest first.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Sample>);

impl History {
    /// Notes what is so now.
    pub(super) fn note(&mut self, now: Timestamp, status: &StreamStatus, seconds: Option<f64>) {
        let at = now.as_second().div_euclid(STEP) * STEP;
        // On the way to the server it is only when it was just started, and between the waits that are seen.
        let away = matches!(status.state, StreamPhase::Waiting | StreamPhase::Stopped);
        let bytes = status.lag_bytes.filter(|_| status.state == StreamPhase::Streaming);
        match self.0.back_mut() {
            // A clock that was set back goes on in the last step.
            Some(last) if last.at >= at => {
                last.seconds = most(last.seconds, seconds);
                last.bytes = last.bytes.max(bytes);
                last.away |= away;
            }
            _ => {
                if self.0.len() == STEPS {
                    self.0.pop_front();
                }
                self.0.push_back(Sample { at, seconds, bytes, away });
            }
        }
    }

    /// A copy.
    pub(super) fn samples(&self) -> Vec<Sample> {
        self.0.iter().copied().collect()
    }
}

fn most(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.max(other)),
        (known, None) | (None, known) => known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_keeps_its_worst_and_there_are_not_too_many() {
        let mut history = History::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        let status = |state, bytes| StreamStatus { state, lag_bytes: Some(bytes), ..StreamStatus::default() };
        history.note(at(60), &status(StreamPhase::Streaming, 5), Some(1.0));
        history.note(at(61), &status(StreamPhase::Streaming, 9), Some(3.0));
        history.note(at(62), &status(StreamPhase::Waiting, 1000), None);
        history.note(at(5), &status(StreamPhase::Streaming, 1), Some(2.0));
        let worst = Sample { at: 60, seconds: Some(3.0), bytes: Some(9), away: true };
        assert_eq!(history.samples(), [worst]);
        for step in 0..2 * STEPS as i64 {
            history.note(at(90 + step * STEP), &status(StreamPhase::Streaming, 0), Some(0.0));
        }
        assert_eq!(history.samples().len(), STEPS);
    }
}
