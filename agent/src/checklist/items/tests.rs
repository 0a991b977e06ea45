use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use proto::{Lsn, TimelineId};
use repository::backup::BackupKind;
use repository::catalogue::BackupSummary;
use repository::drill::Verdict;
use repository::run::{Job, RunName};

use super::super::plots::tests::looks;
use super::super::seen::{Agent, Stored};
use super::*;
use crate::checklist::Checklist;
use crate::drill::{LastDrill, LastDrills};
use crate::health::{Observed, Statement, Statements, examined};
use crate::schedule::LastRun;

fn now() -> Timestamp {
    "2026-11-25T12:00:00Z".parse().unwrap()
}

fn days_ago(days: i64) -> Timestamp {
    now() - SignedDuration::from_hours(24 * days)
}

fn run(succeeded: bool, days: i64) -> LastRun {
    LastRun { started_at: days_ago(days), succeeded, seconds: Some(1.0), message: Some("words".into()) }
}

fn backup() -> BackupSummary {
    BackupSummary {
        label: "20261125T020000Z-full-1a2b3c".parse().unwrap(),
        kind: BackupKind::Full,
        timeline: TimelineId::FIRST,
        start_lsn: Lsn(1),
        stop_lsn: Lsn(2),
        started_at: now() - SignedDuration::from_hours(10),
        finished_at: now() - SignedDuration::from_hours(9),
        size_bytes: 1,
        stored_bytes: 1,
        damaged_pages: 0,
        note: None,
        restorable: true,
    }
}

fn health(change: impl FnOnce(&mut Observed)) -> crate::health::Examination {
    examined(|observed| {
        observed.earlier = Some(observed.at - SignedDuration::from_hours(24 * 7));
        observed.databases[0].statements = Some(Statements {
            calls: 10,
            seconds: 1.0,
            slowest: vec![Statement { query: "SELECT\n 1".into(), calls: 10, seconds: 1.0 }],
        });
        change(observed);
    })
}

fn agent(state: &str) -> Agent {
    Agent { state: state.into(), ..Agent::default() }
}

/// Of a cluster that is looked after.
fn tidy() -> Seen {
    let drill = LastDrill {
        object: "drill/x".into(),
        verdict: Verdict::Passed,
        started_at: days_ago(3),
        age_seconds: 3 * 86_400,
        backup: None,
        reached_lsn: None,
        reached_time: None,
        recovery_seconds: Some(12.0),
        failure: None,
    };
    Seen {
        cluster: "main".into(),
        now: now(),
        has_retention: true,
        streams: true,
        health: Ok(health(|_| {})),
        agent: Ok(agent("streaming")),
        stored: Ok(Stored {
            backups: vec![backup()],
            last_runs: BTreeMap::from([
                (Job::Full, run(true, 0)),
                (Job::Expire, run(true, 1)),
                (Job::Verify, run(true, 1)),
                (Job::VerifyDeep, run(true, 7)),
            ]),
            drills: LastDrills { last_drill: Some(drill.clone()), last_passed_drill: Some(drill) },
            looks: looks(&[(0, 0), (90, 10), (180, 20), (270, 30), (360, 40)]),
            ..Stored::default()
        }),
    }
}

fn with(kind: Kind, change: impl FnOnce(&mut Seen)) -> Vec<Item> {
    let mut seen = tidy();
    change(&mut seen);
    of(kind, &seen)
}

/// The one item that is not green.
#[track_caller]
fn only(kind: Kind, code: &str, level: Level, change: impl FnOnce(&mut Seen)) -> Item {
    let mut bad: Vec<Item> =
        with(kind, change).into_iter().filter(|item| item.level > Level::Green).collect();
    let found = bad.pop().unwrap_or_else(|| panic!("{code} is green"));
    assert!(bad.is_empty(), "more is not green: {bad:#?}");
    assert_eq!((found.code, found.level), (code, level), "{found:?}");
    assert!(!found.todo.is_empty() && !found.evidence.is_empty(), "{found:?}");
    found
}

fn stored(change: impl FnOnce(&mut Stored)) -> impl FnOnce(&mut Seen) {
    move |seen| change(seen.stored.as_mut().unwrap())
}

fn observed(change: impl FnOnce(&mut Observed)) -> impl FnOnce(&mut Seen) {
    move |seen| seen.health = Ok(health(change))
}

