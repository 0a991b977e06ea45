use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use proto::config::HealthConfig;

use super::super::observed::{
    Checkpoints, Connections, Database, Disk, Index, LogErrors, Observed, Server, Session, SlotState,
    Standby, Table,
};
use super::apply;
use crate::finding::{Finding, Severity};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn days(days: i64) -> Timestamp {
    NOW - SignedDuration::from_hours(24 * days)
}

/// A server that has nothing.
pub(crate) fn healthy() -> Observed {
    let table = Table {
        name: "public.orders".to_owned(),
        size_bytes: Some(100 << 20),
        live_rows: 1_000_000,
        index_scans: 1000,
        last_vacuum: Some(days(1)),
        last_analyze: Some(days(1)),
        ..Table::default()
    };
    let database = Database {
        name: "shop".to_owned(),
        size_bytes: 1 << 30,
        xid_age: 1_000_000,
        multixact_age: 10,
        commits: 5000,
        blocks_hit: 990_000,
        blocks_read: 10_000,
        counted_since: Some(days(30)),
        open: true,
        admits: true,
        tables: vec![table],
        ..Database::default()
    };
    let template = Database { name: "template0".to_owned(), size_bytes: 7 << 20, ..Database::default() };
    Observed {
        at: NOW,
        took_seconds: 0.05,
        server: Server {
            version: 180_001,
            freeze_max_age: 200_000_000,
            multixact_freeze_max_age: 400_000_000,
            max_wal_size: "1GB".to_owned(),
            ..Server::default()
        },
        connections: Connections {
            limit: 97,
            used: 10,
            by_state: BTreeMap::from([("active".to_owned(), 2), ("idle".to_owned(), 8)]),
        },
        sessions: Vec::new(),
        standbys: vec![Standby {
            name: "walkeep".to_owned(),
            state: Some("streaming".to_owned()),
            sync_state: Some("async".to_owned()),
            lag_bytes: Some(512),
        }],
        slots: vec![SlotState {
            name: "walkeep".to_owned(),
            active: true,
            wal_status: "reserved".to_owned(),
            retained_bytes: Some(2 << 30),
            own: false,
        }],
        checkpoints: Checkpoints { timed: 100, requested: 5, counted_since: Some(days(30)) },
        databases: vec![database, template],
        log: Some(LogErrors { file: "log/a".to_owned(), since_offset: Some(0), ..LogErrors::default() }),
        disk: Some(Disk { place: "/srv".to_owned(), free: 50 << 30, total: 100 << 30 }),
        earlier: None,
        earlier_unknown: None,
    }
}

fn with(change: impl FnOnce(&mut Observed)) -> Vec<Finding> {
    let mut observed = healthy();
    change(&mut observed);
    apply(&observed, &HealthConfig::default())
}

/// The one thing that is not in order.
#[track_caller]
fn only(change: impl FnOnce(&mut Observed), code: &str, severity: Severity) -> Finding {
    let mut bad: Vec<Finding> =
        with(change).into_iter().filter(|finding| finding.severity > Severity::Ok).collect();
    let found = bad.pop().unwrap_or_else(|| panic!("{code} is not found"));
    assert!(bad.is_empty(), "more was found: {bad:?}");
    assert_eq!((found.code, found.severity), (code, severity), "{found:?}");
    assert!(found.fix.is_some(), "{found:?}");
    found
}

fn session(pid: i32, state: &str) -> Session {
    Session {
        pid,
        database: Some("shop".to_owned()),
        role: Some("app".to_owned()),
        application: None,
        state: Some(state.to_owned()),
        wait_event: None,
        transaction_seconds: Some(30.0),
        statement_seconds: Some(30.0),
        state_seconds: Some(30.0),
        blocked_by: Vec::new(),
        query: Some("UPDATE orders\n  SET x = 1".to_owned()),
    }
}

fn shop(change: impl FnOnce(&mut Database)) -> impl FnOnce(&mut Observed) {
    move |observed| change(&mut observed.databases[0])
}

