//! Packs of which little is needed are written anew, and every backup stays what it was.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

#[path = "../support/mod.rs"]
mod support;
mod world;

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
use world::World;

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
        ..Default::default()
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
