//! Manifests of any length, in bounded memory: what is read is looked up, and what is written was sorted, with the help of
//! a temporary file where it is much.

use std::io::{BufReader, BufWriter};

use super::commit::Raw;
use super::{BackupRef, MAX_MANIFEST, Member, folder, unreadable};
use crate::branch::off_thread;
use crate::manifest::{EntryIndex, ManifestError, ManifestHead, ManifestReader, SortedEntries};
use crate::pack::PackEntry;
use crate::sealed::{UnsealReader, from_io};
use crate::store::{SyncRead, SyncUpload};
use crate::{Branch, Error, Key, Kind, Result, SealWriter};

/// The name of a backup's first manifest.
const FIRST_MANIFEST: &str = "manifest-00000001";

/// A manifest whose entries are not in memory.
#[derive(Debug)]
pub struct IndexedManifest {
    /// What the backup is.
    pub head: ManifestHead,
    /// The packs that extents refer to by their index here.
    pub packs: Vec<PackEntry>,
    /// Files and folders.
    pub entries: EntryIndex,
}

impl Branch {
    /// A whole manifest, verified, to be looked up in.
    ///
    /// # Errors
    /// As those of [`Branch::read_manifest`]; and the temporary file cannot be written.
    pub async fn index_manifest(&self, backup: &BackupRef) -> Result<IndexedManifest> {
        let expected = self.expected(Kind::Manifest, &backup.key(), MAX_MANIFEST);
        let input = SyncRead::new(self.store().get_stream(&expected.key, 0).await?);
        let unsealing = self.unsealing().clone();
        let manifest = off_thread(&expected.key.clone(), move || {
            let failed = |error| unreadable(&expected.key, error);
            let content = UnsealReader::new(input, &expected, &unsealing)?;
            let mut reader = ManifestReader::new(BufReader::new(content)).map_err(failed)?;
            let mut entries = EntryIndex::default();
            // To the end of the content, where the digest is checked: nothing of it is used before.
            while let Some(entry) = reader.next_entry().map_err(failed)? {
                entries.push(&entry).map_err(no_room)?;
            }
            entries.close().map_err(no_room)?;
            let (head, packs) = reader.into_parts();
            Ok(IndexedManifest { head, packs, entries })
        })
        .await?;
        Ok(IndexedManifest { head: self.check_head(backup, manifest.head)?, ..manifest })
    }

    /// Stores a backup's first manifest: from then on the backup exists. Of `packs` those are named to which an entry
    /// refers.
    ///
    /// # Errors
    /// As those of [`Branch::put_manifest`]; and the temporary file cannot be read.
    pub async fn put_sorted_manifest(
        &self,
        head: &ManifestHead,
        packs: Vec<PackEntry>,
        entries: SortedEntries,
    ) -> Result<()> {
        let lies_in = folder().child(&head.label);
        for other in self.store().list_folder(&self.key(&lies_in)).await?.objects {
            if matches!(Member::parse(other.key.name()), Member::Manifest { .. }) {
                return Err(Error::invalid(
                    format_args!("backup {}", head.label),
                    "it has a manifest already",
                ));
            }
        }
        let packs = entries.used_packs(packs);
        self.check_packs(&packs).await?;
        if let Some(name) = &head.server_manifest {
            self.store().head(&self.key(&lies_in.child(name))).await?;
        }
        let name = lies_in.child(FIRST_MANIFEST);
        let mut first_line = Vec::new();
        head.write(&mut first_line).map_err(|error| unwritable(&name, error))?;
        let upload = SyncUpload::new(self.store().upload(&self.key(&name)).await?);
        let (header, sealing) = (self.header(Kind::Manifest, &name), self.sealing()?.clone());
        off_thread(&name.clone(), move || {
            let mut writer = SealWriter::new(upload, &header, &sealing)?;
            writer.write_raw(&first_line)?;
            // Ends the frame: so the head can be read and checked by itself.
            writer.position()?;
            writer.sign_head(&first_line)?;
            let mut text = BufWriter::with_capacity(128 << 10, Raw(writer));
            entries.write_body(&packs, &mut text).map_err(|error| unwritable(&name, error))?;
            let Raw(writer) = text.into_inner().map_err(|error| from_io(&name, error.into_error()))?;
            let (upload, _) = writer.finish()?;
            // The commit. Before this line the backup is a leftover, and an upload that is dropped leaves nothing; when
            // it returns the backup is durable and whole.
            upload.finish().map(drop)
        })
        .await
    }
}

fn no_room(error: std::io::Error) -> Error {
    let folder = std::env::temp_dir();
    Error::invalid(format_args!("the temporary file in {} (TMPDIR)", folder.display()), error)
}

fn unwritable(name: &Key, error: ManifestError) -> Error {
    match error {
        ManifestError::Io(error) => from_io(name, error),
        error => Error::invalid(name, error),
    }
}
