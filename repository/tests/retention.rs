//! What goes, when, and that whatever is listed can be restored at each step.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use proto::config::{Retention, StorageConfig};
use proto::wal::SegmentSize;
use proto::{Lsn, ServerTime, SystemId, TimelineId};
use repository::backup::{BackupLabel, BackupRef};
use repository::catalogue::Inventory;
use repository::look::{Figures, LOOK_FORMAT};
use repository::manifest::{Entry, Manifest, SafePath};
use repository::pack::PackWriter;
use repository::retention::{Keep, KeepError, Plan, Survey, Swept};
use repository::run::{Job, RUN_FORMAT, Run};
use repository::{Branch, BranchFacts, Epoch, EpochFacts, Error, Repository, Sealing, Store, Unsealing};
use support::{DAY, Deletions, SEGMENT, TestStore, begin, branch_in, head, put_segments, segment};

/// One backup a day: backup `day` begins in segment `10 * day`, and ten segments of WAL follow it.
struct World {
    store: TestStore,
    branch: Branch,
    labels: Vec<BackupLabel>,
}

impl World {
    async fn new() -> Self {
        let store = TestStore::new();
        let branch = branch_in(&store, Sealing::plain(1), Unsealing::none()).await;
        Self { store, branch, labels: Vec::new() }
    }

    /// With so many days of life behind it.
    async fn aged(days: u64) -> Self {
        let mut world = Self::new().await;
        for _ in 0..days {
            world.live_a_day().await;
        }
        world
    }

    async fn live_a_day(&mut self) {
        let day = self.labels.len() as u64 + 1;
        self.segments(10 * day..10 * day + 2).await;
        let label = label(day);
        self.begin(&label, None).await;
        self.finish(&label, day, &[]).await;
        self.labels.push(label);
        self.segments(10 * day + 2..10 * day + 10).await;
        self.store.pass(DAY);
    }

    async fn segments(&self, numbers: std::ops::Range<u64>) {
        put_segments(&self.branch, numbers).await;
    }

    async fn begin(&self, label: &BackupLabel, parent: Option<BackupLabel>) {
        begin(&self.branch, label, parent).await;
    }

    /// Writes one pack, and a manifest that names it and those of the backups in `shared`.
    async fn finish(&self, label: &BackupLabel, day: u64, shared: &[&BackupLabel]) {
        let mut packs = PackWriter::new(self.branch.clone(), label.clone(), 1);
        let content = Bytes::from(label.to_string());
        let extents = packs.append(content.clone()).await.unwrap();
        let mut packs = packs.finish().await.unwrap();
        for other in shared {
            let manifest =
                self.branch.read_manifest(&self.branch.backup(other).await.unwrap()).await.unwrap();
            packs.extend(manifest.packs);
        }
        let mut head = head(label, day);
        head.server_manifest =
            Some(self.branch.put_server_manifest(label, Bytes::from_static(b"{}")).await.unwrap());
        let path = SafePath::new("base/1/1").unwrap();
        let size = content.len() as u64;
        let entries = vec![Entry::File { path, size, mode: 0o600, mtime: 0, crc32c: None, extents }];
        self.branch.put_manifest(&Manifest { head, packs, entries }).await.unwrap();
    }

    async fn plan(&self, retention: Option<Retention>) -> (Survey, Plan) {
        let survey = Survey::make(&self.branch).await.unwrap();
        let plan = Plan::new(&survey, retention, DAY);
        (survey, plan)
    }

    async fn expire(&self, retention: Option<Retention>) -> Swept {
        let (survey, plan) = self.plan(retention).await;
        self.branch.sweep(&survey, &plan).await.unwrap()
    }

    async fn listed(&self) -> Vec<BackupLabel> {
        self.branch.backups().await.unwrap().into_iter().map(|backup: BackupRef| backup.label).collect()
    }

    async fn keys(&self) -> BTreeSet<String> {
        let listed = self.branch.store().list(self.branch.root()).await.unwrap();
        listed.into_iter().map(|object| object.key.below(self.branch.root()).unwrap().to_owned()).collect()
    }

