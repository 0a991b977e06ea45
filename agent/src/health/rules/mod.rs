//! The rules, by subject. Each looks at what was observed and says one thing, or nothing where it does not apply.

mod indexes;
mod limits;
mod server;
mod sessions;
mod tables;

use std::time::Duration;

use indicatif::{HumanBytes, HumanCount};
use proto::config::HealthConfig;

use super::observed::{Database, Observed};
use crate::finding::Finding;

type Rule = fn(&Observed, &HealthConfig) -> Option<Finding>;

/// In the order in which the findings are told: what stops the server, or somebody's work, comes first.
const RULES: [Rule; 21] = [
    limits::disk,
    limits::xid_age,
    limits::multixact_age,
    sessions::connections,
    sessions::blocked,
    sessions::idle_in_transaction,
    sessions::long_transactions,
    server::replication_lag,
    server::replication_slots,
    server::replay_lag,
    server::server_log,
    server::cache_hit,
    server::temp_files,
    server::checkpoints,
    tables::dead_rows,
    tables::never_analyzed,
    tables::sequential_scans,
    indexes::unused,
    indexes::duplicate,
    indexes::invalid,
    limits::sizes,
];

/// All findings of all rules.
pub(super) fn apply(observed: &Observed, config: &HealthConfig) -> Vec<Finding> {
    let mut findings: Vec<Finding> = RULES.iter().filter_map(|rule| rule(observed, config)).collect();
    findings.extend(server::databases(observed));
    findings
}

/// Of many things only these are told.
const TOLD: usize = 5;

/// The first of many, and how many more there are.
fn told(mut all: Vec<String>, between: &str) -> String {
    let more = all.len().saturating_sub(TOLD);
    all.truncate(TOLD);
    let mut text = all.join(between);
    if more > 0 {
        text += &format!("{between}and {more} more");
    }
    text
}

/// Lines to paste: the first of many.
fn lines(all: impl IntoIterator<Item = String>) -> String {
    all.into_iter().take(TOLD).collect::<Vec<_>>().join("\n")
}

/// What is to be pasted within a database.
fn within(database: &Database, statement: &str) -> String {
    format!("{statement}  -- in the database {}", database.name)
}

fn bytes(count: u64) -> String {
    HumanBytes(count).to_string()
}

fn count(count: u64) -> String {
    HumanCount(count).to_string()
}

/// So much more, or less.
fn change(bytes_grown: i64) -> String {
    let sign = if bytes_grown < 0 { '-' } else { '+' };
    format!("{sign}{}", bytes(bytes_grown.unsigned_abs()))
}

/// A time in the largest unit that makes sense.
fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn limit(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

#[cfg(test)]
#[path = "tests.rs"]
pub(in crate::health) mod tests;