#[test]
fn a_cluster_that_is_looked_after_is_green() {
    for kind in [Kind::Daily, Kind::Weekly, Kind::Monthly] {
        let items = with(kind, |_| {});
        assert!(items.iter().all(|item| item.level == Level::Green && item.todo.is_empty()), "{items:#?}");
        assert!(Checklist::of(kind, &tidy()).ok);
    }
}

#[test]
fn the_days_items() {
    use Level::{Red, Yellow};
    let daily = Kind::Daily;
    only(daily, "backup", Red, stored(|s| s.backups.clear()));
    only(daily, "backup", Red, stored(|s| s.backups[0].restorable = false));
    only(daily, "backup", Yellow, stored(|s| s.backups[0].finished_at = days_ago(9)));
    only(daily, "backup", Yellow, stored(|s| s.unreadable = 1));
    let failed = |s: &mut Stored| {
        s.last_runs.insert(Job::Incremental, run(false, 0));
    };
    let found = only(daily, "backup", Red, stored(failed));
    assert!(found.evidence[0].contains("incremental backup has failed 0 h ago: words"), "{found:?}");
    // One that was taken since makes up for it.
    let old = with(daily, stored(|s| drop(s.last_runs.insert(Job::Incremental, run(false, 2)))));
    assert!(old.iter().all(|item| item.level == Level::Green));
    only(daily, "wal", Red, stored(|s| s.gaps = 1));
    only(daily, "wal", Red, |seen| seen.agent = Err("nobody".into()));
    only(daily, "wal", Red, |seen| {
        seen.agent = Ok(Agent { last_error: Some("why".into()), ..agent("waiting") })
    });
    // Without a stream it is the archiver who counts.
    let archives = |change: fn(&mut Agent)| {
        move |seen: &mut Seen| {
            seen.streams = false;
            let mut agent = Agent { archived: 7, ..agent("off") };
            change(&mut agent);
            seen.agent = Ok(agent);
        }
    };
    assert!(with(daily, archives(|_| {})).iter().all(|item| item.level == Level::Green));
    only(daily, "wal", Yellow, archives(|agent| agent.archived = 0));
    only(daily, "wal", Red, archives(|agent| agent.last_error = Some("why".into())));
    let found = only(daily, "wal", Red, archives(|agent| agent.archive_error = Some("no room".into())));
    assert!(found.evidence[0].ends_with("failed: no room"), "{found:?}");
    let name: RunName = "20261125T053015123Z-verify-failed-00000000000000a1".parse().unwrap();
    only(daily, "schedule", Red, stored(|s| s.runs = vec![name]));
    let found = only(daily, "schedule", Yellow, stored(|s| s.missed = vec![(Job::Full, days_ago(1))]));
    assert!(found.evidence[0].contains("full was due 24 h ago"), "{found:?}");
    only(daily, "disk", Red, observed(|o| o.disk.as_mut().unwrap().free = 1));
    let unseen = only(daily, "disk", Yellow, observed(|o| o.disk = None));
    assert!(unseen.evidence[0].contains("could not be looked at"));
    only(daily, "connections", Yellow, observed(|o| o.connections.used = 80));
    only(daily, "server_log", Yellow, observed(|o| o.log.as_mut().unwrap().errors = 1));
    only(daily, "replication", Yellow, observed(|o| o.slots[0].active = false));
}

#[test]
fn what_cannot_be_asked_is_red() {
    let items = with(Kind::Daily, |seen| seen.health = Err("it is away".into()));
    assert_eq!(items.iter().filter(|item| item.level == Level::Red).count(), 4, "{items:#?}");
    let items = with(Kind::Weekly, |seen| seen.stored = Err("it is away".into()));
    assert_eq!(items.iter().filter(|item| item.level == Level::Red).count(), 2, "{items:#?}");
}

