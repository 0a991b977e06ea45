//! Base backups as a whole: packs, manifests and their way in and out of a store.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]
#![allow(clippy::single_range_in_vec_init, reason = "a list of ranges with one range in it is meant")]

use std::ops::Range;
use std::sync::Arc;

use age::secrecy::ExposeSecret;
use age::x25519::Identity;
use bytes::Bytes;
use futures::TryStreamExt;
use jiff::Timestamp;
use object_store::memory::InMemory;
use proto::config::{CompressionConfig, EncryptionConfig};
use proto::wal::SegmentSize;
use proto::{Lsn, SystemId, TimelineId};
use repository::backup::{BackupKind, BackupLabel, Intent};
use repository::catalogue::Inventory;
use repository::manifest::{Controls, Entry, EntrySorter, MANIFEST_FORMAT, Manifest, ManifestHead, SafePath};
use repository::pack::{Extent, FRAME_SIZE, PackEntry, PackReader, PackWriter, push_extent};
use repository::{Branch, BranchFacts, Error, Repository, Sealing, Store, Unsealing};

const CLUSTER: &str = "main";

async fn branch_over(store: Store, sealing: Sealing, unsealing: Unsealing) -> Branch {
    Repository::create(store.clone()).await.unwrap();
    let repository = Repository::open(store, sealing, unsealing).await.unwrap();
    let facts = BranchFacts { segment_size: SegmentSize::DEFAULT, server_version: 150_018 };
    repository.begin_branch(&CLUSTER.parse().unwrap(), SystemId(42), facts).await.unwrap()
}

fn memory() -> Store {
    Store::over(Arc::new(InMemory::new()), "memory")
}

async fn plain() -> Branch {
    branch_over(memory(), Sealing::plain(1), Unsealing::none()).await
}

/// Keys to everything, and to metadata alone.
struct Keys {
    folder: tempfile::TempDir,
    recipient: String,
}

impl Keys {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (all, metadata) = (Identity::generate(), Identity::generate());
        for (name, identity) in [("all", &all), ("metadata", &metadata)] {
            std::fs::write(folder.path().join(name), identity.to_string().expose_secret()).unwrap();
        }
        Self { folder, recipient: all.to_public().to_string() }
    }

    fn config(&self, with_all: bool) -> EncryptionConfig {
        EncryptionConfig {
            recipients: vec![self.recipient.clone()],
            identity_file: with_all.then(|| self.folder.path().join("all")),
            metadata_identity_file: Some(self.folder.path().join("metadata")),
        }
    }

    async fn branch(&self, store: Store, with_all: bool) -> Branch {
        let config = self.config(with_all);
        let sealing = Sealing::from_config(&CompressionConfig::default(), &config).unwrap();
        branch_over(store, sealing, Unsealing::from_config(&config).unwrap()).await
    }
}

fn label(random: u32) -> BackupLabel {
    format!("20261124T013015Z-full-{random:06x}").parse().unwrap()
}

fn head(label: &BackupLabel) -> ManifestHead {
    ManifestHead {
        format: MANIFEST_FORMAT,
        label: label.clone(),
        kind: BackupKind::Full,
        parent: None,
        cluster: CLUSTER.parse().unwrap(),
        system_id: SystemId(42),
        server_version: 150_018,
        segment_size: SegmentSize::DEFAULT,
        data_checksums: true,
        timeline: TimelineId::FIRST,
        start_lsn: Lsn(0x200_0028),
        checkpoint_lsn: Lsn(0x200_0060),
        stop_timeline: TimelineId::FIRST,
        stop_lsn: Lsn(0x200_0100),
        started_at: label.started(),
        finished_at: label.started(),
        from_standby: false,
        label_note: None,
        size_bytes: 0,
        stored_bytes: 0,
        tablespaces: Vec::new(),
        wal_ranges: Vec::new(),
        server_manifest: None,
        damaged_page_count: 0,
        damaged_pages: Vec::new(),
        external_config: Vec::new(),
        controls: Controls::default(),
    }
}

/// Bytes that compress to about a half, and are different everywhere.
fn content(length: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let words = (0..length.div_ceil(16)).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        [state, 0x1122_3344_5566_7788]
    });
    let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes.truncate(length);
    bytes.into()
}

