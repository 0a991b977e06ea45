//! One WAL file for a recovering server.
//!
//! PostgreSQL takes "there is none" as the end of WAL and may open for writing there. So that is said only when it is
//! proven: the repository has answered, and has nothing later on this lineage either. Everything else is an error.

mod ahead;
mod beside;
mod segment;
mod spool;

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use proto::TimelineId;
use proto::wal::WalFile;
use repository::{Branch, Error};

pub use ahead::fetch_ahead;
use beside::{Beside, cannot_write};
use segment::Segment;
pub use segment::counts_whole;
pub use spool::Spool;

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// The file is there, whole and verified.
    Written,
    /// The file is there, but only its beginning is WAL: the repository has no more of it yet, or no more counts.
    Padded,
    /// The repository has answered that there is none, and nothing later on this lineage.
    Absent,
}

/// Along which timelines the server recovers, as far as that was said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Following {
    /// To this timeline, as was planned.
    Pinned(TimelineId),
    /// Whichever is newest, as a standby does: it goes over to a timeline when that appears.
    Newest,
    /// Nobody has said: what the server asks for counts.
    Asked,
}

/// How long a store that does not answer is asked again.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// No new try begins after this.
    pub retry_for: Duration,
    /// Everything ends after this.
    pub at_most: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { retry_for: Duration::from_secs(30), at_most: Duration::from_secs(60) }
    }
}

/// Opens a branch by `open` and fetches, with retries while the store does not answer.
///
/// # Errors
/// As [`fetch`]; and the store did not answer in time.
pub async fn fetch_patiently<O>(
    open: O,
    file: WalFile,
    following: Following,
    to: &Path,
    patience: Patience,
) -> Result<Found>
where
    O: AsyncFn() -> Result<Branch>,
{
    let begun = Instant::now();
    let tries = async {
        let mut pause = Duration::from_millis(200);
        loop {
            let tried = async { fetch(&open().await?, file, following, to).await }.await;
            match tried {
                Err(error) if is_silent(&error) && begun.elapsed() + pause < patience.retry_for => {
                    tracing::warn!("{error:#}; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
                other => return other,
            }
        }
    };
    match tokio::time::timeout(patience.at_most, tries).await {
        Ok(result) => result,
        Err(_) => {
            let why = format!("no answer within {} s", patience.at_most.as_secs());
            Err(Error::Unreachable { what: "the repository".into(), why }.into())
        }
    }
}

/// Whether the store did not answer.
fn is_silent(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(Error::Unreachable { .. })))
}

/// Whether the store as a whole cannot be used now. A standby's server lives on without it.
pub fn is_store_failure(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let cause = cause.downcast_ref();
        matches!(
            cause,
            Some(
                Error::Unreachable { .. }
                    | Error::Refused { .. }
                    | Error::Foreign { .. }
                    | Error::NotBegun { .. }
            )
        )
    })
}

/// Fetches `file` to the path `to`.
///
/// # Errors
/// The file is there but cannot be had: a hole, damage, a conflict, a store that does not answer, no room.
pub async fn fetch(branch: &Branch, file: WalFile, following: Following, to: &Path) -> Result<Found> {
    match file {
        WalFile::Segment(name) => Segment::new(branch, name, following).fetch(to).await,
        other => small(branch, other, following, to).await,
    }
}

/// History, partial and backup files. History files are given for any timeline: at the end of recovery the server
/// looks for a number that is still free.
async fn small(branch: &Branch, file: WalFile, following: Following, to: &Path) -> Result<Found> {
    let mut found = branch.read_wal_file(file).await?;
    if let WalFile::History(timeline) = file {
        // Beyond the timeline that recovery follows all that counts is whether the number is taken.
        if !matches!(following, Following::Pinned(pinned) if timeline > pinned) {
            // Two that differ in words only do not disagree; the error names those that do.
            branch.read_history(timeline).await?;
        }
        found.truncate(1);
    }
    if found.len() > 1 {
        let found = found.iter().map(|file| file.digest.to_string()).collect();
        return Err(Error::Conflict { what: file.to_string(), found }.into());
    }
    let Some(found) = found.pop() else { return Ok(Found::Absent) };
    let mut beside = Beside::create(to)?;
    beside.file.write_all(&found.content).with_context(|| cannot_write(&beside.path))?;
    beside.finish()?;
    Ok(Found::Written)
}
