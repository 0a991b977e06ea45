//! Backups that have begun and are not complete: running ones, and what others have left.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BackupLabel, Member, folder, newest};
use crate::error::OrAbsent;
use crate::{Branch, Error, Key, Kind, ObjectInfo, Result, WriterId};

/// A backup that gave no sign of life for so long, by the store's clock, is taken for dead.
pub const SILENCE: Duration = Duration::from_secs(600);

/// Longest intent.
const MAX_INTENT: u64 = 64 << 10;

/// Who takes a backup: written before anything else of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Intent {
    /// The backup's label.
    pub label: BackupLabel,
    /// The backup that it will be compared with.
    pub parent: Option<BackupLabel>,
    /// The host that it runs on.
    pub host: String,
    /// The process there.
    pub pid: u32,
    /// The writer that it writes as.
    pub writer: WriterId,
    /// By that host's clock.
    pub started_at: Timestamp,
}

/// A backup that has begun and has no manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unfinished {
    /// Its label.
    pub label: BackupLabel,
    /// When it last gave a sign of life, by the store's clock.
    pub last_alive: Timestamp,
}

impl Unfinished {
    /// Whether it is still running at `now`, by the store's clock.
    pub fn is_running(&self, now: Timestamp) -> bool {
        now.duration_since(self.last_alive).as_secs() < SILENCE.as_secs() as i64
    }
}

impl Branch {
    /// Makes known that a backup begins. From now on [`Branch::heartbeat`] is due every minute.
    pub async fn begin_backup(&self, intent: &Intent) -> Result<()> {
        let name = folder().child(&intent.label).child("intent");
        let json =
            serde_json::to_vec(intent).map_err(|error| Error::invalid("the backup's intent", error))?;
        self.put_sealed(self.header(Kind::Intent, &name), json.into()).await?;
        Ok(())
    }

    /// A sign of life of a running backup.
    pub async fn heartbeat(&self, label: &BackupLabel) -> Result<()> {
        self.sign_of_life(&folder().child(label)).await
    }

    /// Writes `alive-<time>` into a folder, and removes those before it.
    pub(crate) async fn sign_of_life(&self, folder: &Key) -> Result<()> {
        // The time only makes the name new; what counts is when the store says that it was written.
        let name = folder.child(format_args!("alive-{}", Timestamp::now().strftime("%Y%m%dT%H%M%S%3fZ")));
        self.put_sealed(self.header(Kind::Alive, &name), Bytes::new()).await?;
        // The signs before this one have done their work. Whoever may not delete leaves them; `expire` sweeps
        // them.
        let current = self.key(&name);
        for sign in self.store().list_starting(&self.key(folder), "alive-").await? {
            if sign.key < current && self.store().delete(&sign.key).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Takes back what a backup has announced that is not taken after all. Whoever may not delete leaves it: it is a
    /// leftover then, which nobody takes for running before long.
    pub async fn withdraw_backup(&self, label: &BackupLabel) -> Result<()> {
        let backup = self.key(&folder().child(label));
        // The intent last: without it the rest would be nobody's.
        for starting in ["alive-", "intent"] {
            for object in self.store().list_starting(&backup, starting).await? {
                self.store().delete(&object.key).await?;
            }
        }
        Ok(())
    }

    /// Backups that have begun and have no manifest, oldest first: running ones and leftovers.
    pub async fn unfinished_backups(&self) -> Result<Vec<Unfinished>> {
        let found = self.backup_objects().await?;
        let unfinished = found.into_iter().filter(|(label, members)| newest(label, members).is_none());
        Ok(unfinished.filter_map(|(label, members)| last_sign(label, &members)).collect())
    }

    /// Who takes, or took, a backup; `None` if there is no intent.
    pub async fn read_intent(&self, label: &BackupLabel) -> Result<Option<Intent>> {
        let name = folder().child(label).child("intent");
        let Some((_, json)) = self.get_sealed(Kind::Intent, &name, MAX_INTENT).await.or_absent()? else {
            return Ok(None);
        };
        serde_json::from_slice(&json).map(Some).map_err(|error| Error::corrupt(self.key(&name), error))
    }
}

fn last_sign(label: BackupLabel, members: &[(Member, ObjectInfo)]) -> Option<Unfinished> {
    let signs = members.iter().filter(|(member, _)| matches!(member, Member::Intent | Member::Alive));
    let last_alive = signs.map(|(_, info)| info.modified).max()?;
    Some(Unfinished { label, last_alive })
}
