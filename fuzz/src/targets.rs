//! What each fuzz target does with its bytes. No input may panic, hang, or make a parser allocate beyond its bound,
//! and what was read must survive being written and read again.
//!
//! The ordinary tests include this file too (`proto/tests/corpus.rs`) and run it over the corpus.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use proto::backup_label::BackupLabelFile;
use proto::backup_manifest::BackupManifest;
use proto::client::{
    BackupMessage, BaseBackupOptions, Replication, ServerVersion, SlotLifetime, Start, WalMessage,
};
use proto::config::{ClusterName, Config, SlotName};
use proto::conninfo::{ConnInfo, Env, FileError};
use proto::control::ControlFile;
use proto::incremental::IncrementalHeader;
use proto::page::{BLOCK_SIZE, check, checksum, is_relation_file};
use proto::socket::{HEADER, Request, Response};
use proto::wal::check::{check_segment_start, check_whole_by_page};
use proto::wal::ends::TransactionEnds;
use proto::wal::padding::{padded_tail, stamp_padding};
use proto::wal::page::{LongHeader, PAGE_SIZE, PageHeader};
use proto::wal::record::{Record, Records, Rmgr, catalogue, heap, storage, transaction, xlog};
use proto::wal::{SegmentName, TimelineHistory, WalError, WalFile};
use proto::{Digest, Lsn, SystemId, TimelineId};
use tokio::io::AsyncWriteExt as _;
use zeroize::Zeroizing;

/// One target: whatever the bytes, it returns.
pub type Target = fn(&[u8]);

/// All targets, by the names of their folders in the corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("backup_label", backup_label),
    ("backup_manifest", backup_manifest),
    ("config", config),
    ("conninfo", conninfo),
    ("control", control),
    ("copy_messages", copy_messages),
    ("data_page", data_page),
    ("history", history),
    ("incremental_header", incremental_header),
    ("names", names),
    ("session", session),
    ("socket", socket),
    ("wal_record", wal_record),
    ("wal_segment", wal_segment),
];

/// `backup_label`, and `.backup` files.
pub fn backup_label(data: &[u8]) {
    let _ = BackupLabelFile::parse(data);
}

/// As it comes, and with a right checksum, so that the JSON is reached.
pub fn backup_manifest(data: &[u8]) {
    let _ = BackupManifest::parse(data);
    let signed = manifest_with_checksum(data);
    if let Ok(manifest) = BackupManifest::parse(&signed) {
        assert_eq!(BackupManifest::parse(&manifest.write()), Ok(manifest));
    }
}

fn manifest_with_checksum(data: &[u8]) -> Vec<u8> {
    let body = match data.windows(21).rposition(|window| window == b"\n\"Manifest-Checksum\":") {
        Some(at) => &data[..=at],
        None => data,
    };
    let checksum: String = proto::checksum::sha256(body).iter().map(|byte| format!("{byte:02x}")).collect();
    [body, b"\"Manifest-Checksum\": \"", checksum.as_bytes(), b"\"}\n"].concat()
}

/// The configuration file.
pub fn config(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        match Config::parse(text) {
            Ok(config) => drop(config.socket_path()),
            Err(error) => assert!(error.to_string().len() < 2000, "a complaint stays a sentence"),
        }
    }
}

/// Connection strings. What stands behind the first line is the content of every file that they ask for.
pub fn conninfo(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (text, file) = text.split_once('\n').unwrap_or((text, ""));
    let Ok(info) = ConnInfo::parse(text, &Files(file)) else { return };
    assert!(!info.hosts.is_empty());
    for host in &info.hosts {
        let _ = info.passfile.find(host, &info.dbname, &info.user);
    }
}

/// A machine on which every file has one content.
struct Files<'a>(&'a str);

impl Env for Files<'_> {
    fn var(&self, _name: &str) -> Option<String> {
        None
    }

    fn home(&self) -> Option<PathBuf> {
        Some("/home/walkeep".into())
    }

    fn user(&self) -> Option<String> {
        Some("walkeep".to_owned())
    }

    fn exists(&self, _path: &Path) -> bool {
        false
    }

    fn read(&self, _path: &Path) -> Result<String, FileError> {
        if self.0.is_empty() { Err(FileError::Absent) } else { Ok(self.0.to_owned()) }
    }

    fn read_secret(&self, path: &Path) -> Result<Zeroizing<String>, FileError> {
        self.read(path).map(Zeroizing::new)
    }
}

