//! Facts to try things on: none, and all of them.

use std::sync::Arc;

use proto::{Lsn, SystemId, TimelineId};
use repository::backup::BackupKind;
use repository::catalogue::{BackupSummary, Gap, Window};
use repository::drill::Verdict;
use repository::run::Job;

use super::super::history::STEP;
use super::super::look::{SlotFacts, Tail};
use super::*;
use crate::counters::Histogram;
use crate::drill::{LastDrill, LastDrills};
use crate::schedule::{JobStatus, LastRun};

/// When it is now.
const NOW: i64 = 1_790_000_000;

pub(in crate::http) fn ago(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW - seconds).unwrap()
}

/// An agent that was just started.
pub(in crate::http) fn nothing() -> Facts {
    Facts {
        now: ago(0),
        started: ago(1),
        cluster: "main".into(),
        store: "file:///var/lib/walkeep".into(),
        stream_enabled: true,
        synchronous: false,
        flush_interval: Duration::from_secs(1),
        stream: StreamStatus::default(),
        stands_by: false,
        schedule: None,
        exposed: None,
        puts: Vec::new(),
        retries: 0,
        interruptions: 0,
        archive: ArchiveStatus::default(),
        calls: Calls::default(),
        written: Written::default(),
        troubles: Vec::new(),
        history: Vec::new(),
        repository: Look::default(),
        server: Look::default(),
        health: Look::default(),
    }
}

fn backup(label: &str, kind: BackupKind, timeline: u32, stop: u64, finished: i64) -> BackupSummary {
    BackupSummary {
        label: label.parse().unwrap(),
        kind,
        timeline: TimelineId::new(timeline).unwrap(),
        start_lsn: Lsn(stop - 0x1000),
        stop_lsn: Lsn(stop),
        started_at: ago(finished + 60),
        finished_at: ago(finished),
        size_bytes: 5 << 30,
        stored_bytes: 1 << 30,
        damaged_pages: 0,
        note: None,
        restorable: true,
    }
}

fn drill(verdict: Verdict, age: i64) -> LastDrill {
    LastDrill {
        object: "drill/x".into(),
        verdict,
        started_at: ago(age),
        age_seconds: age as u64,
        backup: Some("label".into()),
        reached_lsn: None,
        reached_time: None,
        recovery_seconds: Some(12.5),
        failure: (verdict == Verdict::Failed).then(|| "<script>alert(1)</script> & \"more\"".into()),
    }
}

fn schedule() -> ScheduleStatus {
    let last = |age, seconds, why: Option<&str>| LastRun {
        started_at: ago(age),
        succeeded: why.is_none(),
        seconds: Some(seconds),
        message: why.map(str::to_owned),
    };
    let job = |job, times: &str, next: i64, last| JobStatus {
        job,
        times: times.into(),
        next_at: Some(ago(-next)),
        running_since: None,
        last,
    };
    let running = JobStatus {
        running_since: Some(ago(95)),
        ..job(Job::Verify, "0 5 * * *", 50_000, Some(last(86_400, 310.0, None)))
    };
    ScheduleStatus {
        timezone: "UTC".into(),
        waits_for: None,
        jobs: vec![
            job(Job::Full, "0 2 * * 0", 300_000, Some(last(3 * 86_400, 60.0, None))),
            running,
            job(Job::Drill, "0 12 * * *", -60, Some(last(7200, 42.5, Some("it <failed>")))),
        ],
    }
}

