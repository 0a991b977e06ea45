//! The one thing that who looks at night wants to know, and why.

use crate::http::facts::Facts;
use crate::stream::StreamPhase;
use repository::drill::Verdict as Proof;

use super::words::{count, span};

/// How well the server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Good,
    Warning,
    Bad,
}

/// The verdict with its reasons, the worst first. Without reasons it is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) level: Level,
    pub(super) reasons: Vec<(Level, String)>,
}

/// A lag of so many flush intervals is worth a word, and no lag below the other number of seconds is.
const LATE: (f64, f64) = (10.0, 30.0);

/// A failed or missing proof is worth a word after so many seconds: 40 days.
const UNPROVEN: u64 = 40 * 86_400;

/// Judges the facts.
pub(super) fn of(facts: &Facts) -> Verdict {
    let mut reasons = Vec::new();
    let mut say = |level, text: String| reasons.push((level, text));
    if facts.stream_enabled {
        match facts.stream.state {
            StreamPhase::Streaming => {}
            StreamPhase::Connecting => say(Level::Warning, "The stream is connecting to the server.".into()),
            StreamPhase::Waiting if facts.stands_by => {
                say(Level::Warning, "Another session has the slot: this agent stands by.".into());
            }
            StreamPhase::Waiting => {
                say(Level::Bad, "No WAL is streaming: the server or its slot is awaited.".into())
            }
            StreamPhase::Stopped => say(Level::Bad, "The stream is stopped until somebody acts.".into()),
        }
    }
    if facts.archive.last_error.is_some() {
        say(Level::Warning, "The last call of archive_command was not answered with success.".into());
    }
    let late = (facts.flush_interval.as_secs_f64() * LATE.0).max(LATE.1);
    if let Some(seconds) = facts.at_risk().seconds.filter(|seconds| facts.streams() && *seconds > late) {
        say(Level::Warning, format!("WAL has been waiting for the repository for {}.", span(seconds)));
    }
    for job in facts.schedule.iter().flat_map(|schedule| &schedule.jobs) {
        if job.last.as_ref().is_some_and(|last| !last.succeeded) {
            say(Level::Warning, format!("The last run of {} by the schedule has failed.", job.job));
        }
    }
    if facts.repository.failure.is_some() {
        say(Level::Bad, "The repository could not be looked at.".into());
    }
    if let Some(found) = facts.repository.facts() {
        if found.windows.is_empty() {
            say(Level::Bad, "Nothing can be restored yet: there is no usable backup.".into());
        }
        if !found.gaps.is_empty() {
            let gaps = count(found.gaps.len(), "gap", "gaps");
            say(Level::Warning, format!("WAL is missing: {gaps}. No restore goes across."));
        }
        let unusable = found.unreadable + found.backups.iter().filter(|backup| !backup.restorable).count();
        if unusable > 0 {
            say(Level::Warning, format!("{} cannot be restored.", count(unusable, "backup", "backups")));
        }
        match (&found.drills.last_drill, &found.drills.last_passed_drill) {
            (Some(last), _) if last.verdict == Proof::Failed => {
                say(Level::Warning, "The last drill has failed.".into());
            }
            (_, Some(passed)) if passed.age_seconds > UNPROVEN => {
                let age = span(passed.age_seconds as f64);
                say(Level::Warning, format!("A restore was last proven {age} ago."));
            }
            (None, _) if !found.windows.is_empty() => {
                say(Level::Warning, "No restore has been proven yet: walkeep drill does.".into());
            }
            _ => {}
        }
    } else if facts.repository.failure.is_none() {
        say(Level::Warning, "The repository has not been looked at yet.".into());
    }
    if let Some(server) = facts.server.facts() {
        match server.slot.as_ref().map(|slot| slot.wal_status.as_str()) {
            Some("lost") => say(Level::Bad, "The replication slot has lost WAL.".into()),
            Some("unreserved") => {
                say(Level::Warning, "The replication slot is about to lose WAL.".into());
            }
            None if facts.stream_enabled => {
                say(Level::Warning, "The replication slot does not exist.".into());
            }
            _ => {}
        }
    }
    reasons.sort_by_key(|(level, _)| std::cmp::Reverse(*level));
    let level = reasons.first().map_or(Level::Good, |(level, _)| *level);
    Verdict { level, reasons }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::facts::tests::{everything, nothing};

    #[test]
    fn the_worst_comes_first() {
        let mut facts = everything();
        let verdict = of(&facts);
        assert_eq!(verdict.level, Level::Warning);
        for words in ["1 gap.", "2 backups cannot", "last drill has failed"] {
            assert!(verdict.reasons.iter().any(|(_, text)| text.contains(words)), "{verdict:?}");
        }
        facts.stream.state = StreamPhase::Stopped;
        assert_eq!(of(&facts).level, Level::Bad);
        assert!(of(&facts).reasons[0].1.contains("stopped"));
        assert_eq!(of(&nothing()).level, Level::Warning, "an agent that was just started is not yet good");
    }
}
