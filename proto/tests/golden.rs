//! The parsers on bytes that real servers wrote. `golden/README.md` says how each file was made.

#![cfg(feature = "formats")]
// The helpers of a test may fail as the test itself may.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use proto::backup_label::{BackupFrom, BackupLabelFile};
use proto::backup_manifest::BackupManifest;
use proto::control::{ClusterState, ControlError, ControlFile, WalLevel};
use proto::incremental::IncrementalHeader;
use proto::page::{PageVerdict, check};
use proto::wal::check::{check_segment_start, check_whole};
use proto::wal::page::PAGE_SIZE;
use proto::wal::{SegmentName, TimelineHistory, WalError};
use proto::{Lsn, SystemId, TimelineId};

const SEGMENT: usize = 16 << 20;

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn read(path: &str) -> Vec<u8> {
    fs::read(golden(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files of `<version>/wal` whose names begin so, with the segments that their names end with.
fn wal(version: u16, kind: &str) -> Vec<(SegmentName, Vec<u8>)> {
    let files = fs::read_dir(golden(&format!("{version}/wal"))).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let chosen = names.filter(|name| name.starts_with(kind));
    let found: Vec<_> = chosen
        .map(|name| {
            (name.rsplit('.').next().unwrap().parse().unwrap(), read(&format!("{version}/wal/{name}")))
        })
        .collect();
    assert!(!found.is_empty(), "{version}: {kind}");
    found
}

fn control(version: u16) -> ControlFile {
    ControlFile::parse(&read(&format!("{version}/pg_control"))).unwrap()
}

#[test]
fn control_files_of_each_version() {
    for version in 13..=18 {
        let control = control(version);
        assert_eq!(control.version, version);
        assert_eq!(control.control_version, if version < 17 { 1300 } else { u32::from(version) * 100 });
        assert_eq!((control.state, control.wal_level), (ClusterState::ShutDown, WalLevel::Replica));
        assert_eq!((control.timeline, control.previous_timeline), (TimelineId::FIRST, TimelineId::FIRST));
        assert_eq!(control.checkpoint, control.redo, "a shutdown checkpoint");
        assert_eq!((control.max_connections, control.max_worker_processes), (100, 8), "{version}");
        assert_eq!((control.max_wal_senders, control.max_prepared_transactions), (10, 0));
        assert_eq!((control.max_locks_per_transaction, control.track_commit_timestamp), (64, false));
        assert_eq!((control.block_size, control.relation_segment_blocks), (8192, 131_072));
        assert_eq!((control.segment_size.bytes(), control.data_checksum_version), (SEGMENT as u64, 1));
        assert_eq!((control.min_recovery_point, control.min_recovery_timeline), (Lsn(0), None));
        assert!(control.checkpoint_time > 1_700_000_000 && control.backup_start == Lsn(0));
    }
    // As pg_controldata printed it.
    let control = control(15);
    assert_eq!(control.system_id, SystemId(7_711_557_334_193_507_944));
    assert_eq!(control.checkpoint, Lsn(0x1800_0028));
    assert_eq!(control.catalog_version, 202_209_061);
    assert_eq!(control.checkpoint_time, 1_795_489_062, "2026-11-24 02:57:42 UTC");
}

#[test]
fn a_torn_control_file_is_told() {
    for version in [13, 18] {
        let bytes = read(&format!("{version}/pg_control"));
        let end = if version == 18 { 296 } else { 292 };
        for index in (0..end).filter(|index| !(8..12).contains(index)) {
            let mut torn = bytes.clone();
            torn[index] ^= 0x10;
            assert_eq!(ControlFile::parse(&torn), Err(ControlError::Checksum), "{version}: {index}");
        }
        assert!(matches!(ControlFile::parse(&bytes[..200]), Err(ControlError::Short(200))));
    }
}

#[test]
fn segments_of_each_version_begin_as_their_names_say() {
    for version in 13..=18 {
        for (name, page) in wal(version, "full-first-page") {
            let facts = check_segment_start(&page, name, Some(control(version).system_id)).unwrap();
            assert_eq!((facts.version, facts.segment_size.bytes()), (version, SEGMENT as u64));
            assert_eq!(facts.header_timeline, TimelineId::FIRST);
        }
    }
    let (name, page) = wal(15, "after-fork-first-page").remove(0);
    let facts = check_segment_start(&page, name, None).unwrap();
    assert_eq!(name.timeline, TimelineId::new(2).unwrap());
    assert_eq!(facts.header_timeline, TimelineId::FIRST, "the parent's pages");
}

/// At a page's end, at its start, and with the record's header over two pages.
#[test]
fn switches_of_real_servers_make_a_segment_whole() {
    for version in [13, 15, 18] {
        for (name, content) in wal(version, "switch") {
            let mut segment = content.clone();
            segment.resize(SEGMENT, 0);
            assert_eq!(check_whole(&segment, name), Ok(()), "{version}: {name}");
            // Without the switch itself, as a streamed tail that was padded looks. The record's last bytes are its
            // CRC: whatever is cut off, it is at least a part of the switch.
            for cut in [8, 24, 500] {
                let mut padded = content[..content.len() - cut].to_vec();
                padded.resize(SEGMENT, 0);
                let verdict = check_whole(&padded, name);
                assert!(verdict.is_err() || cut == 8, "{version}: {name} without {cut} bytes: {verdict:?}");
            }
        }
    }
}

#[test]
fn full_segments_of_real_servers_are_whole() {
    for version in [13, 15, 18] {
        let (name, first) = wal(version, "full-first-page").remove(0);
        let (_, last) = wal(version, "full-last-page").remove(0);
        let mut segment = first;
        segment.resize(SEGMENT - PAGE_SIZE, 1);
        segment.extend(&last);
        assert_eq!(check_whole(&segment, name), Ok(()), "{version}");
        let mut padded = segment.clone();
        padded[SEGMENT - PAGE_SIZE / 2..].fill(0);
        let verdict = check_whole(&padded, name);
        // Unless its last record began before the cut and goes on behind it: then only the next segment can tell.
        assert!(matches!(verdict, Ok(()) | Err(WalError::Incomplete(_))), "{version}: {verdict:?}");
        let mut stale = segment;
        stale[SEGMENT - PAGE_SIZE + 10] ^= 1;
        assert!(matches!(check_whole(&stale, name), Err(WalError::Address { .. })), "{version}");
    }
}

#[test]
fn pages_of_real_tables_have_the_checksum_that_is_computed() {
    for version in [13, 15, 18] {
        let page = read(&format!("{version}/heap-block-17"));
        assert_eq!(check(&page, 17, true, Lsn(u64::MAX)), PageVerdict::Ok, "{version}");
        assert!(
            matches!(check(&page, 18, true, Lsn(u64::MAX)), PageVerdict::BadChecksum { .. }),
            "{version}"
        );
    }
}

#[test]
fn manifests_are_read_and_written_byte_for_byte() {
    for version in [15, 17, 18] {
        let bytes = read(&format!("{version}/backup_manifest"));
        let manifest = BackupManifest::parse(&bytes).unwrap();
        assert_eq!(manifest.version, if version < 17 { 1 } else { 2 });
        assert_eq!(manifest.system_id, (version >= 17).then(|| control(version).system_id));
        let label = manifest.files.iter().find(|file| file.path == b"backup_label").unwrap();
        let content = read(&format!("{version}/backup_label"));
        assert_eq!(label.size, content.len() as u64);
        let checksum = label.checksum.as_ref().and_then(|checksum| checksum.crc32c());
        assert_eq!(checksum, Some(proto::checksum::crc32c(&content)));
        let range = manifest.wal_ranges[0];
        let label = BackupLabelFile::parse(&content).unwrap();
        assert_eq!((range.timeline, range.start), (label.timeline, label.start));
        assert!(manifest.write() == bytes, "{version}: written differently");
    }
}

#[test]
fn labels_of_full_and_incremental_backups() {
    // 13 says "master" where all others say "primary".
    for version in [13, 15, 17, 18] {
        let label = BackupLabelFile::parse(&read(&format!("{version}/backup_label"))).unwrap();
        assert_eq!((label.backup_from, label.label.as_slice()), (BackupFrom::Primary, &b"golden"[..]));
        let size = proto::wal::SegmentSize::DEFAULT;
        assert_eq!(label.start_segment, SegmentName::at(label.timeline, label.start, size));
        assert!(label.checkpoint > label.start && label.incremental_from.is_none());
        if version >= 17 {
            let child =
                BackupLabelFile::parse(&read(&format!("{version}/incremental-backup_label"))).unwrap();
            assert_eq!(child.incremental_from.map(|(_, timeline)| timeline), Some(label.timeline));
            assert!(child.incremental_from.unwrap().0 < child.start);
        }
    }
}

#[test]
fn the_label_of_a_standbys_backup() {
    let label = BackupLabelFile::parse(&read("13/standby-backup_label")).unwrap();
    assert_eq!((label.backup_from, label.start), (BackupFrom::Standby, Lsn(0x300_0028)));
}

#[test]
fn the_header_of_an_incremental_file() {
    let bytes = read("18/incremental-header");
    let header = IncrementalHeader::parse(&bytes).unwrap();
    assert!(!header.blocks.is_empty() && header.truncation_block_length > 0, "{header:?}");
    assert_eq!(header.length(), 8192);
    assert_eq!(header.write(), bytes);
}

#[test]
fn the_history_of_a_promoted_server() {
    let timeline = TimelineId::new(2).unwrap();
    let history = TimelineHistory::parse(timeline, &read("15/00000002.history")).unwrap();
    assert_eq!(history.switch_from(TimelineId::FIRST), Some(Lsn(0x1800_00A0)));
    assert_eq!(history.parent().unwrap().reason, b"no recovery target specified");
}
