//! A cluster whose blocks change, and what its backups must give back.

use super::*;

pub(super) const BLOCK: usize = 8192;

/// The content of each file: numbers of blocks, from which their bytes follow.
pub(super) type Files = BTreeMap<String, Vec<u64>>;

pub(super) fn block(number: u64) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(number);
    let mut bytes = vec![0; BLOCK];
    random.fill(&mut bytes[..BLOCK / 2]);
    bytes
}

/// A cluster whose blocks change, a backup a day.
pub(super) struct World {
    pub(super) store: TestStore,
    pub(super) branch: Branch,
    pub(super) random: StdRng,
    pub(super) files: Files,
    pub(super) next: u64,
    pub(super) day: u64,
    /// Each backup that was taken, with what it must give back.
    pub(super) taken: Vec<(BackupLabel, Files)>,
}

impl World {
    pub(super) async fn new(seed: u64) -> Self {
        let store = TestStore::new();
        let branch = branch_in(&store, Sealing::plain(1), Unsealing::none()).await;
        Self::over(store, branch, seed)
    }

    pub(super) fn over(store: TestStore, branch: Branch, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let mut world =
            Self { store, branch, random, files: Files::new(), next: 0, day: 0, taken: Vec::new() };
        for file in ["base/1/1", "base/1/2", "base/5/7"] {
            let blocks = (0..100).map(|_| world.new_block()).collect();
            world.files.insert(file.to_owned(), blocks);
        }
        world
    }

    pub(super) fn new_block(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(super) fn change(&mut self, share: f64) {
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
    pub(super) async fn newest(&self) -> Option<Manifest> {
        let backup = self.branch.backups().await.unwrap().pop()?;
        Some(self.branch.read_manifest(&backup).await.unwrap())
    }

    /// One that takes everything, or what has changed since the newest one; then a day passes.
    pub(super) async fn backup(&mut self, kind: &str) -> BackupLabel {
        let label = self.begin(kind).await;
        let parent = match kind {
            "full" => None,
            _ => self.newest().await,
        };
        self.finish(&label, parent).await;
        self.store.pass(DAY);
        label
    }

    pub(super) async fn begin(&mut self, kind: &str) -> BackupLabel {
        self.day += 1;
        let label: BackupLabel = format!("202611{:02}T013015Z-{kind}-1a2b3c", self.day).parse().unwrap();
        put_segments(&self.branch, 10 * self.day..10 * self.day + 10).await;
        let parent = self.newest().await.map(|manifest| manifest.head.label).filter(|_| kind != "full");
        begin(&self.branch, &label, parent).await;
        label
    }

    /// Compares with what the parent holds, as an incremental backup by content does.
    pub(super) async fn finish(&mut self, label: &BackupLabel, parent: Option<Manifest>) {
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

    pub(super) fn content(&self, label: &BackupLabel) -> Files {
        self.taken.iter().find(|(taken, _)| taken == label).unwrap().1.clone()
    }

    pub(super) async fn plan(&self, days: u32) -> (Survey, Plan, Compaction) {
        let survey = Survey::make(&self.branch).await.unwrap();
        let plan = Plan::new(&survey, Some(Retention::Window(DAY * days)), DAY);
        let (backups, packs) = Compaction::candidates(&survey, &plan);
        let usage = self.branch.usage(backups, packs).await.unwrap();
        let compaction = Compaction::plan(&survey, &plan, &usage);
        (survey, plan, compaction)
    }

    /// As `walkeep expire` does it.
    pub(super) async fn expire(&self, days: u32) -> Result<Compacted, Error> {
        let (survey, plan, compaction) = self.plan(days).await;
        assert_eq!(plan.held_back, Vec::<String>::new());
        self.branch.sweep(&survey, &plan).await?;
        self.branch.compact(&survey, &compaction, DAY, 2).await
    }

    /// Days on which nothing happens but this. In the end every backup is what it was, and no pack is there that none needs.
    pub(super) async fn settle(&self, days: u32) {
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
    pub(super) async fn check(&self) -> (usize, usize) {
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

    pub(super) async fn keys(&self) -> BTreeSet<String> {
        let listed = self.branch.store().list(self.branch.root()).await.unwrap();
        listed.into_iter().map(|object| object.key.below(self.branch.root()).unwrap().to_owned()).collect()
    }

    pub(super) async fn listed(&self) -> Vec<BackupRef> {
        self.branch.backups().await.unwrap()
    }

    /// Names of all packs in the store, and of those that a manifest names which counts.
    pub(super) async fn packs(&self) -> (BTreeSet<String>, BTreeSet<String>) {
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
pub(super) fn part(extent: &Extent, offset: u64) -> Option<Extent> {
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
pub(super) async fn restored(
    branch: &Branch,
    manifest: &Manifest,
) -> (BTreeMap<String, Vec<u8>>, (usize, usize)) {
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
