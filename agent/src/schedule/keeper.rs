//! The schedule's keeper: waits for the next time, runs what is due, and records it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proto::config::ClusterName;
use repository::Repository;
use repository::run::{Job, RUN_FORMAT, Run};
use tokio::sync::{Mutex, watch};
use tracing::{error, info, warn};

use super::memory::Memory;
use super::plan::{Due, Schedule};
use super::process::{Ended, Runner};
use super::state::{JobStatus, ScheduleState, ScheduleStatus};
use crate::notify::{Event, EventKind, Events};
use crate::stop::stopped;
use crate::stream::{StreamPhase, StreamState};

/// The longest sleep: the clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// Between looks while something keeps jobs from being begun.
const SHORT_SLEEP: Duration = Duration::from_secs(2);

/// The least sleep, also if a time has come while we computed.
const LEAST_SLEEP: Duration = Duration::from_millis(20);

/// What the keeper of a schedule needs.
pub struct Keeper {
    /// Where runs are recorded.
    pub repository: Repository,
    /// The cluster's name there.
    pub cluster: ClusterName,
    /// Runs the jobs.
    pub runner: Runner,
    /// The schedule, which may be exchanged.
    pub schedule: watch::Receiver<Arc<Schedule>>,
    /// For `walkeep status`.
    pub state: ScheduleState,
    /// The stream, if there is one: of several agents the one that streams keeps the schedule.
    pub stream: Option<StreamState>,
    /// Held while a backup is taken.
    pub backups: Arc<Mutex<()>>,
    /// Told how jobs end.
    pub events: Events,
}

impl Keeper {
    /// Keeps the schedule until `stop` becomes true; a job that runs then is stopped, and made up for later.
    pub async fn keep(self, mut stop: watch::Receiver<bool>) {
        let mut schedule = self.schedule.clone();
        let mut keeping =
            Keeping { keeper: self, memory: Memory::default(), is_recalled: false, since: Timestamp::now() };
        loop {
            let current = schedule.borrow_and_update().clone();
            let sleep = match Box::pin(keeping.look(&current, &mut stop)).await {
                Next::Look => continue,
                Next::Sleep(time) => time,
                Next::Stop => return,
            };
            let exchanged = async {
                if schedule.changed().await.is_err() {
                    // Nobody is left who could exchange it.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                // A job that is new waits for its first time from now on.
                () = exchanged => keeping.since = Timestamp::now(),
                () = stopped(&mut stop) => return,
            }
        }
    }
}

struct Keeping {
    keeper: Keeper,
    memory: Memory,
    /// Whether the memory is what the repository tells.
    is_recalled: bool,
    /// Since when the schedule holds.
    since: Timestamp,
}

/// What to do after a look.
enum Next {
    Look,
    Sleep(Duration),
    Stop,
}

impl Keeping {
    /// Looks what is due, and runs it.
    async fn look(&mut self, schedule: &Schedule, stop: &mut watch::Receiver<bool>) -> Next {
        if schedule.is_empty() {
            self.keeper.state.show(None);
            return Next::Sleep(LONGEST_SLEEP);
        }
        let mut hindrance = self.hindrance();
        if !self.is_recalled || hindrance.is_none() && self.due(schedule).is_some() {
            // Before anything is begun, too: somebody else may have done it, by hand or as another agent.
            let recalled = tokio::select! {
                recalled = self.recall() => recalled,
                () = stopped(stop) => return Next::Stop,
            };
            if let Err(why) = recalled {
                hindrance.get_or_insert(why);
            }
        }
        self.show(schedule, hindrance.clone(), None);
        match self.due(schedule) {
            _ if hindrance.is_some() => Next::Sleep(SHORT_SLEEP),
            Some(due) => self.run(due, schedule, stop).await,
            None => {
                let wake = schedule.wake(&self.memory.times, self.since);
                let ahead = wake.map(|wake| wake.duration_since(Timestamp::now()));
                // What lies in the past has come while we looked.
                let ahead = ahead.map_or(LONGEST_SLEEP, |ahead| ahead.try_into().unwrap_or_default());
                Next::Sleep(ahead.clamp(LEAST_SLEEP, LONGEST_SLEEP))
            }
        }
    }

    fn due(&self, schedule: &Schedule) -> Option<Due> {
        schedule.due(&self.memory.times, self.since, Timestamp::now())
    }

