//! `--delta`: what is right stays, everything else becomes what it should be, and nothing outside is touched.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod support;

use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use proto::page::BLOCK_SIZE;
use repository::catalogue::Inventory;
use restore::execute::{Existing, Outcome, execute, foreign};
use restore::plan::{
    Archive, Content, FetchCommand, Options, RecoveryTarget, TargetAction, TimelineChoice, choose, plan,
};
use restore::program::Progress;
use support::*;

/// Restores to the fixture's directory, and moves the only tablespace to `space`.
async fn restore(fixture: &Fixture, space: &Path, existing: Existing) -> anyhow::Result<Outcome> {
    let branch = &fixture.branch;
    let options = Options {
        pgdata: fixture.pgdata(),
        backup: None,
        target: RecoveryTarget::Latest,
        exclusive: false,
        timeline: TimelineChoice::Latest,
        action: TargetAction::Promote,
        standby: false,
        primary: None,
        archive: Archive::Keep,
        tablespaces: vec![("/lost/space".into(), space.to_owned())],
    };
    let choice = choose(&Inventory::load(branch).await?, &options)?;
    let manifest = branch.index_manifest(&branch.backup(&choice.backup.label).await?).await?;
    let content = Content::of(manifest.entries.iter())?;
    let fetch = FetchCommand {
        program: "/usr/bin/restore-cmd".into(),
        config: None,
        repository: None,
        cluster: "main".into(),
        system_id: branch.system_id(),
    };
    let plan = plan(&choice, None, &content, &options, &fetch)?;
    execute(branch, manifest, &plan, existing, 2, &Progress::hidden()).await
}

fn delta() -> Existing {
    Existing::Delta(system_id())
}

const PAGES: usize = 400;

fn made() -> Vec<Made> {
    let mut made = usual(START);
    made.extend([
        whole("base/5/1259", noise(PAGES * BLOCK_SIZE, 1)),
        whole("base/5/odd", noise(3_333_333, 2)),
        Made { path: "sparse", size: 5_000_000, pieces: vec![(4_000_000, noise(999, 3))], crc: true },
        Made { path: "hole", size: 70_000, pieces: Vec::new(), crc: true },
        whole("zeros", vec![0; 4 << 20]),
        whole("pg_tblspc/16384/PG_15_202209061/5/2", noise(3_000_000, 4)),
    ]);
    made
}

async fn fixture(made: &[Made]) -> Fixture {
    let fixture = Fixture::new().await;
    fixture.backup(0, made, &[(16_384, Path::new("/lost/space"))]).await;
    fixture.segments(1, 2..4).await;
    fixture
}

/// Every file is as the backup has it.
fn assert_whole(fixture: &Fixture, made: &[Made]) {
    let pgdata = fixture.pgdata();
    for file in made.iter().filter(|file| file.path != "postgresql.auto.conf") {
        let found = std::fs::read(pgdata.join(file.path)).unwrap_or_else(|_| panic!("{}", file.path));
        assert!(found == file.content(), "{}", file.path);
    }
    assert!(!pgdata.join("walkeep-restore-unfinished").exists());
}

#[tokio::test]
async fn what_is_right_stays_and_nothing_else() {
    let made = made();
    let fixture = fixture(&made).await;
    let (pgdata, space) = (fixture.pgdata(), fixture.home.path().join("space"));
    let outside = fixture.home.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("kept"), "x").unwrap();
    // Into a directory that is not there it is a plain restore.
    let whole = restore(&fixture, &space, delta()).await.unwrap();
    assert_eq!(whole.kept_bytes, 0);
    assert_whole(&fixture, &made);
    // Zeros take no room.
    assert!(pgdata.join("zeros").metadata().unwrap().blocks() * 512 < 1 << 20);

    let open = |path: &str| std::fs::File::options().write(true).open(pgdata.join(path)).unwrap();
    open("base/5/1259").write_all_at(b"damaged", 200 * BLOCK_SIZE as u64).unwrap();
    open("base/5/odd").set_len(1_000_000).unwrap();
    open("sparse").write_all_at(b"not a hole any more", 100).unwrap();
    open("hole").set_len(100_000).unwrap();
    std::fs::write(pgdata.join("base/5/foreign"), "x").unwrap();
    std::fs::create_dir_all(pgdata.join("base/99/deep")).unwrap();
    std::fs::write(pgdata.join("pg_wal/000000010000000000000009"), "another history").unwrap();
    std::fs::remove_file(pgdata.join("pg_ident.conf")).unwrap();
    symlink(&outside, pgdata.join("link")).unwrap();
    symlink(outside.join("kept"), pgdata.join("recovery.done")).unwrap();
    // A file that has become a folder, and one that is a link to the right content.
    std::fs::remove_file(pgdata.join("zeros")).unwrap();
    std::fs::create_dir_all(pgdata.join("zeros/0")).unwrap();
    let tablespace = "pg_tblspc/16384/PG_15_202209061/5";
    std::fs::write(pgdata.join(tablespace).join("foreign"), "x").unwrap();

    let again = restore(&fixture, &space, delta()).await.unwrap();
    assert_whole(&fixture, &made);
    for gone in ["base/5/foreign", "base/99", "pg_wal/000000010000000000000009", "link", "recovery.done"] {
        assert!(std::fs::symlink_metadata(pgdata.join(gone)).is_err(), "{gone}");
    }
    assert!(!pgdata.join(tablespace).join("foreign").exists());
    assert!(outside.join("kept").exists());
    assert_eq!(again.kept_bytes + again.read_bytes, whole.read_bytes);
    assert!(again.kept_bytes > 3_000_000, "{again:?}");

    // Nothing is wrong but what every restore writes: little is read.
    let third = restore(&fixture, &space, delta()).await.unwrap();
    assert_whole(&fixture, &made);
    assert!(third.read_bytes < again.read_bytes, "{third:?}");
}

