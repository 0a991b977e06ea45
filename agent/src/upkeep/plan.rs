//! What is worth doing: computed from what the server counts, without clock, network or file.

use std::fmt;

use proto::config::UpkeepConfig;
use serde::{Deserialize, Serialize};

/// Fewer rows are not worth a look.
const FEWEST_ROWS: u64 = 1000;

/// What an entry of an index takes besides its value: its header, and its place in the page's directory.
const ENTRY: f64 = 8.0 + 4.0;

/// PostgreSQL 14.0 to 14.3 may leave rows out of an index that is built beside itself (mended in 14.4).
pub(super) const fn reindexes_safely(version: u32) -> bool {
    !(version >= 14_00_00 && version <= 14_00_03)
}

/// A table, as the server counts.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct TableState {
    pub(super) name: String,
    pub(super) live_rows: u64,
    pub(super) dead_rows: u64,
    pub(super) changed_rows: u64,
    pub(super) never_analyzed: bool,
    /// Whether the role may.
    pub(super) may: bool,
}

/// An index.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct IndexState {
    pub(super) name: String,
    pub(super) table: String,
    pub(super) size_bytes: u64,
    pub(super) rows: f64,
    /// How full its pages are made, in per cent.
    pub(super) fillfactor: u32,
    /// Of what it holds of a row, in bytes; `None`: nobody knows.
    pub(super) width: Option<f64>,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Dead rows make room; the planner learns of what is left.
    Vacuum,
    /// The planner learns of what has changed.
    Analyze,
    /// An index is built anew beside itself.
    Reindex,
}

/// One piece of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Where.
    pub database: String,
    /// What.
    pub action: Action,
    /// The table or index, quoted where SQL needs it.
    pub name: String,
    /// Why.
    pub why: String,
    /// Whether the role may, as far as that is known before.
    #[serde(skip)]
    pub may: bool,
}

impl Step {
    /// The statement.
    pub fn statement(&self) -> String {
        match self.action {
            Action::Vacuum => format!("VACUUM (ANALYZE) {}", self.name),
            Action::Analyze => format!("ANALYZE {}", self.name),
            Action::Reindex => format!("REINDEX INDEX CONCURRENTLY {}", self.name),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {} ({})", self.statement(), self.database, self.why)
    }
}

/// What is to be done to the tables of a database: those first of which most is dead, then those that the planner knows least of.
pub(super) fn tables(database: &str, tables: &[TableState], config: &UpkeepConfig) -> Vec<Step> {
    let mut steps: Vec<(Action, u64, Step)> = Vec::new();
    for table in tables {
        let all = table.live_rows + table.dead_rows;
        let threshold = config.tables.get(&format!("{database}.{}", table.name)).copied();
        let most = u64::from(threshold.unwrap_or(config.dead_rows));
        // A threshold of 100 is never passed.
        let is_bloated = table.dead_rows >= FEWEST_ROWS && table.dead_rows * 100 > all * most;
        let is_changed = table.changed_rows >= FEWEST_ROWS
            && (table.never_analyzed || table.changed_rows * 100 > all * u64::from(config.changed_rows));
        let (action, weight, why) = match () {
            () if is_bloated => {
                (Action::Vacuum, table.dead_rows, format!("{} of {all} rows are dead", table.dead_rows))
            }
            () if is_changed => {
                (Action::Analyze, table.changed_rows, format!("{} rows were changed", table.changed_rows))
            }
            () => continue,
        };
        let (database, name) = (database.to_owned(), table.name.clone());
        let step = Step { database, action, name, why, may: table.may };
        steps.push((action, weight, step));
    }
    steps.sort_by(|a, b| (a.0, b.1, &a.2.name).cmp(&(b.0, a.1, &b.2.name)));
    steps.into_iter().map(|(.., step)| step).collect()
}

/// What is to be done to its indexes: those first of which most is not needed.
pub(super) fn indexes(database: &str, indexes: &[IndexState], config: &UpkeepConfig) -> Vec<Step> {
    let mut steps: Vec<(u64, Step)> = Vec::new();
    for index in indexes.iter().filter(|_| config.reindex) {
        let Some(waste) = waste(index) else { continue };
        // Both are far below what a u64 holds.
        if waste * 100 <= index.size_bytes * u64::from(config.bloat) {
            continue;
        }
        let (waste_words, size) = (indicatif::HumanBytes(waste), indicatif::HumanBytes(index.size_bytes));
        let why = format!("some {waste_words} of {size} are not needed, of {}", index.table);
        let (database, name) = (database.to_owned(), index.name.clone());
        steps.push((waste, Step { database, action: Action::Reindex, name, why, may: true }));
    }
    steps.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.name.cmp(&b.1.name)));
    steps.into_iter().map(|(_, step)| step).collect()
}

