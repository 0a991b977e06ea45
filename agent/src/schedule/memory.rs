//! When each job was last run: told by what it left in the repository.

use std::collections::BTreeMap;

use jiff::Timestamp;
use repository::Branch;
use repository::backup::BackupKind;
use repository::run::{Job, Run, RunName};
use serde::{Deserialize, Serialize};

use super::plan::LastTimes;

/// The last scheduled run of a job, as `status` tells it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastRun {
    /// When it began.
    pub started_at: Timestamp,
    /// Whether it succeeded.
    pub succeeded: bool,
    /// How long it took; `None`: its record could not be read.
    pub seconds: Option<f64>,
    /// What came of it, or went wrong.
    pub message: Option<String>,
}

impl From<&Run> for LastRun {
    fn from(run: &Run) -> Self {
        let took = run.finished_at.duration_since(run.started_at).as_millis();
        Self {
            started_at: run.started_at,
            succeeded: run.succeeded,
            seconds: Some(took.max(0) as f64 / 1000.0),
            message: run.message.clone(),
        }
    }
}

/// What is known of earlier runs.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Of each job, whoever ran it: also by hand, where that can be seen.
    pub(super) times: LastTimes,
    /// Of each job, the last run that a schedule has made.
    pub(super) last: BTreeMap<Job, LastRun>,
}

impl Memory {
    /// Looks into the repository: three listings, and a small object for each job of which there is news.
    ///
    /// # Errors
    /// The repository cannot be listed. A record that cannot be read is told by its name alone.
    pub(super) async fn recall(&mut self, branch: &Branch, now: Timestamp) -> repository::Result<()> {
        // What is dated after now says only that some clock was wrong. It must not keep a job from its time.
        let has_been = |at: Timestamp| at <= now;
        let mut newest: BTreeMap<Job, RunName> = BTreeMap::new();
        for run in branch.recorded_runs().await?.into_iter().filter(|run| has_been(run.started_at)) {
            self.times.note(run.job, run.started_at, run.succeeded);
            newest.insert(run.job, run);
        }
        for backup in branch.all_backups().await? {
            let job = match backup.label.kind() {
                BackupKind::Full => Job::Full,
                BackupKind::Incremental => Job::Incremental,
            };
            let started = backup.label.started();
            if has_been(started) {
                self.times.note(job, started, true);
            }
        }
        for proof in branch.proofs().await?.into_iter().filter(|proof| has_been(proof.started_at)) {
            self.times.note(Job::Drill, proof.started_at, true);
        }
        for (job, name) in newest {
            if self.last.get(&job).is_none_or(|known| known.started_at < name.started_at) {
                let read = branch.recorded_run(&name).await;
                let read = read.inspect_err(|error| tracing::debug!("cannot read a run's record: {error}"));
                let told = match read {
                    Ok(run) => LastRun::from(&run),
                    Err(_) => LastRun {
                        started_at: name.started_at,
                        succeeded: name.succeeded,
                        seconds: None,
                        message: None,
                    },
                };
                self.last.insert(job, told);
            }
        }
        Ok(())
    }

    /// Notes what this agent has done itself.
    pub(super) fn note(&mut self, run: &Run) {
        self.times.note(run.job, run.started_at, run.succeeded);
        self.last.insert(run.job, LastRun::from(run));
    }
}
