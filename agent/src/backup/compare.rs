//! What arrived, against what the server says that it sent.

use std::collections::HashMap;

use proto::backup_manifest::BackupManifest;
use repository::manifest::{Entry, SafePath};

use super::file::Sent;

/// How the server's manifest and the received files differ. One file is named; the others would tell no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// In the manifest only.
    #[error("the server's manifest lists {0:?}, which was not received")]
    Missing(String),
    /// Received only.
    #[error("{0:?} was received, but the server's manifest does not list it")]
    Unlisted(String),
    /// Of another length.
    #[error("{path:?} has {received} bytes, and {listed} in the server's manifest")]
    Size {
        /// The file.
        path: String,
        /// By the manifest.
        listed: u64,
        /// As it came.
        received: u64,
    },
    /// Of another content.
    #[error("the checksum of {0:?} is not that of the server's manifest: it was damaged on the way")]
    Checksum(String),
}

/// An error at the first difference. `entries` must be what the server sent, nothing else; `sent` has those of them that
/// came in another form than they are stored.
pub fn compare(
    manifest: &BackupManifest,
    entries: &[Entry],
    sent: &HashMap<SafePath, Sent>,
) -> Result<(), Difference> {
    let mut listed: Vec<_> = manifest.files.iter().collect();
    listed.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    let mut received: Vec<_> = entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::File { path, size, crc32c, .. } => Some(match sent.get(path) {
                Some(sent) => (sent.path.as_slice(), sent.size, Some(sent.crc32c)),
                None => (path.as_bytes(), *size, *crc32c),
            }),
            Entry::Directory { .. } => None,
        })
        .collect();
    received.sort_unstable();
    let name = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let mut received = received.into_iter().peekable();
    for file in listed {
        match received.peek() {
            Some((path, ..)) if *path < file.path.as_slice() => return Err(Difference::Unlisted(name(path))),
            Some((path, size, crc)) if *path == file.path.as_slice() => {
                if *size != file.size {
                    return Err(Difference::Size { path: name(path), listed: file.size, received: *size });
                }
                // A manifest without checksums proves nothing, and we asked for them.
                let expected = file.checksum.as_ref().and_then(|checksum| checksum.crc32c());
                if expected.is_none() || expected != *crc {
                    return Err(Difference::Checksum(name(path)));
                }
                received.next();
            }
            _ => return Err(Difference::Missing(name(&file.path))),
        }
    }
    match received.next() {
        Some((path, ..)) => Err(Difference::Unlisted(name(path))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proto::backup_manifest::{Checksum, FileEntry};

    use super::*;

    fn listed(path: &str, size: u64, crc: u32) -> FileEntry {
        FileEntry { path: path.into(), size, last_modified: 0, checksum: Some(Checksum::from_crc32c(crc)) }
    }

    fn received(path: &str, size: u64, crc: u32) -> Entry {
        Entry::File {
            path: SafePath::new(path).unwrap(),
            size,
            mode: 0o600,
            mtime: 0,
            crc32c: Some(crc),
            extents: Vec::new(),
        }
    }

    fn outcome(files: Vec<FileEntry>, entries: &[Entry]) -> Result<(), Difference> {
        compare(&manifest(files), entries, &HashMap::new())
    }

    fn manifest(files: Vec<FileEntry>) -> BackupManifest {
        BackupManifest { version: 1, system_id: None, files, wal_ranges: Vec::new() }
    }

    #[test]
    fn what_came_in_another_form_is_held_against_that() {
        let entries = [received("base/5/16384", 81_920, 1), received("base/5/9", 2, 2)];
        let path = SafePath::new("base/5/16384").unwrap();
        let as_sent = Sent { path: b"base/5/INCREMENTAL.16384".to_vec(), size: 12, crc32c: 7 };
        let sent = HashMap::from([(path, as_sent)]);
        let files = vec![listed("base/5/9", 2, 2), listed("base/5/INCREMENTAL.16384", 12, 7)];
        assert_eq!(compare(&manifest(files.clone()), &entries, &sent), Ok(()));
        assert!(compare(&manifest(files), &entries, &HashMap::new()).is_err());
    }

    #[test]
    fn the_order_does_not_matter() {
        let entries = [
            received("base/1/2", 5, 7),
            Entry::Directory { path: SafePath::new("pg_wal").unwrap(), mode: 0o700 },
            received("PG_VERSION", 3, 1),
        ];
        assert_eq!(outcome(vec![listed("PG_VERSION", 3, 1), listed("base/1/2", 5, 7)], &entries), Ok(()));
    }

    #[test]
    fn every_difference_is_found() {
        let entries = [received("a", 1, 1), received("b", 2, 2)];
        let both = || vec![listed("a", 1, 1), listed("b", 2, 2)];
        let change = |at: usize, file: FileEntry| {
            let mut files = both();
            files[at] = file;
            files
        };
        assert_eq!(outcome(both(), &entries), Ok(()));
        assert!(matches!(outcome(change(1, listed("b", 3, 2)), &entries), Err(Difference::Size { .. })));
        assert_eq!(outcome(change(0, listed("a", 1, 9)), &entries), Err(Difference::Checksum("a".into())));
        assert_eq!(outcome(both(), &entries[..1]), Err(Difference::Missing("b".into())));
        assert_eq!(outcome(both(), &entries[1..]), Err(Difference::Missing("a".into())));
        assert_eq!(outcome(vec![listed("a", 1, 1)], &entries), Err(Difference::Unlisted("b".into())));
        assert_eq!(outcome(vec![listed("b", 2, 2)], &entries), Err(Difference::Unlisted("a".into())));
        let mut bare = listed("a", 1, 1);
        bare.checksum = None;
        assert_eq!(outcome(change(0, bare), &entries), Err(Difference::Checksum("a".into())));
    }
}
