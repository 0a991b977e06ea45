//! What is there.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use proto::wal::SegmentName;

use super::condemned::{self, Condemned};
use super::keep::Keep;
use crate::backup::{BackupLabel, BackupRef, Generation, Member, SILENCE, parse_member};
use crate::catalogue::{Inventory, UnreadableBackup};
use crate::dump::{DumpLabel, Dumps};
use crate::pack::PackName;
use crate::store::Leftover;
use crate::{Branch, Error, Key, Kind, ObjectInfo, Result};

/// All that decides what may go.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The store's clock when it began.
    pub now: Timestamp,
    /// The branch's objects, with keys below the branch. Only these can be removed, and the next.
    pub objects: Vec<ObjectInfo>,
    /// What interrupted uploads have left, and uploads under way have written so far. A directory has such files.
    pub uploads: Vec<Leftover>,
    /// All backups, the condemned ones too, and all WAL. Listed after `objects`, so whatever is young is known to be there.
    pub inventory: Inventory,
    /// The generation of each readable backup's manifest that counts.
    pub generations: BTreeMap<BackupLabel, Generation>,
    /// The packs that each readable backup names, with their lengths in the store.
    pub packs: BTreeMap<BackupLabel, BTreeMap<PackName, u64>>,
    /// Backups that are kept because somebody said so.
    pub keeps: BTreeMap<BackupLabel, Keep>,
    /// Running backups, with those that they are compared with.
    pub running: BTreeMap<BackupLabel, Option<BackupLabel>>,
    /// The packs that older generations name of backups which running ones are compared with; `None` if that cannot be
    /// told. Such a backup may have begun with an older one, and will name its packs.
    pub older: BTreeMap<BackupRef, Option<BTreeSet<PackName>>>,
    /// All logical backups, the condemned ones too. Listed after `objects`.
    pub dumps: Dumps,
    /// Logical backups that somebody is at work on.
    pub running_dumps: BTreeSet<DumpLabel>,
    /// What earlier runs have condemned.
    pub condemned: Condemned,
}

impl Survey {
    /// Looks at everything. Writes one object to learn the store's time.
    pub async fn make(branch: &Branch) -> Result<Self> {
        Self::make_at(branch, branch.store_time().await?).await
    }

    /// Looks at everything, with the time of some other clock: good enough for a dry run, which writes nothing.
    pub async fn make_at(branch: &Branch, now: Timestamp) -> Result<Self> {
        let listed = branch.store().list(branch.root()).await?;
        let below = |object: ObjectInfo| {
            let key = Key::new(object.key.below(branch.root())?).ok()?;
            Some(ObjectInfo { key, ..object })
        };
        let objects: Vec<ObjectInfo> = listed.into_iter().filter_map(below).collect();
        let uploads = branch.store().leftovers(branch.root()).await?;
        let condemned = branch.condemned().await?;
        let mut running = BTreeMap::new();
        for backup in branch.unfinished_backups().await?.into_iter().filter(|b| b.is_running(now)) {
            let intent = branch.read_intent(&backup.label).await?;
            running.insert(backup.label, intent.and_then(|intent| intent.parent));
        }
        let is_running = |at: Timestamp| now.duration_since(at).as_secs() < SILENCE.as_secs() as i64;
        let unfinished = branch.unfinished_dumps().await?.into_iter();
        let running_dumps = unfinished.filter(|(_, at)| is_running(*at)).map(|(label, _)| label).collect();
        let dumps = Dumps::of(branch, branch.all_dumps().await?).await?;
        // After the running ones: one that is finished meanwhile is among these.
        let backups = branch.all_backups().await?;
        let generations: BTreeMap<BackupLabel, Generation> =
            backups.iter().map(|backup| (backup.label.clone(), backup.generation)).collect();
        let mut inventory = Inventory::of(branch, backups.clone()).await?;
        let found: Vec<_> = stream::iter(backups)
            .map(|backup| async move { packs_of(branch, backup).await })
            .buffered(branch.store().concurrency())
            .try_collect()
            .await?;
        let mut packs = BTreeMap::new();
        for found in found {
            match found {
                Ok((label, named)) => drop(packs.insert(label, named)),
                // The head alone looked well. A backup of which only the head can be read is none to rely on.
                Err(backup) => {
                    inventory.backups.retain(|head| head.label != backup.label);
                    if !inventory.unreadable.iter().any(|known| known.label == backup.label) {
                        inventory.unreadable.push(backup);
                    }
                }
            }
        }
        let parents: BTreeSet<&BackupLabel> = running.values().flatten().collect();
        let mut older = BTreeMap::new();
        for object in &objects {
            let Some((label, Member::Manifest { generation })) = parse_member(&object.key) else { continue };
            if parents.contains(&label) && generations.get(&label) > Some(&generation) {
                let backup = BackupRef { label, generation };
                let named = packs_of(branch, backup.clone()).await?;
                older.insert(backup, named.ok().map(|(_, packs)| packs.into_keys().collect()));
            }
        }
        let mut marks: BTreeMap<BackupLabel, Vec<ObjectInfo>> = BTreeMap::new();
        for object in branch.store().list(&branch.key(&crate::backup::folder())).await? {
            let name = object.key.below(branch.root()).and_then(|name| Key::new(name).ok());
            if let Some((label, Member::Keep)) = name.as_ref().and_then(parse_member) {
                marks.entry(label).or_default().push(object);
            }
        }
        let mut keeps = BTreeMap::new();
        for (label, marks) in marks {
            keeps.extend(branch.read_keep(&marks).await?.map(|keep| (label, keep)));
        }
        Ok(Self {
            now,
            objects,
            uploads,
            inventory,
            generations,
            packs,
            keeps,
            running,
            older,
            dumps,
            running_dumps,
            condemned,
        })
    }