/// `pg_control`, as it comes and with a right checksum of each layout.
pub fn control(data: &[u8]) {
    let _ = ControlFile::parse(data);
    for (version, end) in [(1300_u32, 288), (1800, 292)] {
        let mut file = data.to_vec();
        file.resize(proto::control::USED, 0);
        file[8..12].copy_from_slice(&version.to_le_bytes());
        let checksum = proto::checksum::crc32c(&file[..end]);
        file[end..end + 4].copy_from_slice(&checksum.to_le_bytes());
        let _ = ControlFile::parse(&file);
    }
}

/// What the server sends inside CopyData: WAL, and base backups.
pub fn copy_messages(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let _ = proto::client::parse_copy_data(bytes.clone());
    let _ = proto::client::base_backup::parse_chunk(bytes);
}

/// Data pages, and the paths of their files.
pub fn data_page(data: &[u8]) {
    let mut page = data.to_vec();
    page.resize(BLOCK_SIZE, 0);
    let _ = check(&page, 7, true, Lsn(u64::MAX));
    let sum = checksum(&page, 7);
    page[8..10].copy_from_slice(&sum.to_le_bytes());
    assert_eq!(checksum(&page, 7), sum, "the checksum does not count itself");
    let _ = check(&page, 7, true, Lsn(u64::MAX));
    let _ = check(data, 7, false, Lsn(0));
    if let Ok(path) = std::str::from_utf8(data) {
        let _ = is_relation_file(path);
    }
}

/// History files.
pub fn history(data: &[u8]) {
    let Some(timeline) = TimelineId::new(u32::from(data.len() as u16) + 1) else { return };
    if let Ok(history) = TimelineHistory::parse(timeline, data) {
        for entry in &history.entries {
            assert_eq!(history.switch_from(entry.timeline), Some(entry.switch));
            let _ = history.timeline_at(entry.switch);
        }
    }
}

/// Headers of incremental files.
pub fn incremental_header(data: &[u8]) {
    if let Ok(header) = IncrementalHeader::parse(data) {
        assert_eq!(header.write(), data[..header.length()]);
    }
}

/// Names and numbers as text: what is read is written the same.
pub fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    macro_rules! same {
        ($($kind:ty),*) => {$(
            if let Ok(name) = text.parse::<$kind>() {
                assert_eq!(name.to_string(), text);
            }
        )*};
    }
    same!(WalFile, SegmentName, ClusterName, SlotName, Digest);
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse(), Ok(lsn));
    }
    if let Ok(timeline) = text.parse::<TimelineId>() {
        assert_eq!(TimelineId::from_hex(&timeline.hex()), Some(timeline));
    }
    let _ = text.parse::<SystemId>();
}

/// What the server says before CopyData, after each command of ours; both dialects.
pub fn session(data: &[u8]) {
    let Some((&command, said)) = data.split_first() else { return };
    // Nothing in a session sets a time limit, and nothing here needs one: the server hangs up behind its last byte.
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (ours, mut server) = tokio::io::duplex(said.len() + (64 << 10));
        server.write_all(said).await.expect("there is room");
        server.shutdown().await.expect("a pipe can be closed");
        let version = ServerVersion(if command & 0x80 == 0 { 130_018 } else { 180_001 });
        let mut session = Replication::on(ours, "fuzz", version);
        let slot: SlotName = "walkeep".parse().expect("a slot's name");
        match command & 0x0F {
            0 => drop(session.identify_system().await),
            1 => drop(session.segment_size().await),
            2 => drop(session.read_slot(&slot).await),
            3 => drop(session.create_slot(&slot, SlotLifetime::Permanent).await),
            4 => drop(session.drop_slot(&slot).await),
            5 => drop(session.timeline_history(TimelineId::FIRST).await),
            6 => {
                if let Ok(mut stream) = session.base_backup(&BaseBackupOptions::default()).await {
                    while let Ok(message) = stream.next().await {
                        if matches!(message, BackupMessage::End { .. }) {
                            break;
                        }
                    }
                }
            }
            _ => {
                if let Ok(Start::Streaming(mut stream)) =
                    session.start_replication(None, Lsn(0x100_0000), TimelineId::FIRST).await
                {
                    while let Ok(WalMessage::Data { .. } | WalMessage::Keepalive { .. }) = stream.next().await
                    {
                    }
                }
            }
        }
        drop(server);
    });
}

