//! Writing below the data directory and nowhere else.
//!
//! Every path is walked part by part from an open directory, and no link is followed on the way: whatever names a
//! manifest holds, nothing outside is touched. Tablespaces are directories of their own, entered by their oid.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use repository::manifest::SafePath;
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

/// Open parent directories that are kept at hand.
const KEPT: usize = 256;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A data directory and its tablespaces.
pub(super) struct Beneath {
    root: OwnedFd,
    spaces: BTreeMap<u32, OwnedFd>,
    parents: Mutex<HashMap<Vec<u8>, Arc<OwnedFd>>>,
}

/// The space that a path lies in, and its parts below that.
struct Place<'a> {
    base: BorrowedFd<'a>,
    parts: Vec<&'a [u8]>,
}

impl Beneath {
    pub(super) fn new(root: OwnedFd, spaces: BTreeMap<u32, OwnedFd>) -> Self {
        Self { root, spaces, parents: Mutex::default() }
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Each directory that is the top of a tree: the data directory and the tablespaces.
    pub(super) fn tops(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.root.as_fd()).chain(self.spaces.values().map(AsFd::as_fd))
    }

    fn place<'a>(&'a self, path: &'a SafePath) -> Place<'a> {
        let mut parts: Vec<&[u8]> = path.parts().collect();
        if let [b"pg_tblspc", oid, ..] = parts.as_slice()
            && let Some(space) = std::str::from_utf8(oid).ok().and_then(|oid| oid.parse().ok())
            && let Some(space) = self.spaces.get(&space)
        {
            parts.drain(..2);
            return Place { base: space.as_fd(), parts };
        }
        Place { base: self.root.as_fd(), parts }
    }

    /// Makes a directory, and those above it that are missing. Fine if it is there.
    pub(super) fn make_directory(&self, path: &SafePath, mode: u32) -> io::Result<()> {
        self.make(path, Some(mode))
    }

    /// Makes a directory of which only the name is known: one that is there keeps its permissions.
    pub(super) fn make_missing(&self, path: &SafePath) -> io::Result<()> {
        self.make(path, None)
    }

    fn make(&self, path: &SafePath, mode: Option<u32>) -> io::Result<()> {
        let Place { base, parts } = self.place(path);
        let mut at: Option<OwnedFd> = None;
        let last = parts.len().saturating_sub(1);
        for (index, part) in parts.iter().enumerate() {
            let here = at.as_ref().map_or(base, AsFd::as_fd);
            match rustix::fs::mkdirat(here, *part, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let next = rustix::fs::openat(here, *part, DIRECTORY, Mode::empty())?;
            if let Some(mode) = mode.filter(|_| index == last) {
                rustix::fs::fchmod(&next, permissions(mode) | Mode::RWXU)?;
            }
            at = Some(next);
        }
        Ok(())
    }

    /// The open directory that `path` lies in, and its last part.
    fn parent<'a>(&self, path: &'a SafePath) -> io::Result<(Arc<OwnedFd>, &'a [u8])> {
        let Some(parent) = path.parent() else {
            let name = path.as_bytes();
            return Ok((Arc::new(self.root.try_clone()?), name));
        };
        let name = &path.as_bytes()[parent.as_bytes().len() + 1..];
        let mut parents = self.parents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = parents.get(parent.as_bytes()) {
            return Ok((found.clone(), name));
        }
        let Place { base, parts } = self.place(&parent);
        let mut at = base.try_clone_to_owned()?;
        for part in parts {
            at = rustix::fs::openat(&at, part, DIRECTORY, Mode::empty())?;
        }
        let at = Arc::new(at);
        if parents.len() >= KEPT {
            parents.clear();
        }
        parents.insert(parent.as_bytes().to_vec(), at.clone());
        Ok((at, name))
    }