/// An agent that has seen it all: a failover, a gap, a backup that is of no use, a drill that has failed.
pub(in crate::http) fn everything() -> Facts {
    let timeline = |number| TimelineId::new(number).unwrap();
    let (hour, day) = (3600, 86_400);
    let mut backups = vec![
        backup("20260901T000000Z-full-1a2b3c", BackupKind::Full, 1, 0x200_0000, 6 * day),
        backup("20260904T000000Z-full-1a2b3d", BackupKind::Full, 1, 0x500_0000, 3 * day),
        backup("20260907T000000Z-incremental-1a2b3e", BackupKind::Incremental, 2, 0x800_0000, hour),
    ];
    backups[0].restorable = false;
    let window = |number, from, to, from_time, to_time| Window {
        timeline: timeline(number),
        from_lsn: Lsn(from),
        to_lsn: Lsn(to),
        from_time: Some(ago(from_time)),
        to_time: Some(ago(to_time)),
    };
    let found = RepositoryFacts {
        system_id: SystemId(7_123_456_789),
        backups,
        unreadable: 1,
        windows: vec![
            window(1, 0x200_0000, 0x300_0000, 6 * day, 5 * day),
            window(1, 0x500_0000, 0x700_0000, 3 * day, day),
            window(2, 0x500_0000, 0x900_0000, 3 * day, 2),
        ],
        gaps: vec![Gap { timeline: timeline(1), from_lsn: Lsn(0x300_0000), to_lsn: Lsn(0x400_0000) }],
        forks: vec![(timeline(2), Lsn(0x680_0000))],
        tails: vec![Tail { timeline: timeline(2), from: Lsn(0x800_0000), to: Lsn(0x900_0000), objects: 3 }],
        dumps: (3, Some(ago(hour / 2))),
        drills: LastDrills {
            last_drill: Some(drill(Verdict::Failed, 2 * hour)),
            last_passed_drill: Some(drill(Verdict::Passed, 2 * day)),
        },
        drill_times: vec![(ago(2 * day), Verdict::Passed), (ago(2 * hour), Verdict::Failed)],
    };
    let server = ServerFacts {
        lsn: Some(Lsn(0x900_0400)),
        slot: Some(SlotFacts {
            active: true,
            wal_status: "extended".into(),
            retained: Some(5),
            safe: Some(1 << 30),
        }),
        backlog: Some(4),
        archiver_failures: Some(2),
    };
    let histogram = Histogram::default();
    histogram.record(Duration::from_millis(3));
    histogram.record(Duration::from_millis(30));
    let puts = |kind| Puts { kind, durations: histogram.durations(), bytes: 4096 };
    let health = crate::health::examined(|observed| observed.disk.as_mut().unwrap().free = 1 << 30);
    let look = Duration::from_millis(120);
    Facts {
        stream: StreamStatus {
            state: StreamPhase::Streaming,
            timeline: Some(timeline(2)),
            received_lsn: Some(Lsn(0x900_0300)),
            durable_lsn: Some(Lsn(0x900_0000)),
            server_lsn: Some(Lsn(0x900_0400)),
            lag_bytes: Some(1024),
            lag_seconds: Some(0.25),
        },
        schedule: Some(schedule()),
        exposed: Some(0.5),
        puts: PutKind::ALL.map(puts).into(),
        retries: 3,
        interruptions: 1,
        archive: ArchiveStatus {
            last_segment: "000000020000000000000008".parse().ok(),
            last_at: Some(ago(20)),
            stored: 12,
            ..ArchiveStatus::default()
        },
        calls: Calls { answered: 12, shipped: 1, refused: 1, failed: 2 },
        written: Written { objects: 40, bytes: 9 << 20, failures: 1 },
        troubles: vec![
            Trouble {
                message: "streaming is interrupted: <b>the server</b> is away".into(),
                first: ago(4000),
                last: ago(3000),
                count: 7,
            },
            Trouble { message: "cannot store WAL".into(), first: ago(90_000), last: ago(90_000), count: 1 },
        ],
        history: (0..720)
            .map(|step| Sample {
                at: NOW - NOW % STEP - (720 - step) * STEP,
                seconds: (!(300..330).contains(&step)).then(|| {
                    0.3 + f64::from((step * 37 % 50) as i32) / 100.0 + if step == 500 { 9.0 } else { 0.0 }
                }),
                bytes: Some(1000),
                away: (300..330).contains(&step),
            })
            .collect(),
        repository: Look { found: Some((Arc::new(found), ago(30), look)), failure: None },
        server: Look { found: Some((Arc::new(server), ago(10), look)), failure: None },
        health: Look { found: Some((Arc::new(health), ago(20), look)), failure: None },
        ..nothing()
    }
}

#[test]
fn without_a_stream_what_is_at_risk_comes_from_the_looks() {
    let facts = everything();
    assert_eq!(facts.at_risk(), AtRisk { bytes: Some(1024), seconds: Some(0.5) });
    let mut away = facts.clone();
    away.stream.state = StreamPhase::Waiting;
    away.stream.durable_lsn = None;
    away.exposed = Some(40.0);
    away.archive.last_at = None;
    assert_eq!(away.at_risk(), AtRisk { bytes: Some(0x400), seconds: Some(2.0) });
    // An agent that has not streamed, of a repository that nobody can reach, knows nothing.
    assert_eq!(nothing().at_risk(), AtRisk { bytes: None, seconds: None });
}
