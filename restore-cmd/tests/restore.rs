//! A backup that was put into a repository comes out of it as it was, or not at all.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::path::Path;
use std::sync::Arc;

use proto::backup_manifest::BackupManifest;
use proto::page::BLOCK_SIZE;
use repository::catalogue::Inventory;
use repository::manifest::{Entry, EntryIndex};
use restore::execute::{Existing, Outcome, execute};
use restore::plan::{
    Archive, Content, FetchCommand, Options, Plan, RecoveryTarget, TargetAction, TimelineChoice, choose, plan,
};
use restore::program::Progress;
use support::*;

fn options(pgdata: &Path) -> Options {
    Options {
        pgdata: pgdata.to_owned(),
        backup: None,
        target: RecoveryTarget::Latest,
        exclusive: false,
        timeline: TimelineChoice::Latest,
        action: TargetAction::Promote,
        standby: false,
        primary: None,
        archive: Archive::Keep,
        tablespaces: Vec::new(),
    }
}

async fn restore(fixture: &Fixture, options: &Options) -> anyhow::Result<(Plan, Outcome)> {
    let branch = &fixture.branch;
    let inventory = Inventory::load(branch).await?;
    let choice = choose(&inventory, options)?;
    let time = inventory.time_before(branch, choice.lineage.timeline(), choice.wal_end).await?;
    let manifest = branch.index_manifest(&branch.backup(&choice.backup.label).await?).await?;
    let content = Content::of(manifest.entries.iter())?;
    let fetch = FetchCommand {
        program: "/usr/bin/restore-cmd".into(),
        config: None,
        repository: Some(fixture.url()),
        cluster: "main".into(),
        system_id: branch.system_id(),
    };
    let plan = plan(&choice, time, &content, options, &fetch)?;
    let outcome = execute(branch, manifest, &plan, Existing::Refuse, 2, &Progress::hidden()).await?;
    Ok((plan, outcome))
}

fn cannot_start(pgdata: &Path) {
    assert!(!pgdata.join("PG_VERSION").exists() && !pgdata.join("global/pg_control").exists());
    assert!(pgdata.join("walkeep-restore-unfinished").exists());
}

/// Files of several sizes, of several packs' frames, with holes, and one in a tablespace.
fn many() -> Vec<Made> {
    let mut made = usual(START);
    made.extend([
        whole("base/5/1259", noise(40 * BLOCK_SIZE + 77, 1)),
        whole("base/5/odd", noise(3_333_333, 2)),
        Made {
            path: "base/5/16400",
            size: 64 * BLOCK_SIZE as u64,
            pieces: vec![(0, vec![0; BLOCK_SIZE]), (20 * BLOCK_SIZE as u64, vec![0; 2 * BLOCK_SIZE])],
            crc: true,
        },
        Made { path: "sparse", size: 5_000_000, pieces: vec![(4_000_000, noise(999, 3))], crc: true },
        Made { path: "hole", size: 70_000, pieces: Vec::new(), crc: false },
        whole("standby.signal", ""),
        whole("pg_wal/archive_status/x.done", ""),
        whole("pg_tblspc/16384/PG_15_202209061/5/2", noise(100_000, 4)),
    ]);
    made
}

