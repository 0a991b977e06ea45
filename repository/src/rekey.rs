//! Metadata is encrypted anew, to those who are to read it now.
//!
//! An object cannot be changed, and of most there is one name and no other. Manifests have generations: so each backup
//! gets a manifest that says the same, and those who were added can see what backups there are. Marks and the record of what
//! is condemned are written anew, too: they are read by whoever lists. Packs, WAL and what else lies there stay as they are, and
//! closed to those who were added: what is written from then on is for them.

use crate::backup::{BackupLabel, BackupRef};
use crate::sealed::Audience;
use crate::{Branch, Error, Kind, Result};

/// What became of the backups.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rekeyed {
    /// They have a new manifest.
    pub done: Vec<BackupRef>,
    /// Their manifests were for the right ones already.
    pub already: Vec<BackupLabel>,
    /// They have changed just now, or go.
    pub changed: Vec<BackupLabel>,
}

impl Branch {
    /// The backups whose manifests are not for those who are to read them now. Clear headers are good enough for that.
    ///
    /// # Errors
    /// The store failed, or nothing is encrypted here.
    pub async fn to_rekey(&self) -> Result<(Vec<BackupRef>, Vec<BackupLabel>)> {
        let wanted = self.sealing()?.fingerprint(Audience::Metadata);
        if wanted.is_none() {
            return Err(Error::invalid(
                self.root(),
                "it is not encrypted, so there is nothing to encrypt anew",
            ));
        }
        let (mut due, mut already) = (Vec::new(), Vec::new());
        for backup in self.backups().await? {
            match self.peek(Kind::Manifest, &backup.key()).await?.recipients == wanted {
                true => already.push(backup.label),
                false => due.push(backup),
            }
        }
        Ok((due, already))
    }

    /// Gives each backup a manifest for those who are to read it now. Cut off, it goes on the next time where it was.
    ///
    /// # Errors
    /// The store failed, or no identity opens a manifest: those before it are done.
    pub async fn rekey(&self, grace: std::time::Duration, each: impl Fn(&BackupRef)) -> Result<Rekeyed> {
        let (due, already) = self.to_rekey().await?;
        let mut rekeyed = Rekeyed { already, ..Rekeyed::default() };
        for backup in due {
            let manifest = self.read_manifest(&backup).await?;
            match self.put_next_manifest(&backup, &manifest).await? {
                Some(next) => {
                    each(&next);
                    rekeyed.done.push(next);
                }
                None => rekeyed.changed.push(backup.label),
            }
        }
        // Whether or not a manifest was due: a run before this one may have been cut off here.
        let wanted = self.sealing()?.fingerprint(Audience::Metadata);
        self.renew_marks(grace, wanted.as_deref()).await?;
        Box::pin(self.renew_condemned(wanted.as_deref())).await?;
        Ok(rekeyed)
    }
}