    /// Backups without a manifest: those that somebody is at work on, and those that were cut off.
    pub(super) fn incomplete(&self) -> (BTreeSet<BackupLabel>, BTreeSet<BackupLabel>) {
        let mut last: BTreeMap<BackupLabel, Timestamp> = BTreeMap::new();
        for object in &self.objects {
            if let Some((label, _)) = parse_member(&object.key) {
                let last = last.entry(label).or_insert(object.modified);
                *last = object.modified.max(*last);
            }
        }
        let (mut at_work, mut cut_off): (BTreeSet<_>, _) =
            (self.running.keys().cloned().collect(), BTreeSet::new());
        for (label, last) in last {
            let is_silent = self.now.duration_since(last).as_secs() >= SILENCE.as_secs() as i64;
            if self.generations.contains_key(&label) || at_work.contains(&label) {
                continue;
            }
            if is_silent {
                cut_off.insert(label)
            } else {
                at_work.insert(label)
            };
        }
        (at_work, cut_off)
    }

    /// Whether a segment is stored whole, with one content.
    pub(super) fn is_whole(&self, name: SegmentName) -> bool {
        let wal = self.inventory.wal.timelines.get(&name.timeline);
        wal.and_then(|wal| wal.segments.get(&name)).is_some_and(|digests| digests.len() == 1)
    }

    /// When each backup was finished, by the store's clock: its first manifest was written then. Where that has gone, since
    /// another generation has replaced it, the server's own manifest tells, which was stored just before.
    pub(super) fn finished(&self) -> BTreeMap<BackupLabel, Timestamp> {
        let (mut first, mut later, mut beside) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for object in &self.objects {
            match parse_member(&object.key) {
                Some((label, Member::Manifest { generation: Generation::FIRST })) => {
                    first.insert(label, object.modified);
                }
                Some((label, Member::Manifest { .. })) => {
                    let earliest = later.entry(label).or_insert(object.modified);
                    *earliest = object.modified.min(*earliest);
                }
                Some((label, Member::ServerManifest)) => drop(beside.insert(label, object.modified)),
                _ => {}
            }
        }
        for (label, written) in later {
            let before = beside.get(&label).copied().unwrap_or(written);
            first.entry(label).or_insert(before.min(written));
        }
        first
    }

    /// Backups that name a pack which is not there, or not as long as it was.
    pub(super) fn without_packs(&self) -> BTreeSet<BackupLabel> {
        let sizes: BTreeMap<PackName, u64> = self
            .objects
            .iter()
            .filter(|object| object.key.below(&crate::pack::folder()).is_some())
            .filter_map(|object| Some((crate::pack::parse_key(&object.key)?, object.size)))
            .collect();
        let listed: BTreeSet<BackupLabel> =
            self.objects.iter().filter_map(|object| crate::backup::label_of_manifest(&object.key)).collect();
        let lacking = self.packs.iter().filter(|(label, packs)| {
            // Of one whose manifest came after the objects were listed, the packs need not be among them.
            listed.contains(*label) && packs.iter().any(|(name, size)| sizes.get(name) != Some(size))
        });
        lacking.map(|(label, _)| label.clone()).collect()
    }

    /// Why nobody can judge what may go; `None` if nothing speaks against it.
    pub(super) fn doubt(&self) -> Option<String> {
        let finished = self.finished();
        if let Some((label, at)) = finished.iter().find(|(_, at)| **at > self.now) {
            return Some(format!(
                "backup {label} was written at {at}, which is yet to come: the store's clock is wrong"
            ));
        }
        let mut heads: Vec<_> = self.inventory.backups.iter().collect();
        heads.sort_by_key(|head| (head.stop_timeline, head.stop_lsn));
        for pair in heads.windows(2) {
            let (earlier, later) = (finished.get(&pair[0].label), finished.get(&pair[1].label));
            let disagree = earlier.zip(later).is_some_and(|(earlier, later)| earlier > later);
            if pair[0].stop_timeline == pair[1].stop_timeline && disagree {
                return Some(format!(
                    "backup {} was written before backup {}, and ended after it: the store's times are not those of the backups",
                    pair[1].label, pair[0].label
                ));
            }
        }
        self.inventory.timelines().into_iter().find_map(|timeline| {
            let why = self.inventory.certain_lineage(timeline).err()?;
            Some(format!("nobody knows where timeline {timeline} came from: {why}"))
        })
    }
}

/// The outer error is the store's; the inner one says that the manifest cannot be used.
async fn packs_of(
    branch: &Branch,
    backup: BackupRef,
) -> Result<Result<(BackupLabel, BTreeMap<PackName, u64>), UnreadableBackup>> {
    match branch.read_packs(&backup).await {
        Ok(packs) => {
            let named = packs.into_iter().map(|pack| (pack.name().clone(), pack.stored_length()));
            Ok(Ok((backup.label, named.collect())))
        }
        Err(
            error @ (Error::Corrupt { .. }
            | Error::Locked { .. }
            | Error::Invalid { .. }
            | Error::Absent { .. }),
        ) => Ok(Err(UnreadableBackup { label: backup.label, error })),
        Err(error) => Err(error),
    }
}

impl Branch {
    /// The store's clock: when it says that an object was written just now. The object goes at once, or, where that is not
    /// allowed, with the next record.
    pub async fn store_time(&self) -> Result<Timestamp> {
        let name = condemned::new_name("clock");
        self.put_sealed(self.header(Kind::Alive, &name), Bytes::new()).await?;
        let key = self.key(&name);
        let now = self.store().head(&key).await?.modified;
        match self.store().delete(&key).await {
            Ok(()) | Err(Error::Refused { .. }) => Ok(now),
            Err(error) => Err(error),
        }
    }
}
