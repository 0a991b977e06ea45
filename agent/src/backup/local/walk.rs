//! Goes through a data directory while its server writes there.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::super::tar::{Member, MemberKind};
use super::rules::{self, Neighbours};

/// A tablespace outside of the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Space {
    /// Its number.
    pub(super) oid: u32,
    /// Where its link leads.
    pub(super) location: PathBuf,
}

/// What there is to take: a file is open already, so that nothing can come in between.
pub(super) struct Found {
    pub(super) member: Member,
    /// `None` for a directory.
    pub(super) file: Option<File>,
}

/// The tablespaces outside of the data directory.
///
/// # Errors
/// One of them lies in the data directory itself: `allow_in_place_tablespaces` is for tests.
pub(super) fn spaces(data: &Path) -> io::Result<Vec<Space>> {
    let mut spaces = Vec::new();
    for entry in fs::read_dir(data.join("pg_tblspc"))? {
        let entry = entry?;
        let Some(oid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        match fs::read_link(entry.path()) {
            Ok(location) => spaces.push(Space { oid, location }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                let why =
                    "a tablespace lies in the data directory itself: take such a backup by the protocol";
                return Err(named(&entry.path(), io::Error::other(why)));
            }
            Err(error) => return Err(named(&entry.path(), error)),
        }
    }
    spaces.sort_unstable_by_key(|space| space.oid);
    Ok(spaces)
}

/// A walk through all that belongs into a backup, but for `global/pg_control`, which has to come last.
pub(super) struct Walk<'a, F> {
    /// The data directory.
    pub(super) data: &'a Path,
    /// The folder of a tablespace that is this server's: `PG_<version>_<catalogue>`.
    pub(super) version_folder: &'a str,
    /// Takes what was found; `false` ends the walk.
    pub(super) found: F,
}

/// Whether the walk goes on.
type GoesOn = io::Result<bool>;

impl<F: FnMut(Found) -> bool> Walk<'_, F> {
    /// Goes through the tablespaces, then through the data directory.
    pub(super) fn all(mut self, spaces: &[Space]) -> GoesOn {
        for space in spaces {
            let link = self.data.join(format!("pg_tblspc/{}", space.oid));
            let path = format!("pg_tblspc/{}/{}", space.oid, self.version_folder);
            match self.tablespace(&link.join(self.version_folder), path.into_bytes()) {
                // Dropped meanwhile, and its link with it. Where that is still there, we see what the server does not.
                Err(error) if error.kind() == io::ErrorKind::NotFound && fs::read_link(&link).is_err() => {}
                Ok(true) => {}
                other => return other,
            }
        }
        self.directory(self.data, Vec::new())
    }

    fn tablespace(&mut self, on_disk: &Path, path: Vec<u8>) -> GoesOn {
        let metadata = fs::metadata(on_disk).map_err(|error| named(on_disk, error))?;
        Ok(self.give(path.clone(), &metadata, None) && self.directory(on_disk, path)?)
    }

    /// `path`: of the directory within the data directory; empty for that itself.
    fn directory(&mut self, on_disk: &Path, path: Vec<u8>) -> GoesOn {
        let names = match names(on_disk) {
            // A database that was dropped. The data directory itself cannot vanish.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_empty() => return Ok(true),
            names => names.map_err(|error| named(on_disk, error))?,
        };
        let neighbours = Neighbours::of(&path, names.iter().map(|name| name.as_bytes()));
        for name in names {
            if neighbours.leave_out(name.as_bytes()) {
                continue;
            }
            let inner = match path.is_empty() {
                true => name.as_bytes().to_vec(),
                false => [&path, name.as_bytes()].join(&b'/'),
            };
            if inner != b"global/pg_control" && !self.one(&on_disk.join(&name), inner)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn one(&mut self, on_disk: &Path, path: Vec<u8>) -> GoesOn {
        match self.look(on_disk, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            other => other.map_err(|error| named(on_disk, error)),
        }
    }

    fn look(&mut self, on_disk: &Path, path: Vec<u8>) -> GoesOn {
        let mut metadata = fs::symlink_metadata(on_disk)?;
        if metadata.is_symlink() {
            match path.as_slice() {
                // Tablespaces were taken for themselves; restore makes their links.
                path if path.starts_with(b"pg_tblspc/") => return Ok(true),
                b"pg_wal" => metadata = fs::metadata(on_disk)?,
                _ => {}
            }
        }
        if metadata.is_dir() {
            return Ok(self.give(path.clone(), &metadata, None)
                && match path.as_slice() {
                    b"pg_wal" => self.wal_directory(on_disk)?,
                    emptied if rules::is_emptied(emptied) => true,
                    _ => self.directory(on_disk, path)?,
                });
        }
        if !metadata.is_file() {
            tracing::warn!(
                "{} is neither a file nor a directory: it is not in the backup",
                on_disk.display()
            );
            return Ok(true);
        }
        // Not through a link that somebody has just put there, and without changing the file's time of access.
        let flags = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(on_disk)?;
        let metadata = file.metadata()?;
        Ok(self.give(path, &metadata, Some(file)))
    }

    /// The directories that a server expects to find there.
    fn wal_directory(&mut self, on_disk: &Path) -> GoesOn {
        for name in ["archive_status", "summaries"] {
            match fs::metadata(on_disk.join(name)) {
                Ok(metadata) if metadata.is_dir() => {
                    if !self.give(format!("pg_wal/{name}").into_bytes(), &metadata, None) {
                        return Ok(false);
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn give(&mut self, path: Vec<u8>, metadata: &Metadata, file: Option<File>) -> bool {
        (self.found)(Found { member: member(path, metadata), file })
    }
}

/// A file or directory as a manifest has it.
pub(super) fn member(path: Vec<u8>, metadata: &Metadata) -> Member {
    let is_file = metadata.is_file();
    Member {
        path,
        kind: if is_file { MemberKind::File } else { MemberKind::Directory },
        size: if is_file { metadata.len() } else { 0 },
        mode: metadata.mode() & 0o7777,
        mtime: metadata.mtime(),
    }
}

/// What a tablespace's folder is called.
pub(super) fn version_folder(major: u32, catalog_version: u32) -> String {
    format!("PG_{major}_{catalog_version}")
}

fn names(directory: &Path) -> io::Result<Vec<OsString>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect()
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
