//! Base backups in both dialects, whole, damaged, and incremental.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::stream;
use harness::{Installation, Postgres, Stop, skip};
use proto::backup_label::{BackupFrom, BackupLabelFile};
use proto::backup_manifest::BackupManifest;
use proto::client::{BackupMessage, BackupStart, BaseBackupOptions, Error, Replication};
use proto::incremental::IncrementalHeader;
use proto::{Lsn, TimelineId};

use crate::every_version;
use crate::scene::{Scene, connect, soon, unix};

every_version!(a_backup_comes_whole_and_damage_is_told, a_backup_of_a_standby_says_so, an_incremental_backup);

/// All that a backup brought.
struct Backup {
    start: BackupStart,
    archives: BTreeMap<String, Vec<u8>>,
    manifest: Vec<u8>,
    /// The last count of bytes that the server told.
    progress: Option<u64>,
    notices: Vec<String>,
    end: (Lsn, TimelineId),
    checksum_failures: Option<String>,
}

/// Takes a backup; the session goes on.
fn take(session: Replication, options: &BaseBackupOptions) -> Result<(Backup, Replication)> {
    let mut stream = soon(session.base_backup(options))?;
    let start = stream.start().clone();
    let (mut archives, mut manifest, mut progress) = (BTreeMap::<_, Vec<u8>>::new(), Vec::new(), None);
    let (mut current, mut notices): (Option<String>, _) = (None, Vec::new());
    loop {
        match soon(stream.next())? {
            BackupMessage::Archive { tablespace, name } => {
                assert_eq!(current, None, "archives do not overlap");
                assert_eq!(tablespace.expect("listed").oid.is_none(), name == "base.tar");
                current = Some(name);
            }
            BackupMessage::ArchiveData(bytes) => {
                let name = current.clone().expect("an archive has begun");
                archives.entry(name).or_default().extend_from_slice(&bytes);
            }
            BackupMessage::ArchiveEnd => assert!(current.take().is_some()),
            BackupMessage::Manifest => assert_eq!(current, None),
            BackupMessage::ManifestData(bytes) => manifest.extend_from_slice(&bytes),
            BackupMessage::Progress(done) => progress = Some(done),
            BackupMessage::Notice(notice) => notices.push(notice),
            BackupMessage::End { lsn, timeline, checksum_failures } => {
                let end = (lsn, timeline);
                let backup = Backup { start, archives, manifest, progress, notices, end, checksum_failures };
                return Ok((backup, stream.into_session()?));
            }
        }
    }
}

impl Backup {
    /// The plain files of an archive, by name.
    fn files(&self, archive: &str) -> Result<BTreeMap<String, &[u8]>> {
        let mut rest = self.archives.get(archive).context("no such archive")?.as_slice();
        let mut files = BTreeMap::new();
        while let Some((header, behind)) = rest.split_at_checked(512).filter(|(header, _)| header[0] != 0) {
            let field = |from: usize, to: usize| {
                let bytes = header[from..to].split(|byte| *byte == 0 || *byte == b' ').next();
                String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
            };
            let size = usize::from_str_radix(&field(124, 136), 8)?;
            let (content, behind) = behind.split_at_checked(size).context("an archive that is cut off")?;
            if header[156] == b'0' {
                files.insert(field(0, 100), content);
            }
            rest = &behind[size.next_multiple_of(512) - size..];
        }
        assert!(
            rest.len() >= 1024 && rest.iter().all(|byte| *byte == 0),
            "{archive} ends in two blocks of zeros"
        );
        Ok(files)
    }
}

fn a_backup_comes_whole_and_damage_is_told(installation: &Installation) -> Result<()> {
    let scene = Scene::start(installation, &[])?;
    let location = scene.world.folder("tablespace")?;
    scene.server.sql(&format!("CREATE TABLESPACE ts LOCATION '{}'", location.display()))?;
    scene.server.sql("CREATE TABLE big TABLESPACE ts AS SELECT generate_series(1, 100000) i")?;

    let options = BaseBackupOptions { label: "it's a test".to_owned(), ..BaseBackupOptions::default() };
    let (backup, mut session) = take(connect(&scene.tcp("postgres", "secret"))?, &options)?;
    assert!(backup.start.lsn.is_valid());
    let tablespaces = &backup.start.tablespaces;
    assert_eq!(tablespaces.len(), 2);
    assert_eq!(tablespaces[0].location.as_deref(), location.to_str().map(str::as_bytes));
    assert_eq!(tablespaces[1].oid, None);
    assert!(backup.end.0 > backup.start.lsn && backup.end.1 == backup.start.timeline);
    assert_eq!(backup.checksum_failures, None);

    // The server counts the bytes of its archives, and digests its files: none was lost on the way.
    assert_eq!(backup.archives.len(), 2);
    if installation.major >= 15 {
        let total: usize = backup.archives.values().map(Vec::len).sum();
        assert_eq!(backup.progress, Some(total as u64));
    }
    let manifest = BackupManifest::parse(&backup.manifest)?;
    assert_eq!(manifest.version, if installation.major < 17 { 1 } else { 2 });
    let [range] = manifest.wal_ranges.as_slice() else { panic!("one timeline, one range of WAL") };
    assert_eq!((range.timeline, range.start, range.end), (backup.end.1, backup.start.lsn, backup.end.0));
    let (base, oid) = (backup.files("base.tar")?, tablespaces[0].oid.expect("listed"));
    let of_tablespace = backup.files(&format!("{oid}.tar"))?;
    assert_eq!(manifest.files.len(), base.len() + of_tablespace.len());
    for file in &manifest.files {
        let path = String::from_utf8(file.path.clone())?;
        let inner = path.strip_prefix(&format!("pg_tblspc/{oid}/"));
        let content = inner.map_or_else(|| base.get(&path), |inner| of_tablespace.get(inner));
        let content = content.with_context(|| format!("{path} is not in the archive"))?;
        assert_eq!(file.size, content.len() as u64, "{path}");
        let checksum = file.checksum.as_ref().and_then(|checksum| checksum.crc32c());
        assert_eq!(checksum, Some(proto::checksum::crc32c(content)), "{path}");
    }
    let label = BackupLabelFile::parse(base["backup_label"])?;
    assert_eq!((label.label.as_slice(), label.backup_from), (&b"it's a test"[..], BackupFrom::Primary));
    assert_eq!((label.start, label.timeline), (backup.start.lsn, backup.start.timeline));

    // The session goes on, and can make another, which is not over before its end.
    soon(session.identify_system())?;
    let unfinished = soon(session.base_backup(&options))?;
    assert!(unfinished.into_session().is_err(), "it still runs");

    let path = scene.server.sql("SELECT pg_relation_filepath('big')")?;
    scene.server.stop(Stop::Fast)?;
    damage(&scene.server, &path)?;
    scene.server.start()?;
    let (backup, mut session) = take(connect(&scene.unix())?, &BaseBackupOptions::default())?;
    assert!(backup.checksum_failures.is_some());
    assert!(backup.notices.iter().any(|notice| notice.contains("checksum")), "{:?}", backup.notices);
    soon(session.identify_system())?;
    let unchecked = BaseBackupOptions { verify_checksums: false, ..BaseBackupOptions::default() };
    assert_eq!(take(session, &unchecked)?.0.checksum_failures, None, "nobody looked");
    Ok(())
}

