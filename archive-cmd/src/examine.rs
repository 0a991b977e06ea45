//! Is the file what its name promises? And its digest.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use proto::backup_label::BackupLabelFile;
use proto::wal::check::{check_segment_start, check_whole_by_page};
use proto::wal::page::PAGE_SIZE;
use proto::wal::{SegmentName, TimelineHistory, WalError, WalFile};
use proto::{Digest, SystemId};

use crate::digest;
use crate::failure::Failure;

/// A file that was found to be what it should be.
pub(crate) struct Examined {
    pub(crate) name: WalFile,
    pub(crate) size: u64,
    pub(crate) digest: Digest,
    /// Whose it is.
    pub(crate) system_id: SystemId,
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
    let examined = match name {
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
    let (digest, system_id) = examined.map_err(|error| match error {
        Error::Io(error) => unreadable(error),
        Error::Content(why) => Failure::new(format!("{shown} was not archived: {why}")),
    })?;
    let system_id = match system_id {
        Some(system_id) => system_id,
        None => owner(path)?,
    };
    Ok(Examined { name, size, digest, system_id, file })
}

/// Whose a file is that does not tell: that of the data directory in which it lies.
fn owner(path: &Path) -> Result<SystemId, Failure> {
    let mut why = "there is no global/pg_control".to_owned();
    for control in SystemId::control_files(path) {
        match std::fs::read(&control) {
            Ok(content) => match SystemId::of_control_file(&content) {
                Some(system_id) => return Ok(system_id),
                None => why = format!("{} is not of PostgreSQL 13 to 18", control.display()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => why = format!("{} cannot be read: {error}", control.display()),
        }
    }
    Err(Failure::new(format!("{} was not archived: it does not tell whose it is, and {why}", path.display()))
        .hint("archive_command runs in the data directory; by hand name the file in the data directory's pg_wal"))
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

fn check_segment(
    file: &File,
    size: u64,
    name: SegmentName,
    extent: Extent,
) -> Result<(Digest, Option<SystemId>), Error> {
    let mut page = [0; PAGE_SIZE];
    let first = &mut page[..PAGE_SIZE.min(size as usize)];
    file.read_exact_at(first, 0)?;
    let facts = check_segment_start(first, name, None)?;
    if facts.segment_size.bytes() != size {
        return Err(WalError::Length { found: size, expected: facts.segment_size.bytes() }.into());
    }
    let (digest, last_content) = digest::of_segment(file, size)?;
    if extent == Extent::Whole {
        check_whole_by_page(size, last_content, name, |page, buffer| {
            Ok::<(), Error>(file.read_exact_at(buffer, page * PAGE_SIZE as u64)?)
        })?;
    }
    Ok((digest, Some(facts.system_id)))
}

/// A history file or a backup's label: text of a few lines, which do not tell whose they are.
fn small_file(
    file: &File,
    check: impl Fn(&[u8]) -> Result<(), String>,
) -> Result<(Digest, Option<SystemId>), Error> {
    const MOST: u64 = 1 << 20;
    let mut content = Vec::new();
    file.take(MOST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MOST {
        return Err(Error::Content("it is longer than 1 MiB, which no such file is".to_owned()));
    }
    check(&content).map_err(Error::Content)?;
    Ok((Digest::of(&content), None))
}