/// Bytes of an index that it would not have if it were built anew, by an estimate that is on the careful side: that entries of
/// one value share their place it does not know. `None`: nobody knows how wide its entries are.
fn waste(index: &IndexState) -> Option<u64> {
    // Values begin at multiples of eight.
    let width = (index.width? / 8.0).ceil() * 8.0;
    let needed = index.rows * (width + ENTRY) / (f64::from(index.fillfactor.clamp(10, 100)) / 100.0);
    Some((index.size_bytes as f64 - needed).max(0.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, live_rows: u64, dead_rows: u64, changed_rows: u64) -> TableState {
        TableState {
            name: name.to_owned(),
            live_rows,
            dead_rows,
            changed_rows,
            never_analyzed: false,
            may: true,
        }
    }

    fn told(steps: &[Step]) -> Vec<String> {
        steps.iter().map(Step::statement).collect()
    }

    #[test]
    fn what_is_worst_comes_first_and_each_table_has_its_threshold() {
        let mut config = UpkeepConfig::default();
        let all = [
            table("public.fine", 100_000, 9_000, 0),
            table("public.changed", 100_000, 0, 20_000),
            table("public.bad", 100_000, 20_000, 50_000),
            table("public.worse", 100_000, 90_000, 0),
            table("public.small", 10, 900, 900),
            TableState { never_analyzed: true, ..table("public.new", 1_000_000, 0, 2000) },
        ];
        let wanted = [
            "VACUUM (ANALYZE) public.worse",
            "VACUUM (ANALYZE) public.bad",
            "ANALYZE public.changed",
            "ANALYZE public.new",
        ];
        assert_eq!(told(&tables("shop", &all, &config)), wanted);
        config.tables = [("shop.public.fine".to_owned(), 5), ("shop.public.worse".to_owned(), 100)].into();
        config.tables.insert("other.public.bad".to_owned(), 100);
        let steps = tables("shop", &all, &config);
        assert_eq!(told(&steps)[..2], ["VACUUM (ANALYZE) public.bad", "VACUUM (ANALYZE) public.fine"]);
        assert!(steps.iter().all(|step| step.name != "public.worse"), "{steps:?}");
        assert_eq!(steps[0].why, "20000 of 120000 rows are dead");
    }

    #[test]
    fn no_index_is_built_by_a_server_that_damages_it() {
        let versions = [130_007, 140_000, 140_003, 140_004, 150_000];
        assert_eq!(versions.map(reindexes_safely), [true, false, false, true, true]);
    }

    #[test]
    fn an_index_is_built_anew_when_much_of_it_is_not_needed() {
        let index = |name: &str, size_bytes: u64, rows: f64, width| IndexState {
            name: name.to_owned(),
            table: "public.t".to_owned(),
            size_bytes,
            rows,
            fillfactor: 90,
            width,
        };
        // A million entries of eight bytes and twelve more, on pages that are filled to nine tenths.
        let all = [
            index("public.full", 22_222_222, 1e6, Some(8.0)),
            index("public.half", 46_000_000, 1e6, Some(4.0)),
            index("public.empty", 90_000_000, 0.0, Some(8.0)),
            index("public.unknown", 90_000_000, 1e6, None),
            // It is to have room.
            IndexState { fillfactor: 45, ..index("public.airy", 46_000_000, 1e6, Some(4.0)) },
        ];
        let mut config = UpkeepConfig::default();
        let wanted = ["REINDEX INDEX CONCURRENTLY public.empty", "REINDEX INDEX CONCURRENTLY public.half"];
        assert_eq!(told(&indexes("shop", &all, &config)), wanted);
        config.bloat = 60;
        assert_eq!(told(&indexes("shop", &all, &config)), wanted[..1]);
        config.reindex = false;
        assert!(indexes("shop", &all, &config).is_empty());
    }
}
