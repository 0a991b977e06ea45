//! One WAL file for a recovering server.
//!
//! PostgreSQL takes "there is none" as the end of WAL and may open for writing there. So that is said only when it is
//! proven: the repository has answered, and has nothing later on this lineage either. Everything else is an error.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use proto::wal::padding::stamp_padding;
use proto::wal::{SegmentName, WalFile};
use proto::{Lsn, TimelineId};
use repository::catalogue::Lineage;
use repository::{Branch, Error, TimelineWal};

use crate::program::failure;

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// The file is there, whole and verified.
    Written,
    /// The repository has answered that there is none, and nothing later on this lineage.
    Absent,
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
    pinned: Option<TimelineId>,
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
            let tried = async { fetch(&open().await?, file, pinned, to).await }.await;
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
        matches!(cause, Some(Error::Unreachable { .. } | Error::Refused { .. } | Error::Foreign { .. }))
    })
}

/// Fetches `file` to the path `to`. `pinned`: the timeline that recovery follows, where that was decided.
///
/// # Errors
/// The file is there but cannot be had: a hole, damage, a conflict, a store that does not answer, no room.
pub async fn fetch(branch: &Branch, file: WalFile, pinned: Option<TimelineId>, to: &Path) -> Result<Found> {
    match file {
        WalFile::Segment(name) => Segment::new(branch, name, pinned).fetch(to).await,
        other => small(branch, other, to).await,
    }
}

