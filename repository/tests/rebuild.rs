//! No lock-in: `docs/rebuild.sh` rebuilds a data directory with nothing but a shell and zstd.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use age::secrecy::ExposeSecret;
use bytes::Bytes;
use proto::wal::{SegmentName, SegmentSize, WalFile};
use proto::{Digest, Lsn, ServerTime, SystemId, TimelineId};
use repository::backup::{BackupKind, BackupLabel};
use repository::manifest::{Controls, Entry, MANIFEST_FORMAT, Manifest, ManifestHead, SafePath, Tablespace};
use repository::pack::{PackWriter, push_extent};
use repository::{Branch, BranchFacts, EpochFacts, Repository, Sealing, Store, Unsealing};

const SYSTEM: u64 = 7_312_345_678_901_234_567;
const TIME: i64 = 1_700_000_000;

fn segment(number: u32) -> SegmentName {
    SegmentName { timeline: TimelineId::FIRST, log: 0, seg: number }
}

fn noise(seed: u8, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// A repository in `directory` with one backup of a few odd files, and WAL that ends in fragments.
async fn repository(directory: &Path, sealing: Sealing) -> (Branch, Vec<(Vec<u8>, Bytes)>) {
    let store = Store::open(&format!("file://{}", directory.display()), &Default::default()).unwrap();
    Repository::create(store.clone()).await.unwrap();
    let repository = Repository::open(store, sealing, Unsealing::none()).await.unwrap();
    let facts = BranchFacts { segment_size: SegmentSize::new(1 << 20).unwrap(), server_version: 150_018 };
    let branch = repository.begin_branch(&"main".parse().unwrap(), SystemId(SYSTEM), facts).await.unwrap();
    let files = vec![
        (b"base/1/1259".to_vec(), noise(1, 3_000_000)),
        (b"base/1/odd \xFF\n% name".to_vec(), noise(2, 777)),
        (b"global/pg_control".to_vec(), noise(3, 8192)),
        (b"PG_VERSION".to_vec(), Bytes::from_static(b"15\n")),
        (b"postgresql.auto.conf".to_vec(), Bytes::from_static(b"recovery_target_time = 'yesterday'\n")),
        (b"standby.signal".to_vec(), Bytes::new()),
        (b"pg_tblspc/16384/PG_15_202209061/5/1".to_vec(), noise(4, 9000)),
        (b"tablespace_map".to_vec(), Bytes::from_static(b"16384 /srv/elsewhere\n")),
        (b".walkeep-external/etc/postgresql.conf".to_vec(), Bytes::from_static(b"port = 5433\n")),
    ];
    let label: BackupLabel = "20261124T013015Z-full-1a2b3c".parse().unwrap();
    let mut packs = PackWriter::new(branch.clone(), label.clone(), 2);
    let mut entries: Vec<Entry> = ["base", "base/1", "global", "pg_tblspc", "pg_wal", "pg_twophase"]
        .map(|path| Entry::Directory { path: SafePath::new(path).unwrap(), mode: 0o700 })
        .into();
    for (path, content) in &files {
        let mut extents = Vec::new();
        for extent in packs.append(content.clone()).await.unwrap() {
            push_extent(&mut extents, extent);
        }
        let path = SafePath::new(path.clone()).unwrap();
        let size = content.len() as u64;
        entries.push(Entry::File { path, size, mode: 0o640, mtime: TIME, crc32c: None, extents });
    }
    // A file with a hole at its beginning and its end.
    let mut extents = Vec::new();
    for extent in packs.append(noise(5, 8192)).await.unwrap() {
        push_extent(&mut extents, extent.shifted(8192));
    }
    let path = SafePath::new("base/1/holes").unwrap();
    entries.push(Entry::File { path, size: 32768, mode: 0o600, mtime: TIME, crc32c: None, extents });
    let head = ManifestHead {
        format: MANIFEST_FORMAT,
        label,
        kind: BackupKind::Full,
        parent: None,
        cluster: branch.cluster().clone(),
        system_id: branch.system_id(),
        server_version: 150_018,
        segment_size: branch.segment_size(),
        data_checksums: true,
        timeline: TimelineId::FIRST,
        start_lsn: Lsn(0x20_0028),
        checkpoint_lsn: Lsn(0x20_0060),
        stop_timeline: TimelineId::FIRST,
        stop_lsn: Lsn(0x20_0100),
        started_at: jiff::Timestamp::UNIX_EPOCH,
        finished_at: jiff::Timestamp::UNIX_EPOCH,
        from_standby: false,
        label_note: Some("\"format\":7, {segment_size\":3}".into()),
        size_bytes: 0,
        stored_bytes: 0,
        tablespaces: vec![Tablespace {
            oid: 16384,
            location: repository::manifest::RawBytes(b"/srv/elsewhere".to_vec()),
        }],
        wal_ranges: Vec::new(),
        server_manifest: None,
        damaged_page_count: 0,
        damaged_pages: Vec::new(),
        external_config: Vec::new(),
        controls: Controls::default(),
    };
    let manifest = Manifest { head, packs: packs.finish().await.unwrap(), entries };
    branch.put_manifest(&manifest).await.unwrap();

    let whole = noise(6, 1 << 20);
    branch.put_segment(segment(2), Digest::of(&whole), None, whole).await.unwrap();
    let history = Bytes::from_static(b"1\t0/300000\tno reason\n");
    branch.put_wal_file(WalFile::History(TimelineId::new(2).unwrap()), history).await.unwrap();
    put_tail(&branch, &[(0, 100), (100, 200), (300, 400)]).await;
    put_tail(&branch, &[(0, 70_000), (70_000, 140_000), (140_000, 200_000)]).await;
    put_tail(&branch, &[(0, 150_000)]).await;
    if branch.has_journals() {
        put_journal(&branch).await;
    }
    (branch, files)
}

/// The bytes of segment 4 in two journals; of the second a crash has cut off the last record.
async fn put_journal(branch: &Branch) {
    let facts = EpochFacts { timeline: TimelineId::FIRST, start: Lsn(0x40_0000), slot: None };
    let epoch = branch.claim_epoch(facts).await.unwrap();
    let (wal, time) = (noise(9, 1 << 20), ServerTime(0));
    let mut first = branch.begin_journal(&epoch, segment(4), 0, time, &wal.slice(..5000)).await.unwrap();
    first.append(time, &wal.slice(5000..90_000)).await.unwrap();
    let mut second =
        branch.begin_journal(&epoch, segment(4), 80_000, time, &wal.slice(80_000..100_000)).await.unwrap();
    second.append(time, &wal.slice(100_000..100_700)).await.unwrap();
    let key = branch.key(&second.name().key());
    drop((first, second));
    let object = branch.store().get(&key).await.unwrap();
    branch.store().put(&key, object.slice(..object.len() - 5)).await.unwrap();
}

/// Fragments of segment 3 under an epoch of their own.
async fn put_tail(branch: &Branch, pieces: &[(u32, u32)]) {
    let facts = EpochFacts { timeline: TimelineId::FIRST, start: Lsn(0x30_0000), slot: None };
    let epoch = branch.claim_epoch(facts).await.unwrap();
    for (from, to) in pieces {
        let content = noise(7, 1 << 20).slice(*from as usize..*to as usize);
        branch.put_fragment(&epoch, segment(3), *from, *to, ServerTime(0), content).await.unwrap();
    }
}

fn rebuild(arguments: &[&OsStr]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rebuild.sh");
    Command::new("bash").arg(script).args(arguments).output().unwrap()
}

fn rebuilt(repository: &Path, label: &str, target: &Path) -> Output {
    rebuild(&[repository.as_os_str(), OsStr::new("main"), OsStr::new(label), target.as_os_str()])
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("SKIPPED: the program {program} is not installed");
    }
    found
}

