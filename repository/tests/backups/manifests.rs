//! Manifests: they make the backup, come last, and are read by those who may.

use super::*;

/// Stores a backup of one small file.
pub(super) async fn back_up(branch: &Branch, label: &BackupLabel, file: &Bytes) -> Manifest {
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
