//! Packs of which little is needed are written anew, and every backup stays what it was.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use age::secrecy::ExposeSecret;
use age::x25519::Identity;
use bytes::Bytes;
use futures::TryStreamExt;
use proto::config::{CompressionConfig, EncryptionConfig, Retention};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use repository::backup::{BackupLabel, BackupRef};
use repository::manifest::{Entry, Manifest, SafePath};
use repository::pack::{BlockDigest, Extent, PackReader, PackWriter, push_extent};
use repository::retention::{Compacted, Compaction, Plan, Survey};
use repository::{Branch, Error, Sealing, Unsealing};
use support::{DAY, Deletions, TestStore, begin, branch_in, head, put_segments};

const BLOCK: usize = 8192;

/// The content of each file: numbers of blocks, from which their bytes follow.
type Files = BTreeMap<String, Vec<u64>>;

fn block(number: u64) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(number);
    let mut bytes = vec![0; BLOCK];
    random.fill(&mut bytes[..BLOCK / 2]);
    bytes
}

/// A cluster whose blocks change, a backup a day.
struct World {
    store: TestStore,
    branch: Branch,
    random: StdRng,
    files: Files,
    next: u64,
    day: u64,
    /// Each backup that was taken, with what it must give back.
    taken: Vec<(BackupLabel, Files)>,
}

impl World {
    async fn new(seed: u64) -> Self {
        let store = TestStore::new();
        let branch = branch_in(&store, Sealing::plain(1), Unsealing::none()).await;
        Self::over(store, branch, seed)
    }

    fn over(store: TestStore, branch: Branch, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let mut world =
            Self { store, branch, random, files: Files::new(), next: 0, day: 0, taken: Vec::new() };
        for file in ["base/1/1", "base/1/2", "base/5/7"] {
            let blocks = (0..100).map(|_| world.new_block()).collect();
            world.files.insert(file.to_owned(), blocks);
        }
        world
    }