/// Turns one byte of a table's second page around.
fn damage(server: &Postgres, path: &str) -> Result<()> {
    let path = server.data().join(path);
    let at = 8192 + 4000;
    let byte = fs::read(&path)?[at];
    File::options().write(true).open(&path)?.write_all_at(&[!byte], at as u64)?;
    Ok(())
}

fn a_backup_of_a_standby_says_so(installation: &Installation) -> Result<()> {
    let scene = Scene::start(installation, &[])?;
    let Some(standby) = scene.server.standby(&scene.world, "standby")? else {
        skip(format!("no pg_basebackup for PostgreSQL {} is on this machine", installation.major));
        return Ok(());
    };
    let (backup, _) = take(connect(&unix(&standby))?, &BaseBackupOptions::default())?;
    let files = backup.files("base.tar")?;
    assert_eq!(BackupLabelFile::parse(files["backup_label"])?.backup_from, BackupFrom::Standby);
    assert!(files.contains_key("standby.signal"), "it is sent, and a restore must leave it out");
    Ok(())
}

fn an_incremental_backup(installation: &Installation) -> Result<()> {
    let pieces = |manifest: &[u8]| {
        stream::iter(
            manifest.chunks(10_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect::<Vec<_>>(),
        )
    };
    let incremental = BaseBackupOptions { incremental: true, ..BaseBackupOptions::default() };
    if installation.major < 17 {
        let scene = Scene::start(installation, &[])?;
        let mut session = connect(&scene.unix())?;
        let refused = soon(session.upload_manifest(pieces(b"{}")));
        assert!(matches!(refused, Err(Error::Config(_))), "{refused:?}");
        let refused = soon(session.base_backup(&incremental)).map(drop);
        assert!(matches!(refused, Err(Error::Config(_))), "{refused:?}");
        return Ok(());
    }
    let scene = Scene::start(installation, &[("summarize_wal", "on")])?;
    scene.server.sql("CREATE TABLE t AS SELECT i, repeat('x', 100) FROM generate_series(1, 50000) i")?;
    // Else whoever looks at a row first changes its page: hint bits.
    scene.server.sql("VACUUM (FREEZE) t")?;
    let (full, session) = take(connect(&scene.unix())?, &BaseBackupOptions::default())?;
    scene.server.sql("UPDATE t SET i = -i WHERE i = 25000")?;
    let path = scene.server.sql("SELECT pg_relation_filepath('t')")?;
    let (folder, file) = path.rsplit_once('/').context("a table lies in a folder")?;

    // The server refuses what is no manifest, and the session survives that.
    let mut session = session;
    let refused = soon(session.upload_manifest(pieces(b"{\"never\": \"seen\"}\n")));
    assert!(matches!(refused, Err(Error::Server { .. })), "{refused:?}");
    let broken = stream::iter([Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("gone"))]);
    let refused = soon(session.upload_manifest(broken));
    assert!(matches!(refused, Err(Error::Manifest(_))), "{refused:?}");

    soon(session.upload_manifest(pieces(&full.manifest)))?;
    let (backup, _) = take(session, &incremental)?;
    let files = backup.files("base.tar")?;
    let changed = files.get(&format!("{folder}/INCREMENTAL.{file}")).context("the table came whole")?;
    let header = IncrementalHeader::parse(changed)?;
    assert!((1..10).contains(&header.blocks.len()), "one row moved, and {} blocks came", header.blocks.len());
    assert_eq!(changed.len(), header.length() + header.blocks.len() * 8192);
    let label = BackupLabelFile::parse(files["backup_label"])?;
    assert_eq!(label.incremental_from, Some((full.start.lsn, full.start.timeline)));
    assert!(backup.archives["base.tar"].len() < full.archives["base.tar"].len());
    Ok(())
}
