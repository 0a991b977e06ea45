//! What the schedule has done and will do, for `walkeep status`.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use repository::run::Job;
use serde::{Deserialize, Serialize};

use super::memory::LastRun;

/// The schedule at this moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ScheduleStatus {
    /// The time zone of the expressions.
    pub timezone: String,
    /// Why no job is begun now, if there is a reason.
    pub waits_for: Option<String>,
    /// All jobs that are scheduled.
    pub jobs: Vec<JobStatus>,
}

/// One job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobStatus {
    /// Which.
    pub job: Job,
    /// The expression.
    pub times: String,
    /// Its next time; in the past if it is due.
    pub next_at: Option<Timestamp>,
    /// Since when it runs, if it does.
    pub running_since: Option<Timestamp>,
    /// The last run that a schedule made, of whichever agent.
    pub last: Option<LastRun>,
}

/// Shared between the schedule's keeper, who writes, and whoever asks. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ScheduleState(Arc<Mutex<Option<ScheduleStatus>>>);

impl ScheduleState {
    /// A copy; `None`: nothing is scheduled.
    pub fn status(&self) -> Option<ScheduleStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the schedule waits for something else than is shown.
    pub(super) fn is_news(&self, waits_for: &str) -> bool {
        self.status().is_none_or(|status| status.waits_for.as_deref() != Some(waits_for))
    }

    pub(super) fn show(&self, status: Option<ScheduleStatus>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

/// What the human form reads from the JSON; all of it may be missing.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ShownSchedule {
    waits_for: Option<String>,
    jobs: Vec<ShownJob>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ShownJob {
    job: String,
    next_at: Option<Timestamp>,
    running_since: Option<Timestamp>,
    last: Option<LastRun>,
}

impl ShownSchedule {
    /// A line for each job, and perhaps one more.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.jobs.iter().map(ShownJob::line).collect();
        lines.extend(self.waits_for.as_ref().map(|why| format!("waits: {why}")));
        lines
    }
}

fn clock(at: Timestamp) -> impl std::fmt::Display {
    at.strftime("%Y-%m-%d %H:%M:%SZ")
}

impl ShownJob {
    fn line(&self) -> String {
        let mut line = format!("{:<12}", self.job);
        line += &match (self.running_since, self.next_at) {
            (Some(since), _) => format!("runs since {}", clock(since)),
            (None, Some(next)) => format!("next {}", clock(next)),
            (None, None) => "never".to_owned(),
        };
        if let Some(last) = &self.last {
            let outcome = if last.succeeded { "ok" } else { "FAILED" };
            line += &format!("; last {} {outcome}", clock(last.started_at));
            if let Some(seconds) = last.seconds {
                line += &format!(" after {seconds:.1} s");
            }
            if let Some(message) = &last.message {
                line += &format!(": {message}");
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_what_comes_and_how_the_last_one_ended() {
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        let last = LastRun {
            started_at: Timestamp::UNIX_EPOCH,
            succeeded: false,
            seconds: Some(1.25),
            message: Some("no room".into()),
        };
        let job = |job, last| JobStatus {
            job,
            times: "0 2 * * *".into(),
            next_at: at(7200),
            running_since: None,
            last,
        };
        let running = JobStatus { running_since: at(60), ..job(Job::Full, None) };
        let status = ScheduleStatus {
            timezone: "UTC".into(),
            waits_for: Some("the stream".into()),
            jobs: vec![running, job(Job::Expire, Some(last))],
        };
        let json = serde_json::to_string(&status).unwrap();
        let shown: ShownSchedule = serde_json::from_str(&json).unwrap();
        assert_eq!(
            shown.lines(),
            [
                "full        runs since 1970-01-01 00:01:00Z",
                "expire      next 1970-01-01 02:00:00Z; last 1970-01-01 00:00:00Z FAILED after 1.2 s: no room",
                "waits: the stream",
            ]
        );
    }
}
