//! Re-reads a repository: is everything there that is needed to restore, and is it what was written?
//!
//! Quick: by names and sizes, manifests read whole. Deep: every byte of packs and WAL, against its digest.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Mutex;

use futures::{StreamExt, TryStreamExt, stream};
use proto::config::UploadRate;
use proto::wal::{SegmentName, WalFile};
use proto::{Lsn, TimelineId};

use crate::backup::{BackupLabel, folder};
use crate::catalogue::{BrokenHistory, Gap, Inventory};
use crate::dump::{DumpFile, DumpLabel, Dumps, read_through};
use crate::manifest::ManifestHead;
use crate::pack::{Pace, PackEntry, PackReader, pack_key};
use crate::wal::segment_key;
use crate::{Branch, Error, FragmentName, JournalName, Key, Result};

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// What it is.
    pub kind: TroubleKind,
    /// The object, where it is one that is missing or has another length.
    pub object: Option<Key>,
    /// What was found, in one sentence.
    pub message: String,
    /// Backups that cannot be restored because of it.
    pub backups: BTreeSet<BackupLabel>,
    /// WAL that cannot be replayed because of it.
    pub wal: Option<(TimelineId, Range<Lsn>)>,
}

/// The kinds of trouble.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TroubleKind {
    /// A manifest cannot be used.
    Manifest,
    /// No identity at hand opens a manifest: nothing is known of its backup.
    Locked,
    /// No identity at hand opens some objects: nobody has read them.
    Closed,
    /// A pack is missing, or has another length than its manifest says.
    Pack,
    /// The server's own manifest is missing: nothing needs it but the next incremental backup.
    ServerManifest,
    /// Digests of blocks are damaged: nothing needs them but the next incremental backup.
    BlockDigests,
    /// A backup lacks WAL that makes it consistent.
    BackupWal,
    /// WAL is missing.
    Gap,
    /// A segment is damaged.
    Segment,
    /// A segment is stored with two contents.
    Conflict,
    /// A fragment or journal of the newest WAL is damaged.
    Fragment,
    /// A history file cannot be relied on.
    History,
    /// A `.partial` or `.backup` file is damaged: no restore needs it.
    SmallFile,
    /// An object among the WAL that is none of ours.
    Stray,
    /// A dump cannot be brought back, or a part of it.
    Dump,
}

/// What a branch holds, and what a quick look at it has found.
#[derive(Debug)]
pub struct Audit {
    /// Backups and WAL.
    pub inventory: Inventory,
    /// The packs that are named, each with the backups that name it.
    pub packs: BTreeMap<String, (PackEntry, BTreeSet<BackupLabel>)>,
    /// Logical backups.
    pub dumps: Dumps,
    /// What is not as it should be.
    pub troubles: Vec<Trouble>,
}

/// What a deep look reads.
enum Item {
    Pack(PackEntry, BTreeSet<BackupLabel>),
    BlockDigests(PackEntry),
    Segment(SegmentName),
    Fragment(FragmentName),
    /// Of a segment that is there whole.
    Journal(JournalName),
    File(WalFile),
    ServerManifest(Box<ManifestHead>),
    DumpFile(DumpLabel, DumpFile),
}

impl Audit {
    /// Reads the manifests, and compares what they name with what there is.
    ///
    /// # Errors
    /// The store failed: then nothing is known.
    pub async fn quick(branch: &Branch) -> Result<Self> {
        let inventory = Inventory::load(branch).await?;
        let dumps = Dumps::load(branch).await?;
        let mut audit = Self { inventory, packs: BTreeMap::new(), dumps, troubles: Vec::new() };
        audit.manifests(branch).await?;
        audit.sizes(branch).await?;
        audit.wal(branch);
        audit.dumps(branch).await?;
        Ok(audit)
    }

    async fn dumps(&mut self, branch: &Branch) -> Result<()> {
        for (label, error) in &self.dumps.unreadable {
            let kind = match error {
                Error::Locked { .. } => TroubleKind::Locked,
                _ => TroubleKind::Dump,
            };
            self.troubles.push(without_harm(kind, format!("dump {label}: {error}")));
        }
        for (label, key, why) in self.dumps.missing(branch).await? {
            let missing = without_harm(TroubleKind::Dump, format!("dump {label}: {why}"));
            self.troubles.push(Trouble { object: Some(key), ..missing });
        }
        Ok(())
    }

