//! `walkeep backup`: take a base backup now.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, ValueEnum};
use indicatif::HumanBytes;
use jiff::Timestamp;
use proto::client::Replication;
use proto::config::{BackupSource, Config, ReadRate, TakeFrom, UploadRate};
use proto::conninfo::{ConnInfo, TargetSession};
use repository::Repository;
use repository::backup::{BackupKind, BackupLabel, Intent};
use repository::manifest::ManifestHead;
use restore::program::{GlobalArgs, Progress, failure};
use tokio::signal::unix::{SignalKind, signal};

use super::list::BackupLine;
use crate::backup::choose::{self, Base, Wish};
use crate::backup::facts::Sql;
use crate::backup::plan::Plan;
use crate::backup::{execute, local, native, plan, rivals};

/// The arguments of `walkeep backup`.
#[derive(Debug, Args)]
#[command(after_long_help = MANUAL)]
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

    /// Of several hosts in `postgres`, which kind to read: primary, standby, or prefer-standby (a primary where no
    /// standby answers). As `from` in the section [backup]
    #[arg(long, value_name = "KIND")]
    from: Option<TakeFrom>,

    /// The most that the server is to read and send, per second, such as 50MiB; 32KiB to 1GiB. As `read_rate` in the
    /// section [backup]
    #[arg(long, value_name = "RATE")]
    max_rate: Option<ReadRate>,

    /// The most of the backup's data that goes to the repository, per second, such as 20MiB; at least 32KiB. WAL is never
    /// held back. As `upload_rate` in the section [backup]
    #[arg(long, value_name = "RATE")]
    max_upload_rate: Option<UploadRate>,

    /// How the server's files are read: protocol (the server sends them), local (from its data directory, which must be on
    /// this machine and readable), or auto (locally where that is possible, unless the server can tell what has changed).
    /// As `source` in the section [backup]
    #[arg(long, value_name = "HOW")]
    source: Option<BackupSource>,

    /// Print one JSON object when it is done
    #[arg(long)]
    json: bool,
}

const MANUAL: &str = "\
With neither --full nor --incremental: incremental if there is a backup to build upon, else full; a line says which, and why. Whatever \
its kind, a backup is restored by itself, in one pass. It counts when its manifest is stored, and with it all WAL from its start to its \
end; one that was cut off is no backup, and is swept later.

Examples:
  walkeep backup
  walkeep backup --full --label-note 'before the upgrade'
  walkeep backup --from prefer-standby --max-rate 50MiB
  walkeep backup --source local                     reads the files beside the server

Exit codes: 0 the backup is in the repository; 1 there is none; 2 wrong usage.";

/// How to find what has changed since the parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// Read the whole cluster, and compare
    Content,
    /// Ask the server, also one whose WAL summaries have known faults
    Server,
}

