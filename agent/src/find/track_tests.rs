//! On the WAL that real servers wrote, which `proto` keeps: a story told in `proto/tests/golden/README.md`.

use std::fs;
use std::path::Path;

use proto::wal::SegmentName;
use proto::wal::page::PAGE_SIZE;
use proto::wal::record::Records;

use super::*;

const ALL: [Kind; 8] = [
    Kind::Drop,
    Kind::Truncate,
    Kind::DropDatabase,
    Kind::Delete,
    Kind::Rewrite,
    Kind::Create,
    Kind::Commit,
    Kind::RestorePoint,
];

fn track(version: u16, kinds: &[Kind], from: Lsn) -> (Vec<Hit>, HashMap<(u32, u32), Known>) {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../proto/tests/golden/{version}/records"));
    let mut files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let path = files.find(|path| path.extension().is_none()).unwrap();
    let name: SegmentName = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let start = Lsn(u64::from(name.seg) << 20);
    let wanted = Wanted { kinds: kinds.iter().copied().collect(), many: 5, xid: None };
    let (mut tracker, mut records) = (Tracker::new(wanted, HashMap::new()), Records::default());
    for (number, page) in fs::read(path).unwrap().chunks(PAGE_SIZE).enumerate() {
        let address = start + (number * PAGE_SIZE) as u64;
        records.read(page, address, |record| tracker.record(&record, record.start >= from)).unwrap();
    }
    assert_eq!((tracker.more, tracker.overwhelmed), (0, false));
    tracker.finish()
}

#[test]
fn every_version_s_accidents_are_found() {
    for version in 13..=18 {
        let (hits, known) = track(version, &ALL, Lsn(0));
        let one = |kind: Kind| {
            let found: Vec<_> = hits.iter().filter(|hit| hit.kind == kind).collect();
            assert_eq!(found.len(), 1, "{version} {kind:?}: {found:?}");
            found[0]
        };
        let name = |subject: &Subject| {
            let file = subject.file.unwrap();
            match known.get(&(file.database, file.number)) {
                Some(Known::Row { name, kind, schema: 2200, .. }) => format!("{kind} {name}"),
                Some(Known::Row { kind, .. }) => format!("{kind}"),
                other => panic!("{version}: {file} is {other:?}"),
            }
        };
        let names = |hit: &Hit| hit.subjects.iter().map(name).collect::<Vec<_>>();
        let (truncate, drop) = (one(Kind::Truncate), one(Kind::Drop));
        assert_eq!(names(truncate), ["r cleared", "i cleared_pkey"], "{version}");
        let mut dropped = names(drop);
        dropped.sort();
        assert_eq!(dropped, ["i", "r accident", "t"], "{version}");
        assert!(truncate.doubt.is_none() && drop.doubt.is_none());
        assert!(truncate.lsn < drop.lsn && truncate.time < drop.time && truncate.xid + 1 == drop.xid);
        assert_eq!(drop.before.unwrap().xid, truncate.xid);
        // `postgres --single` gives oids that are the server's own otherwise: what is deleted there is none of ours.
        assert!(hits.iter().all(|hit| hit.kind != Kind::Delete), "{version}");
        assert_eq!(one(Kind::RestorePoint).name.as_deref(), Some("before"));
        // Replay has to stop before the row is marked, which comes before the folder goes, which comes before the commit.
        let database = one(Kind::DropDatabase);
        assert_eq!(database.name.as_deref(), Some("other"), "{version}");
        assert!(database.stop < database.lsn && database.stop > drop.lsn, "{version}: {database:?}");
        let commits = hits.iter().filter(|hit| hit.kind == Kind::Commit);
        assert_eq!(commits.clone().next_back().unwrap().xid, database.xid);
        assert!(commits.count() >= 8, "{version}");
        let created: Vec<_> = hits.iter().filter(|hit| hit.kind == Kind::Create).map(names).collect();
        assert_eq!(created.len(), 2, "{version}: {created:?}");
        assert!(hits.iter().all(|hit| hit.kind != Kind::Rewrite), "{version}");
    }
}

#[test]
fn only_what_is_wanted_and_in_the_range_is_told() {
    let (all, _) = track(15, &ALL, Lsn(0));
    let drop = all.iter().find(|hit| hit.kind == Kind::Drop).unwrap();
    let (found, _) = track(15, ACCIDENTS_BUT_DELETES, drop.lsn);
    assert_eq!(found.iter().map(|hit| hit.kind).collect::<Vec<_>>(), [Kind::Drop, Kind::DropDatabase]);
    assert_eq!(found[0], *drop);
}

const ACCIDENTS_BUT_DELETES: &[Kind] = &[Kind::Drop, Kind::Truncate, Kind::DropDatabase];

fn file(number: u32) -> RelFile {
    RelFile { tablespace: 1663, database: 5, number }
}

fn new(number: u32, rows: u64, pages: u64, other: u64) -> NewFile {
    NewFile { at: Lsn(u64::from(number)), file: file(number), written: Written { rows, pages, other } }
}

#[test]
fn a_rewrite_is_no_truncate() {
    // VACUUM FULL, whose transient table could be read.
    let mut open = Open {
        created: vec![new(100, 0, 50, 0), new(101, 0, 0, 0)],
        rewritten: vec![(5, 90)],
        ..Open::default()
    };
    let fate = fate(&mut open, &[file(90), file(91)]);
    assert_eq!(fate.rewritten, [file(90), file(91)]);
    // And where only the number of rows is known.
    let mut open =
        Open { created: vec![new(100, 0, 50, 0)], class_rows: 1, class_rows_gone: 1, ..Open::default() };
    assert_eq!(super::fate(&mut open, &[file(90)]).rewritten, [file(90)]);
    // Of a table without rows it looks like a truncate: that is said.
    let mut open =
        Open { created: vec![new(100, 0, 0, 0)], class_rows: 1, class_rows_gone: 1, ..Open::default() };
    let fate = super::fate(&mut open, &[file(90)]);
    assert!(fate.truncated == [file(90)] && fate.doubt.is_some());
}

#[test]
fn an_index_that_is_built_anew_is_a_rewrite_and_one_of_a_truncated_table_goes_with_it() {
    let mut open = Open { created: vec![new(100, 0, 3, 0)], ..Open::default() };
    assert_eq!(fate(&mut open, &[file(90)]).rewritten, [file(90)]);
    let mut open = Open { created: vec![new(100, 0, 0, 0), new(101, 0, 1, 0)], ..Open::default() };
    let fate = fate(&mut open, &[file(90), file(91)]);
    assert_eq!(fate.truncated, [file(90), file(91)]);
    assert_eq!(fate.successors, [(file(100), file(90)), (file(101), file(91))]);
}

#[test]
fn a_truncated_table_that_is_filled_again_is_truncated() {
    let mut open = Open { created: vec![new(100, 900, 0, 0)], ..Open::default() };
    assert_eq!(fate(&mut open, &[file(90)]).truncated, [file(90)]);
}

#[test]
fn what_one_transaction_mixes_is_told_with_a_doubt() {
    let mut open = Open { created: vec![new(100, 0, 0, 0)], ..Open::default() };
    let fate = fate(&mut open, &[file(90), file(91)]);
    assert!(fate.dropped == [file(90), file(91)] && fate.doubt.is_some());
    // What came and went within it was never there.
    let mut open = Open { created: vec![new(100, 0, 0, 0)], ..Open::default() };
    let fate = super::fate(&mut open, &[file(100)]);
    assert!(fate.dropped.is_empty() && fate.created.is_empty());
}
