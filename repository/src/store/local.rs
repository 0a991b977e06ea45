//! What a directory needs beyond `object_store` to be a durable store.
//!
//! `LocalFileSystem` with its fsync switch syncs each file and the directory that it is renamed into. Five
//! things are left; listings are in [`super::walk`], the others here:
//!
//! - Of two writers that need the same new directory, one makes it and the other finds it there, and may be
//!   done before the first one has synced the entry in the parent. So each process syncs every directory on
//!   the way down once, before the first object goes in there, whoever has made it.
//! - An object is seen by others before its entry is synced, and stays visible if that fails. So whoever finds an
//!   object, and is going to say that it is durable, syncs its directory first.
//! - A delete is not synced. After a power failure a manifest could be back whose packs are gone.
//! - Its listings leave out what they cannot look at.
//! - A file system that is no longer mounted looks like an empty directory. So the root is compared with the
//!   one that was opened, before anything is written and before anything is called absent.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Error, Key, Result};

/// A file store's root directory.
#[derive(Debug, Clone)]
pub(super) struct Root {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// Device and inode of the directory that was opened.
    identity: (u64, u64),
    /// Directories whose entries in their parents are known to be on disk.
    durable: Mutex<HashSet<PathBuf>>,
    #[cfg(test)]
    syncs: Syncs,
}

/// What tests see of the syncing of directories, and how they make it fail.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Syncs {
    /// So many more fail.
    pub(crate) failing: std::sync::atomic::AtomicUsize,
    /// Those that were synced.
    pub(crate) done: Mutex<Vec<PathBuf>>,
}

#[cfg(test)]
impl Syncs {
    fn see(&self, path: &Path) -> io::Result<()> {
        use std::sync::atomic::Ordering::SeqCst;
        if self.failing.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(io::Error::other("the disk is gone"));
        }
        self.done.lock().unwrap().push(path.to_owned());
        Ok(())
    }
}

