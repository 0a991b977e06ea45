use super::*;

fn relation(oid: u32, file: u32, name: &str) -> RelationName {
    RelationName { oid, file, tablespace: 1663, kind: 'r', schema: 2200, name: name.into() }
}

fn snapshot(at: u64, relations: &[RelationName]) -> Snapshot {
    Snapshot {
        at: Lsn(at),
        databases: [(5, "shop".to_owned())].into(),
        schemas: [((5, 2200), "public".to_owned())].into(),
        by_file: relations.iter().map(|r| ((5, r.file), r.clone())).collect(),
        by_oid: relations.iter().map(|r| ((5, r.oid), r.clone())).collect(),
        current: 0,
    }
}

fn file(number: u32) -> RelFile {
    RelFile { tablespace: 1663, database: 5, number }
}

#[test]
fn the_backup_before_counts_most_then_the_one_after() {
    let names = Names {
        snapshots: vec![
            snapshot(100, &[relation(1, 10, "early")]),
            snapshot(200, &[relation(1, 10, "renamed"), relation(2, 20, "late")]),
        ],
        ..Names::default()
    };
    let name = |number, at| names.name(&Subject::of(file(number)), Lsn(at)).map(|name| name.qualified());
    assert_eq!(name(10, 150).as_deref(), Some("public.early"));
    assert_eq!(name(10, 250).as_deref(), Some("public.renamed"));
    assert_eq!(name(20, 150).as_deref(), Some("public.late"));
    assert_eq!(name(30, 150), None);
    assert_eq!(names.database(5, Lsn(1)), Some("shop"));
    assert_eq!(names.database(6, Lsn(1)), None);
}

/// A table that was truncated twice, then rewritten, is still called by its name.
#[test]
fn a_new_file_has_the_name_of_the_old_one() {
    let known: HashMap<_, _> = [
        ((5, 11), Known::As(file(10))),
        ((5, 12), Known::As(file(11))),
        ((5, 13), Known::Oid(1)),
        ((5, 14), Known::As(file(14))),
    ]
    .into();
    let hits: Vec<Hit> = Vec::new();
    assert!(asked(&hits, &known).files.is_empty());
    let names = Names { snapshots: vec![snapshot(100, &[relation(1, 10, "t")])], known, ..Names::default() };
    for number in [10, 11, 12, 13] {
        let name = names.name(&Subject::of(file(number)), Lsn(150)).unwrap();
        assert_eq!((name.qualified().as_str(), name.oid), ("public.t", 1), "{number}");
    }
    assert_eq!(names.name(&Subject::of(file(14)), Lsn(150)), None, "a circle ends");
    let by_oid = Subject { database: 5, file: None, oid: Some(1), rows: 0 };
    assert_eq!(names.name(&by_oid, Lsn(150)).unwrap().name, "t");
}
