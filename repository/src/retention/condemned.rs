//! What is going to be deleted, and since when that is known: one object below `condemned/`, the newest counts.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::backup::BackupRef;
use crate::error::OrAbsent;
use crate::{Branch, Error, Key, Kind, ObjectInfo, Result};

/// Ten million keys; a record is short where it is read often.
const LONGEST: u64 = 1 << 30;

/// The keys of objects, below the branch, with the time by the store's clock since when they are condemned.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Condemned {
    /// By key.
    pub since: BTreeMap<Key, Timestamp>,
}

impl Condemned {
    /// Since when nobody may begin to use that backup any more: its manifest that counts is among the condemned. An
    /// older one may be there without harm, since it goes alone.
    pub fn backup(&self, backup: &BackupRef) -> Option<Timestamp> {
        self.since.get(&backup.key()).copied()
    }
}

/// Where the records lie.
pub(super) fn folder() -> Key {
    Key::root().child("condemned")
}

/// A new name there. The time makes it readable, the random part unique; what counts is the store's own time.
pub(super) fn new_name(what: &str) -> Key {
    let time = Timestamp::now().strftime("%Y%m%dT%H%M%S%3fZ");
    folder().child(format_args!("{what}-{time}-{:016x}", rand::random::<u64>()))
}

const RECORD: &str = "record";

/// Whether this object is a record, by its name.
fn is_record(object: &ObjectInfo) -> bool {
    object.key.name().starts_with("record-")
}

impl Branch {
    /// What `expire` has condemned; empty where it never ran.
    pub async fn condemned(&self) -> Result<Condemned> {
        // A record goes when a newer one is there, perhaps just now.
        let mut vanished = None;
        for _ in 0..3 {
            let Some(newest) = self.newest_record().await? else { return Ok(Condemned::default()) };
            let name = Key::new(newest.key.below(self.root()).unwrap_or_default())?;
            if let Some((_, json)) = self.get_sealed(Kind::Condemned, &name, LONGEST).await.or_absent()? {
                return serde_json::from_slice(&json).map_err(|error| Error::corrupt(&newest.key, error));
            }
            vanished = Some(newest.key);
        }
        Err(Error::Unreachable {
            what: format!("the record of what is condemned in {}", self.store().description()),
            why: format!("it changed each time it was read; {} went last", vanished.unwrap_or_default()),
        })
    }

    async fn newest_record(&self) -> Result<Option<ObjectInfo>> {
        let records = self.store().list_folder(&self.key(&folder())).await?.objects;
        Ok(records.into_iter().filter(is_record).max_by_key(|o| (o.modified, o.key.clone())))
    }

    /// Writes the record that counts once more, unless it is for the readers with the fingerprint `wanted` already.
    pub(crate) async fn renew_condemned(&self, wanted: Option<&str>) -> Result<()> {
        let Some(newest) = self.newest_record().await? else { return Ok(()) };
        let name = Key::new(newest.key.below(self.root()).unwrap_or_default())?;
        match self.peek(Kind::Condemned, &name).await.or_absent()? {
            Some(header) if header.recipients.as_deref() != wanted => {}
            // It is for the right ones, or a newer one has taken its place.
            _ => return Ok(()),
        }
        let condemned = self.condemned().await?;
        // A run of `expire` that has written one meanwhile knows better, and has written for the present readers.
        match self.newest_record().await? {
            Some(now) if now.key == newest.key => self.put_condemned(&condemned).await,
            _ => Ok(()),
        }
    }

    /// Makes `condemned` the record that counts. It is durable when this returns.
    pub(crate) async fn put_condemned(&self, condemned: &Condemned) -> Result<()> {
        let name = new_name(RECORD);
        let json = serde_json::to_vec(condemned).map_err(|error| Error::invalid(&name, error))?;
        self.put_sealed(self.header(Kind::Condemned, &name), json.into()).await?;
        Ok(())
    }
}
