//! Backups that are kept because somebody said so: `backup/<label>/keep-<time>`, the newest counts.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::backup::{BackupLabel, Member, folder, parse_member};
use crate::error::OrAbsent;
use crate::{Branch, Error, Key, Kind, ObjectInfo, Result};

const LONGEST: u64 = 4096;

/// For how long a backup is kept, whatever the policy says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Keep {
    /// Until when, by the store's clock; `None`: for ever.
    pub until: Option<Timestamp>,
}

impl Keep {
    /// Whether it still counts.
    pub fn holds(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// Why a backup cannot be kept.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeepError {
    /// The repository.
    #[error(transparent)]
    Repository(#[from] Error),
    /// It may be deleted at any moment.
    #[error("backup {label} is condemned since {since}, and may be deleted at any moment")]
    TooLate {
        /// Which.
        label: BackupLabel,
        /// By the store's clock.
        since: Timestamp,
    },
}

impl Branch {
    /// Marks a whole backup as one to keep. A mark made later replaces this one, so one that ends now releases the
    /// backup, without any right to delete.
    ///
    /// # Errors
    /// [`Error::Absent`] if there is no such backup; [`KeepError::TooLate`] if it is condemned for longer than `grace`.
    pub async fn keep_backup(
        &self,
        label: &BackupLabel,
        keep: Keep,
        grace: std::time::Duration,
    ) -> Result<(), KeepError> {
        let backup = self.backup(label).await?;
        let time = Timestamp::now().strftime("%Y%m%dT%H%M%S%3fZ");
        let name = folder().child(label).child(format_args!("keep-{time}"));
        let json = serde_json::to_vec(&keep).map_err(|error| Error::invalid(&name, error))?;
        self.put_sealed(self.header(Kind::Keep, &name), json.into()).await?;
        // A run of `expire` that begins from now on sees the mark. One that began before deletes only what was due
        // then. So the backup is safe if it is not due by the store's present time, which is the mark's own.
        let now = self.store().head(&self.key(&name)).await?.modified;
        match self.condemned().await?.backup(&backup) {
            Some(since) if is_due(since, now, grace) => {
                Err(KeepError::TooLate { label: label.clone(), since })
            }
            _ => Ok(()),
        }
    }

    /// The objects with marks.
    async fn marks(&self, lie_in: &Key) -> Result<BTreeMap<BackupLabel, Vec<ObjectInfo>>> {
        let mut marks: BTreeMap<BackupLabel, Vec<ObjectInfo>> = BTreeMap::new();
        for object in self.store().list(&self.key(lie_in)).await? {
            let name = object.key.below(self.root()).and_then(|name| Key::new(name).ok());
            if let Some((label, Member::Keep)) = name.as_ref().and_then(parse_member) {
                marks.entry(label).or_default().push(object);
            }
        }
        Ok(marks)
    }

    /// Writes each mark that counts once more, unless it is for the readers with the fingerprint `wanted` already.
    pub(crate) async fn renew_marks(&self, grace: std::time::Duration, wanted: Option<&str>) -> Result<()> {
        for (label, marks) in self.marks(&folder()).await? {
            let Some(counts) = newest(&marks) else { continue };
            let name = Key::new(counts.key.below(self.root()).unwrap_or_default())?;
            let Some(header) = self.peek(Kind::Keep, &name).await.or_absent()? else { continue };
            if header.recipients.as_deref() == wanted {
                continue;
            }
            let Some(keep) = self.read_keep(&marks).await? else { continue };
            // Whoever has marked it meanwhile knows better, and has written for the present readers.
            let now = self.marks(&folder().child(&label)).await?.remove(&label).unwrap_or_default();
            if newest(&now).map(|mark| &mark.key) != Some(&counts.key) {
                continue;
            }
            match self.keep_backup(&label, keep, grace).await {
                // It goes, or went.
                Ok(()) | Err(KeepError::TooLate { .. } | KeepError::Repository(Error::Absent { .. })) => {}
                Err(KeepError::Repository(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// The mark that counts among the objects of a backup's folder.
    pub(crate) async fn read_keep(&self, marks: &[ObjectInfo]) -> Result<Option<Keep>> {
        let Some(newest) = newest(marks) else { return Ok(None) };
        let name = Key::new(newest.key.below(self.root()).unwrap_or_default())?;
        let Some((_, json)) = self.get_sealed(Kind::Keep, &name, LONGEST).await.or_absent()? else {
            return Ok(None);
        };
        serde_json::from_slice(&json).map(Some).map_err(|error| Error::corrupt(&newest.key, error))
    }
}

/// The mark that counts.
fn newest(marks: &[ObjectInfo]) -> Option<&ObjectInfo> {
    marks.iter().max_by_key(|mark| (mark.modified, &mark.key))
}

/// Whether what is condemned since then may be deleted.
pub(super) fn is_due(since: Timestamp, now: Timestamp, grace: std::time::Duration) -> bool {
    let waited = now.duration_since(since);
    !waited.is_negative() && waited.unsigned_abs() >= grace
}