#[test]
fn the_weeks_items() {
    use Level::{Red, Yellow};
    let weekly = Kind::Weekly;
    only(weekly, "backups", Red, stored(|s| s.backups.clear()));
    only(weekly, "backups", Yellow, stored(|s| s.backups[0].damaged_pages = 1));
    only(weekly, "dead_rows", Yellow, observed(|o| o.databases[0].tables[0].dead_rows = 900_000));
    only(weekly, "memory", Yellow, observed(|o| o.checkpoints.requested = 1000));
    only(weekly, "slow_statements", Yellow, observed(|o| o.databases[0].statements = None));
    let slow = observed(|o| o.databases[0].statements.as_mut().unwrap().slowest[0].seconds = 600.0);
    let found = only(weekly, "slow_statements", Yellow, slow);
    assert!(found.evidence[0].contains("600.0 s in 10 calls, 60000.0 ms each: SELECT 1"), "{found:?}");
    only(weekly, "growth", Yellow, observed(|o| o.earlier = None));
    let grown = |o: &mut Observed| {
        let table = &mut o.databases[0].tables[0];
        (table.size_bytes, table.grown_bytes) = (Some(3 << 30), Some(2 << 30));
    };
    let found = only(weekly, "growth", Yellow, observed(grown));
    assert!(found.evidence.iter().any(|line| line.contains("shop.public.orders has grown by 2.00 GiB")));
    only(weekly, "verify", Yellow, stored(|s| s.last_runs.retain(|job, _| *job == Job::Full)));
    only(weekly, "verify", Red, stored(|s| drop(s.last_runs.insert(Job::Verify, run(false, 0)))));
    // What read every byte counts, whatever was looked at since by names alone; and for as much and more.
    only(weekly, "verify", Red, stored(|s| drop(s.last_runs.insert(Job::VerifyDeep, run(false, 7)))));
    let made_up_for = with(
        weekly,
        stored(|s| {
            s.last_runs.insert(Job::Verify, run(false, 3));
            s.last_runs.insert(Job::VerifyDeep, run(true, 2));
        }),
    );
    assert!(made_up_for.iter().all(|item| item.level == Level::Green), "{made_up_for:#?}");
    let closed =
        |o: &mut Observed| o.databases[0].trouble = Some("only the 50 largest are looked into".into());
    let unseen = with(weekly, observed(closed));
    for item in unseen.iter().filter(|item| ["indexes", "dead_rows", "growth"].contains(&item.code)) {
        assert!(item.level == Yellow && item.evidence.last().unwrap().contains("50 largest"), "{item:?}");
    }
}

#[test]
fn the_months_items() {
    use Level::{Red, Yellow};
    let monthly = Kind::Monthly;
    only(monthly, "drill", Red, stored(|s| s.drills = LastDrills::default()));
    only(monthly, "drill", Red, stored(|s| s.drills.last_drill.as_mut().unwrap().verdict = Verdict::Failed));
    only(
        monthly,
        "drill",
        Yellow,
        stored(|s| s.drills.last_drill.as_mut().unwrap().started_at = days_ago(40)),
    );
    only(
        monthly,
        "verify_deep",
        Yellow,
        stored(|s| drop(s.last_runs.insert(Job::VerifyDeep, run(true, 40)))),
    );
    only(monthly, "cleaning", Yellow, |seen| seen.has_retention = false);
    only(monthly, "cleaning", Red, stored(|s| drop(s.last_runs.insert(Job::Expire, run(false, 0)))));
    only(monthly, "wraparound", Yellow, observed(|o| o.databases[0].xid_age = 700_000_000));
    only(monthly, "trend", Yellow, stored(|s| s.looks.clear()));
    let slower = stored(|s| s.looks = looks(&[(0, 0), (90, 10), (180, 20), (200, 100), (220, 180)]));
    let found = only(monthly, "trend", Yellow, slower);
    assert!(found.evidence.iter().any(|line| line.contains("90.0 % before, 20.0 % of late")), "{found:?}");
}

#[test]
fn people_see_the_worst_first() {
    let mut seen = tidy();
    stored(|s| s.gaps = 1)(&mut seen);
    observed(|o| o.connections.used = 80)(&mut seen);
    let checklist = Checklist::of(Kind::Daily, &seen);
    assert_eq!(checklist.summary, "daily: 1 red, 1 yellow, 5 green; WAL; connections and locks");
    let text = checklist.text();
    assert!(
        text.contains("RED     WAL\n        1 stretches") && text.contains("        > walkeep list"),
        "{text}"
    );
    let page = crate::checklist::page(&checklist, &[]);
    assert!(
        page.contains("class=\"item bad\"") && !page.contains("<script") && !page.contains("://"),
        "{page}"
    );
}