/// Nothing is staged elsewhere, and no commit waits for a standby that is not there
#[tokio::test]
async fn comes_back_as_it_was() {
    let fixture = Fixture::new().await;
    let old = fixture.home.path().join("old-space");
    let new = fixture.home.path().join("new-space");
    let made = many();
    fixture.backup(0, &made, &[(16_384, &old)]).await;
    fixture.segments(1, 2..4).await;
    let options = Options { tablespaces: vec![(old.clone(), new.clone())], ..options(&fixture.pgdata()) };
    let (plan, outcome) = restore(&fixture, &options).await.unwrap();
    let pgdata = fixture.pgdata();

    for file in made.iter().filter(|file| !matches!(file.path, "postgresql.auto.conf" | "standby.signal")) {
        let found = std::fs::read(pgdata.join(file.path)).unwrap_or_else(|_| panic!("{}", file.path));
        assert!(found == file.content(), "{}", file.path);
    }
    assert!(!pgdata.join("standby.signal").exists() && pgdata.join("recovery.signal").exists());
    assert!(!pgdata.join("walkeep-restore-unfinished").exists());
    assert!(pgdata.join("pg_xact").is_dir() && pgdata.join("pg_replslot").is_dir());
    assert_eq!(std::fs::read_link(pgdata.join("pg_tblspc/16384")).unwrap(), new);
    assert!(new.join("PG_15_202209061/5/2").exists() && !old.exists());
    let map = std::fs::read_to_string(pgdata.join("tablespace_map")).unwrap();
    assert_eq!(map, format!("16384 {}\n", new.display()));

    let auto = std::fs::read_to_string(pgdata.join("postgresql.auto.conf")).unwrap();
    assert!(auto.contains("work_mem = '8MB'") && !auto.contains("2020"), "{auto}");
    assert!(auto.contains("synchronous_standby_names = ''"), "{auto}");
    assert!(auto.contains("recovery_target_timeline = '1'"), "{auto}");
    assert!(outcome.notices.iter().any(|notice| notice.contains("synchronous_standby_names")));
    assert_eq!(plan.wal_to, proto::Lsn(0x40_0000));

    let manifest = std::fs::read(pgdata.join("backup_manifest")).unwrap();
    let manifest = BackupManifest::parse(&manifest).unwrap();
    assert_eq!(manifest.version, 1);
    for file in &manifest.files {
        let path = std::str::from_utf8(&file.path).unwrap();
        let content = std::fs::read(pgdata.join(path)).unwrap();
        assert_eq!(file.size, content.len() as u64, "{path}");
        let crc = file.checksum.as_ref().and_then(|checksum| checksum.crc32c());
        assert_eq!(crc, Some(proto::checksum::crc32c(&content)), "{path}");
    }
    assert!(manifest.files.iter().any(|file| file.path == b"pg_tblspc/16384/PG_15_202209061/5/2"));
}

/// The names of standbys may stand in a file that postgresql.conf includes.
#[tokio::test]
async fn no_commit_waits_because_of_an_included_file() {
    let fixture = Fixture::new().await;
    let mut made = usual(START);
    made.retain(|file| file.path != "postgresql.conf");
    made.push(whole("postgresql.conf", "include_dir = 'conf.d'\n"));
    made.push(whole("conf.d/names.conf", "synchronous_standby_names = 'walkeep'\n"));
    fixture.backup(0, &made, &[]).await;
    fixture.segments(1, 2..4).await;
    let (_, outcome) = restore(&fixture, &options(&fixture.pgdata())).await.unwrap();
    let auto = std::fs::read_to_string(fixture.pgdata().join("postgresql.auto.conf")).unwrap();
    assert!(auto.contains("synchronous_standby_names = ''"), "{auto}");
    assert!(outcome.notices.iter().any(|notice| notice.contains("an included file")));
}

#[tokio::test]
async fn unknown_page_damage_is_told_and_loses_nothing() {
    let fixture = Fixture::new().await;
    let mut made = usual(START);
    let mut page = vec![7; BLOCK_SIZE];
    page[..8].fill(0);
    made.push(whole("base/5/16500", page));
    fixture.backup(0, &made, &[]).await;
    fixture.segments(1, 2..4).await;
    let (_, outcome) = restore(&fixture, &options(&fixture.pgdata())).await.unwrap();
    assert_eq!(outcome.damage.listed, [("base/5/16500".to_owned(), 0)]);
    assert!(fixture.pgdata().join("global/pg_control").exists());
}

/// Flips a byte in the middle of the first object below `folder`.
fn damage(fixture: &Fixture, folder: &str) {
    let root = fixture.home.path().join("repository/main").join(system_id().to_string()).join(folder);
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mut object = std::fs::read(&path).unwrap();
            let middle = object.len() / 2;
            object[middle] ^= 0x10;
            std::fs::write(&path, object).unwrap();
            return;
        }
    }
    panic!("there is no object in {folder}");
}