fn orders(change: impl FnOnce(&mut Table)) -> impl FnOnce(&mut Observed) {
    shop(move |database| change(&mut database.tables[0]))
}

fn index(change: impl FnOnce(&mut Index)) -> impl FnOnce(&mut Observed) {
    shop(move |database| {
        let mut index = Index {
            name: "public.orders_i".to_owned(),
            table: "public.orders".to_owned(),
            size_bytes: Some(2 << 20),
            ..Index::default()
        };
        change(&mut index);
        database.indexes.push(index);
    })
}

#[test]
fn a_server_that_has_nothing_has_no_findings() {
    let findings = with(|_| {});
    assert!(findings.iter().all(|finding| finding.severity == Severity::Ok), "{findings:#?}");
    let sizes = findings.iter().find(|finding| finding.code == "sizes").unwrap();
    assert!(sizes.message.contains("shop 1.00 GiB (largest table public.orders 100.00 MiB)"), "{sizes:?}");
}

#[test]
fn sessions_are_judged() {
    use Severity::{Error, Warning};
    only(|o| o.connections.used = 78, "connections", Warning);
    only(|o| o.connections.used = 93, "connections", Error);
    let blocked = |o: &mut Observed| {
        let waiting = Session { blocked_by: vec![7], statement_seconds: Some(90.0), ..session(8, "active") };
        let behind = Session { blocked_by: vec![8], statement_seconds: Some(80.0), ..session(9, "active") };
        o.sessions = vec![session(7, "idle in transaction"), waiting, behind];
    };
    let found = only(blocked, "blocked", Warning);
    for words in [
        "process 8 (app in shop) with «UPDATE orders SET x = 1» has waited",
        "process 7 (app in shop, idle in transaction)",
        "for 90 s",
    ] {
        assert!(found.message.contains(words), "{words}: {found:?}");
    }
    let fix = found.fix.unwrap();
    assert!(fix.contains("pg_terminate_backend(7)") && !fix.contains("(8)"), "{fix}");
    let idle = Session {
        state_seconds: Some(700.0),
        transaction_seconds: Some(9000.0),
        ..session(7, "idle in transaction (aborted)")
    };
    let found = only(|o| o.sessions = vec![idle], "idle_in_transaction", Warning);
    assert!(found.fix.unwrap().contains("pg_terminate_backend(7)"));
    let long = Session { transaction_seconds: Some(9000.0), ..session(7, "active") };
    let found = only(|o| o.sessions = vec![long], "long_transactions", Warning);
    assert!(found.message.contains("at work for 2 h"), "{found:?}");
}

#[test]
fn tables_and_indexes_are_judged() {
    use Severity::Warning;
    let dead = orders(|t| (t.live_rows, t.dead_rows, t.last_vacuum) = (70_000, 30_000, None));
    let found = only(dead, "dead_rows", Warning);
    assert!(
        found.message.contains("shop.public.orders: 30,000 of 100,000 rows (30 %), never vacuumed"),
        "{found:?}"
    );
    assert!(found.fix.unwrap().starts_with("VACUUM (ANALYZE) public.orders;"));
    let few = with(orders(|t| (t.live_rows, t.dead_rows) = (1, 9_999)));
    assert!(few.iter().all(|finding| finding.severity == Severity::Ok));
    only(orders(|t| (t.last_analyze, t.changed_rows) = (None, 20_000)), "never_analyzed", Warning);
    let scanned = |t: &mut Table| {
        (t.sequential_scans, t.sequential_rows, t.index_scans) = (30, 30 * 50_000, 10);
    };
    only(orders(scanned), "sequential_scans", Warning);
    let found = only(index(|i| i.unused = true), "unused_indexes", Warning);
    assert!(found.fix.unwrap().contains("DROP INDEX CONCURRENTLY public.orders_i;"));
    let young = with(|o| {
        index(|i| i.unused = true)(o);
        o.databases[0].counted_since = Some(days(1));
    });
    assert!(young.iter().all(|finding| finding.code != "unused_indexes"), "nobody can know that yet");
    only(index(|i| i.duplicate_of = Some("public.other".to_owned())), "duplicate_indexes", Warning);
    only(index(|i| i.invalid = true), "invalid_indexes", Warning);
}

