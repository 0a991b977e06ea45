//! The backlog: after an outage a server has many segments waiting, and hands them over one at a time, each by a process of its
//! own. The agent does not wait for it: it stores what is ready behind the last one, strictly in order, and the archiver
//! finds it done when it gets there. In order, so that a crash at any moment leaves no hole.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use proto::wal::{SegmentName, WalFile};
use tracing::{debug, info};

use super::ship::{Archive, ArchiveError, Offer};

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
    let source = std::sync::Arc::new(source);
    loop {
        let names = {
            let (path, source) = (path.clone(), source.clone());
            // Archived and recycled meanwhile, or never readable for us: then there is nothing to be seen there.
            tokio::task::spawn_blocking(move || ready_beside(&path, &source)).await?.unwrap_or_default()
        };
        let next = waiting(names.iter().map(String::as_str), after);
        if next.is_empty() {
            return Ok(stored);
        }
        for segment in next {
            after = segment;
            // What the stream is bringing need not be brought twice; what somebody else brings comes before what is behind.
            if archive.known().is_coming(segment) {
                return Ok(stored);
            }
            let Some(_claim) = archive.known().claim(segment) else { return Ok(stored) };
            ship(archive, folder.join(segment.to_string()), segment).await?;
            stored += 1;
        }
    }
}

/// A segment that is marked as ready is complete, and stays until the archiver was told that it is stored.
async fn ship(archive: &Archive, path: PathBuf, segment: SegmentName) -> Result<(), ArchiveError> {
    let file = WalFile::Segment(segment);
    let opened = tokio::task::spawn_blocking(move || {
        let source = File::open(&path)?;
        let size = source.metadata()?.len();
        io::Result::Ok((source, size))
    });
    let (source, size) = opened.await?.map_err(|why| ArchiveError::Read { file, why })?;
    archive.store(Offer { file, size, digest: None, source, path: None }, segment).await
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
}
