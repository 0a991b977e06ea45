//! Dumps in a repository: written, read, cut off, let go.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use proto::SystemId;
use proto::config::{DumpFormat, DumpRetention};
use proto::wal::SegmentSize;
use repository::dump::{
    Contents, DUMP_FORMAT, DumpFile, DumpIntent, DumpLabel, Dumps, Part, PartKind, Selection,
};
use repository::retention::{Plan, Survey};
use repository::{Branch, BranchFacts, Error, Repository, Sealing, Store, Unsealing};
use tokio::task::spawn_blocking;

const HOUR: SignedDuration = SignedDuration::from_hours(1);
const DAY: Duration = Duration::from_secs(24 * 3600);

async fn branch(folder: &Path) -> Branch {
    let store = Store::open(&format!("file://{}", folder.display()), &Default::default()).unwrap();
    Repository::create(store.clone()).await.unwrap();
    let repository = Repository::open(store, Sealing::plain(1), Unsealing::none()).await.unwrap();
    let facts = BranchFacts { segment_size: SegmentSize::DEFAULT, server_version: 150_018 };
    repository.begin_branch(&"main".parse().unwrap(), SystemId(7), facts).await.unwrap()
}

async fn begin(branch: &Branch) -> DumpLabel {
    let label = branch.next_dump(Timestamp::now()).await.unwrap();
    let intent = DumpIntent {
        label: label.clone(),
        host: "db1".into(),
        pid: 4711,
        writer: branch.writer(),
        started_at: Timestamp::now(),
    };
    branch.begin_dump(&intent).await.unwrap();
    label
}

async fn file(branch: &Branch, label: &DumpLabel, number: u32, content: Vec<u8>) -> DumpFile {
    let mut writer = branch.write_dump_file(label, number).await.unwrap();
    let written = spawn_blocking(move || {
        writer.write_all(&content).unwrap();
        writer.finish(None).unwrap()
    });
    written.await.unwrap()
}

fn contents(label: &DumpLabel, database: &str, file: DumpFile) -> Contents {
    Contents {
        format: DUMP_FORMAT,
        label: label.clone(),
        server_version: 150_018,
        tool_version: "15.18".into(),
        from_standby: false,
        started_at: Timestamp::UNIX_EPOCH,
        finished_at: Timestamp::UNIX_EPOCH,
        note: None,
        selection: Selection { databases: Some(vec![database.into()]), ..Selection::default() },
        parts: vec![Part {
            kind: PartKind::Database,
            database: Some(database.into()),
            format: DumpFormat::Custom,
            files: vec![file],
        }],
    }
}

async fn take(branch: &Branch, database: &str) -> DumpLabel {
    let label = begin(branch).await;
    let file = file(branch, &label, 0, vec![7; 100_000]).await;
    branch.put_dump(&contents(&label, database, file)).await.unwrap();
    label
}

async fn read(branch: &Branch, label: &DumpLabel, file: &DumpFile) -> Result<Vec<u8>, Error> {
    let mut reader = branch.read_dump_file(label, file).await?;
    let read = spawn_blocking(move || {
        let mut content = Vec::new();
        reader.read_to_end(&mut content).map_err(|error| reader.failure(error)).map(|_| content)
    });
    read.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_is_there_when_its_contents_are_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let branch = branch(folder.path()).await;
    let label = begin(&branch).await;
    let content: Vec<u8> = (0..600_000u32).map(|n| (n / 7) as u8).collect();
    let file = file(&branch, &label, 0, content.clone()).await;
    assert!(branch.dumps().await.unwrap().is_empty());
    assert!(branch.read_dump(&label).await.unwrap_err().is_absent());
    assert_eq!(branch.unfinished_dumps().await.unwrap().len(), 1);
    let whole = contents(&label, "shop", file.clone());

    // What names something else than the store has is refused, and nothing is listed.
    let longer = DumpFile { stored_bytes: file.stored_bytes + 1, ..file.clone() };
    let error = branch.put_dump(&contents(&label, "shop", longer)).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    let other = DumpFile { object: "file-00000009-00000000000000a1".parse().unwrap(), ..file.clone() };
    assert!(branch.put_dump(&contents(&label, "shop", other)).await.unwrap_err().is_absent());
    assert!(branch.dumps().await.unwrap().is_empty());

    branch.put_dump(&whole).await.unwrap();
    assert_eq!(branch.dumps().await.unwrap(), std::slice::from_ref(&label));
    assert_eq!(branch.read_dump(&label).await.unwrap(), whole);
    assert!(read(&branch, &label, &file).await.unwrap() == content);
    assert!(branch.put_dump(&whole).await.is_err(), "a dump is complete once");
    assert!(branch.withdraw_dump(&label).await.is_err(), "what is complete is not taken back");
    assert!(branch.unfinished_dumps().await.unwrap().is_empty());

    // Another object under the name would be noticed even if it were whole in itself.
    let wrong = DumpFile { digest: proto::Digest::of(b"x"), ..file };
    let error = read(&branch, &label, &wrong).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_back_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let branch = branch(folder.path()).await;
    let kept = take(&branch, "shop").await;
    let label = begin(&branch).await;
    assert!(kept < label);
    file(&branch, &label, 0, b"x".to_vec()).await;
    branch.dump_heartbeat(&label).await.unwrap();
    branch.withdraw_dump(&label).await.unwrap();
    assert!(branch.unfinished_dumps().await.unwrap().is_empty());
    assert_eq!(branch.dumps().await.unwrap(), [kept]);
}