/// What the server would do to fetch a WAL file.
fn fetch(target: &Path, name: &str) -> Option<Vec<u8>> {
    let settings = fs::read_to_string(target.join("postgresql.auto.conf")).unwrap();
    let line = settings.lines().find_map(|line| line.strip_prefix("restore_command = '")).unwrap();
    let command = line.strip_suffix('\'').unwrap();
    let text = command.replace("%f", name).replace("%p", "pg_wal/RECOVERYXLOG").replace("%%", "%");
    let status = Command::new("sh").arg("-c").arg(text).current_dir(target).status().unwrap();
    status.success().then(|| fs::read(target.join("pg_wal/RECOVERYXLOG")).unwrap())
}

/// Where a file of the cluster is after a rebuild.
fn place(target: &Path, path: &[u8]) -> PathBuf {
    let sibling = |suffix: &str| PathBuf::from(format!("{}.{suffix}", target.display()));
    let below = |prefix: &[u8]| path.strip_prefix(prefix).map(|rest| PathBuf::from(OsStr::from_bytes(rest)));
    match (below(b"pg_tblspc/"), below(b".walkeep-external/")) {
        (Some(rest), _) => sibling("tablespaces").join(rest),
        (_, Some(rest)) => sibling("config").join(rest),
        _ => target.join(OsStr::from_bytes(path)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shell_and_zstd_rebuild_a_cluster() {
    if !has("zstd") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // A name that has to be quoted, for the shell as for the server.
    let directory = folder.path().join("my repository 100%");
    fs::create_dir(&directory).unwrap();
    let (branch, files) = repository(&directory, Sealing::plain(1)).await;
    let target = folder.path().join("the data");
    let output = rebuilt(&directory, "latest", &target);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));

    for (path, content) in &files {
        let changed = [&b"postgresql.auto.conf"[..], b"tablespace_map", b"standby.signal"];
        if changed.contains(&path.as_slice()) {
            continue;
        }
        let place = place(&target, path);
        assert!(fs::read(&place).unwrap() == *content, "{}", place.display());
        let metadata = fs::metadata(&place).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o640, "{}", place.display());
        if place.starts_with(&target) && !place.ends_with("pg_control") {
            assert_eq!(metadata.mtime(), TIME, "{}", place.display());
        }
    }
    let holes = fs::read(target.join("base/1/holes")).unwrap();
    assert!(holes == [&[0; 8192][..], &noise(5, 8192), &[0; 16384]].concat());
    assert!(target.join("pg_twophase").is_dir() && target.join("recovery.signal").is_file());
    assert!(!target.join("standby.signal").exists());
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o700);
    let map = fs::read_to_string(target.join("tablespace_map")).unwrap();
    assert_eq!(map, format!("16384 {}.tablespaces/16384\n", target.display()));
    // The longest of three epochs, the rest zeros.
    let tail = fs::read(target.join("pg_wal").join(segment(3).to_string())).unwrap();
    assert!(tail[..200_000] == noise(7, 1 << 20)[..200_000]);
    assert!(tail.len() == 1 << 20 && tail[200_000..].iter().all(|byte| *byte == 0));
    assert!(!target.join("pg_wal").join(segment(2).to_string()).exists());
    // What zstd makes of the record that was cut off is no matter: recovery ends before.
    let journals = fs::read(target.join("pg_wal").join(segment(4).to_string())).unwrap();
    assert!(journals.len() == 1 << 20 && journals[..100_000] == noise(9, 1 << 20)[..100_000]);
    assert!(journals[100_700..].iter().all(|byte| *byte == 0));

    // What the server does with restore_command.
    let settings = fs::read_to_string(target.join("postgresql.auto.conf")).unwrap();
    assert!(settings.starts_with("recovery_target_time = 'yesterday'\n"));
    assert!(settings.rfind("recovery_target_time = ''").is_some());
    let fetch = |name: &str| fetch(&target, name);
    assert!(fetch(&segment(2).to_string()).unwrap() == noise(6, 1 << 20));
    assert!(fetch("00000002.history").unwrap() == b"1\t0/300000\tno reason\n");
    assert!(fetch(&segment(3).to_string()).is_none() && fetch("00000003.history").is_none());
    // Two contents under one name: neither is taken.
    let other = noise(8, 1 << 20);
    branch.put_segment(segment(2), Digest::of(&other), None, other).await.unwrap_err();
    assert!(fetch(&segment(2).to_string()).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encrypted_repository_needs_age_besides() {
    if !has("zstd") || !has("age") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("r");
    fs::create_dir(&directory).unwrap();
    let identity = age::x25519::Identity::generate();
    let key = folder.path().join("identity.txt");
    fs::write(&key, identity.to_string().expose_secret()).unwrap();
    let (_, files) = repository(&directory, Sealing::to(1, &[identity.to_public()], &[])).await;
    let target = folder.path().join("t");
    let locked = rebuilt(&directory, "latest", &target);
    assert!(String::from_utf8_lossy(&locked.stderr).contains("is encrypted: name an identity file"));
    let arguments =
        [directory.as_os_str(), "main".as_ref(), "latest".as_ref(), target.as_os_str(), key.as_os_str()];
    let output = rebuild(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (path, content) in &files[..4] {
        assert!(fs::read(place(&target, path)).unwrap() == *content);
    }
    let tail = fs::read(target.join("pg_wal").join(segment(3).to_string())).unwrap();
    assert!(tail[..200_000] == noise(7, 1 << 20)[..200_000]);
    assert!(fetch(&target, &segment(2).to_string()).unwrap() == noise(6, 1 << 20));
    // Histories are in clear.
    assert!(fetch(&target, "00000002.history").unwrap().starts_with(b"1\t0/300000"));
    assert!(fetch(&target, &segment(3).to_string()).is_none());
}

#[tokio::test]
async fn what_cannot_be_rebuilt_is_said() {
    if !has("zstd") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("r");
    fs::create_dir(&directory).unwrap();
    let says = |label: &str, target: &Path, text: &str| {
        let output = rebuilt(&directory, label, target);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(text), "{error}");
    };
    let target = folder.path().join("t");
    says("latest", &target, "no walkeep repository");
    let (branch, _) = repository(&directory, Sealing::plain(1)).await;
    says("20261124T013015Z-full-ffffff", &target, "no such backup");
    says("latest", folder.path(), "exists");
    // A damaged pack: zstd's own checksums find it, and no server can be started on what is there.
    let packs = branch.store().list(&branch.root().child("pack")).await.unwrap();
    let mut pack = branch.store().get(&packs[0].key).await.unwrap().to_vec();
    let middle = pack.len() / 2;
    pack[middle] ^= 1;
    branch.store().put(&packs[0].key, pack.into()).await.unwrap();
    assert!(!rebuilt(&directory, "latest", &target).status.success());
    assert!(!target.join("global/pg_control").exists());
}
