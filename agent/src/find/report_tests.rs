use proto::wal::record::RelFile;
use repository::catalogue::Lineage;

use super::super::hit::Commit;
use super::super::scan::Damage;
use super::*;

fn hits() -> Vec<Hit> {
    let file = |number| RelFile { tablespace: 1663, database: 5, number };
    let hit = |kind, lsn: u64, subjects| Hit {
        kind,
        stop: Lsn(lsn),
        lsn: Lsn(lsn),
        xid: 742,
        time: Some(ServerTime(800_000_000_000_000)),
        subjects,
        name: None,
        prepared_as: None,
        doubt: None,
        before: Some(Commit { xid: 741, time: ServerTime(799_999_999_000_000) }),
    };
    let database = Subject { database: 9, file: None, oid: None, rows: 0 };
    vec![
        hit(Kind::Drop, 0x300_0000, vec![Subject::of(file(16384))]),
        Hit { name: Some("other".into()), ..hit(Kind::DropDatabase, 0x400_0000, vec![database]) },
        Hit {
            prepared_as: Some("a'b".into()),
            ..hit(Kind::Delete, 0x500_0000, vec![Subject { rows: 7000, ..Subject::of(file(16390)) }])
        },
    ]
}

fn report(wish: Option<&str>, limit: usize) -> Report {
    let range = WalRange {
        lineage: Lineage::of(TimelineId::FIRST, &[].into()),
        from: Lsn(0x200_0000),
        to: Lsn(0x600_0000),
        gaps: vec![Lsn(0x210_0000)..Lsn(0x220_0000)],
    };
    let window = Window {
        timeline: TimelineId::FIRST,
        from_lsn: Lsn(0x350_0000),
        to_lsn: Lsn(0x600_0000),
        from_time: None,
        to_time: None,
    };
    let damage = vec![Damage { at: Lsn(0x590_0000), why: "a record's checksum is wrong".into() }];
    let found = Found {
        hits: &hits(),
        more: 0,
        names: &Names::default(),
        range: &range,
        scanned: Scanned { bytes: 60 << 20, records: 5, damage, more_damage: 0 },
        windows: &[window],
        notices: Vec::new(),
    };
    let lines = Lines { flags: String::new(), pgdata: "/new".into() };
    Report::new("main".parse().unwrap(), found, &lines, wish.map(|text| Wish(text.into())).as_ref(), limit)
}

#[test]
fn people_see_what_happened_and_how_to_go_back() {
    let text = report(None, 10).human();
    for words in [
        "2025-05-08 06:13:20.000000  DROPPED  relation with file 1663/5/16384\n",
        "transaction 742, at 0/3000000; the commit before it: transaction 741 at 2025-05-08 06:13:19.000000",
        "no backup leads to the moment before it",
        "DATABASE DROPPED  other\n",
        "restore-cmd restore --pgdata /new --target-timeline 1 --target-lsn 0/4000000 --target-exclusive\n",
        "ROWS DELETED  7000 of relation with file 1663/5/16390",
        "ROLLBACK PREPARED 'a''b'",
        "NOT SEEN: WAL from 0/2100000 to 0/2200000 is missing (1.00 MiB)",
        "NOT SEEN: WAL at 0/5900000 is damaged: a record's checksum is wrong",
    ] {
        assert!(text.contains(words), "{words}\n{text}");
    }
}

#[test]
fn no_more_than_asked_for_is_listed_and_the_rest_is_counted() {
    let few = report(None, 1);
    assert_eq!((few.hits.len(), few.more), (1, 2));
    assert!(few.human().contains("and 2 more"));
    for wish in ["16390", "1663/5/16390"] {
        let one = report(Some(wish), 10);
        assert_eq!((one.hits.len(), one.hits[0].kind), (1, Kind::Delete), "{wish}");
    }
    let none = report(Some("public.orders"), 10);
    assert!(none.hits.is_empty() && none.human().contains("nothing of what was asked for"));
}

#[test]
fn the_promised_keys_are_there() {
    let json = serde_json::to_value(report(None, 10)).unwrap();
    for key in [
        "cluster",
        "timeline",
        "from_lsn",
        "to_lsn",
        "read_bytes",
        "hits",
        "more",
        "gaps",
        "damage",
        "notices",
    ] {
        assert!(!json[key].is_null(), "{key}");
    }
    let hit = &json["hits"][2];
    assert_eq!(
        (&hit["kind"], &hit["xid"], &hit["lsn"]),
        (&"delete".into(), &742.into(), &"0/5000000".into())
    );
    assert_eq!(hit["time"], "2025-05-08T06:13:20Z");
    assert_eq!(
        (&hit["relations"][0]["file"], &hit["relations"][0]["rows"]),
        (&"1663/5/16390".into(), &7000.into())
    );
    assert!(hit["restore"].as_str().unwrap().ends_with("--target-lsn 0/5000000 --target-exclusive"));
    assert!(json["hits"][0]["restore"].is_null());
    assert_eq!(json["hits"][1]["database"], "other");
    assert_eq!(json["gaps"][0]["from_lsn"], "0/2100000");
}

#[test]
fn a_relation_is_found_by_any_of_its_names() {
    let name = Name {
        database: "shop".into(),
        schema: Some("public".into()),
        name: "orders".into(),
        kind: 'r',
        oid: 16384,
    };
    let file = RelFile { tablespace: 1663, database: 5, number: 16400 };
    let relation =
        Relation { name: Some(name), file: Some(file.to_string()), rows: None, subject: Subject::of(file) };
    for text in ["orders", "public.orders", "shop.public.orders", "16384", "16400", "1663/5/16400"] {
        assert!(Wish(text.into()).is(&relation), "{text}");
    }
    for text in ["order", "other.orders", "5", "1663/5/16384"] {
        assert!(!Wish(text.into()).is(&relation), "{text}");
    }
}