/// A note is one line of moderate length.
pub(super) fn note(text: &str) -> Result<String, String> {
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
    let args = BackupArgs {
        full: true,
        incremental: false,
        by: None,
        label_note: Some(note),
        // A standby's backup can begin before the gap, since it begins where the standby last made a checkpoint.
        from: Some(TakeFrom::Primary),
        max_rate: None,
        max_upload_rate: None,
        source: None,
        json: false,
    };
    // No progress: nobody sits before it.
    let quiet = GlobalArgs { quiet: true, ..global.clone() };
    Ok(Box::pin(take(&quiet, &args)).await?.label)
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
    let (info, replication) = reach(&config, args.from.or(config.backup.from)).await?;
    let repository = Repository::from_config(&config).await?;
    let cluster = config.cluster.clone().unwrap_or_default();
    let sql = Sql::connect(&info).await?;
    let branch = async |system_id| repository.branch(&cluster, system_id).await;
    let mut plan = plan::plan(&config, info, &sql, replication, branch, args.label_note.clone()).await?;
    plan.read_rate = args.max_rate.or(config.backup.read_rate);
    plan.upload_rate = args.max_upload_rate.or(config.backup.upload_rate);
    // Held as long as this session lives: a killed backup blocks nobody.
    if !sql.lock_backup().await? {
        let holder = rivals::likely_holder(&plan.branch).await;
        let holder = holder.map(|holder| format!(": {}", holder.told())).unwrap_or_default();
        return Err(failure(
            format!("another backup of this cluster is running{holder}"),
            "wait until it is done, or stop it",
        ));
    }
    let backups = plan.branch.backups().await?;
    // Later than those that run, too: so each of two that begin at once knows which one was first.
    let unfinished = plan.branch.unfinished_backups().await?;
    let labels = backups.iter().map(|backup| &backup.label);
    let last = labels.chain(unfinished.iter().map(|backup| &backup.label)).max();
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
    if let Some(rival) = rivals::before(&plan.branch, &intent).await? {
        if let Err(error) = plan.branch.withdraw_backup(&label).await {
            tracing::debug!("the intent of backup {label} stays: {error}");
        }
        return Err(failure(
            format!("another backup of this cluster is running, from another server: {}", rival.told()),
            format!(
                "wait until it is done, or stop it; should it be dead, it is forgotten {} s after its last sign of life",
                rivals::forgotten_after().as_secs()
            ),
        ));
    }
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
    let source = args.source.unwrap_or(config.backup.source);
    if source == BackupSource::Local && args.by == Some(By::Server) {
        let message = "the server tells what has changed only where it sends its files itself";
        return Err(failure(message, "leave out `--by server`, or `--source local`"));
    }
    let native = source != BackupSource::Local
        && parent.as_ref().is_some_and(|parent| by_server(&plan, &parent.head, args.by));
    plan.directory = directory(&plan, source, native).await?;
    match &parent {
        None => {
            tracing::info!(%label, wal = ?plan.wal, local = plan.directory.is_some(), "taking a full backup")
        }
        Some(parent) => {
            let (parent, by) = (&parent.head.label, if native { "server" } else { "content" });
            let local = plan.directory.is_some();
            tracing::info!(%label, %parent, by, wal = ?plan.wal, local, "taking an incremental backup");
        }
    }
    let progress = if global.quiet { Progress::hidden() } else { Progress::new("backup", None) };
    let head = execute::execute(&plan, &label, parent, native, &progress).await;
    progress.finish();
    let head = head.with_context(|| format!("backup {label} failed"))?;
    // The backup is complete without it. What nobody has stated could be taken away unnoticed until the next statement.
    if let Err(error) = Box::pin(plan.branch.state(None)).await {
        tracing::warn!("backup {label} is complete, and not stated yet: {error}");
    }
    Ok(head)
}

/// The server's data directory, if the backup is to be read from there.
async fn directory(plan: &Plan, source: BackupSource, native: bool) -> anyhow::Result<Option<PathBuf>> {
    match source {
        BackupSource::Protocol => Ok(None),
        BackupSource::Auto if native => Ok(None),
        BackupSource::Auto => Ok(local::here(&plan.info, &plan.facts, plan.version.major())
            .await
            .inspect_err(|why| tracing::debug!("the server sends its files: {why:#}"))
            .ok()),
        BackupSource::Local => local::here(&plan.info, &plan.facts, plan.version.major()).await.map(Some),
    }
}

/// The server that the backup is to be read from, and a session with it.
///
/// All other sessions have to reach the same one, though others of the same kind may answer later: so it is the only host
/// that is left.
async fn reach(config: &Config, from: Option<TakeFrom>) -> anyhow::Result<(ConnInfo, Replication)> {
    let mut info = super::conninfo(config)?;
    if let Some(from) = from {
        info.target_session_attrs = match from {
            TakeFrom::Primary => TargetSession::Primary,
            TakeFrom::Standby => TargetSession::Standby,
            TakeFrom::PreferStandby => TargetSession::PreferStandby,
        };
    }
    let session = super::connect(&info).await?;
    if let Some(host) = info.hosts.iter().find(|host| host.to_string() == session.host()) {
        info.hosts = vec![host.clone()];
    }
    Ok((info, session))
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
    if head.from_standby {
        text += "  taken from a standby\n";
    }
    if head.damaged_page_count > 0 {
        text += &format!(
            "  {} damaged pages on the server: they are in the backup as they are\n",
            head.damaged_page_count
        );
    }
    text
}