    /// Why no job is to be begun.
    fn hindrance(&self) -> Option<String> {
        let stream = self.keeper.stream.as_ref()?;
        let state = stream.status().state;
        (state != StreamPhase::Streaming)
            .then(|| "the stream, since the agent that streams keeps the schedule".to_owned())
    }

    /// Reads what was run when. Why not is told once.
    async fn recall(&mut self) -> Result<(), String> {
        let cluster = &self.keeper.cluster;
        let recalled = async {
            let branch = self.keeper.repository.only_branch(cluster).await?;
            self.memory.recall(&branch, Timestamp::now()).await
        };
        match recalled.await {
            Ok(()) => {
                self.is_recalled = true;
                Ok(())
            }
            Err(error) => {
                let why = format!("the repository, which does not tell what was run when: {error}");
                if std::mem::replace(&mut self.is_recalled, false) || self.keeper.state.is_news(&why) {
                    warn!(%cluster, "the schedule waits for {why}");
                }
                Err(why)
            }
        }
    }

    /// Runs a job, and records how it ended.
    async fn run(&mut self, due: Due, schedule: &Schedule, stop: &mut watch::Receiver<bool>) -> Next {
        let Due { job, due_at } = due;
        let backups = self.keeper.backups.clone();
        let turn = match job {
            // Another one, after a gap, may be running: its server would refuse a second.
            Job::Full | Job::Incremental => tokio::select! {
                turn = backups.lock() => Some(turn),
                () = stopped(stop) => return Next::Stop,
            },
            _ => None,
        };
        // To the millisecond, as its record's name tells it.
        let now = Timestamp::now();
        let started_at = Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now);
        self.show(schedule, None, Some((job, started_at)));
        info!(cluster = %self.keeper.cluster, %job, %due_at, "the schedule begins a job");
        let ended = self.keeper.runner.run(job, stop).await;
        drop(turn);
        let (succeeded, message) = match ended {
            // It leaves no record: it is due again when an agent is started.
            Ended::Stopped => return Next::Stop,
            Ended::Done(message) => (true, message),
            Ended::Failed(why) => (false, Some(why)),
        };
        let run = Run {
            format: RUN_FORMAT,
            job,
            succeeded,
            due_at,
            started_at,
            finished_at: Timestamp::now().max(started_at),
            program: format!("walkeep {}", env!("CARGO_PKG_VERSION")),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            message,
        };
        self.memory.note(&run);
        self.tell(&run, schedule);
        tokio::select! {
            () = self.record(&run) => Next::Look,
            () = stopped(stop) => Next::Stop,
        }
    }

    fn tell(&self, run: &Run, schedule: &Schedule) {
        let (cluster, job) = (&self.keeper.cluster, run.job);
        let seconds = run.finished_at.duration_since(run.started_at).as_secs_f64();
        let message = run.message.as_deref().unwrap_or_default();
        if let Some(kind) = EventKind::of_job(job, run.succeeded) {
            let event = Event::now(kind, message);
            self.keeper.events.tell(Event { job: Some(job), seconds: Some(seconds), ..event });
        }
        if run.succeeded {
            info!(%cluster, %job, seconds, "the scheduled job has succeeded: {message}");
        } else {
            let next = schedule.next(job, run.finished_at).map(|next| next.to_string());
            let next = next.unwrap_or_else(|| "never".to_owned());
            error!(%cluster, %job, seconds, next, "the scheduled job has failed: {message}");
        }
    }

    async fn record(&self, run: &Run) {
        let recorded = async {
            let branch = self.keeper.repository.only_branch(&self.keeper.cluster).await?;
            branch.record_run(run).await
        };
        if let Err(error) = recorded.await {
            let (cluster, job) = (&self.keeper.cluster, run.job);
            warn!(%cluster, %job, "the run could not be recorded, and an agent that is started anew may repeat it: {error}");
        }
    }

    fn show(&self, schedule: &Schedule, waits_for: Option<String>, running: Option<(Job, Timestamp)>) {
        let status = |(job, times): (Job, &str)| JobStatus {
            job,
            times: times.to_owned(),
            next_at: schedule.next_run(job, &self.memory.times, self.since),
            running_since: running.filter(|(running, _)| *running == job).map(|(_, since)| since),
            last: self.memory.last.get(&job).cloned(),
        };
        self.keeper.state.show(Some(ScheduleStatus {
            timezone: schedule.zone_name().to_owned(),
            waits_for,
            jobs: schedule.jobs().map(status).collect(),
        }));
    }
}