    fn new_block(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn change(&mut self, share: f64) {
        let names: Vec<String> = self.files.keys().cloned().collect();
        for name in names {
            let mut blocks = self.files.remove(&name).unwrap();
            for block in &mut blocks {
                if self.random.random_bool(share) {
                    *block = self.new_block();
                }
            }
            blocks.truncate(self.random.random_range(blocks.len() * 9 / 10..=blocks.len()));
            blocks.extend((0..self.random.random_range(0..30)).map(|_| self.new_block()));
            self.files.insert(name, blocks);
        }
    }

    /// The newest backup that can be compared with.
    async fn newest(&self) -> Option<Manifest> {
        let backup = self.branch.backups().await.unwrap().pop()?;
        Some(self.branch.read_manifest(&backup).await.unwrap())
    }

    /// One that takes everything, or what has changed since the newest one; then a day passes.
    async fn backup(&mut self, kind: &str) -> BackupLabel {
        let label = self.begin(kind).await;
        let parent = match kind {
            "full" => None,
            _ => self.newest().await,
        };
        self.finish(&label, parent).await;
        self.store.pass(DAY);
        label
    }

    async fn begin(&mut self, kind: &str) -> BackupLabel {
        self.day += 1;
        let label: BackupLabel = format!("202611{:02}T013015Z-{kind}-1a2b3c", self.day).parse().unwrap();
        put_segments(&self.branch, 10 * self.day..10 * self.day + 10).await;
        let parent = self.newest().await.map(|manifest| manifest.head.label).filter(|_| kind != "full");
        begin(&self.branch, &label, parent).await;
        label
    }

    /// Compares with what the parent holds, as an incremental backup by content does.
    async fn finish(&mut self, label: &BackupLabel, parent: Option<Manifest>) {
        let old = parent.as_ref().map(|parent| self.content(&parent.head.label)).unwrap_or_default();
        let (mut packs, old_entries) = parent.map_or((Vec::new(), Vec::new()), |p| (p.packs, p.entries));
        let first = packs.len() as u32;
        let mut writer = PackWriter::new(self.branch.clone(), label.clone(), 2);
        let mut entries = Vec::new();
        for (name, blocks) in &self.files {
            let theirs = old_entries.iter().find_map(|entry| match entry {
                Entry::File { path, extents, .. } if path.to_string() == *name => Some(extents.clone()),
                _ => None,
            });
            let mut extents = Vec::new();
            for (at, number) in blocks.iter().enumerate() {
                let offset = (at * BLOCK) as u64;
                if old.get(name).and_then(|old| old.get(at)) == Some(number) {
                    for extent in theirs.as_ref().unwrap().iter().filter_map(|e| part(e, offset)) {
                        push_extent(&mut extents, extent);
                    }
                    continue;
                }
                let bytes = Bytes::from(block(*number));
                writer.begin_block(BLOCK, BlockDigest::of(&bytes));
                for extent in writer.append(bytes).await.unwrap() {
                    push_extent(&mut extents, Extent { pack: first + extent.pack, ..extent.shifted(offset) });
                }
            }
            let (path, size) = (SafePath::new(name.as_str()).unwrap(), (blocks.len() * BLOCK) as u64);
            entries.push(Entry::File { path, size, mode: 0o600, mtime: 0, crc32c: None, extents });
        }
        packs.extend(writer.finish().await.unwrap());
        let mut head = head(label, self.day);
        head.server_manifest =
            Some(self.branch.put_server_manifest(label, Bytes::from_static(b"{}")).await.unwrap());
        let mut manifest = Manifest { head, packs, entries };
        manifest.drop_unused_packs();
        self.branch.put_manifest(&manifest).await.unwrap();
        self.taken.push((label.clone(), self.files.clone()));
    }

    fn content(&self, label: &BackupLabel) -> Files {
        self.taken.iter().find(|(taken, _)| taken == label).unwrap().1.clone()
    }

    async fn plan(&self, days: u32) -> (Survey, Plan, Compaction) {
        let survey = Survey::make(&self.branch).await.unwrap();
        let plan = Plan::new(&survey, Some(Retention::Window(DAY * days)), DAY);
        let (backups, packs) = Compaction::candidates(&survey, &plan);
        let usage = self.branch.usage(backups, packs).await.unwrap();
        let compaction = Compaction::plan(&survey, &plan, &usage);
        (survey, plan, compaction)
    }

    /// As `walkeep expire` does it.
    async fn expire(&self, days: u32) -> Result<Compacted, Error> {
        let (survey, plan, compaction) = self.plan(days).await;
        assert_eq!(plan.held_back, Vec::<String>::new());
        self.branch.sweep(&survey, &plan).await?;
        self.branch.compact(&survey, &compaction, DAY, 2).await
    }

    /// Days on which nothing happens but this. In the end every backup is what it was, and no pack is there that none needs.
    async fn settle(&self, days: u32) {
        for _ in 0..10 {
            let (_, plan, compaction) = self.plan(days).await;
            if plan.removals.is_empty() && compaction.is_empty() {
                break;
            }
            self.expire(days).await.unwrap();
            self.store.pass(DAY);
        }
        self.check().await;
        let (there, named) = self.packs().await;
        assert_eq!(there, named, "packs that are there, and those that are needed");
    }

    /// Every backup that is listed gives back what it took. How many blocks' digests are known, and how many are not.
    async fn check(&self) -> (usize, usize) {
        let (mut known, mut unknown) = (0, 0);
        for backup in self.branch.all_backups().await.unwrap() {
            let manifest = self.branch.read_manifest(&backup).await.unwrap();
            let (content, digests) = restored(&self.branch, &manifest).await;
            let expected: BTreeMap<String, Vec<u8>> = self
                .content(&backup.label)
                .into_iter()
                .map(|(name, blocks)| (name, blocks.into_iter().flat_map(block).collect()))
                .collect();
            assert!(content == expected, "{} does not give back what it took", backup.label);
            known += digests.0;
            unknown += digests.1;
        }
        (known, unknown)
    }

    async fn keys(&self) -> BTreeSet<String> {
        let listed = self.branch.store().list(self.branch.root()).await.unwrap();
        listed.into_iter().map(|object| object.key.below(self.branch.root()).unwrap().to_owned()).collect()
    }

    async fn listed(&self) -> Vec<BackupRef> {
        self.branch.backups().await.unwrap()
    }

    /// Names of all packs in the store, and of those that a manifest names which counts.
    async fn packs(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let there =
            self.keys().await.into_iter().filter_map(|key| Some(key.strip_prefix("pack/")?.to_owned()));
        let mut named = BTreeSet::new();
        for backup in self.listed().await {
            let manifest = self.branch.read_manifest(&backup).await.unwrap();
            named.extend(manifest.packs.iter().map(|pack| pack.name().to_string()));
        }
        (there.collect(), named)
    }
}

/// What an extent has of the block at `offset`.
fn part(extent: &Extent, offset: u64) -> Option<Extent> {
    let start = extent.file_offset.max(offset);
    let end = (extent.file_offset + extent.length).min(offset + BLOCK as u64);
    (start < end).then(|| Extent {
        file_offset: start,
        length: end - start,
        pack: extent.pack,
        pack_offset: extent.pack_offset + (start - extent.file_offset),
    })
}

/// The bytes of each file; and of how many blocks the digests are known, all of which must be right, and of how many not.
async fn restored(branch: &Branch, manifest: &Manifest) -> (BTreeMap<String, Vec<u8>>, (usize, usize)) {
    let mut streams = Vec::new();
    for pack in &manifest.packs {
        let whole = 0..pack.raw_length();
        let pieces = PackReader::read(branch, pack, std::slice::from_ref(&whole), 2).await.unwrap();
        let pieces: Vec<(u64, Bytes)> = pieces.try_collect().await.unwrap();
        let blocks = branch.read_pack_blocks(pack.name()).await.unwrap().unwrap();
        streams.push((pieces.iter().flat_map(|(_, piece)| piece.to_vec()).collect::<Vec<u8>>(), blocks));
    }
    let (mut content, mut known, mut unknown) = (BTreeMap::new(), 0, 0);
    for entry in &manifest.entries {
        let Entry::File { path, size, extents, .. } = entry else { continue };
        let mut bytes = vec![0; *size as usize];
        for extent in extents {
            let from =
                &streams[extent.pack as usize].0[extent.pack_offset as usize..][..extent.length as usize];
            bytes[extent.file_offset as usize..][..extent.length as usize].copy_from_slice(from);
        }
        for (at, block) in bytes.chunks(BLOCK).enumerate() {
            let first = extents.iter().find_map(|extent| part(extent, (at * BLOCK) as u64)).unwrap();
            match streams[first.pack as usize].1.at(first.pack_offset) {
                Some(told) => {
                    assert_eq!(told, (block.len(), BlockDigest::of(block)), "{path}, block {at}");
                    known += 1;
                }
                None => unknown += 1,
            }
        }
        content.insert(path.to_string(), bytes);
    }
    (content, (known, unknown))
}

/// A long life of change: the repository follows what is needed, and every backup in it is always what it was.
#[tokio::test]
async fn what_is_not_needed_any_more_goes_out_of_packs() {
    for seed in 0..4 {
        let mut world = World::new(seed).await;
        world.backup("full").await;
        let mut written = 0;
        for _ in 0..16 {
            world.change(0.12);
            world.backup("incremental").await;
            let done = world.expire(3).await.unwrap();
            assert_eq!(done.held_back, Vec::<String>::new());
            written += done.written.len();
            let (known, unknown) = world.check().await;
            assert!(unknown * 100 <= known, "{unknown} of {known} blocks have lost their digests");
        }
        assert!(written > 3, "{written} packs were written anew");
        world.settle(3).await;
    }
}

/// Ready for a compaction: a full backup and some incremental ones have gone, of whose packs the rest need a part.
async fn wasteful(seed: u64) -> World {
    let mut world = World::new(seed).await;
    world.backup("full").await;
    for _ in 0..7 {
        world.change(0.25);
        world.backup("incremental").await;
    }
    world
}

/// The store goes away after any number of objects: every backup is what it was, the next run goes on, and in the end
/// nothing is left behind.
#[tokio::test]
async fn a_compaction_may_be_cut_off_anywhere() {
    for puts in 0.. {
        let world = wasteful(7).await;
        let (survey, _, compaction) = world.plan(2).await;
        assert!(compaction.rewrites.len() > 1 && compaction.backups.len() > 1, "{compaction:?}");
        world.store.set_puts(Some(puts));
        let done = world.branch.compact(&survey, &compaction, DAY, 2).await;
        world.store.set_puts(None);
        world.check().await;
        if let Ok(done) = done {
            assert!(puts > 5 && done.backups.len() == compaction.backups.len(), "{puts}: {done:?}");
            return;
        }
        world.settle(2).await;
    }
}

#[tokio::test]
async fn what_is_gained_is_told_before_and_is_right() {
    let world = wasteful(3).await;
    let size = async || {
        let listed = world.branch.store().list(&world.branch.key(&"pack".parse().unwrap())).await.unwrap();
        listed.iter().map(|object| object.size).sum::<u64>()
    };
    // First what goes as a whole.
    for _ in 0..2 {
        let (survey, plan, _) = world.plan(2).await;
        world.branch.sweep(&survey, &plan).await.unwrap();
        world.store.pass(DAY);
    }
    let (survey, _, compaction) = world.plan(4).await;
    let before = size().await;
    let done = world.branch.compact(&survey, &compaction, DAY, 2).await.unwrap();
    let (old, new): (u64, u64) =
        (done.replaced.iter().map(|(_, size)| size).sum(), done.written.iter().map(|(_, size)| size).sum());
    assert_eq!(size().await, before + new, "nothing has gone yet");
    let told = compaction.gained_bytes();
    assert!(told.abs_diff(old - new) * 5 < old - new, "{told} was told, and {} it was", old - new);
    world.settle(4).await;
    let gone = before - size().await;
    assert!(gone >= old - new, "{} was gained, and {gone} has gone", old - new);
}

/// The families of packs of different full backups stay apart.
#[tokio::test]
async fn full_backups_share_no_pack_afterwards_either() {
    let mut world = wasteful(5).await;
    world.backup("full").await;
    for _ in 0..5 {
        world.change(0.25);
        world.backup("incremental").await;
    }
    world.expire(7).await.unwrap();
    let done = world.expire(7).await.unwrap();
    assert!(done.written.len() + done.replaced.len() < 20);
    let mut families: BTreeMap<bool, BTreeSet<String>> = BTreeMap::new();
    for backup in world.listed().await {
        let manifest = world.branch.read_manifest(&backup).await.unwrap();
        let packs = manifest.packs.iter().map(|pack| pack.name().to_string());
        families.entry(backup.label.as_str() < "20261109").or_default().extend(packs);
    }
    assert_eq!(families.len(), 2);
    assert!(families[&true].is_disjoint(&families[&false]), "{families:?}");
    world.check().await;
}

#[tokio::test]
async fn while_a_backup_runs_nothing_is_written_anew() {
    let mut world = wasteful(1).await;
    let (survey, _, compaction) = world.plan(2).await;
    assert!(!compaction.is_empty());
    world.change(0.1);
    let running = world.begin("incremental").await;
    // One that looked before it began, and one that looks now.
    let late = world.branch.compact(&survey, &compaction, DAY, 2).await.unwrap();
    assert!(late.backups.is_empty() && !late.held_back.is_empty(), "{late:?}");
    let (_, _, held) = world.plan(2).await;
    assert!(held.is_empty() && held.held_back.unwrap().contains(running.as_str()));
    let parent = world.newest().await;
    world.finish(&running, parent).await;
    world.check().await;
}

/// It has read the manifest of its parent before that got a new one, and takes long: what it is going to name stays.
#[tokio::test]
async fn what_a_running_backup_has_read_of_its_parent_stays() {
    let mut world = wasteful(2).await;
    let parent = world.newest().await.unwrap();
    let (survey, _, compaction) = world.plan(2).await;
    let done = world.branch.compact(&survey, &compaction, DAY, 2).await.unwrap();
    assert!(done.backups.iter().any(|backup| backup.label == parent.head.label));
    world.change(0.1);
    let running = world.begin("incremental").await;
    for _ in 0..4 {
        world.branch.heartbeat(&running).await.unwrap();
        let (survey, plan, _) = world.plan(2).await;
        world.branch.sweep(&survey, &plan).await.unwrap();
        world.store.pass(DAY);
    }
    // Refused if a pack that it names had gone.
    world.finish(&running, Some(parent)).await;
    world.check().await;
    world.settle(2).await;
}

#[tokio::test]
async fn an_older_manifest_goes_before_the_packs_that_it_names() {
    let world = wasteful(4).await;
    world.expire(2).await.unwrap();
    let old: Vec<String> =
        world.keys().await.into_iter().filter(|key| key.ends_with("manifest-00000001")).collect();
    world.store.pass(DAY);
    world.expire(2).await.unwrap();
    world.store.pass(DAY);
    // The store allows no deletion, then a few, then all.
    for deletions in
        [Deletions::Refused, Deletions::FailAfter(3), Deletions::FailAfter(9), Deletions::Allowed]
    {
        world.store.set_deletions(deletions);
        let (survey, plan, _) = world.plan(2).await;
        let _ = world.branch.sweep(&survey, &plan).await;
        world.store.set_deletions(Deletions::Allowed);
        for key in world.keys().await.into_iter().filter(|key| old.contains(key)) {
            let label: BackupLabel = key.split('/').nth(1).unwrap().parse().unwrap();
            let object = world.branch.key(&key.parse().unwrap());
            let newer = world.listed().await.into_iter().find(|backup| backup.label == label);
            assert!(world.branch.store().exists(&object).await.unwrap());
            // What was refused is still whole.
            if newer.is_some() && deletions == Deletions::Refused {
                world.check().await;
            }
        }
        world.check().await;
    }
    let left = world.keys().await.into_iter().filter(|key| old.contains(key)).count();
    assert!(left < old.len(), "{left} of {} are left", old.len());
}

#[tokio::test]
async fn a_damaged_pack_is_told_and_changes_nothing() {
    let world = wasteful(6).await;
    let (survey, _, compaction) = world.plan(2).await;
    let name = compaction.rewrites[0].pack.entry.name().to_string();
    let key = world.branch.key(&format!("pack/{name}").parse().unwrap());
    let mut bytes = world.branch.store().get(&key).await.unwrap().to_vec();
    bytes[2000] ^= 1;
    world.branch.store().put(&key, bytes.into()).await.unwrap();
    let before = world.listed().await;
    let error = world.branch.compact(&survey, &compaction, DAY, 2).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }) && error.to_string().contains(&name), "{error}");
    assert_eq!(world.listed().await, before, "no manifest was touched");
}

