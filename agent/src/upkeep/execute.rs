//! Doing it: one step after another, in a session that gives way.

use std::time::{Duration, Instant};

use proto::config::UpkeepConfig;
use proto::conninfo::ConnInfo;
use restore::program::failure;
use serde::Deserialize;

use super::plan::{self, Action, IndexState, Step, TableState};
use super::queries;
use super::report::{Done, Outcome, Report};
use crate::backup::facts::{BACKUP_LOCK, Sql};

/// When all has to be over.
#[derive(Debug, Clone, Copy)]
pub struct Until(pub Instant);

impl Until {
    /// What is left; `None`: nothing.
    fn left(self) -> Option<Duration> {
        self.0.checked_duration_since(Instant::now()).filter(|left| *left > Duration::from_millis(1))
    }
}

/// Looks what is worth doing, and does it. `dry_run`: only looks.
///
/// # Errors
/// The server cannot be reached, or somebody else is at it. What a single step meets is in the report.
pub async fn run(
    info: &ConnInfo,
    config: &UpkeepConfig,
    until: Until,
    dry_run: bool,
) -> anyhow::Result<Report> {
    let begun = Instant::now();
    // Held until all is over: a lock of this session.
    let guard = Sql::connect(info).await?;
    if !dry_run {
        take_turn(&guard).await?;
    }
    let mut report = Report { dry_run, ..Report::default() };
    for Named { name: database } in guard.many(queries::DATABASES).await? {
        // One that cannot be looked into is told, and keeps none of the others from its upkeep.
        if let Err(error) = in_database(info, &guard, config, until, &database, &mut report).await {
            report.closed.push((database, format!("{error:#}")));
        }
    }
    report.sum_up(begun.elapsed().as_secs_f64());
    Ok(report)
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

async fn take_turn(guard: &Sql) -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Turn {
        taken: bool,
    }
    match guard.one::<Turn>(queries::LOCK).await?.taken {
        true => Ok(()),
        false => Err(failure(
            "somebody else is at the upkeep of this server",
            "wait until that is over: two at once would hold each other up",
        )),
    }
}

/// Tables first: vacuuming them tells how much of their indexes is still needed.
async fn in_database(
    info: &ConnInfo,
    guard: &Sql,
    config: &UpkeepConfig,
    until: Until,
    database: &str,
    report: &mut Report,
) -> anyhow::Result<()> {
    let sql = Sql::connect(&ConnInfo { dbname: database.to_owned(), ..info.clone() }).await?;
    // Whoever waits behind us for a lock waits no longer than that.
    sql.rows(&format!("SET lock_timeout = {}", config.lock_timeout.as_millis())).await?;
    let tables: Vec<TableState> = sql.many(queries::TABLES).await?;
    all(guard, &sql, config, until, plan::tables(database, &tables, config), report).await?;
    if config.reindex {
        let indexes: Vec<IndexState> = sql.many(&queries::indexes(config.smallest_index)).await?;
        all(guard, &sql, config, until, plan::indexes(database, &indexes, config), report).await?;
    }
    Ok(())
}

async fn all(
    guard: &Sql,
    sql: &Sql,
    config: &UpkeepConfig,
    until: Until,
    steps: Vec<Step>,
    report: &mut Report,
) -> anyhow::Result<()> {
    for step in steps {
        if report.dry_run {
            report.steps.push(Done::planned(step));
            continue;
        }
        // Whatever has stopped us once stops all that follows.
        if report.stopped.is_none() {
            report.stopped = hindrance(guard, config, until).await?;
        }
        match (&report.stopped, until.left()) {
            (None, Some(left)) => report.steps.push(once(sql, step, left).await?),
            _ => report.left.push(step),
        }
    }
    Ok(())
}

/// Why nothing more is to be begun.
async fn hindrance(guard: &Sql, config: &UpkeepConfig, until: Until) -> anyhow::Result<Option<String>> {
    #[derive(Deserialize)]
    struct Backup {
        runs: bool,
    }
    if until.left().is_none() {
        return Ok(Some("its time is over".to_owned()));
    }
    if !config.during_backup && guard.one::<Backup>(&queries::backup_runs(BACKUP_LOCK)).await?.runs {
        return Ok(Some("a backup is being taken".to_owned()));
    }
    Ok(None)
}

async fn once(sql: &Sql, step: Step, left: Duration) -> anyhow::Result<Done> {
    let before_bytes = size(sql, &step).await;
    if !step.may {
        // The server would only warn, and take it for done.
        let message = "the role may not: it must own the table, or be a member of pg_maintain (17 and later)";
        let (message, after_bytes) = (Some(message.to_owned()), before_bytes);
        return Ok(Done { step, outcome: Outcome::Failed, message, seconds: 0.0, before_bytes, after_bytes });
    }
    let begun = Instant::now();
    // The server itself ends what takes longer than there is time.
    sql.rows(&format!("SET statement_timeout = {}", left.as_millis().max(1))).await?;
    tracing::info!(database = step.database, "{}", step.statement());
    let done = sql.run(&step.statement()).await;
    sql.rows("SET statement_timeout = 0").await?;
    let seconds = begun.elapsed().as_secs_f64();
    let (outcome, message) = match done {
        Ok(()) => (Outcome::Done, None),
        Err((state, message)) => (outcome(state.as_deref()), Some(message)),
    };
    if outcome != Outcome::Done && step.action == Action::Reindex {
        clear(sql, &step.name).await;
    }
    let after_bytes = size(sql, &step).await;
    Ok(Done { step, outcome, message, seconds, before_bytes, after_bytes })
}

/// By the server's code for what has happened.
fn outcome(state: Option<&str>) -> Outcome {
    match state {
        // A lock was not to be had in time, or to be had at the price of a deadlock.
        Some("55P03" | "40P01") => Outcome::Locked,
        Some("57014") => Outcome::Ended,
        _ => Outcome::Failed,
    }
}

/// Removes what a REINDEX CONCURRENTLY that was ended leaves behind: it would be kept up to date for ever.
async fn clear(sql: &Sql, index: &str) {
    let left: Vec<Named> = match sql.many(&queries::leftovers(index)).await {
        Ok(left) => left,
        Err(error) => return tracing::warn!("it cannot be told what {index} has left behind: {error:#}"),
    };
    for Named { name } in left {
        if let Err(error) = sql.rows(&format!("DROP INDEX CONCURRENTLY {name}")).await {
            tracing::warn!("{name} is left behind, and to be dropped by hand: {error:#}");
        }
    }
}

/// Who has it locked keeps its size to himself.
async fn size(sql: &Sql, step: &Step) -> Option<u64> {
    #[derive(Deserialize)]
    struct Size {
        bytes: u64,
    }
    let asked = sql.one::<Size>(&queries::size(&step.name, step.action == Action::Reindex)).await;
    asked.inspect_err(|error| tracing::debug!("{}: {error:#}", step.name)).ok().map(|size| size.bytes)
}

impl Done {
    fn planned(step: Step) -> Self {
        let (before_bytes, after_bytes, message) = (None, None, None);
        Self { step, outcome: Outcome::Planned, message, seconds: 0.0, before_bytes, after_bytes }
    }
}
