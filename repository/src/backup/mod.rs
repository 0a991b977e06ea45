//! Base backups in the repository.
//!
//! ```text
//! backup/<label>/intent                   a backup begins: who takes it
//! backup/<label>/alive-<time>             it is still running
//! backup/<label>/server-manifest          the server's own backup_manifest
//! backup/<label>/manifest-<generation>    it is complete; the highest generation counts
//! backup/<label>/names                    which relations there were
//! backup/<label>/keep-<time>              it is to be kept, whatever retention says; the newest counts
//! ```
//!
//! The manifest's presence is what makes a backup exist. Whatever a backup leaves that was cut off before is
//! not a backup, and harms nothing.

mod commit;
mod generation;
pub(crate) mod label;
mod names;
mod running;
mod streamed;

use std::collections::BTreeMap;
use std::io::{BufReader, Read};

use bytes::Bytes;
use jiff::Timestamp;

pub use generation::Generation;
pub use label::{BackupKind, BackupLabel, LabelError};
pub use names::{NameRecord, NamesWriter, RelationName};
pub use running::{Intent, SILENCE, Unfinished};
pub use streamed::IndexedManifest;

use crate::branch::off_thread;
use crate::manifest::{Entry, Manifest, ManifestError, ManifestHead, ManifestReader};
use crate::pack::PackEntry;
use crate::retention::Condemned;
use crate::sealed::{Encryption, HEADER_LENGTH, UnsealReader, from_io, parse_header, signed_head};
use crate::store::SyncRead;
use crate::{Branch, Error, Key, Kind, ObjectInfo, Result};

/// A whole backup in the repository.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BackupRef {
    /// Its label.
    pub label: BackupLabel,
    /// The highest generation of its manifest: the one that counts.
    pub generation: Generation,
}

/// So much of a manifest is fetched to read its head.
const HEAD_FETCH: u64 = 64 << 10;

/// Longest text of a manifest: some hundred million files.
const MAX_MANIFEST: u64 = 16 << 30;

/// Longest `backup_manifest` of a server.
const MAX_SERVER_MANIFEST: u64 = 4 << 30;

/// Where all backups of a branch lie.
pub(crate) fn folder() -> Key {
    Key::root().child("backup")
}

/// What lies in a backup's folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Member {
    Intent,
    Alive,
    ServerManifest,
    Manifest { generation: Generation },
    Keep,
    Names,
    Stray,
}

impl Member {
    fn parse(name: &str) -> Self {
        match name.split_once('-') {
            None if name == "intent" => Self::Intent,
            None if name == names::NAMES => Self::Names,
            Some(("alive", _)) => Self::Alive,
            Some(("keep", _)) => Self::Keep,
            Some(("server", "manifest")) => Self::ServerManifest,
            Some(("manifest", text)) => {
                text.parse().map_or(Self::Stray, |generation| Self::Manifest { generation })
            }
            _ => Self::Stray,
        }
    }
}

/// What an object of a backup's folder is, by its key below the branch; `None` if it lies elsewhere.
pub(crate) fn parse_member(key: &Key) -> Option<(BackupLabel, Member)> {
    let (label, name) = key.below(&folder())?.split_once('/')?;
    Some((label.parse().ok()?, Member::parse(name)))
}

/// The backup whose manifest this is, by its key below the branch.
pub(crate) fn label_of_manifest(key: &Key) -> Option<BackupLabel> {
    match parse_member(key)? {
        (label, Member::Manifest { .. }) => Some(label),
        _ => None,
    }
}

impl BackupRef {
    /// The manifest's key below the branch.
    pub(crate) fn key(&self) -> Key {
        folder().child(&self.label).child(format_args!("manifest-{}", self.generation))
    }
}

impl Branch {
    /// All whole backups that may be used, oldest first: those that `expire` has condemned may go at any time, and are
    /// left out unless somebody has marked them as ones to keep.
    pub async fn backups(&self) -> Result<Vec<BackupRef>> {
        // Listed first: a backup that is condemned later may be used for as long as the grace period lasts.
        let found = self.backup_objects().await?;
        let condemned = match self.condemned().await {
            Ok(condemned) => condemned,
            // A record that cannot be read must not keep anybody from restoring.
            Err(error @ (Error::Corrupt { .. } | Error::Locked { .. } | Error::Invalid { .. })) => {
                tracing::warn!("nobody knows which backups are condemned: {error}");
                Condemned::default()
            }
            Err(error) => return Err(error),
        };
        let mut backups = Vec::new();
        for (label, members) in found {
            let Some(backup) = newest(&label, &members) else { continue };
            if condemned.backup(&backup).is_none() || self.is_marked(&label, &members).await? {
                backups.push(backup);
            }
        }
        Ok(backups)
    }