    async fn manifests(&mut self, branch: &Branch) -> Result<()> {
        for backup in &self.inventory.unreadable {
            self.troubles.push(unreadable(&backup.label, &backup.error));
        }
        let read = stream::iter(branch.backups().await?)
            .map(async |backup| (branch.read_packs(&backup).await, backup.label))
            .buffered(branch.store().concurrency());
        let read: Vec<_> = read.collect().await;
        for (packs, label) in read {
            match packs {
                Ok(packs) => {
                    for pack in packs {
                        let named = self.packs.entry(pack.name().to_string());
                        named.or_insert((pack, BTreeSet::new())).1.insert(label.clone());
                    }
                }
                // Removed since it was listed.
                Err(Error::Absent { .. }) => {}
                Err(error) if is_damage(&error) || matches!(error, Error::Locked { .. }) => {
                    if !self.inventory.unreadable.iter().any(|backup| backup.label == label) {
                        self.troubles.push(unreadable(&label, &error));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn sizes(&mut self, branch: &Branch) -> Result<()> {
        let listed = branch.store().list(&branch.key(&Key::root().child(crate::pack::FOLDER))).await?;
        let sizes: BTreeMap<Key, u64> = listed.into_iter().map(|object| (object.key, object.size)).collect();
        for (pack, backups) in self.packs.values() {
            let key = branch.key(&pack_key(pack.name()));
            let message = match sizes.get(&key) {
                Some(size) if *size == pack.stored_length() => continue,
                Some(size) => format!("pack {key} has {size} bytes instead of {}", pack.stored_length()),
                None => format!("pack {key} does not exist"),
            };
            let pack = Trouble { backups: backups.clone(), ..without_harm(TroubleKind::Pack, message) };
            self.troubles.push(Trouble { object: Some(key), ..pack });
        }
        let listed = branch.store().list(&branch.key(&folder())).await?;
        let names: BTreeSet<Key> = listed.into_iter().map(|object| object.key).collect();
        for head in &self.inventory.backups {
            let Some(name) = &head.server_manifest else { continue };
            let key = branch.key(&folder().child(&head.label).child(name));
            if !names.contains(&key) {
                let missing = without_harm(TroubleKind::ServerManifest, format!("{key} does not exist"));
                self.troubles.push(Trouble { object: Some(key), ..missing });
            }
        }
        Ok(())
    }

    fn wal(&mut self, branch: &Branch) {
        let inventory = &self.inventory;
        let mut troubles = Vec::new();
        for head in &inventory.backups {
            if inventory.reach(head, &inventory.lineage(head.stop_timeline)).is_none() {
                let why = format!("WAL between {} and {} is missing", head.start_lsn, head.stop_lsn);
                troubles.push(of_backup(TroubleKind::BackupWal, &head.label, why));
            }
        }
        for Gap { timeline, from_lsn, to_lsn } in inventory.gaps() {
            let message = format!("WAL of timeline {timeline} from {from_lsn} to {to_lsn} is missing");
            let wal = Some((timeline, from_lsn..to_lsn));
            troubles.push(Trouble { wal, ..without_harm(TroubleKind::Gap, message) });
        }
        let size = inventory.segment_size();
        for wal in inventory.wal.timelines.values() {
            for (name, digests) in wal.segments.iter().filter(|(_, digests)| digests.len() > 1) {
                let keys = digests.iter().map(|digest| branch.key(&segment_key(*name, *digest)).to_string());
                let keys = keys.collect::<Vec<_>>().join(", ");
                let message = format!("segment {name} is stored with different contents: {keys}");
                let number = name.number(size).ok();
                let wal = number.map(|number| (name.timeline, number.start(size)..number.end(size)));
                let backups = self.needing(wal.as_ref());
                troubles.push(Trouble { backups, wal, ..without_harm(TroubleKind::Conflict, message) });
            }
        }
        for timeline in inventory.timelines() {
            if let Err(why @ (BrokenHistory::Damaged | BrokenHistory::Contradictory)) =
                inventory.certain_lineage(timeline)
            {
                troubles.push(without_harm(TroubleKind::History, format!("timeline {timeline}: {why}")));
            }
        }
        for key in &inventory.wal.strays {
            let message = format!("object {key} lies among the WAL, and is none of walkeep's");
            troubles.push(Trouble { object: Some(key.clone()), ..without_harm(TroubleKind::Stray, message) });
        }
        self.troubles.extend(troubles);
    }

    /// Bytes that [`Audit::deep`] is going to read, about.
    pub fn deep_bytes(&self) -> u64 {
        let size = self.inventory.segment_size().bytes();
        let packs: u64 = self.packs.values().map(|(pack, _)| pack.raw_length()).sum();
        let wal = self.inventory.wal.timelines.values();
        let wal = wal.map(|wal| {
            let fragments = wal.fragments.iter().map(|fragment| u64::from(fragment.to - fragment.from));
            wal.segments.len() as u64 * size + fragments.sum::<u64>()
        });
        packs + wal.sum::<u64>() + self.dumps.whole.iter().map(|dump| dump.size_bytes()).sum::<u64>()
    }

    /// Reads every byte of what the quick look has found to be there, no more of them in a second than `rate` allows,
    /// counted uncompressed. `done` hears of bytes that were read.
    ///
    /// # Errors
    /// The store failed: then not everything was read.
    pub async fn deep(
        &self,
        branch: &Branch,
        rate: Option<UploadRate>,
        done: impl Fn(u64) + Send + Sync,
    ) -> Result<Vec<Trouble>> {
        let pace = Mutex::new(Pace::new(rate));
        let missing: BTreeSet<&Key> =
            self.troubles.iter().filter_map(|trouble| trouble.object.as_ref()).collect();
        let is_there = |pack: &PackEntry| !missing.contains(&branch.key(&pack_key(pack.name())));
        let packs = self.packs.values().filter(|(pack, _)| is_there(pack));
        let mut items: Vec<Item> = Vec::new();
        for (pack, backups) in packs {
            items.push(Item::Pack(pack.clone(), backups.clone()));
            items.push(Item::BlockDigests(pack.clone()));
        }
        for wal in self.inventory.wal.timelines.values() {
            let settled = wal.segments.iter().filter(|(_, digests)| digests.len() == 1);
            items.extend(settled.map(|(name, _)| Item::Segment(*name)));
            items.extend(wal.fragments.iter().map(|fragment| Item::Fragment(*fragment)));
            let whole = |journal: &&JournalName| wal.segments.contains_key(&journal.segment);
            items.extend(wal.journals.iter().filter(whole).map(|journal| Item::Journal(*journal)));
            items.extend(wal.files.keys().map(|file| Item::File(*file)));
        }
        let with_manifest = self.inventory.backups.iter().filter(|head| head.server_manifest.is_some());
        items.extend(with_manifest.map(|head| Item::ServerManifest(Box::new(head.clone()))));
        for dump in &self.dumps.whole {
            let is_there = |file: &&DumpFile| {
                let key = crate::dump::folder().child(&dump.label).child(&file.object);
                !missing.contains(&branch.key(&key))
            };
            let files = dump.files().filter(is_there);
            items.extend(files.map(|file| Item::DumpFile(dump.label.clone(), file.clone())));
        }
        let found: Vec<Option<Trouble>> = stream::iter(items)
            .map(async |item| self.look(branch, item, &pace, &done).await)
            .buffered(branch.store().concurrency())
            .try_collect()
            .await?;
        let (closed, mut found): (Vec<_>, Vec<_>) =
            found.into_iter().flatten().partition(|trouble| trouble.kind == TroubleKind::Closed);
        if let Some(first) = closed.first() {
            let message = format!("{} objects were not read, such as this: {}", closed.len(), first.message);
            found.push(without_harm(TroubleKind::Closed, message));
        }
        Ok(found)
    }

    async fn look(
        &self,
        branch: &Branch,
        item: Item,
        pace: &Mutex<Pace>,
        done: &(impl Fn(u64) + Sync),
    ) -> Result<Option<Trouble>> {
        let size = self.inventory.segment_size();
        let outcome = match &item {
            Item::Pack(pack, _) => read_pack(branch, pack, pace, done).await,
            Item::BlockDigests(pack) => branch.read_pack_blocks(pack.name()).await.map(|_| ()),
            Item::Segment(name) => {
                Pace::pass_shared(pace, size.bytes() as usize).await;
                let read = branch.read_segment_to(*name, std::io::sink()).await;
                read.map(done)
            }
            Item::Fragment(fragment) => {
                Pace::pass_shared(pace, (fragment.to - fragment.from) as usize).await;
                let read = branch.read_fragment(fragment).await;
                read.map(|content| done(content.len() as u64))
            }
            Item::Journal(journal) => read_journal(branch, *journal, done).await,
            Item::File(file) => branch.read_wal_file(*file).await.map(|_| ()),
            Item::ServerManifest(head) => branch.read_server_manifest(head).await.map(|_| ()),
            Item::DumpFile(label, file) => read_through(branch, label, file, pace, done).await,
        };
        let error = match outcome {
            Ok(()) => return Ok(None),
            Err(error) if is_damage(&error) => error,
            Err(error @ Error::Locked { .. }) => {
                return Ok(Some(without_harm(TroubleKind::Closed, error.to_string())));
            }
            // `expire` has removed it since it was listed, as it removes fragments of whole segments.
            Err(Error::Absent { .. })
                if !matches!(item, Item::Pack(..) | Item::Segment(_) | Item::DumpFile(..)) =>
            {
                return Ok(None);
            }
            Err(error @ Error::Absent { .. }) => error,
            Err(error) => return Err(error),
        };
        let message = error.to_string();
        let wal = |kind, name: SegmentName, bytes: Range<u64>| {
            let start = name.number(size).ok().map(|number| number.start(size));
            let wal = start.map(|start| (name.timeline, start + bytes.start..start + bytes.end));
            Trouble { backups: self.needing(wal.as_ref()), wal, ..without_harm(kind, message.clone()) }
        };
        Ok(Some(match item {
            Item::Pack(_, backups) => Trouble { backups, ..without_harm(TroubleKind::Pack, message) },
            Item::BlockDigests(_) => without_harm(TroubleKind::BlockDigests, message),
            Item::Segment(name) => wal(TroubleKind::Segment, name, 0..size.bytes()),
            Item::Fragment(fragment) => {
                let bytes = u64::from(fragment.from)..u64::from(fragment.to);
                let whole = self.inventory.wal.timelines.get(&fragment.segment.timeline);
                match whole.is_some_and(|wal| wal.segments.contains_key(&fragment.segment)) {
                    true => without_harm(TroubleKind::Fragment, message),
                    false => wal(TroubleKind::Fragment, fragment.segment, bytes),
                }
            }
            Item::Journal(_) => without_harm(TroubleKind::Fragment, message),
            Item::File(_) => without_harm(TroubleKind::SmallFile, message),
            Item::ServerManifest(_) => without_harm(TroubleKind::ServerManifest, message),
            Item::DumpFile(label, _) => without_harm(TroubleKind::Dump, format!("dump {label}: {message}")),
        }))
    }

    /// Backups that are not consistent without this WAL.
    fn needing(&self, wal: Option<&(TimelineId, Range<Lsn>)>) -> BTreeSet<BackupLabel> {
        let Some((timeline, bytes)) = wal else { return BTreeSet::new() };
        let needing = self.inventory.backups.iter().filter(|head| {
            let on_it = head.timeline == *timeline || head.stop_timeline == *timeline;
            on_it && head.start_lsn < bytes.end && bytes.start < head.stop_lsn
        });
        needing.map(|head| head.label.clone()).collect()
    }
}

async fn read_pack(branch: &Branch, pack: &PackEntry, pace: &Mutex<Pace>, done: &impl Fn(u64)) -> Result<()> {
    let whole = (pack.raw_length() > 0).then_some(0..pack.raw_length());
    let mut pieces = PackReader::read(branch, pack, whole.as_slice(), 1).await?;
    while let Some((_, piece)) = pieces.try_next().await? {
        Pace::pass_shared(pace, piece.len()).await;
        done(piece.len() as u64);
    }
    Ok(())
}

async fn read_journal(branch: &Branch, journal: JournalName, done: &impl Fn(u64)) -> Result<()> {
    if let Some(held) = branch.journal_fragment(journal).await? {
        done(branch.read_fragment(&held).await?.len() as u64);
    }
    Ok(())
}

/// Whether the object is at fault, and not the way to it.
pub(crate) fn is_damage(error: &Error) -> bool {
    matches!(
        error,
        Error::Corrupt { .. } | Error::Conflict { .. } | Error::Invalid { .. } | Error::Foreign { .. }
    )
}

fn of_backup(kind: TroubleKind, label: &BackupLabel, message: String) -> Trouble {
    Trouble { backups: BTreeSet::from([label.clone()]), ..without_harm(kind, message) }
}

/// Of a backup whose manifest cannot be read.
fn unreadable(label: &BackupLabel, error: &Error) -> Trouble {
    match error {
        Error::Locked { .. } => without_harm(TroubleKind::Locked, format!("backup {label}: {error}")),
        error => of_backup(TroubleKind::Manifest, label, error.to_string()),
    }
}

/// That costs no backup and no WAL, as far as is known here.
fn without_harm(kind: TroubleKind, message: String) -> Trouble {
    Trouble { kind, object: None, message, backups: BTreeSet::new(), wal: None }
}
