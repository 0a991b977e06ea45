//! `walkeep backup`: take a base backup now.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};
use indicatif::HumanBytes;
use jiff::Timestamp;
use repository::backup::{BackupKind, BackupLabel, Intent};
use repository::manifest::ManifestHead;
use repository::{Branch, Repository};
use restore::program::{GlobalArgs, Progress, failure};
use tokio::signal::unix::{SignalKind, signal};

use super::list::BackupLine;
use crate::backup::choose::{self, Base, Wish};
use crate::backup::facts::Sql;
use crate::backup::plan::Plan;
use crate::backup::{execute, native, plan};

/// The arguments of `walkeep backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// Take everything, and share nothing with earlier backups
    #[arg(long, conflicts_with = "incremental")]
    full: bool,

    /// Store only what has changed since the last backup; without one, take everything and say why. The default
    #[arg(long)]
    incremental: bool,

    /// How to find what has changed. By default the server is asked if it can be relied on: PostgreSQL 17.11, 18.6 and
    /// later, with `summarize_wal`
    #[arg(long, value_enum, value_name = "HOW", conflicts_with = "full")]
    by: Option<By>,

    /// A note to keep with the backup, shown by `walkeep list`
    #[arg(long, value_name = "TEXT", value_parser = note)]
    label_note: Option<String>,

    /// Print one JSON object when it is done
    #[arg(long)]
    json: bool,
}

/// How to find what has changed since the parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// Read the whole cluster, and compare
    Content,
    /// Ask the server, also one whose WAL summaries have known faults
    Server,
}

/// A note is one line of moderate length.
fn note(text: &str) -> Result<String, String> {
    match text {
        _ if text.chars().any(char::is_control) => {
            Err("it must be one line without control characters".into())
        }
        _ if text.len() > 1000 => Err("it must not be longer than 1000 bytes".into()),
        _ => Ok(text.to_owned()),
    }
}

impl BackupArgs {
    fn wish(&self) -> Wish {
        match (self.full, self.incremental) {
            (true, _) => Wish::Full,
            (false, true) => Wish::Incremental,
            (false, false) => Wish::Either,
        }
    }
}

