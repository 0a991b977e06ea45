//! Carrying out a plan.

mod beneath;
mod crc;
mod delta;
mod directory;
mod external;
mod files;
mod finish;
mod pages;
mod survey;
mod table;
mod wants;

pub use crate::conf;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{TryStreamExt, stream};
use repository::Branch;
use repository::backup::IndexedManifest;
use repository::manifest::{Entry, SafePath};
use repository::pack::PackReader;
use serde::Serialize;

pub use delta::foreign;
pub use directory::{Existing, check};
pub use files::Damage;
use files::Files;
use finish::Finish;
pub use survey::survey;
use wants::{Want, WantSorter};

use crate::plan::{Plan, is_external};
use crate::program::{Progress, failure};

/// Packs that are read at once, at most: each needs some 16 MiB.
const MOST_PACKS: usize = 4;

/// What a restore has done.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Outcome {
    /// Files written.
    pub files: u64,
    /// Their bytes.
    pub size_bytes: u64,
    /// Bytes read out of packs, raw.
    pub read_bytes: u64,
    /// Bytes that were there already, and right.
    pub kept_bytes: u64,
    /// How long the content took.
    #[serde(serialize_with = "seconds")]
    pub copied_in: Duration,
    /// How long all of it took, with syncing.
    #[serde(serialize_with = "seconds")]
    pub restored_in: Duration,
    /// Pages with a wrong checksum that the backup had not recorded.
    pub damage: Damage,
    /// What the operator should know.
    pub notices: Vec<String>,
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// Restores the backup's files and makes them a cluster that recovers as planned.
///
/// When this returns, all of it is durable. When it fails, the directory is left without `pg_control` and
/// `PG_VERSION`: no server starts on it, and [`Existing::Delta`] goes on from there.
///
/// # Errors
/// The directory must not be touched, or cannot be written; an object is missing or damaged (it is named).
pub async fn execute(
    branch: &Branch,
    manifest: IndexedManifest,
    plan: &Plan,
    existing: Existing,
    jobs: usize,
    progress: &Progress,
) -> Result<Outcome> {
    let begun = Instant::now();
    let target = directory::prepare(&plan.pgdata, existing, &plan.tablespaces, plan.system_identifier)?;
    let restored = run(branch, manifest, plan, target, jobs, progress, begun).await;
    restored.map_err(|error| unfinished(error, &plan.pgdata))
}

/// Says, with what went wrong, how it leaves the directory.
fn unfinished(error: anyhow::Error, pgdata: &Path) -> anyhow::Error {
    error.context(format!(
        "the restore into {} is not finished; the directory cannot be started",
        pgdata.display()
    ))
}

async fn run(
    branch: &Branch,
    manifest: IndexedManifest,
    plan: &Plan,
    target: directory::Target,
    jobs: usize,
    progress: &Progress,
    begun: Instant,
) -> Result<Outcome> {
    let keeps = target.keeps;
    let target = Arc::new(target);
    let (files, wants, head, packs) = {
        let (target, plan) = (target.clone(), plan.clone());
        blocking(move || {
            if keeps {
                let removed = delta::sweep(&plan.pgdata, &plan.tablespaces, &manifest.entries)?;
                tracing::info!("removed {removed} entries that are not the backup's");
            }
            let (files, wants) = lay_out(&target, &plan, &manifest)?;
            Ok((files, wants, manifest.head, manifest.packs))
        })
        .await?
    };
    let (files, packs) = (Arc::new(files), Arc::new(packs));
    let total = wants.bytes();
    let wants = blocking(move || wants.sorted().context(files::NO_TEMPORARY)).await?;
    let kept = AtomicU64::new(0);
    progress.set_total(total);
    let at_once = jobs.clamp(1, MOST_PACKS);
    let by_pack = stream::try_unfold(wants, |mut wants| {
        blocking(move || {
            let next = wants.next_pack().context(files::NO_TEMPORARY)?;
            Ok(next.map(|next| (next, wants)))
        })
    });
    by_pack
        .try_for_each_concurrent(at_once, |(pack, wants)| {
            let (files, target, packs, kept) = (&files, &target, &packs, &kept);
            async move {
                let pack = packs.get(pack as usize).context("the manifest does not name all of its packs")?;
                let reader = PackReader::open(branch, pack).await.map_err(damaged)?;
                let wants = match keeps {
                    true => keep(&reader, wants, files, target, kept, progress).await?,
                    false => wants,
                };
                read_pack(reader, wants, files, target, jobs.div_ceil(at_once), progress).await
            }
        })
        .await?;
    let copied_in = begun.elapsed();
    progress.step("syncing");
    let (plan, held) = (plan.clone(), files.clone());
    let notices = {
        let target = target.clone();
        blocking(move || {
            let mut finish = Finish::new(&plan, &head, &held, &target.beneath);
            finish.run()?;
            Ok(finish.notices)
        })
        .await?
    };
    Ok(Outcome {
        files: files.len(),
        size_bytes: files.size_bytes(),
        read_bytes: total - kept.load(Relaxed),
        kept_bytes: kept.load(Relaxed),
        copied_in,
        restored_in: begun.elapsed(),
        damage: files.damage(),
        notices,
    })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("a thread of the restore has stopped")?
}

