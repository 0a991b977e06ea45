//! Each week: what becomes slow, or large.

use indicatif::HumanCount;
use jiff::SignedDuration;
use repository::run::Job;

use super::super::seen::Seen;
use super::stored::{A_WEEK, job, stored};
use super::{Item, Level, of_health};
use crate::health::{Database, Statement};

/// So many statements are told.
const TOLD: usize = 5;

/// A statement that takes so long each time, in seconds, is slow, if it has taken so long altogether.
const SLOW: f64 = 1.0;
const SLOW_ALTOGETHER: f64 = 60.0;

/// A table that has grown by so much since the earlier look, and by half of what it was, stands out.
const MUCH: i64 = 1 << 30;

pub(super) fn items(seen: &Seen) -> Vec<Item> {
    vec![
        backups(seen),
        of_health(
            seen,
            ("indexes", "use of indexes"),
            &["unused_indexes", "duplicate_indexes", "invalid_indexes", "sequential_scans"],
        ),
        statements(seen),
        growth(seen),
        of_health(seen, ("dead_rows", "dead rows and statistics"), &["dead_rows", "never_analyzed"]),
        of_health(
            seen,
            ("memory", "memory, temporary files, checkpoints"),
            &["cache_hit", "temp_files", "checkpoints"],
        ),
        job(
            seen,
            ("verify", "verification of the repository"),
            &[Job::Verify, Job::VerifyDeep],
            A_WEEK,
            "walkeep verify, or `verify` in [schedule]",
        ),
    ]
}

fn backups(seen: &Seen) -> Item {
    const NAME: (&str, &str) = ("backups", "backups of the week");
    let stored = match stored(seen, NAME) {
        Ok(stored) => stored,
        Err(item) => return item,
    };
    let week = SignedDuration::from_hours(7 * 24);
    let is_young = |at| seen.now.duration_since(at) <= week;
    let taken = stored.backups.iter().filter(|backup| is_young(backup.finished_at)).count();
    let failed = stored
        .runs
        .iter()
        .filter(|run| {
            matches!(run.job, Job::Full | Job::Incremental) && !run.succeeded && is_young(run.started_at)
        })
        .count();
    let damaged =
        stored.backups.iter().filter(|backup| !backup.restorable || backup.damaged_pages > 0).count();
    let evidence = format!(
        "{taken} were taken, {failed} scheduled ones have failed, {damaged} of all are of no use or have damaged pages"
    );
    match () {
        () if !stored.backups.iter().any(|backup| backup.restorable) => {
            Item::bad(Level::Red, NAME, evidence, "walkeep backup")
        }
        () if taken == 0 || failed > 0 || damaged > 0 => {
            Item::bad(Level::Yellow, NAME, evidence, "walkeep status; walkeep list")
        }
        () => Item::green(NAME.0, NAME.1, evidence),
    }
}

fn statements(seen: &Seen) -> Item {
    const NAME: (&str, &str) = ("slow_statements", "slow statements");
    let Ok(found) = &seen.health else { return of_health(seen, NAME, &[]) };
    let mut all: Vec<(&Database, &Statement)> = Vec::new();
    let mut is_known = false;
    for database in &found.observed.databases {
        let Some(statements) = &database.statements else { continue };
        is_known = true;
        all.extend(statements.slowest.iter().map(|statement| (database, statement)));
    }
    if !is_known {
        return Item::bad(
            Level::Yellow,
            NAME,
            "pg_stat_statements is not installed in the database of `postgres`, so nobody knows",
            "ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements';  -- beside what is there; restart PostgreSQL, then\n\
             CREATE EXTENSION pg_stat_statements;",
        );
    }
    all.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
    let mean = |statement: &Statement| statement.seconds / statement.calls.max(1) as f64;
    let is_slow =
        all.iter().any(|(_, statement)| mean(statement) >= SLOW && statement.seconds >= SLOW_ALTOGETHER);
    let told = |(database, statement): &(&Database, &Statement)| {
        let words: Vec<&str> = statement.query.split_whitespace().collect();
        format!(
            "{}: {:.1} s in {} calls, {:.1} ms each: {}",
            database.name,
            statement.seconds,
            HumanCount(statement.calls),
            mean(statement) * 1000.0,
            words.join(" ")
        )
    };
    let evidence: Vec<String> = all.iter().take(TOLD).map(told).collect();
    Item {
        code: NAME.0,
        level: if is_slow { Level::Yellow } else { Level::Green },
        title: NAME.1,
        evidence,
        todo: if is_slow { vec!["EXPLAIN (ANALYZE, BUFFERS) …".to_owned()] } else { Vec::new() },
    }
}

fn growth(seen: &Seen) -> Item {
    const NAME: (&str, &str) = ("growth", "growth of tables");
    let mut item = of_health(seen, NAME, &["sizes"]);
    let Ok(found) = &seen.health else { return item };
    if found.observed.earlier.is_none() {
        item.level = Level::Yellow;
        item.todo = vec!["[health]\nenabled = true".to_owned()];
        return item;
    }
    let mut grown: Vec<(i64, String)> = Vec::new();
    for database in &found.observed.databases {
        for table in &database.tables {
            let (Some(by), Some(size)) = (table.grown_bytes, table.size_bytes) else { continue };
            let before = i64::try_from(size).unwrap_or(i64::MAX) - by;
            if by >= MUCH && by > before / 2 {
                let by_words = indicatif::HumanBytes(by.unsigned_abs());
                grown.push((by, format!("{}.{} has grown by {by_words}", database.name, table.name)));
            }
        }
    }
    grown.sort_by_key(|(by, _)| std::cmp::Reverse(*by));
    if !grown.is_empty() {
        item.level = Level::Yellow;
        item.evidence.extend(grown.into_iter().take(TOLD).map(|(_, told)| told));
        item.todo =
            vec!["find out what fills them; partitions can be dropped, rows must be deleted".to_owned()];
    }
    item
}