/// History, partial and backup files. History files are given for any timeline: at the end of recovery the server
/// looks for a number that is still free.
async fn small(branch: &Branch, file: WalFile, to: &Path) -> Result<Found> {
    let mut found = branch.read_wal_file(file).await?;
    if let WalFile::History(timeline) = file {
        // Two that differ in words only do not disagree; the error names those that do.
        branch.read_history(timeline).await?;
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

struct Segment<'a> {
    branch: &'a Branch,
    name: SegmentName,
    pinned: Option<TimelineId>,
}

/// What recovery along a lineage makes of a segment.
enum Role {
    /// All of it counts.
    Whole,
    /// It counts up to here: the first `bytes`, the child's share follows.
    UpTo(u64),
    /// It is not on the way.
    None,
}

impl<'a> Segment<'a> {
    fn new(branch: &'a Branch, name: SegmentName, pinned: Option<TimelineId>) -> Self {
        Self { branch, name, pinned }
    }

    fn bounds(&self) -> Result<(Lsn, Lsn)> {
        let size = self.branch.segment_size();
        let number = self.name.number(size)?;
        Ok((number.start(size), number.end(size)))
    }

    /// The way to the pinned timeline; `None` if this is on its last leg, or nothing is pinned.
    async fn lineage(&self) -> Result<Option<Lineage>> {
        match self.pinned {
            Some(pinned) if pinned > self.name.timeline => {
                let history = self.branch.read_history(pinned).await?;
                let history = history.with_context(|| {
                    format!("the history file of timeline {pinned}, which recovery follows, is missing")
                })?;
                Ok(Some(Lineage::from_history(&history)))
            }
            _ => Ok(None),
        }
    }

    async fn role(&self, lineage: Option<&Lineage>) -> Result<Role> {
        let Some(lineage) = lineage else { return Ok(Role::Whole) };
        let (start, end) = self.bounds()?;
        let Some(share) = lineage.share_of(self.name.timeline) else { return Ok(Role::None) };
        let fork = share.to;
        if start >= fork {
            return Ok(Role::None);
        }
        if end <= fork {
            return Ok(Role::Whole);
        }
        // The child's copy has the parent's bytes as well, and the right ones after the fork.
        for part in lineage.parts().iter().filter(|part| part.from >= fork && part.from < end) {
            let name = SegmentName { timeline: part.timeline, ..self.name };
            let wal = self.branch.folder_listing(name.timeline, name.log).await?;
            if wal.segments.contains_key(&name) || wal.tail_length(name) > 0 {
                return Ok(Role::None);
            }
        }
        Ok(Role::UpTo(fork.bytes_since(start)))
    }

    async fn fetch(&self, to: &Path) -> Result<Found> {
        if self.pinned.is_some_and(|pinned| pinned < self.name.timeline) {
            return Ok(Found::Absent);
        }
        let lineage = self.lineage().await?;
        let limit = match self.role(lineage.as_ref()).await? {
            Role::None => return Ok(Found::Absent),
            Role::Whole => self.branch.segment_size().bytes(),
            Role::UpTo(bytes) => bytes,
        };
        let wal = self.branch.folder_listing(self.name.timeline, self.name.log).await?;
        if wal.segments.contains_key(&self.name) {
            self.whole(to, limit).await?;
            return Ok(Found::Written);
        }
        if wal.tail_length(self.name) > 0
            && let Some(tail) = self.branch.read_tail(self.name).await?
        {
            let size = self.branch.segment_size().bytes();
            if u64::from(tail.valid) < size.min(limit) {
                self.nothing_later(&wal, lineage.as_ref(), "the end of ").await?;
            }
            self.padded(to, &tail.bytes, u64::from(tail.valid).min(limit))?;
            return Ok(Found::Written);
        }
        self.nothing_later(&wal, lineage.as_ref(), "").await?;
        Ok(Found::Absent)
    }

    /// A whole segment; what lies beyond `limit` becomes padding.
    async fn whole(&self, to: &Path, limit: u64) -> Result<()> {
        let size = self.branch.segment_size().bytes();
        if limit < size {
            let bytes = self.branch.read_segment(self.name).await?;
            return self.padded(to, &bytes, limit);
        }
        let beside = Beside::create(to)?;
        let writer = beside.file.try_clone().with_context(|| cannot_write(&beside.path))?;
        // Verified against the digest in its name; only after that is it renamed.
        let written = self.branch.read_segment_to(self.name, writer).await?;
        let length = beside.file.metadata().with_context(|| cannot_write(&beside.path))?.len();
        if written != size || length != size {
            bail!("segment {} has {written} bytes instead of {size}", self.name);
        }
        beside.finish()
    }

    /// The beginning of a segment, then zeros and the stamp that tells `archive-cmd` what this is.
    fn padded(&self, to: &Path, bytes: &[u8], valid: u64) -> Result<()> {
        let (size, valid) = (usize::try_from(self.branch.segment_size().bytes())?, usize::try_from(valid)?);
        let kept = bytes.get(..valid).context("a tail is shorter than it says")?;
        let mut segment = Vec::with_capacity(size);
        segment.extend_from_slice(kept);
        segment.resize(size, 0);
        stamp_padding(&mut segment, valid);
        let mut beside = Beside::create(to)?;
        beside.file.write_all(&segment).with_context(|| cannot_write(&beside.path))?;
        tracing::info!("{}: {valid} bytes of WAL, the rest is padding", self.name);
        beside.finish()
    }

    /// Proves that the end of this segment is the end of WAL.
    async fn nothing_later(&self, wal: &TimelineWal, lineage: Option<&Lineage>, part: &str) -> Result<()> {
        let (_, end) = self.bounds()?;
        let share = lineage.and_then(|lineage| lineage.share_of(self.name.timeline));
        // On the own timeline, unless it is left before.
        if share.is_none_or(|share| end < share.to) {
            let here = wal.segments.keys().chain(wal.fragments.iter().map(|fragment| &fragment.segment));
            if let Some(later) = here.filter(|name| **name > self.name).min() {
                return Err(self.hole(part, &later.to_string()));
            }
            if let Some(newest) = self.branch.newest_wal(self.name.timeline).await?.filter(|&lsn| lsn > end) {
                return Err(self.hole(part, &format!("timeline {} up to {newest}", self.name.timeline)));
            }
        }
        let Some(lineage) = lineage else { return Ok(()) };
        for leg in lineage.parts().iter().filter(|part| part.timeline > self.name.timeline) {
            if let Some(newest) = self.branch.newest_wal(leg.timeline).await?.filter(|&lsn| lsn > end) {
                return Err(self.hole(part, &format!("timeline {} up to {newest}", leg.timeline)));
            }
        }
        Ok(())
    }

    fn hole(&self, part: &str, later: &str) -> anyhow::Error {
        failure(
            format!(
                "{part}segment {} is missing from the repository, which has later WAL: {later}",
                self.name
            ),
            "recovery would end here silently; to end it here on purpose, restore with a target before this segment",
        )
    }
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

/// A file beside the one that is wanted. It gets that one's name when it is whole, else it goes.
///
/// It is not synced: the server syncs what it keeps, and fetches the rest again after a crash.
struct Beside {
    file: File,
    path: PathBuf,
    to: PathBuf,
    done: bool,
}

impl Beside {
    fn create(to: &Path) -> Result<Self> {
        let mut name = OsString::from(to.file_name().context("the path to write to names no file")?);
        name.push(format!(".restore-cmd-{}", std::process::id()));
        let path = to.with_file_name(name);
        // Left there by a process of the same number that was killed.
        let _ = fs::remove_file(&path);
        let opened = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = opened.with_context(|| cannot_write(&path))?;
        Ok(Self { file, path, to: to.to_owned(), done: false })
    }

    fn finish(mut self) -> Result<()> {
        fs::rename(&self.path, &self.to).with_context(|| cannot_write(&self.to))?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.path);
        }
    }
}