    /// Everything that is listed can be restored, up to the same end.
    async fn check(&self) {
        let inventory = Inventory::load(&self.branch).await.unwrap();
        assert!(inventory.unreadable.is_empty(), "{:?}", inventory.unreadable);
        let end = Lsn((10 * self.labels.len() as u64 + 10) * SEGMENT);
        for backup in self.branch.backups().await.unwrap() {
            let manifest = self.branch.read_manifest(&backup).await.unwrap();
            for pack in &manifest.packs {
                let key = format!("pack/{}", pack.name());
                assert!(self.keys().await.contains(&key), "{key} is gone");
            }
            let reached = inventory.reach(&manifest.head, &inventory.lineage(TimelineId::FIRST));
            assert_eq!(reached, Some(end), "{}", backup.label);
        }
        assert!(!inventory.backups.is_empty());
        assert!(inventory.gaps().is_empty(), "{:?}", inventory.gaps());
    }
}

fn label(day: u64) -> BackupLabel {
    format!("202611{day:02}T013015Z-full-1a2b3c").parse().unwrap()
}

fn window(days: u32) -> Option<Retention> {
    Some(Retention::Window(DAY * days))
}

#[tokio::test]
async fn what_is_beyond_the_window_is_condemned_and_goes_a_grace_period_later() {
    let world = World::aged(5).await;
    let before = world.keys().await;
    // The window of two and a half days begins within day 3, so backup 3 opens it.
    let retention = Some(Retention::Window(DAY * 5 / 2));
    let (_, plan) = world.plan(retention).await;
    let kept: Vec<bool> = plan.verdicts.iter().map(|verdict| verdict.is_kept()).collect();
    assert_eq!(kept, [false, false, true, true, true], "{:#?}", plan.verdicts);
    assert!(plan.removals.iter().all(|removal| !removal.is_due));

    assert_eq!(world.expire(retention).await.deleted, []);
    assert!(world.keys().await.is_superset(&before), "nothing goes at first");
    assert_eq!(world.listed().await, world.labels[2..], "what is condemned is not offered any more");
    world.check().await;

    world.store.pass(DAY / 2);
    assert_eq!(world.expire(retention).await.deleted, [], "not before the grace period has passed");
    world.store.pass(DAY / 2);
    let swept = world.expire(window(4)).await;
    assert!(!swept.deleted.is_empty() && swept.freed_bytes > 0);
    let after = world.keys().await;
    for key in &before {
        let day_of_backup = (1..=5).find(|day| key.contains(label(*day).as_str()));
        let is_old_wal = key.starts_with("wal/") && (10..30).any(|n| key.contains(&segment(n).to_string()));
        let is_old = day_of_backup.is_some_and(|day| day < 3) || is_old_wal;
        let is_sign = key.contains("/alive-");
        assert_eq!(after.contains(key), !is_old && !is_sign, "{key}");
    }
    world.check().await;
}

#[tokio::test]
async fn so_many_full_backups_stay_and_never_the_last_one_goes() {
    let world = World::aged(4).await;
    for (count, kept) in [(2, 2), (9, 4), (1, 1)] {
        let (_, plan) = world.plan(Some(Retention::Full(count))).await;
        assert_eq!(plan.verdicts.iter().filter(|verdict| verdict.is_kept()).count(), kept, "{count}");
    }
    world.store.pass(DAY * 400);
    let (_, plan) = world.plan(window(1)).await;
    let kept: Vec<_> = plan.verdicts.iter().filter(|verdict| verdict.is_kept()).collect();
    assert_eq!(kept.len(), 1, "the newest is older than the window, and stays");
    assert_eq!(kept[0].label, world.labels[3]);
    let (_, plan) = world.plan(None).await;
    assert!(plan.verdicts.iter().all(|verdict| verdict.is_kept()), "without a policy all stay");
}

#[tokio::test]
async fn without_a_backup_that_can_be_restored_nothing_goes() {
    let world = World::aged(3).await;
    for number in [31, 21, 11] {
        let wal =
            world.keys().await.into_iter().find(|key| key.contains(&segment(number).to_string())).unwrap();
        let key = world.branch.key(&wal.parse().unwrap());
        world.branch.store().delete(&key).await.unwrap();
    }
    world.store.pass(DAY * 100);
    let (_, plan) = world.plan(window(1)).await;
    assert!(plan.verdicts.iter().all(|verdict| verdict.is_kept()), "{:#?}", plan.verdicts);
    assert!(plan.removals.iter().all(|removal| !removal.key.as_str().starts_with("wal/")));
}

