//! A small repository, made through the `repository` crate, of a cluster that never ran.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use proto::control::ControlFile;
use proto::wal::{SegmentName, SegmentNo, SegmentSize, WalFile};
use proto::{Digest, Lsn, ServerTime, SystemId, TimelineId};
use repository::backup::{BackupKind, BackupLabel};
use repository::manifest::{
    Controls, Entry, MANIFEST_FORMAT, Manifest, ManifestHead, RawBytes, SafePath, Tablespace,
};
use repository::pack::PackWriter;
use repository::{Branch, BranchFacts, EpochFacts, Repository, Sealing, Store, Unsealing};

/// 1 MiB: small enough to write dozens.
pub(crate) fn segment_size() -> SegmentSize {
    SegmentSize::new(1 << 20).unwrap()
}

pub(crate) fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

pub(crate) fn name(number: u32, segment: u64) -> SegmentName {
    SegmentName::new(timeline(number), SegmentNo(segment), segment_size())
}

/// A real server's `pg_control`.
pub(crate) fn control() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/tests/golden/15/pg_control")).unwrap()
}

pub(crate) fn system_id() -> SystemId {
    ControlFile::parse(&control()).unwrap().system_id
}

pub(crate) struct Fixture {
    pub(crate) home: tempfile::TempDir,
    pub(crate) branch: Branch,
}

/// A file of the made-up cluster: content in pieces at offsets, zeros between.
pub(crate) struct Made {
    pub(crate) path: &'static str,
    pub(crate) size: u64,
    pub(crate) pieces: Vec<(u64, Vec<u8>)>,
    pub(crate) crc: bool,
}

pub(crate) fn whole(path: &'static str, content: impl Into<Vec<u8>>) -> Made {
    let content = content.into();
    Made { path, size: content.len() as u64, pieces: vec![(0, content)], crc: true }
}

impl Made {
    pub(crate) fn content(&self) -> Vec<u8> {
        let mut content = vec![0; self.size as usize];
        for (offset, piece) in &self.pieces {
            content[*offset as usize..*offset as usize + piece.len()].copy_from_slice(piece);
        }
        content
    }
}

/// Bytes that do not compress away.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

pub(crate) fn backup_label(start: Lsn) -> String {
    format!(
        "START WAL LOCATION: {start} (file {})\nCHECKPOINT LOCATION: {start}\nBACKUP METHOD: streamed\n\
         BACKUP FROM: primary\nSTART TIME: 2026-11-24 01:30:15 UTC\nLABEL: walkeep\nSTART TIMELINE: 1\n",
        SegmentName::at(timeline(1), start, segment_size())
    )
}

/// The files that every cluster has.
pub(crate) fn usual(start: Lsn) -> Vec<Made> {
    vec![
        whole("PG_VERSION", "15\n"),
        whole("backup_label", backup_label(start)),
        whole("global/pg_control", control()),
        whole("postgresql.auto.conf", "work_mem = '8MB'\nrecovery_target_time = '2020-01-01'\n"),
        whole("postgresql.conf", "synchronous_standby_names = 'walkeep'\n"),
        whole("pg_hba.conf", "local all all trust\n"),
        whole("pg_ident.conf", ""),
    ]
}

pub(crate) const START: Lsn = Lsn(0x20_0028);
pub(crate) const STOP: Lsn = Lsn(0x20_0100);

