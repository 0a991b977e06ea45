//! The backlog: after an outage a server has many segments waiting, and hands them over one at a time, each by a process of its
//! own. The agent does not wait for it: it stores what is ready behind the last one, several side by side, and the archiver
//! finds it done when it gets there. Each tells in its header how many before it were under way: see
//! [`repository::Branch::put_segment_ahead`]. They become known, and so may be acknowledged, strictly in order.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesOrdered;
use proto::Digest;
use proto::wal::{SegmentName, SegmentSize, WalFile};
use tracing::{debug, info};

use super::ship::{Archive, ArchiveError, CONCURRENCY, IN_MEMORY, Offer};

/// Begins to store what waits behind `segment` in the folder of `path`, unless that is going on already. `source` is
/// what the archiver has handed over: the folder is looked at only if the same file lies there, since the path is the
/// server's, which may be in a container with other folders.
pub(super) fn look_ahead(archive: &Archive, path: PathBuf, source: File, segment: SegmentName) {
    let Some(right) = archive.begin_ahead() else { return };
    let archive = archive.clone();
    tokio::spawn(async move {
        let _right = right;
        match drain(&archive, path, source, segment).await {
            Ok(0) => {}
            Ok(stored) => info!(segments = stored, "the archiver's backlog was stored ahead of it"),
            // The archiver's own call for that file will tell it.
            Err(error) => debug!("looking ahead of the archiver has ended: {error}"),
        }
    });
}

/// Stores all that waits, until nothing does any more or one of them fails. How many were stored.
async fn drain(
    archive: &Archive,
    path: PathBuf,
    source: File,
    mut after: SegmentName,
) -> Result<usize, ArchiveError> {
    let Some(folder) = path.parent().map(Path::to_owned) else { return Ok(0) };
    let mut stored = 0;
    let source = Arc::new(source);
    loop {
        let names = {
            let (path, source) = (path.clone(), source.clone());
            // Archived and recycled meanwhile, or never readable for us: then there is nothing to be seen there.
            tokio::task::spawn_blocking(move || ready_beside(&path, &source)).await?.unwrap_or_default()
        };
        let next = waiting(names.iter().map(String::as_str), after);
        let Some(last) = next.last().copied() else { return Ok(stored) };
        let size = archive.segment_size().await?;
        for run in runs(&next, size) {
            let (count, is_whole) = drain_run(archive, &folder, run, side_by_side(size)).await?;
            stored += count;
            if !is_whole {
                return Ok(stored);
            }
        }
        after = last;
    }
}

/// Stores segments that follow one another. How many were stored, and whether that were all: what the stream is bringing need
/// not be brought twice, and what somebody else brings comes before what is behind it.
async fn drain_run(
    archive: &Archive,
    folder: &Path,
    run: &[SegmentName],
    most: usize,
) -> Result<(usize, bool), ArchiveError> {
    let mut under_way = FuturesOrdered::new();
    let (mut left, mut stored) = (run.iter().copied(), 0);
    let mut is_whole = true;
    loop {
        while under_way.len() < most && is_whole {
            let Some(segment) = left.next() else { break };
            let claim = archive.known().claim(segment).filter(|_| !archive.known().is_coming(segment));
            let Some(claim) = claim else {
                is_whole = false;
                break;
            };
            // Those before it that are not durable yet are exactly those under way: they are a run.
            let ahead = under_way.len() as u32;
            let path = folder.join(segment.to_string());
            under_way.push_back(async move {
                let digest = ship(archive, path, segment, ahead).await?;
                Ok::<_, ArchiveError>((segment, digest, claim))
            });
        }
        // In order: who asks for a segment is answered when it is durable, and all that were before it.
        let Some(done) = under_way.next().await else { return Ok((stored, is_whole)) };
        let (segment, digest, claim) = done?;
        archive.known().stored(segment, digest);
        drop(claim);
        stored += 1;
    }
}

/// How many are stored side by side: of large ones, which are read in pieces, one.
fn side_by_side(size: SegmentSize) -> usize {
    if size.bytes() <= IN_MEMORY { CONCURRENCY } else { 1 }
}

/// Cuts segments in ascending order into stretches of one timeline without a hole. Pure.
fn runs(segments: &[SegmentName], size: SegmentSize) -> impl Iterator<Item = &[SegmentName]> {
    segments.chunk_by(move |one, next| {
        one.timeline == next.timeline
            && matches!((one.number(size), next.number(size)), (Ok(one), Ok(next)) if one.0 + 1 == next.0)
    })
}

/// A segment that is marked as ready is complete, and stays until the archiver was told that it is stored.
async fn ship(
    archive: &Archive,
    path: PathBuf,
    segment: SegmentName,
    ahead: u32,
) -> Result<Digest, ArchiveError> {
    let file = WalFile::Segment(segment);
    let opened = tokio::task::spawn_blocking(move || {
        let source = File::open(&path)?;
        let size = source.metadata()?.len();
        io::Result::Ok((source, size))
    });
    let (source, size) = opened.await?.map_err(|why| ArchiveError::Read { file, why })?;
    archive.store(Offer { file, size, digest: None, source, path: None }, segment, ahead).await
}

/// The names in `archive_status` beside the file at `path`, if that is the file `source`.
fn ready_beside(path: &Path, source: &File) -> io::Result<Vec<String>> {
    let (there, ours) = (std::fs::metadata(path)?, source.metadata()?);
    if (there.dev(), there.ino()) != (ours.dev(), ours.ino()) {
        return Ok(Vec::new());
    }
    let status = path.with_file_name("archive_status");
    let names = std::fs::read_dir(status)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.collect())
}

/// The segments among the names that are marked as ready and come after `after`, the next one first. Pure.
fn waiting<'a>(names: impl Iterator<Item = &'a str>, after: SegmentName) -> Vec<SegmentName> {
    let ready = names.filter_map(|name| name.strip_suffix(".ready")?.parse::<SegmentName>().ok());
    let mut segments: Vec<_> = ready.filter(|segment| *segment > after).collect();
    segments.sort_unstable();
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_comes_in_order_and_nothing_else() {
        let names = [
            "000000010000000000000009.ready",
            "000000010000000000000007.ready",
            "000000010000000000000008.done",
            "000000010000000000000005.ready",
            "000000010000000000000006.partial.ready",
            "00000002.history.ready",
            "000000020000000000000007.ready",
            "nonsense.ready",
        ];
        let after = "000000010000000000000006".parse().unwrap();
        let found = waiting(names.into_iter(), after);
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            ["000000010000000000000007", "000000010000000000000009", "000000020000000000000007"]
        );
    }

    #[test]
    fn a_run_ends_at_a_hole_and_at_a_fork() {
        let names = [
            "0000000100000000000000FE",
            "0000000100000000000000FF",
            "000000010000000100000000",
            "000000010000000100000002",
            "000000020000000100000003",
        ];
        let names: Vec<SegmentName> = names.iter().map(|name| name.parse().unwrap()).collect();
        let lengths: Vec<_> = runs(&names, SegmentSize::DEFAULT).map(<[_]>::len).collect();
        assert_eq!(lengths, [3, 1, 1]);
    }
}
