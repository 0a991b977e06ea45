//! `restore-cmd fetch %f %p`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use proto::wal::WalFile;
use proto::{SystemId, TimelineId};
use restore::fetch::{Found, Patience, fetch_patiently, is_store_failure};
use restore::program::{GlobalArgs, load, report};

/// No single request may use up all the time there is for retries.
const LONGEST_REQUEST: Duration = Duration::from_secs(15);

/// Fetch one WAL file, as restore_command: 0 it is written, 1 it is proven absent, 126 anything else
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The file's name: %f
    #[arg(value_name = "NAME")]
    file: String,

    /// Where to write it: %p
    #[arg(value_name = "PATH")]
    to: PathBuf,

    /// The timeline that recovery follows; its parents' WAL beyond the fork is never given
    #[arg(long, value_name = "NUMBER")]
    timeline: Option<TimelineId>,

    /// Which system identifier, if the repository has several under the cluster's name
    #[arg(long, value_name = "NUMBER")]
    system_id: Option<SystemId>,
}

/// It is not there, nor anything later.
const ABSENT: u8 = 1;

/// Everything else. PostgreSQL ends a recovery with an error above 125, and takes anything from 1 to 125 as absent.
pub(crate) const FAILED: u8 = 126;

pub(crate) fn run(global: &GlobalArgs, args: &Args) -> ExitCode {
    match fetch(global, args) {
        Ok(Found::Written) => ExitCode::SUCCESS,
        Ok(Found::Absent) => ExitCode::from(ABSENT),
        Err(error) => {
            report(&error.context(format!("cannot fetch {}", args.file)));
            ExitCode::from(FAILED)
        }
    }
}

fn fetch(global: &GlobalArgs, args: &Args) -> Result<Found> {
    let file: WalFile = args.file.parse()?;
    let mut config = load(global)?;
    config.storage.retry_timeout = config.storage.retry_timeout.min(LONGEST_REQUEST);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start")?;
    let found = runtime.block_on(async {
        let open = async || super::open_branch(&config, args.system_id).await;
        fetch_patiently(open, file, args.timeline, &args.to, Patience::default()).await
    });
    // What may still hang in a thread must not keep the server waiting.
    runtime.shutdown_background();
    match found {
        // The server's working directory is its data directory. A standby asks again, and streams meanwhile; an error
        // would stop it.
        Err(error) if is_store_failure(&error) && PathBuf::from("standby.signal").exists() => {
            report(&error.context(format!("cannot fetch {} now; the standby will ask again", args.file)));
            Ok(Found::Absent)
        }
        other => other,
    }
}
