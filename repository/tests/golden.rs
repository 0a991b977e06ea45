//! A repository that version 1 of the format has written is read for ever.
//!
//! `golden/repository` is one, with one object of each kind that a base backup and its WAL need. It is made
//! anew by `WALKEEP_GOLDEN=write`, and that only together with a new version of the format.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]
#![allow(clippy::single_range_in_vec_init, reason = "a list of ranges with one range in it is meant")]

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::TryStreamExt;
use jiff::{Timestamp, ToSpan};
use proto::config::DumpFormat;
use proto::wal::{SegmentName, SegmentSize, WalFile};
use proto::{Digest, Lsn, ServerTime, SystemId, TimelineId};
use repository::backup::{BackupKind, BackupLabel, Intent};
use repository::catalogue::Inventory;
use repository::drill::{Check, PROOF_FORMAT, Proof, ProofBackup, ProofTarget, Reached, Took, Verdict};
use repository::dump::{Contents, DUMP_FORMAT, DumpFile, Part, PartKind, Selection};
use repository::look::{DatabaseFigures, Figures, LOOK_FORMAT, LogPosition, TableFigures};
use repository::manifest::{
    Controls, Entry, ExternalConfig, MANIFEST_FORMAT, Manifest, ManifestHead, RawBytes, SafePath, Tablespace,
    WalRange,
};
use repository::pack::{FRAME_SIZE, PackReader, PackWriter};
use repository::run::{Job, RUN_FORMAT, Run};
use repository::{Branch, BranchFacts, EpochFacts, Repository, Sealing, Store, Unsealing};

const SYSTEM: SystemId = SystemId(7_312_345_678_901_234_567);

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn label() -> BackupLabel {
    "20261124T013015Z-full-1a2b3c".parse().unwrap()
}

fn segment(number: u32) -> SegmentName {
    SegmentName { timeline: TimelineId::FIRST, log: 0, seg: number }
}

/// A segment that compresses well.
fn wal(number: u32) -> Bytes {
    let mut bytes = vec![0; 1 << 20];
    bytes[..11].copy_from_slice(format!("segment {number:>3}").as_bytes());
    bytes.into()
}

/// More than a frame, and different in each.
fn table() -> Bytes {
    (0..FRAME_SIZE + 1000).map(|at| (at / 10_000) as u8).collect::<Vec<_>>().into()
}

const CONFIG: &[u8] = b"port = 5433\n";

async fn open(directory: &Path) -> Repository {
    let store = Store::open(&format!("file://{}", directory.display()), &Default::default()).unwrap();
    Repository::open(store, Sealing::plain(1), Unsealing::none()).await.unwrap()
}

fn history() -> (WalFile, Bytes) {
    let timeline = TimelineId::new(2).unwrap();
    (WalFile::History(timeline), Bytes::from_static(b"1\t0/380000\tno recovery target specified\n"))
}