/// Makes folders and files, in the manifest's order: parents come before what lies in them.
fn lay_out(
    target: &directory::Target,
    plan: &Plan,
    manifest: &IndexedManifest,
) -> Result<(Files, WantSorter)> {
    let mut files = Files::new(&manifest.head, &plan.pgdata);
    let mut wants = WantSorter::new(&plan.pgdata);
    finish::make_folders(&target.beneath)?;
    let mut last: Option<SafePath> = None;
    for entry in manifest.entries.iter() {
        let entry = entry.context("cannot read the temporary file with the manifest")?;
        make_folder(target, plan, &entry, &mut last)?;
        files.add(&entry, &target.beneath, target.keeps, &mut wants)?;
    }
    Ok((files, wants))
}

/// Makes the folder that an entry is or lies in, unless it was the `last` one.
fn make_folder(
    target: &directory::Target,
    plan: &Plan,
    entry: &Entry,
    last: &mut Option<SafePath>,
) -> Result<()> {
    if is_external(entry) {
        return Ok(());
    }
    let (path, mode) = match entry {
        Entry::Directory { path, mode } => (Some(path.clone()), Some(*mode)),
        // One that only follows from a file's path.
        Entry::File { path, .. } => (path.parent(), None),
    };
    let Some(path) = path else { return Ok(()) };
    // A tablespace's own directory is made already; its link comes at the end.
    let mut outside = plan.tablespaces.iter().filter(|space| !space.in_place);
    if last.as_ref() == Some(&path)
        || outside.any(|space| path.as_bytes() == format!("pg_tblspc/{}", space.oid).as_bytes())
    {
        return Ok(());
    }
    let made = match mode {
        Some(mode) => target.beneath.make_directory(&path, mode),
        None => target.beneath.make_missing(&path),
    };
    made.with_context(|| format!("cannot make the folder {path}"))?;
    *last = Some(path);
    Ok(())
}

fn damaged(error: repository::Error) -> anyhow::Error {
    let hint = error.hint().unwrap_or("restore another backup with --backup").to_owned();
    failure(format!("cannot read the backup: {error}"), hint)
}

/// What is not there yet of what is wanted of a pack.
async fn keep(
    reader: &PackReader,
    wants: Vec<Want>,
    files: &Arc<Files>,
    target: &Arc<directory::Target>,
    kept: &AtomicU64,
    progress: &Progress,
) -> Result<Vec<Want>> {
    progress.step("looking at what is there");
    let (files, target) = (files.clone(), target.clone());
    let frames: Vec<_> = reader.frames().collect();
    let (missing, bytes) = blocking(move || delta::keep(&frames, &wants, &files, &target.beneath)).await?;
    kept.fetch_add(bytes, Relaxed);
    progress.add(bytes);
    Ok(missing)
}

/// Reads what is wanted of one pack, and puts it where it belongs.
async fn read_pack(
    reader: PackReader,
    wants: Vec<Want>,
    files: &Arc<Files>,
    target: &Arc<directory::Target>,
    jobs: usize,
    progress: &Progress,
) -> Result<()> {
    let mut frames = reader.ranges(&ranges(&wants), jobs).map_err(damaged)?;
    let wants = Arc::new(wants);
    let mut first = 0;
    while let Some((offset, bytes)) = frames.try_next().await.map_err(damaged)? {
        let end = offset + bytes.len() as u64;
        while wants.get(first).is_some_and(|want| want.pack_offset + want.length <= offset) {
            first += 1;
        }
        let past = first + wants[first..].partition_point(|want| want.pack_offset < end);
        let (wants, files, target) = (wants.clone(), files.clone(), target.clone());
        let placed =
            blocking(move || files.place(&target.beneath, &wants[first..past], offset, &bytes)).await?;
        progress.add(placed);
    }
    Ok(())
}

/// What is wanted of a pack as ranges that do not overlap, ascending.
fn ranges(wants: &[Want]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for want in wants {
        let end = want.pack_offset + want.length;
        match ranges.last_mut() {
            Some(last) if want.pack_offset <= last.end => last.end = last.end.max(end),
            _ => ranges.push(want.pack_offset..end),
        }
    }
    ranges
}