#[tokio::test]
async fn only_the_directory_of_this_cluster_is_touched() {
    let made = made();
    let fixture = fixture(&made).await;
    let (pgdata, space) = (fixture.pgdata(), fixture.home.path().join("space"));
    let refusal = async || format!("{:#}", restore(&fixture, &space, delta()).await.unwrap_err());
    std::fs::create_dir_all(pgdata.join("global")).unwrap();
    std::fs::write(pgdata.join("letter"), "dear").unwrap();
    assert!(refusal().await.contains("no data directory"));
    std::fs::write(pgdata.join("PG_VERSION"), "15\n").unwrap();
    assert!(refusal().await.contains("nobody can tell"));
    let other = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/tests/golden/18/pg_control");
    std::fs::copy(other, pgdata.join("global/pg_control")).unwrap();
    assert!(refusal().await.contains("belongs to cluster"));
    assert!(pgdata.join("letter").exists() && pgdata.join("global/pg_control").exists());
    std::fs::write(pgdata.join("global/pg_control"), control()).unwrap();
    restore(&fixture, &space, delta()).await.unwrap();
    assert_whole(&fixture, &made);
    assert!(!pgdata.join("letter").exists());
}

#[tokio::test]
async fn a_restore_that_was_cut_off_goes_on() {
    let made = made();
    let fixture = fixture(&made).await;
    let (pgdata, space) = (fixture.pgdata(), fixture.home.path().join("space"));
    restore(&fixture, &space, Existing::Refuse).await.unwrap();
    // As if it had been killed before its last steps.
    let mark = format!("…\nSystem identifier: {}\nTablespace 16384: {}\n", system_id(), space.display());
    std::fs::write(pgdata.join("walkeep-restore-unfinished"), mark).unwrap();
    for gone in ["PG_VERSION", "global/pg_control", "pg_tblspc/16384", "backup_label"] {
        std::fs::remove_file(pgdata.join(gone)).unwrap();
    }
    let done = restore(&fixture, &space, delta()).await.unwrap();
    assert_whole(&fixture, &made);
    assert!(done.kept_bytes > 0);
    // The mark of another cluster's restore.
    std::fs::write(pgdata.join("walkeep-restore-unfinished"), "System identifier: 7\n").unwrap();
    let error = restore(&fixture, &space, delta()).await.unwrap_err();
    assert!(error.to_string().contains("belongs to cluster 7"), "{error}");
}

/// What a dry run tells of is what goes.
#[tokio::test]
async fn what_would_be_removed_is_told_beforehand() {
    let fixture = fixture(&made()).await;
    let space = fixture.home.path().join("space");
    restore(&fixture, &space, Existing::Refuse).await.unwrap();
    let (branch, pgdata) = (&fixture.branch, fixture.pgdata());
    let backup = branch.backups().await.unwrap().pop().unwrap();
    let manifest = branch.index_manifest(&backup).await.unwrap().entries;
    let own = foreign(&pgdata, &[], &manifest).unwrap().entries;
    std::fs::write(pgdata.join("base/5/letter"), "dear").unwrap();
    std::fs::create_dir_all(pgdata.join("a/b")).unwrap();
    symlink("/", pgdata.join("root")).unwrap();
    let found = foreign(&pgdata, &[], &manifest).unwrap();
    assert_eq!(found.entries, own + 3);
    for name in ["a", "base/5/letter"] {
        assert!(found.first.iter().any(|known| known == name), "{found:?}");
    }
    assert!(found.first.is_sorted() && found.first.len() <= 10);
    assert_eq!(foreign(&fixture.home.path().join("nothing"), &[], &manifest).unwrap().entries, 0);
}

/// The backup's tablespace lies where another server of the same cluster has its own.
#[tokio::test]
async fn the_original_s_tablespace_is_not_the_clone_s() {
    let made = made();
    let fixture = fixture(&made).await;
    let theirs = fixture.home.path().join("theirs");
    restore(&fixture, &fixture.home.path().join("ours"), Existing::Refuse).await.unwrap();
    let file = theirs.join("PG_15_202209061/5/2");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "alive").unwrap();
    for existing in [delta(), Existing::Replace] {
        let error = restore(&fixture, &theirs, existing).await.unwrap_err();
        assert!(error.to_string().contains("not known to be a tablespace"), "{error}");
        assert_eq!(std::fs::read(&file).unwrap(), b"alive");
        assert_whole(&fixture, &made);
    }
    // What a server of another version has beside the backup's folder stays.
    let other = fixture.home.path().join("ours/PG_13_202007201");
    std::fs::create_dir(&other).unwrap();
    for existing in [delta(), Existing::Replace] {
        restore(&fixture, &fixture.home.path().join("ours"), existing).await.unwrap();
        assert_whole(&fixture, &made);
        assert!(other.exists());
    }
}
