//! What was done, and what it has gained.

use std::fmt::Write as _;

use indicatif::HumanBytes;
use serde::Serialize;

use super::plan::Step;

/// Everything.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Nothing has failed, and no database was closed to it.
    pub ok: bool,
    /// Whether it was only looked what would be done.
    pub dry_run: bool,
    /// What was done, in this order.
    pub steps: Vec<Done>,
    /// What was not, for want of time, or since a backup has begun.
    pub left: Vec<Step>,
    /// Why something is left.
    pub stopped: Option<String>,
    /// Databases that could not be looked into, or not to the end, and why.
    pub closed: Vec<(String, String)>,
    /// What is left out on purpose, and why.
    pub notes: Vec<String>,
    /// Bytes that were given back to the disk.
    pub gained_bytes: i64,
    /// How long all of it took.
    pub seconds: f64,
    /// All of that in one line.
    pub summary: String,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    Done,
    /// It would have been.
    Planned,
    /// Somebody held a lock for too long: it is left for the next time.
    Locked,
    /// Its time was over.
    Ended,
    /// The server refused it.
    Failed,
}

/// A step that was begun.
#[derive(Debug, Clone, Serialize)]
pub struct Done {
    /// What.
    #[serde(flatten)]
    pub step: Step,
    /// How it ended.
    pub outcome: Outcome,
    /// What the server said, if it was not done.
    pub message: Option<String>,
    /// How long it took.
    pub seconds: f64,
    /// Bytes before, where they could be asked for.
    pub before_bytes: Option<u64>,
    /// Bytes after.
    pub after_bytes: Option<u64>,
}

impl Done {
    fn gained(&self) -> i64 {
        let sizes = self.before_bytes.zip(self.after_bytes);
        sizes.map_or(0, |(before, after)| {
            i64::try_from(before).unwrap_or(i64::MAX) - i64::try_from(after).unwrap_or(i64::MAX)
        })
    }
}

impl Report {
    /// Sums up.
    pub(super) fn sum_up(&mut self, seconds: f64) {
        self.ok = self.closed.is_empty() && self.steps.iter().all(|done| done.outcome != Outcome::Failed);
        self.gained_bytes = self.steps.iter().map(Done::gained).sum();
        self.seconds = seconds;
        self.summary = self.sum();
    }

    fn sum(&self) -> String {
        let count = |outcome| self.steps.iter().filter(|done| done.outcome == outcome).count();
        if self.dry_run {
            return format!("{} steps would be done{}", count(Outcome::Planned), self.closed_words());
        }
        let mut text = format!("{} steps done", count(Outcome::Done));
        for (outcome, words) in [
            (Outcome::Locked, "held up by locks"),
            (Outcome::Ended, "ended with their time"),
            (Outcome::Failed, "failed"),
        ] {
            if count(outcome) > 0 {
                // Writing to a String cannot fail, here and below.
                let _ = write!(text, ", {} {words}", count(outcome));
            }
        }
        if !self.left.is_empty() {
            let _ = write!(text, ", {} left", self.left.len());
        }
        text += &self.closed_words();
        let (word, bytes) = match self.gained_bytes < 0 {
            true => ("more than before", self.gained_bytes.unsigned_abs()),
            false => ("given back", self.gained_bytes.unsigned_abs()),
        };
        let _ = write!(text, ", {} {word}", HumanBytes(bytes));
        text
    }

    fn closed_words(&self) -> String {
        match self.closed.len() {
            0 => String::new(),
            closed => format!(", {closed} databases could not be worked in"),
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for done in &self.steps {
            let word = match done.outcome {
                Outcome::Done => "done   ",
                Outcome::Planned => "would  ",
                Outcome::Locked => "LOCKED ",
                Outcome::Ended => "ENDED  ",
                Outcome::Failed => "FAILED ",
            };
            let _ = write!(text, "{word}  {}", done.step);
            if let Some((before, after)) = done.before_bytes.zip(done.after_bytes) {
                let _ = write!(
                    text,
                    ": {} before, {} after, {:.1} s",
                    HumanBytes(before),
                    HumanBytes(after),
                    done.seconds
                );
            }
            if let Some(message) = &done.message {
                let _ = write!(text, ": {message}");
            }
            text.push('\n');
        }
        for step in &self.left {
            let _ = writeln!(text, "left     {step}");
        }
        for (database, why) in &self.closed {
            let _ = writeln!(text, "CLOSED   {database}: {why}");
        }
        for note in &self.notes {
            let _ = writeln!(text, "note     {note}");
        }
        if let Some(why) = &self.stopped {
            let _ = writeln!(text, "nothing more was begun: {why}");
        }
        let _ = writeln!(text, "{}", self.summary);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Action;
    use super::*;

    #[test]
    fn what_was_done_is_told_with_its_gain() {
        let step = |name: &str| Step {
            database: "shop".into(),
            action: Action::Reindex,
            name: name.into(),
            why: "much is not needed".into(),
            may: true,
        };
        let done = |name: &str, outcome, before, after| Done {
            step: step(name),
            outcome,
            message: (outcome != Outcome::Done).then(|| "lock timeout".into()),
            seconds: 1.25,
            before_bytes: before,
            after_bytes: after,
        };
        let mut report = Report {
            steps: vec![
                done("public.a", Outcome::Done, Some(3 << 20), Some(1 << 20)),
                done("public.b", Outcome::Locked, None, None),
            ],
            left: vec![step("public.c")],
            stopped: Some("a backup has begun".into()),
            ..Report::default()
        };
        report.sum_up(9.0);
        assert!(report.ok);
        assert_eq!(report.summary, "1 steps done, 1 held up by locks, 1 left, 2.00 MiB given back");
        let text = report.text();
        for line in [
            "done     REINDEX INDEX CONCURRENTLY public.a in shop (much is not needed): 3.00 MiB before, 1.00 MiB after, 1.2 s",
            "LOCKED   REINDEX INDEX CONCURRENTLY public.b in shop (much is not needed): lock timeout",
            "left     REINDEX INDEX CONCURRENTLY public.c in shop (much is not needed)",
            "nothing more was begun: a backup has begun",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        report.closed.push(("other".into(), "the connection was lost".into()));
        report.sum_up(9.0);
        assert!(!report.ok);
        assert!(report.summary.contains(", 1 databases could not be worked in, "), "{}", report.summary);
        report.dry_run = true;
        report.sum_up(9.0);
        assert!(!report.ok && report.summary.ends_with(", 1 databases could not be worked in"));
        (report.dry_run, report.closed) = (false, Vec::new());
        report.sum_up(9.0);
        assert!(report.ok);
        report.steps[1].outcome = Outcome::Failed;
        report.sum_up(9.0);
        assert!(!report.ok);
    }
}
