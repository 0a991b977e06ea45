//! Indexes that cost and do not serve.

use jiff::SignedDuration;
use proto::config::HealthConfig;

use super::super::observed::{Database, Index, Observed};
use super::{bytes, lines, told, within};
use crate::finding::Finding;

/// A smaller index costs little.
const SMALLEST: u64 = 1 << 20;

fn indexes(observed: &Observed) -> impl Iterator<Item = (&Database, &Index)> {
    observed.databases.iter().flat_map(|database| database.indexes.iter().map(move |index| (database, index)))
}

fn named((database, index): &(&Database, &Index)) -> String {
    let size = index.size_bytes.map(|size| format!(" ({})", bytes(size))).unwrap_or_default();
    format!("{}.{}{size}", database.name, index.name)
}

fn drop_it((database, index): &(&Database, &Index)) -> String {
    within(database, &format!("DROP INDEX CONCURRENTLY {};", index.name))
}

pub(super) fn unused(observed: &Observed, config: &HealthConfig) -> Option<Finding> {
    const CODE: &str = "unused_indexes";
    // A longer time than a SignedDuration holds is never over.
    let long = SignedDuration::try_from(config.unused_after).unwrap_or(SignedDuration::MAX);
    let is_known = |database: &Database| {
        database.counted_since.is_none_or(|since| observed.at.duration_since(since) >= long)
    };
    let unused: Vec<(&Database, &Index)> = indexes(observed)
        .filter(|(database, index)| index.unused && index.size_bytes >= Some(SMALLEST) && is_known(database))
        .collect();
    if unused.is_empty() {
        let counted = observed.databases.iter().filter(|database| database.open).all(is_known);
        return counted.then(|| Finding::ok(CODE, "all indexes of some size are used"));
    }
    let since = unused.iter().filter_map(|(database, _)| database.counted_since).max();
    let since =
        since.map(|since| format!(" since {}", since.strftime("%Y-%m-%d %H:%MZ"))).unwrap_or_default();
    Some(Finding::warning(
        CODE,
        format!(
            "each write keeps indexes up to date that this server has not used{since}: {}",
            told(unused.iter().map(named).collect(), ", ")
        ),
        format!("{}\n-- unless a standby uses it, which counts by itself", lines(unused.iter().map(drop_it))),
    ))
}

pub(super) fn duplicate(observed: &Observed, _: &HealthConfig) -> Option<Finding> {
    const CODE: &str = "duplicate_indexes";
    let twice: Vec<(&Database, &Index)> =
        indexes(observed).filter(|(_, index)| index.duplicate_of.is_some()).collect();
    if twice.is_empty() {
        return Some(Finding::ok(CODE, "no two indexes do the same"));
    }
    let sentence = |found: &(&Database, &Index)| {
        format!("{} does what {} does", named(found), found.1.duplicate_of.as_deref().unwrap_or_default())
    };
    Some(Finding::warning(
        CODE,
        told(twice.iter().map(sentence).collect(), "; "),
        lines(twice.iter().map(drop_it)),
    ))
}

pub(super) fn invalid(observed: &Observed, _: &HealthConfig) -> Option<Finding> {
    const CODE: &str = "invalid_indexes";
    let broken: Vec<(&Database, &Index)> = indexes(observed).filter(|(_, index)| index.invalid).collect();
    if broken.is_empty() {
        return Some(Finding::ok(CODE, "all indexes are valid"));
    }
    Some(Finding::warning(
        CODE,
        format!(
            "indexes that are kept up to date, and never used: a CREATE INDEX or REINDEX CONCURRENTLY has failed, or is \
             not over: {}",
            told(broken.iter().map(named).collect(), ", ")
        ),
        lines(broken.iter().map(drop_it)),
    ))
}