#[tokio::test]
async fn a_marked_backup_stays_until_it_is_released() {
    let world = World::aged(4).await;
    let first = &world.labels[0];
    world.branch.keep_backup(first, Keep { until: None }, DAY).await.unwrap();
    for _ in 0..2 {
        world.expire(window(1)).await;
        world.store.pass(DAY * 2);
    }
    assert!(world.listed().await.contains(first));
    let manifest = world.branch.read_manifest(&world.branch.backup(first).await.unwrap()).await.unwrap();
    assert!(world.keys().await.contains(&format!("pack/{}", manifest.packs[0].name())));
    // What makes it consistent stays with it; what came after goes.
    let keys = world.keys().await;
    let has = |number: u64| keys.iter().any(|key| key.contains(&segment(number).to_string()));
    assert!(has(10) && has(11) && !has(12) && !has(19), "{keys:#?}");

    world.branch.keep_backup(first, Keep { until: Some(Timestamp::UNIX_EPOCH) }, DAY).await.unwrap();
    for _ in 0..2 {
        world.expire(window(1)).await;
        world.store.pass(DAY * 2);
    }
    assert!(!world.listed().await.contains(first));
    assert!(!world.keys().await.iter().any(|key| key.contains(first.as_str())));
    world.check().await;
}

#[tokio::test]
async fn a_condemned_backup_can_be_saved_while_it_is_not_due() {
    let world = World::aged(4).await;
    world.expire(window(1)).await;
    let (saved, lost) = (&world.labels[0], &world.labels[1]);
    assert!(!world.listed().await.contains(saved));
    world.branch.keep_backup(saved, Keep { until: None }, DAY).await.unwrap();
    assert!(world.listed().await.contains(saved), "a mark counts at once");
    world.store.pass(DAY * 2);
    let late = world.branch.keep_backup(lost, Keep { until: None }, DAY).await.unwrap_err();
    assert!(matches!(late, KeepError::TooLate { .. }), "{late}");
    world.expire(window(1)).await;
    assert!(world.listed().await.contains(saved));
    let manifest = world.branch.read_manifest(&world.branch.backup(saved).await.unwrap()).await.unwrap();
    assert!(world.keys().await.contains(&format!("pack/{}", manifest.packs[0].name())));
    let nobody = world.branch.keep_backup(&label(29), Keep { until: None }, DAY).await.unwrap_err();
    assert!(matches!(nobody, KeepError::Repository(Error::Absent { .. })), "{nobody}");
}

#[tokio::test]
async fn what_was_cut_off_goes_and_what_runs_is_left_alone() {
    let world = World::aged(2).await;
    let (dead, running) = (label(20), label(21));
    world.begin(&dead, None).await;
    let mut packs = PackWriter::new(world.branch.clone(), dead.clone(), 1);
    packs.append(Bytes::from_static(b"half a backup")).await.unwrap();
    packs.finish().await.unwrap();
    world.store.pass(DAY);
    // It is compared with the oldest backup, which retention alone would not keep.
    world.begin(&running, Some(world.labels[0].clone())).await;
    let mut packs = PackWriter::new(world.branch.clone(), running.clone(), 1);
    packs.append(Bytes::from_static(b"what will be a backup")).await.unwrap();
    packs.finish().await.unwrap();
    for _ in 0..2 {
        world.branch.heartbeat(&running).await.unwrap();
        world.expire(Some(Retention::Full(1))).await;
        world.store.pass(DAY);
    }
    world.branch.heartbeat(&running).await.unwrap();
    world.expire(Some(Retention::Full(1))).await;
    let keys = world.keys().await;
    assert!(!keys.iter().any(|key| key.contains(dead.as_str())), "{keys:#?}");
    for name in [format!("backup/{running}/intent"), format!("pack/{running}/")] {
        assert!(keys.iter().any(|key| key.starts_with(&name)), "{name}");
    }
    assert!(world.listed().await.contains(&world.labels[0]), "what a running backup is compared with stays");
    assert!(keys.iter().any(|key| key.starts_with(&format!("pack/{}/", world.labels[0]))));
}