/// A file that an interrupted upload has left behind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leftover {
    /// Where it lies.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// When it was last written to.
    pub modified: jiff::Timestamp,
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn refused(path: &Path, why: impl ToString) -> Error {
    Error::Refused { what: format!("file://{}", path.display()), why: why.to_string() }
}

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl Root {
    /// Makes the directory if it is not there, for its owner only, durably.
    pub(super) fn create(path: &Path) -> Result<()> {
        let missing: Vec<&Path> = path.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
        for directory in missing.into_iter().rev() {
            let made = DirBuilder::new().mode(0o700).create(directory);
            made.or_else(|e| if e.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(e) })
                .and_then(|()| directory.parent().map_or(Ok(()), sync_directory))
                .map_err(|e| refused(directory, e))?;
        }
        Ok(())
    }

    /// Remembers which directory it is.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                refused(path, "the repository's directory does not exist; is its file system mounted?")
            }
            _ => refused(path, error),
        })?;
        if !metadata.is_dir() {
            return Err(refused(path, "this is not a directory"));
        }
        let inner = Inner {
            path: path.to_owned(),
            identity: identity(&metadata),
            durable: Mutex::default(),
            #[cfg(test)]
            syncs: Syncs::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Where a key's object or folder lies.
    pub(super) fn path(&self, key: &Key) -> PathBuf {
        self.inner.path.join(key.as_str())
    }

    /// Where the directory lies.
    pub(super) fn directory(&self) -> &Path {
        &self.inner.path
    }

    /// An error unless the directory is still the one that was opened.
    pub(super) fn check(&self) -> Result<()> {
        let path = &self.inner.path;
        match fs::metadata(path) {
            Ok(metadata) if identity(&metadata) == self.inner.identity => Ok(()),
            Ok(_) => {
                let why =
                    "this is no longer the directory that was opened; is its file system still mounted?";
                Err(refused(path, why))
            }
            Err(error) => Err(refused(path, error)),
        }
    }

    /// Makes the folder of `key` and sees to it that no entry on the way there can be lost.
    pub(super) fn prepare(&self, key: &Key) -> Result<()> {
        self.check()?;
        let folder = key.parent().unwrap_or_default();
        // New directories are as open or as closed to others as their owner has made the root.
        let mode = fs::metadata(&self.inner.path).map_err(|e| refused(&self.inner.path, e))?;
        let mode = mode.permissions().mode() & 0o7777;
        let mut directory = self.inner.path.clone();
        for part in folder.parts() {
            let parent = directory.clone();
            directory.push(part);
            if self.known().contains(&directory) {
                continue;
            }
            let made = DirBuilder::new().mode(mode).create(&directory);
            made.or_else(|e| if e.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(e) })
                .and_then(|()| self.sync(&parent))
                .map_err(|e| refused(&directory, e))?;
            // Only now: another writer that finds it in here skips the sync.
            self.known().insert(directory.clone());
        }
        Ok(())
    }

    /// Makes the names in the folder of `key` durable, and those of the folders on the way there.
    pub(super) fn settle(&self, key: &Key) -> Result<()> {
        self.prepare(key)?;
        self.sync_folder(key)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        #[cfg(test)]
        self.inner.syncs.see(path)?;
        sync_directory(path)
    }

    #[cfg(test)]
    pub(super) fn syncs(&self) -> &Syncs {
        &self.inner.syncs
    }

    /// Makes a change of names in the folder of `key` durable.
    pub(super) fn sync_folder(&self, key: &Key) -> Result<()> {
        let path = self.path(&key.parent().unwrap_or_default());
        match self.sync(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(refused(&path, error)),
            _ => Ok(()),
        }
    }

    /// What interrupted uploads have left below `prefix`: files named `<name>#<number>`.
    pub(super) fn leftovers(&self, prefix: &Key) -> Result<Vec<Leftover>> {
        let mut found = Vec::new();
        let mut pending = vec![self.path(prefix)];
        while let Some(directory) = pending.pop() {
            let entries = match fs::read_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.map_err(|e| refused(&directory, e))?,
            };
            for entry in entries {
                let entry = entry.map_err(|e| refused(&directory, e))?;
                let kind = entry.file_type().map_err(|e| refused(&entry.path(), e))?;
                if kind.is_dir() {
                    pending.push(entry.path());
                } else if kind.is_file() && is_leftover(&entry.file_name().to_string_lossy()) {
                    let Ok(metadata) = entry.metadata() else { continue };
                    let modified =
                        metadata.modified().ok().and_then(|time| jiff::Timestamp::try_from(time).ok());
                    let modified = modified.unwrap_or(jiff::Timestamp::UNIX_EPOCH);
                    found.push(Leftover { path: entry.path(), size: metadata.len(), modified });
                }
            }
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashSet<PathBuf>> {
        self.inner.durable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_leftover(name: &str) -> bool {
    name.split_once('#').is_some_and(|(_, end)| !end.is_empty() && end.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_root_is_noticed() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("repository");
        Root::create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let root = Root::open(&path).unwrap();
        root.prepare(&Key::new("a/b/c").unwrap()).unwrap();
        assert!(path.join("a/b").is_dir() && !path.join("a/b/c").exists());
        // What an unmount does: another directory appears under the same name.
        fs::rename(&path, outer.path().join("moved")).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(root.check(), Err(Error::Refused { .. })));
        assert!(root.prepare(&Key::new("a/b/c").unwrap()).is_err());
        assert!(!path.join("a").exists());
    }

    #[test]
    fn directories_are_as_closed_as_the_root() {
        let outer = tempfile::tempdir().unwrap();
        fs::set_permissions(outer.path(), fs::Permissions::from_mode(0o750)).unwrap();
        let root = Root::open(outer.path()).unwrap();
        root.prepare(&Key::new("a/b").unwrap()).unwrap();
        let mode = fs::metadata(outer.path().join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o750);
    }

    #[test]
    fn knows_what_an_upload_leaves() {
        assert!(is_leftover("name#1") && !is_leftover("a#b#23"));
        for name in ["name", "name#", "name#x"] {
            assert!(!is_leftover(name), "{name}");
        }
    }
}