pub(crate) fn label(second: i64) -> BackupLabel {
    BackupLabel::next(Timestamp::from_second(1_700_000_000 + second).unwrap(), BackupKind::Full, None)
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("repository")).unwrap();
        let store = Store::open(&url(home.path()), &Default::default()).unwrap();
        Repository::create(store.clone()).await.unwrap();
        let repository = Repository::open(store, Sealing::plain(1), Unsealing::none()).await.unwrap();
        let facts = BranchFacts { segment_size: segment_size(), server_version: 150_018 };
        let branch = repository.begin_branch(&"main".parse().unwrap(), system_id(), facts).await.unwrap();
        Self { home, branch }
    }

    pub(crate) fn url(&self) -> String {
        url(self.home.path())
    }

    pub(crate) fn pgdata(&self) -> PathBuf {
        self.home.path().join("pgdata")
    }

    /// Stores a backup with these files.
    pub(crate) async fn backup(
        &self,
        second: i64,
        made: &[Made],
        tablespaces: &[(u32, &Path)],
    ) -> ManifestHead {
        let label = label(second);
        let mut writer = PackWriter::new(self.branch.clone(), label.clone(), 2);
        let mut entries = vec![Entry::Directory { path: path("pg_xact"), mode: 0o700 }];
        for file in made {
            let mut extents = Vec::new();
            for (offset, piece) in &file.pieces {
                let placed = writer.append(Bytes::from(piece.clone())).await.unwrap();
                extents.extend(placed.into_iter().map(|extent| extent.shifted(*offset)));
            }
            let crc32c = file.crc.then(|| proto::checksum::crc32c(&file.content()));
            let (path, size) = (path(file.path), file.size);
            entries.push(Entry::File { path, size, mode: 0o600, mtime: 1_700_000_000, crc32c, extents });
        }
        let packs = writer.finish().await.unwrap();
        let head = ManifestHead {
            format: MANIFEST_FORMAT,
            label: label.clone(),
            kind: BackupKind::Full,
            parent: None,
            cluster: "main".parse().unwrap(),
            system_id: system_id(),
            server_version: 150_018,
            segment_size: segment_size(),
            data_checksums: true,
            timeline: timeline(1),
            start_lsn: START,
            checkpoint_lsn: START,
            stop_timeline: timeline(1),
            stop_lsn: STOP,
            started_at: label.started(),
            finished_at: label.started(),
            from_standby: false,
            label_note: None,
            size_bytes: 0,
            stored_bytes: 0,
            tablespaces: tablespaces
                .iter()
                .map(|(oid, at)| Tablespace {
                    oid: *oid,
                    location: RawBytes(at.as_os_str().as_encoded_bytes().to_vec()),
                })
                .collect(),
            wal_ranges: Vec::new(),
            server_manifest: None,
            damaged_page_count: 0,
            damaged_pages: Vec::new(),
            external_config: Vec::new(),
            controls: Controls::default(),
        };
        self.branch.put_manifest(&Manifest { head: head.clone(), packs, entries }).await.unwrap();
        head
    }

    /// Stores whole segments of noise.
    pub(crate) async fn segments(&self, number: u32, segments: Range<u64>) {
        for segment in segments {
            let content = self.content(number, segment);
            let time = Some(ServerTime::from_unix_micros(1_700_000_000_000_000 + segment as i64 * 1_000_000));
            let name = name(number, segment);
            self.branch.put_segment(name, Digest::of(&content), time, content.into()).await.unwrap();
        }
    }

    /// Stores a segment ahead of so many before it.
    pub(crate) async fn ahead(&self, number: u32, segment: u64, ahead: u32) {
        let content = self.content(number, segment);
        let name = name(number, segment);
        self.branch.put_segment_ahead(name, Digest::of(&content), ahead, content.into()).await.unwrap();
    }

    pub(crate) fn content(&self, number: u32, segment: u64) -> Vec<u8> {
        noise(1 << 20, u64::from(number) << 32 | segment)
    }

    /// Stores the beginning of a segment as a fragment.
    pub(crate) async fn tail(&self, number: u32, segment: u64, length: u32) {
        let start = SegmentNo(segment).start(segment_size());
        let facts = EpochFacts { timeline: timeline(number), start, slot: None };
        let epoch = self.branch.claim_epoch(facts).await.unwrap();
        let content = self.content(number, segment)[..length as usize].to_vec();
        let time = ServerTime::from_unix_micros(1_700_000_500_000_000);
        let name = name(number, segment);
        self.branch.put_fragment(&epoch, name, 0, length, time, content.into()).await.unwrap();
    }

    pub(crate) async fn history(&self, number: u32, text: &'static str) {
        self.branch.put_wal_file(WalFile::History(timeline(number)), text.into()).await.unwrap();
    }
}

fn url(home: &Path) -> String {
    format!("file://{}", home.join("repository").display())
}

pub(crate) fn path(text: &str) -> SafePath {
    SafePath::new(text).unwrap()
}
