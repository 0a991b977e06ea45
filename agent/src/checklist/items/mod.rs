//! The items of each checklist. Pure.

mod daily;
mod monthly;
mod stored;
mod weekly;

use serde::Serialize;

use super::Kind;
use super::seen::Seen;
use crate::finding::{Finding, Severity};

/// How an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// In order.
    Green,
    /// To be looked after, or not known.
    Yellow,
    /// To be looked after now.
    Red,
}

/// An item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// For programs: the same in every version.
    pub code: &'static str,
    /// How it is.
    pub level: Level,
    /// What it is about.
    pub title: &'static str,
    /// What was seen, each in a sentence or two.
    pub evidence: Vec<String>,
    /// What to do, if possible as lines to paste.
    pub todo: Vec<String>,
}

/// All items of a checklist, in the order in which they are to be read.
pub(super) fn of(kind: Kind, seen: &Seen) -> Vec<Item> {
    match kind {
        Kind::Daily => daily::items(seen),
        Kind::Weekly => weekly::items(seen),
        Kind::Monthly => monthly::items(seen),
    }
}

impl Item {
    fn green(code: &'static str, title: &'static str, evidence: impl Into<String>) -> Self {
        Self { code, level: Level::Green, title, evidence: vec![evidence.into()], todo: Vec::new() }
    }

    fn bad(
        level: Level,
        (code, title): (&'static str, &'static str),
        evidence: impl Into<String>,
        todo: impl Into<String>,
    ) -> Self {
        Self { level, todo: vec![todo.into()], ..Self::green(code, title, evidence) }
    }
}

/// What is looked at in each database: where one could not be looked into, nobody knows.
const WITHIN_DATABASES: [&str; 7] = [
    "dead_rows",
    "never_analyzed",
    "sequential_scans",
    "unused_indexes",
    "duplicate_indexes",
    "invalid_indexes",
    "sizes",
];

/// An item that is what some of the health's findings are; all of them are its evidence.
fn of_health(seen: &Seen, (code, title): (&'static str, &'static str), codes: &[&str]) -> Item {
    let found = match &seen.health {
        Ok(found) => found,
        Err(why) => {
            let evidence = format!("the server could not be looked at: {why}");
            return Item::bad(
                Level::Red,
                (code, title),
                evidence,
                "see whether it runs, and lets the role in: walkeep check",
            );
        }
    };
    let findings: Vec<&Finding> =
        found.findings.iter().filter(|finding| codes.contains(&finding.code)).collect();
    let unseen = found.findings.iter().filter(|finding| finding.code == "databases");
    let is_within = codes.iter().any(|code| WITHIN_DATABASES.contains(code));
    if findings.is_empty() {
        return Item::bad(
            Level::Yellow,
            (code, title),
            "it could not be looked at from here",
            "run walkeep beside the server, as the operating system's user that the server runs as",
        );
    }
    let findings: Vec<&Finding> = findings.into_iter().chain(unseen.filter(|_| is_within)).collect();
    let level = |severity| match severity {
        Severity::Ok => Level::Green,
        Severity::Warning => Level::Yellow,
        Severity::Error => Level::Red,
    };
    Item {
        code,
        level: findings.iter().map(|finding| level(finding.severity)).max().unwrap_or(Level::Green),
        title,
        evidence: findings.iter().map(|finding| finding.message.clone()).collect(),
        todo: findings.iter().filter_map(|finding| finding.fix.clone()).collect(),
    }
}

#[cfg(test)]
mod tests;