/// What archive-cmd and the agent say to each other.
pub fn socket(data: &[u8]) {
    let Some((header, body)) = data.split_first_chunk::<HEADER>() else { return };
    if let Ok(length) = Request::body_length(header) {
        assert!(length <= proto::socket::MAX_REQUEST);
    }
    if let Ok(length) = Response::body_length(header) {
        assert!(length <= proto::socket::MAX_RESPONSE);
    }
    if let Ok(request) = Request::decode(body) {
        assert_eq!(request.encode()[HEADER..], *body);
    }
    if let Ok(response) = Response::decode(body) {
        assert_eq!(response.encode()[HEADER..], *body);
    }
}

/// Records: pages as they come; then the bytes as what one record holds, of each version, with a right checksum.
pub fn wal_record(data: &[u8]) {
    let mut records = Records::new(0);
    let first = PageHeader::parse(data).map_or(Lsn(0), |header| header.address);
    for (page, bytes) in data.chunks(PAGE_SIZE).enumerate() {
        let address = first + (page * PAGE_SIZE) as u64;
        if records.read(bytes, address, |record| look_into(&record)).is_err() {
            let _ = records.read(bytes, address, |record| look_into(&record));
        }
    }
    let Some((&[rmgr, info], content)) = data.split_first_chunk() else { return };
    for version in 13..=18 {
        look_into(&Record {
            start: Lsn(4096),
            previous: Lsn(40),
            xid: 3,
            rmgr: Rmgr(rmgr),
            info,
            length: (24 + content.len()) as u32,
            version,
            content,
        });
    }
}

fn look_into(record: &Record<'_>) {
    if let Some(end) = transaction::ended(record) {
        assert!(
            end.dropped.iter().count() * 12 + end.subtransactions.iter().count() * 4 <= record.content.len()
        );
        assert_eq!(transaction::end_time(record), Some(end.time));
    }
    let _ = storage::change(record);
    let _ = xlog::milestone(record);
    let Ok(parts) = record.parts() else { return };
    let mut bytes = parts.main.len();
    for block in parts.blocks() {
        bytes += block.data.len();
        if let Some(image) = block.image {
            bytes += image.bytes.len();
            let whole = image.slice(0, usize::from(image.hole_offset));
            assert!(whole.is_none_or(|front| image.bytes.starts_with(front)));
        }
    }
    assert!(bytes <= record.content.len(), "parts overlap");
    let _ = heap::change(record, &parts);
    if let Some(row) = heap::row(record, &parts) {
        let _ = catalogue::ClassRow::parse(row, record.version).map(|row| row.rewrites());
        let _ = catalogue::DatabaseRow::parse(row, record.version);
    }
}

/// WAL pages as the first, and as the last two of a segment.
pub fn wal_segment(data: &[u8]) {
    const NAME: SegmentName = SegmentName { timeline: TimelineId::FIRST, log: 0, seg: 3 };
    if let Ok(header) = PageHeader::parse(data) {
        let _ = TransactionEnds::default().read(&data[..data.len().min(PAGE_SIZE)], header.address);
    }
    let _ = LongHeader::parse(data);
    let _ = check_segment_start(data, NAME, None);
    let mut pages = data.to_vec();
    pages.resize(2 * PAGE_SIZE, 0);
    for length in [1_u64 << 20, 16 << 20] {
        let last = length / PAGE_SIZE as u64 - 1;
        for at in [0, 1, 7, last] {
            // They lie where their addresses would have them.
            let address = 3 * length + at * PAGE_SIZE as u64;
            pages[PAGE_SIZE + 8..PAGE_SIZE + 16].copy_from_slice(&address.to_le_bytes());
            let _ = check_whole_by_page(length, at * PAGE_SIZE as u64, NAME, |page, buffer| {
                let from = if page == at { PAGE_SIZE } else { 0 };
                buffer.copy_from_slice(&pages[from..from + PAGE_SIZE]);
                Ok::<(), WalError>(())
            });
        }
    }
    if let Some(valid) = padded_tail(data) {
        let mut again = data.to_vec();
        stamp_padding(&mut again, valid);
        assert!(valid + 16 > again.len() || padded_tail(&again) == Some(valid));
    }
}
