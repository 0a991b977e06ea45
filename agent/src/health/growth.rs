//! Growth: this look beside an earlier one. Pure.

use jiff::{SignedDuration, Timestamp};
use repository::look::{DatabaseFigures, Figures, LOOK_FORMAT, LogPosition, LookName, TableFigures};

use super::observed::Observed;

/// Over so much time growth is told, where looks go back that far.
const SPAN: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A look is kept when the last one is so old: one a day, whoever takes it and however late.
const BETWEEN: SignedDuration = SignedDuration::from_hours(20);

/// So many tables of all databases are kept: the largest.
const TABLES_KEPT: usize = 200;

/// The look to measure against: the youngest that is a week old, else the oldest.
pub(super) fn base(names: &[LookName], now: Timestamp) -> Option<&LookName> {
    let is_old = |name: &&LookName| now.duration_since(name.at) >= SPAN;
    names.iter().rfind(is_old).or_else(|| names.first()).filter(|name| name.at <= now)
}

/// Whether it is time to keep a look.
pub(super) fn is_time(names: &[LookName], now: Timestamp) -> bool {
    // What is dated after now says only that some clock was wrong.
    let last = names.iter().rfind(|name| name.at <= now);
    last.is_none_or(|last| now.duration_since(last.at) >= BETWEEN)
}

/// Writes into `observed` how much has grown. What was not there then has grown by all that it is, except a table that may
/// only have been too small to be kept.
pub(super) fn measure(observed: &mut Observed, earlier: &Figures) {
    observed.earlier = Some(earlier.at);
    for database in &mut observed.databases {
        let then = earlier.databases.iter().find(|then| then.name == database.name);
        database.grown_bytes = Some(difference(database.size_bytes, then.map_or(0, |then| then.size_bytes)));
        for table in &mut database.tables {
            let then =
                earlier.tables.iter().find(|then| then.database == database.name && then.name == table.name);
            table.grown_bytes =
                table.size_bytes.zip(then).map(|(size, then)| difference(size, then.size_bytes));
        }
    }
}

fn difference(now: u64, then: u64) -> i64 {
    i64::try_from(i128::from(now) - i128::from(then)).unwrap_or(i64::MAX)
}

/// What is kept of a look.
pub(super) fn figures(observed: &Observed) -> Figures {
    let mut tables: Vec<TableFigures> = Vec::new();
    for database in &observed.databases {
        let of = |table: &super::observed::Table| {
            let (database, name) = (database.name.clone(), table.name.clone());
            Some(TableFigures { database, name, size_bytes: table.size_bytes? })
        };
        tables.extend(database.tables.iter().filter_map(of));
    }
    tables.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.name.cmp(&b.name)));
    tables.truncate(TABLES_KEPT);
    Figures {
        format: LOOK_FORMAT,
        // To the millisecond, as its name tells it.
        at: Timestamp::from_millisecond(observed.at.as_millisecond()).unwrap_or(observed.at),
        program: format!("walkeep {}", env!("CARGO_PKG_VERSION")),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        databases: observed
            .databases
            .iter()
            .map(|database| DatabaseFigures {
                name: database.name.clone(),
                size_bytes: database.size_bytes,
                commits: database.commits,
                blocks_hit: database.blocks_hit,
                blocks_read: database.blocks_read,
                temp_bytes: database.temp_bytes,
                counted_since: database.counted_since,
                calls: database.statements.as_ref().map(|statements| statements.calls),
                seconds: database.statements.as_ref().map(|statements| statements.seconds),
            })
            .collect(),
        tables,
        log: observed.log.as_ref().map(|log| LogPosition { file: log.file.clone(), offset: log.offset }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::rules::tests::healthy;
    use super::*;

    fn names(hours: &[i64]) -> Vec<LookName> {
        let name = |hour: &i64| {
            let at = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(*hour);
            format!("{}-00000000000000a1", at.strftime("%Y%m%dT%H%M%S%3fZ")).parse().unwrap()
        };
        hours.iter().map(name).collect()
    }

    fn at(hour: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hour)
    }

    #[test]
    fn growth_is_told_over_a_week_or_as_long_as_can_be() {
        let day = 24;
        let found = |kept: &[i64], now| {
            base(&names(kept), now).map(|name| name.at.duration_since(Timestamp::UNIX_EPOCH).as_hours())
        };
        assert_eq!(found(&[], at(0)), None);
        assert_eq!(found(&[0, day], at(2 * day)), Some(0));
        assert_eq!(found(&[0, day, 2 * day, 3 * day], at(9 * day)), Some(2 * day));
        assert_eq!(found(&[9 * day], at(day)), None, "its clock was wrong");
    }

    #[test]
    fn one_look_a_day_is_kept() {
        assert!(is_time(&[], at(0)));
        assert!(!is_time(&names(&[0]), at(19)));
        assert!(is_time(&names(&[0]), at(20)));
        assert!(is_time(&names(&[0, 1000]), at(21)), "a clock that was wrong must not silence us");
    }

    #[test]
    fn what_is_kept_is_what_growth_is_measured_by() {
        let mut observed = healthy();
        let mut then = figures(&observed);
        assert_eq!((then.databases[0].size_bytes, then.tables[0].size_bytes), (1 << 30, 100 << 20));
        then.databases[0].size_bytes = 5;
        then.tables[0].size_bytes = 200 << 20;
        measure(&mut observed, &then);
        let database = &observed.databases[0];
        assert_eq!(database.grown_bytes, Some((1 << 30) - 5));
        assert_eq!(database.tables[0].grown_bytes, Some(-(100 << 20)));
        then.tables.clear();
        measure(&mut observed, &then);
        assert_eq!(observed.databases[0].tables[0].grown_bytes, None, "nobody knows how large it was");
    }
}
