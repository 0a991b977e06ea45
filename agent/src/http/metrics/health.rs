//! The server's health, where `[health]` has it watched.

use super::*;
use crate::finding::Severity;
use crate::health::{Examination, Observed};

metrics! {
    HEALTH_UP = "walkeep_health_reachable", Gauge, [],
        "1 if the last look at the server's health succeeded; no sample where it is not watched.";
    HEALTH_AGE = "walkeep_health_look_age_seconds", Gauge, [],
        "How old the facts about the server's health are.";
    HEALTH_TOOK = "walkeep_health_look_duration_seconds", Gauge, [],
        "How long that look took.";
    HEALTH_FINDING = "walkeep_health_finding", Gauge, ["code"],
        "What `walkeep health` says to each code: 0 in order, 1 a warning, 2 an error.";
    CONNECTIONS = "walkeep_connections", Gauge, ["state"],
        "Connections of clients by state, as PostgreSQL names it.";
    CONNECTIONS_LIMIT = "walkeep_connections_limit", Gauge, [],
        "Connections that are to be had by roles that are no superusers.";
    SESSIONS_BLOCKED = "walkeep_sessions_blocked", Gauge, [],
        "Sessions that wait for a lock of another.";
    DATABASE_SIZE = "walkeep_database_size_bytes", Gauge, ["database"],
        "Bytes of the database on disk.";
    DATABASE_XID_AGE = "walkeep_database_xid_age", Gauge, ["database"],
        "The age of the database's oldest transaction that is not frozen, in transactions.";
    DATABASE_MULTIXACT_AGE = "walkeep_database_multixact_age", Gauge, ["database"],
        "The same of its oldest multixact.";
    DATABASE_COMMITS = "walkeep_database_commits_total", Counter, ["database"],
        "Committed transactions; the server can set it back, as all that it counts.";
    DATABASE_HITS = "walkeep_database_blocks_hit_total", Counter, ["database"],
        "Blocks that were found in shared buffers.";
    DATABASE_READS = "walkeep_database_blocks_read_total", Counter, ["database"],
        "Blocks that were not.";
    DATABASE_TEMP = "walkeep_database_temp_written_bytes_total", Counter, ["database"],
        "Bytes of temporary files.";
    DATABASE_DEADLOCKS = "walkeep_database_deadlocks_total", Counter, ["database"],
        "Deadlocks.";
    STANDBY_LAG = "walkeep_standby_lag_bytes", Gauge, ["standby"],
        "WAL that a standby, or whoever else streams, has not replayed, or not flushed where it replays nothing.";
    CHECKPOINTS = "walkeep_checkpoints_total", Counter, ["kind"],
        "Checkpoints of the server: timed or requested.";
    DISK_FREE = "walkeep_data_disk_free_bytes", Gauge, [],
        "What is free for the server on the disk of its data directory, where the agent sees it.";
    DISK_SIZE = "walkeep_data_disk_size_bytes", Gauge, [],
        "That disk's size.";
}

/// Their samples.
pub(super) fn samples(out: &mut Exposition, facts: &Facts) {
    out.metric(&HEALTH_UP).one(facts.health.answers().map(u8::from));
    out.metric(&HEALTH_AGE).one(facts.health.age(facts.now));
    out.metric(&HEALTH_TOOK).one(facts.health.found.as_ref().map(|(.., took)| took.as_secs_f64()));
    let found: Option<&Examination> = facts.health.facts();
    let mut codes = out.metric(&HEALTH_FINDING);
    for finding in found.iter().flat_map(|found| found.findings.iter()) {
        let value = match finding.severity {
            Severity::Ok => 0,
            Severity::Warning => 1,
            Severity::Error => 2,
        };
        codes.with(&[finding.code], value);
    }
    let observed = found.map(|found| &found.observed);
    server(out, observed);
    databases(out, observed);
}

fn server(out: &mut Exposition, observed: Option<&Observed>) {
    let mut connections = out.metric(&CONNECTIONS);
    for (state, count) in observed.iter().flat_map(|observed| &observed.connections.by_state) {
        connections.with(&[state], count);
    }
    out.metric(&CONNECTIONS_LIMIT).one(observed.map(|observed| observed.connections.limit));
    let blocked = |observed: &Observed| {
        observed.sessions.iter().filter(|session| !session.blocked_by.is_empty()).count()
    };
    out.metric(&SESSIONS_BLOCKED).one(observed.map(blocked));
    let mut lags = out.metric(&STANDBY_LAG);
    let mut told = std::collections::BTreeSet::new();
    for standby in observed.iter().flat_map(|observed| &observed.standbys) {
        // Several may have one name, and a sample is there once.
        if let Some(lag) = standby.lag_bytes.filter(|_| told.insert(&standby.name)) {
            lags.with(&[&standby.name], lag);
        }
    }
    let mut checkpoints = out.metric(&CHECKPOINTS);
    if let Some(made) = observed.map(|observed| &observed.checkpoints) {
        checkpoints.with(&["timed"], made.timed);
        checkpoints.with(&["requested"], made.requested);
    }
    let disk = observed.and_then(|observed| observed.disk.as_ref());
    out.metric(&DISK_FREE).one(disk.map(|disk| disk.free));
    out.metric(&DISK_SIZE).one(disk.map(|disk| disk.total));
}

fn databases(out: &mut Exposition, observed: Option<&Observed>) {
    let databases = observed.map(|observed| observed.databases.as_slice()).unwrap_or_default();
    let mut each = |metric: &'static Metric, value: &dyn Fn(&crate::health::Database) -> u64| {
        let mut samples = out.metric(metric);
        for database in databases {
            samples.with(&[&database.name], value(database));
        }
    };
    each(&DATABASE_SIZE, &|database| database.size_bytes);
    each(&DATABASE_XID_AGE, &|database| database.xid_age);
    each(&DATABASE_MULTIXACT_AGE, &|database| database.multixact_age);
    each(&DATABASE_COMMITS, &|database| database.commits);
    each(&DATABASE_HITS, &|database| database.blocks_hit);
    each(&DATABASE_READS, &|database| database.blocks_read);
    each(&DATABASE_TEMP, &|database| database.temp_bytes);
    each(&DATABASE_DEADLOCKS, &|database| database.deadlocks);
}