#[tokio::test]
async fn of_two_at_once_one_lets_the_other_go_on() {
    let world = wasteful(8).await;
    let (survey, _, compaction) = world.plan(2).await;
    let (one, other) = tokio::join!(
        world.branch.compact(&survey, &compaction, DAY, 2),
        world.branch.compact(&survey, &compaction, DAY, 2),
    );
    let (one, other) = (one.unwrap(), other.unwrap());
    assert!(!one.backups.is_empty() || !other.backups.is_empty());
    world.check().await;
    let late = world.branch.compact(&survey, &compaction, DAY, 2).await.unwrap();
    assert!(late.backups.is_empty() && late.held_back.len() == 1, "{late:?}");
    world.settle(2).await;
}

/// Data is closed to whoever has the metadata's key alone: he may expire, and is told that packs stay as they are.
#[tokio::test]
async fn without_the_key_of_the_data_packs_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let (all, metadata) = (Identity::generate(), Identity::generate());
    for (name, identity) in [("all", &all), ("metadata", &metadata)] {
        std::fs::write(folder.path().join(name), identity.to_string().expose_secret()).unwrap();
    }
    let config = |with_all: bool| EncryptionConfig {
        recipients: vec![all.to_public().to_string()],
        identity_file: with_all.then(|| folder.path().join("all")),
        metadata_identity_file: Some(folder.path().join("metadata")),
    };
    let open = async |store: &TestStore, with_all: bool| {
        let sealing = Sealing::from_config(&CompressionConfig::default(), &config(with_all)).unwrap();
        branch_in(store, sealing, Unsealing::from_config(&config(with_all)).unwrap()).await
    };
    let store = TestStore::new();
    let branch = open(&store, true).await;
    let mut world = World::over(store.clone(), branch.clone(), 9);
    world.backup("full").await;
    for _ in 0..7 {
        world.change(0.25);
        world.backup("incremental").await;
    }
    world.branch = open(&store, false).await;
    let done = world.expire(2).await.unwrap();
    assert!(done.backups.is_empty() && done.held_back[0].contains("key of the data"), "{done:?}");
    world.branch = branch;
    let done = world.expire(2).await.unwrap();
    assert!(!done.backups.is_empty(), "{done:?}");
    world.check().await;
}