    /// All whole backups, oldest first, with those that are condemned.
    pub async fn all_backups(&self) -> Result<Vec<BackupRef>> {
        let found = self.backup_objects().await?;
        Ok(found.into_iter().filter_map(|(label, members)| newest(&label, &members)).collect())
    }

    async fn is_marked(&self, label: &BackupLabel, members: &[(Member, ObjectInfo)]) -> Result<bool> {
        let marks = members.iter().filter(|(member, _)| *member == Member::Keep);
        let marks: Vec<ObjectInfo> = marks.map(|(_, object)| object.clone()).collect();
        match self.read_keep(&marks).await {
            Ok(keep) => Ok(keep.is_some_and(|keep| keep.holds(Timestamp::now()))),
            // A mark that cannot be read must not keep anybody from restoring.
            Err(error @ (Error::Corrupt { .. } | Error::Locked { .. } | Error::Invalid { .. })) => {
                tracing::warn!("nobody knows until when backup {label} is kept: {error}");
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// The whole backup of that label.
    ///
    /// # Errors
    /// [`Error::Absent`] if it has no manifest: then it never became one, or is gone.
    pub async fn backup(&self, label: &BackupLabel) -> Result<BackupRef> {
        let objects = self.store().list_folder(&self.key(&folder().child(label))).await?.objects;
        let members: Vec<_> =
            objects.into_iter().map(|info| (Member::parse(info.key.name()), info)).collect();
        newest(label, &members).ok_or_else(|| Error::Absent { what: format!("backup {label}") })
    }

    /// All objects below `backup/`, by label.
    async fn backup_objects(&self) -> Result<BTreeMap<BackupLabel, Vec<(Member, ObjectInfo)>>> {
        let root = self.key(&folder());
        let mut found: BTreeMap<BackupLabel, Vec<_>> = BTreeMap::new();
        for info in self.store().list(&root).await? {
            let Some((label, name)) = info.key.below(&root).and_then(|below| below.split_once('/')) else {
                continue;
            };
            if let Ok(label) = label.parse() {
                found.entry(label).or_default().push((Member::parse(name), info.clone()));
            }
        }
        Ok(found)
    }

    /// The first line of a manifest: cheap, whatever the size of the manifest.
    ///
    /// It lies in a zstd frame of its own with a checksum, so damage is noticed, and with a signature of its own, if
    /// anything is signed; the digest over the whole manifest is checked by [`Branch::read_manifest`] only, which is to be used before anything is done
    /// with the backup.
    pub async fn read_manifest_head(&self, backup: &BackupRef) -> Result<ManifestHead> {
        let name = backup.key();
        let expected = self.expected(Kind::Manifest, &name, MAX_MANIFEST);
        let front = self.store().get_range(&expected.key, 0..HEAD_FETCH).await?;
        let header = parse_header(&front, &expected)?;
        let content = match header.encryption {
            Encryption::None => front.slice(HEADER_LENGTH..),
            // As much of the clear content is there for sure.
            Encryption::Age if front.len() as u64 == HEAD_FETCH => {
                self.content_reader(Kind::Manifest, &name).await?.read(0..HEAD_FETCH / 2).await?
            }
            Encryption::Age => Bytes::new(),
        };
        let line = first_frame(&content).filter(|(line, behind)| {
            signed_head(&expected.key, &header, line, behind, self.unsealing()).is_some()
        });
        let head = match line {
            Some((line, behind)) => {
                signed_head(&expected.key, &header, &line, behind, self.unsealing()).unwrap_or(Ok(()))?;
                ManifestReader::head_only(line.as_slice()).map_err(|e| unreadable(&expected.key, e))?
            }
            None => self.read_manifest(backup).await?.head,
        };
        self.check_head(backup, head)
    }

    /// A whole manifest, verified.
    pub async fn read_manifest(&self, backup: &BackupRef) -> Result<Manifest> {
        let expected = self.expected(Kind::Manifest, &backup.key(), MAX_MANIFEST);
        let object = self.store().get(&expected.key).await?;
        let unsealing = self.unsealing().clone();
        let manifest = off_thread(&expected.key.clone(), move || {
            let content = UnsealReader::new(&object[..], &expected, &unsealing)?;
            // Reads to the end of the content, where the digest is checked.
            Manifest::read(BufReader::new(content)).map_err(|error| unreadable(&expected.key, error))
        })
        .await?;
        Ok(Manifest { head: self.check_head(backup, manifest.head)?, ..manifest })
    }

    /// The packs that a backup names, out of its verified manifest, whose entries are only passed over.
    pub(crate) async fn read_packs(&self, backup: &BackupRef) -> Result<Vec<PackEntry>> {
        Ok(self.scan_manifest(backup, |(), _, _| {}).await?.0)
    }

    /// The packs that a backup names, and what `look` has made of its entries, one after another: whatever the size of
    /// the manifest, one of them is in memory at a time. All of it is verified when this returns.
    pub(crate) async fn scan_manifest<T: Default + Send + 'static>(
        &self,
        backup: &BackupRef,
        look: impl Fn(&mut T, &[PackEntry], &Entry) + Send + 'static,
    ) -> Result<(Vec<PackEntry>, T)> {
        let expected = self.expected(Kind::Manifest, &backup.key(), MAX_MANIFEST);
        let input = SyncRead::new(self.store().get_stream(&expected.key, 0).await?);
        let unsealing = self.unsealing().clone();
        let (head, packs, made) = off_thread(&expected.key.clone(), move || {
            let failed = |error| unreadable(&expected.key, error);
            let content = UnsealReader::new(input, &expected, &unsealing)?;
            let mut reader = ManifestReader::new(BufReader::new(content)).map_err(failed)?;
            let mut made = T::default();
            // To the end of the content, where the digest is checked.
            while let Some(entry) = reader.next_entry().map_err(failed)? {
                look(&mut made, reader.packs(), &entry);
            }
            let (head, packs) = reader.into_parts();
            Ok((head, packs, made))
        })
        .await?;
        self.check_head(backup, head)?;
        Ok((packs, made))
    }

    /// The server's own `backup_manifest`, if this backup keeps it.
    pub async fn read_server_manifest(&self, head: &ManifestHead) -> Result<Option<Bytes>> {
        let Some(name) = &head.server_manifest else { return Ok(None) };
        let name = folder().child(&head.label).child(name);
        let (_, content) = self.get_sealed(Kind::ServerManifest, &name, MAX_SERVER_MANIFEST).await?;
        Ok(Some(content))
    }

    /// A manifest must be that of the backup and cluster under whose key it lies.
    fn check_head(&self, backup: &BackupRef, head: ManifestHead) -> Result<ManifestHead> {
        let own = head.label == backup.label
            && head.system_id == self.system_id()
            && head.cluster == *self.cluster()
            && head.segment_size == self.segment_size();
        match own {
            true => Ok(head),
            false => Err(Error::corrupt(
                self.key(&backup.key()),
                format_args!(
                    "it is the manifest of {} of cluster {} {}",
                    head.label, head.cluster, head.system_id
                ),
            )),
        }
    }
}

fn newest(label: &BackupLabel, members: &[(Member, ObjectInfo)]) -> Option<BackupRef> {
    let generations = members.iter().filter_map(|(member, _)| match member {
        Member::Manifest { generation } => Some(*generation),
        _ => None,
    });
    generations.max().map(|generation| BackupRef { label: label.clone(), generation })
}

/// The first zstd frame, if all of it is there and its checksum is right, and what is behind it.
fn first_frame(content: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut line = Vec::new();
    let mut decoder = zstd::stream::read::Decoder::with_buffer(content).ok()?.single_frame();
    decoder.by_ref().take(HEAD_FETCH * 64).read_to_end(&mut line).ok()?;
    let length = zstd::zstd_safe::find_frame_compressed_size(content).ok()?;
    line.ends_with(b"\n").then_some((line, content.get(length..)?))
}

fn unreadable(key: &Key, error: ManifestError) -> Error {
    match error {
        ManifestError::Io(error) => from_io(key, error),
        error @ ManifestError::Format { .. } => Error::invalid(format_args!("object {key}"), error),
        error => Error::corrupt(key, error),
    }
}