/// Appends `bytes` in pieces of these sizes, again and again.
async fn append(packs: &mut PackWriter, bytes: &Bytes, pieces: &[usize]) -> Vec<Extent> {
    let (mut extents, mut offset) = (Vec::new(), 0);
    for piece in pieces.iter().cycle() {
        if offset == bytes.len() {
            return extents;
        }
        let end = (offset + piece).min(bytes.len());
        for extent in packs.append(bytes.slice(offset..end)).await.unwrap() {
            push_extent(&mut extents, extent.shifted(offset as u64));
        }
        offset = end;
    }
    extents
}

async fn read(branch: &Branch, pack: &PackEntry, wanted: &[Range<u64>]) -> Result<Vec<(u64, Bytes)>, Error> {
    PackReader::read(branch, pack, wanted, 2).await?.try_collect().await
}

async fn read_extents(branch: &Branch, packs: &[PackEntry], extents: &[Extent]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for extent in extents {
        let wanted = extent.pack_offset..extent.pack_offset + extent.length;
        for (offset, piece) in read(branch, &packs[extent.pack as usize], &[wanted]).await.unwrap() {
            assert_eq!(offset, extent.pack_offset + bytes.len() as u64 - extent.file_offset);
            bytes.extend_from_slice(&piece);
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_packed_is_read_back_plain_and_encrypted() {
    let keys = Keys::new();
    for branch in [plain().await, keys.branch(memory(), true).await] {
        let files = [content(3_500_000, 1), content(70, 2), content(2 << 20, 3), content(1, 4)];
        let mut packs = PackWriter::new(branch.clone(), label(1), 2);
        let mut extents = Vec::new();
        for (file, pieces) in files.iter().zip([&[100_000, 7][..], &[70], &[2 << 20], &[1]]) {
            extents.push(append(&mut packs, file, pieces).await);
        }
        assert_eq!(packs.raw_bytes(), files.iter().map(|file| file.len() as u64).sum::<u64>());
        let packs = packs.finish().await.unwrap();
        assert_eq!(packs.len(), 1);
        assert!(extents.iter().all(|extents| extents.len() == 1), "{extents:?}");
        for (file, extents) in files.iter().zip(&extents) {
            assert_eq!(&read_extents(&branch, &packs, extents).await, file);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_end_when_enough_is_stored_and_nothing_is_lost_between_them() {
    let branch = plain().await;
    let mut packs = PackWriter::new(branch.clone(), label(1), 2);
    // Noise, so that it is stored as long as it is.
    let mut noise = vec![0; 10 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let noise = Bytes::from(noise);
    let mut extents = Vec::new();
    for round in 0..15u64 {
        for extent in append(&mut packs, &noise, &[32 << 10]).await {
            push_extent(&mut extents, extent.shifted(round * noise.len() as u64));
        }
    }
    let packs = packs.finish().await.unwrap();
    assert!((2..=4).contains(&packs.len()), "{packs:?}");
    assert_eq!(extents.len(), packs.len());
    for pack in &packs[..packs.len() - 1] {
        assert!((56 << 20..80 << 20).contains(&pack.stored_length()), "{pack:?}");
        assert_eq!(pack.raw_length() % FRAME_SIZE as u64, 0);
    }
    for pack in &packs {
        let key = branch.root().child("pack").child(pack.name().label()).child(pack.name().id());
        assert_eq!(branch.store().head(&key).await.unwrap().size, pack.stored_length());
    }
    let all = read_extents(&branch, &packs, &extents).await;
    assert!(all.chunks(noise.len()).all(|round| round == noise));
}

#[tokio::test]
async fn an_empty_backup_has_no_packs() {
    let packs = PackWriter::new(plain().await, label(1), 1);
    assert!(packs.finish().await.unwrap().is_empty());
}

#[tokio::test]
async fn ranges_come_in_order_and_touching_ones_as_one() {
    let branch = plain().await;
    let mut packs = PackWriter::new(branch.clone(), label(1), 1);
    let file = content(5 * FRAME_SIZE + 10, 9);
    append(&mut packs, &file, &[1 << 20]).await;
    let packs = packs.finish().await.unwrap();
    let frame = FRAME_SIZE as u64;
    let wanted = [0..10, 10..20, 30..40, frame - 5..frame + 5, 4 * frame..5 * frame + 10];
    let pieces = read(&branch, &packs[0], &wanted).await.unwrap();
    let expected =
        [0..20, 30..40, frame - 5..frame, frame..frame + 5, 4 * frame..5 * frame, 5 * frame..5 * frame + 10];
    assert_eq!(pieces.len(), expected.len());
    for ((offset, piece), range) in pieces.into_iter().zip(expected) {
        assert_eq!((offset, &piece[..]), (range.start, &file[range.start as usize..range.end as usize]));
    }
    assert!(matches!(read(&branch, &packs[0], &[0..5 * frame + 11]).await, Err(Error::Invalid { .. })));
    assert!(read(&branch, &packs[0], &[]).await.unwrap().is_empty());
}

/// Whatever single byte of a pack is changed: no wrong byte comes out, and the error names the pack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_found_before_a_byte_is_handed_out() {
    let keys = Keys::new();
    for branch in [plain().await, keys.branch(memory(), true).await] {
        let mut packs = PackWriter::new(branch.clone(), label(1), 1);
        let file = content(3 * FRAME_SIZE, 5);
        append(&mut packs, &file, &[1 << 20]).await;
        let packs = packs.finish().await.unwrap();
        let key = branch.root().child("pack").child(label(1)).child(packs[0].name().id());
        let good = branch.store().get(&key).await.unwrap();
        let mut found = 0;
        for at in (0..good.len()).step_by(good.len() / 60).chain([8, 1023, 1024, good.len() - 1500]) {
            let mut bad = good.to_vec();
            bad[at] ^= 0x40;
            branch.store().put(&key, bad.into()).await.unwrap();
            let mut reached = 0;
            let outcome = async {
                let stream = PackReader::read(&branch, &packs[0], &[0..3 * FRAME_SIZE as u64], 2).await?;
                futures::pin_mut!(stream);
                while let Some((offset, piece)) = stream.try_next().await? {
                    assert_eq!(
                        &file[offset as usize..offset as usize + piece.len()],
                        &piece[..],
                        "byte {at}"
                    );
                    reached += piece.len();
                }
                Ok::<_, Error>(())
            };
            match outcome.await {
                // A space within the header's padding, the closing header: not what the content depends on.
                Ok(()) => assert_eq!(reached, file.len()),
                Err(error) => {
                    found += 1;
                    assert!(matches!(error, Error::Corrupt { .. } | Error::Locked { .. }), "{error:?}");
                    assert!(error.to_string().contains(&packs[0].name().id()), "{error}");
                }
            }
        }
        assert!(found >= 55, "{found}");
        let cut = good.slice(..good.len() / 2);
        branch.store().put(&key, cut).await.unwrap();
        assert!(matches!(read(&branch, &packs[0], &[0..10]).await, Err(Error::Corrupt { .. })));
        branch.store().delete(&key).await.unwrap();
        assert!(matches!(read(&branch, &packs[0], &[0..10]).await, Err(Error::Absent { .. })));
    }
}

/// Stores a backup of one small file.
async fn back_up(branch: &Branch, label: &BackupLabel, file: &Bytes) -> Manifest {
    let intent = Intent {
        label: label.clone(),
        parent: None,
        host: "here".into(),
        pid: 1,
        writer: branch.writer(),
        started_at: Timestamp::UNIX_EPOCH,
    };
    branch.begin_backup(&intent).await.unwrap();
    branch.heartbeat(label).await.unwrap();
    let mut packs = PackWriter::new(branch.clone(), label.clone(), 1);
    let extents = append(&mut packs, file, &[1 << 20]).await;
    let packs = packs.finish().await.unwrap();
    let mut head = head(label);
    let server_manifest = Bytes::from_static(b"{\"Files\": []}");
    head.server_manifest = Some(branch.put_server_manifest(label, server_manifest).await.unwrap());
    let path = SafePath::new("base/1/1").unwrap();
    let size = file.len() as u64;
    let entry = Entry::File { path, size, mode: 0o600, mtime: 0, crc32c: None, extents };
    let manifest = Manifest { head, packs, entries: vec![entry] };
    assert_eq!(branch.backups().await.unwrap().len(), 0, "nothing is a backup before its manifest");
    assert_eq!(branch.unfinished_backups().await.unwrap().len(), 1);
    branch.put_manifest(&manifest).await.unwrap();
    assert_eq!(branch.read_intent(label).await.unwrap(), Some(intent));
    manifest
}

/// A backup that is not taken after all takes back what it has announced, and nothing else.
#[tokio::test]
async fn what_was_announced_can_be_withdrawn() {
    let branch = plain().await;
    for label in [label(1), label(2)] {
        let intent = Intent {
            label: label.clone(),
            parent: None,
            host: "there".into(),
            pid: 7,
            writer: branch.writer(),
            started_at: Timestamp::UNIX_EPOCH,
        };
        branch.begin_backup(&intent).await.unwrap();
        branch.heartbeat(&label).await.unwrap();
    }
    branch.withdraw_backup(&label(2)).await.unwrap();
    let left = branch.unfinished_backups().await.unwrap();
    assert_eq!(left.iter().map(|left| &left.label).collect::<Vec<_>>(), [&label(1)]);
}

#[tokio::test]
async fn the_manifest_makes_the_backup() {
    let branch = plain().await;
    let manifest = back_up(&branch, &label(1), &content(1000, 1)).await;
    let backup = branch.backup(&label(1)).await.unwrap();
    assert_eq!(branch.backups().await.unwrap(), std::slice::from_ref(&backup));
    assert_eq!(branch.read_manifest_head(&backup).await.unwrap(), manifest.head);
    assert_eq!(branch.read_manifest(&backup).await.unwrap(), manifest);
    let server = branch.read_server_manifest(&manifest.head).await.unwrap();
    assert_eq!(server.as_deref(), Some(&b"{\"Files\": []}"[..]));
    assert!(branch.unfinished_backups().await.unwrap().is_empty());
    assert!(branch.backup(&label(2)).await.unwrap_err().is_absent());
    let again = branch.put_manifest(&manifest).await.unwrap_err();
    assert!(matches!(again, Error::Invalid { .. }), "{again}");
}

#[tokio::test]
async fn a_manifest_is_not_written_before_what_it_names() {
    let branch = plain().await;
    let mut packs = PackWriter::new(branch.clone(), label(1), 1);
    append(&mut packs, &content(1000, 1), &[100]).await;
    let packs = packs.finish().await.unwrap();
    let key = branch.root().child("pack").child(label(1)).child(packs[0].name().id());
    let manifest = |server_manifest: Option<&str>| Manifest {
        head: ManifestHead { server_manifest: server_manifest.map(Into::into), ..head(&label(1)) },
        packs: packs.clone(),
        entries: Vec::new(),
    };
    assert!(branch.put_manifest(&manifest(Some("server-manifest"))).await.unwrap_err().is_absent());
    let pack = branch.store().get(&key).await.unwrap();
    branch.store().put(&key, pack.slice(1..)).await.unwrap();
    let error = branch.put_manifest(&manifest(None)).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    branch.store().delete(&key).await.unwrap();
    assert!(branch.put_manifest(&manifest(None)).await.unwrap_err().is_absent());
    assert!(branch.backups().await.unwrap().is_empty());
    branch.store().put(&key, pack).await.unwrap();
    branch.put_manifest(&manifest(None)).await.unwrap();
}

/// The data stays closed to the database's host, the metadata does not.
#[tokio::test]
async fn the_metadata_identity_opens_manifests_and_no_data() {
    let (keys, store) = (Keys::new(), memory());
    let host = keys.branch(store.clone(), false).await;
    let file = content(5000, 1);
    let manifest = back_up(&host, &label(1), &file).await;
    let backup = host.backup(&label(1)).await.unwrap();
    assert_eq!(host.read_manifest_head(&backup).await.unwrap(), manifest.head);
    assert_eq!(host.read_manifest(&backup).await.unwrap(), manifest);
    let closed = read(&host, &manifest.packs[0], &[0..10]).await.unwrap_err();
    assert!(matches!(closed, Error::Locked { .. }), "{closed}");
    let elsewhere = keys.branch(store, true).await;
    assert_eq!(read(&elsewhere, &manifest.packs[0], &[0..10]).await.unwrap()[0].1, file.slice(..10));
    // Nothing readable lies around.
    let key = host.root().child("backup").child(label(1)).child("manifest-00000001");
    let object = host.store().get(&key).await.unwrap();
    assert!(!object.windows(8).any(|window| window == b"base/1/1"));
}

/// The head of a manifest is had without the rest, however long that is; damage in it is noticed.
#[tokio::test]
async fn a_head_costs_one_small_read() {
    let keys = Keys::new();
    for branch in [plain().await, keys.branch(memory(), true).await] {
        let entries = (0..200_000u32).map(|number| {
            let random = blake3::hash(&number.to_le_bytes()).to_hex();
            Entry::Directory { path: SafePath::new(random.as_bytes()).unwrap(), mode: 0o700 }
        });
        let manifest = Manifest { head: head(&label(1)), packs: Vec::new(), entries: entries.collect() };
        let backup = branch.put_manifest(&manifest).await.unwrap();
        let key = branch.root().child("backup").child(label(1)).child("manifest-00000001");
        let object = branch.store().get(&key).await.unwrap();
        assert!(object.len() > 1 << 20);
        branch.store().put(&key, object.slice(..200_000)).await.unwrap();
        assert_eq!(branch.read_manifest_head(&backup).await.unwrap(), manifest.head);
        assert!(matches!(branch.read_manifest(&backup).await, Err(Error::Corrupt { .. })));
        let mut bad = object.to_vec();
        bad[1024 + 200] ^= 1;
        branch.store().put(&key, bad.into()).await.unwrap();
        assert!(matches!(branch.read_manifest_head(&backup).await, Err(Error::Corrupt { .. })));
    }
}

/// Whether a manifest was in memory or not makes no difference in the store; nor does how it is read.
#[tokio::test]
async fn a_manifest_may_be_longer_than_memory() {
    let keys = Keys::new();
    for branch in [plain().await, keys.branch(memory(), false).await] {
        let mut packs = PackWriter::new(branch.clone(), label(1), 1);
        let mut extents = append(&mut packs, &content(9000, 1), &[100]).await;
        let packs = packs.finish().await.unwrap();
        // Before it another backup's, of which nothing is needed.
        let mut others = PackWriter::new(branch.clone(), label(2), 1);
        append(&mut others, &content(100, 2), &[100]).await;
        let named = [others.finish().await.unwrap(), packs.clone()].concat();
        extents[0].pack = 1;
        let path =
            |number: u32| SafePath::new(blake3::hash(&number.to_le_bytes()).to_hex().as_bytes()).unwrap();
        let entries = (0..220_000u32).map(|number| Entry::File {
            path: path(number),
            size: 9000,
            mode: 0o600,
            mtime: i64::from(number),
            crc32c: Some(number),
            extents: extents.clone(),
        });
        let mut sorter = EntrySorter::default();
        entries.clone().try_for_each(|entry| sorter.push(&entry)).unwrap();
        let sorted = sorter.sorted().unwrap();
        let head = head(&label(1));
        branch.put_sorted_manifest(&head, named.clone(), sorted).await.unwrap();
        let backup = branch.backup(&label(1)).await.unwrap();
        assert_eq!(branch.read_manifest_head(&backup).await.unwrap(), head);
        let mut expected = Manifest { head: head.clone(), packs: named, entries: entries.collect() };
        expected.entries.sort_by(|a, b| a.path().cmp(b.path()));
        expected.drop_unused_packs();
        assert!(branch.read_manifest(&backup).await.unwrap() == expected);

        let index = branch.index_manifest(&backup).await.unwrap();
        assert_eq!((&index.head, &index.packs, index.entries.len()), (&head, &packs, 220_000));
        for number in (0..220_100).step_by(50) {
            let found = index.entries.find(&path(number)).unwrap();
            let time = found.map(|entry| match entry {
                Entry::File { mtime, .. } => mtime,
                Entry::Directory { .. } => panic!("no folder was written"),
            });
            assert_eq!(time, (number < 220_000).then_some(i64::from(number)));
        }
        let second = branch.put_sorted_manifest(&head, packs, EntrySorter::default().sorted().unwrap()).await;
        assert!(matches!(second, Err(Error::Invalid { .. })), "{second:?}");
        // Damage behind the head is found, whichever way it is read.
        let key = branch.root().child("backup").child(label(1)).child("manifest-00000001");
        let mut bad = branch.store().get(&key).await.unwrap().to_vec();
        let end = bad.len() - 5000;
        bad[end] ^= 1;
        branch.store().put(&key, bad.into()).await.unwrap();
        assert!(matches!(branch.index_manifest(&backup).await, Err(Error::Corrupt { .. })));
    }
}

/// What cannot be written leaves no manifest, and so no backup.
#[tokio::test]
async fn a_manifest_that_fails_midway_is_none() {
    let branch = plain().await;
    let twice = Entry::Directory { path: SafePath::new("base").unwrap(), mode: 0o700 };
    let mut sorter = EntrySorter::default();
    [&twice, &twice].into_iter().try_for_each(|entry| sorter.push(entry)).unwrap();
    let written = branch.put_sorted_manifest(&head(&label(1)), Vec::new(), sorter.sorted().unwrap()).await;
    assert!(matches!(written, Err(Error::Invalid { .. })), "{written:?}");
    assert!(branch.backup(&label(1)).await.unwrap_err().is_absent());
}

/// A manifest that cannot be read hides no other backup, and is not passed over in silence.
#[tokio::test]
async fn a_damaged_manifest_is_told_beside_the_others() {
    let branch = plain().await;
    for random in [1, 2, 3] {
        let manifest = Manifest { head: head(&label(random)), packs: Vec::new(), entries: Vec::new() };
        branch.put_manifest(&manifest).await.unwrap();
    }
    let folder = branch.root().child("backup").child(label(2));
    let key = folder.child("manifest-00000001");
    let mut object = branch.store().get(&key).await.unwrap().to_vec();
    object[1024 + 100] ^= 1;
    branch.store().put(&key, object.into()).await.unwrap();
    let inventory = Inventory::load(&branch).await.unwrap();
    let labels: Vec<_> = inventory.backups.iter().map(|backup| &backup.label).collect();
    assert_eq!(labels, [&label(1), &label(3)]);
    assert_eq!(inventory.unreadable.len(), 1);
    assert_eq!(inventory.unreadable[0].label, label(2));
    assert!(matches!(inventory.unreadable[0].error, Error::Corrupt { .. }));
    // Another backup's manifest under this key is damage as well.
    let other = branch.root().child("backup").child(label(1)).child("manifest-00000001");
    branch.store().put(&key, branch.store().get(&other).await.unwrap()).await.unwrap();
    let backup = branch.backup(&label(2)).await.unwrap();
    assert!(matches!(branch.read_manifest(&backup).await, Err(Error::Corrupt { .. })));
    assert!(matches!(branch.read_manifest_head(&backup).await, Err(Error::Corrupt { .. })));
}

#[tokio::test]
async fn another_backup_that_runs_is_seen_and_a_dead_one_is_not() {
    let branch = plain().await;
    let intent = |label: BackupLabel| Intent {
        label,
        parent: None,
        host: "there".into(),
        pid: 7,
        writer: branch.writer(),
        started_at: Timestamp::UNIX_EPOCH,
    };
    branch.begin_backup(&intent(label(1))).await.unwrap();
    branch.heartbeat(&label(1)).await.unwrap();
    branch.begin_backup(&intent(label(2))).await.unwrap();
    branch.heartbeat(&label(2)).await.unwrap();
    branch.heartbeat(&label(2)).await.unwrap();
    let others = branch.unfinished_backups().await.unwrap();
    assert_eq!(others.iter().map(|other| &other.label).collect::<Vec<_>>(), [&label(1), &label(2)]);
    assert_eq!(branch.read_intent(&others[0].label).await.unwrap().unwrap().host, "there");
    let alive = branch.store().list_starting(&branch.root().child("backup").child(label(2)), "alive-").await;
    assert_eq!(alive.unwrap().len(), 1, "older signs of life go");
    let later = |seconds: i64| others[0].last_alive + jiff::SignedDuration::from_secs(seconds);
    assert!(others[0].is_running(later(599)) && !others[0].is_running(later(600)));
}

/// A store that fails midway: the writer says so, at once or at the end, and never lists a pack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_store_is_an_error_and_no_pack() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().join("r").display());
    std::fs::create_dir(folder.path().join("r")).unwrap();
    let store = Store::open(&url, &Default::default()).unwrap();
    let branch = branch_over(store, Sealing::plain(1), Unsealing::none()).await;
    let mut packs = PackWriter::new(branch.clone(), label(1), 2);
    packs.append(content(3 << 20, 1)).await.unwrap();
    // The disk goes away.
    std::fs::rename(folder.path().join("r"), folder.path().join("gone")).unwrap();
    let outcome = async {
        for _ in 0..200 {
            packs.append(content(1 << 20, 2)).await?;
        }
        Ok::<_, Error>(())
    };
    let error = match outcome.await {
        Err(error) => {
            // It stays an error.
            assert!(packs.append(content(2 << 20, 2)).await.is_err());
            assert!(packs.finish().await.is_err());
            error
        }
        Ok(()) => packs.finish().await.unwrap_err(),
    };
    assert!(matches!(error, Error::Refused { .. } | Error::Unreachable { .. }), "{error:?}");
}
