//! Dumps that have begun, and what makes them exist.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Contents, DumpLabel, Member, contents_key, folder, is_whole};
use crate::{Branch, Error, Key, Kind, ObjectInfo, Result, WriterId};

/// Who takes a dump: written before anything else of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DumpIntent {
    /// The dump's label.
    pub label: DumpLabel,
    /// The host that it runs on.
    pub host: String,
    /// The process there.
    pub pid: u32,
    /// The writer that it writes as.
    pub writer: WriterId,
    /// By that host's clock.
    pub started_at: Timestamp,
}

impl Branch {
    /// A label that is later than that of any dump which has begun.
    pub async fn next_dump(&self, now: Timestamp) -> Result<DumpLabel> {
        Ok(DumpLabel::next(now, self.dump_objects().await?.keys().next_back()))
    }

    /// Makes known that a dump begins. From now on [`Branch::dump_heartbeat`] is due every minute.
    pub async fn begin_dump(&self, intent: &DumpIntent) -> Result<()> {
        let name = folder().child(&intent.label).child("intent");
        let json = serde_json::to_vec(intent).map_err(|error| Error::invalid("the dump's intent", error))?;
        self.put_sealed(self.header(Kind::Intent, &name), json.into()).await?;
        Ok(())
    }

    /// A sign of life of a running dump.
    pub async fn dump_heartbeat(&self, label: &DumpLabel) -> Result<()> {
        self.sign_of_life(&folder().child(label)).await
    }

    /// Takes back what a dump has left that is not taken after all. Whoever may not delete leaves it: `expire` sweeps it.
    pub async fn withdraw_dump(&self, label: &DumpLabel) -> Result<()> {
        let objects = self.store().list(&self.key(&folder().child(label))).await?;
        let member = |object: &ObjectInfo| Member::parse(object.key.name());
        if objects.iter().any(|object| member(object) == Member::Contents) {
            return Err(Error::invalid(format_args!("dump {label}"), "it is complete"));
        }
        // The intent last: without it the rest would be nobody's.
        let (intent, rest): (Vec<_>, Vec<_>) = objects.iter().partition(|o| member(o) == Member::Intent);
        for object in rest.into_iter().filter(|o| member(o) != Member::Stray).chain(intent) {
            self.store().delete(&object.key).await?;
        }
        Ok(())
    }

    /// Stores what a dump holds: from then on the dump exists.
    ///
    /// All its files must be durable before, and the store is asked whether it still has them, with the right lengths.
    ///
    /// # Errors
    /// [`Error::Absent`] or [`Error::Corrupt`] if the store does not have what is named; [`Error::Invalid`] if the dump is
    /// complete already, or its contents could not be read again.
    pub async fn put_dump(&self, contents: &Contents) -> Result<()> {
        let (label, name) = (&contents.label, contents_key(&contents.label));
        let key = self.key(&name);
        let json = serde_json::to_vec(contents).map_err(|error| Error::invalid(&key, error))?;
        if Contents::parse(&json, &key)? != *contents {
            return Err(Error::invalid(&key, "it would not be read as it is written"));
        }
        let listed = self.store().list(&self.key(&folder().child(label))).await?;
        if listed.iter().any(|object| Member::parse(object.key.name()) == Member::Contents) {
            return Err(Error::invalid(format_args!("dump {label}"), "it is complete already"));
        }
        let sizes: BTreeMap<&str, u64> = listed.iter().map(|o| (o.key.name(), o.size)).collect();
        for file in contents.files() {
            let object = self.key(&folder().child(label).child(&file.object));
            match sizes.get(file.object.as_str()) {
                Some(size) if *size == file.stored_bytes => {}
                Some(size) => {
                    let why = format!("it has {size} bytes instead of {}", file.stored_bytes);
                    return Err(Error::corrupt(object, why));
                }
                None => return Err(Error::Absent { what: format!("object {object}") }),
            }
        }
        // The commit. Before this line the dump is a leftover; when it returns the dump is durable and whole.
        self.put_sealed(self.header(Kind::Dump, &name), json.into()).await?;
        Ok(())
    }

    /// Dumps that have begun and are not complete, oldest first: running ones and leftovers, with their last sign of life by
    /// the store's clock.
    pub async fn unfinished_dumps(&self) -> Result<Vec<(DumpLabel, Timestamp)>> {
        let found = self.dump_objects().await?.into_iter().filter(|(_, members)| !is_whole(members));
        let last = |members: Vec<(Member, ObjectInfo)>| members.iter().map(|(_, o)| o.modified).max();
        Ok(found.filter_map(|(label, members)| Some((label, last(members)?))).collect())
    }

    /// The key below the branch of a dump's object.
    pub(super) fn dump_object(&self, label: &DumpLabel, object: &super::FileName) -> Key {
        super::object_key(label, object)
    }
}
