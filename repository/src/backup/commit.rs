//! What makes a backup exist.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Write};

use bytes::Bytes;

use super::{BackupLabel, BackupRef, Generation, Member, folder};
use crate::error::OrAbsent;
use crate::manifest::{Manifest, ManifestError};
use crate::pack::{PackEntry, pack_key};
use crate::{Branch, Error, Header, Key, Kind, Result, SealWriter, Sealing};

/// The object that keeps the server's own manifest.
const SERVER_MANIFEST: &str = "server-manifest";

impl Branch {
    /// Stores the server's own `backup_manifest`; returns the object's name for the manifest's head. It is
    /// durable when this returns.
    pub async fn put_server_manifest(&self, label: &BackupLabel, content: Bytes) -> Result<String> {
        let name = folder().child(label).child(SERVER_MANIFEST);
        self.put_sealed(self.header(Kind::ServerManifest, &name), content).await?;
        Ok(SERVER_MANIFEST.to_owned())
    }

    /// Stores a backup's first manifest: from then on the backup exists.
    ///
    /// Everything that it names must be durable before. Of packs the types see to that; besides, the store is
    /// asked whether it still has them all, with the right lengths.
    ///
    /// # Errors
    /// [`Error::Absent`] or [`Error::Corrupt`] if the store does not have what the manifest names;
    /// [`Error::Invalid`] if the backup has a manifest already, or this one could not be read again.
    pub async fn put_manifest(&self, manifest: &Manifest) -> Result<BackupRef> {
        let label = &manifest.head.label;
        let backup = BackupRef { label: label.clone(), generation: Generation::FIRST };
        let lies_in = folder().child(label);
        for other in self.store().list_folder(&self.key(&lies_in)).await?.objects {
            if matches!(Member::parse(other.key.name()), Member::Manifest { .. }) {
                return Err(Error::invalid(format_args!("backup {label}"), "it has a manifest already"));
            }
        }
        self.check_packs(&manifest.packs).await?;
        if let Some(name) = &manifest.head.server_manifest {
            self.store().head(&self.key(&lies_in.child(name))).await?;
        }
        let name = backup.key();
        let object = seal(manifest, &self.header(Kind::Manifest, &name), self.sealing()?)?;
        // The commit. Before this line the backup is a leftover; when it returns the backup is durable and
        // whole.
        self.store().put(&self.key(&name), object).await?;
        Ok(backup)
    }

    /// Stores the next generation of a backup's manifest, made out of that of `base`: from then on it is the one that
    /// counts. Nothing is replaced: the one of `base` stays as it is, and goes later as `expire` lets things go.
    ///
    /// `None` if `base` does not count any more, or the backup goes just now: then this one leaves nothing behind.
    ///
    /// # Errors
    /// As those of [`Branch::put_manifest`]: what the new manifest names must be durable before.
    pub(crate) async fn put_next_manifest(
        &self,
        base: &BackupRef,
        manifest: &Manifest,
    ) -> Result<Option<BackupRef>> {
        let next = base.generation.next();
        let next = next.ok_or_else(|| Error::invalid(base.key(), "there is no generation after it"))?;
        let backup = BackupRef { label: base.label.clone(), generation: next };
        if self.backup(&base.label).await.or_absent()?.as_ref() != Some(base) {
            return Ok(None);
        }
        self.check_packs(&manifest.packs).await?;
        let name = backup.key();
        let object = seal(manifest, &self.header(Kind::Manifest, &name), self.sealing()?)?;
        // The commit of this generation. It names the same content as the one before, all of it durable.
        self.store().put(&self.key(&name), object).await?;
        // Whoever lets this backup go takes its manifests away first, and looks for new ones before anything else goes. So
        // if `base` is there still, nothing that this manifest names was taken, or will be; if not, it must not bring
        // back a backup of which parts are missing.
        let base_stays = self.store().exists(&self.key(&base.key())).await?;
        if base_stays && self.check_packs(&manifest.packs).await.or_absent()?.is_some() {
            return Ok(Some(backup));
        }
        self.store().delete(&self.key(&name)).await?;
        Ok(None)
    }

    /// Whether the store has these packs, with the right lengths: one listing for each backup that wrote some.
    ///
    /// # Errors
    /// [`Error::Absent`] or [`Error::Corrupt`] names the first that is not there, or is another.
    pub async fn check_packs(&self, packs: &[PackEntry]) -> Result<()> {
        let labels: BTreeSet<&BackupLabel> = packs.iter().map(|pack| pack.name().label()).collect();
        let mut stored = BTreeMap::new();
        for label in labels {
            let folder = self.key(&Key::root().child(crate::pack::FOLDER).child(label));
            stored.extend(self.store().list(&folder).await?.into_iter().map(|info| (info.key, info.size)));
        }
        for pack in packs {
            let key = self.key(&pack_key(pack.name()));
            match stored.get(&key) {
                Some(size) if *size == pack.stored_length() => {}
                Some(size) => {
                    let why = format!("it has {size} bytes where {} were written", pack.stored_length());
                    return Err(Error::corrupt(key, why));
                }
                None => return Err(Error::Absent { what: format!("pack {key}, which the manifest names,") }),
            }
        }
        Ok(())
    }
}

/// The manifest as a sealed object. Its text is compressed while it is written, so that only this much is in
/// memory.
fn seal(manifest: &Manifest, header: &Header, sealing: &Sealing) -> Result<Bytes> {
    let failed = |error| match error {
        ManifestError::Io(error) => crate::sealed::from_io(&header.name, error),
        error => Error::invalid(&header.name, error),
    };
    let mut writer = SealWriter::new(Vec::new(), header, sealing)?;
    let mut head = Vec::new();
    manifest.write_head(&mut head).map_err(failed)?;
    writer.write_raw(&head)?;
    // Ends the frame: so the head can be read and checked by itself.
    writer.position()?;
    writer.sign_head(&head)?;
    let mut text = BufWriter::with_capacity(128 << 10, Raw(writer));
    manifest.write_body(&mut text).map_err(failed)?;
    let Raw(writer) = text.into_inner().map_err(|error| failed(error.into_error().into()))?;
    Ok(writer.finish()?.0.into())
}

/// Raw content as the standard library writes.
pub(super) struct Raw<W: Write>(pub(super) SealWriter<W>);

impl<W: Write> Write for Raw<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_raw(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