#[tokio::test]
async fn a_pack_stays_as_long_as_any_backup_names_it() {
    let mut world = World::aged(2).await;
    let child = label(3);
    world.segments(30..32).await;
    world.begin(&child, Some(world.labels[0].clone())).await;
    world.finish(&child, 3, &[&world.labels[0]]).await;
    world.labels.push(child.clone());
    world.segments(32..40).await;
    world.store.pass(DAY);
    for _ in 0..2 {
        world.expire(Some(Retention::Full(1))).await;
        world.store.pass(DAY * 2);
    }
    assert_eq!(world.listed().await, [child]);
    let packs = world.keys().await.into_iter().filter(|key| key.starts_with("pack/")).count();
    assert_eq!(packs, 2, "its own, and its parent's");
    world.check().await;
}

#[tokio::test]
async fn a_manifest_that_cannot_be_read_keeps_all_packs_and_all_wal() {
    let world = World::aged(4).await;
    let name = format!("backup/{}/manifest-00000001", world.labels[3]);
    let key = world.branch.key(&name.parse().unwrap());
    let good = world.branch.store().get(&key).await.unwrap();
    let mut bad = good.to_vec();
    bad[1040] ^= 1;
    world.branch.store().put(&key, bad.into()).await.unwrap();
    let (_, plan) = world.plan(window(1)).await;
    assert!(plan.held_back.iter().any(|why| why.contains(world.labels[3].as_str())), "{:?}", plan.held_back);
    let touched: Vec<_> = plan
        .removals
        .iter()
        .filter(|removal| {
            removal.key.as_str().starts_with("pack/") || removal.key.as_str().starts_with("wal/")
        })
        .collect();
    assert!(touched.is_empty(), "{touched:#?}");
}

#[tokio::test]
async fn fragments_go_only_where_the_whole_segment_has_the_same_bytes() {
    let world = World::aged(1).await;
    let facts = EpochFacts { timeline: TimelineId::FIRST, start: Lsn(20 * SEGMENT), slot: None };
    let epoch = world.branch.claim_epoch(facts).await.unwrap();
    let put = async |number: u64, from: u32, to: u32, byte: u8| {
        let content = Bytes::from(vec![byte; (to - from) as usize]);
        let time = ServerTime::from_unix_micros(0);
        world.branch.put_fragment(&epoch, segment(number), from, to, time, content).await.unwrap().key()
    };
    // Of a whole segment: the same bytes, in two pieces that overlap; and others.
    let equal = [put(12, 0, 8192, 12).await, put(12, 4096, 1 << 20, 12).await];
    let other = put(13, 0, 8192, 99).await;
    let tail = put(20, 0, 8192, 20).await;
    world.expire(window(1)).await;
    world.store.pass(DAY);
    let swept = world.expire(window(1)).await;
    let keys = world.keys().await;
    assert!(equal.iter().all(|key| !keys.contains(key.as_str())));
    assert!(keys.contains(other.as_str()) && keys.contains(tail.as_str()));
    assert!(swept.held_back.iter().any(|why| why.contains(other.as_str())), "{:?}", swept.held_back);
    assert!(
        keys.iter().any(|key| key.starts_with("epoch/")),
        "the last epoch stays: the next counts on from it"
    );
}

/// A journal as a directory has it: records of 4,096 times `byte`, and something behind them.
async fn journal(world: &World, epoch: &Epoch, number: u64, byte: u8, behind: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&format!("file://{}", folder.path().display()), &Default::default()).unwrap();
    Repository::create(store.clone()).await.unwrap();
    let repository = Repository::open(store.clone(), Sealing::plain(1), Unsealing::none()).await.unwrap();
    let facts = BranchFacts { segment_size: SegmentSize::new(SEGMENT).unwrap(), server_version: 150_018 };
    let branch = repository.begin_branch(&"main".parse().unwrap(), SystemId(42), facts).await.unwrap();
    let (time, piece) = (ServerTime::from_unix_micros(0), Bytes::from(vec![byte; 4096]));
    let mut journal = branch.begin_journal(epoch, segment(number), 0, time, &piece).await.unwrap();
    journal.append(time, &piece).await.unwrap();
    let key = journal.name().key();
    drop(journal);
    let object = [&store.get(&branch.key(&key)).await.unwrap()[..], behind].concat();
    world.branch.store().put(&world.branch.key(&key), object.into()).await.unwrap();
    key.to_string()
}

