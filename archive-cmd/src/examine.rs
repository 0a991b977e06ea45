//! Is the file what its name promises? And its digest.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_root};
use proto::Digest;
use proto::backup_label::BackupLabelFile;
use proto::wal::check::{check_segment_start, check_whole_by_page, last_content};
use proto::wal::page::PAGE_SIZE;
use proto::wal::{SegmentName, TimelineHistory, WalError, WalFile};

use crate::failure::Failure;

/// A file that was found to be what it should be.
pub(crate) struct Examined {
    pub(crate) name: WalFile,
    pub(crate) size: u64,
    pub(crate) digest: Digest,
    /// Open for reading.
    pub(crate) file: File,
}

/// Checks and digests the file at `path`.
pub(crate) fn file(path: &Path) -> Result<Examined, Failure> {
    let shown = path.display();
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name: WalFile = name.parse().map_err(|error| {
        Failure::new(format!("{shown} cannot be archived: {error}"))
            .hint("archive_command must pass %p, the path of a file in pg_wal")
    })?;
    let unreadable = |error: io::Error| {
        let failure = Failure::new(format!("{shown} cannot be read: {error}"));
        match error.kind() {
            io::ErrorKind::NotFound => failure.hint("PostgreSQL gives %p relative to its data directory"),
            _ => failure,
        }
    };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Failure::new(format!("{shown} is not a regular file")));
    }
    let size = metadata.len();
    let digest = match name {
        WalFile::Segment(segment) => check_segment(&file, size, segment, Extent::Whole),
        // Cut off by a promotion: it may end anywhere, with anything behind.
        WalFile::Partial(segment) => check_segment(&file, size, segment, Extent::Part),
        WalFile::History(timeline) => small_file(&file, |content| {
            TimelineHistory::parse(timeline, content).map(drop).map_err(|error| error.to_string())
        }),
        WalFile::Backup(..) => small_file(&file, |content| {
            BackupLabelFile::parse(content).map(drop).map_err(|error| error.to_string())
        }),
    };
    let digest = digest.map_err(|error| match error {
        Error::Io(error) => unreadable(error),
        Error::Content(why) => Failure::new(format!("{shown} was not archived: {why}")),
    })?;
    Ok(Examined { name, size, digest, file })
}

enum Error {
    Io(io::Error),
    Content(String),
}

impl From<WalError> for Error {
    fn from(error: WalError) -> Self {
        Error::Content(error.to_string())
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Error::Io(error)
    }
}

/// How much of a segment a file claims to hold.
#[derive(PartialEq, Eq)]
enum Extent {
    Whole,
    Part,
}

fn check_segment(file: &File, size: u64, name: SegmentName, extent: Extent) -> Result<Digest, Error> {
    let mut page = [0; PAGE_SIZE];
    let first = &mut page[..PAGE_SIZE.min(size as usize)];
    file.read_exact_at(first, 0)?;
    let facts = check_segment_start(first, name, None)?;
    if facts.segment_size.bytes() != size {
        return Err(WalError::Length { found: size, expected: facts.segment_size.bytes() }.into());
    }
    let (digest, last_content) = digest(file, size)?;
    if extent == Extent::Whole {
        check_whole_by_page(size, last_content, name, |page, buffer| {
            Ok::<(), Error>(file.read_exact_at(buffer, page * PAGE_SIZE as u64)?)
        })?;
    }
    Ok(digest)
}

/// The digest of a segment, and the offset of its last byte that is not zero.
///
/// In two halves side by side: a segment's size is a power of two, so the halves are the two subtrees below the
/// root of BLAKE3's tree.
fn digest(file: &File, size: u64) -> io::Result<(Digest, u64)> {
    let half = size / 2;
    let (left, right) = std::thread::scope(|scope| {
        let right = std::thread::Builder::new().spawn_scoped(scope, || subtree(file, half, size));
        let left = subtree(file, 0, half);
        // Where no thread can be had, this one does the work of both.
        let right = match right {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(_) => subtree(file, half, size),
        };
        (left, right)
    });
    let ((left, left_content), (right, right_content)) = (left?, right?);
    let root = merge_subtrees_root(&left, &right, Mode::Hash);
    Ok((root.into(), left_content.max(right_content)))
}

fn subtree(file: &File, from: u64, to: u64) -> io::Result<(ChainingValue, u64)> {
    // Small enough to stay in the processor's cache between reading and digesting.
    const BUFFER: usize = 128 << 10;
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(from);
    let mut buffer = vec![0; BUFFER];
    let (mut position, mut content) = (from, 0);
    while position < to {
        let wanted = BUFFER.min((to - position) as usize);
        let chunk = &mut buffer[..wanted];
        file.read_exact_at(chunk, position)?;
        hasher.update(chunk);
        let last = last_content(chunk);
        if last > 0 || chunk.first() != Some(&0) {
            content = position + last;
        }
        position += wanted as u64;
    }
    Ok((hasher.finalize_non_root(), content))
}

/// A history file or a backup's label: text of a few lines.
fn small_file(file: &File, check: impl Fn(&[u8]) -> Result<(), String>) -> Result<Digest, Error> {
    const MOST: u64 = 1 << 20;
    let mut content = Vec::new();
    file.take(MOST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MOST {
        return Err(Error::Content("it is longer than 1 MiB, which no such file is".to_owned()));
    }
    check(&content).map_err(Error::Content)?;
    Ok(Digest::of(&content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_by_halves_is_the_digest() {
        let path = std::env::temp_dir().join(format!("archive-cmd-digest-{}", std::process::id()));
        let size = 1 << 20;
        for end in [size, size / 2 + 5, 9] {
            let mut bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8 | 1).collect();
            bytes[end..].fill(0);
            std::fs::write(&path, &bytes).unwrap();
            let (found, last) =
                digest(&File::open(&path).unwrap(), size as u64).map_err(|e| e.to_string()).unwrap();
            assert_eq!((found, last), (Digest::of(&bytes), end as u64 - 1));
        }
        std::fs::remove_file(&path).unwrap();
    }
}