#[tokio::test]
async fn a_damaged_object_is_named_and_leaves_nothing_that_starts() {
    let fixture = Fixture::new().await;
    fixture.backup(0, &many()[..9], &[]).await;
    fixture.segments(1, 2..4).await;
    damage(&fixture, "pack");
    let error = restore(&fixture, &options(&fixture.pgdata())).await.unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.contains("pack/") && text.contains("damaged") && text.contains("cannot be started"),
        "{text}"
    );
    cannot_start(&fixture.pgdata());
}

#[tokio::test]
async fn content_that_is_not_the_manifests_is_refused() {
    let fixture = Fixture::new().await;
    let mut made = usual(START);
    // The same bytes in another order: each frame is right, the file is not.
    made.push(Made {
        path: "base/5/77",
        size: 20,
        pieces: vec![(0, vec![1; 10]), (10, vec![2; 10])],
        crc: true,
    });
    let head = fixture.backup(0, &made, &[]).await;
    fixture.segments(1, 2..4).await;
    let reference = fixture.branch.backup(&head.label).await.unwrap();
    let mut manifest = fixture.branch.index_manifest(&reference).await.unwrap();
    let mut changed = EntryIndex::default();
    for entry in manifest.entries.iter() {
        let mut entry = entry.unwrap();
        if let Entry::File { path, crc32c, .. } = &mut entry
            && path.as_bytes() == b"base/5/77"
        {
            *crc32c = crc32c.map(|crc| crc ^ 1);
        }
        changed.push(&entry).unwrap();
    }
    changed.close().unwrap();
    manifest.entries = changed;
    let content = Content::of(manifest.entries.iter()).unwrap();
    let options = options(&fixture.pgdata());
    let choice = choose(&Inventory::load(&fixture.branch).await.unwrap(), &options).unwrap();
    let fetch = FetchCommand {
        program: "/x".into(),
        config: None,
        repository: None,
        cluster: "main".into(),
        system_id: system_id(),
    };
    let plan = plan(&choice, None, &content, &options, &fetch).unwrap();
    let done = execute(&fixture.branch, manifest, &plan, Existing::Refuse, 2, &Progress::hidden()).await;
    let error = format!("{:#}", done.unwrap_err());
    assert!(error.contains("base/5/77") && error.contains("CRC-32C"), "{error}");
    cannot_start(&fixture.pgdata());
}

#[tokio::test]
async fn without_backup_label_nothing_is_startable() {
    let fixture = Fixture::new().await;
    let made: Vec<Made> = usual(START).into_iter().filter(|file| file.path != "backup_label").collect();
    fixture.backup(0, &made, &[]).await;
    fixture.segments(1, 2..4).await;
    let error = restore(&fixture, &options(&fixture.pgdata())).await.unwrap_err();
    assert!(format!("{error:#}").contains("backup_label"), "{error:#}");
    cannot_start(&fixture.pgdata());
}

#[tokio::test]
async fn a_missing_segment_is_noticed_before_anything_is_written() {
    let fixture = Fixture::new().await;
    fixture.backup(0, &usual(START), &[]).await;
    fixture.segments(1, 2..4).await;
    fixture.segments(1, 5..6).await;
    let error = restore(&fixture, &options(&fixture.pgdata())).await.unwrap_err();
    assert!(error.to_string().contains("WAL is missing from 0/400000 to 0/500000"), "{error}");
    assert!(!fixture.pgdata().exists());
}

#[tokio::test]
async fn two_restores_do_not_share_a_directory() {
    let fixture = Arc::new(Fixture::new().await);
    fixture.backup(0, &many()[..9], &[]).await;
    fixture.segments(1, 2..4).await;
    let restores = (0..2).map(|_| {
        let fixture = fixture.clone();
        tokio::spawn(async move { restore(&fixture, &options(&fixture.pgdata())).await.is_ok() })
    });
    let done = futures::future::join_all(restores).await;
    assert_eq!(done.into_iter().filter(|done| *done.as_ref().unwrap()).count(), 1);
    assert!(fixture.pgdata().join("global/pg_control").exists());
}
