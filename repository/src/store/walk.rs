//! Listings of a directory, in which nothing is passed over.
//!
//! `LocalFileSystem` leaves out of a listing whatever it cannot stat: a file that this user may not see, one on a disk
//! that does not answer, a link that leads nowhere. For a recovering server that would mean that there is none. Here
//! only what went away while the folder was read is left out; everything else is an error.

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::failure::classify;
use super::local::Root;
use super::{Folder, ObjectInfo};
use crate::{Error, Key, Result};

/// Device and inode of each folder on the way down: a link to one of them would never end.
type Way = Vec<(u64, u64)>;

impl Root {
    /// Every object below `prefix`, at any depth, in no order.
    pub(super) fn list(&self, prefix: &Key) -> Result<Vec<ObjectInfo>> {
        let mut found = Vec::new();
        self.walk(prefix, &mut Vec::new(), &mut found)?;
        // What was found missing was missing here, and not in the directory over which this one is mounted.
        self.check()?;
        Ok(found)
    }

    /// What lies directly in `folder` and has a name that starts with `start`, in no order.
    pub(super) fn list_folder(&self, folder: &Key, start: &str) -> Result<Folder> {
        let mut found = Folder::default();
        self.each(folder, start, |key, metadata| {
            if metadata.is_dir() {
                found.folders.push(key);
            } else if metadata.is_file() {
                found.objects.push(object(key, metadata));
            }
            Ok(())
        })?;
        self.check()?;
        Ok(found)
    }

    fn walk(&self, folder: &Key, way: &mut Way, found: &mut Vec<ObjectInfo>) -> Result<()> {
        self.each(folder, "", |key, metadata| {
            if metadata.is_file() {
                found.push(object(key, metadata));
            } else if metadata.is_dir() {
                let identity = (metadata.dev(), metadata.ino());
                if way.contains(&identity) {
                    let why = "this link leads back to a folder above it; remove it";
                    return Err(self.refused(&key, why));
                }
                way.push(identity);
                self.walk(&key, way, found)?;
                way.pop();
            }
            Ok(())
        })
    }

    /// Shows everything in a folder whose name can be a key's and starts with `start`. Links are followed. A folder that is
    /// not there is empty.
    fn each(
        &self,
        folder: &Key,
        start: &str,
        mut show: impl FnMut(Key, &Metadata) -> Result<()>,
    ) -> Result<()> {
        let path = self.path(folder);
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(|error| self.trouble(folder, error))?,
        };
        for entry in entries {
            let name = entry.map_err(|error| self.trouble(folder, error))?.file_name();
            // Other names are not ours; among them those of uploads that are not finished.
            let key =
                name.to_str().filter(|name| name.starts_with(start)).and_then(|name| Key::new(name).ok());
            let Some(key) = key.map(|name| folder.join(&name)) else { continue };
            if let Some(metadata) = look(&self.path(&key)).map_err(|error| match error.kind() {
                ErrorKind::NotFound => {
                    self.refused(&key, "this link leads nowhere; is a file system not mounted?")
                }
                _ => self.trouble(&key, error),
            })? {
                show(key, &metadata)?;
            }
        }
        Ok(())
    }

    fn refused(&self, key: &Key, why: &str) -> Error {
        Error::Refused { what: self.what(key), why: why.to_owned() }
    }

    /// What an error of the file system means is decided in one place.
    fn trouble(&self, key: &Key, error: io::Error) -> Error {
        let error = object_store::Error::Generic { store: "directory", source: error.into() };
        classify(&self.what(key), &error)
    }

    fn what(&self, key: &Key) -> String {
        format!("file://{}", self.path(key).display())
    }
}

/// `None` if it went away since its name was read. "Not found" as an error is a link that leads nowhere.
fn look(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Ok(metadata) if metadata.is_symlink() => fs::metadata(path).map(Some),
        other => other.map(Some),
    }
}

fn object(key: Key, metadata: &Metadata) -> ObjectInfo {
    let modified = metadata.modified().ok().and_then(|time| jiff::Timestamp::try_from(time).ok());
    ObjectInfo { key, size: metadata.len(), modified: modified.unwrap_or(jiff::Timestamp::UNIX_EPOCH) }
}
