//! What arrived, against what the server says that it sent.

use std::collections::HashMap;

use proto::backup_manifest::{BackupManifest, FileEntry};
use repository::pack::BlockDigest;

/// How the server's manifest and the received files differ. One file is named; the others would tell no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// In the manifest only.
    #[error("the server's manifest lists {0:?}, which was not received")]
    Missing(String),
    /// Received only: so many.
    #[error("{0} files were received that the server's manifest does not list")]
    Unlisted(usize),
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

/// What came, as the server's manifest lists it: some 50 bytes for each file, so that a million of them is no matter.
#[derive(Debug, Default)]
pub struct Receipts(HashMap<BlockDigest, (u64, Option<u32>)>);

impl Receipts {
    /// A file came under that path of the archive: its length there, and the CRC-32C of that.
    pub fn add(&mut self, path: &[u8], size: u64, crc32c: Option<u32>) {
        self.0.insert(BlockDigest::of(path), (size, crc32c));
    }

    /// The length of what came under that path, and its CRC-32C.
    pub fn get(&self, path: &[u8]) -> Option<(u64, Option<u32>)> {
        self.0.get(&BlockDigest::of(path)).copied()
    }
}

/// An error at the first difference. `received` must be what the server sent, nothing else.
pub fn compare(manifest: &BackupManifest, mut received: Receipts) -> Result<(), Difference> {
    let name = |file: &FileEntry| String::from_utf8_lossy(&file.path).into_owned();
    for file in &manifest.files {
        match received.0.remove(&BlockDigest::of(&file.path)) {
            None => return Err(Difference::Missing(name(file))),
            Some((size, _)) if size != file.size => {
                return Err(Difference::Size { path: name(file), listed: file.size, received: size });
            }
            Some((_, crc)) => {
                // A manifest without checksums proves nothing, and we asked for them.
                let expected = file.checksum.as_ref().and_then(|checksum| checksum.crc32c());
                if expected.is_none() || expected != crc {
                    return Err(Difference::Checksum(name(file)));
                }
            }
        }
    }
    match received.0.len() {
        0 => Ok(()),
        left => Err(Difference::Unlisted(left)),
    }
}

#[cfg(test)]
mod tests {
    use proto::backup_manifest::Checksum;

    use super::*;

    fn listed(path: &str, size: u64, crc: u32) -> FileEntry {
        FileEntry { path: path.into(), size, last_modified: 0, checksum: Some(Checksum::from_crc32c(crc)) }
    }

    fn received(files: &[(&str, u64, u32)]) -> Receipts {
        let mut receipts = Receipts::default();
        files.iter().for_each(|(path, size, crc)| receipts.add(path.as_bytes(), *size, Some(*crc)));
        receipts
    }

    fn outcome(files: Vec<FileEntry>, receipts: Receipts) -> Result<(), Difference> {
        compare(&BackupManifest { version: 1, system_id: None, files, wal_ranges: Vec::new() }, receipts)
    }

    #[test]
    fn the_order_does_not_matter() {
        let files = vec![listed("PG_VERSION", 3, 1), listed("base/1/2", 5, 7)];
        assert_eq!(outcome(files, received(&[("base/1/2", 5, 7), ("PG_VERSION", 3, 1)])), Ok(()));
    }

    #[test]
    fn every_difference_is_found() {
        let receipts = || received(&[("a", 1, 1), ("b", 2, 2)]);
        let both = || vec![listed("a", 1, 1), listed("b", 2, 2)];
        let change = |at: usize, file: FileEntry| {
            let mut files = both();
            files[at] = file;
            files
        };
        assert_eq!(outcome(both(), receipts()), Ok(()));
        assert!(matches!(outcome(change(1, listed("b", 3, 2)), receipts()), Err(Difference::Size { .. })));
        assert_eq!(outcome(change(0, listed("a", 1, 9)), receipts()), Err(Difference::Checksum("a".into())));
        assert_eq!(outcome(both(), received(&[("a", 1, 1)])), Err(Difference::Missing("b".into())));
        assert_eq!(outcome(vec![listed("a", 1, 1)], receipts()), Err(Difference::Unlisted(1)));
        assert_eq!(outcome(change(1, listed("a", 1, 1)), receipts()), Err(Difference::Missing("a".into())));
        let mut bare = listed("a", 1, 1);
        bare.checksum = None;
        assert_eq!(outcome(change(0, bare), receipts()), Err(Difference::Checksum("a".into())));
    }
}
