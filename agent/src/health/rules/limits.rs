//! What comes to an end: transaction ids, multixacts, room.

use proto::config::HealthConfig;

use super::super::observed::{Database, Observed};
use super::{bytes, change, count, span, told, within};
use crate::finding::Finding;

/// From here on PostgreSQL itself drops all else to vacuum; at 2.1 billion it takes no more writes.
const LAST_RESORT: u64 = 1_600_000_000;

/// Room on a disk, in per cent, below which it is told, and below which it is an error.
const LITTLE_ROOM: u64 = 15;
const NO_ROOM: u64 = 5;

/// A disk that will be full sooner is told of, in days.
const SOON: f64 = 14.0;

/// Growth over a shorter time says nothing about days, in seconds.
const SHORTEST: f64 = 6.0 * 3600.0;

pub(super) fn xid_age(observed: &Observed, config: &HealthConfig) -> Option<Finding> {
    let age = |database: &Database| database.xid_age;
    Some(oldest(observed, config, "xid_age", "transaction", age))
}

pub(super) fn multixact_age(observed: &Observed, config: &HealthConfig) -> Option<Finding> {
    let age = |database: &Database| database.multixact_age;
    Some(oldest(observed, config, "multixact_age", "multixact", age))
}

fn oldest(
    observed: &Observed,
    config: &HealthConfig,
    code: &'static str,
    what: &str,
    age: impl Fn(&Database) -> u64,
) -> Finding {
    let mut old: Vec<&Database> =
        observed.databases.iter().filter(|database| age(database) >= config.xid_age).collect();
    old.sort_by_key(|database| std::cmp::Reverse(age(database)));
    let Some(worst) = old.first() else {
        let most = observed.databases.iter().map(&age).max().unwrap_or_default();
        return Finding::ok(code, format!("the oldest {what} of all databases has the age {}", count(most)));
    };
    let names = old.iter().map(|database| format!("{} ({})", database.name, count(age(database))));
    let message = format!(
        "old {what}s are not frozen, and at 2,000,000,000 the server takes no more writes: {}",
        told(names.collect(), ", ")
    );
    // A template takes no connections, and autovacuum sees to it.
    let fix = match worst.open {
        true => within(worst, "VACUUM (FREEZE);"),
        false => format!("see that autovacuum runs: it freezes {}", worst.name),
    };
    let fix = format!(
        "{fix}\n-- what holds it back: SELECT pid, backend_xmin FROM pg_stat_activity; SELECT * FROM pg_prepared_xacts; \
         SELECT slot_name, xmin, catalog_xmin FROM pg_replication_slots;"
    );
    match age(worst) >= LAST_RESORT {
        true => Finding::error(code, message, fix),
        false => Finding::warning(code, message, fix),
    }
}

pub(super) fn disk(observed: &Observed, _: &HealthConfig) -> Option<Finding> {
    const CODE: &str = "disk";
    let disk = observed.disk.as_ref().filter(|disk| disk.total > 0)?;
    let share = u128::from(disk.free) * 100 / u128::from(disk.total);
    let full = days_until_full(observed, disk.free);
    let mut message =
        format!("{} of {} are free at {} ({share} %)", bytes(disk.free), bytes(disk.total), disk.place);
    if let Some(days) = full {
        message += &format!("; as the databases grow now, it is full in {}", span(days * 86_400.0));
    }
    let fix = "make room, or give the data directory a larger disk";
    Some(match () {
        () if share < u128::from(NO_ROOM) => Finding::error(CODE, message, fix),
        () if share < u128::from(LITTLE_ROOM) || full.is_some_and(|days| days < SOON) => {
            Finding::warning(CODE, message, fix)
        }
        () => Finding::ok(CODE, message),
    })
}

/// `None`: nobody knows, or nothing grows.
fn days_until_full(observed: &Observed, free: u64) -> Option<f64> {
    let seconds = observed.at.duration_since(observed.earlier?).as_secs_f64();
    let grown: i64 = observed.databases.iter().filter_map(|database| database.grown_bytes).sum();
    (seconds >= SHORTEST && grown > 0).then(|| free as f64 / grown as f64 * seconds / 86_400.0)
}

/// Nothing to judge: what there is, and how it has grown.
pub(super) fn sizes(observed: &Observed, _: &HealthConfig) -> Option<Finding> {
    let growth = |grown: Option<i64>| grown.map(|grown| format!(", {}", change(grown))).unwrap_or_default();
    let of = |database: &Database| {
        let mut text =
            format!("{} {}{}", database.name, bytes(database.size_bytes), growth(database.grown_bytes));
        let largest =
            database.tables.iter().filter_map(|table| Some((table.size_bytes?, table))).max_by_key(|t| t.0);
        if let Some((size, table)) = largest {
            text += &format!(" (largest table {} {}{})", table.name, bytes(size), growth(table.grown_bytes));
        }
        text
    };
    let sizes = told(observed.databases.iter().filter(|database| database.open).map(of).collect(), "; ");
    let since = match (observed.earlier, &observed.earlier_unknown) {
        (Some(earlier), _) => format!("grown in {}", span(observed.at.duration_since(earlier).as_secs_f64())),
        (None, Some(why)) => format!("growth is not known: {why}"),
        (None, None) => "growth is not known yet: no look was kept".to_owned(),
    };
    Some(Finding::ok("sizes", format!("{sizes}; {since}")))
}