#[test]
fn what_comes_to_an_end_is_judged() {
    use Severity::{Error, Warning};
    only(shop(|d| d.xid_age = 600_000_000), "xid_age", Warning);
    only(shop(|d| d.xid_age = 1_700_000_000), "xid_age", Error);
    only(shop(|d| d.multixact_age = 600_000_000), "multixact_age", Warning);
    let of_template = only(|o| o.databases[1].xid_age = 600_000_000, "xid_age", Warning);
    assert!(of_template.fix.unwrap().starts_with("see that autovacuum runs"));
    only(|o| o.disk.as_mut().unwrap().free = 10 << 30, "disk", Warning);
    only(|o| o.disk.as_mut().unwrap().free = 1 << 30, "disk", Error);
    let growing = |o: &mut Observed| {
        o.earlier = Some(days(7));
        o.databases[0].grown_bytes = Some(30 << 30);
    };
    let found = only(growing, "disk", Warning);
    assert!(found.message.contains("it is full in 11 d"), "{found:?}");
    // An hour says nothing about days.
    let soon = with(|o| {
        growing(o);
        o.earlier = Some(NOW - SignedDuration::from_hours(1));
    });
    assert!(soon.iter().all(|finding| finding.severity == Severity::Ok));
}

#[test]
fn the_server_as_a_whole_is_judged() {
    use Severity::Warning;
    only(shop(|d| (d.blocks_hit, d.blocks_read) = (50_000, 50_000)), "cache_hit", Warning);
    only(shop(|d| (d.temp_files, d.temp_bytes) = (9, 31 * (10 << 30))), "temp_files", Warning);
    only(|o| o.checkpoints.requested = 101, "checkpoints", Warning);
    only(|o| o.standbys[0].lag_bytes = Some(2 << 30), "replication_lag", Warning);
    only(|o| o.slots[0].active = false, "replication_slots", Warning);
    let lost = |o: &mut Observed| o.slots[0].wal_status = "lost".to_owned();
    let found = only(lost, "replication_slots", Warning);
    assert!(found.fix.unwrap().contains("pg_drop_replication_slot('walkeep')"));
    for kept in [false, true] {
        let own = |o: &mut Observed| {
            if kept {
                o.slots[0].active = false;
            } else {
                lost(o);
            }
            o.slots[0].own = true;
        };
        assert_eq!(only(own, "replication_slots", Warning).fix.unwrap(), "walkeep run");
    }
    let unused = with(|o| {
        let slot = &mut o.slots[0];
        (slot.active, slot.wal_status, slot.retained_bytes) = (false, "none".to_owned(), None);
    });
    assert!(
        unused.iter().all(|finding| finding.severity == Severity::Ok),
        "it keeps nothing, and has lost nothing"
    );
    let standby = |o: &mut Observed| {
        o.server.in_recovery = true;
        o.server.replay_lag_bytes = Some(2 << 30);
    };
    only(standby, "replay_lag", Warning);
    let logged = |o: &mut Observed| {
        let log = o.log.as_mut().unwrap();
        (log.errors, log.last) = (2, vec!["ERROR:  no such table".to_owned()]);
    };
    let found = only(logged, "server_log", Warning);
    assert!(found.message.contains("no such table"), "{found:?}");
    let part = |o: &mut Observed| o.log.as_mut().unwrap().unread = Some("the rest of log/a".to_owned());
    let found = only(part, "server_log", Warning);
    assert!(found.message.ends_with("; the rest of log/a was not read"), "{found:?}");
    only(|o| o.log.as_mut().unwrap().panics = 1, "server_log", Severity::Error);
    let closed = |d: &mut Database| (d.trouble, d.admits) = (Some("permission denied".to_owned()), false);
    let closed = only(shop(closed), "databases", Warning);
    assert!(closed.fix.unwrap().contains("GRANT CONNECT ON DATABASE \"shop\""));
}