/// Takes the backup, or says why not. A signal ends it cleanly: only leftovers remain.
pub async fn run(global: &GlobalArgs, args: BackupArgs) -> anyhow::Result<ExitCode> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let begun = std::time::Instant::now();
    let head = tokio::select! {
        head = Box::pin(take(global, &args)) => head?,
        _ = interrupted.recv() => return Err(stopped("SIGINT")),
        _ = terminated.recv() => return Err(stopped("SIGTERM")),
    };
    if args.json {
        super::print_json(&BackupLine::of(&head))?;
    } else {
        super::print(&summary(&head, begun.elapsed()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A full backup in the place of an operator: the agent has found a gap in the WAL.
pub(super) async fn take_after_gap(global: &GlobalArgs) -> anyhow::Result<BackupLabel> {
    let note = "taken by the agent: WAL before it is missing".to_owned();
    let args = BackupArgs { full: true, incremental: false, by: None, label_note: Some(note), json: false };
    // No progress: nobody sits before it.
    let quiet = GlobalArgs { quiet: true, ..global.clone() };
    Ok(take(&quiet, &args).await?.label)
}

fn stopped(signal: &str) -> anyhow::Error {
    failure(
        format!("the backup was stopped by {signal}"),
        "nothing of it is listed; what it had stored already is swept by `walkeep expire`",
    )
}

async fn take(global: &GlobalArgs, args: &BackupArgs) -> anyhow::Result<ManifestHead> {
    let config = restore::program::load(global)?;
    super::repository_url(&config)?;
    let info = super::conninfo(&config)?;
    let repository = Repository::from_config(&config).await?;
    let cluster = config.cluster.clone().unwrap_or_default();
    let sql = Sql::connect(&info).await?;
    let replication = super::connect(&info).await?;
    let branch = async |system_id| repository.branch(&cluster, system_id).await;
    let plan = plan::plan(&config, info, &sql, replication, branch, args.label_note.clone()).await?;
    // Held as long as this session lives: a killed backup blocks nobody.
    if !sql.lock_backup().await? {
        return Err(failure(
            format!("another backup of this cluster is running{}", holder(&plan.branch).await),
            "wait until it is done, or stop it",
        ));
    }
    let backups = plan.branch.backups().await?;
    let last = backups.iter().map(|backup| &backup.label).max();
    let history = plan.history.as_ref().map(|history| &history.parsed);
    let base = choose::choose(&plan.branch, &backups, plan.identity.timeline, history, args.wish())
        .await
        .context("cannot look for the backup to compare with")?;
    let kind = match &base {
        Base::Full { why } => {
            match why {
                // Nobody is surprised that the first one is full.
                Some(why) if args.incremental || !backups.is_empty() => {
                    tracing::warn!("this backup is taken in full: {why}");
                }
                _ => {}
            }
            BackupKind::Full
        }
        Base::Parent(..) => BackupKind::Incremental,
    };
    let label = BackupLabel::next(Timestamp::now(), kind, last);
    let intent = Intent {
        label: label.clone(),
        parent: base.parent().cloned(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        pid: std::process::id(),
        writer: plan.branch.writer(),
        started_at: Timestamp::now(),
    };
    plan.branch.begin_backup(&intent).await.context("cannot announce the backup in the repository")?;
    let parent = match base {
        Base::Full { .. } => None,
        Base::Parent(chosen, manifest) => match choose::confirm(&plan.branch, &chosen, manifest).await? {
            Some(manifest) => Some(manifest),
            None => {
                return Err(failure(
                    format!("backup {}, with which this one was to be compared, goes just now", chosen.label),
                    "take the backup again",
                ));
            }
        },
    };
    let native = parent.as_ref().is_some_and(|parent| by_server(&plan, &parent.head, args.by));
    match &parent {
        None => tracing::info!(%label, wal = ?plan.wal, "taking a full backup"),
        Some(parent) => {
            let (parent, by) = (&parent.head.label, if native { "server" } else { "content" });
            tracing::info!(%label, %parent, by, wal = ?plan.wal, "taking an incremental backup");
        }
    }
    let progress = if global.quiet { Progress::hidden() } else { Progress::new("backup", None) };
    let head = execute::execute(&plan, &label, parent, native, &progress).await;
    progress.finish();
    head.with_context(|| format!("backup {label} failed"))
}

/// Whether the server shall tell what has changed.
fn by_server(plan: &Plan, parent: &ManifestHead, by: Option<By>) -> bool {
    if by == Some(By::Content) {
        return false;
    }
    let insisted = by == Some(By::Server);
    let possible = native::possible(plan.version, &plan.facts, plan.identity.timeline, parent, insisted);
    match &possible {
        Ok(()) => {}
        Err(why) if insisted => tracing::warn!("all content is compared with {}: {why}", parent.label),
        Err(why) => tracing::debug!("all content is compared with {}: {why}", parent.label),
    }
    possible.is_ok()
}

/// Who that probably is: the unfinished backup that gave the last sign of life. Empty if that cannot be told.
async fn holder(branch: &Branch) -> String {
    let unfinished = branch.unfinished_backups().await.unwrap_or_default();
    let Some(backup) = unfinished.into_iter().max_by_key(|backup| backup.last_alive) else {
        return String::new();
    };
    match branch.read_intent(&backup.label).await {
        Ok(Some(intent)) => format!(": {}, on {}, process {}", backup.label, intent.host, intent.pid),
        _ => format!(": {}", backup.label),
    }
}

fn summary(head: &ManifestHead, took: std::time::Duration) -> String {
    let stored = match &head.parent {
        None => {
            let ratio = head.size_bytes as f64 / head.stored_bytes.max(1) as f64;
            format!("{} stored ({ratio:.1} to 1)", HumanBytes(head.stored_bytes))
        }
        Some(parent) => format!("{} stored that {parent} had not", HumanBytes(head.stored_bytes)),
    };
    let mut text = format!(
        "backup {} is complete\n  timeline {}, WAL from {} to {}\n  {} in the cluster, {stored}, in {:.1} s\n",
        head.label,
        head.timeline,
        head.start_lsn,
        head.stop_lsn,
        HumanBytes(head.size_bytes),
        took.as_secs_f64(),
    );
    if head.damaged_page_count > 0 {
        text += &format!(
            "  {} damaged pages on the server: they are in the backup as they are\n",
            head.damaged_page_count
        );
    }
    text
}