#[tokio::test]
async fn journals_go_only_where_the_whole_segment_has_the_same_bytes() {
    let world = World::aged(1).await;
    let facts = EpochFacts { timeline: TimelineId::FIRST, start: Lsn(20 * SEGMENT), slot: None };
    let epoch = world.branch.claim_epoch(facts).await.unwrap();
    // Closed, and as a crash leaves it.
    let equal =
        [journal(&world, &epoch, 12, 12, &[]).await, journal(&world, &epoch, 12, 12, &[0; 5000]).await];
    let other = journal(&world, &epoch, 13, 99, &[]).await;
    let tail = journal(&world, &epoch, 20, 20, &[]).await;
    // Nothing is in this one.
    let empty = equal[0].replace(&equal[0][equal[0].len() - 20..], "00000000feed.journal");
    let key = world.branch.key(&repository::Key::new(&empty).unwrap());
    world.branch.store().put(&key, Bytes::new()).await.unwrap();
    world.expire(window(1)).await;
    world.store.pass(DAY);
    let swept = world.expire(window(1)).await;
    let keys = world.keys().await;
    assert!(equal.iter().all(|key| !keys.contains(key)) && !keys.contains(&empty), "{keys:#?}");
    assert!(keys.contains(&other) && keys.contains(&tail));
    assert!(swept.held_back.iter().any(|why| why.contains(&other)), "{:?}", swept.held_back);
    assert!(keys.iter().any(|key| key.starts_with("epoch/")), "an epoch stays as long as its journals");
}

#[tokio::test]
async fn credentials_that_may_not_delete_are_told_and_no_error() {
    let world = World::aged(4).await;
    world.store.set_deletions(Deletions::Refused);
    world.expire(window(1)).await;
    world.store.pass(DAY);
    let before = world.keys().await;
    let swept = world.expire(window(1)).await;
    assert!(swept.deleted.is_empty());
    assert!(swept.refused.iter().any(|(key, _)| key.as_str().contains(world.labels[0].as_str())));
    assert!(world.keys().await.is_superset(&before));
    world.check().await;
    // Somebody who may.
    world.store.set_deletions(Deletions::Allowed);
    assert!(!world.expire(window(1)).await.deleted.is_empty());
    world.check().await;
}

/// The store goes away after any number of deletions: what is listed can be restored, and the next run goes on.
#[tokio::test]
async fn a_run_may_be_cut_off_anywhere() {
    let mut complete = false;
    for deletions in 0.. {
        if complete {
            assert!(deletions > 30, "{deletions} deletions are too few to show anything");
            return;
        }
        let world = World::aged(3).await;
        world.expire(window(1)).await;
        world.store.pass(DAY);
        let (survey, plan) = world.plan(window(1)).await;
        world.store.set_deletions(Deletions::FailAfter(deletions));
        complete = world.branch.sweep(&survey, &plan).await.is_ok();
        world.check().await;
        for backup in world.branch.all_backups().await.unwrap() {
            let manifest = world.branch.read_manifest(&backup).await.unwrap();
            for pack in &manifest.packs {
                assert!(world.keys().await.contains(&format!("pack/{}", pack.name())), "{}", backup.label);
            }
        }
        world.store.set_deletions(Deletions::Allowed);
        world.expire(window(1)).await;
        world.check().await;
        let keys = world.keys().await;
        assert!(!keys.iter().any(|key| key.contains(world.labels[0].as_str())), "{keys:#?}");
    }
}

