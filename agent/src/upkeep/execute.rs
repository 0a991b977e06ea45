//! Doing it: one step after another, in a session that gives way.

use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use proto::config::UpkeepConfig;
use proto::conninfo::ConnInfo;
use restore::program::failure;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::sleep;

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

/// While a step is at work it is looked so often whether something has come into its way.
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);

/// What all steps have in common.
struct Work<'a> {
    info: &'a ConnInfo,
    config: &'a UpkeepConfig,
    until: Until,
    /// Becomes true when all is to end.
    stop: watch::Receiver<bool>,
    /// Holds the lock, until all is over.
    guard: Sql,
    report: Report,
}

/// A session in a database.
struct Session {
    sql: Sql,
    pid: i32,
}

/// Looks what is worth doing, and does it. `dry_run`: only looks. When `stop` becomes true the statement at work is ended, and
/// what it leaves behind removed.
///
/// # Errors
/// The server cannot be reached, or somebody else is at it. What a single step meets is in the report.
pub async fn run(
    info: &ConnInfo,
    config: &UpkeepConfig,
    until: Until,
    dry_run: bool,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let guard = Sql::connect(info).await?;
    if !dry_run {
        take_turn(&guard).await?;
    }
    let databases: Vec<Named> = guard.many(queries::DATABASES).await?;
    let report = Report { dry_run, ..Report::default() };
    let mut work = Work { info, config, until, stop, guard, report };
    for Named { name: database } in databases {
        // One that cannot be worked in is told, and keeps none of the others from its upkeep.
        if let Err(error) = work.in_database(&database).await {
            work.report.closed.push((database, format!("{error:#}")));
        }
    }
    work.report.sum_up(begun.elapsed().as_secs_f64());
    Ok(work.report)
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

impl Work<'_> {
    /// Tables first: vacuuming them tells how much of their indexes is still needed.
    async fn in_database(&mut self, database: &str) -> anyhow::Result<()> {
        #[derive(Deserialize)]
        struct Known {
            pid: i32,
            version: u32,
        }
        let config = self.config;
        let sql = Sql::connect(&ConnInfo { dbname: database.to_owned(), ..self.info.clone() }).await?;
        // Whoever waits behind us for a lock waits no longer than that.
        sql.rows(&format!("SET lock_timeout = {}", config.lock_timeout.as_millis())).await?;
        let Known { pid, version } = sql.one(queries::SESSION).await?;
        let session = Session { sql, pid };
        let tables: Vec<TableState> = session.sql.many(queries::TABLES).await?;
        self.all(&session, plan::tables(database, &tables, config)).await?;
        if !config.reindex {
            return Ok(());
        }
        if !plan::reindexes_safely(version) {
            let note = "no index is built anew: PostgreSQL 14.0 to 14.3 may damage it; update the server to 14.4 or later";
            if self.report.notes.is_empty() {
                self.report.notes.push(note.to_owned());
            }
            return Ok(());
        }
        let indexes: Vec<IndexState> = session.sql.many(&queries::indexes(config.smallest_index)).await?;
        self.all(&session, plan::indexes(database, &indexes, config)).await
    }

    async fn all(&mut self, session: &Session, steps: Vec<Step>) -> anyhow::Result<()> {
        let mut steps = steps.into_iter();
        let mut ended = Ok(());
        for step in steps.by_ref() {
            if self.report.dry_run {
                self.report.steps.push(Done::planned(step));
                continue;
            }
            // Whatever has stopped us once stops all that follows.
            if self.report.stopped.is_none() {
                match self.hindrance().await {
                    Ok(found) => self.report.stopped = found,
                    // With its session the lock is gone: somebody else may be at it.
                    Err(error) => ended = Err(error),
                }
            }
            match (&ended, &self.report.stopped, self.until.left()) {
                (Ok(()), None, Some(left)) => {
                    let done = self.once(session, step, left).await;
                    self.report.steps.push(done);
                    if session.sql.is_closed() {
                        ended = Err(anyhow!("the connection was lost"));
                    }
                }
                _ => self.report.left.push(step),
            }
            if ended.is_err() {
                break;
            }
        }
        self.report.left.extend(steps);
        ended
    }

    /// Why nothing more is to be begun, and what is at work is to end.
    async fn hindrance(&self) -> anyhow::Result<Option<String>> {
        #[derive(Deserialize)]
        struct Backup {
            runs: bool,
        }
        if *self.stop.borrow() {
            return Ok(Some("it was told to end".to_owned()));
        }
        if self.until.left().is_none() {
            return Ok(Some("its time is over".to_owned()));
        }
        if !self.config.during_backup
            && self.guard.one::<Backup>(&queries::backup_runs(BACKUP_LOCK)).await?.runs
        {
            return Ok(Some("a backup is being taken".to_owned()));
        }
        Ok(None)
    }

    /// Does a step. Whatever it meets is in what is returned.
    async fn once(&mut self, session: &Session, step: Step, left: Duration) -> Done {
        let sql = &session.sql;
        let before_bytes = size(sql, &step).await;
        let begun = Instant::now();
        let (mut outcome, mut message) = match self.statement(session, &step, left).await {
            Ok(()) => (Outcome::Done, None),
            Err((state, message)) => (outcome(state.as_deref()), Some(message)),
        };
        // The step itself may take no longer than there was time; what follows is short.
        if !sql.is_closed()
            && let Err(error) = sql.rows("SET statement_timeout = 0").await
        {
            (outcome, message) = (Outcome::Failed, message.or_else(|| Some(format!("{error:#}"))));
        }
        if outcome != Outcome::Done
            && step.action == Action::Reindex
            && let Err(trouble) = clear(sql, &step.name).await
        {
            let so_far = message.map(|message| format!("{message}; ")).unwrap_or_default();
            (outcome, message) = (Outcome::Failed, Some(format!("{so_far}{trouble}")));
        }
        let seconds = begun.elapsed().as_secs_f64();
        let after_bytes = size(sql, &step).await;
        Done { step, outcome, message, seconds, before_bytes, after_bytes }
    }

    async fn statement(
        &mut self,
        session: &Session,
        step: &Step,
        left: Duration,
    ) -> Result<(), (Option<String>, String)> {
        let sql = &session.sql;
        if !step.may {
            // The server would only warn, and take it for done.
            let message =
                "the role may not: it must own the table, or be a member of pg_maintain (17 and later)";
            return Err((None, message.to_owned()));
        }
        if step.action == Action::Reindex {
            // What an earlier one has left there would be kept up to date for ever, and be joined by another.
            clear(sql, &step.name).await.map_err(|trouble| (None, trouble))?;
        }
        // The server itself ends what takes longer than there is time.
        sql.run(&format!("SET statement_timeout = {}", left.as_millis().max(1))).await?;
        tracing::info!(database = step.database, "{}", step.statement());
        let statement = step.statement();
        let mut running = pin!(sql.run(&statement));
        let mut stop = self.stop.clone();
        loop {
            tokio::select! {
                done = &mut running => return done,
                true = is_told(&mut stop), if self.report.stopped.is_none() => {}
                () = sleep(BETWEEN_LOOKS), if self.report.stopped.is_none() => {}
            }
            // A guard that does not answer is told before the next step.
            if let Ok(Some(why)) = self.hindrance().await {
                if let Err(error) = self.guard.rows(&queries::cancel(session.pid)).await {
                    tracing::warn!("{} cannot be ended: {error:#}", step.statement());
                }
                self.report.stopped = Some(why);
            }
        }
    }
}

/// Waits until it becomes true. `false`: nobody is left who could say so.
async fn is_told(stop: &mut watch::Receiver<bool>) -> bool {
    stop.wait_for(|stop| *stop).await.is_ok()
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

/// Removes what REINDEX CONCURRENTLY has left behind at the table of an index: it would be kept up to date for ever.
///
/// # Errors
/// What could not be removed, and why, in a sentence.
async fn clear(sql: &Sql, index: &str) -> Result<(), String> {
    let left: anyhow::Result<Vec<Named>> = sql.many(&queries::leftovers(index)).await;
    let left = left.map_err(|error| format!("it cannot be told what {index} has left behind: {error:#}"))?;
    for Named { name } in left {
        let dropped = sql.rows(&format!("DROP INDEX CONCURRENTLY {name}")).await;
        dropped.map_err(|error| format!("{name} is left behind, and to be dropped by hand: {error:#}"))?;
    }
    Ok(())
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
