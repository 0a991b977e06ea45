//! Asking whoever knows.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proto::config::Config;
use proto::socket::{Request, Response};
use repository::Repository;
use repository::catalogue::Inventory;
use repository::run::Job;

use super::seen::{Agent, Seen, Stored};
use crate::drill::LastDrills;
use crate::schedule::{LastRun, LastTimes, Schedule};

/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// So many looks are read for plots and trends: the youngest.
const MOST_LOOKS: usize = 60;

/// From here on back they are read.
const OLDEST_LOOK: SignedDuration = SignedDuration::from_hours(60 * 24);

/// A job that was due longer ago and has not ended is told.
const LONGEST_RUN: SignedDuration = SignedDuration::from_hours(6);

/// A job that was never run is told for a day.
const A_DAY: SignedDuration = SignedDuration::from_hours(24);

/// Asks everybody. A look at the server is kept, if it is time for one.
pub async fn gather(config: &Config) -> Seen {
    let health = Box::pin(crate::health::examine_and_keep(config)).await;
    let stored = Box::pin(stored(config)).await;
    Seen {
        cluster: config.cluster.clone().unwrap_or_default().to_string(),
        now: Timestamp::now(),
        has_retention: config.retention.keep.is_some(),
        streams: config.stream.enabled,
        health: health.map_err(|error| format!("{error:#}")),
        agent: agent(config).await,
        stored: stored.map_err(|error| error.to_string()),
    }
}

async fn agent(config: &Config) -> Result<Agent, String> {
    let answer = crate::server::ask(&config.socket_path(), &Request::Status, PATIENCE).await;
    match answer.map_err(|error| error.to_string())? {
        Response::Status { json } => {
            let status: serde_json::Value = serde_json::from_str(&json).map_err(|error| error.to_string())?;
            let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
            let archive = &status["archive"];
            Ok(Agent {
                state: text(&status["stream"]["state"]).unwrap_or_default(),
                last_error: text(&status["last_error"]),
                archived: archive["stored"].as_u64().unwrap_or_default(),
                not_archived: archive["failed"].as_u64().unwrap_or_default(),
                archive_error: text(&archive["last_error"]),
            })
        }
        Response::Failed { message } => Err(message),
        Response::Stored => Err("the agent answered something else than was asked".to_owned()),
    }
}

async fn stored(config: &Config) -> repository::Result<Stored> {
    let repository = Box::pin(Repository::from_config(config)).await?;
    let cluster = config.cluster.clone().unwrap_or_default();
    let branch = repository.only_branch(&cluster).await?;
    let inventory = Inventory::load(&branch).await?;
    let listing = inventory.listing(&cluster, branch.system_id());
    let behind_newest = |gap: &&repository::catalogue::Gap| {
        listing.backups.last().is_none_or(|newest| {
            gap.timeline > newest.timeline || gap.timeline == newest.timeline && gap.to_lsn > newest.start_lsn
        })
    };
    let gaps = listing.gaps.iter().filter(behind_newest).count();
    let now = Timestamp::now();
    let mut stored = Stored {
        gaps,
        unreadable: inventory.unreadable.len(),
        runs: branch.recorded_runs().await?,
        drills: LastDrills::of(&branch, now).await?,
        backups: listing.backups,
        ..Stored::default()
    };
    stored.missed = missed(config, &stored, now);
    for job in Job::ALL {
        let Some(last) = stored.runs.iter().rfind(|run| run.job == job) else { continue };
        let told = match branch.recorded_run(last).await {
            Ok(run) => LastRun::from(&run),
            Err(_) => LastRun {
                started_at: last.started_at,
                succeeded: last.succeeded,
                seconds: None,
                message: None,
            },
        };
        stored.last_runs.insert(job, told);
    }
    let names = branch.looks().await?;
    let young = names.iter().filter(|name| now.duration_since(name.at) <= OLDEST_LOOK && name.at <= now);
    let mut young: Vec<_> = young.rev().take(MOST_LOOKS).collect();
    young.reverse();
    for name in young {
        // One that cannot be read is missing in a plot, and nowhere else.
        match branch.look(name).await {
            Ok(figures) => stored.looks.push(figures),
            Err(error) => tracing::debug!("a look is passed over: {error}"),
        }
    }
    Ok(stored)
}

/// Jobs that were due a while ago, and have not been run since: with one that takes long that is no fault yet.
fn missed(config: &Config, stored: &Stored, now: Timestamp) -> Vec<(Job, Timestamp)> {
    let schedule = match Schedule::new(&config.schedule, &config.cluster.clone().unwrap_or_default()) {
        Ok(schedule) => schedule,
        // The agent refuses it, and says so.
        Err(error) => {
            tracing::warn!("the schedule cannot be kept: {error}");
            return Vec::new();
        }
    };
    let mut last = LastTimes::default();
    for run in &stored.runs {
        last.note(run.job, run.started_at, run.succeeded);
    }
    let missed = |(job, _): (Job, &str)| {
        // One that was never run may not have been in the schedule for longer.
        let since = last.of(job).unwrap_or(now - A_DAY);
        Some((job, schedule.next(job, since).filter(|due| *due <= now - LONGEST_RUN)?))
    };
    schedule.jobs().filter_map(missed).collect()
}