async fn write(directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    let store = Store::open(&format!("file://{}", directory.display()), &Default::default()).unwrap();
    Repository::create(store).await.unwrap();
    let facts = BranchFacts { segment_size: SegmentSize::new(1 << 20).unwrap(), server_version: 150_018 };
    let branch = open(directory).await.begin_branch(&"main".parse().unwrap(), SYSTEM, facts).await.unwrap();
    let intent = Intent {
        label: label(),
        parent: None,
        host: "db1".into(),
        pid: 4711,
        writer: branch.writer(),
        started_at: label().started(),
    };
    branch.begin_backup(&intent).await.unwrap();
    branch.heartbeat(&label()).await.unwrap();
    let mut packs = PackWriter::new(branch.clone(), label(), 1);
    let table_extents = packs.append(table()).await.unwrap();
    let config_extents = packs.append(Bytes::from_static(CONFIG)).await.unwrap();
    let path = |text: &[u8]| SafePath::new(text).unwrap();
    let file = |path, size: usize, extents, crc32c| {
        let size = size as u64;
        Entry::File { path, size, mode: 0o600, mtime: 1_700_000_000, crc32c, extents }
    };
    let external = path(b".walkeep-external/etc/postgresql.conf");
    let entries = vec![
        file(external.clone(), CONFIG.len(), config_extents, None),
        Entry::Directory { path: path(b"base"), mode: 0o700 },
        file(path(b"base/1 odd\xFF"), table().len() + 8192, table_extents, Some(0x0123_abcd)),
        file(path(b"pg_tblspc/16384/PG_15_202209061/5/1"), 8192, Vec::new(), None),
    ];
    let server_manifest = Bytes::from_static(b"{ \"PostgreSQL-Backup-Manifest-Version\": 1 }\n");
    let server_manifest = branch.put_server_manifest(&label(), server_manifest).await.unwrap();
    let packs = packs.finish().await.unwrap();
    let mut head = ManifestHead {
        format: MANIFEST_FORMAT,
        label: label(),
        kind: BackupKind::Full,
        parent: None,
        cluster: branch.cluster().clone(),
        system_id: SYSTEM,
        server_version: 150_018,
        segment_size: branch.segment_size(),
        data_checksums: true,
        timeline: TimelineId::FIRST,
        start_lsn: Lsn(0x20_0028),
        checkpoint_lsn: Lsn(0x20_0060),
        stop_timeline: TimelineId::FIRST,
        stop_lsn: Lsn(0x20_0100),
        started_at: label().started(),
        finished_at: Timestamp::from_microsecond(1_795_483_816_123_456).unwrap(),
        from_standby: false,
        label_note: Some("before the \"upgrade\"\t".into()),
        size_bytes: 1_069_756,
        stored_bytes: packs.iter().map(|pack| pack.stored_length()).sum(),
        tablespaces: vec![Tablespace { oid: 16384, location: RawBytes(b"/srv/a b\xFF".to_vec()) }],
        wal_ranges: vec![WalRange {
            timeline: TimelineId::FIRST,
            start_lsn: Lsn(0x20_0028),
            end_lsn: Lsn(0x20_0100),
        }],
        server_manifest: Some(server_manifest),
        damaged_page_count: 0,
        damaged_pages: Vec::new(),
        external_config: vec![ExternalConfig {
            role: "config_file".into(),
            original_path: RawBytes(b"/etc/postgresql.conf".to_vec()),
            path: external,
        }],
        controls: Controls { max_connections: 100, max_worker_processes: 8, ..Controls::default() },
    };
    head.record_damage(&path(b"base/1 odd\xFF"), 7);
    branch.put_manifest(&Manifest { head, packs, entries }).await.unwrap();

    let (file, content) = history();
    branch.put_wal_file(file, content).await.unwrap();
    let time = ServerTime::from_unix_micros(1_795_483_817_000_000);
    for number in [2, 3] {
        branch.put_segment(segment(number), Digest::of(&wal(number)), Some(time), wal(number)).await.unwrap();
    }
    let facts =
        EpochFacts { timeline: TimelineId::FIRST, start: Lsn(0x30_0000), slot: Some("walkeep".into()) };
    let epoch = branch.claim_epoch(facts).await.unwrap();
    for (from, to) in [(0u32, 4096u32), (4096, 5000)] {
        let content = wal(4).slice(from as usize..to as usize);
        branch.put_fragment(&epoch, segment(4), from, to, time, content).await.unwrap();
    }
    let manifest = branch.read_manifest(&branch.backup(&label()).await.unwrap()).await.unwrap();
    fs::write(golden("manifest.txt"), manifest.write(Vec::new()).unwrap()).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

async fn read_file(branch: &Branch, manifest: &Manifest, path: &[u8]) -> Vec<u8> {
    let entry = manifest.entries.iter().find(|entry| entry.path().as_bytes() == path).unwrap();
    let Entry::File { size, extents, .. } = entry else { panic!("{path:?} is no file") };
    let mut content = vec![0; *size as usize];
    for extent in extents {
        let wanted = [extent.pack_offset..extent.pack_offset + extent.length];
        let pack = &manifest.packs[extent.pack as usize];
        let mut pieces = PackReader::read(branch, pack, &wanted, 1).await.unwrap();
        while let Some((offset, piece)) = pieces.try_next().await.unwrap() {
            let at = (extent.file_offset + offset - extent.pack_offset) as usize;
            content[at..at + piece.len()].copy_from_slice(&piece);
        }
    }
    content
}

/// Where the journals of segment 5 lie.
const TAIL: &str = "main/7312345678901234567/wal/00000001/00000000/tail/000000010000000000000005";

/// A journal that was closed, and one that was not: the disk has made room behind its last record.
async fn write_journals(directory: &Path) {
    copy(&golden("repository"), directory);
    let branch = open(directory).await.only_branch(&"main".parse().unwrap()).await.unwrap();
    let facts = EpochFacts { timeline: TimelineId::FIRST, start: Lsn(0x50_0000), slot: None };
    let epoch = branch.claim_epoch(facts).await.unwrap();
    let time = |second: i64| ServerTime::from_unix_micros(1_795_483_900_000_000 + second * 1_000_000);
    let piece = |from, to| wal(5).slice(from..to);
    let mut closed = branch.begin_journal(&epoch, segment(5), 0, time(1), &piece(0, 300)).await.unwrap();
    closed.append(time(2), &piece(300, 9000)).await.unwrap();
    drop(closed);
    let mut open = branch.begin_journal(&epoch, segment(5), 9000, time(3), &piece(9000, 9500)).await.unwrap();
    open.append(time(4), &piece(9500, 10_000)).await.unwrap();
    copy(&directory.join(TAIL), &golden("journals"));
}

#[tokio::test]
async fn journals_of_version_1_are_read_as_ever() {
    let write = std::env::var("WALKEEP_GOLDEN").is_ok_and(|value| value == "write");
    if write && !golden("journals").exists() {
        let folder = tempfile::tempdir().unwrap();
        write_journals(folder.path()).await;
    }
    let folder = tempfile::tempdir().unwrap();
    copy(&golden("repository"), folder.path());
    copy(&golden("journals"), &folder.path().join(TAIL));
    let branch = open(folder.path()).await.only_branch(&"main".parse().unwrap()).await.unwrap();
    let tail = branch.read_tail(segment(5)).await.unwrap().unwrap();
    assert!(tail.valid == 10_000 && tail.bytes == wal(5).slice(..10_000));
    assert_eq!(tail.server_time.unwrap().unix_micros(), 1_795_483_904_000_000);
    let listing = branch.wal_listing().await.unwrap();
    let journals = &listing.timelines[&TimelineId::FIRST].journals;
    assert_eq!(journals.iter().map(|journal| journal.from).collect::<Vec<_>>(), [0, 9000]);
    let sizes: Vec<u64> = journals
        .iter()
        .map(|name| fs::metadata(folder.path().join(branch.key(&name.key()).as_str())).unwrap().len())
        .collect();
    assert!(sizes[0] < 2048 && sizes[1] == 64 << 10, "{sizes:?}");
    // Whoever has zstd alone gets the same, with filler behind it or without.
    for (name, from, to) in [(journals[0], 0, 9000), (journals[1], 9000, 10_000)] {
        let object = fs::read(folder.path().join(branch.key(&name.key()).as_str())).unwrap();
        assert!(zstd::decode_all(&object[..]).unwrap() == wal(5).slice(from..to));
    }
}

#[tokio::test]
async fn what_version_1_has_written_is_read_as_ever() {
    if std::env::var("WALKEEP_GOLDEN").is_ok_and(|value| value == "write") {
        fs::remove_dir_all(golden("repository")).ok();
        write(&golden("repository")).await;
    }
    let folder = tempfile::tempdir().unwrap();
    copy(&golden("repository"), folder.path());
    let repository = open(folder.path()).await;
    let branch = repository.only_branch(&"main".parse().unwrap()).await.unwrap();
    assert_eq!((branch.system_id(), branch.segment_size().bytes()), (SYSTEM, 1 << 20));

    let backup = branch.backup(&label()).await.unwrap();
    let manifest = branch.read_manifest(&backup).await.unwrap();
    assert_eq!(branch.read_manifest_head(&backup).await.unwrap(), manifest.head);
    // Not only understood: today's code would write the very same text.
    let text = String::from_utf8(manifest.write(Vec::new()).unwrap()).unwrap();
    assert_eq!(text, fs::read_to_string(golden("manifest.txt")).unwrap());
    let odd = read_file(&branch, &manifest, b"base/1 odd\xFF").await;
    assert!(odd == [&table()[..], &[0; 8192]].concat());
    assert_eq!(read_file(&branch, &manifest, b".walkeep-external/etc/postgresql.conf").await, CONFIG);
    assert_eq!(branch.read_intent(&label()).await.unwrap().unwrap().pid, 4711);
    assert!(branch.read_server_manifest(&manifest.head).await.unwrap().unwrap().starts_with(b"{ \"Postgre"));

    assert!(branch.read_segment(segment(2)).await.unwrap() == wal(2));
    let tail = branch.read_tail(segment(4)).await.unwrap().unwrap();
    assert!(tail.valid == 5000 && tail.bytes == wal(4).slice(..5000));
    let epochs = branch.epochs().await.unwrap();
    let epoch = branch.read_epoch(&epochs[0]).await.unwrap();
    assert_eq!((epochs.len(), epoch.start, epoch.slot.as_deref()), (1, Lsn(0x30_0000), Some("walkeep")));
    let second = branch.read_history(TimelineId::new(2).unwrap()).await.unwrap().unwrap();
    assert_eq!(second.switch_from(TimelineId::FIRST), Some(Lsn(0x38_0000)));

    let inventory = Inventory::load(&branch).await.unwrap();
    let listing = inventory.listing(branch.cluster(), branch.system_id());
    let json = serde_json::to_string_pretty(&listing).unwrap() + "\n";
    if std::env::var("WALKEEP_GOLDEN").is_ok_and(|value| value == "write") {
        fs::write(golden("list.json"), &json).unwrap();
    }
    assert_eq!(json, fs::read_to_string(golden("list.json")).unwrap());
}

/// A proof with everything in it.
fn proof() -> Proof {
    let time = |seconds: i64| Timestamp::from_second(1_795_483_815 + seconds).unwrap();
    Proof {
        format: PROOF_FORMAT,
        verdict: Verdict::Failed,
        started_at: time(0),
        finished_at: time(61),
        program: "walkeep 0.1.0".into(),
        host: "db1".into(),
        postgres: Some("15.18".into()),
        target: ProofTarget { kind: "time".into(), value: Some("2026-11-24T01:00:00Z".into()), random: true },
        backup: Some(ProofBackup {
            label: label(),
            kind: BackupKind::Full,
            server_version: 150_018,
            files: 12,
            size_bytes: 1_069_756,
            read_bytes: 1_000_000,
        }),
        reached: Some(Reached {
            timeline: TimelineId::FIRST,
            lsn: Lsn(0x38_0000),
            time: Some(time(-1800)),
            wal_bytes: 1_572_864,
        }),
        took: Took { plan: Some(0.25), restore: Some(40.5), recovery: Some(10.0), checks: None },
        recovery_seconds: Some(50.75),
        checks: vec![
            Check {
                name: "relations".into(),
                passed: Some(false),
                summary: "70 relations of 3 databases, 1.02 MiB".into(),
                problems: vec!["database app, public.orders: invalid page in block 3".into()],
                seconds: 9.5,
            },
            Check {
                name: "amcheck".into(),
                passed: None,
                summary: "the program pg_amcheck is not on this computer".into(),
                problems: Vec::new(),
                seconds: 0.0,
            },
        ],
        failure: Some("relations: database app, public.orders: invalid page in block 3".into()),
    }
}

/// `golden/drill.json` is the content of a proof.
#[tokio::test]
async fn a_proof_is_written_and_read_as_ever() {
    let text = serde_json::to_string(&proof()).unwrap() + "\n";
    if std::env::var("WALKEEP_GOLDEN").is_ok_and(|value| value == "write") {
        fs::write(golden("drill.json"), &text).unwrap();
    }
    let known = fs::read_to_string(golden("drill.json")).unwrap();
    assert_eq!(text, known);
    assert_eq!(serde_json::from_str::<Proof>(&known).unwrap(), proof());

    let folder = tempfile::tempdir().unwrap();
    copy(&golden("repository"), folder.path());
    let branch = open(folder.path()).await.only_branch(&"main".parse().unwrap()).await.unwrap();
    assert!(branch.proofs().await.unwrap().is_empty());
    let failed = branch.put_proof(&proof()).await.unwrap();
    let earlier = Proof { verdict: Verdict::Passed, started_at: label().started() - 1.hour(), ..proof() };
    let passed = branch.put_proof(&earlier).await.unwrap();
    assert_eq!(branch.proofs().await.unwrap(), [passed, failed.clone()]);
    assert_eq!(branch.read_proof(&failed).await.unwrap(), proof());
}

/// A dump with everything in it.
fn dump() -> Contents {
    let time = |seconds: i64| Timestamp::from_second(1_795_483_815 + seconds).unwrap();
    let file = |name: Option<&str>, number: u32| DumpFile {
        name: name.map(|name| name.parse().unwrap()),
        object: format!("file-{number:08}-00000000000000a1").parse().unwrap(),
        size_bytes: 11,
        stored_bytes: 2071,
        digest: Digest::of(b"11 of these"),
    };
    let part = |kind, database: Option<&str>, format, files| {
        let database = database.map(str::to_owned);
        Part { kind, database, format, files }
    };
    Contents {
        format: DUMP_FORMAT,
        label: "20261124T013015Z-dump-1a2b3c".parse().unwrap(),
        server_version: 150_018,
        tool_version: "15.18".into(),
        from_standby: false,
        started_at: time(0),
        finished_at: time(61),
        note: Some("before the \"upgrade\"".into()),
        selection: Selection {
            databases: Some(vec!["shop".into()]),
            globals: true,
            exclude_tables: vec!["public.log*".into()],
            ..Selection::default()
        },
        parts: vec![
            part(PartKind::Globals, None, DumpFormat::Plain, vec![file(None, 0)]),
            part(
                PartKind::Database,
                Some("shop"),
                DumpFormat::Directory,
                vec![file(Some("3456.dat"), 1), file(Some("toc.dat"), 2)],
            ),
        ],
    }
}

/// `golden/dump.json` is what makes a dump exist.
#[tokio::test]
async fn the_contents_of_a_dump_have_not_changed() {
    let text = serde_json::to_string(&dump()).unwrap() + "\n";
    if std::env::var("WALKEEP_GOLDEN").is_ok_and(|value| value == "write") {
        fs::write(golden("dump.json"), &text).unwrap();
    }
    let known = fs::read_to_string(golden("dump.json")).unwrap();
    assert_eq!(text, known);
    assert_eq!(serde_json::from_str::<Contents>(&known).unwrap(), dump());
}

fn run() -> Run {
    let time = |seconds: i64| Timestamp::from_second(1_795_483_815 + seconds).unwrap();
    Run {
        format: RUN_FORMAT,
        job: Job::VerifyDeep,
        succeeded: false,
        due_at: time(0),
        started_at: time(3),
        finished_at: time(61),
        program: "walkeep 0.1.0".into(),
        host: "db1".into(),
        message: Some("pack: it is not there".into()),
    }
}

#[tokio::test]
async fn the_record_of_a_run_has_not_changed() {
    let text = serde_json::to_string(&run()).unwrap() + "\n";
    if std::env::var("WALKEEP_GOLDEN").is_ok_and(|value| value == "write") {
        fs::write(golden("run.json"), &text).unwrap();
    }
    let known = fs::read_to_string(golden("run.json")).unwrap();
    assert_eq!(text, known);
    assert_eq!(serde_json::from_str::<Run>(&known).unwrap(), run());

    let folder = tempfile::tempdir().unwrap();
    copy(&golden("repository"), folder.path());
    let branch = open(folder.path()).await.only_branch(&"main".parse().unwrap()).await.unwrap();
    assert!(branch.recorded_runs().await.unwrap().is_empty());
    let failed = branch.record_run(&run()).await.unwrap();
    let earlier = Run { job: Job::Full, succeeded: true, started_at: label().started() - 1.hour(), ..run() };
    let full = branch.record_run(&earlier).await.unwrap();
    assert_eq!(branch.recorded_runs().await.unwrap(), [full, failed.clone()]);
    assert_eq!(branch.recorded_run(&failed).await.unwrap(), run());
}

fn figures() -> Figures {
    Figures {
        format: LOOK_FORMAT,
        at: Timestamp::from_second(1_795_483_815).unwrap(),
        program: "walkeep 0.1.0".into(),
        host: "db1".into(),
        databases: vec![DatabaseFigures {
            name: "shop".into(),
            size_bytes: 9_000_000,
            commits: 7,
            blocks_hit: 90,
            blocks_read: 10,
            temp_bytes: 0,
            counted_since: None,
            calls: Some(3),
            seconds: Some(0.5),
        }],
        tables: vec![TableFigures {
            database: "shop".into(),
            name: "public.orders".into(),
            size_bytes: 8192,
        }],
        log: Some(LogPosition { file: "log/postgresql.log".into(), offset: 12 }),
    }
}

#[tokio::test]
async fn a_look_at_the_server_has_not_changed() {
    let text = serde_json::to_string(&figures()).unwrap() + "\n";
    if std::env::var("WALKEEP_GOLDEN").is_ok_and(|value| value == "write") {
        fs::write(golden("look.json"), &text).unwrap();
    }
    let known = fs::read_to_string(golden("look.json")).unwrap();
    assert_eq!(text, known);
    assert_eq!(serde_json::from_str::<Figures>(&known).unwrap(), figures());

    let folder = tempfile::tempdir().unwrap();
    copy(&golden("repository"), folder.path());
    let branch = open(folder.path()).await.only_branch(&"main".parse().unwrap()).await.unwrap();
    assert!(branch.looks().await.unwrap().is_empty());
    let name = branch.keep_look(&figures()).await.unwrap();
    assert_eq!(branch.looks().await.unwrap(), std::slice::from_ref(&name));
    assert_eq!(branch.look(&name).await.unwrap(), figures());
}
