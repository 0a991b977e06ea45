//! The reader of WAL records on bytes that real servers wrote: one story on each version. `golden/README.md` tells it.
//! That every record agrees with `pg_waldump` is looked at in `tests/tests/wal_records.rs`.

#![cfg(feature = "formats")]
// The helpers of a test may fail as the test itself may.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use proto::wal::SegmentName;
use proto::wal::page::PAGE_SIZE;
use proto::wal::record::catalogue::{ClassRow, DatabaseRow};
use proto::wal::record::heap::{self, RowChange};
use proto::wal::record::storage::{self, FileChange};
use proto::wal::record::xlog::{self, Milestone};
use proto::wal::record::{Fork, Records, RelFile, transaction};
use proto::{Lsn, ServerTime};

/// What the story is made of.
#[derive(Default, Debug)]
struct Story {
    /// Relations as they appear in `pg_class`: name, oid, kind, file.
    relations: Vec<(String, u32, u8, u32)>,
    created: Vec<RelFile>,
    /// Transaction, time, dropped files; with some.
    commits: Vec<(u32, ServerTime, Vec<RelFile>)>,
    deleted: Vec<RelFile>,
    truncated: Vec<u32>,
    restore_points: Vec<String>,
    databases: Vec<String>,
    records: usize,
}

fn read(version: u16) -> Story {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{version}/records"));
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let path = files.into_iter().find(|path| path.extension().is_none()).unwrap();
    let name: SegmentName = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let start = Lsn(u64::from(name.seg) << 20);
    let (mut story, mut records, mut switched) = (Story::default(), Records::default(), false);
    for (number, page) in fs::read(path).unwrap().chunks(PAGE_SIZE).enumerate() {
        let done = records.read(page, start + (number * PAGE_SIZE) as u64, |record| {
            assert_eq!(record.version, version);
            story.records += 1;
            switched = record.is_switch();
            let parts = record.parts().unwrap();
            let file = |at: usize| parts.blocks().nth(at).map(|block| block.file);
            if let Some(ended) = transaction::ended(&record) {
                assert!(ended.committed);
                story.commits.push((ended.xid, ended.time, ended.dropped.iter().collect()));
            }
            match storage::change(&record) {
                Some(FileChange::Created { file, fork: Fork::Main }) => story.created.push(file),
                Some(FileChange::DatabaseCreated { database, tablespace: 1663, source: Some(1) }) => {
                    story.databases.push(format!("created {database}"));
                }
                Some(FileChange::DatabaseDropped { database, tablespaces }) => {
                    assert!(tablespaces.iter().eq([1663]));
                    story.databases.push(format!("dropped {database}"));
                }
                other => assert_eq!(other, None),
            }
            match xlog::milestone(&record) {
                Some(Milestone::RestorePoint { name, .. }) => {
                    story.restore_points.push(String::from_utf8(name.to_vec()).unwrap());
                }
                Some(Milestone::Checkpoint { shutdown, redo, time }) => {
                    assert!(!shutdown && redo <= record.start && time > 1_700_000_000);
                }
                _ => {}
            }
            let change = heap::change(&record, &parts);
            match change {
                Some(RowChange::Deleted) => story.deleted.extend(file(0)),
                Some(RowChange::Truncated { database, relations }) => {
                    assert_eq!(Some(database), story.created.first().map(|file| file.database));
                    story.truncated.extend(relations.iter());
                }
                _ => {}
            }
            let row = heap::row(&record, &parts);
            match (change, file(0).map(|file| file.number)) {
                (Some(RowChange::Inserted(1)), Some(1259)) => {
                    let row = ClassRow::parse(row.unwrap(), version).unwrap();
                    let name = String::from_utf8(row.name.to_vec()).unwrap();
                    story.relations.push((name, row.oid, row.kind, row.file));
                }
                (Some(RowChange::InPlace), Some(1262)) => {
                    let row = DatabaseRow::parse(row.unwrap(), version).unwrap();
                    let name = String::from_utf8(row.name.to_vec()).unwrap();
                    story.databases.push(format!("{name} {} {}", row.oid, row.invalid));
                }
                _ => {}
            }
        });
        assert_eq!(done, Ok(()), "{version}");
    }
    assert!(switched, "the segment ends with a switch");
    story
}

#[test]
fn every_version_tells_the_story() {
    for version in 13..=18 {
        let story = read(version);
        assert!(story.records > 300, "{version}: {story:?}");
        let relation = |name: &str| story.relations.iter().find(|(found, ..)| found == name).unwrap();
        let (accident, cleared, key) = (relation("accident"), relation("cleared"), relation("cleared_pkey"));
        assert_eq!((accident.2, cleared.2, key.2), (b'r', b'r', b'i'), "{version}");
        // New relations are in files of their own oids.
        for (name, oid, kind, file) in &story.relations {
            assert!(oid == file || *kind == b'c', "{version}: {name} {oid} {file}");
        }
        let of = |oid: u32| story.created.iter().copied().find(|file| file.number == oid).unwrap();
        assert_eq!(of(accident.1).tablespace, 1663);
        // TRUNCATE: its oid for those who decode, new files, and the old ones in the commit, the last one first.
        assert_eq!(story.truncated, [cleared.1], "{version}");
        let commit_with =
            |file: RelFile| story.commits.iter().find(|(_, _, files)| files.contains(&file)).unwrap();
        assert_eq!(commit_with(of(cleared.1)).2, [of(key.1), of(cleared.1)], "{version}");
        // DROP TABLE: with its TOAST table and index.
        let dropped = commit_with(of(accident.1));
        assert_eq!(dropped.2.len(), 3, "{version}");
        assert!(dropped.0 > commit_with(of(cleared.1)).0);
        assert!(story.commits.is_sorted_by_key(|(_, time, _)| time));
        let gone = story.deleted.iter().filter(|file| **file == of(accident.1)).count();
        assert_eq!(gone, 5, "{version}");
        assert_eq!(story.restore_points, ["before"]);
        // The row is overwritten first, then its folder goes.
        let other = story.databases[0].strip_prefix("created ").unwrap();
        assert_eq!(
            story.databases,
            [format!("created {other}"), format!("other {other} true"), format!("dropped {other}")],
            "{version}"
        );
    }
}
