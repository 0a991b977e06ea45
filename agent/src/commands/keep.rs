//! `walkeep keep LABEL`: keep a backup, whatever retention says.

use std::process::ExitCode;

use clap::Args;
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use repository::backup::BackupLabel;
use repository::retention::{Keep, KeepError};
use restore::program::{GlobalArgs, failure};

use super::list::clock;

/// The arguments of `walkeep keep`.
#[derive(Debug, Args)]
#[command(after_long_help = MANUAL)]
pub struct KeepArgs {
    /// The backup, as `walkeep list` names it
    #[arg(value_name = "LABEL")]
    label: BackupLabel,

    /// Until when; without it for ever. A date or a time, such as 2027-01-31 or "2027-01-31 12:00", in this computer's
    /// time zone, or with an offset
    #[arg(long, value_name = "DATE", conflicts_with = "release", value_parser = moment)]
    until: Option<Timestamp>,

    /// Leave it to retention again
    #[arg(long)]
    release: bool,
}

const MANUAL: &str = "\
Retention passes over a backup that is kept, and over the WAL that it needs to be restored.

Examples:
  walkeep keep 20261124T020000Z-full-1a2b3c                      for ever
  walkeep keep 20261124T020000Z-full-1a2b3c --until 2027-12-31

Exit codes: 0; 1 there is no such backup, or it could not be marked; 2 wrong usage.";

fn moment(text: &str) -> Result<Timestamp, String> {
    let local = |at: DateTime| at.to_zoned(TimeZone::system()).ok().map(|at| at.timestamp());
    let parsed = text.parse::<Timestamp>().ok();
    parsed.or_else(|| text.parse::<DateTime>().ok().and_then(local)).ok_or_else(|| {
        "a date such as 2027-01-31, or a time such as 2027-01-31T12:00+01:00, is expected".into()
    })
}

/// Writes a mark beside the backup. What `expire` does with it is decided there.
pub async fn run(global: &GlobalArgs, args: KeepArgs) -> anyhow::Result<ExitCode> {
    let (config, repository, cluster) = super::open(global).await?;
    let branch = repository.only_branch(&cluster).await?;
    let now = Timestamp::now();
    // A release is past by any clock: the store's is the one that counts.
    let until = if args.release { Some(Timestamp::UNIX_EPOCH) } else { args.until };
    if let Some(past) = until.filter(|until| !args.release && *until <= now) {
        return Err(failure(
            format!("{} is in the past", clock(past)),
            "give a time to come, with an offset if this computer's time zone is another, or --release",
        ));
    }
    match branch.keep_backup(&args.label, Keep { until }, config.retention.grace).await {
        Ok(()) => {}
        Err(error @ KeepError::TooLate { .. }) if !args.release => {
            return Err(failure(
                error.to_string(),
                "restore from it at once if it is needed, or take a new one",
            ));
        }
        Err(KeepError::TooLate { .. }) => {}
        Err(KeepError::Repository(error)) if error.is_absent() => {
            return Err(failure(
                format!("there is no backup {}", args.label),
                "`walkeep list` shows the labels of all backups",
            ));
        }
        Err(KeepError::Repository(error)) => return Err(error.into()),
    }
    let label = &args.label;
    super::print(&match until {
        _ if args.release => format!("backup {label} is left to retention\n"),
        Some(until) => format!("backup {label} is kept until {}\n", clock(until)),
        None => format!("backup {label} is kept for ever, or until `walkeep keep {label} --release`\n"),
    })?;
    Ok(ExitCode::SUCCESS)
}
