//! `walkeep upkeep`: VACUUM, ANALYZE and REINDEX CONCURRENTLY, where the server's figures say that it is worth it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use jiff::{Timestamp, tz::TimeZone};
use proto::config::Config;
use proto::conninfo::ConnInfo;
use restore::program::{GlobalArgs, failure, load};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::schedule::time_zone;
use crate::upkeep::{self, Until};

/// The arguments of `walkeep upkeep`.
#[derive(Debug, Args)]
#[command(after_help = "\
It does what [upkeep] of the configuration allows: within its window, its budget of time and its lock timeout, never twice at once,
and never while a backup is taken unless `during_backup` says so. The role must own the tables, or be a member of pg_maintain.")]
pub struct UpkeepArgs {
    /// Only show what would be done, and why
    #[arg(long)]
    dry_run: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Does it, and prints what was done and gained; exit code 1 if the server has refused something.
pub async fn run(global: &GlobalArgs, args: UpkeepArgs) -> anyhow::Result<ExitCode> {
    let config = load(global)?;
    if !config.upkeep.enabled && !args.dry_run {
        return Err(failure(
            "upkeep is off: [upkeep] of the configuration does not allow it",
            "see what would be done with --dry-run, and set `enabled = true` in [upkeep]",
        ));
    }
    let until = until(&config, args.dry_run)?;
    let info = conninfo(&config)?;
    let stop = stopped()?;
    let report = Box::pin(upkeep::run(&info, &config.upkeep, until, args.dry_run, stop)).await?;
    if args.json {
        super::print_json(&report)?;
    } else {
        super::print(&report.text())?;
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Becomes true at the first signal that asks us to end. Nothing else is done then: the statement at work has to be ended, and what it
/// leaves behind removed.
fn stopped() -> anyhow::Result<watch::Receiver<bool>> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let (tell, told) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
        tell.send_replace(true);
        tell.closed().await;
    });
    Ok(told)
}

/// The server, as the role that may do it. Of several hosts the primary: a standby cleans up nothing.
fn conninfo(config: &Config) -> anyhow::Result<ConnInfo> {
    let postgres = config.upkeep.postgres.clone().or_else(|| config.postgres.clone());
    super::conninfo(&Config { postgres, ..config.clone() })
}

/// The end of the budget, or of the window, whichever comes first.
fn until(config: &Config, dry_run: bool) -> anyhow::Result<Until> {
    let budget = config.upkeep.budget;
    let left = match config.upkeep.window.filter(|_| !dry_run) {
        None => budget,
        Some(window) => {
            let zone = match &config.schedule.timezone {
                Some(name) => time_zone(name).ok_or_else(|| {
                    failure(
                        format!("`timezone` in [schedule] is {name:?}, which is no time zone that this computer knows"),
                        "give a name such as \"Europe/Berlin\" (the package tzdata has them)",
                    )
                })?,
                None => TimeZone::system(),
            };
            let now = Timestamp::now().to_zoned(zone);
            // An hour and a minute are never negative.
            let minute = u32::from(now.hour().unsigned_abs()) * 60 + u32::from(now.minute().unsigned_abs());
            let left = window.left(minute).ok_or_else(|| {
                failure(
                    format!("it is {}, and the window of [upkeep] is not open", now.strftime("%H:%M")),
                    "wait for it, or change `window`; --dry-run works at any time",
                )
            })?;
            budget.min(Duration::from_secs(u64::from(left) * 60))
        }
    };
    Ok(Until(Instant::now() + left))
}