    fn open(&self, path: &SafePath, flags: OFlags) -> io::Result<File> {
        let (parent, name) = self.parent(path)?;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&parent, name, flags, Mode::RUSR | Mode::WUSR)?))
    }

    /// Makes a file of `size` zeros, without taking room for them. It must not be there.
    pub(super) fn create(&self, path: &SafePath, size: u64) -> io::Result<File> {
        let file = self.open(path, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)?;
        if size > 0 {
            rustix::fs::ftruncate(&file, size)?;
        }
        Ok(file)
    }

    /// Takes a file that is there, gives it that length, and makes zeros of `holes`. Whether there was one that could be
    /// taken.
    pub(super) fn adopt(&self, path: &SafePath, size: u64, holes: &[Range<u64>]) -> io::Result<bool> {
        let file = match self.open(path, OFlags::RDWR) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            // Not ours to write, or no file: made anew.
            Err(_) => return self.remove(path).map(|()| false),
        };
        rustix::fs::ftruncate(&file, size)?;
        for hole in holes {
            zero(&file, hole.clone())?;
        }
        Ok(true)
    }

    /// Opens a file that is there, to read it.
    pub(super) fn read(&self, path: &SafePath) -> io::Result<File> {
        self.open(path, OFlags::RDONLY)
    }

    /// Opens a file that [`Beneath::create`] has made.
    pub(super) fn reopen(&self, path: &SafePath) -> io::Result<File> {
        self.open(path, OFlags::WRONLY)
    }

    /// Makes a file with this content. It must not be there.
    pub(super) fn write(
        &self,
        path: &SafePath,
        content: &[u8],
        mode: u32,
        mtime: Option<i64>,
    ) -> io::Result<File> {
        let mut file = self.create(path, 0)?;
        file.write_all(content)?;
        dress(&file, mode, mtime)?;
        Ok(file)
    }

    /// Makes a link, as a tablespace's in `pg_tblspc`.
    pub(super) fn link(&self, path: &SafePath, to: &std::path::Path) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        Ok(rustix::fs::symlinkat(to, &parent, name)?)
    }

    /// Removes a file; fine if it is not there.
    pub(super) fn remove(&self, path: &SafePath) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Makes zeros of a range of a file, without taking room for them where the file system can.
fn zero(file: &File, range: Range<u64>) -> io::Result<()> {
    static PIECE: [u8; 64 << 10] = [0; 64 << 10];
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::fs::fallocate(file, flags, range.start, range.end - range.start) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            let mut at = range.start;
            while at < range.end {
                let length = ((range.end - at) as usize).min(PIECE.len());
                file.write_all_at(&PIECE[..length], at)?;
                at += length as u64;
            }
            Ok(())
        }
        other => Ok(other?),
    }
}

/// Permission bits, without set-user-id and the like.
fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o777)
}

/// Gives a file its permissions and the time of its last change.
pub(super) fn dress(file: &File, mode: u32, mtime: Option<i64>) -> io::Result<()> {
    rustix::fs::fchmod(file, permissions(mode))?;
    if let Some(mtime) = mtime {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: mtime, tv_nsec: 0 },
        };
        rustix::fs::futimens(file, &times)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn path(text: &str) -> SafePath {
        SafePath::new(text).unwrap()
    }

    fn open(directory: &std::path::Path) -> OwnedFd {
        File::open(directory).unwrap().into()
    }

    #[test]
    fn no_link_is_followed() {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), inside.path().join("base")).unwrap();
        std::fs::write(outside.path().join("victim"), "kept").unwrap();
        symlink(outside.path().join("victim"), inside.path().join("file")).unwrap();
        let beneath = Beneath::new(open(inside.path()), BTreeMap::new());
        assert!(beneath.create(&path("base/1"), 0).is_err());
        assert!(beneath.make_directory(&path("base/5"), 0o700).is_err());
        assert!(beneath.create(&path("file"), 0).is_err());
        assert!(beneath.reopen(&path("file")).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read(outside.path().join("victim")).unwrap(), b"kept");
    }

    #[test]
    fn tablespaces_are_entered_by_their_oid() {
        let (inside, space) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let beneath = Beneath::new(open(inside.path()), BTreeMap::from([(16_384, open(space.path()))]));
        beneath.make_directory(&path("pg_tblspc/16384/PG_15_1/5"), 0o750).unwrap();
        beneath.write(&path("pg_tblspc/16384/PG_15_1/5/7"), b"x", 0o4640, Some(1_000_000)).unwrap();
        let meta = space.path().join("PG_15_1/5/7").metadata().unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.mtime(), meta.len()), (0o640, 1_000_000, 1));
        assert_eq!(space.path().join("PG_15_1/5").metadata().unwrap().mode() & 0o777, 0o750);
        assert_eq!(std::fs::read_dir(inside.path()).unwrap().count(), 0);
        beneath.make_directory(&path("pg_tblspc/99"), 0o700).unwrap();
        assert!(inside.path().join("pg_tblspc/99").is_dir());
    }
}
