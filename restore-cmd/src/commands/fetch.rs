//! `restore-cmd fetch %f %p`

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use proto::config::Config;
use proto::wal::{SegmentName, WalFile};
use proto::{SystemId, TimelineId};
use restore::fetch::{
    Following, Found, Patience, Spool, counts_whole, fetch_ahead, fetch_patiently, is_store_failure,
};
use restore::prepare::open_branch;
use restore::program::{GlobalArgs, load, report};

/// No single request may use up all the time there is for retries.
const LONGEST_REQUEST: Duration = Duration::from_secs(15);

/// A segment that is on its way into the spool is waited for so long.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Fetch one WAL file, as restore_command: 0 it is written, 1 it is proven absent, 126 anything else
#[derive(clap::Args, Debug)]
#[command(after_long_help = MANUAL)]
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

    /// Fill the spool in the background; fetch starts that itself
    #[arg(long, hide = true)]
    ahead: bool,
}

const MANUAL: &str = "\
What restore_command calls; `restore-cmd restore` writes the whole line. The segments that come next are fetched beside the data \
directory in the meantime.

Example, in postgresql.conf:
  restore_command = 'restore-cmd fetch --config /etc/walkeep/walkeep.toml %f %p'

Exit codes: 0 written; 1 proven absent, and nothing later is there: the end of WAL (for a standby also: the repository does not answer); \
126 anything else, after retries: a hole, an outage, damage. So nothing but the end of WAL ends a recovery.";

impl Args {
    /// What a panic exits with: for the process in the background see [`in_background`].
    pub(crate) fn failed(&self) -> u8 {
        if self.ahead { 0 } else { FAILED }
    }
}

/// It is not there, nor anything later.
const ABSENT: u8 = 1;

/// Everything else. PostgreSQL ends a recovery with an error above 125, and takes anything from 1 to 125 as absent.
pub(crate) const FAILED: u8 = 126;

pub(crate) fn run(global: &GlobalArgs, args: &Args) -> ExitCode {
    if args.ahead {
        return in_background(global, args);
    }
    match fetch(global, args) {
        Ok(Found::Written | Found::Padded) => ExitCode::SUCCESS,
        Ok(Found::Absent) => ExitCode::from(ABSENT),
        Err(error) => {
            report(&error.context(format!("cannot fetch {}", args.file)));
            ExitCode::from(FAILED)
        }
    }
}

fn fetch(global: &GlobalArgs, args: &Args) -> Result<Found> {
    let file: WalFile = args.file.parse()?;
    let config = config(global)?;
    let spooled = match file {
        WalFile::Segment(name) => spool(&config, args).map(|spool| (spool, name)),
        _ => None,
    };
    if let Some((spool, name)) = &spooled
        && still_counts(&config, args, *name)
        && take(spool, *name, &args.to)
    {
        go_on_ahead(spool);
        return Ok(Found::Written);
    }
    let found = fetch_now(&config, args, file);
    match (&found, &spooled) {
        (Ok(Found::Written), Some((spool, _))) => go_on_ahead(spool),
        // The end of WAL, or of what counts of it: nothing is left to be fetched ahead.
        (Ok(Found::Padded | Found::Absent), Some((spool, _))) => spool.remove(),
        _ => {}
    }
    found
}

fn config(global: &GlobalArgs) -> Result<Config> {
    let mut config = load(global)?;
    // A directory is not asked again, and says so of a key that means nothing for it.
    if !config.repository.as_deref().is_some_and(|url| url.starts_with("file:")) {
        config.storage.retry_timeout = config.storage.retry_timeout.min(LONGEST_REQUEST);
    }
    Ok(config)
}

/// The server's working directory is its data directory.
fn is_standby() -> bool {
    Path::new("standby.signal").exists()
}

fn following(args: &Args) -> Following {
    match args.timeline {
        Some(timeline) => Following::Pinned(timeline),
        None if is_standby() => Following::Newest,
        None => Following::Asked,
    }
}

/// A fork may have become known since the segment was spooled. Who follows a planned timeline knows of all forks that
/// count; a standby that follows the newest one does not, so the repository is asked again.
fn still_counts(config: &Config, args: &Args, name: SegmentName) -> bool {
    if following(args) != Following::Newest {
        return true;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return false };
    let counts = runtime.block_on(async {
        let asked = async {
            let branch = open_branch(config, args.system_id).await?;
            counts_whole(&branch, name, Following::Newest).await
        };
        tokio::time::timeout(LONGEST_WAIT, asked).await
    });
    runtime.shutdown_background();
    // If it cannot be told, it is fetched as if nothing were spooled, which tells why.
    matches!(counts, Ok(Ok(true)))
}

fn spool(config: &Config, args: &Args) -> Option<Spool> {
    let source = (&config.repository, &config.cluster, args.system_id, following(args));
    Spool::beside(&args.to, &format!("{source:?}"))
}

/// Takes a segment out of the spool, if it is there or on its way.
fn take(spool: &Spool, name: SegmentName, to: &Path) -> bool {
    if let Err(error) = spool.ask(name) {
        tracing::debug!("nothing is fetched ahead into {}: {error}", spool.path().display());
        return false;
    }
    let begun = Instant::now();
    loop {
        // First this, then that: it may arrive between the two.
        let is_coming = spool.is_coming(name);
        if spool.take(name, to) {
            return true;
        }
        if !is_coming || begun.elapsed() > LONGEST_WAIT {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts the process that fills the spool, unless there is one.
fn go_on_ahead(spool: &Spool) {
    if !spool.is_unattended() {
        return;
    }
    let program = std::env::current_exe().unwrap_or_else(|_| "restore-cmd".into());
    // A group of its own, and none of the server's channels: the server neither waits for it nor stops it.
    let started = Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg("--ahead")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn();
    if let Err(error) = started {
        tracing::debug!("nothing is fetched ahead: {error}");
    }
}

/// Fills the spool. Whatever becomes of it, the exit code is 0: where the server is a container's first process, it
/// inherits this one, and would take another code for a crash of its own.
fn in_background(global: &GlobalArgs, args: &Args) -> ExitCode {
    let ahead = || -> Result<()> {
        let config = config(global)?;
        let Some(spool) = spool(&config, args) else { return Ok(()) };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let done = runtime.block_on(async {
            let branch = open_branch(&config, args.system_id).await?;
            fetch_ahead(&branch, &spool, following(args)).await
        });
        runtime.shutdown_background();
        done
    };
    if let Err(error) = ahead() {
        tracing::debug!("fetching ahead ends: {error:#}");
    }
    ExitCode::SUCCESS
}

fn fetch_now(config: &Config, args: &Args, file: WalFile) -> Result<Found> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start")?;
    let found = runtime.block_on(async {
        let open = async || open_branch(config, args.system_id).await;
        fetch_patiently(open, file, following(args), &args.to, Patience::default()).await
    });
    // What may still hang in a thread must not keep the server waiting.
    runtime.shutdown_background();
    match found {
        // A standby asks again, and streams meanwhile; an error would stop it.
        Err(error) if is_store_failure(&error) && is_standby() => {
            report(&error.context(format!("cannot fetch {} now; the standby will ask again", args.file)));
            Ok(Found::Absent)
        }
        other => other,
    }
}