/// A directory keeps what interrupted uploads have written. It goes after a silence, and nothing else does.
#[tokio::test(flavor = "multi_thread")]
async fn what_interrupted_uploads_have_left_goes() {
    let folder = tempfile::tempdir().unwrap();
    let store =
        Store::create(&format!("file://{}", folder.path().display()), &StorageConfig::default()).unwrap();
    Repository::create(store.clone()).await.unwrap();
    let repository = Repository::open(store, Sealing::plain(1), Unsealing::none()).await.unwrap();
    let facts = BranchFacts { segment_size: SegmentSize::new(SEGMENT).unwrap(), server_version: 150_018 };
    let branch = repository.begin_branch(&"main".parse().unwrap(), SystemId(42), facts).await.unwrap();
    let packs = folder.path().join(format!("main/42/pack/{}", label(1)));
    std::fs::create_dir_all(&packs).unwrap();
    let upload = |name: &str, age: Duration| {
        let path = packs.join(name);
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(1000).unwrap();
        file.set_modified(std::time::SystemTime::now() - age).unwrap();
        path
    };
    let (dead, alive) =
        (upload("00000000-0000000000000001#1", 2 * DAY), upload("00000001-0000000000000001#2", DAY / 2));
    let unknown = upload("what is this", 2 * DAY);
    let survey = Survey::make(&branch).await.unwrap();
    let plan = Plan::new(&survey, None, DAY);
    assert_eq!(plan.interrupted.iter().map(|file| &file.path).collect::<Vec<_>>(), [&dead]);
    let swept = branch.sweep(&survey, &plan).await.unwrap();
    assert_eq!(swept.freed_bytes, 1000);
    assert!(!dead.exists() && alive.exists() && unknown.exists());
}

#[tokio::test]
async fn old_records_of_runs_go_and_the_newest_of_each_outcome_stay() {
    let world = World::aged(1).await;
    let record = async |job, succeeded, day: i64| {
        let started_at = Timestamp::from_second(1_795_483_815 + day * 86_400).unwrap();
        let run = Run {
            format: RUN_FORMAT,
            job,
            succeeded,
            due_at: started_at,
            started_at,
            finished_at: started_at,
            program: "walkeep".into(),
            host: "db1".into(),
            message: None,
        };
        world.branch.record_run(&run).await.unwrap()
    };
    let failed = record(Job::Verify, false, 0).await;
    let first = record(Job::Verify, true, 1).await;
    let second = record(Job::Verify, true, 2).await;
    let drill = record(Job::Drill, true, 0).await;
    world.store.pass(31 * DAY);
    let young = record(Job::Full, true, 33).await;
    let (_, plan) = world.plan(None).await;
    let goes: Vec<String> = plan.removals.iter().map(|removal| removal.key.to_string()).collect();
    assert!(goes.contains(&first.key().to_string()), "{goes:?}");
    for stays in [&failed, &second, &drill, &young] {
        assert!(!goes.contains(&stays.key().to_string()), "{stays}");
    }
    world.expire(None).await;
    world.store.pass(2 * DAY);
    world.expire(None).await;
    assert_eq!(world.branch.recorded_runs().await.unwrap(), [failed, drill, second, young]);
    world.check().await;
}

#[tokio::test]
async fn looks_of_more_than_a_year_ago_go() {
    let world = World::aged(1).await;
    let keep = async |day: i64| {
        let figures = Figures {
            format: LOOK_FORMAT,
            at: Timestamp::from_second(1_795_483_815 + day * 86_400).unwrap(),
            program: "walkeep".into(),
            host: "db1".into(),
            databases: Vec::new(),
            tables: Vec::new(),
            log: None,
        };
        world.branch.keep_look(&figures).await.unwrap()
    };
    let old = keep(0).await;
    world.store.pass(2 * DAY);
    let young = keep(2).await;
    world.store.pass(399 * DAY);
    let (_, plan) = world.plan(None).await;
    let goes: Vec<String> = plan.removals.iter().map(|removal| removal.key.to_string()).collect();
    assert!(goes.contains(&old.key().to_string()) && !goes.contains(&young.key().to_string()), "{goes:?}");
    world.expire(None).await;
    world.store.pass(DAY / 2);
    world.expire(None).await;
    assert_eq!(world.branch.looks().await.unwrap(), [old, young.clone()], "what is condemned waits");
    world.store.pass(DAY);
    world.expire(None).await;
    assert_eq!(world.branch.looks().await.unwrap(), [young]);
    world.check().await;
}