/// What stays after a day and an hour have passed by the survey's clock, with these rules.
async fn after(branch: &Branch, retention: DumpRetention, hours: i32) -> Vec<DumpLabel> {
    for pass in [HOUR * hours, HOUR * (hours + 25)] {
        let survey = Survey::make_at(branch, Timestamp::now() + pass).await.unwrap();
        let plan = Plan::with_dumps(&survey, None, retention, DAY);
        branch.sweep(&survey, &plan).await.unwrap();
    }
    branch.all_dumps().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_series_keeps_its_newest() {
    let folder = tempfile::tempdir().unwrap();
    let branch = branch(folder.path()).await;
    let mut shop = Vec::new();
    for _ in 0..3 {
        shop.push(take(&branch, "shop").await);
    }
    let other = take(&branch, "other").await;
    let cut_off = begin(&branch).await;
    file(&branch, &cut_off, 0, b"x".to_vec()).await;

    // Nobody knows yet that it is dead, and without a rule all stay.
    let all: Vec<_> = shop.iter().chain([&other]).cloned().collect();
    let survey = Survey::make_at(&branch, Timestamp::now()).await.unwrap();
    let plan = Plan::with_dumps(&survey, None, DumpRetention::default(), DAY);
    assert!(plan.removals.is_empty() && plan.dumps.iter().all(|verdict| verdict.is_kept()), "{plan:?}");
    assert_eq!(after(&branch, DumpRetention::default(), 1).await, all);
    assert!(branch.unfinished_dumps().await.unwrap().is_empty(), "what was cut off has gone");

    let keep = |keep, hours: Option<u64>| DumpRetention {
        keep,
        window: hours.map(|hours| Duration::from_secs(hours * 3600)),
    };
    assert_eq!(after(&branch, keep(Some(3), None), 1).await, all);
    assert_eq!(after(&branch, keep(None, Some(100)), 1).await, all);
    assert_eq!(after(&branch, keep(Some(1), Some(100)), 1).await, all, "what either keeps stays");
    assert_eq!(
        after(&branch, keep(Some(2), Some(1)), 2).await,
        [&shop[1], &shop[2], &other].map(Clone::clone)
    );
    assert_eq!(after(&branch, keep(None, Some(1)), 2).await, [shop[2].clone(), other.clone()]);
    let left = branch.store().list(branch.root()).await.unwrap();
    let of_gone = |label: &DumpLabel| left.iter().any(|object| object.key.as_str().contains(label.as_str()));
    assert!(!of_gone(&shop[0]) && !of_gone(&shop[1]) && of_gone(&shop[2]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_condemned_is_not_offered_and_what_cannot_be_read_stays() {
    let folder = tempfile::tempdir().unwrap();
    let branch = branch(folder.path()).await;
    let (first, second) = (take(&branch, "shop").await, take(&branch, "shop").await);
    let broken = take(&branch, "shop").await;
    let key = format!("main/7/dump/{broken}/contents");
    std::fs::write(folder.path().join(key), b"no object of ours").unwrap();
    let survey = Survey::make_at(&branch, Timestamp::now() + HOUR).await.unwrap();
    let rule = DumpRetention { keep: Some(1), window: None };
    let plan = Plan::with_dumps(&survey, None, rule, DAY);
    let swept = branch.sweep(&survey, &plan).await.unwrap();
    assert!(swept.deleted.is_empty());
    assert_eq!(branch.dumps().await.unwrap(), [second.clone(), broken.clone()]);
    assert_eq!(branch.all_dumps().await.unwrap(), [first, second, broken.clone()]);
    let dumps = Dumps::load(&branch).await.unwrap();
    assert_eq!((dumps.whole.len(), &dumps.unreadable[0].0), (1, &broken));
}

/// What has lost a file is no dump to rely on: it is not counted, and an older one stays in its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_lacks_a_file_replaces_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let branch = branch(folder.path()).await;
    let mut labels = Vec::new();
    for _ in 0..3 {
        labels.push(take(&branch, "shop").await);
    }
    let file = branch.read_dump(&labels[2]).await.unwrap().files().next().unwrap().object.clone();
    std::fs::remove_file(folder.path().join(format!("main/7/dump/{}/{file}", labels[2]))).unwrap();
    let rule = DumpRetention { keep: Some(1), window: None };
    assert_eq!(after(&branch, rule, 1).await, labels[1..]);
}
