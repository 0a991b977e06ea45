//! Tables: what VACUUM and ANALYZE have left undone, and what is read from end to end.

use proto::config::HealthConfig;

use super::super::observed::{Database, Observed, Table};
use super::{count, lines, told, within};
use crate::finding::Finding;

/// Below so many dead rows a table is small enough to be read with them.
const FEWEST_DEAD: u64 = 10_000;

/// The same of rows that were changed in a table that was never analyzed.
const FEWEST_CHANGED: u64 = 10_000;

/// A table is read from end to end often, and by many rows each time.
const FEWEST_SCANS: u64 = 20;
const FEWEST_ROWS_OF_A_SCAN: u64 = 10_000;

fn tables(observed: &Observed) -> impl Iterator<Item = (&Database, &Table)> {
    observed.databases.iter().flat_map(|database| database.tables.iter().map(move |table| (database, table)))
}

pub(super) fn dead_rows(observed: &Observed, config: &HealthConfig) -> Option<Finding> {
    const CODE: &str = "dead_rows";
    let most = f64::from(config.dead_rows);
    let mut bloated: Vec<(&Database, &Table)> = tables(observed)
        .filter(|(_, table)| table.dead_rows >= FEWEST_DEAD && table.dead_share() > most)
        .collect();
    if bloated.is_empty() {
        return Some(Finding::ok(CODE, format!("no table has more than {most} % dead rows")));
    }
    bloated.sort_by_key(|(_, table)| std::cmp::Reverse(table.dead_rows));
    let sentence = |(database, table): &(&Database, &Table)| {
        let vacuumed = table.last_vacuum.map_or_else(
            || "never vacuumed".to_owned(),
            |at| format!("vacuumed last at {}", at.strftime("%Y-%m-%d %H:%MZ")),
        );
        format!(
            "{}.{}: {} of {} rows ({:.0} %), {vacuumed}",
            database.name,
            table.name,
            count(table.dead_rows),
            count(table.live_rows + table.dead_rows),
            table.dead_share()
        )
    };
    Some(Finding::warning(
        CODE,
        format!("dead rows are read, and take room: {}", told(bloated.iter().map(sentence).collect(), "; ")),
        lines(
            bloated
                .iter()
                .map(|(database, table)| within(database, &format!("VACUUM (ANALYZE) {};", table.name))),
        ),
    ))
}

pub(super) fn never_analyzed(observed: &Observed, _: &HealthConfig) -> Option<Finding> {
    const CODE: &str = "never_analyzed";
    let unknown: Vec<(&Database, &Table)> = tables(observed)
        .filter(|(_, table)| table.last_analyze.is_none() && table.changed_rows >= FEWEST_CHANGED)
        .collect();
    if unknown.is_empty() {
        return Some(Finding::ok(CODE, "the planner has statistics of all tables of some size"));
    }
    let sentence = |(database, table): &(&Database, &Table)| {
        format!("{}.{}: {} rows", database.name, table.name, count(table.changed_rows))
    };
    Some(Finding::warning(
        CODE,
        format!(
            "of tables that were filled and not analyzed since the server counts, the planner knows nothing: {}",
            told(unknown.iter().map(sentence).collect(), "; ")
        ),
        lines(unknown.iter().map(|(database, table)| within(database, &format!("ANALYZE {};", table.name)))),
    ))
}

pub(super) fn sequential_scans(observed: &Observed, _: &HealthConfig) -> Option<Finding> {
    const CODE: &str = "sequential_scans";
    let is_scanned = |table: &Table| {
        table.sequential_scans >= FEWEST_SCANS
            && table.sequential_scans > table.index_scans
            && table.sequential_rows / table.sequential_scans >= FEWEST_ROWS_OF_A_SCAN
    };
    let mut scanned: Vec<(&Database, &Table)> =
        tables(observed).filter(|(_, table)| is_scanned(table)).collect();
    if scanned.is_empty() {
        return Some(Finding::ok(CODE, "no large table is read from end to end again and again"));
    }
    scanned.sort_by_key(|(_, table)| std::cmp::Reverse(table.sequential_rows));
    let sentence = |(database, table): &(&Database, &Table)| {
        format!(
            "{}.{}: {} times {} rows, while its indexes were used {} times",
            database.name,
            table.name,
            count(table.sequential_scans),
            count(table.sequential_rows / table.sequential_scans),
            count(table.index_scans)
        )
    };
    Some(Finding::warning(
        CODE,
        format!("read from end to end: {}", told(scanned.iter().map(sentence).collect(), "; ")),
        "find the statements (pg_stat_statements, auto_explain), and make an index for their conditions",
    ))
}
